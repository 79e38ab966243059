package proxy

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// stock inserts n documents behind the proxy, of which every 50th is acme's and the others are globex'.
func (g *ground) stock(t *testing.T, n int) {
	t.Helper()
	var docs [2]bson.A
	for i := range n {
		at, tenant := 0, "globex"
		if i%50 == 0 {
			at, tenant = 1, "acme"
		}
		docs[at] = append(docs[at], d("_id", i, "tenantId", tenant, "x", 0))
	}
	direct := wiretest.Dial(t, g.server.Addr())
	for at, db := range []string{"app", "app_t_acme"} {
		direct.Run(db, d("insert", "orders", "documents", docs[at]))
	}
	g.server.Forget()
}

// wantOnce checks that each document of the homes has been incremented by so much.
func (g *ground) wantOnce(t *testing.T, want int) {
	t.Helper()
	for _, db := range []string{"app", "app_t_acme"} {
		for _, doc := range g.server.Docs(db, "orders") {
			if x := fmt.Sprint(wiretest.Get(doc, "x")); x != fmt.Sprint(want) {
				t.Fatalf("%s: %v was incremented to %s, want %d", db, wiretest.Get(doc, "_id"), x, want)
			}
		}
	}
}

func increments(n int) (all bson.A) {
	for i := range n {
		all = append(all, d("q", d("_id", i), "u", d("$inc", d("x", 1))))
	}
	return all
}

// retryable are the fields of a retryable write.
func retryable(n int64) bson.D { return d("lsid", session(1), "txnNumber", n) }

// What is added to each of many writes makes a part of a batch larger than its servers take: it goes in pieces,
// each with the numbers that its writes have in the client's command. The reply to a piece is lost, and what
// the client sends again is done once.
func TestSplitInPieces(t *testing.T) {
	const n = 1000
	for name, hello := range map[string]bson.D{
		"bytes":  d("maxMessageSizeBytes", 80_000),
		"writes": d("maxWriteBatchSize", 300),
	} {
		for _, ordered := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ordered ", ordered), func(t *testing.T) {
				g := groundWith(t, hello, nil, "home")
				g.client.Command(ping)
				g.stock(t, n)
				updates := increments(n)
				slices.SortStableFunc(updates, func(a, b any) int { // one run for each home
					return ofAcme(a.(bson.D)) - ofAcme(b.(bson.D))
				})
				cmd := append(d("update", "orders", "updates", updates, "ordered", ordered), retryable(1)...)
				var pieces atomic.Int32
				g.server.Handle(func(c wiretest.Command) wiretest.Reply {
					if c.Name == "update" && c.DB == "app" {
						if pieces.Add(1) == 2 {
							return wiretest.Pass().ThenHangUp()
						}
					}
					return wiretest.Pass()
				})
				if r := g.client.Run("app", cmd); wiretest.Get(r, "code") != int32(6) {
					t.Fatalf("the lost reply: %v", r)
				}
				r := g.client.Run("app", cmd)
				if got := outcomeOf(r); got != fmt.Sprint("n ", n) || wiretest.Get(r, "nModified") != int32(n) {
					t.Errorf("%s: %v", got, r)
				}
				if pieces := pieces.Load(); pieces < 4 {
					t.Errorf("shared has got %d commands in two tries", pieces)
				}
				g.wantOnce(t, 1)
			})
		}
	}
}

// ofAcme puts acme's before the others.
func ofAcme(update bson.D) int {
	id := wiretest.Get(update, "q", "_id").(int)
	return min(id%50, 1)
}

// An error ends an ordered batch with the piece that it is in, and no other.
func TestSplitInPiecesFails(t *testing.T) {
	for ordered, want := range map[bool]string{true: "n 16, 16: 11000", false: "n 29, 16: 11000"} {
		g := groundWith(t, d("maxWriteBatchSize", 10), nil, "home")
		g.client.Command(ping)
		g.insert(t, 16, "globex")
		docs := docsOf("acme")
		for i := 1; i < 30; i++ {
			docs = append(docs, d("_id", i, "tenantId", "globex"))
		}
		r := g.client.Run("app", append(d("insert", "orders", "documents", docs, "ordered", ordered), retryable(1)...))
		if got := outcomeOf(r); got != want {
			t.Errorf("ordered %v: %s, want %s: %v", ordered, got, want, r)
		}
		held := len(g.server.Docs("app", "orders"))
		if wantHeld := map[bool]int{true: 16, false: 29}[ordered]; held != wantHeld {
			t.Errorf("ordered %v: shared holds %d, want %d", ordered, held, wantHeld)
		}
	}
}

