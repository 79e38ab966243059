package control

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

func ownRoute(key string, collections ...string) *Route {
	return &Route{ID: value(key), Key: key, Cluster: "home", Databases: map[string]string{"app": "app_" + key}, Collections: collections, State: stateSwitched, Epoch: 1}
}

// allMoved is what the default modules of testConfig come to.
var allMoved = []string{"app.file_*", "app.order_items", "app.orders"}

func TestPrecedence(t *testing.T) {
	home := &Route{ID: value("acme"), Key: "acme", State: stateHome, Epoch: 1}
	away := ownRoute("acme", allMoved...)
	for _, test := range []struct {
		name   string
		mode   string
		file   string // mode in the file; "-" for no entry
		env    bool
		row    string // mode in the collection; "-" for no row
		route  *Route
		want   string
		source string
		look   look
	}{
		{"default of mixed", "mixed", "", false, "-", nil, modeShared, "mode mixed", settled},
		{"default of forced", "forced", "", false, "-", nil, modeOwn, "mode forced", flipOut},
		{"forced row", "forced", "-", false, "", nil, modeOwn, "mode forced", flipOut},
		{"forced, the row says shared", "forced", "-", false, modeShared, nil, modeShared, "app.tenants", settled},
		{"forced, the file says shared", "forced", modeShared, false, modeOwn, nil, modeShared, "tenantry.toml:1", settled},
		{"row", "mixed", "-", false, modeOwn, nil, modeOwn, "app.tenants", flipOut},
		{"the file without a word, and a row", "mixed", "", false, modeOwn, nil, modeOwn, "app.tenants", flipOut},
		{"the file before the row", "mixed", modeShared, false, modeOwn, nil, modeShared, "tenantry.toml:1", settled},
		{"environment before the row", "mixed", "-", true, modeShared, nil, modeOwn, envSource, flipOut},
		{"environment alone", "mixed", "-", true, "-", nil, modeOwn, envSource, flipOut},
		{"disabled before all", "disabled", modeOwn, true, modeOwn, nil, modeShared, "mode disabled", settled},
		{"disabled with a route", "disabled", "-", false, "-", away, modeShared, "mode disabled", flipBack},
		{"route before the default", "mixed", "", false, "-", away, modeOwn, "route", settled},
		{"route alone", "mixed", "-", false, "-", away, modeShared, "route", settled},
		{"route as asked", "mixed", modeOwn, false, "-", away, modeOwn, "tenantry.toml:1", settled},
		{"route, the file says shared", "mixed", modeShared, false, "-", away, modeShared, "tenantry.toml:1", flipBack},
		{"route, the row says shared", "mixed", "-", false, modeShared, away, modeShared, "app.tenants", flipBack},
		{"route home, the file says own", "mixed", modeOwn, false, "-", home, modeOwn, "tenantry.toml:1", flipOut},
		{"route with less than is asked", "mixed", modeOwn, false, "-", ownRoute("acme", "app.orders"), modeOwn, "tenantry.toml:1", flipOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := withRows(testConfig(test.mode))
			if test.file != "-" {
				cfg.Tenants = []config.Tenant{fileTenant("acme", test.file)}
			}
			if test.env {
				cfg.TenantKeys = []string{"acme"}
				if test.file == "-" {
					cfg.Tenants = []config.Tenant{{ID: raw("acme"), Key: "acme", Mode: modeOwn, Source: envSource}}
				}
			}
			var rows []row
			if test.row != "-" {
				rows = []row{{id: idOf(value("acme")), value: value("acme"), key: "acme", mode: test.row}}
			}
			routes := map[tenantID]*Route{}
			if test.route != nil {
				routes[idOf(test.route.ID)] = test.route
			}
			r, err := newRules(cfg)
			if err != nil {
				t.Fatal(err)
			}
			l := r.list(rows, routes)
			if len(l.all) != 1 || len(l.problems) != 0 {
				t.Fatalf("%+v %v", l.all, l.problems)
			}
			p := r.plan(&l.all[0], test.route)
			// A tenant of which only a route is left has no flag; where it says "shared" is the default.
			if test.name == "route alone" {
				test.want = modeOwn
			}
			if p.mode != test.want || p.source != test.source || p.look != test.look {
				t.Errorf("%s by %s, look %d", p.mode, p.source, p.look)
			}
		})
	}
}

