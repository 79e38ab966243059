package proxy

import (
	"fmt"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// The plans of several homes stand side by side, as a mongos shows them, and name no server and no
// database of a tenant.
func TestPlans(t *testing.T) {
	g := twoClusters(t)
	plan := func(db string, ms int, more ...bson.E) wiretest.Reply {
		executed := d("executionSuccess", true, "nReturned", 2, "executionTimeMillis", ms, "totalKeysExamined", 3, "totalDocsExamined", 4, "executionStages", d("stage", "FETCH"))
		return wiretest.OK(d(
			"explainVersion", "1",
			"queryPlanner", d("namespace", db+".orders", "winningPlan", append(d("stage", "COLLSCAN"), more...)),
			"executionStats", executed, "command", d("find", "orders", "$db", db), "serverInfo", d("host", "secret.example"),
		)...)
	}
	g.server.Once("explain", plan("app", 5))
	g.big.Once("explain", plan("app_t_acme", 7, bson.E{Key: "shards", Value: bson.A{d("connectionString", "secret:1", "serverInfo", d("host", "secret"), "namespace", "app_t_acme.orders")}}))
	r := g.client.Run("app", d("explain", d("find", "orders", "filter", d("host", "x")), "verbosity", "executionStats"))
	text := fmt.Sprint(r)
	for _, hidden := range []string{"secret", "app_t_acme", "serverInfo"} {
		if strings.Contains(text, hidden) {
			t.Errorf("it tells %q: %s", hidden, text)
		}
	}
	winner, _ := wiretest.Get(r, "queryPlanner", "winningPlan").(bson.D)
	if wiretest.Get(winner, "stage") != "SHARD_MERGE" {
		t.Errorf("the plan is %v", r)
	}
	shards, _ := wiretest.Get(winner, "shards").(bson.A)
	if len(shards) != 2 {
		t.Fatalf("%d homes: %v", len(shards), r)
	}
	for i, name := range []string{"shared", "tenant:acme"} {
		if s, _ := shards[i].(bson.D); wiretest.Get(s, "shardName") != name || wiretest.Get(s, "namespace") != "app.orders" || wiretest.Get(s, "winningPlan", "stage") != "COLLSCAN" {
			t.Errorf("home %d: %v", i, s)
		}
	}
	stats, _ := wiretest.Get(r, "executionStats").(bson.D)
	for key, want := range map[string]any{"nReturned": int32(4), "executionTimeMillis": int32(7), "totalDocsExamined": int32(8)} {
		if got := wiretest.Get(stats, key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if wiretest.Get(r, "command", "filter", "host") != "x" || wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("the command is not the client's: %v", r)
	}
	sent := g.server.Commands("explain")[0]
	if got := fmt.Sprint(sent.Value("explain")); !strings.Contains(got, "$nin") {
		t.Errorf("shared explains %s, which is not what a find runs there", got)
	}
}

// The plan of a tenant's own database names neither it nor its server.
func TestPlanOfOneHome(t *testing.T) {
	for _, cmd := range []bson.D{
		d("explain", d("find", "orders", "filter", d("tenantId", "acme", "host", "x"))),
		d("aggregate", "orders", "pipeline", bson.A{d("$match", d("tenantId", "acme", "host", "x"))}, "cursor", d(), "explain", true),
	} {
		g := newGround(t, nil)
		shard := d("shardName", "one", "connectionString", "secret:1", "serverInfo", d("host", "secret"), "namespace", "app_t_acme.orders")
		g.server.Once(cmd[0].Key, wiretest.OK(d("explainVersion", "1",
			"queryPlanner", d("namespace", "app_t_acme.orders", "parsedQuery", d("host", "x"), "winningPlan", d("stage", "SINGLE_SHARD", "shards", bson.A{shard})),
			"command", d("find", "orders", "$db", "app_t_acme"), "serverInfo", d("host", "secret.example", "port", 1),
			"serverParameters", d("secret", 1))...))
		r := g.client.Run("app", cmd)
		for _, hidden := range []string{"secret", "app_t_acme", "serverInfo"} {
			if text := fmt.Sprint(r); strings.Contains(text, hidden) {
				t.Errorf("it tells %q: %s", hidden, text)
			}
		}
		if wiretest.Get(r, "queryPlanner", "parsedQuery", "host") != "x" || wiretest.Get(r, "queryPlanner", "namespace") != "app.orders" {
			t.Errorf("got %v", r)
		}
	}
}

// A write is explained where it would look, and nothing is written.
func TestPlansOfWrites(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "acme")
	for range 2 {
		g.server.Once("explain", wiretest.OK(bson.E{Key: "queryPlanner", Value: d("winningPlan", d("stage", "UPDATE"))}))
	}
	r := g.client.Run("app", d("explain", d("update", "orders", "updates", bson.A{d("q", d("x", 1), "u", d("$set", d("y", 1)))})))
	if shards, _ := wiretest.Get(r, "queryPlanner", "winningPlan", "shards").(bson.A); len(shards) != 2 {
		t.Errorf("%v", r)
	}
	if len(g.server.Commands("update")) > 0 {
		t.Error("an explain wrote")
	}
}

// What each home explains of a write is what the home would get of it.
func TestPlansOfNarrowedWrites(t *testing.T) {
	bulk := func(op bson.D) bson.D {
		return d("bulkWrite", 1, "ops", bson.A{op}, "nsInfo", bson.A{d("ns", "app.orders")})
	}
	both := d("tenantId", d("$in", bson.A{"acme", "globex"}))
	for _, c := range []struct {
		name         string
		db           string
		cmd          bson.D
		shared, acme string // of what they are sent; "" where they are sent nothing
	}{
		{
			"bulkWrite", "admin", bulk(d("update", 0, "filter", d("x", 1), "updateMods", d("$set", d("y", 1)), "multi", true)),
			`{"ns": "app.orders"} $nin`, `{"ns": "app_t_acme.orders"} "filter": {"x": {"$numberInt":"1"}}`,
		},
		{"bulkWrite of one tenant", "admin", bulk(d("delete", 0, "filter", d("tenantId", "acme"))), "", `{"ns": "app_t_acme.orders"}`},
		{"bulkWrite of two tenants", "admin", bulk(d("delete", 0, "filter", both, "multi", true)), `{"tenantId": "globex"}`, `{"tenantId": "acme"}`},
		{
			"update of two tenants", "app", d("update", "orders", "updates", bson.A{d("q", both, "u", d("$set", d("y", 1)), "multi", true)}),
			`{"tenantId": "globex"}`, `{"tenantId": "acme"} "update": "orders"`,
		},
		{"findAndModify of two tenants", "app", d("findAndModify", "orders", "query", both, "remove", true), `{"tenantId": "globex"}`, `{"tenantId": "acme"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := twoClusters(t)
			homes := 0
			for server, want := range map[*wiretest.Server]string{g.server: c.shared, g.big: c.acme} {
				if want != "" {
					homes++
					server.Once("explain", wiretest.OK(bson.E{Key: "queryPlanner", Value: d("winningPlan", d("stage", "UPDATE"))}))
				}
			}
			r := g.client.Run(c.db, d("explain", c.cmd))
			shards, _ := wiretest.Get(r, "queryPlanner", "winningPlan", "shards").(bson.A)
			if homes > 1 && len(shards) != homes || homes == 1 && wiretest.Get(r, "queryPlanner", "winningPlan", "stage") != "UPDATE" {
				t.Errorf("%v", r)
			}
			for server, want := range map[*wiretest.Server]string{g.server: c.shared, g.big: c.acme} {
				got := ""
				for _, sent := range server.Commands("explain") {
					got += bson.Raw(sent.Body).String()
				}
				for _, part := range strings.Fields(strings.ReplaceAll(want, ": ", ":")) {
					if !strings.Contains(strings.ReplaceAll(got, ": ", ":"), part) {
						t.Errorf("%s is not in %s", part, got)
					}
				}
				if want == "" && got != "" {
					t.Errorf("asked for %s", got)
				}
			}
		})
	}
}

// An error of one home is the answer.
func TestPlansFail(t *testing.T) {
	g := twoClusters(t)
	g.server.Once("explain", wiretest.OK(bson.E{Key: "queryPlanner", Value: d()}))
	g.big.Once("explain", wiretest.Fail(2, "bad hint on app_t_acme.orders"))
	r := g.client.Run("app", d("explain", d("count", "orders")))
	if text := fmt.Sprint(r); wiretest.Get(r, "code") != int32(2) || strings.Contains(text, "app_t_acme") {
		t.Errorf("%v", r)
	}
}

// TestPipelinePlans: of a pipeline that no database runs whole it is told where it is cut, and how each home
// reads its part.
func TestPipelinePlans(t *testing.T) {
	command := d("aggregate", "orders", "pipeline", bson.A{
		d("$match", d("a", 1)), d("$group", d("_id", "$x", "n", d("$sum", 1))), d("$sort", d("n", -1)),
	}, "cursor", d(), "hint", "a_1")
	for verbosity, asked := range map[string]bson.D{
		"queryPlanner":   append(command[:len(command):len(command)], bson.E{Key: "explain", Value: true}),
		"executionStats": d("explain", command, "verbosity", "executionStats"),
	} {
		g := twoClusters(t)
		plan := func(db string, more bson.E) wiretest.Reply {
			return wiretest.OK(append(d("explainVersion", "1", "serverInfo", d("host", "secret.example"), "command", d("aggregate", "orders", "$db", db)), more)...)
		}
		g.server.Once("explain", plan("app", bson.E{Key: "queryPlanner", Value: d("namespace", "app.orders", "winningPlan", d("stage", "GROUP"))}))
		g.big.Once("explain", plan("app_t_acme", bson.E{Key: "stages", Value: bson.A{
			d("$cursor", d("queryPlanner", d("namespace", "app_t_acme.orders", "winningPlan", d("stage", "COLLSCAN")))), d("$group", d("_id", "$x")),
		}}))
		r := g.client.Run("app", asked)
		text := fmt.Sprint(r)
		for _, hidden := range []string{"secret", "app_t_acme", "serverInfo"} {
			if strings.Contains(text, hidden) {
				t.Errorf("it tells %q: %s", hidden, text)
			}
		}
		part := func(name string) string {
			stages, _ := wiretest.Get(r, "splitPipeline", name).(bson.A)
			var names []string
			for _, s := range stages {
				names = append(names, s.(bson.D)[0].Key)
			}
			return strings.Join(names, " ")
		}
		if wiretest.Get(r, "mergeType") != "primaryShard" || part("shardsPart") != "$match $group" || part("mergerPart") != "$group $sort" {
			t.Errorf("it is cut into %q and %q: %s", part("shardsPart"), part("mergerPart"), text)
		}
		if wiretest.Get(r, "shards", "shared", "queryPlanner", "winningPlan", "stage") != "GROUP" {
			t.Errorf("shared's plan: %s", text)
		}
		if stages, _ := wiretest.Get(r, "shards", "tenant:acme", "stages").(bson.A); len(stages) == 0 {
			t.Errorf("acme's plan: %s", text)
		}
		if wiretest.Get(r, "command", "aggregate") != "orders" || wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("%s", text)
		}
		sent := g.server.Commands("explain")[0]
		if sent.Value("verbosity") != verbosity || sent.Value("explain", "hint") != "a_1" || !strings.Contains(fmt.Sprint(sent.Value("explain", "pipeline")), "$nin") {
			t.Errorf("shared explains %v", sent.D())
		}
		if sent := g.big.Commands("explain")[0]; sent.Value("$db") != "app_t_acme" || len(g.big.Commands("aggregate"))+len(g.server.Commands("aggregate")) > 0 {
			t.Errorf("acme's home explains %v", sent.D())
		}
	}
}

// TestPlanOfAJoin: a pipeline of one tenant that is joined in shared has one part, and a rest.
func TestPlanOfAJoin(t *testing.T) {
	g := twoClusters(t)
	g.big.Once("explain", wiretest.OK(bson.E{Key: "queryPlanner", Value: d("namespace", "app_t_acme.orders")}))
	r := g.client.Run("app", d("explain", d("aggregate", "orders", "pipeline", bson.A{
		d("$match", d("tenantId", "acme")), d("$lookup", d("from", "users", "localField", "u", "foreignField", "_id", "as", "u")), d("$unionWith", d("coll", "orders")),
	}, "cursor", d())))
	stages, _ := wiretest.Get(r, "splitPipeline", "mergerPart").(bson.A)
	if len(stages) != 2 || wiretest.Get(r, "shards", "tenant:acme", "queryPlanner", "namespace") != "app.orders" || wiretest.Get(r, "shards", "shared") != nil {
		t.Errorf("%v", r)
	}
	g.big.Once("explain", wiretest.Fail(2, "bad hint on app_t_acme.orders"))
	r = g.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$match", d("tenantId", "acme")), d("$unionWith", "users")}, "explain", true))
	if text := fmt.Sprint(r); wiretest.Get(r, "code") != int32(2) || strings.Contains(text, "app_t_acme") {
		t.Errorf("%v", r)
	}
}

// TestPlansOfPipelineLikeFind: a pipeline that servers read as a find has plans like one.
func TestPlansOfPipelineLikeFind(t *testing.T) {
	command := d("aggregate", "orders", "pipeline", bson.A{d("$match", d("a", 1))}, "cursor", d())
	for _, asked := range []bson.D{
		append(command[:len(command):len(command)], bson.E{Key: "explain", Value: true}),
		d("explain", command),
	} {
		g := twoClusters(t)
		for server, db := range map[*wiretest.Server]string{g.server: "app", g.big: "app_t_acme"} {
			server.Once("explain", wiretest.OK(bson.E{Key: "queryPlanner", Value: d("namespace", db+".orders", "winningPlan", d("stage", "COLLSCAN"))}))
		}
		r := g.client.Run("app", asked)
		winner, _ := wiretest.Get(r, "queryPlanner", "winningPlan").(bson.D)
		shards, _ := wiretest.Get(winner, "shards").(bson.A)
		if wiretest.Get(winner, "stage") != "SHARD_MERGE" || len(shards) != 2 || wiretest.Get(r, "command", "aggregate") != "orders" {
			t.Errorf("%v: %v", asked, r)
		}
	}
}