// Without a txnNumber what has not been sent when a piece's reply is lost has failed with it.
func TestSplitInPiecesBroken(t *testing.T) {
	for ordered, want := range map[bool]int{true: 1, false: 20} {
		g := groundWith(t, d("maxWriteBatchSize", 10), nil, "home")
		g.client.Command(ping)
		docs := docsOf("acme")
		for i := 1; i <= 30; i++ {
			docs = append(docs, d("_id", i, "tenantId", "globex"))
		}
		var pieces atomic.Int32
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name == "insert" && c.DB == "app" {
				if pieces.Add(1) == 2 {
					return wiretest.HangUp()
				}
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", d("insert", "orders", "documents", docs, "ordered", ordered))
		errs, _ := wiretest.Get(r, "writeErrors").(bson.A)
		if wiretest.Get(r, "n") != int32(11) || len(errs) != want || pieces.Load() != 2 {
			t.Errorf("ordered %v: %d pieces, %d errors: %v", ordered, pieces.Load(), len(errs), r)
		}
	}
}

// The first piece begins a transaction, the others are of it.
func TestSplitInPiecesOfTransaction(t *testing.T) {
	g := groundWith(t, d("maxWriteBatchSize", 10), nil, "home")
	g.client.Command(ping)
	docs := docsOf("acme")
	for i := 1; i <= 30; i++ {
		docs = append(docs, d("_id", i, "tenantId", "globex"))
	}
	in := d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)
	r := g.client.Run("app", append(append(d("insert", "orders", "documents", docs), in...), bson.E{Key: "startTransaction", Value: true}))
	if got := outcomeOf(r); got != "n 31" {
		t.Fatalf("%s: %v", got, r)
	}
	if r := g.client.Run("admin", append(d("commitTransaction", 1), in...)); wiretest.Get(r, "ok") != 1.0 {
		t.Fatal(r)
	}
	if n := len(g.server.Docs("app", "orders")); n != 30 {
		t.Errorf("shared holds %d", n)
	}
	begins := 0
	for _, c := range g.server.Commands("insert") {
		if c.Value("startTransaction") == true {
			begins++
		}
	}
	if begins != 1 {
		t.Errorf("%d commands began it", begins)
	}
}

// seven is globex' id where its predicate is to be one that the test server knows, which has no $regex.
var seven = wire.Value{Type: bsoncore.TypeInt32, Data: []byte{7, 0, 0, 0}}

// A command that goes to one home whole goes in pieces too where what is added makes it too large: of a
// connection that is bound to a tenant's rows each write is narrowed to the tenant, and in shared each leaves
// out what a move has left there. A batch in the command's own document may be too large for that alone.
func TestWholeInPieces(t *testing.T) {
	const n = 900
	for _, c := range []struct {
		name  string
		hello bson.D
		rows  bool
		array bool
		least int32 // commands
	}{
		{"rows", d("maxMessageSizeBytes", 70_000), true, false, 2},
		{"rows in an array", d("maxBsonObjectSize", 40_000), true, true, 1},
		{"left in shared", d("maxMessageSizeBytes", 70_000), false, false, 2},
		{"left in shared, in an array", d("maxBsonObjectSize", 40_000), false, true, 1},
	} {
		for _, ordered := range []bool{true, false} {
			t.Run(fmt.Sprint(c.name, " ordered ", ordered), func(t *testing.T) {
				g := groundWith(t, c.hello, nil, "home")
				g.router.Publish(tableOf(t, 2, func(s *routing.Spec) {
					s.WithoutTenant, s.Tenants[1].ID = routing.ToShared, seven
				}))
				client := g.client
				if c.rows {
					client = g.withinRows(t, "globex", leaksOff)
				}
				client.Command(ping)
				var docs bson.A
				for i := range n {
					docs = append(docs, d("_id", i, "tenantId", 7, "x", 0))
				}
				wiretest.Dial(t, g.server.Addr()).Run("app", d("insert", "orders", "documents", docs))
				g.residue(t, n)
				g.server.Forget()
				updates := increments(n + 1) // the last one's is acme's, or left over
				var tries atomic.Int32
				g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
					if cmd.Name == "update" {
						if tries.Add(1) == c.least {
							return wiretest.Pass().ThenHangUp()
						}
					}
					return wiretest.Pass()
				})
				body := append(d("update", "orders", "ordered", ordered, "$db", "app"), retryable(1)...)
				var sections []wiretest.Sequence
				if c.array {
					body = append(body, bson.E{Key: "updates", Value: updates})
				} else {
					docs := make([]wire.Doc, len(updates))
					for i, u := range updates {
						docs[i] = wiretest.D(u.(bson.D))
					}
					sections = []wiretest.Sequence{{Identifier: "updates", Docs: docs}}
				}
				run := func() bson.D {
					client.Send(wiretest.Outgoing{Body: body, Sections: sections})
					return client.Receive().D()
				}
				if r := run(); wiretest.Get(r, "code") != int32(6) {
					t.Fatalf("the lost reply: %v", r)
				}
				if r := run(); outcomeOf(r) != fmt.Sprint("n ", n) {
					t.Errorf("%v", r)
				}
				if sent := len(g.server.Commands("update")); sent < 2*int(c.least) {
					t.Errorf("%d commands in two tries", sent)
				}
				for _, doc := range g.server.Docs("app", "orders")[:n] {
					if x := fmt.Sprint(wiretest.Get(doc, "x")); x != "1" {
						t.Fatalf("%v was incremented to %s", wiretest.Get(doc, "_id"), x)
					}
				}
				if rest := g.server.Docs("app", "orders")[n:]; len(rest) != 1 || wiretest.Get(rest[0], "x") != nil {
					t.Errorf("acme's was written to: %v", rest)
				}
			})
		}
	}
}