func TestLeftOut(t *testing.T) {
	cfg := withRows(testConfig("mixed", fileTenant("first", "")))
	oid := bson.NewObjectID()
	doc := func(d bson.D) row { return readRow([]byte(mustDoc(d)), cfg.TenantsFrom) }
	rows := []row{
		doc(bson.D{{Key: "_id", Value: oid}, {Key: "slug", Value: "good"}, {Key: "dbMode", Value: "per-tenant"}}),
		doc(bson.D{{Key: "_id", Value: "a"}, {Key: "slug", Value: "Good"}}),
		doc(bson.D{{Key: "_id", Value: "b"}, {Key: "slug", Value: "FIRST"}}),
		doc(bson.D{{Key: "_id", Value: "c"}}),
		doc(bson.D{{Key: "_id", Value: "d"}, {Key: "slug", Value: "a.b"}}),
		doc(bson.D{{Key: "_id", Value: "e"}, {Key: "slug", Value: strings.Repeat("x", 60)}}),
		doc(bson.D{{Key: "_id", Value: bson.A{1}}, {Key: "slug", Value: "array"}}),
		doc(bson.D{{Key: "_id", Value: 42.0}, {Key: "slug", Value: "number"}}),
		doc(bson.D{{Key: "_id", Value: int64(42)}, {Key: "slug", Value: "again"}}),
		doc(bson.D{{Key: "_id", Value: "f"}, {Key: "slug", Value: "moved"}}),
		doc(bson.D{{Key: "_id", Value: "g"}, {Key: "slug", Value: "odd"}, {Key: "dbMode", Value: "elsewhere"}}),
	}
	r, err := newRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	route := ownRoute("moved", allMoved...)
	l := r.list(rows, map[tenantID]*Route{idOf(route.ID): route})
	var keys []string
	l.sort()
	for _, x := range l.all {
		keys = append(keys, x.key)
	}
	if !slices.Equal(keys, []string{"first", "good", "moved", "number", "odd"}) {
		t.Errorf("listed are %v", keys)
	}
	if len(l.problems) != 9 {
		t.Errorf("%d problems: %v", len(l.problems), l.problems)
	}
	if i := slices.IndexFunc(l.all, func(x listing) bool { return x.key == "moved" }); !l.all[i].value.Equal(value("moved")) {
		t.Error("a row took the key of a route")
	}
}

func TestDottedFields(t *testing.T) {
	from := &config.TenantsCollection{ID: "a.id", Key: "a.key", Mode: "a"}
	w := readRow([]byte(mustDoc(bson.D{{Key: "a", Value: bson.D{{Key: "id", Value: "x"}, {Key: "key", Value: int32(5)}}}})), from)
	if w.problem != "" || w.key != "5" || w.id != idOf(value("x")) {
		t.Errorf("%+v", w)
	}
	if p := projection(from); len(p) != 1 || p[0].Key != "a" {
		t.Errorf("projection %v", p)
	}
}

func entries(texts ...string) []config.Entry {
	r := config.Routing{Databases: []config.Database{{Shared: "app"}, {Shared: "crm"}}}
	return qualify(r, texts, []string{"app", "crm"})
}

