package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.uber.org/goleak"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ground is a server, the proxy before it with acme isolated, and a client.
type ground struct {
	t      testing.TB
	server *wiretest.Server
	big    *wiretest.Server // of a second cluster; nil for none
	proxy  *Server
	router *routing.Router
	client *wiretest.Client
	addr   string
	log    logged

	clusters *backend.Clusters
	specs    []backend.Spec

	unlisted bool // that a tenant in no entry is listed nowhere
}

func tableOf(t testing.TB, epoch uint64, change func(*routing.Spec)) *routing.Table {
	t.Helper()
	text := func(s string) wire.Value { return wire.StringValue(s) }
	s := &routing.Spec{
		Version: epoch, Epoch: epoch, Mode: routing.Mixed, Home: "home", ControlDB: "tenantry", Field: "tenantId",
		Databases:   []routing.DatabaseSpec{{Name: "app", Prefix: "app_t_"}},
		Collections: []string{"orders"}, Platform: []string{"users"},
		Tenants: []routing.TenantSpec{
			{ID: text("acme"), Key: "acme", Num: 1, Route: &routing.RouteSpec{Cluster: "home", Collections: []string{"orders"}}},
			{ID: text("globex"), Key: "globex", Num: 2},
		},
	}
	if change != nil {
		change(s)
	}
	table, err := routing.NewTable(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func newGround(t *testing.T, resolve func(*ground)) *ground {
	t.Helper()
	return groundOf(t, resolve, "home")
}

// twoClusters is a ground with acme's database on a cluster of its own, which is big.
func twoClusters(t *testing.T) *ground {
	t.Helper()
	g := groundOf(t, nil, "home", "big")
	g.router.Publish(tableOf(t, 1, func(s *routing.Spec) { s.Tenants[0].Route.Cluster = "big" }))
	return g
}

func groundOf(t testing.TB, resolve func(*ground), names ...string) *ground {
	t.Helper()
	return groundWith(t, nil, resolve, names...)
}

// groundWith is groundOf with servers whose hello has these fields.
func groundWith(t testing.TB, hello bson.D, resolve func(*ground), names ...string) *ground {
	t.Helper()
	g := &ground{t: t, router: &routing.Router{}}
	var specs []backend.Spec
	for _, name := range names {
		s := wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member("rs-"+name), wiretest.Stored(), wiretest.Enforce(), wiretest.HelloFields(hello))
		specs = append(specs, backend.Spec{Name: name, URI: "mongodb://" + s.Addr() + "/?replicaSet=rs-" + name + "&serverSelectionTimeoutMS=2000"})
		if name == "home" {
			g.server = s
		} else {
			g.big = s
		}
	}
	clusters := backend.New(backend.Options{Log: zerolog.Nop()})
	if err := clusters.Apply(specs, backend.Limits{}); err != nil {
		t.Fatal(err)
	}
	g.clusters, g.specs = clusters, specs
	g.router.Publish(tableOf(t, 1, nil))
	key := []byte(strings.Repeat("k", 32))
	g.proxy = New(Options{
		Log: zerolog.New(&g.log), Router: g.router, Clusters: clusters, Loops: newLoops(t), FleetKey: func() []byte { return key },
		Resolve: func(context.Context, wire.Value) (bool, error) {
			if resolve != nil {
				resolve(g)
			}
			return g.unlisted, nil
		},
	})
	set := *g.proxy.settings.Load()
	set.oneCluster = len(names) == 1
	g.proxy.settings.Store(&set)
	addr, err := g.proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = addr.String()
	g.client = wiretest.Dial(t, g.addr)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		g.proxy.Shutdown(ctx)
		clusters.Close()
	})
	return g
}

func d(kv ...any) bson.D {
	var out bson.D
	for i := 0; i < len(kv); i += 2 {
		out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
	}
	return out
}

func session(n byte) bson.D {
	id := make([]byte, 16)
	id[0], id[6], id[8] = n, 0x40, 0x80
	return d("id", bson.Binary{Subtype: 4, Data: id})
}

