package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// docsOf is a batch with _ids from 0 on, of these tenants.
func docsOf(tenants ...string) (docs bson.A) {
	for i, tenant := range tenants {
		docs = append(docs, d("_id", i, "tenantId", tenant))
	}
	return docs
}

// held is what each home holds: the _ids in shared, then those in acme's own database.
func (g *ground) held() (out [2][]any) {
	for i, db := range []string{"app", "app_t_acme"} {
		for _, doc := range g.server.Docs(db, "orders") {
			out[i] = append(out[i], wiretest.Get(doc, "_id"))
		}
		slices.SortFunc(out[i], func(a, b any) int { return int(a.(int32) - b.(int32)) })
	}
	return out
}

func (g *ground) wantHeld(t *testing.T, shared, acme string) {
	t.Helper()
	if got := g.held(); fmt.Sprint(got[0]) != shared || fmt.Sprint(got[1]) != acme {
		t.Errorf("shared holds %v, acme %v; want %s and %s", got[0], got[1], shared, acme)
	}
}

// statements are the stmtIds of the commands with the name that the server got.
func (g *ground) statements(name string) (out []string) {
	for _, c := range g.server.Commands(name) {
		out = append(out, fmt.Sprint(c.DB, c.Value("stmtIds")))
	}
	slices.Sort(out)
	return out
}

// outcome is n and the indexes of the write errors with their codes.
func outcomeOf(r bson.D) string {
	errs, _ := wiretest.Get(r, "writeErrors").(bson.A)
	text := fmt.Sprint("n ", wiretest.Get(r, "n"))
	for _, e := range errs {
		text += fmt.Sprintf(", %v: %v", wiretest.Get(e.(bson.D), "index"), wiretest.Get(e.(bson.D), "code"))
	}
	return text
}

func TestSplitInsert(t *testing.T) {
	tenants := []string{"acme", "globex", "globex", "acme", "acme"}
	for _, c := range []struct {
		name, want, shared, acme string
		ordered                  bool
		sent                     []string
	}{
		{"ordered", "n 3, 3: 11000", "[1 2]", "[0 3]", true, []string{"app[1 2]", "app_t_acme[0]", "app_t_acme[3 4]"}},
		{"unordered", "n 4, 3: 11000", "[1 2]", "[0 3 4]", false, []string{"app[1 2]", "app_t_acme[0 3 4]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGround(t, nil)
			g.insert(t, 3, "acme") // so that the fourth is there already
			g.server.Forget()
			r := g.client.Run("app", d("insert", "orders", "documents", docsOf(tenants...), "ordered", c.ordered,
				"lsid", session(1), "txnNumber", int64(1)))
			if got := outcomeOf(r); got != c.want {
				t.Errorf("%s, want %s: %v", got, c.want, r)
			}
			g.wantHeld(t, c.shared, c.acme)
			if sent := g.statements("insert"); !slices.Equal(sent, c.sent) {
				t.Errorf("sent %v, want %v", sent, c.sent)
			}
		})
	}
}

// A document that is refused here is a write error like a server's: an ordered batch ends with it.
func TestSplitRefused(t *testing.T) {
	docs := docsOf("acme", "", "globex")
	docs[1] = d("_id", 1, "tenantId", bson.A{"acme"})
	for ordered, want := range map[bool]string{true: "n 1, 1: 2", false: "n 2, 1: 2"} {
		g := newGround(t, nil)
		r := g.client.Run("app", d("insert", "orders", "documents", docs, "ordered", ordered))
		if got := outcomeOf(r); got != want {
			t.Errorf("ordered %v: %s, want %s", ordered, got, want)
		}
	}
}

// The reply to the second half is lost. The client's retry finds the first half done and the second
// too: everything is there once, and the answer is the one that was lost.
func TestSplitLostReply(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		g := newGround(t, nil)
		cmd := d("insert", "orders", "documents", docsOf("acme", "globex", "acme"), "ordered", ordered, "lsid", session(1), "txnNumber", int64(1))
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name == "insert" && c.DB == "app" {
				g.server.Handle(nil)
				return wiretest.Pass().ThenHangUp()
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", cmd)
		labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
		if wiretest.Get(r, "code") != int32(6) || len(labels) != 1 || labels[0] != "RetryableWriteError" {
			t.Fatalf("the lost reply: %v", r)
		}
		r = g.client.Run("app", cmd)
		if got := outcomeOf(r); got != "n 3" {
			t.Errorf("ordered %v: the retry: %s: %v", ordered, got, r)
		}
		g.wantHeld(t, "[1]", "[0 2]")
	}
}

// A part that has come to no server says nothing of the others, which may have been written.
func TestSplitHalfSent(t *testing.T) {
	for _, tenants := range [][]string{{"globex", "acme"}, {"acme", "globex"}, {"acme"}} {
		g := twoClusters(t)
		g.big.Close()
		r := g.client.Run("app", d("insert", "orders", "documents", docsOf(tenants...), "ordered", false, "lsid", session(1), "txnNumber", int64(1)))
		labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
		written := len(g.server.Docs("app", "orders")) > 0
		if wiretest.Get(r, "code") != int32(6) || !slices.Contains(labels, any("RetryableWriteError")) || slices.Contains(labels, any("NoWritesPerformed")) == written {
			t.Errorf("%v, something is written: %v: %v", tenants, written, r)
		}
	}
}

// A retry that goes another way than the first try, since a hint has been learnt meanwhile, still is
// taken for one.
func TestSplitRetryGoesElsewhere(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	g.insert(t, 1, "globex")
	saves := bson.A{d("q", d("_id", 0), "u", d("$inc", d("x", 1))), d("q", d("_id", 1), "u", d("$inc", d("x", 1)))}
	cmd := d("update", "orders", "updates", saves, "lsid", session(1), "txnNumber", int64(1))
	for range 2 {
		if got := outcomeOf(g.client.Run("app", cmd)); got != "n 2" {
			t.Fatal(got)
		}
	}
	for _, db := range []string{"app", "app_t_acme"} {
		if x := wiretest.Get(g.server.Docs(db, "orders")[0], "x"); x != int32(1) && x != int64(1) {
			t.Errorf("%s: incremented to %v", db, x)
		}
	}
}

// Without a txnNumber nothing is sent twice: what the dead half leaves open is said, and what is done.
func TestSplitHalfDead(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "insert" && c.DB == "app" {
			return wiretest.HangUp()
		}
		return wiretest.Pass()
	})
	r := g.client.Run("app", d("insert", "orders", "documents", docsOf("acme", "globex", "globex")))
	if got := outcomeOf(r); got != "n 1, 1: 6" {
		t.Errorf("%s: %v", got, r)
	}
	if n := len(g.server.Commands("insert")); n != 2 {
		t.Errorf("%d inserts were sent", n)
	}
}

