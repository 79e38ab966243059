package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

var watchers = []program{
	{"go", nil, func(_ *testing.T, ctx context.Context, uri, _ string) (string, error) {
		var out bytes.Buffer
		err := watchGo(ctx, &out, uri)
		return out.String(), err
	}},
	{"pymongo", nil, func(t *testing.T, ctx context.Context, uri, _ string) (string, error) {
		python := tree.Path(t, ".cache", "venv", "bin", "python")
		tree.NeedSetup(t, python)
		return command(ctx, python, tree.Path(t, "demo", "python", "watch.py"), uri, shared)
	}},
	{"mongoose", nil, func(t *testing.T, ctx context.Context, uri, _ string) (string, error) {
		return command(ctx, needNode(t), tree.Path(t, "demo", "node", "watch.mjs"), uri, shared)
	}},
}

// The same changes, watched at every level, directly and through a proxy with one tenant isolated:
// the same events in the same order.
func TestWatchTwice(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	for _, p := range watchers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel() // most of the time is waiting for events
			want := p.log(t, secantus.Start(t, secantus.Options{}), "")
			if n := strings.Count(want, "\n"); n < 30 {
				t.Fatalf("only %d events:\n%s", n, want)
			}
			for _, mode := range []string{"mixed", "disabled"} {
				t.Run(mode, func(t *testing.T) {
					front := proxy.Start(t, config(mode, secantus.Start(t, secantus.Options{})))
					compare(t, "direct", want, "proxied", p.log(t, front.URI, ""))
				})
			}
		})
	}
}

// A place in a stream outlives the process that gave it, and what is isolated after it.
func TestWatchGoesOn(t *testing.T) {
	skipShort(t)
	server := secantus.Start(t, secantus.Options{})
	first := proxy.Start(t, config("mixed", server))
	db := open(t, first.URI).Database(shared)
	insert(t, db, "orders", "a", isolated)
	open1 := watch(t, db.Collection("orders"), options.ChangeStream())
	whole, err := db.Client().Watch(t.Context(), mongo.Pipeline{}, options.ChangeStream().SetMaxAwaitTime(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close(context.Background())
	insert(t, db, "orders", "b", isolated)
	insert(t, db, "orders", "c", "initech")
	place := open1.next(t, "b")
	open1.next(t, "c")

	again := watch(t, open(t, proxy.Start(t, config("mixed", server)).URI).Database(shared).Collection("orders"),
		options.ChangeStream().SetResumeAfter(place))
	again.next(t, "c")

	changed := strings.Replace(config("mixed", server), "key = \"globex\"\nmode = \"shared\"", "key = \"globex\"\nmode = \"per-tenant\"", 1)
	first.Reload(t, changed)
	insert(t, db, "orders", "d", "globex")
	insert(t, db, "orders", "e", isolated)
	if n := len(documents(t, open(t, server), "smetasc_tenant_globex", "orders")); n != 1 {
		t.Fatalf("%d documents in globex' database", n)
	}
	open1.next(t, "d")
	open1.next(t, "e")
	for _, id := range []string{"b", "c", "d", "e"} { // and nothing of the control database, which the flip has written
		tail{whole}.next(t, id)
	}
	late := watch(t, db, options.ChangeStream().SetStartAfter(place))
	for _, id := range []string{"c", "d", "e"} {
		late.next(t, id)
	}
}

// A connection that is bound to a tenant watches its database under the logical name, and sees no
// other's events.
func TestWatchBound(t *testing.T) {
	skipShort(t)
	address, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server := secantus.Start(t, secantus.Options{})
	front := proxy.Start(t, config("mixed", server)+fmt.Sprintf(`
[[listeners]]
address = %q
tenant = "acme"
isolation = "database"
`, address))
	db := open(t, front.URI).Database(shared)
	insert(t, db, "orders", "a", isolated)
	bound := open(t, "mongodb://"+address+"/").Database(shared)
	coll := watch(t, bound.Collection("orders"), options.ChangeStream())
	all := watch(t, bound, options.ChangeStream())
	insert(t, db, "orders", "b", "globex")
	insert(t, db, "users", "c", "acme")
	insert(t, db, "orders", "d", isolated)
	insert(t, bound, "orders", "e", isolated)
	place := coll.next(t, "d")
	coll.next(t, "e")
	all.next(t, "d")
	all.next(t, "e")
	watch(t, bound.Collection("orders"), options.ChangeStream().SetResumeAfter(place)).next(t, "e")
	_, err = db.Collection("orders").Watch(t.Context(), mongo.Pipeline{}, options.ChangeStream().SetResumeAfter(place))
	if err == nil || !strings.Contains(err.Error(), "resume token") {
		t.Errorf("a bound connection's token on an open one: %v", err)
	}
}

// tail is an open stream.
type tail struct{ *mongo.ChangeStream }

func watch(t *testing.T, of interface {
	Watch(ctx context.Context, pipeline any, opts ...options.Lister[options.ChangeStreamOptions]) (*mongo.ChangeStream, error)
}, opts *options.ChangeStreamOptionsBuilder,
) tail {
	t.Helper()
	s, err := of.Watch(t.Context(), mongo.Pipeline{{{Key: "$match", Value: bson.D{{Key: "ns.db", Value: shared}}}}}, opts.SetMaxAwaitTime(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return tail{s}
}

// next expects an insert of the document, and returns the event's token.
func (s tail) next(t *testing.T, id string) bson.Raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if !s.Next(ctx) {
		t.Fatalf("no event of %q: %v", id, s.Err())
	}
	if got, _ := s.Current.Lookup("documentKey", "_id").StringValueOK(); got != id {
		t.Fatalf("the next event is %v, want that of %q", s.Current, id)
	}
	if db, _ := s.Current.Lookup("ns", "db").StringValueOK(); db != shared {
		t.Errorf("an event of the database %q", db)
	}
	return append(bson.Raw{}, s.ResumeToken()...)
}

func insert(t *testing.T, db *mongo.Database, coll, id, tenant string) {
	t.Helper()
	if _, err := db.Collection(coll).InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}, {Key: "tenantId", Value: tenant}}); err != nil {
		t.Fatal(err)
	}
}

