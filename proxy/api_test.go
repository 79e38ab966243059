package proxy

import (
	"bytes"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// fill writes four orders of each of two homes.
func (g *ground) fill(t *testing.T) {
	t.Helper()
	for i, tenant := range []string{"acme", "globex"} {
		for j := range 4 {
			wantCode(t, "insert", g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 10*i+j, "tenantId", tenant)})), 0)
		}
	}
}

// TestStableAPI: servers refuse a getMore, and a command of a transaction, that names another version than the
// command which began it (322), so what is made here for a client's command names the client's.
func TestStableAPI(t *testing.T) {
	g := newGround(t, nil)
	api := d("apiVersion", "1", "apiStrict", true)
	db := "app"
	run := func(cmd bson.D, more ...any) bson.D {
		t.Helper()
		r := g.client.Run(db, append(append(cmd, api...), d(append([]any{"lsid", session(1)}, more...)...)...))
		if wiretest.Get(r, "ok") != 1.0 {
			t.Fatalf("%v: %v", cmd, r)
		}
		return r
	}
	g.fill(t)
	g.server.Forget()
	id := wiretest.Get(run(d("find", "orders", "batchSize", 1)), "cursor", "id")
	run(d("getMore", id, "collection", "orders"))
	tx := func(number int, more ...any) []any {
		return append([]any{"txnNumber", int64(number), "autocommit", false}, more...)
	}
	run(d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", d("$set", d("x", 1)))}), tx(1, "startTransaction", true)...)
	db = "admin"
	run(d("commitTransaction", 1), tx(1)...)
	db = "app"
	seen := map[string]int{}
	for _, name := range []string{"find", "getMore", "update", "commitTransaction"} {
		for _, c := range g.server.Commands(name) {
			seen[name]++
			if c.Value("apiVersion") != "1" || c.Value("apiStrict") != true {
				t.Errorf("sent %v", c.D())
			}
		}
	}
	if seen["find"] < 3 || seen["getMore"] == 0 || seen["update"] == 0 { // two of the client's, one that locates
		t.Errorf("only %v were sent", seen)
	}

	// An error that is made here ends the transaction on the server.
	run(d("find", "orders", "filter", d("tenantId", "acme")), tx(2, "startTransaction", true)...)
	g.client.Run("app", append(append(d("renameCollection", "app.orders", "to", "app.x"), api...), d(append([]any{"lsid", session(1)}, tx(2)...)...)...))
	g.server.Wait("abortTransaction", 1)
	if c := g.server.Commands("abortTransaction")[0]; c.Value("apiVersion") != "1" || c.Value("apiStrict") != true {
		t.Errorf("sent %v", c.D())
	}
}

// TestSnapshotOfStages: what later stages read is read at the time of the first, and not of another cluster.
func TestSnapshotOfStages(t *testing.T) {
	at := bson.Timestamp{T: 42, I: 1}
	command := d("aggregate", "orders", "pipeline", bson.A{
		d("$match", d("tenantId", "acme")), d("$lookup", d("from", "users", "localField", "u", "foreignField", "_id", "as", "u")),
	}, "cursor", d(), "readConcern", d("level", "snapshot"), "lsid", session(1))
	answer := func(c wiretest.Command) wiretest.Reply {
		if c.Name != "aggregate" {
			return wiretest.Pass()
		}
		return wiretest.OK(d("cursor", d("firstBatch", bson.A{d("_id", 1)}, "id", int64(0), "ns", c.DB+".orders", "atClusterTime", at))...)
	}
	g := newGround(t, nil)
	g.server.Handle(answer)
	r := g.client.Run("app", command)
	sent := g.server.Commands("aggregate")
	if len(sent) != 2 || sent[0].Value("readConcern", "atClusterTime") != nil || sent[1].Value("readConcern", "atClusterTime") != at {
		t.Errorf("sent %v", sent)
	}
	if wiretest.Get(r, "cursor", "atClusterTime") != at {
		t.Errorf("it tells of %v", r)
	}

	// And what they read for later batches.
	g.server.Forget()
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		switch {
		case c.Name == "getMore":
			return wiretest.Cursor(c.DB+".orders", 0, false, d("_id", 2))
		case c.Name == "aggregate" && c.Value("aggregate") == "orders":
			return wiretest.OK(d("cursor", d("firstBatch", bson.A{d("_id", 1)}, "id", int64(7), "ns", c.DB+".orders", "atClusterTime", at))...)
		}
		return answer(c)
	})
	r = g.client.Run("app", append(slices.Clone(command[:2]), append(d("cursor", d("batchSize", 1)), command[3:]...)...))
	r = g.client.Run("app", d("getMore", wiretest.Get(r, "cursor", "id"), "collection", "orders", "lsid", session(1)))
	sent = g.server.Commands("aggregate")
	if last := sent[len(sent)-1]; len(sent) != 3 || last.Value("readConcern", "atClusterTime") != at {
		t.Errorf("%d are sent, the last is %v: %v", len(sent), last.D(), r)
	}

	g = twoClusters(t)
	g.server.Handle(answer)
	g.big.Handle(answer)
	if r := g.client.Run("app", command); wiretest.Get(r, "code") != int32(wire.InvalidOptions) {
		t.Errorf("over two clusters: %v", r)
	}
}

