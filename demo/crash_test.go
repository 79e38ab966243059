package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/relay"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// The server is killed and started again while clients write: every write that
// was acknowledged is there once, none that was not is there twice, clients only
// see errors that may be retried and keep their connections to the proxy.
func TestServerKilled(t *testing.T) {
	skipShort(t)
	kills := 2
	if long() {
		kills = 15
	}
	server := secantus.Run(t, secantus.Options{Dir: t.TempDir()})
	front := proxy.Start(t, config("mixed", server.URI))
	between := relay.Start(t, front.Address)
	// Without journal=true this server loses its last writes when it is killed.
	j := startJournal(t, "mongodb://"+between.Addr+"/?journal=true")
	for range kills {
		j.await(t, 50)
		server.Kill()
		awaitReady(t, front, http.StatusServiceUnavailable)
		server.Restart(t)
		awaitReady(t, front, http.StatusOK)
	}
	j.await(t, 50)
	j.stop(t, between)
	j.compare(t, open(t, server.URI))
}

// The network between proxy and server fails: replies are lost after the request
// has arrived, connections are cut at any moment, and for a while nobody is there.
func TestNetworkCut(t *testing.T) {
	skipShort(t)
	rounds := 3
	if long() {
		rounds = 30
	}
	server := secantus.Run(t, secantus.Options{})
	behind := relay.Start(t, server.Address)
	front := proxy.Start(t, config("mixed", "mongodb://"+behind.Addr+"/?directConnection=true"))
	between := relay.Start(t, front.Address)
	j := startJournal(t, "mongodb://"+between.Addr+"/")
	for round := range rounds {
		j.await(t, 100)
		var n atomic.Int32
		behind.Lose(func(request []byte) bool {
			write := bytes.Contains(request, []byte("\x02insert\x00")) || bytes.Contains(request, []byte("\x02update\x00"))
			return (write || bytes.Contains(request, []byte("\x02find\x00"))) && n.Add(1)%7 == 0
		})
		lost := behind.Lost()
		for end := time.Now().Add(20 * time.Second); behind.Lost() < lost+20; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("only %d replies were lost", behind.Lost()-lost)
			}
		}
		behind.Lose(nil)
		j.await(t, 50)
		for range 5 {
			behind.Cut()
			j.await(t, 5)
		}
		behind.Down(true)
		awaitReady(t, front, http.StatusServiceUnavailable)
		time.Sleep(time.Duration(round%3) * 500 * time.Millisecond) // how long it lasts is the point
		behind.Down(false)
		awaitReady(t, front, http.StatusOK)
	}
	j.await(t, 100)
	j.stop(t, between)
	j.compare(t, open(t, server.URI))
}

// awaitReady waits until /readyz answers with the status.
func awaitReady(t *testing.T, front *proxy.Proxy, status int) {
	t.Helper()
	var got int
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		reply, err := http.Get(front.Admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		if got = reply.StatusCode; got == status {
			return
		}
	}
	t.Fatalf("/readyz answers %d, want %d", got, status)
}

// journal is what clients have written and what became of it.
type journal struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	failed chan error
	acked  atomic.Int64
	errs   atomic.Int64 // that may be retried

	mu       sync.Mutex      // guards the following
	inserted map[string]bool // by _id: acknowledged
	changed  map[string]bool // by the change's own id: acknowledged
}

// tenants of a journal: one with a database of its own, one in shared.
var journaled = []string{isolated, "globex"}

func startJournal(t *testing.T, uri string) *journal {
	t.Helper()
	retrying, once := connect(t, uri, true), connect(t, uri, false)
	ctx, cancel := context.WithCancel(t.Context())
	j := &journal{cancel: cancel, failed: make(chan error, 100), inserted: map[string]bool{}, changed: map[string]bool{}}
	t.Cleanup(func() { cancel(); j.all.Wait() })
	for _, tenant := range journaled {
		counter := bson.D{{Key: "_id", Value: "counter-" + tenant}, {Key: "tenantId", Value: tenant}, {Key: "n", Value: 0}, {Key: "ids", Value: bson.A{}}}
		if _, err := once.InsertOne(ctx, counter); err != nil {
			t.Fatal(err)
		}
		for w := range 2 {
			j.loop(ctx, tenant, w, func(id string) error { return j.insert(retrying, tenant, id) })
			j.loop(ctx, tenant, w, func(id string) error { return j.change(once, tenant, id, w == 0) })
		}
		j.loop(ctx, tenant, 0, func(string) error { return j.read(retrying, tenant) })
	}
	return j
}

func connect(t *testing.T, uri string, retry bool) *mongo.Collection {
	t.Helper()
	o := options.Client().ApplyURI(uri).SetRetryWrites(retry).SetRetryReads(retry).SetServerSelectionTimeout(20 * time.Second)
	client, err := mongo.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Disconnect(context.Background()) })
	return client.Database(shared).Collection("orders")
}

