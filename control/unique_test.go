package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

// TestUniques: unique indexes of shared that tell tenants of each other are told of where connections are
// bound to rows, those that have the tenant field or belong to nobody's collections are not, and a later
// reading finds what has changed.
func TestUniques(t *testing.T) {
	h := open(t, newServer(), newServer())
	unique := bson.E{Key: "unique", Value: true}
	h.home.coll("app", "orders").indexes = []bson.Raw{
		index("nr", one("nr"), unique), index("own", bson.D{{Key: "nr", Value: 1}, {Key: "tenantId", Value: 1}}, unique), index("plain", one("x")),
	}
	h.home.coll("app", "file_a").indexes = []bson.Raw{index("number", one("n"), bson.E{Key: "unique", Value: 1.0})}
	h.home.coll("app", "special").indexes = []bson.Raw{index("company", bson.D{{Key: "company.id", Value: 1}, {Key: "x", Value: 1}}, unique)}
	h.home.coll("app", "users").indexes = []bson.Raw{index("email", one("email"), unique)}
	h.home.coll("app", "tenants").indexes = []bson.Raw{index("slug", one("slug"), unique)}
	acme := fileTenant("acme", modeOwn)
	acme.Modules = []string{"orders"}
	cfg := testConfig("mixed", acme, fileTenant("globex", ""))
	cfg.Modules = append(cfg.Modules, config.Module{Name: "special", Collections: []string{"special"}})
	cfg.Platform.Bound = map[string]string{"users": "own", "tenants": "read"}

	h.mustApply(t, cfg)
	if told := h.router.Current().Telling(); len(told) != 0 || slices.ContainsFunc(h.home.log, func(c string) bool { return strings.Contains(c, "listIndexes") }) {
		t.Errorf("nobody is bound to rows, and %v are told of", told)
	}
	h.mustResolve(t, "acme")
	bound := *cfg
	bound.Listeners = []config.Listener{{Tenant: "acme", Isolation: "rows"}}
	h.mustApply(t, &bound)
	tells := func(key string) string {
		for _, s := range h.Drift(t.Context()) {
			if s.Key == key {
				return strings.Join(s.Tells, ", ")
			}
		}
		return "no such tenant"
	}
	if got := tells("globex"); got != "app.file_a number, app.orders nr, app.users email" {
		t.Errorf("globex: %s", got)
	}
	if got := tells("acme"); got != "app.file_a number, app.users email" {
		t.Errorf("acme, whose orders are its own: %s", got)
	}

	h.home.coll("app", "orders").indexes = nil
	h.refresh(t.Context())
	if got := tells("globex"); !strings.Contains(got, "nr") {
		t.Errorf("the indexes are read with each refresh: %s", got)
	}
	h.mu.Lock()
	h.uniques.read = time.Now().Add(-uniqueInterval)
	h.mu.Unlock()
	h.refresh(t.Context())
	if got := tells("globex"); got != "app.file_a number, app.users email" {
		t.Errorf("after a change: %s", got)
	}
}

// TestStrictUniqueNeedsIndexes: where they can not be read, a table that relies on them is not made.
func TestStrictUniqueNeedsIndexes(t *testing.T) {
	for _, strict := range []bool{false, true} {
		h := open(t, newServer(), newServer())
		h.home.coll("app", "orders").indexes = []bson.Raw{index("nr", one("nr"))}
		h.home.fail = func(_ int, _, name string) failMode {
			if name == "listIndexes" {
				return refuses
			}
			return works
		}
		cfg := testConfig("mixed", fileTenant("globex", ""))
		cfg.Listeners, cfg.Routing.StrictUnique = []config.Listener{{Tenant: "globex", Isolation: "rows"}}, strict
		if err := h.Apply(t.Context(), cfg); (err != nil) != strict || strict && !strings.Contains(err.Error(), "the indexes of app.orders") {
			t.Errorf("strict %v: %v", strict, err)
		}
	}
}