// Writes of many documents reach every home, and leave alone what a move has left in shared.
func TestSplitMany(t *testing.T) {
	g := newGround(t, nil)
	for i, tenant := range []string{"acme", "globex", "acme", "initech"} {
		g.insert(t, i, tenant)
	}
	g.residue(t, 0)
	r := g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d(), "u", d("$set", d("x", 1)), "multi", true)}))
	if got := outcomeOf(r); got != "n 4" || wiretest.Get(r, "nModified") != int32(4) {
		t.Errorf("update: %v", r)
	}
	r = g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("x", 1), "limit", 0)}))
	if got := outcomeOf(r); got != "n 4" {
		t.Errorf("delete: %v", r)
	}
	g.wantHeld(t, "[0]", "[]") // the residue
	r = g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d(), "limit", 0)}, "lsid", session(1), "txnNumber", int64(1)))
	if wiretest.Get(r, "code") != int32(72) {
		t.Errorf("a retryable delete of many: %v", r)
	}
}

// residue puts a copy of one of acme's documents into shared, behind the proxy.
func (g *ground) residue(t *testing.T, id int) {
	t.Helper()
	direct := wiretest.Dial(t, g.server.Addr())
	direct.Run("app", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", "acme", "stale", true)}))
}

// A write of one document, by another field than _id, finds it in whatever home; one of residue is
// none.
func TestSplitOne(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	g.insert(t, 1, "globex")
	g.residue(t, 0)
	by := func(tenant string) bson.D { return d("x", tenant) }
	for i, tenant := range []string{"acme", "globex"} {
		g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", i), "u", d("$set", by(tenant)))}))
	}
	r := g.client.Run("app", d("update", "orders", "updates", bson.A{
		d("q", by("globex"), "u", d("$set", d("y", 1))), d("q", by("acme"), "u", d("$set", d("y", 1))), d("q", by("nobody"), "u", d("$set", d("y", 1))),
	}))
	if got := outcomeOf(r); got != "n 2" {
		t.Errorf("%s: %v", got, r)
	}
	r = g.client.Run("app", d("findAndModify", "orders", "query", by("acme"), "update", d("$set", d("y", 2)), "new", true))
	if wiretest.Get(r, "value", "y") != int32(2) || wiretest.Get(r, "value", "stale") != nil {
		t.Errorf("findAndModify: %v", r)
	}
	r = g.client.Run("app", d("findAndModify", "orders", "query", d("_id", 0), "remove", true))
	if wiretest.Get(r, "value", "_id") != int32(0) {
		t.Errorf("findAndModify by _id: %v", r)
	}
	r = g.client.Run("app", d("findAndModify", "orders", "query", d("_id", 0), "remove", true))
	if wiretest.Get(r, "value") != nil || wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("findAndModify of nothing: %v", r)
	}
	g.wantHeld(t, "[0 1]", "[]")
}

// An upsert that finds nothing makes its document where its tenant's are.
func TestSplitUpsert(t *testing.T) {
	g := newGround(t, nil)
	upsert := func(q, u bson.D) bson.D {
		return g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", q, "u", u, "upsert", true)}))
	}
	r := upsert(d("_id", 0), d("$setOnInsert", d("tenantId", "acme"), "$set", d("x", 1)))
	if got := outcomeOf(r); got != "n 1" || wiretest.Get(r, "upserted") == nil {
		t.Errorf("by _id: %v", r)
	}
	r = upsert(d("_id", 0), d("$setOnInsert", d("tenantId", "globex"), "$set", d("x", 2)))
	if got := outcomeOf(r); got != "n 1" || wiretest.Get(r, "upserted") != nil {
		t.Errorf("by _id, which is there: %v", r)
	}
	upsert(d("_id", 1), d("tenantId", "globex"))
	if r = upsert(d("_id", 2), d("$set", d("x", 1))); outcomeOf(r) != "n 0, 0: 61" {
		t.Errorf("without a tenant: %v", r)
	}
	g.wantHeld(t, "[1]", "[0]")
	r = g.client.Run("app", d("findAndModify", "orders", "query", d("_id", 3), "update", d("$set", d("tenantId", "acme")), "upsert", true))
	if wiretest.Get(r, "lastErrorObject", "upserted") != int32(3) {
		t.Errorf("findAndModify: %v", r)
	}
	g.wantHeld(t, "[1]", "[0 3]")
	// Equality in the filter would put the tenant's field before those of the update.
	upsert(d("_id", 4), d("$set", d("qty", 1, "tenantId", "globex")))
	g.client.Run("app", d("findAndModify", "orders", "query", d("_id", 5), "update", d("$set", d("qty", 1, "tenantId", "globex")), "upsert", true))
	for _, doc := range g.server.Docs("app", "orders") {
		if qty, tenant := strings.Index(fmt.Sprint(doc), "qty"), strings.Index(fmt.Sprint(doc), "tenantId"); tenant < qty {
			t.Errorf("the fields of %v are in another order than the update's", doc)
		}
	}
	g.wantHeld(t, "[1 4 5]", "[0 3]")
}

// Reads of all homes leave out what a move has left in shared; skip and limit count over all.
func TestGather(t *testing.T) {
	g := newGround(t, nil)
	for i := range 10 {
		g.insert(t, i, []string{"acme", "globex"}[i%2])
	}
	g.residue(t, 0)
	for _, c := range []struct {
		skip, limit, want int
	}{{0, 0, 10}, {0, 3, 3}, {4, 0, 6}, {8, 5, 2}, {20, 0, 0}} {
		cmd := d("count", "orders", "query", d(), "skip", c.skip, "limit", c.limit)
		if r := g.client.Run("app", cmd); wiretest.Get(r, "n") != int32(c.want) {
			t.Errorf("count skip %d limit %d: %v", c.skip, c.limit, r)
		}
		r := g.client.Run("app", d("find", "orders", "skip", c.skip, "limit", c.limit, "batchSize", 2))
		n := 0
		for batch := "firstBatch"; ; batch = "nextBatch" {
			docs, _ := wiretest.Get(r, "cursor", batch).(bson.A)
			n += len(docs)
			id, _ := wiretest.Get(r, "cursor", "id").(int64)
			if id == 0 || len(docs) > 2 {
				break
			}
			r = g.client.Run("app", d("getMore", id, "collection", "orders", "batchSize", 2))
		}
		if n != c.want {
			t.Errorf("find skip %d limit %d: %d documents", c.skip, c.limit, n)
		}
	}
	r := g.client.Run("app", d("find", "orders", "skip", 4, "batchSize", 2, "singleBatch", true))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 2 || wiretest.Get(r, "cursor", "id") != int64(0) {
		t.Errorf("one batch behind what is skipped: %v", r)
	}
	if left := g.server.Cursors(); len(left) != 0 {
		t.Errorf("cursors left open: %v", left)
	}
	r = g.client.Run("app", d("find", "orders", "filter", d("_id", 0)))
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if len(docs) != 1 || wiretest.Get(docs[0].(bson.D), "stale") != nil {
		t.Errorf("by _id: %v", r)
	}
}