func (g *ground) insert(t *testing.T, id any, tenant string) {
	t.Helper()
	r := g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", tenant, "x", 0)}))
	if wiretest.Get(r, "n") != int32(1) {
		t.Fatalf("insert: %v", r)
	}
}

// What is asked of a server itself is answered of the proxy, as far as there is something to tell.
func TestToldOfTheProxy(t *testing.T) {
	g := newGround(t, nil)
	for name, want := range map[string]bson.D{
		"getDiagnosticData":         d("data", bson.D{}),
		"getTrafficRecordingStatus": d("trafficRecording", d("running", false)),
	} {
		r := g.client.Run("admin", d(name, 1))
		if got := wiretest.Get(r, want[0].Key); fmt.Sprint(got) != fmt.Sprint(want[0].Value) || wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("%s: %v", name, r)
		}
		if n := len(g.server.Commands(name)); n != 0 {
			t.Errorf("%s has reached the server", name)
		}
	}
}

func TestIsolatedTenant(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "acme")
	g.insert(t, 2, "globex")
	if n := len(g.server.Docs("app_t_acme", "orders")); n != 1 {
		t.Errorf("%d documents in acme's database", n)
	}
	if n := len(g.server.Docs("app", "orders")); n != 1 {
		t.Errorf("%d documents in shared", n)
	}
	r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"), "lsid", session(1)))
	if ns := wiretest.Get(r, "cursor", "ns"); ns != "app.orders" {
		t.Errorf("ns %v", ns)
	}
	sent := g.server.Commands("find")
	got := wiretest.Decode(sent[len(sent)-1].Body)
	if id, _ := wiretest.Get(got, "lsid", "id").(bson.Binary); len(id.Data) != 16 || id.Data[0] == 1 && id.Data[1] == 0 {
		t.Errorf("the server saw the client's own session id: %v", id)
	}
	r = g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}))
	text := bson.Raw(wiretest.D(r)).String()
	if strings.Contains(text, "app_t_acme") || !strings.Contains(text, "11000") {
		t.Errorf("duplicate key: %s", text)
	}
}

func TestByID(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "acme")
	g.insert(t, 2, "globex")
	g.server.Forget()
	for round, finds := range []int{2, 0} { // the second time a hint says where it is
		r := g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", d("$set", d("x", round+5)))}))
		if wiretest.Get(r, "n") != int32(1) {
			t.Fatalf("update: %v", r)
		}
		if n := len(g.server.Commands("find")); n != finds {
			t.Errorf("round %d asked %d times, want %d", round, n, finds)
		}
		g.server.Forget()
	}
	r := g.client.Run("app", d("find", "orders", "filter", d("_id", d("$in", bson.A{1, 2, 3}))))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 2 {
		t.Errorf("found %v", r)
	}
	r = g.client.Run("app", d("update", "orders", "updates", bson.A{
		d("q", d("_id", 1), "u", d("$set", d("x", 9))), d("q", d("_id", 2), "u", d("$set", d("x", 9))),
	}))
	if wiretest.Get(r, "n") != int32(2) || len(g.server.Commands("update")) != 2 {
		t.Errorf("a batch over two homes: %v", r)
	}
	r = g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 77), "limit", 1)}))
	if wiretest.Get(r, "n") != int32(0) {
		t.Errorf("delete of nothing: %v", r)
	}
	r = g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", 2), "u", d("$set", d("tenantId", "acme")))}))
	errs, _ := wiretest.Get(r, "writeErrors").(bson.A)
	if len(errs) != 1 || wiretest.Get(errs[0].(bson.D), "code") != int32(66) {
		t.Errorf("a document given to another home: %v", r)
	}
}

