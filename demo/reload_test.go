package demo

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// Hundreds of reloads, good and bad, in each way that there is, while clients
// work: no command fails, no connection is dropped, what is bad is refused with
// its reason and counted, and the last good configuration is in force.
func TestReloadStorm(t *testing.T) {
	skipShort(t)
	rounds := 20
	if long() {
		rounds = 600
	}
	s := storm{home: secantus.Start(t, secantus.Options{}), big: secantus.Start(t, secantus.Options{})}
	front := proxy.Start(t, s.config(0))
	between := relay.Start(t, front.Address)
	work := startBusy(t, "mongodb://"+between.Addr+"/")
	good, refused := 0, 0.0
	for n := 1; n <= rounds; n++ {
		text, why := s.config(n), ""
		if n%2 == 0 {
			bad := badChanges[n/2%len(badChanges)]
			if text = strings.Replace(text, bad.old, bad.with, 1); text == s.config(n) {
				t.Fatalf("%q is not in the configuration", bad.old)
			}
			why = bad.why
			refused++
		} else {
			good = n
		}
		s.put(t, front, n, text, why)
		s.inForce(t, front, good)
		work.check(t)
	}
	if got := front.Metric(t, `tenantry_reloads_total{result="refused"}`); got < refused {
		t.Errorf("%.0f refused reloads are counted, there were at least %.0f", got, refused)
	}
	done, ended := work.stop(t), between.Ended()
	t.Logf("%d reloads beside %d commands", rounds, done)
	if ended > 0 {
		t.Errorf("%d connections were dropped", ended)
	}
}

// badChange makes a configuration bad; why is in the refusal.
type badChange struct{ old, with, why string }

var badChanges = []badChange{
	{"[admin]", "[admin", "line"},
	{`level = `, `levle = `, "levle"},
	{`slow = "`, `slow = 5 # "`, "slow"},
	{`address = "$LISTEN"`, `address = "127.0.0.1:1"`, "restart"},
	{`address = "$ADMIN"`, `address = "127.0.0.1:2"`, "restart"},
	{`key = "globex"`, `key = "acme"`, "acme"},
	{`cluster = "big"`, `cluster = "bigger"`, "bigger"},
	{`tenant_database = "smetasc_tenant_{key}"`, `tenant_database = "smetasc/{key}"`, "tenant_database"},
	{`hrm = ["employees"]`, `hrm = ["employees", "orders"]`, "orders"},
	{`uri = "mongodb://`, `uri = "http://`, "uri"},
}

// storm makes the configurations of a storm.
type storm struct{ home, big string }

// config is the n-th good one: what the clients use stays, the rest changes.
func (s storm) config(n int) string {
	pick := func(words ...string) string { return words[n%len(words)] }
	text := config("mixed", s.home)
	text = strings.Replace(text, "mode = \"per-tenant\"\n", "mode = \""+pick("per-tenant", "per-tenant", "shared", "per-tenant")+"\" # acme has a route by now\n", 1)
	text += fmt.Sprintf(`
[[tenants]]
id = "umbrella"
key = "umbrella"
mode = "per-tenant"
cluster = "big"

[[tenants]]
id = "storm-%d"
key = "storm-%d"
mode = %q

[clusters.big]
uri = "%s?appName=storm%d&maxIdleTimeMS=%d"

[log]
level = %q
slow = "%dms"

[pools]
max_per_server = %d
max_per_tenant = %s
idle = "%ds"

[limits]
client_connections = %d
in_flight_per_tenant = %s
queue_timeout = "%ds"
`, n, n, pick("shared", "per-tenant"), s.big, n/2, 60000+n, pick("info", "debug", "warn"), 50+n,
		20+n%80, pick("20", "10", "15"), 60+n, 1000+n, pick("0", "30", "40"), 5+n%5)
	if n%4 == 1 {
		text += fmt.Sprintf("[clusters.other]\nuri = \"mongodb://127.0.0.1:%d/\"\n", 1+n%3) // nobody is there, and nobody's data
	}
	return text
}

// put replaces the file in one of four ways and waits until it has been noticed.
func (s storm) put(t *testing.T, front *proxy.Proxy, n int, text, why string) {
	t.Helper()
	result := "ok"
	if why != "" {
		result = "refused"
	}
	counter := fmt.Sprintf(`tenantry_reloads_total{result=%q}`, result)
	before := front.Metric(t, counter)
	replace := front.Replace
	if n/4%2 == 1 {
		replace = front.Swap
	}
	replace(t, text)
	switch n % 10 {
	case 4, 5: // noticed by itself
	case 0, 3, 6, 7:
		front.Hangup(t)
	default:
		err := front.PostReload(t.Context())
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Fatalf("reload %d, with %q to complain about: %v", n, why, err)
		}
	}
	for end := time.Now().Add(10 * time.Second); front.Metric(t, counter) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("reload %d (%s) was not noticed", n, result)
		}
	}
}

// inForce waits until the tenants are those of a configuration: a reload of the
// one before may still be under way.
func (s storm) inForce(t *testing.T, front *proxy.Proxy, n int) {
	t.Helper()
	want := fmt.Sprintf(`"storm-%d"`, n)
	var got string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = front.Get(t, "/tenants"); strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("the configuration in force is not the last good one, %d:\n%s", n, got)
}

// busy is clients of all kinds that work and may not fail.
type busy struct {
	client *mongo.Client
	cancel context.CancelFunc
	all    sync.WaitGroup
	done   atomic.Int64
	failed chan error
}