func (j *journal) loop(ctx context.Context, tenant string, w int, work func(id string) error) {
	j.all.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := work(fmt.Sprint(tenant, "-", w, "-", n)); err != nil {
				j.failed <- fmt.Errorf("%s, round %d: %w", tenant, n, err)
				return
			}
		}
	})
}

// insert inserts a document until it is there. An error may have come after it
// was written, also one that only the driver has seen: a duplicate says that it is
// there. (A server would know the driver's retry again; this one's history doesn't.)
func (j *journal) insert(coll *mongo.Collection, tenant, id string) error {
	for {
		_, err := coll.InsertOne(context.Background(), bson.D{{Key: "_id", Value: id}, {Key: "tenantId", Value: tenant}})
		if err == nil || mongo.IsDuplicateKeyError(err) {
			j.ack(j.inserted, id)
			return nil
		}
		if err := j.tolerate(err, true); err != nil {
			return err
		}
	}
}

// change counts up once, as a client does that never retries. By id alone it
// names no tenant.
func (j *journal) change(coll *mongo.Collection, tenant, id string, byID bool) error {
	filter := bson.D{{Key: "_id", Value: "counter-" + tenant}}
	if !byID {
		filter = append(filter, bson.E{Key: "tenantId", Value: tenant})
	}
	r, err := coll.UpdateOne(context.Background(), filter, bson.D{
		{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}},
		{Key: "$push", Value: bson.D{{Key: "ids", Value: id}}},
	})
	if err != nil {
		return j.tolerate(err, false)
	}
	if r.ModifiedCount != 1 {
		return fmt.Errorf("the counter was not found: %+v", r)
	}
	j.ack(j.changed, id)
	return nil
}

func (j *journal) read(coll *mongo.Collection, tenant string) error {
	err := coll.FindOne(context.Background(), bson.D{{Key: "_id", Value: "counter-" + tenant}, {Key: "tenantId", Value: tenant}}).Err()
	if err != nil {
		return j.tolerate(err, false)
	}
	return nil
}

func (j *journal) ack(m map[string]bool, id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m[id] = true
	j.acked.Add(1)
}

// tolerate takes the one error that clients may see: the server can't be reached,
// for a write that has a number with the label that makes drivers retry it.
func (j *journal) tolerate(err error, numbered bool) error {
	var e mongo.ServerError
	if !errors.As(err, &e) || !e.HasErrorCode(6) || numbered && !e.HasErrorLabel("RetryableWriteError") {
		return err
	}
	if !strings.Contains(err.Error(), "tenantry: ") {
		return fmt.Errorf("not in the proxy's words: %w", err)
	}
	j.errs.Add(1)
	return nil
}

// await waits until so many more writes have been acknowledged.
func (j *journal) await(t *testing.T, n int64) {
	t.Helper()
	goal := j.acked.Load() + n
	for end := time.Now().Add(30 * time.Second); j.acked.Load() < goal; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-j.failed:
			t.Fatal(err)
		default:
		}
		if time.Now().After(end) {
			t.Fatal("nothing is acknowledged any more")
		}
	}
}

// stop ends the work; the clients' connections must be those that they began with.
func (j *journal) stop(t *testing.T, between *relay.Relay) {
	t.Helper()
	ended := between.Ended()
	j.cancel()
	j.all.Wait()
	select {
	case err := <-j.failed:
		t.Fatal(err)
	default:
	}
	if ended > 0 {
		t.Errorf("%d connections between clients and proxy were closed", ended)
	}
}

// compare looks at the server behind the proxy's back.
func (j *journal) compare(t *testing.T, server *mongo.Client) {
	t.Helper()
	documents, changes := 0, map[string]int{}
	for i, db := range []string{own, shared} {
		cursor, err := server.Database(db).Collection("orders").Find(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		var docs []struct {
			ID       string `bson:"_id"`
			TenantID string `bson:"tenantId"`
			N        int
			IDs      []string
		}
		if err := cursor.All(t.Context(), &docs); err != nil {
			t.Fatal(err)
		}
		for _, d := range docs {
			if d.TenantID != journaled[i] {
				t.Errorf("%s of %s is in %s", d.ID, d.TenantID, db)
			}
			if !strings.HasPrefix(d.ID, "counter-") {
				documents++
				if !j.inserted[d.ID] {
					t.Errorf("%s was inserted and never acknowledged, though its client tried until it was", d.ID)
				}
				continue
			}
			if d.N != len(d.IDs) {
				t.Errorf("%s counts %d changes and lists %d", d.ID, d.N, len(d.IDs))
			}
			for _, id := range d.IDs {
				changes[id]++
			}
		}
	}
	t.Logf("%d documents inserted, %d changes of which %d acknowledged, %d errors seen", documents, len(changes), len(j.changed), j.errs.Load())
	if documents != len(j.inserted) {
		t.Errorf("%d documents are there, %d inserts were acknowledged", documents, len(j.inserted))
	}
	for id, n := range changes {
		if n > 1 {
			t.Errorf("the change %s was made %d times", id, n)
		}
	}
	for id := range j.changed {
		if changes[id] == 0 {
			t.Errorf("the change %s was acknowledged and is not there", id)
		}
	}
}
