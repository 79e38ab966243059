package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// withinRows is a ground with a client that is bound to a tenant's rows.
func withinRows(t *testing.T, tenant, leaks string) (*ground, *wiretest.Client) {
	t.Helper()
	g := newGround(t, nil)
	return g, g.withinRows(t, tenant, leaks)
}

func (g *ground) withinRows(t *testing.T, tenant, leaks string) *wiretest.Client {
	t.Helper()
	g.client.Command(ping) // it has come to the open listener
	set := *g.proxy.settings.Load()
	set.leaks = leaks
	set.listeners = map[string]*config.Listener{"127.0.0.1:0": {Address: "127.0.0.1:0", Tenant: tenant, Isolation: "rows", Access: "write"}}
	g.proxy.settings.Store(&set)
	return wiretest.Dial(t, g.addr)
}

// What a server that others share says of failures is not passed on, but for what quotes the client.
func TestSealedErrors(t *testing.T) {
	g, client := withinRows(t, "globex", leaksOff)
	seal := func(reply wiretest.Reply, cmd bson.D) string {
		g.server.Once(cmd[0].Key, reply)
		return bson.Raw(wiretest.D(client.Run("app", cmd))).String()
	}
	find, insert := d("find", "orders"), d("insert", "orders", "documents", bson.A{d("_id", 1)})
	failed := func(code int32, more ...any) bson.D {
		return append(d("index", 0, "code", code, "errmsg", "secret in errmsg", "errInfo", d("x", "secret in errInfo")), d(more...)...)
	}
	for _, tt := range []struct {
		name, text string
		keeps      string
	}{
		{"command", seal(wiretest.Fail(241, "Failed to parse number 'secret'"), find), `"code": {"$numberInt":"241"}`},
		{"write", seal(wiretest.OK(d("n", 0, "writeErrors", bson.A{failed(241)})...), insert), `"index": {"$numberInt":"0"}`},
		{"write concern", seal(wiretest.OK(d("n", 1, "writeConcernError", d("code", 64, "errmsg", "secret host"))...), insert), `"writeConcernError"`},
		{"write concern of a bulkWrite", seal(wiretest.OK(d("nErrors", 1, "writeConcernError", d("code", 64, "errmsg", "secret host"), "cursor",
			d("firstBatch", bson.A{d("ok", 0.0, "idx", 0, "code", 241, "errmsg", "secret in a row")}, "id", int64(0), "ns", "admin.$cmd.bulkWrite"))...),
			d("bulkWrite", 1, "ops", bson.A{d("insert", 0, "document", d("_id", 1))}, "nsInfo", bson.A{d("ns", "app.orders")})), `"idx": {"$numberInt":"0"}`},
		{"duplicate of others", seal(wiretest.OK(d("n", 0, "writeErrors", bson.A{failed(11000, "foundValue", d("_id", "secret"), "duplicateRid", "secret", "keyValue", d("_id", 1))})...), insert), `"keyValue": {"_id": {"$numberInt":"1"}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.ReplaceAll(tt.text, `"errmsg": "secret in errmsg","errInfo": {"x": "secret in errInfo"}`, "")
			if strings.Contains(tt.name, "duplicate") == (text == tt.text) {
				t.Errorf("a duplicate key quotes what the client sent, nothing else does: %s", tt.text)
			}
			if strings.Contains(text, "secret") || !strings.Contains(text, tt.keeps) {
				t.Errorf("got %s", tt.text)
			}
		})
	}
}

// Of a database of its own a tenant hears what its server says.
func TestOwnErrors(t *testing.T) {
	g, client := withinRows(t, "acme", leaksOff)
	g.server.Once("find", wiretest.Fail(241, "Failed to parse number 'mine' of app_t_acme.orders"))
	if r := client.Run("app", d("find", "orders")); wiretest.Get(r, "errmsg") != "Failed to parse number 'mine' of app.orders" {
		t.Errorf("got %v", r)
	}
}

// A server that gives another tenant's document away all the same does not get it past the proxy.
func TestLeaksAreStopped(t *testing.T) {
	large := bson.E{Key: "text", Value: strings.Repeat("x", 4<<20)} // that would else be passed on as it comes
	mine, foreign := d("_id", 1, "tenantId", "globex"), d("_id", 2, "tenantId", "acme", "x", "secret")
	for _, tt := range []struct {
		name, leaks string
		docs        []any
		stopped     bool
	}{
		{"full", leaksFull, []any{mine, foreign}, true},
		{"sampled, the first", leaksSampled, []any{foreign, mine}, true},
		{"sampled, another", leaksSampled, []any{mine, foreign}, false},
		{"off", leaksOff, []any{foreign}, false},
		{"several tenants", leaksFull, []any{d("_id", 1, "tenantId", bson.A{"globex", "acme"}, "x", "secret")}, true},
		{"twice", leaksFull, []any{d("_id", 1, "tenantId", "globex", "tenantId", "acme", "x", "secret")}, true},
		{"a large one", leaksFull, []any{append(d("_id", 3, "tenantId", "globex"), large), foreign}, true},
		{"its own", leaksFull, []any{mine, d("_id", 3)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, client := withinRows(t, "globex", tt.leaks)
			g.client.Run("app", d("count", "users")) // the server is known by that, so that a loop serves what is small
			g.server.Once("find", wiretest.Cursor("app.orders", 7, true, tt.docs...))
			r := client.Run("app", d("find", "orders"))
			if stopped := wiretest.Get(r, "code") == int32(96); stopped != tt.stopped {
				t.Fatalf("got %v", r)
			}
			if !tt.stopped {
				return
			}
			if text := bson.Raw(wiretest.D(r)).String(); strings.Contains(text, "secret") {
				t.Errorf("got %s", text)
			}
			if killed := g.server.Wait("killCursors", 1); len(killed) != 1 {
				t.Errorf("the cursor at the server was not ended")
			}
			if n := g.proxy.cursors.open(); n != 0 {
				t.Errorf("%d cursors are open", n)
			}
		})
	}
	t.Run("a later batch", func(t *testing.T) {
		g, client := withinRows(t, "globex", leaksFull)
		g.server.Once("find", wiretest.Cursor("app.orders", 7, true, mine))
		id := wiretest.Get(client.Run("app", d("find", "orders")), "cursor", "id")
		g.server.Once("getMore", wiretest.Cursor("app.orders", 7, false, foreign))
		if r := client.Run("app", d("getMore", id, "collection", "orders")); wiretest.Get(r, "code") != int32(96) {
			t.Errorf("got %v", r)
		}
	})
	t.Run("a changed document", func(t *testing.T) {
		g, client := withinRows(t, "globex", leaksFull)
		g.server.Once("findAndModify", wiretest.OK(d("value", foreign)...))
		if r := client.Run("app", d("findAndModify", "orders", "query", d(), "remove", true)); wiretest.Get(r, "code") != int32(96) {
			t.Errorf("got %v", r)
		}
	})
}

// A large insert of a bound client is read before a byte of it goes anywhere.
func TestLargeInsertWithinRows(t *testing.T) {
	g, client := withinRows(t, "globex", leaksOff)
	text := strings.Repeat("x", 4<<20)
	for coll, code := range map[string]int32{"users": 13, "orders": 66} {
		cmd := wiretest.Outgoing{Body: d("insert", coll, "$db", "app"), Sections: []wiretest.Sequence{{Identifier: "documents", Docs: []wire.Doc{wiretest.D(d("_id", 1, "tenantId", "acme", "text", text))}}}}
		client.Send(cmd)
		if r := client.Receive().D(); wiretest.Get(r, "code") != code {
			t.Errorf("%s: got %v", coll, r)
		}
	}
	if n := len(g.server.Commands("insert")); n > 0 {
		t.Errorf("the server has got %d inserts", n)
	}
}

// A bound client's command takes no longer than it may; what it asks for itself may be less.
func TestBoundTime(t *testing.T) {
	g, client := withinRows(t, "globex", leaksOff)
	set := *g.proxy.settings.Load()
	set.boundTime = 2 * time.Second
	g.proxy.settings.Store(&set)
	for _, tt := range []struct{ asked, want any }{
		{nil, int64(2000)}, {int32(0), int64(2000)}, {int32(5000), int64(2000)}, {int32(700), int32(700)},
	} {
		cmd := d("find", "orders")
		if tt.asked != nil {
			cmd = append(cmd, bson.E{Key: "maxTimeMS", Value: tt.asked})
		}
		g.server.Forget()
		client.Run("app", cmd)
		if got := wiretest.Get(wiretest.Decode(g.server.Wait("find", 1)[0].Body), "maxTimeMS"); got != tt.want {
			t.Errorf("asked for %v: %v is sent, want %v", tt.asked, got, tt.want)
		}
	}
	endless, _ := bson.ParseDecimal128("86400000")
	for _, asked := range []any{endless, nil, "86400000", 1.5, -1} {
		if r := client.Run("app", d("find", "orders", "maxTimeMS", asked)); wiretest.Get(r, "code") != int32(2) {
			t.Errorf("asked for %v: got %v", asked, r)
		}
	}
	g.server.Forget()
	if g.client.Run("app", d("find", "orders", "filter", d("tenantId", "globex"))); wiretest.Get(wiretest.Decode(g.server.Wait("find", 1)[0].Body), "maxTimeMS") != nil {
		t.Error("an open connection's command got a limit")
	}
}

// Definitions may name tenants, and are told without what could.
func TestSealedDefinitions(t *testing.T) {
	for _, tenant := range []string{"globex", "acme"} {
		g, client := withinRows(t, tenant, leaksOff)
		g.server.Once("listIndexes", wiretest.Cursor("app.orders", 0, true, d("name", "a_1", "partialFilterExpression", d("tenantId", "secret"))))
		if text := bson.Raw(wiretest.D(client.Run("app", d("listIndexes", "orders")))).String(); strings.Contains(text, "secret") || !strings.Contains(text, "a_1") {
			t.Errorf("%s: got %s", tenant, text)
		}
		rows := wiretest.Cursor("app.$cmd.listCollections", 0, true,
			d("name", "orders", "type", "collection", "options", d("validator", "secret"), "info", d("uuid", "secret")),
			d("name", "others", "type", "collection"), d("name", "users", "type", "collection"))
		g.server.Once("listCollections", rows)
		r := client.Run("app", d("listCollections", 1))
		batch, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		if text := bson.Raw(wiretest.D(r)).String(); strings.Contains(text, "secret") || tenant == "globex" && len(batch) != 1 {
			t.Errorf("%s: got %s", tenant, text)
		}
	}
}

// A server takes an empty list to mean the sessions of everybody.
func TestKillSessionsOfOthers(t *testing.T) {
	g, client := withinRows(t, "globex", leaksOff)
	client.Run("app", d("find", "orders")) // its cluster is ready
	id := bson.Binary{Subtype: 4, Data: make([]byte, 16)}
	for _, list := range []any{bson.A{}, 1, bson.A{d("id", id, "uid", id)}, bson.A{d("uid", id)}, bson.A{1}} {
		if r := client.Run("admin", d("killSessions", list)); wiretest.Get(r, "code") != int32(13) {
			t.Errorf("killSessions %v: got %v", list, r)
		}
	}
	if n := len(g.server.Commands("killSessions")); n > 0 {
		t.Errorf("the server has got %d of them", n)
	}
	if r := client.Run("admin", d("killSessions", bson.A{d("id", id)})); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("a session of its own: got %v", r)
	}
	g.server.Wait("killSessions", 1)
}

// What a server could take from a document sequence for a field of the body reaches none.
func TestStraySections(t *testing.T) {
	g, client := withinRows(t, "globex", leaksOff)
	away := wiretest.Sequence{Identifier: "update", Docs: []wire.Doc{wiretest.D(d("$set", d("tenantId", "acme")))}}
	client.Send(wiretest.Outgoing{Body: d("findAndModify", "orders", "$db", "app"), Sections: []wiretest.Sequence{away}})
	if r := client.Receive().D(); wiretest.Get(r, "code") != int32(wire.UnknownField) {
		t.Errorf("got %v", r)
	}
	if n := len(g.server.Commands("findAndModify")); n > 0 {
		t.Errorf("the server has got %d of them", n)
	}
}

// A pipeline over the tenant's own database and shared is as close as any: what shared says of a failure is
// not passed on, and another tenant's document is withheld, in a later batch too.
func TestJoinedRows(t *testing.T) {
	g, client := withinRows(t, "acme", leaksFull)
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Grants = map[string]routing.Grant{"users": routing.OwnRows} }))
	join := func(first, second wiretest.Reply) bson.D {
		g.server.Once("aggregate", first)
		g.server.Once("aggregate", second)
		return client.Run("app", d("aggregate", "orders", "pipeline", bson.A{
			d("$lookup", d("from", "users", "localField", "u", "foreignField", "_id", "as", "u")),
		}, "cursor", d("batchSize", 1)))
	}
	mine, foreign := d("_id", 1, "tenantId", "acme"), d("_id", 2, "tenantId", "globex", "x", "secret")
	own := wiretest.Cursor("app_t_acme.orders", 0, true, mine)

	r := join(own, wiretest.Fail(241, "Failed to parse number 'secret'"))
	if text := bson.Raw(wiretest.D(r)).String(); strings.Contains(text, "secret") || wiretest.Get(r, "code") != int32(241) {
		t.Errorf("a failure in shared: %s", text)
	}
	r = join(wiretest.Fail(241, "Failed to parse number 'mine' of app_t_acme.orders"), own)
	if wiretest.Get(r, "errmsg") != "Failed to parse number 'mine' of app.orders" {
		t.Errorf("a failure in its own database: %v", r)
	}
	g, client = withinRows(t, "acme", leaksFull)
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Grants = map[string]routing.Grant{"users": routing.OwnRows} }))
	r = join(own, wiretest.Cursor("app.$cmd.aggregate", 0, true, foreign))
	if text := bson.Raw(wiretest.D(r)).String(); strings.Contains(text, "secret") || wiretest.Get(r, "code") != int32(96) {
		t.Errorf("another tenant's document: %s", text)
	}
	r = join(wiretest.Cursor("app_t_acme.orders", 0, true, mine, mine), wiretest.Cursor("app.$cmd.aggregate", 0, true, mine, foreign))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 1 {
		t.Fatalf("got %v", r)
	}
	r = client.Run("app", d("getMore", wiretest.Get(r, "cursor", "id"), "collection", "orders"))
	if text := bson.Raw(wiretest.D(r)).String(); strings.Contains(text, "secret") || wiretest.Get(r, "code") != int32(96) {
		t.Errorf("another tenant's document in a later batch: %s", text)
	}
	if n := g.proxy.cursors.open(); n != 0 {
		t.Errorf("%d cursors are open", n)
	}
}

// An empty list means the sessions of who asks, and never those of another client: neither an open one's nor
// one's that is bound to a tenant.
func TestKillOwnSessions(t *testing.T) {
	g, bound := withinRows(t, "globex", leaksOff)
	begin := func(c *wiretest.Client, n byte) (lsid any) {
		g.server.Forget()
		c.Run("app", d("insert", "orders", "documents", bson.A{d("_id", int(n), "tenantId", "globex")},
			"lsid", session(n), "txnNumber", int64(1), "autocommit", false, "startTransaction", true))
		return g.server.Wait("insert", 1)[0].Value("lsid")
	}
	killed := func(c *wiretest.Client) []wiretest.Command {
		t.Helper()
		g.server.Forget()
		if r := c.Run("admin", d("killSessions", bson.A{})); wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("got %v", r)
		}
		return g.server.Commands("killSessions")
	}
	begin(bound, 1)
	if n := len(killed(g.client)); n != 0 {
		t.Fatalf("who has no sessions has ended some: %d", n)
	}
	inTxn := begin(g.client, 2)
	g.server.Once("find", wiretest.Cursor("app.orders", 7, true))
	g.server.Forget()
	g.client.Run("app", d("find", "orders", "filter", d("tenantId", "globex"), "lsid", session(3)))
	ofCursor := g.server.Wait("find", 1)[0].Value("lsid")
	begun := killed(g.client)
	if len(begun) != 1 {
		t.Fatalf("got %v", begun)
	}
	list, _ := begun[0].Value("killSessions").(bson.A)
	got := map[string]bool{}
	for _, e := range list {
		got[fmt.Sprint(e)] = true
	}
	if len(list) != 2 || !got[fmt.Sprint(inTxn)] || !got[fmt.Sprint(ofCursor)] {
		t.Errorf("got %v, want %v and %v", list, inTxn, ofCursor)
	}
}
