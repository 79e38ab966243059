package control

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

// A field that documents have not been told apart by would leave what a tenant has written, and what
// it writes meanwhile, in different databases.
func TestTenantFieldOfMoved(t *testing.T) {
	named := func(coll, field string) func(*config.Config) {
		return func(c *config.Config) {
			c.Routing.TenantFields = maps.Clone(c.Routing.TenantFields)
			c.Routing.TenantFields[coll] = field
		}
	}
	for _, test := range []struct {
		name string
		edit func(*config.Config)
		want string // "" where it is loaded
	}{
		{"of all", func(c *config.Config) { c.Routing.TenantField = "tenantID" }, `"app.order_items" by the tenant field "tenantId", and the configuration says "tenantID"`},
		{"of one", named("orders", "company.id"), `"app.orders" by the tenant field "tenantId", and the configuration says "company.id"`},
		{"of one with its database", named("app.orders", "company.id"), `"app.orders"`},
		{"of one of a pattern", named("file_chunks", "company.id"), `"app.file_chunks"`},
		{"of one that has not moved", named("special", "company"), ""},
		{"of all, said of each", func(c *config.Config) {
			c.Routing.TenantField = "tenantID"
			for _, coll := range []string{"orders", "order_items", "file_chunks"} {
				named(coll, "tenantId")(c)
			}
		}, `"app.file_*"`},
		{"the same, said of one", named("orders", "tenantId"), ""},
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, older route %t", test.name, old), func(t *testing.T) {
				home := newServer()
				h := open(t, home, newServer())
				h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
				h.mustResolve(t, "acme")
				if h.database("acme", "orders") != "app_acme" {
					t.Fatal(h.status1(t, "acme"))
				}
				if old {
					forgetFields(t, home)
				}
				h = open(t, home, newServer())
				h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
				table := h.router.Current()
				cfg := testConfig("mixed", fileTenant("acme", modeOwn))
				test.edit(cfg)
				err := h.Apply(context.Background(), cfg)
				if refused := err != nil && strings.Contains(err.Error(), test.want); refused != (test.want != "") {
					t.Error(err)
				}
				if test.want != "" && h.router.Current() != table {
					t.Error("the table changed")
				}
				// A process that begins knows what the route says, and nothing else.
				err = open(t, home, newServer()).Apply(context.Background(), cfg)
				if refused := err != nil; refused != (test.want != "" && !old) {
					t.Error(err)
				}
			})
		}
	}
}

// forgetFields makes the routes those of a version that did not keep them.
func forgetFields(t *testing.T, home *server) {
	t.Helper()
	home.mu.Lock()
	defer home.mu.Unlock()
	docs := home.coll("tenantry", routesColl).docs
	for i, doc := range docs {
		var d bson.D
		if err := bson.Unmarshal(doc, &d); err != nil {
			t.Fatal(err)
		}
		kept := d[:0]
		for _, e := range d {
			if e.Key != "field" && e.Key != "fields" {
				kept = append(kept, e)
			}
		}
		if len(kept) == len(d) {
			t.Error("the route says nothing of fields")
		}
		docs[i] = mustDoc(kept)
	}
}

func TestRefielded(t *testing.T) {
	databases := []string{"app", "crm"}
	all := &scope{all: true, entries: entries("users", "crm.*")}
	plain := fields{all: "tenantId"}
	for _, test := range []struct {
		name     string
		scope    *scope
		was, now fields
		want     string
	}{
		{"same", all, plain, plain, ""},
		{"everything", all, plain, fields{all: "t"}, `"app.*"`},
		{"one of everything", all, plain, fields{"tenantId", map[string]string{"x": "t"}}, `"app.x"`},
		{"what has stayed", all, plain, fields{"tenantId", map[string]string{"users": "t", "crm.x": "t"}}, ""},
		{"no longer named", all, fields{"tenantId", map[string]string{"x": "t"}}, plain, `"app.x" by the tenant field "t"`},
		{"one by name, which says so", &scope{entries: entries("app.x")}, plain, fields{"t", map[string]string{"x": "tenantId"}}, ""},
		{"a name with a dot", &scope{entries: entries("app.a.b")}, plain, fields{"tenantId", map[string]string{"a.b": "t"}}, `"app.a.b"`},
		{"nothing", nil, plain, fields{all: "t"}, ""},
	} {
		s := test.scope
		if s == nil {
			s = &scope{}
		}
		got := s.refielded(test.was, test.now, databases)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}