// What servers say of writes in the pieces is not told to who is bound to a tenant's rows, and a bulkWrite's
// rows have the places of the client's.
func TestBulkInPieces(t *testing.T) {
	const n = 500
	g := groundWith(t, d("maxMessageSizeBytes", 70_000), nil, "home")
	client := g.withinRows(t, "globex", leaksOff)
	client.Command(ping)
	var sent atomic.Int32
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name != "bulkWrite" {
			return wiretest.Pass()
		}
		sent.Add(1)
		var rows bson.A
		for k, op := range c.Docs("ops") {
			row := d("ok", 1.0, "idx", k, "n", 1, "nModified", 1)
			if strings.Contains(bson.Raw(op).String(), "bad") {
				row = d("ok", 0.0, "idx", k, "n", 0, "code", 2, "errmsg", "secret")
			}
			rows = append(rows, row)
		}
		return wiretest.OK(d("nErrors", 0, "nMatched", len(rows), "cursor", d("firstBatch", rows, "id", int64(0), "ns", "admin.$cmd.bulkWrite"))...)
	})
	var ops bson.A
	for i := range n {
		ops = append(ops, d("update", 0, "filter", d("_id", i), "updateMods", d("$inc", d("x", 1))))
	}
	ops[n-10] = d("update", 0, "filter", d("_id", "bad"), "updateMods", d("$inc", d("x", 1)))
	r := client.Run("admin", d("bulkWrite", 1, "ops", ops, "nsInfo", bson.A{d("ns", "app.orders")}, "ordered", false))
	rows, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if sent.Load() < 2 || len(rows) != n || wiretest.Get(r, "nErrors") != int32(1) {
		t.Fatalf("%d commands, %d rows: %v", sent.Load(), len(rows), r)
	}
	for i, row := range rows {
		if row := row.(bson.D); wiretest.Get(row, "idx") != int32(i) || (wiretest.Get(row, "ok") == 0.0) != (i == n-10) {
			t.Fatalf("row %d: %v", i, row)
		}
	}
	if strings.Contains(fmt.Sprint(r), "secret") {
		t.Error("it tells the server's words")
	}
}

// What can not be cut, and has grown too large, is refused, and no server closes a connection for it.
func TestGrownTooLarge(t *testing.T) {
	g := groundWith(t, d("maxBsonObjectSize", 60_000), nil, "home")
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[1].ID = seven }))
	client := g.withinRows(t, "globex", leaksOff)
	client.Command(ping)
	find := func(n int) bson.D { return d("find", "orders", "filter", d("x", strings.Repeat("y", n)), "$db", "app") }
	fits := 60_000 + bodyRoom - len(wiretest.D(find(0)))
	r := wiretest.Decode(client.Command(find(fits)))
	if wiretest.Get(r, "code") != int32(wire.BSONObjectTooLarge) || !strings.HasPrefix(wiretest.Get(r, "errmsg").(string), "tenantry: ") {
		t.Errorf("%v", r)
	}
	if r := wiretest.Decode(client.Command(find(fits - 100))); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("%v", r)
	}
}