// TestLostReply: the retry of a write by _id whose reply was lost is found in the history of the
// home that ran it, though the document is gone.
func TestLostReply(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "acme")
	cmd := d("delete", "orders", "deletes", bson.A{d("q", d("_id", 1), "limit", 1)}, "lsid", session(2), "txnNumber", int64(7))
	g.server.Once("delete", wiretest.Pass().ThenHangUp())
	r := g.client.Run("app", cmd)
	labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
	if wiretest.Get(r, "code") != int32(6) || len(labels) != 1 || labels[0] != "RetryableWriteError" {
		t.Fatalf("the lost reply: %v", r)
	}
	if n := len(g.server.Commands("delete")); n != 1 {
		t.Fatalf("the proxy sent it %d times by itself", n)
	}
	if n := len(g.server.Docs("app_t_acme", "orders")); n != 0 {
		t.Skip("the scripted server hangs up before it applies") // then there is nothing to retry
	}
	r = g.client.Run("app", cmd)
	if wiretest.Get(r, "n") != int32(1) {
		t.Errorf("the retry: %v", r)
	}
}

func TestCursors(t *testing.T) {
	g := newGround(t, nil)
	for i := range 5 {
		g.insert(t, i, "acme")
	}
	open := func(lsid bson.D) int64 {
		r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"), "batchSize", 2, "lsid", lsid))
		id, _ := wiretest.Get(r, "cursor", "id").(int64)
		if id == 0 {
			t.Fatalf("no cursor: %v", r)
		}
		return id
	}
	id := open(session(1))
	for _, own := range g.server.Cursors() {
		if own == id {
			t.Error("the client sees the server's cursor id")
		}
	}
	r := g.client.Run("app", d("getMore", id, "collection", "orders", "lsid", session(9)))
	if wiretest.Get(r, "code") != int32(43) {
		t.Errorf("another session's getMore: %v", r)
	}
	r = g.client.Run("app", d("getMore", id, "collection", "users", "lsid", session(1)))
	if wiretest.Get(r, "code") != int32(43) {
		t.Errorf("another collection's getMore: %v", r)
	}
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants = s.Tenants[1:] }))
	r = g.client.Run("app", d("getMore", id, "collection", "orders", "lsid", session(1)))
	if docs, _ := wiretest.Get(r, "cursor", "nextBatch").(bson.A); len(docs) != 3 {
		t.Errorf("getMore after the route changed: %v", r)
	}
	g.router.Publish(tableOf(t, 3, nil))
	id = open(session(1))
	r = g.client.Run("app", d("killCursors", "orders", "cursors", bson.A{id, int64(99)}))
	killed, _ := wiretest.Get(r, "cursorsKilled").(bson.A)
	missing, _ := wiretest.Get(r, "cursorsNotFound").(bson.A)
	if len(killed) != 1 || len(missing) != 1 || len(g.server.Cursors()) != 0 {
		t.Errorf("killCursors: %v, left %v", r, g.server.Cursors())
	}
}

func TestTransactions(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "acme")
	g.server.Forget()
	in := func(n int64, start bool, kv ...any) bson.D {
		c := append(d(kv...), d("lsid", session(3), "txnNumber", n, "autocommit", false)...)
		if start {
			c = append(c, bson.E{Key: "startTransaction", Value: true})
		}
		return c
	}
	r := g.client.Run("app", in(1, true, "find", "orders", "filter", d("_id", 1)))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 1 {
		t.Fatalf("findById begins a transaction: %v", r)
	}
	starts := 0
	for _, c := range g.server.Commands("find") {
		if wiretest.Get(wiretest.Decode(c.Body), "startTransaction") != nil {
			starts++
		}
	}
	if starts != 1 {
		t.Errorf("%d commands began the transaction", starts)
	}
	if r = g.client.Run("admin", in(1, false, "commitTransaction", 1)); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("commit: %v", r)
	}
	r = g.client.Run("app", in(9, false, "find", "orders", "filter", d("tenantId", "acme")))
	labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
	if wiretest.Get(r, "code") != int32(251) || len(labels) != 1 {
		t.Errorf("an unknown transaction: %v", r)
	}
	g.client.Run("app", in(10, true, "find", "orders", "filter", d("tenantId", "acme")))
	g.client.Run("app", in(10, false, "mapReduce", "orders")) // refused
	r = g.client.Run("admin", in(10, false, "commitTransaction", 1))
	if wiretest.Get(r, "code") != int32(251) {
		t.Errorf("commit after a refused command: %v", r)
	}
	if len(g.server.Commands("abortTransaction")) != 1 {
		t.Error("the server's transaction was not aborted")
	}
}

