package proxy

import (
	"net"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// boundTo opens a listener for one tenant, which its own database bounds, and returns a client of it.
func (g *ground) boundTo(t *testing.T, tenant string) *wiretest.Client {
	t.Helper()
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) {
		s.Collections, s.Platform = []string{"*"}, nil
		s.Tenants[0].Route.Collections = []string{"*"}
	}))
	const name = "bound"
	s := *g.proxy.settings.Load()
	s.listeners = map[string]*config.Listener{name: {Address: name, Tenant: tenant, Isolation: "database", Access: "owner"}}
	g.proxy.settings.Store(&s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.proxy.Serve(l, name)
	return wiretest.Dial(t, l.Addr().String())
}

// TestNamesInRows: rows that servers make name the database that the client knows, in the first
// batch and in those that follow; rows of documents stay as they are.
func TestNamesInRows(t *testing.T) {
	g := newGround(t, nil)
	client := g.boundTo(t, "acme")
	event := func(id int) bson.D {
		return d("_id", d("_data", "82"), "operationType", "insert", "ns", d("db", "app_t_acme", "coll", "orders"),
			"documentKey", d("_id", id), "fullDocument", d("_id", id, "ns", "app_t_acme.orders"))
	}
	for name, cmd := range map[string]bson.D{
		"collStats":       d("aggregate", "orders", "pipeline", bson.A{d("$collStats", d("count", d()))}, "cursor", d()),
		"listIndexes":     d("listIndexes", "orders"),
		"listCollections": d("listCollections", 1),
	} {
		command := cmd[0].Key
		g.server.Once(command, wiretest.Cursor("app_t_acme.orders", 77, true, event(1), d("ns", "app_t_acme.orders")))
		g.server.Once("getMore", wiretest.Cursor("app_t_acme.orders", 0, false, event(2)))
		first := client.Run("app", cmd)
		next := client.Run("app", d("getMore", wiretest.Get(first, "cursor", "id"), "collection", "orders"))
		for _, r := range []bson.D{first, next} {
			text := bson.Raw(wiretest.D(r)).String()
			if strings.Count(text, "app_t_acme") != 1 || !strings.Contains(text, `"db": "app"`) { // the document's own
				t.Errorf("%s: %s", name, text)
			}
		}
	}
	g.server.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 0, true, d("ns", "app_t_acme.orders")))
	r := client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$match", d())}, "cursor", d()))
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if len(docs) != 1 || wiretest.Get(docs[0].(bson.D), "ns") != "app_t_acme.orders" {
		t.Errorf("a document was changed: %v", r)
	}
}

// TestParameters: who asks for every parameter gets those that there are.
func TestParameters(t *testing.T) {
	g := newGround(t, nil)
	client := g.boundTo(t, "acme")
	r := client.Run("admin", d("getParameter", "*"))
	if wiretest.Get(r, "featureCompatibilityVersion", "version") == nil || wiretest.Get(r, "authenticationMechanisms") == nil {
		t.Errorf("all parameters: %v", r)
	}
	if r = client.Run("admin", d("getParameter", 1, "logLevel", 1)); wiretest.Get(r, "code") == nil {
		t.Errorf("a parameter that is not offered: %v", r)
	}
}
