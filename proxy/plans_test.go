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
