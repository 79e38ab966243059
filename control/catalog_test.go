package control

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

func (h *house) view(name, on string, pipeline bson.A) {
	h.home.mu.Lock()
	defer h.home.mu.Unlock()
	c := h.home.coll("app", name)
	c.kind, c.options = "view", mustDoc(bson.D{{Key: "viewOn", Value: on}, {Key: "pipeline", Value: pipeline}, {Key: "collation", Value: bson.D{{Key: "locale", Value: "de"}}}})
}

// TestReview: what shared holds is read when a command asks for it, and a reading that began before
// another one takes nothing back.
func TestReview(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	h.home.coll("app", "orders").options = mustDoc(bson.D{{Key: "collation", Value: bson.D{{Key: "locale", Value: "sv"}}}})
	h.view("report", "orders", bson.A{bson.D{{Key: "$match", Value: bson.D{{Key: "a", Value: 1}}}}})
	before := h.home.n
	at := time.Now()
	if _, err := h.Review(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	s := h.last
	if len(s.Views) != 1 || s.Views[0].Name != "app.report" || s.Views[0].On != "orders" || s.Views[0].Collation == nil || !slices.Contains(s.Names, "app.report") {
		t.Fatalf("%+v", s)
	}
	if v, err := bson.Raw(s.Views[0].Pipeline).LookupErr("0", "$match", "a"); err != nil || v.AsInt64() != 1 {
		t.Errorf("its pipeline is %v", bson.Raw(s.Views[0].Pipeline))
	}
	if len(s.Collated) != 1 || s.Collated[0].Name != "app.orders" || bson.Raw(s.Collated[0].Collation).Lookup("locale").StringValue() != "sv" {
		t.Errorf("the collations are %v", s.Collated)
	}
	asked := h.home.n
	if read, err := h.Review(t.Context(), at); err != nil || read.Before(at) || h.home.n != asked || asked != before+3 {
		t.Errorf("%v, %d commands for one reading, then %d", err, asked-before, h.home.n-asked)
	}
	for _, obeys := range []bool{true, false} {
		h.home.mu.Lock()
		h.home.collates, h.home.coll("app", "orders").docs = obeys, []bson.Raw{mustDoc(bson.D{{Key: "_id", Value: 1}})}
		h.home.mu.Unlock()
		if _, err := h.Review(t.Context(), time.Now()); err != nil || (len(h.last.Collated) == 1) != obeys {
			t.Errorf("%v, a server that obeys its collations: %v; the collations are %v", err, obeys, h.last.Collated)
		}
	}
	old := &catalog{seq: 1, names: []string{}}
	h.mu.Lock()
	h.takeCatalog(old)
	taken := h.catalog == old
	h.mu.Unlock()
	if taken {
		t.Error("an older reading was taken over")
	}
	h.view("report", "orders", bson.A{})
	if _, err := h.Review(t.Context(), time.Now()); err != nil || len(h.last.Views[0].Pipeline) != 5 {
		t.Errorf("%v, a changed view stays: %+v", err, h.last.Views)
	}
	h.home.setDown(true)
	if _, err := h.Review(t.Context(), time.Now()); err == nil {
		t.Error("a server that is away was read")
	}
	if len(h.last.Views) != 1 {
		t.Error("its views are forgotten")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Review(ctx, time.Now()); err == nil {
		t.Error("nobody waits any more, and it is done")
	}
	h.home.setDown(false)
}

// TestReviewDuringReload: what was begun under the configuration before is read once more, and is no failure.
func TestReviewDuringReload(t *testing.T) {
	for _, mode := range []failMode{works, refuses} {
		h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
		h.view("report", "orders", bson.A{})
		reloaded := false
		h.home.fail = func(_ int, _, name string) failMode {
			if name != "listCollections" || reloaded {
				return works
			}
			reloaded = true
			h.mu.Lock()
			defer h.mu.Unlock()
			next := *h.rules
			h.rules = &next
			return mode
		}
		if _, err := h.Review(t.Context(), time.Now()); err != nil || !reloaded || len(h.last.Views) != 1 {
			t.Errorf("%v, reloaded: %v, %d views", err, reloaded, len(h.last.Views))
		}
	}
}

// TestRefusedCatalog: a server that does not say what it holds has no views, and no name is strange.
func TestRefusedCatalog(t *testing.T) {
	h := open(t, newServer(), newServer())
	h.home.fail = func(_ int, _, name string) failMode {
		if name == "listCollections" {
			return refuses
		}
		return works
	}
	h.mustApply(t, testConfig("mixed"))
	if h.last.Names != nil || h.last.Views != nil {
		t.Errorf("%+v", h.last)
	}
}

// TestDriftOfViews: a view is shared's, and what stands in its way in a tenant's database is told.
func TestDriftOfViews(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Modules = []config.Module{{Name: "everything", Collections: []string{"*"}}}
	h := open(t, newServer(), newServer())
	h.view("report", "orders", bson.A{})
	h.mustApply(t, cfg)
	h.mustResolve(t, "acme")
	if found, why := h.drifted(t, "acme"); len(found) > 0 || why != "" {
		t.Errorf("a view in shared: %q %s", found, why)
	}
	h.home.put("app_acme", "report", bson.D{{Key: "_id", Value: 1}})
	h.home.coll("app_acme", "mine").kind = "view"
	found, _ := h.drifted(t, "acme")
	if len(found) != 2 || !strings.Contains(found[0], "mine: is a view") || !strings.Contains(found[1], "report: is a collection, in shared it is a view") {
		t.Errorf("%q", found)
	}
}