func TestDrained(t *testing.T) {
	g := newGround(t, nil)
	release := make(chan struct{})
	g.server.Once("insert", wiretest.Pass().After(release))
	done := make(chan struct{})
	other := wiretest.Dial(t, g.addr)
	go func() {
		defer close(done)
		other.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "globex")}))
	}()
	g.server.Wait("insert", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.proxy.Drained(ctx, 2, 2); err == nil {
		t.Error("drained with a write of the tenant in flight")
	}
	if err := g.proxy.Drained(context.Background(), 1, 2); err != nil {
		t.Errorf("another tenant's write holds up the drain: %v", err)
	}
	close(release)
	<-done
	if err := g.proxy.Drained(context.Background(), 2, 2); err != nil {
		t.Error(err)
	}
}

// An open transaction that wrote platform data alone holds up no tenant's change of home, unless by a
// newer configuration that data is tenants'; one write for a tenant in it does.
func TestDrainedOfPlatformData(t *testing.T) {
	g := newGround(t, nil)
	drained := func(epoch uint64) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		return g.proxy.Drained(ctx, 2, epoch) == nil
	}
	write := func(start bool, coll string, id int) {
		t.Helper()
		cmd := d("insert", coll, "documents", bson.A{d("_id", id, "tenantId", "globex")}, "lsid", session(1), "txnNumber", int64(1), "autocommit", false)
		if start {
			cmd = append(cmd, bson.E{Key: "startTransaction", Value: true})
		}
		if r := g.client.Run("app", cmd); wiretest.Get(r, "n") != int32(1) {
			t.Fatal(r)
		}
	}
	write(true, "users", 1)
	if !drained(2) {
		t.Error("platform data holds up the drain")
	}
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Collections, s.Platform = []string{"orders", "users"}, nil }))
	if drained(2) {
		t.Error("drained with a write in flight of what is tenants' now")
	}
	g.router.Publish(tableOf(t, 3, nil))
	write(false, "orders", 1)
	if drained(4) {
		t.Error("drained with the tenant's write in an open transaction")
	}
	g.client.Run("admin", d("abortTransaction", 1, "lsid", session(1), "txnNumber", int64(1), "autocommit", false))
	if !drained(4) {
		t.Error("the aborted transaction holds up the drain")
	}
}

// TestTenantLimit: beyond its limit a tenant's commands wait, then fail; others go on.
func TestTenantLimit(t *testing.T) {
	g := newGround(t, nil)
	g.proxy.settings.Store(&settings{queueTimeout: 50 * time.Millisecond, maxClients: 10, width: 1, perTenant: 1, oneCluster: true})
	release := make(chan struct{})
	g.server.Once("insert", wiretest.Pass().After(release))
	done := make(chan struct{})
	other := wiretest.Dial(t, g.addr)
	go func() {
		defer close(done)
		other.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}))
	}()
	g.server.Wait("insert", 1)
	r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme")))
	if wiretest.Get(r, "code") != int32(462) {
		t.Errorf("beyond the limit: %v", r)
	}
	g.insert(t, 2, "globex")
	close(release)
	<-done
	g.insert(t, 3, "acme")
}

func TestHold(t *testing.T) {
	g := newGround(t, func(g *ground) { g.router.Publish(tableOf(t, 3, nil)) })
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[0].Route, s.Tenants[0].Look = nil, true }))
	g.insert(t, 1, "acme")
	if n := len(g.server.Docs("app_t_acme", "orders")); n != 1 {
		t.Error("the held command did not follow the new table")
	}
}