// A count's negative limit is its number to servers.
func TestGatherNegativeLimit(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name != "count" {
			return wiretest.Pass()
		}
		limit, _ := c.Int("limit")
		return wiretest.OK(bson.E{Key: "n", Value: min(max(limit, -limit), 5)}) // five match in each home
	})
	for skip, want := range map[int]int32{0: 3, 4: 3, 8: 2} {
		if r := g.client.Run("app", d("count", "orders", "query", d(), "limit", -3, "skip", skip)); wiretest.Get(r, "n") != want {
			t.Errorf("skip %d: %v, want %d", skip, r, want)
		}
	}
}

// A tenant that is paused holds the writes of many documents that are its too.
func TestSplitHeld(t *testing.T) {
	g := newGround(t, func(g *ground) { g.router.Publish(tableOf(g.t, 3, nil)) })
	g.insert(t, 0, "globex")
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[1].Paused = true }))
	r := g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)}))
	if got := outcomeOf(r); got != "n 1" || g.router.Current().Epoch != 3 {
		t.Errorf("by _id: %s under epoch %d", got, g.router.Current().Epoch)
	}
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[1].Paused = true }))
	r = g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d(), "limit", 0)}))
	if got := outcomeOf(r); got != "n 0" || g.router.Current().Epoch != 3 {
		t.Errorf("of many: %s under epoch %d", got, g.router.Current().Epoch)
	}
}

// What is dropped is dropped everywhere, shared last; what fails is told and can be run again.
func TestDrop(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	g.insert(t, 1, "globex")
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "drop" && c.DB == "app_t_acme" {
			g.server.Handle(nil)
			return wiretest.Fail(8000, "not today")
		}
		return wiretest.Pass()
	})
	r := g.client.Run("app", d("drop", "orders"))
	if wiretest.Get(r, "code") != int32(8000) { // as it is, since nothing has been done
		t.Fatalf("a failing drop: %v", r)
	}
	g.wantHeld(t, "[1]", "[0]")
	if r = g.client.Run("app", d("drop", "orders")); wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "ns") != "app.orders" {
		t.Errorf("drop: %v", r)
	}
	g.wantHeld(t, "[]", "[]")
}

// Figures are those of all homes together.
func TestSummedFigures(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		n := int32(10)
		if c.DB == "app" {
			n = 1
		}
		switch c.Name {
		case "collStats":
			return wiretest.OK(d("ns", c.DB+".orders", "count", n, "size", 100*n, "avgObjSize", 100.0, "nindexes", 2,
				"indexSizes", d("_id_", n, fmt.Sprint("x", n), n), "wiredTiger", d("uri", "x"), "scaleFactor", 1)...)
		case "dbStats":
			return wiretest.OK(d("db", c.DB, "collections", 3, "objects", n, "dataSize", 7.5*float64(n))...)
		case "validate":
			return wiretest.OK(d("ns", c.DB+".orders", "nrecords", n, "valid", n == 1, "errors", bson.A{fmt.Sprint(n)})...)
		}
		return wiretest.Pass()
	})
	want := func(r, want bson.D) {
		t.Helper()
		r = slices.DeleteFunc(r, func(e bson.E) bool { return e.Key == "ok" || e.Key == "operationTime" || e.Key == "$clusterTime" })
		if fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("%v\nwant %v", r, want)
		}
	}
	want(g.client.Run("app", d("collStats", "orders")), d("ns", "app.orders", "count", 11, "size", 1100, "avgObjSize", 100.0, "nindexes", 2,
		"indexSizes", d("_id_", 11, "x1", 1, "x10", 10), "scaleFactor", 1))
	want(g.client.Run("app", d("dbStats", 1)), d("db", "app", "collections", 3, "objects", 11, "dataSize", 82.5))
	want(g.client.Run("app", d("validate", "orders")), d("ns", "app.orders", "nrecords", 11, "valid", false, "errors", bson.A{"1", "10"}))
}

// A retry of a write by another field than _id goes to the document of the first try, though the
// filter would find another one by now.
func TestSplitRetryOfAnother(t *testing.T) {
	for _, name := range []string{"update", "findAndModify"} {
		g := twoClusters(t)
		g.insert(t, 0, "acme")
		g.insert(t, 1, "globex")
		for i := range 2 {
			g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", i), "u", d("$set", d("state", "new")))}))
		}
		take := d("$set", d("state", "taken"))
		cmd := d("update", "orders", "updates", bson.A{d("q", d("state", "new"), "u", take)})
		if name == "findAndModify" {
			cmd = d(name, "orders", "query", d("state", "new"), "update", take)
		}
		cmd = append(cmd, d("lsid", session(1), "txnNumber", int64(1))...)
		g.server.Once(name, wiretest.Pass().ThenHangUp())
		if r := g.client.Run("app", cmd); wiretest.Get(r, "code") != int32(6) {
			t.Fatalf("the lost reply: %v", r)
		}
		g.client.Run("app", cmd)
		taken := 0
		for _, doc := range append(g.server.Docs("app", "orders"), g.big.Docs("app_t_acme", "orders")...) {
			if wiretest.Get(doc, "state") == "taken" {
				taken++
			}
		}
		if taken != 1 {
			t.Errorf("%s: %d documents were taken by one write and its retry", name, taken)
		}
	}
}

// A transaction that begins with a command without a tenant begins on the cluster where its document
// is; what turns out to be on another one ends it.
func TestTransactionFindsItsCluster(t *testing.T) {
	g := twoClusters(t)
	g.insert(t, 0, "acme")
	g.insert(t, 1, "globex")
	number := int64(0)
	in := func(start bool, cmd bson.D) bson.D {
		t.Helper()
		cmd = append(cmd, d("lsid", session(3), "txnNumber", number, "autocommit", false)...)
		if start {
			cmd = append(cmd, bson.E{Key: "startTransaction", Value: true})
		}
		return g.client.Run("app", cmd)
	}
	find := func(id int) bson.D { return d("find", "orders", "filter", d("_id", id)) }
	save := func(id int) bson.D {
		return d("update", "orders", "updates", bson.A{d("q", d("_id", id), "u", d("$set", d("x", 1)))})
	}
	for name, first := range map[string]func(int) bson.D{"find": find, "save": save} {
		for id := range 2 {
			number++
			if r := in(true, first(id)); wiretest.Get(r, "ok") != 1.0 || outcomeOf(r) == "n 0" {
				t.Errorf("%s of %d: %v", name, id, r)
			}
			if r := in(false, save(id)); outcomeOf(r) != "n 1" {
				t.Errorf("then saved: %v", r)
			}
			if r := g.client.Run("admin", d("commitTransaction", 1, "lsid", session(3), "txnNumber", number, "autocommit", false)); wiretest.Get(r, "ok") != 1.0 {
				t.Errorf("commit: %v", r)
			}
		}
		number++
		in(true, first(0))
		r := in(false, save(1))
		labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
		if wiretest.Get(r, "code") != int32(263) || len(labels) != 0 {
			t.Errorf("a document of the other cluster: %v", r)
		}
		if r = in(false, find(0)); wiretest.Get(r, "code") != int32(251) {
			t.Errorf("after that: %v", r)
		}
	}
	for _, s := range []*wiretest.Server{g.server, g.big} {
		if n := len(s.Commands("abortTransaction")); n > 2 {
			t.Errorf("%d aborts", n)
		}
	}
}

