package proxy

import (
	"fmt"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// TestVectorSearch: each home brings its best with their scores, and a server puts them together.
func TestVectorSearch(t *testing.T) {
	g := twoClusters(t)
	search := d("$vectorSearch", d("index", "v", "path", "e", "queryVector", bson.A{1.0}, "limit", 2))
	g.server.Once("aggregate", wiretest.Cursor("app.orders", 0, true, d("_id", 1, "__tenantry_score", 0.5)))
	g.big.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 0, true, d("_id", 2, "__tenantry_score", 0.9)))
	g.server.Once("aggregate", wiretest.Cursor("app.$cmd.aggregate", 0, true, d("_id", 2, "score", 0.9), d("_id", 1, "score", 0.5)))
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{search, d("$project", d("score", d("$meta", "vectorSearchScore")))}, "cursor", d()))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 2 || wiretest.Get(r, "cursor", "ns") != "app.orders" {
		t.Fatalf("%v", r)
	}
	sent := g.server.Commands("aggregate")
	if text := fmt.Sprint(sent[0].Value("pipeline")); !strings.Contains(text, `"filter":{"tenantId":{"$nin"`) {
		t.Errorf("shared searches what has moved: %s", text)
	}
	rest := fmt.Sprint(sent[1].Value("pipeline"))
	for _, want := range []string{"$documents", `"score":"$__tenantry_score"`, `{"$limit":{"$numberLong":"2"}}`, `{"$unset":"__tenantry_score"}`} {
		if !strings.Contains(rest, want) {
			t.Errorf("the rest lacks %s: %s", want, rest)
		}
	}
	if len(g.big.Commands("aggregate")) != 1 {
		t.Error("acme's home was asked more than once")
	}
}