// TestHoldOfALocatedTenant: a write whose tenant is known when its document is found is held as one that
// names it, and is none that the change of the tenant's route waits for.
func TestHoldOfALocatedTenant(t *testing.T) {
	id := d("_id", 1)
	set := d("$set", d("x", 1))
	txn := func(cmd bson.D) bson.D {
		return append(cmd, d("lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true)...)
	}
	for name, cmd := range map[string]bson.D{
		"update":        d("update", "orders", "updates", bson.A{d("q", id, "u", set)}),
		"delete":        d("delete", "orders", "deletes", bson.A{d("q", id, "limit", 1)}),
		"by the rest":   d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", set)}),
		"findAndModify": d("findAndModify", "orders", "query", id, "update", set),
		"of the rest":   d("findAndModify", "orders", "query", d("x", 0), "update", set),
		"batch":         d("update", "orders", "updates", bson.A{d("q", id, "u", set), d("q", d("_id", 2), "u", set)}, "ordered", false),
		"transaction":   txn(d("update", "orders", "updates", bson.A{d("q", id, "u", set)})),
	} {
		t.Run(name, func(t *testing.T) {
			var drained error
			held := 0
			pending := func(s *routing.Spec) { s.Tenants[1].Look = true }
			g := newGround(t, func(g *ground) {
				held++
				g.router.Publish(tableOf(t, 3, pending))
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				drained = g.proxy.Drained(ctx, 2, 3)
				g.router.Publish(tableOf(t, 4, nil))
			})
			g.insert(t, 1, "globex")
			g.router.Publish(tableOf(t, 2, pending))
			r := g.client.Run("app", cmd)
			if wiretest.Get(r, "ok") != 1.0 || held != 1 || drained != nil {
				t.Errorf("held %d times, drained: %v: %v", held, drained, r)
			}
		})
	}
}

// TestBeforeTheRoutes: a command that comes before the first table waits for it, and not for ever.
func TestBeforeTheRoutes(t *testing.T) {
	g := newGround(t, nil)
	g.proxy.opts.Router = &routing.Router{}
	set := *g.proxy.settings.Load()
	set.queueTimeout = 50 * time.Millisecond
	g.proxy.settings.Store(&set)
	if r := g.client.Run("app", d("count", "orders")); wiretest.Get(r, "code") != int32(6) {
		t.Errorf("without routes: %v", r)
	}
	set.queueTimeout = time.Minute
	g.proxy.settings.Store(&set)
	time.AfterFunc(100*time.Millisecond, func() { g.proxy.opts.Router.Publish(tableOf(t, 1, nil)) })
	g.insert(t, 1, "acme")
	if n := len(g.server.Docs("app_t_acme", "orders")); n != 1 {
		t.Error("the early command did not follow the first table")
	}
}

// A command that names more unlisted tenants than are looked for is refused, and nothing of it done.
func TestHoldForMany(t *testing.T) {
	g := newGround(t, nil)
	g.unlisted = true
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.LookUp = true }))
	insert := func(tenants int) bson.D {
		var docs bson.A
		for i := range tenants {
			docs = append(docs, d("_id", i, "tenantId", fmt.Sprint("ghost", i)))
		}
		return g.client.Run("app", d("insert", "orders", "documents", docs))
	}
	if r := insert(maxUnlisted + 1); wiretest.Get(r, "code") != int32(115) {
		t.Errorf("too many: %v", r)
	}
	if r := insert(maxUnlisted); wiretest.Get(r, "n") != int32(maxUnlisted) || len(g.server.Docs("app", "orders")) != maxUnlisted {
		t.Errorf("as many as are looked for: %v", r)
	}
}