// A transaction does not see a tenant in a home that it has got since.
func TestTransactionMayNotStraddle(t *testing.T) {
	find := func(tenant string) bson.D { return d("find", "orders", "filter", d("tenantId", tenant), "$db", "app") }
	for name, cmd := range map[string]bson.D{
		"find": find("acme"),
		"bulkWrite": d("bulkWrite", 1, "nsInfo", bson.A{d("ns", "app.orders")}, "$db", "admin",
			"ops", bson.A{d("update", 0, "filter", d("_id", 0, "tenantId", "acme"), "updateMods", d("$set", d("x", 1)))}),
	} {
		g := newGround(t, nil)
		in := func(cmd bson.D, start ...any) bson.D {
			cmd = append(append(cmd, d("lsid", session(3), "txnNumber", int64(1), "autocommit", false)...), d(start...)...)
			return wiretest.Decode(g.client.Command(cmd))
		}
		in(find("globex"), "startTransaction", true)
		g.router.Publish(tableOf(t, 7, func(s *routing.Spec) { s.Tenants[0].Route.Epoch = 7 }))
		if r := in(find("globex")); wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("another tenant's command: %v", r)
		}
		r := in(cmd)
		labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
		if wiretest.Get(r, "code") != int32(251) || len(labels) != 1 || len(g.server.Commands(name)) > 2 {
			t.Errorf("the moved tenant's %s: %v", name, r)
		}
	}
}

// The parts of a command share its time.
func TestTimeIsShared(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "find" {
			time.Sleep(20 * time.Millisecond)
		}
		return wiretest.Pass()
	})
	save := d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", d("$set", d("x", 1)))}, "lsid", session(1), "txnNumber", int64(1))
	g.client.Run("app", append(save, bson.E{Key: "maxTimeMS", Value: 10_000}))
	for _, c := range g.server.Commands("update") {
		if left, _ := c.Int("maxTimeMS"); left > 9_980 || left < 1 {
			t.Errorf("%d ms are left of ten seconds", left)
		}
	}
	if r := g.client.Run("app", append(save[:len(save):len(save)], bson.E{Key: "maxTimeMS", Value: 5})); wiretest.Get(r, "code") != int32(50) {
		t.Errorf("without time left: %v", r)
	}
}

// What was learnt of a document is only where to look first: it may be another tenant's by now, in the
// same home or elsewhere.
func TestGuessIsWrong(t *testing.T) {
	save := func(q, u bson.D) bson.D { return d("update", "orders", "updates", bson.A{d("q", q, "u", u)}) }
	upsert := func(u bson.D) bson.D {
		return d("update", "orders", "updates", bson.A{d("q", d("_id", 0, "x", 0), "u", u, "upsert", true)})
	}
	both := d("tenantId", "globex", "x", 2)
	for name, cmd := range map[string]bson.D{
		"set":     save(d("_id", 0), d("$set", both)),
		"replace": save(d("_id", 0), both),
		"modify":  d("findAndModify", "orders", "query", d("_id", 0), "update", d("$set", both)),
		"upsert":  upsert(d("$set", d("x", 2), "$setOnInsert", d("tenantId", "globex"))),
	} {
		g := learnt(t)
		r := g.client.Run("app", cmd)
		if docs := g.server.Docs("app", "orders"); len(docs) != 1 || wiretest.Get(docs[0], "x") != int32(2) {
			t.Errorf("%s: %v; shared holds %v", name, r, docs)
		}
	}
	g := learnt(t)
	g.client.Run("app", upsert(d("$set", d("x", 2), "$setOnInsert", d("tenantId", "acme"))))
	g.wantHeld(t, "[0]", "[]") // and not in two homes

	for _, u := range []bson.D{d("$set", d("x", 1)), d("$set", d("tenantId", "initech")), d("$set", d("x", 2))} {
		if got := outcomeOf(g.client.Run("app", save(d("_id", 0), u))); got != "n 1" {
			t.Errorf("%v: %s", u, got)
		}
	}
}

// learnt is a ground that has learnt that a document is acme's, which is globex's.
func learnt(t *testing.T) *ground {
	t.Helper()
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	g.client.Run("app", d("find", "orders", "filter", d("_id", 0)))
	g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0, "tenantId", "acme"), "limit", 1)}))
	g.insert(t, 0, "globex")
	return g
}

// An _id is found by another that servers take for the same, also where numbers lie inside of it.
func TestSameID(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, d("a", int32(1)), "acme")
	for _, id := range []any{d("a", 1.0), d("a", int64(1))} {
		r := g.client.Run("app", d("update", "orders", "updates", bson.A{
			d("q", d("_id", id), "u", d("$setOnInsert", d("tenantId", "globex"), "$inc", d("x", 1)), "upsert", true),
		}))
		if docs := g.server.Docs("app", "orders"); outcomeOf(r) != "n 1" || len(docs) != 0 {
			t.Errorf("%v: %v; shared holds %v", id, r, docs)
		}
	}
}

// In a transaction a write of many documents that fails in one home has ended it there: the others are not
// asked, whose word would be that there is no transaction, and the answer is the server's.
func TestManyFailInTransaction(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 1, "globex")
	g.insert(t, 2, "acme")
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "update" {
			g.server.Handle(nil)
			failed := d("index", 0, "code", 11000, "errmsg", "E11000 duplicate key error")
			return wiretest.OK(bson.E{Key: "n", Value: 0}, bson.E{Key: "nModified", Value: 0}, bson.E{Key: "writeErrors", Value: bson.A{failed}})
		}
		return wiretest.Pass()
	})
	many := d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$set", d("x", 1)), "multi", true)},
		"lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true)
	if got := outcomeOf(g.client.Run("app", many)); got != "n 0, 0: 11000" {
		t.Errorf("it answers %s", got)
	}
	if n := len(g.server.Commands("update")); n != 1 {
		t.Errorf("%d updates are sent", n)
	}
	r := g.client.Run("admin", d("commitTransaction", 1, "lsid", session(1), "txnNumber", int64(1), "autocommit", false))
	if wiretest.Get(r, "code") != int32(251) {
		t.Errorf("the commit: %v", r)
	}
}

