package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/relay"
	"github.com/smetasc/tenantry/demo/internal/secantus"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

// presentations are what a listener can seem to be, and what clients say to it.
var presentations = []struct {
	name, listener, uri string
}{
	{"mongos", `presentation = "mongos"`, "?"},
	{"replica set", "presentation = \"replica-set\"\nreplica_set = \"rs7\"", "?replicaSet=rs7&"},
	{"load balanced", "presentation = \"mongos\"\nload_balanced = true", "?loadBalanced=true&"},
}

// compressorIDs are those of the wire protocol.
var compressorIDs = map[string]byte{"snappy": 1, "zlib": 2, "zstd": 3}

// presenters do the work of node/present.mjs. The Node driver has no zstd that
// installs without a compiler.
var presenters = []struct {
	name        string
	compressors [3]string // by presentation
	run         func(t *testing.T, ctx context.Context, uri, name string, idle time.Duration) (string, error)
}{
	{"node", [3]string{"zlib", "snappy", "zlib"}, func(t *testing.T, ctx context.Context, uri, name string, idle time.Duration) (string, error) {
		return command(ctx, needNode(t), tree.Path(t, "demo", "node", "present.mjs"), uri, name, millis(idle))
	}},
	{"pymongo", [3]string{"snappy", "zstd", "zlib"}, func(t *testing.T, ctx context.Context, uri, name string, idle time.Duration) (string, error) {
		python := tree.Path(t, ".cache", "venv", "bin", "python")
		tree.NeedSetup(t, python)
		return command(ctx, python, tree.Path(t, "demo", "python", "present.py"), uri, name, millis(idle))
	}},
	{"go", [3]string{"zstd", "zlib", "snappy"}, func(_ *testing.T, ctx context.Context, uri, name string, idle time.Duration) (string, error) {
		var out bytes.Buffer
		err := presentGo(ctx, &out, uri, name, idle)
		return out.String(), err
	}},
}

// heartbeat is the shortest time between heartbeats that drivers allow.
const heartbeat = 500 * time.Millisecond

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Each driver meets each presentation, compressed, and can't tell it from a
// server; left alone, it keeps the connections that it has. Heartbeats come
// twenty times as often as by default, so that a few seconds are a minute.
func TestPresentations(t *testing.T) {
	skipShort(t)
	idle := 3 * time.Second
	if long() {
		idle = 20 * time.Second
	}
	direct, behind := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
	createOrders(t, direct)
	text := config("mixed", behind)
	relays := map[string]*relay.Relay{}
	for _, p := range presentations {
		for _, d := range presenters {
			r := relay.Start(t, "")
			relays[p.name+d.name] = r
			text += listener(t, r, p.listener)
		}
	}
	createOrders(t, proxy.Start(t, text).URI)
	want := map[string]string{}
	for _, d := range presenters {
		log, err := d.run(t, t.Context(), direct, d.name, 0)
		if err != nil {
			t.Fatal(err)
		}
		want[d.name] = log
	}
	var all sync.WaitGroup // t.Parallel would run only as many at once as there are processors
	for i, p := range presentations {
		for _, d := range presenters {
			all.Go(func() {
				r := relays[p.name+d.name]
				uri := "mongodb://" + r.Addr + "/" + p.uri + "heartbeatFrequencyMS=" + millis(heartbeat) + "&compressors=" + d.compressors[i]
				ctx, cancel := context.WithTimeout(t.Context(), runLimit)
				defer cancel()
				got, err := d.run(t, ctx, uri, fmt.Sprint(d.name, i, "x"), idle)
				conns := calm(r, idle)
				t.Run(d.name+" "+p.name, func(t *testing.T) {
					if err != nil || conns != nil {
						t.Error(errors.Join(err, conns))
					}
					compare(t, "direct", want[d.name], "proxied", got)
					if sent, got := r.Compressed(compressorIDs[d.compressors[i]]); sent < 10 || got < 10 {
						t.Errorf("%d commands and %d replies were compressed with %s", sent, got, d.compressors[i])
					}
				})
			})
		}
	}
	all.Wait()
}

// calm: few connections in all, and fewer of them opened while the client, which has just ended,
// idled than it asked for news in that time: one that does not trust a connection opens one each time.
// A single late one says nothing, since a driver starts its last monitor when it gets to it.
func calm(r *relay.Relay, idle time.Duration) error {
	while := idle / 2 // in the first half a driver may start its monitors
	all, recent := r.Opened(time.Now().Add(-while))
	if all > 8 || recent > int(while/heartbeat)/2 {
		return fmt.Errorf("the driver opened %d connections, %d of them while it had nothing to do", all, recent)
	}
	return nil
}

// listener is one more listener of a configuration, behind the relay.
func listener(t *testing.T, r *relay.Relay, settings string) string {
	t.Helper()
	address, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	r.To(address)
	return fmt.Sprintf("\n[[listeners]]\naddress = %q\nadvertise = %q\n%s\n", address, r.Addr, settings)
}