// TestBulkForOne: what a comment says of the tenant holds for the writes of collections that no route moves, too.
func TestBulkForOne(t *testing.T) {
	all := []any{
		d("delete", 0, "filter", d(), "multi", true), d("update", 0, "filter", d("x", 1), "updateMods", d("$set", d("x", 2)), "multi", true),
		d("insert", 0, "document", d("_id", 1, "tenantId", "acme")), d("update", 1, "filter", d("x", 1), "updateMods", d("$set", d("x", 2)), "multi", true),
	}
	for n := 3; n <= len(all); n++ { // without and with a write of what has moved
		g := newGround(t, nil)
		g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Collections = append(s.Collections, "invoices") }))
		g.client.Run("admin", d("bulkWrite", 1, "ops", bson.A(all[:n]), "nsInfo", bson.A{d("ns", "app.invoices"), d("ns", "app.orders")},
			"ordered", false, "comment", d("tenantry", d("tenant", "acme"))))
		seen := 0
		for _, c := range g.server.Commands("bulkWrite") {
			for _, op := range c.Docs("ops") {
				filter, ok := op.Lookup("filter")
				if !ok {
					continue
				}
				seen++
				ns, _ := c.Docs("nsInfo")[0].Lookup("ns")
				name, _ := ns.Str()
				f, _ := filter.Doc()
				if string(name) == "app.invoices" && !bytes.Contains(f, []byte("acme")) {
					t.Errorf("%d writes: of %s it sends %v", n, name, wiretest.Decode(op))
				}
			}
		}
		if seen < 2 {
			t.Errorf("%d writes: %d with filters are sent", n, seen)
		}
	}
}

// TestNearest: nobody can tell whose document is the nearest.
func TestNearest(t *testing.T) {
	g := newGround(t, nil)
	near := d("$near", bson.A{0, 0})
	for _, cmd := range []bson.D{
		d("findAndModify", "orders", "query", d("at", near), "update", d("$set", d("x", 1))),
		d("update", "orders", "updates", bson.A{d("q", d("at", near), "u", d("$set", d("x", 1)))}),
		d("delete", "orders", "deletes", bson.A{d("q", d("at", near), "limit", 1)}),
	} {
		r := g.client.Run("app", cmd)
		if code := wiretest.Get(r, "code"); code == nil {
			if errors, _ := wiretest.Get(r, "writeErrors").(bson.A); len(errors) != 1 || wiretest.Get(errors[0].(bson.D), "code") != int32(wire.CommandNotSupported) {
				t.Errorf("%v: %v", cmd, r)
			}
		} else if code != int32(wire.CommandNotSupported) {
			t.Errorf("%v: %v", cmd, r)
		}
	}
	if sent := append(g.server.Commands("find"), g.server.Commands("update")...); len(sent) != 0 {
		t.Errorf("sent %v", sent)
	}
}

// TestPartsOfDocuments: there is no half of a document, which servers know of limits and skips.
func TestPartsOfDocuments(t *testing.T) {
	g := newGround(t, nil)
	g.fill(t)
	decimal, _ := bson.ParseDecimal128("2.6")
	for _, c := range []struct {
		skip, limit any
		want        int
	}{
		{0, 3.7, 3}, {2.9, 0, 6}, {1.5, 2.5, 2}, {decimal, 0, 5}, {int64(1), int64(1<<63 - 1), 7}, {0, 0.9, 8},
	} {
		r := g.client.Run("app", d("find", "orders", "skip", c.skip, "limit", c.limit))
		docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		if len(docs) != c.want {
			t.Errorf("skip %v, limit %v: %d documents, want %d: %v", c.skip, c.limit, len(docs), c.want, r)
		}
		r = g.client.Run("app", d("count", "orders", "skip", c.skip, "limit", c.limit))
		if n := wiretest.Get(r, "n"); n != int32(c.want) {
			t.Errorf("skip %v, limit %v: counted %v, want %d", c.skip, c.limit, n, c.want)
		}
	}
}

// TestUsersOfNobody: where clients authenticate, users are the configuration's, also while nobody is isolated.
func TestUsersOfNobody(t *testing.T) {
	g := newGround(t, nil)
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[0].Route = nil }))
	wantCode(t, "createUser without log-ins", g.client.Run("app", d("createUser", "x", "pwd", "y", "roles", bson.A{})), 59) // by the server, which has none
	x := guard(t, g, []config.User{userOf(t, "app", "application", "", "")})
	c := x.dial(t, 0)
	mustLogIn(t, c, "app")
	g.server.Forget()
	for _, name := range []string{"createUser", "usersInfo", "dropUser", "grantRolesToUser"} {
		for _, db := range []string{"app", "other", "admin"} {
			wantCode(t, name, c.Run(db, d(name, "x")), int32(wire.CommandNotSupported))
		}
		if sent := g.server.Commands(name); len(sent) != 0 {
			t.Errorf("sent %v", sent)
		}
	}
	users, _ := wiretest.Get(c.Run("other", d("connectionStatus", 1)), "authInfo", "authenticatedUsers").(bson.A)
	if len(users) != 1 || wiretest.Get(users[0].(bson.D), "user") != "app" {
		t.Errorf("it is %v", users)
	}
}