// Of several homes' first documents by the sort the first of all is the one that is modified, wherever it is.
func TestModifySorted(t *testing.T) {
	for down, want := range map[int]string{1: "app_t_acme", -1: "app"} {
		g := newGround(t, nil)
		g.insert(t, 1, "globex")
		g.insert(t, 2, "acme")
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			switch ns := c.DB + ".orders"; {
			case c.Name == "find" && c.DB == "app":
				return wiretest.Cursor(ns, 0, true, d("_id", 1, "tenantId", "globex", sortKey, bson.A{5}))
			case c.Name == "find":
				return wiretest.Cursor(ns, 0, true, d("_id", 2, "tenantId", "acme", sortKey, bson.A{3}))
			case c.Name == "findAndModify":
				return wiretest.OK(bson.E{Key: "lastErrorObject", Value: d("n", 1)}, bson.E{Key: "value", Value: d("x", 0)})
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", d("findAndModify", "orders", "query", d("x", 0), "sort", d("n", down), "update", d("$set", d("x", 9))))
		sent := g.server.Commands("findAndModify")
		if len(sent) != 1 || sent[0].DB != want || wiretest.Get(r, "lastErrorObject", "n") != int32(1) {
			t.Errorf("sorted by %d it is sent %d times, want once to %s: %v", down, len(sent), want, r)
		}
	}
}

// An _id that two tenants' databases have is no one's to choose: the write that names it alone fails, and
// nothing is learnt of it.
func TestIDInTwoHomes(t *testing.T) {
	for ordered, want := range map[bool]string{true: "n 1, 1: 115", false: "n 2, 1: 115"} {
		g := newGround(t, nil)
		g.insert(t, 0, "acme")
		g.insert(t, 1, "acme")
		g.insert(t, 1, "globex")
		g.insert(t, 2, "globex")
		var saves bson.A
		for id := range 3 {
			saves = append(saves, d("q", d("_id", id), "u", d("$inc", d("x", 1))))
		}
		if got := outcomeOf(g.client.Run("app", d("update", "orders", "updates", saves, "ordered", ordered))); got != want {
			t.Errorf("ordered %v: %s, want %s", ordered, got, want)
		}
		for range 2 {
			got := outcomeOf(g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 1), "limit", 1)})))
			if got != "n 0, 0: 115" {
				t.Errorf("a delete: %s", got)
			}
			r := g.client.Run("app", d("findAndModify", "orders", "query", d("_id", 1), "update", d("$inc", d("x", 1))))
			if wiretest.Get(r, "code") != int32(115) {
				t.Errorf("findAndModify: %v", r)
			}
		}
		if got := outcomeOf(g.client.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 1, "tenantId", "globex"), "limit", 1)}))); got != "n 1" {
			t.Errorf("with its tenant: %s", got)
		}
	}
}

// To an unacknowledged write a server answers without saying what it did; it is still made once.
func TestSplitUnacknowledged(t *testing.T) {
	for _, multi := range []bool{false, true} {
		g := newGround(t, nil)
		g.insert(t, 0, "acme")
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name == "update" && c.Value("writeConcern", "w") == int32(0) {
				return wiretest.OK() // as a server's to w: 0
			}
			return wiretest.Pass()
		})
		write := d("q", d("x", 0), "u", d("$set", d("y", 1), "$setOnInsert", d("tenantId", "globex")), "multi", multi, "upsert", true)
		g.client.Run("app", d("update", "orders", "updates", bson.A{write}, "writeConcern", d("w", 0, "j", false)))
		if n := len(g.server.Commands("update")); n != 1 && !multi || n != 2 && multi {
			t.Errorf("multi %v: %d updates were sent", multi, n)
		}
		if multi {
			g.wantHeld(t, "[]", "[0]")
		}
	}
}

// A document that can not be looked for does not take back what the writes before it have done: the
// client is told of both.
func TestSplitLooksInVain(t *testing.T) {
	for name, cmd := range map[string]struct {
		q    bson.D
		want string
	}{
		"by x":                                {d("x", 1), "n 1, 1: 8000"},
		"by _id, which was looked for before": {d("_id", 7), "n 1"},
	} {
		g := newGround(t, nil)
		g.insert(t, 0, "acme")
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name == "find" && len(g.server.Commands("update")) > 0 {
				return wiretest.Fail(8000, "not now")
			}
			return wiretest.Pass()
		})
		inc := d("$inc", d("x", 1))
		r := g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", inc), d("q", cmd.q, "u", inc)}))
		if got := outcomeOf(r); got != cmd.want {
			t.Errorf("%s: %s: %v", name, got, r)
		}
	}
}

// Writes by _ids that are nowhere cost one question and one batch for each home, however many they are.
func TestSplitOfNothing(t *testing.T) {
	retryable := d("lsid", session(1), "txnNumber", int64(1))
	for _, c := range []struct {
		name    string
		ordered bool
		more    bson.D
		writes  int
	}{{"ordered", true, nil, 1}, {"unordered", false, nil, 1}, {"retryable", true, retryable, 2}, {"retryable, unordered", false, retryable, 2}} {
		g := newGround(t, nil)
		var entries bson.A
		for i := range 50 {
			entries = append(entries, d("q", d("_id", i), "u", d("$inc", d("x", 1))))
		}
		r := g.client.Run("app", append(d("update", "orders", "updates", entries, "ordered", c.ordered), c.more...))
		if got := outcomeOf(r); got != "n 0" {
			t.Errorf("%s: %s: %v", c.name, got, r)
		}
		finds, writes := len(g.server.Commands("find")), len(g.server.Commands("update"))
		if finds != 2 || writes != c.writes {
			t.Errorf("%s: %d finds and %d updates are sent", c.name, finds, writes)
		}
	}
}

// The numbers that the client gives its writes are theirs in every part.
func TestSplitStatements(t *testing.T) {
	for field, want := range map[bson.E]string{
		{Key: "stmtIds", Value: "list"}: "[app[8] app_t_acme[7 9]]",
		{Key: "stmtId", Value: 5}:       "[app[6] app_t_acme[5 7]]",
	} {
		g := newGround(t, nil)
		if field.Value == "list" {
			field.Value = bson.A{7, 8, 9}
		}
		g.client.Run("app", append(d("insert", "orders", "documents", docsOf("acme", "globex", "acme"), "ordered", false,
			"lsid", session(1), "txnNumber", int64(1)), field))
		if sent := fmt.Sprint(g.statements("insert")); sent != want {
			t.Errorf("%v: sent %s, want %s", field, sent, want)
		}
	}
}

// Numbers that are not one for each write are refused as by a server, before anything is sent.
func TestSplitStatementsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		more bson.D
		code int32
	}{
		"too few":     {d("stmtIds", bson.A{7, 8}), 16},
		"too many":    {d("stmtIds", bson.A{7, 8, 9, 10}), 16},
		"none":        {d("stmtIds", bson.A{}), 16},
		"not numbers": {d("stmtIds", bson.A{"a", "b", "c"}), 14},
		"no list":     {d("stmtIds", 7), 14},
		"both":        {d("stmtIds", bson.A{7, 8, 9}, "stmtId", 1), 72},
	} {
		for _, numbered := range []bson.D{nil, d("lsid", session(1), "txnNumber", int64(1))} {
			g := newGround(t, nil)
			r := g.client.Run("app", append(append(d("insert", "orders", "documents", docsOf("acme", "globex", "acme")), numbered...), c.more...))
			if wiretest.Get(r, "code") != c.code || len(g.server.Commands("insert")) != 0 {
				t.Errorf("%s: got %v", name, r)
			}
		}
	}
}