// TestRest: a client that has done nothing for a while is served by another goroutine. It notices
// nothing, also where half of its command came before; nor does one whose stream of hellos goes on so.
func TestRest(t *testing.T) {
	g := newGround(t, nil)
	monitor := wiretest.Dial(t, g.addr)
	version := wiretest.Get(monitor.Run("admin", d("hello", 1)), "topologyVersion")
	monitor.Send(wiretest.Outgoing{Flags: wire.ExhaustAllowed, Body: d("hello", 1, "topologyVersion", version, "maxAwaitTimeMS", 50, "$db", "admin")})
	ping := wire.AppendMessage(nil, 7, 0, 0, wiretest.D(d("ping", 1, "$db", "admin")))
	for cut := range 4 {
		g.insert(t, cut, "acme")
		time.Sleep(60 * time.Millisecond) // the rest begins meanwhile, or behind the first bytes
		g.client.Write(ping[:10*cut])
		time.Sleep(90 * time.Millisecond)
		g.client.Write(ping[10*cut:])
		if in := g.client.Receive(); wiretest.Get(in.D(), "ok") != 1.0 {
			t.Fatalf("ping: %v", in.D())
		}
		if in := monitor.Receive(); in.Flags&wire.MoreToCome == 0 || wiretest.Get(in.D(), "ok") != 1.0 {
			t.Fatalf("the stream of hellos ends: %v", in.D())
		}
	}
}

// TestWorkGivenBack: nothing of a message is left for the connection that uses the memory next.
func TestWorkGivenBack(t *testing.T) {
	c := &clientConn{bound: &routing.Binding{Key: "acme"}, listener: &config.Listener{}}
	c.takeWork(true)
	frame := wire.AppendMessage(nil, 7, 0, 0, wiretest.D(d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")))
	if err := c.msg.Parse(frame); err != nil {
		t.Fatal(err)
	}
	if err := c.req.Parse(&c.msg); err != nil {
		t.Fatal(err)
	}
	table := tableOf(t, 1, nil)
	c.decision = table.Route(&c.req)
	w := c.work
	c.giveWork()
	if _, ok := w.req.Field("filter"); ok || w.req.Cmd != nil || w.req.Name != nil || w.req.DB != nil || w.req.Bound != nil || w.decision.Err != nil {
		t.Errorf("left: %+v %+v", w.req, w.decision)
	}
}

// TestFaults: what is no message closes its connection, and only that.
func TestFaults(t *testing.T) {
	g := newGround(t, nil)
	for _, b := range [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		{0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0},
		{16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xd5, 7, 0, 0},
	} {
		c := wiretest.Dial(t, g.addr)
		if err := c.SendFrame(b); err != nil {
			t.Fatal(err)
		}
		c.Closed()
	}
	g.insert(t, 1, "acme")
}

func TestBackendDown(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "acme")
	g.server.Kill()
	r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme")))
	if wiretest.Get(r, "code") != int32(6) {
		t.Errorf("with the server down: %v", r)
	}
	g.server.Restart()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if r = g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"))); wiretest.Get(r, "ok") == 1.0 {
			return
		}
	}
	t.Errorf("after the restart: %v", r)
}

func TestSortedMerge(t *testing.T) {
	key := func(x any) wire.Doc { return wiretest.D(d("x", x, sortKey, bson.A{x})) }
	m := &merged{down: []bool{true}, left: 3, skip: 1, streams: []*stream{
		{docs: []wire.Doc{key(9), key(5.5), key(int64(1))}}, {docs: []wire.Doc{key("z"), key(7)}},
	}}
	docs, err := (&clientConn{}).take(&cursor{merged: m}, -1, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, doc := range docs {
		v, _ := doc.Lookup("x")
		got = append(got, bsoncore.Value{Type: v.Type, Data: v.Data}.String())
		if _, there := doc.Lookup(sortKey); there {
			t.Error("the sort key leaves with the document")
		}
	}
	if s := strings.Join(got, " "); !strings.HasPrefix(s, `{"$numberInt":"9"} {"$numberInt":"7"}`) || len(docs) != 3 {
		t.Errorf("got %s", s)
	}
}
