package proxy

import (
	"fmt"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// operating is a server that says these operations are under way, and notes which are to be ended.
func operating(s *wiretest.Server, killed *[]any, ops ...any) {
	s.Handle(func(c wiretest.Command) wiretest.Reply {
		switch c.Name {
		case "currentOp":
			return wiretest.Doc(d("inprog", bson.A(ops), "ok", 1.0))
		case "killOp":
			*killed = append(*killed, c.Value("op"))
			return wiretest.OK(bson.E{Key: "info", Value: "attempting to kill op"})
		case "aggregate": // $documents and what is to be made of them
			stages, _ := c.Value("pipeline").(bson.A)
			rows, _ := wiretest.Get(stages[0].(bson.D), "$documents").(bson.A)
			var docs []any
			for _, row := range rows {
				if doc := wiretest.Get(row.(bson.D), "$literal").(bson.D); wiretest.Get(doc, "ns") == "app.orders" {
					docs = append(docs, doc)
				}
			}
			return wiretest.Cursor("admin.$cmd.aggregate", 0, true, docs...)
		}
		return wiretest.Pass()
	})
}

// What the clusters' servers do is told under the names that clients know, without a word of servers, and
// can be ended by what is told.
func TestOperations(t *testing.T) {
	g := twoClusters(t)
	var atHome, atBig []any
	operating(g.server, &atHome,
		d("opid", int32(7), "host", "h1:27017", "client", "10.0.0.1:4", "ns", "app.orders", "op", "query", "command", d("find", "orders", "$db", "app")),
		d("opid", int32(8), "ns", "tenantry.routes", "op", "query"),
		d("opid", int32(9), "ns", "", "op", "command", "command", d("ping", 1, "$db", "tenantry")))
	operating(g.big, &atBig,
		d("opid", int32(7), "ns", "app_t_acme.orders", "op", "getmore", "cursor", d("originatingCommand", d("find", "orders", "$db", "app_t_acme"))),
		d("opid", "s1:44", "ns", "app_t_acme.orders", "op", "update", "effectiveUsers", bson.A{d("user", "proxy", "db", "admin")}))

	r := g.client.Run("admin", d("currentOp", 1, "$all", true))
	rows, _ := wiretest.Get(r, "inprog").(bson.A)
	var ids []any
	for _, row := range rows {
		ids = append(ids, wiretest.Get(row.(bson.D), "opid"))
	}
	if got := fmt.Sprint(ids); got != "[big:7 big:s1:44 home:7]" {
		t.Errorf("the operations %s: %v", got, r)
	}
	for _, no := range []string{"app_t_acme", "h1:27017", "10.0.0.1", "effectiveUsers", "tenantry"} {
		if strings.Contains(fmt.Sprint(r), no) {
			t.Errorf("%q is told: %v", no, r)
		}
	}
	for _, c := range append(g.server.Commands("currentOp"), g.big.Commands("currentOp")...) {
		if c.Value("$all") != true {
			t.Errorf("a server is asked %v", wiretest.Decode(c.Body))
		}
	}

	filtered := []bson.D{
		g.client.Run("admin", d("currentOp", 1, "ns", "app.orders")),
		g.client.Run("admin", d("aggregate", 1, "pipeline", bson.A{d("$currentOp", d("allUsers", true)), d("$match", d("ns", "app.orders"))}, "cursor", d())),
	}
	if rows, _ := wiretest.Get(filtered[0], "inprog").(bson.A); len(rows) != 3 {
		t.Errorf("by a filter: %v", filtered[0])
	}
	if rows, _ := wiretest.Get(filtered[1], "cursor", "firstBatch").(bson.A); len(rows) != 3 {
		t.Errorf("by a stage: %v", filtered[1])
	}
	for _, c := range g.server.Commands("currentOp") {
		if c.Value("ns") != nil {
			t.Error("a server is given the filter, which is about other names")
		}
	}

	for _, id := range ids {
		if r := g.client.Run("admin", d("killOp", 1, "op", id)); wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("killOp of %v: %v", id, r)
		}
	}
	if got := fmt.Sprint(atHome, atBig); got != "[7] [7 s1:44]" {
		t.Errorf("ended %s", got)
	}
	for _, id := range []any{int32(7), "7", "elsewhere:7"} {
		if r := g.client.Run("admin", d("killOp", 1, "op", id)); wiretest.Get(r, "code") != int32(2) {
			t.Errorf("killOp of %v: %v", id, r)
		}
	}
	if r := g.client.Run("app", d("currentOp", 1)); wiretest.Get(r, "code") != int32(13) {
		t.Errorf("on another database: %v", r)
	}
}