// The _ids of a batch may be more than a command can have; then several questions ask for them.
func TestSplitManyIDs(t *testing.T) {
	g := newGround(t, nil)
	var saves bson.A
	long := strings.Repeat("x", 1<<20)
	for i := range 18 {
		saves = append(saves, d("q", d("_id", fmt.Sprint(i, long)), "u", d("$set", d("x", 1))))
	}
	g.insert(t, fmt.Sprint(17, long), "acme")
	r := g.client.Run("app", d("update", "orders", "updates", saves[:9], "ordered", false))
	if got := outcomeOf(r); got != "n 0" {
		t.Error(got)
	}
	g.server.Forget()
	r = g.client.Run("app", d("update", "orders", "updates", saves[9:], "ordered", false))
	if got := outcomeOf(r); got != "n 1" {
		t.Error(got)
	}
	for _, c := range g.server.Commands("find") {
		if len(c.Body) > 6<<20 {
			t.Errorf("a question of %d bytes", len(c.Body))
		}
	}
}

// A collection that only a tenant's database has is told of under the name that clients know.
func TestFiguresOfOneHome(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		switch {
		case c.Name != "collStats":
			return wiretest.Pass()
		case c.DB == "app":
			return wiretest.Fail(26, "ns does not exist")
		}
		return wiretest.OK(d("ns", c.DB+".orders", "count", 1)...)
	})
	r := g.client.Run("app", d("collStats", "orders"))
	if wiretest.Get(r, "ns") != "app.orders" || wiretest.Get(r, "count") != int32(1) {
		t.Errorf("%v", r)
	}
}

// Drivers retry a write whose write concern has failed by the label that comes with it.
func TestSplitConcernLabels(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name != "insert" || c.DB != "app" {
			return wiretest.Pass()
		}
		return wiretest.OK(d("n", 1, "writeConcernError", d("code", 91, "errmsg", "shutting down"), "errorLabels", bson.A{"RetryableWriteError"})...)
	})
	r := g.client.Run("app", d("insert", "orders", "documents", docsOf("acme", "globex"), "lsid", session(1), "txnNumber", int64(1)))
	labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
	if wiretest.Get(r, "writeConcernError", "code") != int32(6) || len(labels) != 1 || labels[0] != "RetryableWriteError" {
		t.Errorf("%v", r)
	}
}

// A document that is deleted after it was found is made again by an upsert, as by one server's.
func TestUpsertOfDeleted(t *testing.T) {
	upsert := d("$set", d("x", 1), "$setOnInsert", d("tenantId", "acme"))
	other := d("q", d("_id", 1), "u", upsert, "upsert", true)
	for name, cmd := range map[string]bson.D{
		"batch":  d("update", "orders", "updates", bson.A{d("q", d("_id", 0), "u", upsert, "upsert", true), other}),
		"modify": d("findAndModify", "orders", "query", d("_id", 0), "update", upsert, "upsert", true),
	} {
		g := newGround(t, nil)
		direct := wiretest.Dial(t, g.server.Addr())
		for id := range 2 { // behind the proxy, which has no guess
			direct.Run("app_t_acme", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", "acme")}))
		}
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name == "update" || c.Name == "findAndModify" {
				g.server.Handle(nil)
				direct.Run("app_t_acme", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)}))
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", cmd)
		if g.wantHeld(t, "[]", "[0 1]"); t.Failed() {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// An update of many documents that gives them the tenant that they have is one like any other; what would move a
// document is refused, and is done nowhere.
func TestManyKeepTheirTenant(t *testing.T) {
	const moves = "n 0, 0: 66"
	for _, c := range []struct {
		name       string
		q, u       bson.D
		more       bson.D
		want       string
		shared     string // the x of the documents there
		acme       string
		wantUpsert bool
	}{
		{name: "isolated", q: d("_id", 1), u: d("tenantId", "acme", "x", 9), want: "n 1", shared: "[0 2]", acme: "[9 3]"},
		{name: "shared", q: d("_id", 0), u: d("tenantId", "globex", "x", 9), want: "n 1", shared: "[9 2]", acme: "[1 3]"},
		{name: "of several", q: d("_id", d("$in", bson.A{1, 3})), u: d("tenantId", "acme", "x", 9), want: "n 2", shared: "[0 2]", acme: "[9 9]"},
		{name: "by another field", q: d("x", 3), u: d("tenantId", "acme", "x", 9), want: "n 1", shared: "[0 2]", acme: "[1 9]"},
		{name: "none", q: d("_id", 77), u: d("tenantId", "acme", "x", 9), want: "n 0", shared: "[0 2]", acme: "[1 3]"},
		{name: "made", q: d("_id", 77), u: d("tenantId", "acme", "x", 9), more: d("upsert", true), want: "n 1", shared: "[0 2]", acme: "[1 3 9]", wantUpsert: true},
		{name: "within shared", q: d("_id", 2), u: d("tenantId", "globex", "x", 9), want: "n 1", shared: "[0 9]", acme: "[1 3]"},
		{name: "into its own database", q: d("_id", 0), u: d("tenantId", "acme", "x", 9), want: moves, shared: "[0 2]", acme: "[1 3]"},
		{name: "out of its own database", q: d("_id", 1), u: d("tenantId", "globex", "x", 9), want: moves, shared: "[0 2]", acme: "[1 3]"},
		{name: "all", q: d(), u: d("tenantId", "acme", "x", 9), want: moves, shared: "[0 2]", acme: "[1 3]"},
		{name: "or made", q: d("_id", 0), u: d("tenantId", "acme", "x", 9), more: d("upsert", true), want: moves, shared: "[0 2]", acme: "[1 3]"},
		{name: "of tenants", q: d("_id", 1, "tenantId", d("$in", bson.A{"acme", "globex"})), u: d("tenantId", "acme", "x", 9), want: "n 1", shared: "[0 2]", acme: "[9 3]"},
	} {
		for _, two := range []bool{true, false} {
			for _, tx := range []bool{true, false} {
				g := newGround(t, nil)
				if two {
					g = twoClusters(t)
				} else {
					g.big = g.server
				}
				for id, tenant := range []string{"globex", "acme", "initech", "acme"} {
					g.insert(t, id, tenant)
				}
				for id := range 4 {
					g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", id), "u", d("$set", d("x", id)))}))
				}
				direct := wiretest.Dial(t, g.server.Addr()) // what a move has left
				direct.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme", "x", "left"), d("_id", 3, "tenantId", "acme", "x", "left")}))
				cmd := d("update", "orders", "updates", bson.A{append(d("q", c.q, "u", d("$set", c.u), "multi", true), c.more...)})
				if tx {
					cmd = append(cmd, d("lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true)...)
				}
				r := g.client.Run("app", cmd)
				if got := outcomeOf(r); got != c.want || c.wantUpsert != (wiretest.Get(r, "upserted") != nil) {
					t.Errorf("%s, two clusters %v, transaction %v: %s, want %s: %v", c.name, two, tx, got, c.want, r)
				}
				var shared, acme []any
				for _, doc := range g.server.Docs("app", "orders") {
					if x := wiretest.Get(doc, "x"); x != "left" {
						shared = append(shared, x)
					}
				}
				for _, doc := range g.big.Docs("app_t_acme", "orders") {
					acme = append(acme, wiretest.Get(doc, "x"))
				}
				if fmt.Sprint(shared) != c.shared || fmt.Sprint(acme) != c.acme {
					t.Errorf("%s, two clusters %v, transaction %v: shared has %v, acme %v; want %s and %s", c.name, two, tx, shared, acme, c.shared, c.acme)
				}
			}
		}
	}
}

// A document that comes to another home between the look and the write stays as it is.
func TestManyAreNotMovedByARace(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	g.racing(t, func(_ int, server, _ *wiretest.Client) {
		server.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "globex", "x", 0)}))
	})
	r := g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$set", d("tenantId", "acme", "x", 1)), "multi", true)}))
	if got := outcomeOf(r); got != "n 1" || wiretest.Get(g.server.Docs("app", "orders")[0], "tenantId") != "globex" {
		t.Errorf("%v: %v", r, g.server.Docs("app", "orders"))
	}
}