// changesOf makes changes of two tenants, one of them isolated, and of platform data.
func changesOf(ctx context.Context, db *mongo.Database) error {
	orders, items, users := db.Collection("orders"), db.Collection("order_items"), db.Collection("users")
	var errs []error
	try := func(_ any, err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for i, tenant := range []string{isolated, "globex", isolated, "initech"} {
		try(orders.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "tenantId", Value: tenant}, {Key: "qty", Value: 1}}))
		try(items.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "tenantId", Value: tenant}}))
		try(users.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "tenantId", Value: tenant}}))
		try(orders.UpdateOne(ctx, bson.D{{Key: "_id", Value: i}}, bson.D{{Key: "$set", Value: bson.D{{Key: "qty", Value: 2}}}}))
		try(orders.ReplaceOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "tenantId", Value: tenant}}, bson.D{{Key: "tenantId", Value: tenant}, {Key: "qty", Value: 3}}))
		try(orders.DeleteOne(ctx, bson.D{{Key: "_id", Value: i}}))
	}
	return firstOf(errs)
}

func firstOf(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

// watchGo opens a change stream at each level, makes the changes and prints what each stream tells.
func watchGo(ctx context.Context, out io.Writer, uri string) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	db := client.Database(shared)
	for _, coll := range []string{"orders", "order_items", "users"} {
		if err := db.CreateCollection(ctx, coll); err != nil {
			return err
		}
	}
	opts := options.ChangeStream().SetMaxAwaitTime(2 * time.Second).SetFullDocument(options.UpdateLookup)
	mine := mongo.Pipeline{{{Key: "$match", Value: bson.D{{Key: "ns.db", Value: shared}}}}}
	streams := map[string]*mongo.ChangeStream{}
	for name, open := range map[string]func() (*mongo.ChangeStream, error){
		"collection": func() (*mongo.ChangeStream, error) { return db.Collection("orders").Watch(ctx, mine, opts) },
		"platform":   func() (*mongo.ChangeStream, error) { return db.Collection("users").Watch(ctx, mongo.Pipeline{}, opts) },
		"database":   func() (*mongo.ChangeStream, error) { return db.Watch(ctx, mongo.Pipeline{}, opts) },
		"cluster":    func() (*mongo.ChangeStream, error) { return client.Watch(ctx, mine, opts) },
		"one at a time": func() (*mongo.ChangeStream, error) {
			return db.Collection("orders").Watch(ctx, mongo.Pipeline{}, opts.SetBatchSize(1))
		},
	} {
		if streams[name], err = open(); err != nil {
			return fmt.Errorf("watch the %s: %w", name, err)
		}
		defer streams[name].Close(context.WithoutCancel(ctx))
	}
	if err := changesOf(ctx, db); err != nil {
		return err
	}
	for _, name := range []string{"collection", "platform", "database", "cluster", "one at a time"} {
		if err := printEvents(ctx, out, name, streams[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// printEvents prints a stream's events up to the last of the documents with the last _id.
func printEvents(ctx context.Context, out io.Writer, name string, s *mongo.ChangeStream) error {
	last := map[string]int{"collection": 4, "one at a time": 4, "platform": 1, "database": 6, "cluster": 6}[name]
	for last > 0 {
		if !s.Next(ctx) {
			return fmt.Errorf("no further event: %w", s.Err())
		}
		line, id, err := normal(s.Current)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, name, line)
		if id == 3 {
			last--
		}
	}
	return nil
}

// normal is an event without what differs from run to run, and the _id that it is about.
func normal(event bson.Raw) (line string, id int32, err error) {
	var d bson.D
	if err := bson.Unmarshal(event, &d); err != nil {
		return "", 0, err
	}
	for i := range d {
		switch d[i].Key {
		case "_id":
			if t, ok := d[i].Value.(bson.D); !ok || len(t) != 1 || t[0].Key != "_data" {
				return "", 0, fmt.Errorf("a strange token: %v", d[i].Value)
			}
			d[i].Value = "token"
		case "clusterTime", "wallTime":
			d[i].Value = "time"
		case "documentKey":
			id, _ = event.Lookup("documentKey", "_id").Int32OK()
		}
	}
	text, err := bson.MarshalExtJSON(d, false, false)
	if err != nil {
		return "", 0, err
	}
	if !json.Valid(text) {
		return "", 0, fmt.Errorf("no JSON: %s", text)
	}
	return string(text), id, nil
}