func startBusy(t *testing.T, uri string) *busy {
	t.Helper()
	o := options.Client().ApplyURI(uri).SetRetryReads(false).SetRetryWrites(false)
	client, err := mongo.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b := &busy{client: client, cancel: cancel, failed: make(chan error, 100)}
	t.Cleanup(func() {
		cancel()
		b.all.Wait()
		client.Disconnect(context.Background())
	})
	for _, tenant := range []string{"acme", "globex", "umbrella"} {
		coll := client.Database(shared).Collection("orders")
		b.prepare(t, coll, tenant)
		b.loop(ctx, tenant+" writes", func(ctx context.Context, n int) error { return b.write(ctx, coll, tenant, n) })
		b.loop(ctx, tenant+" reads in batches", func(ctx context.Context, _ int) error { return b.iterate(ctx, coll, tenant) })
		b.loop(ctx, tenant+" transactions", func(ctx context.Context, n int) error { return b.transact(ctx, coll, tenant, n) })
	}
	b.watch(t, ctx, uri)
	return b
}

const iterated = 60 // documents that a cursor goes over

func (b *busy) prepare(t *testing.T, coll *mongo.Collection, tenant string) {
	t.Helper()
	var docs []any
	for n := range iterated {
		docs = append(docs, bson.D{{Key: "_id", Value: fmt.Sprint(tenant, "-", n)}, {Key: "tenantId", Value: tenant}, {Key: "kind", Value: "old"}})
	}
	if _, err := coll.InsertMany(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
}

// loop does its work again and again until the end.
func (b *busy) loop(ctx context.Context, name string, work func(context.Context, int) error) {
	b.all.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := work(context.WithoutCancel(ctx), n); err != nil {
				b.failed <- fmt.Errorf("%s, round %d: %w", name, n, err)
				return
			}
			b.done.Add(1)
		}
	})
}

func (b *busy) write(ctx context.Context, coll *mongo.Collection, tenant string, n int) error {
	id := fmt.Sprint(tenant, "-new-", n%50)
	mine := bson.D{{Key: "tenantId", Value: tenant}, {Key: "_id", Value: id}}
	if n < 50 {
		if _, err := coll.InsertOne(ctx, append(mine, bson.E{Key: "n", Value: 0})); err != nil {
			return err
		}
	}
	var got struct{ N int }
	err := coll.FindOneAndUpdate(ctx, mine, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}).Decode(&got)
	if err == nil && got.N != n/50 {
		err = fmt.Errorf("%s had been changed %d times, want %d", id, got.N, n/50)
	}
	return err
}

func (b *busy) iterate(ctx context.Context, coll *mongo.Collection, tenant string) error {
	cursor, err := coll.Find(ctx, bson.D{{Key: "tenantId", Value: tenant}, {Key: "kind", Value: "old"}}, options.Find().SetBatchSize(4))
	if err != nil {
		return err
	}
	n := 0
	for cursor.Next(ctx) {
		n++
	}
	if err := cursor.Err(); err != nil {
		return err
	}
	if n != iterated {
		return fmt.Errorf("a cursor went over %d documents, want %d", n, iterated)
	}
	return cursor.Close(ctx)
}

func (b *busy) transact(ctx context.Context, coll *mongo.Collection, tenant string, n int) error {
	return b.client.UseSession(ctx, func(ctx context.Context) error {
		s := mongo.SessionFromContext(ctx)
		if err := s.StartTransaction(); err != nil {
			return err
		}
		if _, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: fmt.Sprint(tenant, "-txn-", n)}, {Key: "tenantId", Value: tenant}}); err != nil {
			return err
		}
		found, err := coll.CountDocuments(ctx, bson.D{{Key: "tenantId", Value: tenant}, {Key: "_id", Value: fmt.Sprint(tenant, "-txn-", n)}})
		if err == nil && found != 1 {
			err = errors.New("the transaction does not see its own document")
		}
		if err != nil {
			return err
		}
		return s.CommitTransaction(ctx)
	})
}

// watch follows a stream of hellos.
func (b *busy) watch(t *testing.T, ctx context.Context, uri string) {
	t.Helper()
	c := wiretest.Dial(t, strings.TrimSuffix(strings.TrimPrefix(uri, "mongodb://"), "/"))
	version := wiretest.Get(c.Run("admin", bson.D{{Key: "hello", Value: 1}}), "topologyVersion")
	c.Send(wiretest.Outgoing{Flags: wire.ExhaustAllowed, Body: bson.D{
		{Key: "hello", Value: 1},
		{Key: "topologyVersion", Value: version},
		{Key: "maxAwaitTimeMS", Value: 50},
		{Key: "$db", Value: "admin"},
	}})
	b.loop(ctx, "stream of hellos", func(context.Context, int) error {
		in, err := c.TryReceive()
		if err == nil && in.Flags&wire.MoreToCome == 0 {
			err = fmt.Errorf("it ends with %v", in.D())
		}
		return err
	})
}

func (b *busy) check(t *testing.T) {
	t.Helper()
	select {
	case err := <-b.failed:
		t.Fatal(err)
	default:
	}
}

// stop ends the work and returns how often it was done.
func (b *busy) stop(t *testing.T) int64 {
	t.Helper()
	b.cancel()
	b.all.Wait()
	b.check(t)
	return b.done.Load()
}