// Where the look for a write's document is refused for what the write itself says, that write has failed and no
// other; for what is of the moment the command fails, so that its retry finds what is done.
func TestSplitLookRefused(t *testing.T) {
	looks := bson.A{
		d("q", d("_id", 0), "u", d("$inc", d("x", 1))),
		d("q", d("n", d("$ne", bson.Regex{Pattern: "a"})), "u", d("$inc", d("x", 1))),
		d("q", d("_id", 1), "u", d("$inc", d("x", 1))),
	}
	for _, c := range []struct {
		name    string
		code    wire.Code
		ordered bool
		tail    bson.D
		want    string
	}{
		{"ordered", 2, true, nil, "n 1, 1: 2"},
		{"unordered", 2, false, nil, "n 2, 1: 2"},
		{"retryable", 2, true, d("lsid", session(1), "txnNumber", int64(1)), "n 1, 1: 2"},
		{"retryable, unordered", 2, false, d("lsid", session(1), "txnNumber", int64(1)), "n 2, 1: 2"},
		{"in a transaction", 2, true, d("lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true), "n 1, 1: 2"},
		{"too slow", 50, true, nil, "n 1, 1: 50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGround(t, nil)
			g.insert(t, 0, "acme")
			g.insert(t, 1, "globex")
			g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
				if cmd.Name == "find" && strings.Contains(fmt.Sprint(cmd.Value("filter")), "$ne") {
					return wiretest.Fail(c.code, "no such filter")
				}
				return wiretest.Pass()
			})
			r := g.client.Run("app", append(d("update", "orders", "updates", looks, "ordered", c.ordered), c.tail...))
			if got := outcomeOf(r); got != c.want {
				t.Errorf("%s, want %s: %v", got, c.want, r)
			}
		})
	}
	t.Run("here", func(t *testing.T) {
		g := newGround(t, nil)
		g.insert(t, 0, "acme")
		near := bson.A{d("q", d("place", d("$near", bson.A{1, 2})), "u", d("$inc", d("x", 1))), looks[0]}
		for ordered, want := range map[bool]string{true: "n 0, 0: 115", false: "n 1, 0: 115"} {
			for _, tail := range []bson.D{nil, d("lsid", session(1), "txnNumber", int64(1))} {
				r := g.client.Run("app", append(d("update", "orders", "updates", near, "ordered", ordered), tail...))
				if got := outcomeOf(r); got != want {
					t.Errorf("ordered %v, %v: %s, want %s: %v", ordered, tail, got, want, r)
				}
			}
		}
	})
	t.Run("alone", func(t *testing.T) {
		g := newGround(t, nil)
		for code, want := range map[wire.Code]string{2: "n 0, 0: 2", 50: "n <nil>"} {
			g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
				if cmd.Name == "find" {
					return wiretest.Fail(code, "no such filter")
				}
				return wiretest.Pass()
			})
			r := g.client.Run("app", d("update", "orders", "updates", looks[1:2]))
			if got := outcomeOf(r); got != want {
				t.Errorf("%d: %s, want %s: %v", code, got, want, r)
			}
		}
	})
}

// Writes of many documents and reads by _id, and reads of a document that is nowhere, leave a transaction to the cluster of the
// documents that are there.
func TestTransactionOfWhatIsThere(t *testing.T) {
	many := func(id int) bson.D { return d("q", d("_id", id), "u", d("$set", d("x", 1)), "multi", true) }
	one := func(id int) bson.D { return d("q", d("_id", id), "u", d("$set", d("x", 1))) }
	named := d("q", d("tenantId", "acme"), "u", d("$set", d("x", 1)), "multi", true)
	updates := func(all ...any) bson.D { return d("update", "orders", "updates", bson.A(all)) }
	for name, c := range map[string]struct {
		cmds []bson.D
		want string // of the last
	}{
		"many, and one of nothing":  {[]bson.D{updates(many(1), many(9))}, "n 1"},
		"of nothing, then many":     {[]bson.D{updates(many(9), many(1))}, "n 1"},
		"one, then many of nothing": {[]bson.D{updates(one(1), many(9))}, "n 1"},
		"one of nothing, then many": {[]bson.D{updates(one(9), many(1))}, "n 1"},
		"named, then of nothing":    {[]bson.D{updates(named, many(9))}, "n 1"},
		"a find of nothing":         {[]bson.D{d("find", "orders", "filter", d("_id", 9)), updates(many(1))}, "n 1"},
		"a list":                    {[]bson.D{d("find", "orders", "filter", d("_id", d("$in", bson.A{1, 9}))), updates(many(1))}, "n 1"},
		"a list, later":             {[]bson.D{updates(one(1)), d("find", "orders", "filter", d("_id", d("$in", bson.A{9, 1}))), updates(many(1))}, "n 1"},
		"a list of nothing":         {[]bson.D{d("find", "orders", "filter", d("_id", d("$in", bson.A{8, 9}))), updates(many(1))}, "n 1"},
		"many of a list":            {[]bson.D{updates(d("q", d("_id", d("$in", bson.A{1, 9})), "u", d("$set", d("x", 1)), "multi", true))}, "n 1"},
		"a list of two clusters":    {[]bson.D{d("find", "orders", "filter", d("_id", d("$in", bson.A{1, 2})))}, "263"},
		"a count of nothing":        {[]bson.D{d("count", "orders", "query", d("_id", 9)), updates(one(1))}, "n 1"},
		"a find, then of nothing":   {[]bson.D{d("find", "orders", "filter", d("_id", 1)), updates(many(9))}, "n 0"},
		"two clusters":              {[]bson.D{updates(many(1), many(2))}, "263"},
		"two clusters, later":       {[]bson.D{updates(many(1)), updates(many(2))}, "263"},
	} {
		t.Run(name, func(t *testing.T) {
			g := twoClusters(t)
			g.insert(t, 1, "acme") // on big
			g.insert(t, 2, "globex")
			var r bson.D
			for i, cmd := range c.cmds {
				cmd = append(append(bson.D{}, cmd...), d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)...)
				if i == 0 {
					cmd = append(cmd, d("startTransaction", true)...)
				}
				if r = g.client.Run("app", cmd); i < len(c.cmds)-1 && wiretest.Get(r, "ok") != 1.0 {
					t.Fatalf("%v: %v", cmd, r)
				}
			}
			got := outcomeOf(r)
			if code := wiretest.Get(r, "code"); code != nil {
				got = fmt.Sprint(code)
			}
			if got != c.want {
				t.Errorf("%s, want %s: %v", got, c.want, r)
			}
			if c.want == "263" {
				return
			}
			if r = g.client.Run("admin", d("commitTransaction", 1, "lsid", session(1), "txnNumber", int64(1), "autocommit", false)); wiretest.Get(r, "ok") != 1.0 {
				t.Errorf("commit: %v", r)
			}
		})
	}
}