// createOrders makes the collections before clients race to do it.
func createOrders(t *testing.T, uri string) {
	t.Helper()
	db := open(t, uri).Database(shared)
	for _, coll := range []string{"orders", "tasks"} {
		if err := db.CreateCollection(t.Context(), coll); err != nil {
			t.Fatal(err)
		}
	}
}

// presentGo is node/present.mjs with the Go driver.
func presentGo(ctx context.Context, out *bytes.Buffer, uri, name string, idle time.Duration) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	p := presentation{client: client, orders: client.Database(shared).Collection("orders"), tasks: client.Database(shared).Collection("tasks"), name: name}
	step := func(op string, work func(context.Context) (any, error)) {
		result, err := work(ctx)
		text, _ := json.Marshal(map[string]any{"op": op, "result": result, "error": fmt.Sprint(err)})
		fmt.Fprintf(out, "%s\n", strings.ReplaceAll(string(text), name, "NAME"))
	}
	step("insert", p.insert)
	step("find in batches", func(ctx context.Context) (any, error) { return p.numbers(ctx, 0, options.Find().SetBatchSize(7)) })
	step("update", func(ctx context.Context) (any, error) {
		return p.orders.UpdateOne(ctx, p.mine(bson.E{Key: "n", Value: 1}), bson.D{{Key: "$set", Value: bson.D{{Key: "seen", Value: true}}}})
	})
	step("find and update", func(ctx context.Context) (any, error) {
		before, err := p.orders.FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: name + "-2"}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 100}}}}).Raw()
		return before.Lookup("n").String(), err
	})
	step("duplicate", func(ctx context.Context) (any, error) { return p.orders.InsertOne(ctx, p.order(3)) })
	step("session", p.session)
	step("transaction", p.transaction)
	step("aborted transaction", p.aborted)
	select {
	case <-time.After(idle):
	case <-ctx.Done():
	}
	step("after a while", func(ctx context.Context) (any, error) { return p.numbers(ctx, 40) })
	return ctx.Err()
}

type presentation struct {
	client        *mongo.Client
	orders, tasks *mongo.Collection
	name          string
}

func (p presentation) mine(more ...bson.E) bson.D {
	return append(bson.D{{Key: "tenantId", Value: isolated}, {Key: "by", Value: p.name}}, more...)
}

func (p presentation) order(n int) bson.D {
	id := fmt.Sprint(p.name, "-", n)
	return append(bson.D{
		{Key: "_id", Value: id},
		{Key: "number", Value: id},
		{Key: "n", Value: n},
		{Key: "text", Value: strings.Repeat("the same again ", 40)},
	}, p.mine()...)
}

func (p presentation) insert(ctx context.Context) (any, error) {
	var docs []any
	for n := range 30 {
		docs = append(docs, p.order(n))
	}
	return p.orders.InsertMany(ctx, docs)
}

// numbers are the orders' from one on.
func (p presentation) numbers(ctx context.Context, from int, o ...options.Lister[options.FindOptions]) (any, error) {
	o = append(o, options.Find().SetSort(bson.D{{Key: "n", Value: 1}}))
	cursor, err := p.orders.Find(ctx, p.mine(bson.E{Key: "n", Value: bson.D{{Key: "$gte", Value: from}}}), o...)
	if err != nil {
		return nil, err
	}
	var docs []struct{ N int }
	err = cursor.All(ctx, &docs)
	return docs, err
}

func (p presentation) session(ctx context.Context) (any, error) {
	var found any
	err := p.client.UseSessionWithOptions(ctx, options.Session().SetCausalConsistency(true), func(ctx context.Context) (err error) {
		if _, err = p.orders.InsertOne(ctx, p.order(40)); err == nil {
			found, err = p.numbers(ctx, 40)
		}
		return err
	})
	return found, err
}

func (p presentation) transaction(ctx context.Context) (any, error) {
	s, err := p.client.StartSession()
	if err != nil {
		return nil, err
	}
	defer s.EndSession(ctx)
	return s.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		if _, err := p.tasks.InsertOne(ctx, append(bson.D{{Key: "_id", Value: p.name + "-1"}}, p.mine()...)); err != nil {
			return nil, err
		}
		_, err := p.orders.UpdateOne(ctx, p.mine(bson.E{Key: "n", Value: 40}), bson.D{{Key: "$set", Value: bson.D{{Key: "paid", Value: true}}}})
		if err != nil {
			return nil, err
		}
		return p.orders.CountDocuments(ctx, p.mine(bson.E{Key: "paid", Value: true}))
	})
}

func (p presentation) aborted(ctx context.Context) (any, error) {
	err := p.client.UseSession(ctx, func(ctx context.Context) error {
		s := mongo.SessionFromContext(ctx)
		if err := s.StartTransaction(); err != nil {
			return err
		}
		if _, err := p.orders.DeleteMany(ctx, p.mine()); err != nil {
			return err
		}
		return s.AbortTransaction(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p.orders.CountDocuments(ctx, p.mine())
}