func TestExtend(t *testing.T) {
	databases := []string{"app", "crm"}
	some := func(e ...string) *scope { return &scope{entries: entries(e...)} }
	but := func(e ...string) *scope { return &scope{all: true, entries: entries(e...)} }
	for _, test := range []struct {
		name    string
		want    *scope
		have    *scope
		moving  []namespace
		staying []namespace
		todo    string
		result  *scope // nil: one route can't say it
	}{
		{"new", some("app.a", "app.b"), nil, []namespace{{"app", "a"}, {"app", "b"}}, nil, "app.a app.b", some("app.a", "app.b")},
		{"one stays", some("app.a", "app.b"), nil, []namespace{{"app", "a"}}, []namespace{{"app", "b"}}, "app.a app.b", some("app.a")},
		{"pattern", some("app.p*"), some("app.p1"), []namespace{{"app", "p2"}}, nil, "app.p*", some("app.p*")},
		{"pattern, one stays", some("app.p*"), some("app.p1"), []namespace{{"app", "p2"}}, []namespace{{"app", "p3"}}, "app.p*", some("app.p1", "app.p2")},
		{"settled", some("app.p1"), some("app.p*"), nil, nil, "", some("app.p*")},
		{"all", but("users"), nil, nil, []namespace{{"app", "x"}}, "app.* crm.*", but("users", "app.x")},
		{"all after some", but("users"), some("app.a"), nil, nil, "app.* crm.*", but("users")},
		{"all after what it leaves out", but("users", "crm.*"), some("crm.a"), nil, nil, "app.*", nil},
		{"one more of all", but("users"), but("users", "app.x", "app.y"), []namespace{{"app", "x"}}, []namespace{{"app", "y"}}, "app.x app.y", but("users", "app.y")},
		{"a database more of all", but("users"), but("users", "crm.*"), nil, []namespace{{"crm", "z"}}, "crm.*", but("app.users", "crm.users", "crm.z")},
		{"some of what all leaves out", some("app.x"), but("users", "app.x"), []namespace{{"app", "x"}}, nil, "app.x", but("users")},
		{"some of a database that all leaves out", some("crm.x"), but("users", "crm.*"), []namespace{{"crm", "x"}}, nil, "crm.x", nil},
		{"less than all", some("app.a"), but("users"), nil, nil, "", but("users")},
	} {
		t.Run(test.name, func(t *testing.T) {
			todo := missing(test.want, test.have, databases)
			if got := strings.Join(texts(todo), " "); got != test.todo {
				t.Errorf("missing is %q", got)
			}
			got, err := extend(test.want, test.have, todo, test.moving, test.staying)
			if (err != nil) != (test.result == nil) {
				t.Fatal(err)
			}
			if err == nil && (got.all != test.result.all || !slices.Equal(texts(got.entries), texts(test.result.entries))) {
				t.Errorf("%v %v", got.all, texts(got.entries))
			}
		})
	}
}

func TestModulesNoRouteCanSay(t *testing.T) {
	cfg := testConfig("mixed")
	cfg.Routing.Databases = append(cfg.Routing.Databases, config.Database{Shared: "crm", Tenant: "crm_{key}"})
	cfg.Modules = []config.Module{{Name: "a", Collections: []string{"crm.*"}}, {Name: "b", Collections: []string{"app.orders"}}}
	if _, err := newRules(cfg); err == nil {
		t.Error("accepted")
	}
}

func TestRouteDocument(t *testing.T) {
	for _, route := range []*Route{
		ownRoute("acme", "app.orders"),
		{ID: value(int64(4)), Key: "four", Cluster: "big", Databases: map[string]string{"app": "x"}, Except: []string{}, State: stateSwitched, Epoch: 9, Fields: fields{"tenantId", map[string]string{"app.orders": "company.id"}}},
		{ID: value(bson.NewObjectID()), Key: "home", State: stateHome, Epoch: 3},
	} {
		got, err := readRoute([]byte(mustDoc(route.doc())))
		if err != nil {
			t.Fatal(err)
		}
		if !got.ID.Equal(route.ID) || got.Key != route.Key || got.own() != route.own() || (got.Collections == nil) != (route.Collections == nil) ||
			!slices.Equal(got.Collections, route.Collections) || got.Cluster != route.Cluster || got.Epoch != route.Epoch ||
			got.Fields.all != route.Fields.all || !maps.Equal(got.Fields.named, route.Fields.named) {
			t.Errorf("%+v became %+v", route, got)
		}
	}
}