// The first document of all by a sort is not taken from a transaction's own cluster where another one's comes
// before it: no part of the transaction can be there.
func TestTransactionTakesNoSecond(t *testing.T) {
	for theirs, want := range map[int]any{3: int32(263), 9: nil} {
		g := twoClusters(t)
		g.insert(t, 1, "globex")
		answer := func(id, key int, tenant string) func(wiretest.Command) wiretest.Reply {
			return func(c wiretest.Command) wiretest.Reply {
				if c.Name == "findAndModify" {
					return wiretest.OK(d("lastErrorObject", d("n", 1), "value", d("_id", 1))...)
				}
				if c.Name == "find" && c.Value("sort") != nil {
					return wiretest.Cursor(c.DB+".orders", 0, true, d("_id", id, "tenantId", tenant, sortKey, bson.A{key}))
				}
				return wiretest.Pass()
			}
		}
		g.server.Handle(answer(1, 5, "globex"))
		g.big.Handle(answer(2, theirs, "acme"))
		in := func(cmd bson.D, start ...any) bson.D {
			return g.client.Run("app", append(append(cmd, d("lsid", session(3), "txnNumber", int64(1), "autocommit", false)...), d(start...)...))
		}
		in(d("find", "orders", "filter", d("tenantId", "globex")), "startTransaction", true)
		r := in(d("findAndModify", "orders", "query", d(), "sort", d("n", 1), "remove", true))
		if wiretest.Get(r, "code") != want || len(g.big.Commands("findAndModify")) != 0 {
			t.Errorf("where another cluster's key is %d: %v", theirs, r)
		}
	}
}

// An upsert that is sent again is sent as it was: a server takes another command for no retry of it.
func TestUpsertAgain(t *testing.T) {
	change := d("$inc", d("x", 1), "$setOnInsert", d("tenantId", "acme"))
	for name, cmd := range map[string]bson.D{
		"findAndModify": d("findAndModify", "orders", "query", d("y", 61), "update", change, "upsert", true),
		"update":        d("update", "orders", "updates", bson.A{d("q", d("y", 61), "u", change, "upsert", true)}),
	} {
		g := newGround(t, nil)
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			switch c.Name {
			case "findAndModify":
				return wiretest.OK(d("lastErrorObject", d("n", 1, "updatedExisting", false, "upserted", 5), "value", nil)...)
			case "update":
				return wiretest.OK(d("n", 1, "nModified", 0, "upserted", bson.A{d("index", 0, "_id", 5)})...)
			}
			return wiretest.Pass()
		})
		for range 2 {
			g.client.Run("app", append(cmd[:len(cmd):len(cmd)], d("lsid", session(1), "txnNumber", int64(1))...))
		}
		sent := g.server.Commands(name)
		if len(sent) != 2 || string(sent[0].Body) != string(sent[1].Body) || sent[0].DB != "app_t_acme" {
			t.Errorf("%s: %d are sent: %v", name, len(sent), sent)
		}
	}
}

// Writes that name tenants of different homes are each looked for where those are.
func TestSplitLooksForEach(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		g := newGround(t, nil)
		g.router.Publish(tableOf(t, 2, func(s *routing.Spec) {
			s.Tenants = append(s.Tenants, routing.TenantSpec{ID: wire.StringValue("beta"), Key: "beta", Num: 3, Route: &routing.RouteSpec{Cluster: "home", Collections: []string{"orders"}}})
		}))
		g.insert(t, 1, "acme")
		g.insert(t, 2, "beta")
		of := func(id int, tenants ...any) bson.D {
			return d("q", d("_id", id, "tenantId", d("$in", bson.A(tenants))), "u", d("$inc", d("x", 1)))
		}
		r := g.client.Run("app", d("update", "orders", "updates", bson.A{of(1, "acme", "globex"), of(2, "beta", "globex")}, "ordered", ordered))
		if got := outcomeOf(r); got != "n 2" {
			t.Errorf("ordered %v: %s: %v", ordered, got, r)
		}
	}
}

// An ordered batch ends with its first error, also where writes that find nothing go to several homes at once.
func TestSplitOfNothingFails(t *testing.T) {
	for ordered, want := range map[bool]string{true: "n 0, 0: 9", false: "n 0, 0: 9, 1: 9"} {
		g := newGround(t, nil)
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name != "update" {
				return wiretest.Pass()
			}
			errs := bson.A{}
			for i := range c.Docs("updates") {
				if errs = append(errs, d("index", i, "code", 9, "errmsg", "Unknown modifier: $bad")); c.Value("ordered") != false {
					break
				}
			}
			return wiretest.OK(d("n", 0, "nModified", 0, "writeErrors", errs)...)
		})
		bad := func(id int) bson.D { return d("q", d("_id", id), "u", d("$bad", d("x", 1))) }
		r := g.client.Run("app", d("update", "orders", "updates", bson.A{bad(1), bad(2)}, "ordered", ordered, "lsid", session(1), "txnNumber", int64(1)))
		if got := outcomeOf(r); got != want {
			t.Errorf("ordered %v: %s: %v", ordered, got, r)
		}
	}
}

// A write alone in its batch is looked for where a guess was wrong, whether or not the batch is ordered.
func TestGuessAlone(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		for name, cmd := range map[string]bson.D{
			"update": d("update", "orders", "updates", bson.A{d("q", d("_id", 0), "u", d("$set", d("x", 2)))}, "ordered", ordered),
			"delete": d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)}, "ordered", ordered),
		} {
			if got := outcomeOf(learnt(t).client.Run("app", cmd)); got != "n 1" {
				t.Errorf("%s, ordered %v: %s", name, ordered, got)
			}
		}
	}
}
