package proxy

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// bulks makes the servers answer each bulkWrite with these rows, the first of them in its first batch,
// and counters.
func (g *ground) bulks(rows func(db string) []bson.D, counts bson.D) {
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		names, _ := c.Value("nsInfo").(bson.A)
		if len(names) == 0 {
			for _, doc := range c.Docs("nsInfo") {
				names = append(names, wiretest.Decode(doc))
			}
		}
		var all []bson.D
		if len(names) > 0 {
			all = rows(wiretest.Get(names[0].(bson.D), "ns").(string))
		}
		switch {
		case c.Name == "bulkWrite" && len(all) > 1:
			cursor := d("firstBatch", bson.A{all[0]}, "id", int64(9), "ns", "admin.$cmd.bulkWrite")
			return wiretest.OK(append(counts, bson.E{Key: "cursor", Value: cursor})...)
		case c.Name == "bulkWrite":
			cursor := d("firstBatch", bson.A{all[0]}, "id", int64(0), "ns", "admin.$cmd.bulkWrite")
			return wiretest.OK(append(counts, bson.E{Key: "cursor", Value: cursor})...)
		case c.Name == "getMore":
			return wiretest.OK(d("cursor", d("nextBatch", bson.A{d("ok", 1.0, "idx", 1, "n", 1)}, "id", int64(0), "ns", "admin.$cmd.bulkWrite"))...)
		}
		return wiretest.Pass()
	})
}

// The rows of a part in a transaction are read inside of it.
func TestBulkInTransaction(t *testing.T) {
	g := newGround(t, nil)
	g.bulks(func(string) []bson.D { return []bson.D{d("ok", 1.0, "idx", 0, "n", 1), d("ok", 1.0, "idx", 1, "n", 1)} }, d("nInserted", 2))
	insert := func(tenant string) bson.D { return d("insert", 0, "document", d("tenantId", tenant)) }
	r := g.client.Run("admin", d("bulkWrite", 1, "ops", bson.A{insert("acme"), insert("acme"), insert("globex"), insert("globex")},
		"nsInfo", bson.A{d("ns", "app.orders")}, "cursor", d("batchSize", 1), "lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true))
	if wiretest.Get(r, "nInserted") != int32(4) {
		t.Errorf("%v", r)
	}
	for _, c := range g.server.Commands("getMore") {
		if n, ok := c.Int("txnNumber"); !ok || n != 1 || c.Value("autocommit") != false {
			t.Errorf("read outside of it: %v", c.D())
		}
	}
}

// A write that has failed in a home has failed, once, and not also been made.
func TestBulkFailsOnce(t *testing.T) {
	bad := d("ok", 0.0, "idx", 0, "code", 9, "errmsg", "no", "n", 0)
	for name, failed := range map[string][]string{"one": {"app.orders"}, "both": {"app.orders", "app_t_acme.orders"}} {
		g := newGround(t, nil)
		g.bulks(func(ns string) []bson.D {
			for _, f := range failed {
				if f == ns {
					return []bson.D{bad}
				}
			}
			return []bson.D{d("ok", 1.0, "idx", 0, "n", 1, "nModified", 1)}
		}, d("nErrors", 1))
		r := g.client.Run("admin", d("bulkWrite", 1, "ops", bson.A{d("update", 0, "filter", d(), "multi", true, "updateMods", d("$set", d("x", 1)))},
			"nsInfo", bson.A{d("ns", "app.orders")}))
		rows, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		if len(rows) != 1 || wiretest.Get(rows[0].(bson.D), "ok") != 0.0 || wiretest.Get(r, "nErrors") != int32(1) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// What servers had done before is told by the numbers that the client's writes have.
func TestBulkRetried(t *testing.T) {
	for _, given := range []bson.D{nil, d("stmtIds", bson.A{4, 5, 6})} {
		g := newGround(t, nil)
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name != "bulkWrite" {
				return wiretest.Pass()
			}
			cursor := d("firstBatch", bson.A{d("ok", 1.0, "idx", 0, "n", 1)}, "id", int64(0), "ns", "admin.$cmd.bulkWrite")
			return wiretest.OK(d("cursor", cursor, "nInserted", 1, "retriedStmtIds", c.Value("stmtIds"))...)
		})
		insert := func(tenant string) bson.D { return d("insert", 0, "document", d("tenantId", tenant)) }
		r := g.client.Run("admin", append(d("bulkWrite", 1, "ops", bson.A{insert("acme"), insert("globex"), insert("acme")},
			"nsInfo", bson.A{d("ns", "app.orders")}, "lsid", session(1), "txnNumber", int64(1), "ordered", false), given...))
		want := "[0 1 2]"
		if given != nil {
			want = "[4 5 6]"
		}
		if got := fmt.Sprint(wiretest.Get(r, "retriedStmtIds")); got != want {
			t.Errorf("got %s, want %s: %v", got, want, r)
		}
	}
}
