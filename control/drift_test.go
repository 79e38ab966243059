package control

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

func index(name string, key bson.D, more ...bson.E) bson.Raw {
	return mustDoc(append(bson.D{{Key: "v", Value: 2}, {Key: "key", Value: key}, {Key: "name", Value: name}}, more...))
}

func one(key string) bson.D { return bson.D{{Key: key, Value: 1}} }

// drifted is what Drift tells of a tenant, "collection: what" each.
func (h *house) drifted(t *testing.T, key string) (found []string, why string) {
	t.Helper()
	for _, s := range h.Drift(t.Context()) {
		if s.Key == key {
			for _, d := range s.Drift {
				found = append(found, d.Collection+": "+d.What)
			}
			if s.Drift == nil && s.NotCompared == "" {
				t.Errorf("%s was not compared", key)
			}
			return found, s.NotCompared
		}
	}
	t.Fatalf("no tenant %q", key)
	return nil, ""
}

func TestDrift(t *testing.T) {
	h := open(t, newServer(), newServer())
	orders := h.home.coll("app", "orders")
	orders.options = mustDoc(bson.D{{Key: "validationLevel", Value: "strict"}, {Key: "validator", Value: one("x")}})
	orders.indexes = []bson.Raw{
		index("n_1", one("n"), bson.E{Key: "unique", Value: true}),
		index("two", bson.D{{Key: "a", Value: 1}, {Key: "b", Value: -1}}),
	}
	h.home.coll("app", "users").indexes = []bson.Raw{index("email_1", one("email"))}
	acme := fileTenant("acme", modeOwn)
	acme.Cluster = "big"
	h.mustApply(t, testConfig("mixed", acme, fileTenant("other", "")))
	h.mustResolve(t, "acme")
	h.home.coll("app", "order_items") // made by another tenant's insert: acme's is with its first
	if found, why := h.drifted(t, "acme"); len(found) > 0 || why != "" {
		t.Errorf("as the flip made it: %q %s", found, why)
	}
	for _, s := range h.Drift(t.Context()) {
		if s.Key == "other" && s.Drift != nil {
			t.Error("other has no databases of its own")
		}
	}

	own := h.big.coll("app_acme", "orders")
	// Another driver's numbers and another order of the fields are no difference.
	own.indexes = []bson.Raw{mustDoc(bson.D{{Key: "name", Value: "n_1"}, {Key: "unique", Value: true}, {Key: "key", Value: bson.D{{Key: "n", Value: 1.0}}}}), own.indexes[1]}
	if found, _ := h.drifted(t, "acme"); len(found) > 0 {
		t.Errorf("the same in other words: %q", found)
	}
	own.options = mustDoc(bson.D{{Key: "validator", Value: one("y")}, {Key: "capped", Value: true}})
	own.indexes = []bson.Raw{index("two", bson.D{{Key: "b", Value: -1}, {Key: "a", Value: 1}}), index("mine", one("z"))}
	h.big.coll("app_acme", "file_a").indexes = []bson.Raw{index("f", one("f"))}
	h.home.coll("app", "file_b").indexes = []bson.Raw{index("f", one("f"))}
	h.big.coll("app_acme", "users")
	found, _ := h.drifted(t, "acme")
	for i, want := range []string{
		"app.file_a: has the index f, which shared has not",
		"app.file_b: lacks the index f",
		"app.orders: has the option capped, which shared has not: true",
		"app.orders: lacks the option validationLevel: \"strict\"",
		"app.orders: has another option validator",
		"app.orders: has the index mine, which shared has not",
		"app.orders: lacks the index n_1",
		"app.orders: has another index two",
		"app.users: is in the tenant's own database",
	} {
		if i >= len(found) || !strings.HasPrefix(found[i], want) {
			t.Fatalf("difference %d of %q is not %q", i, found, want)
		}
	}
	if len(found) != 9 {
		t.Errorf("more was found than there is: %q", found)
	}
}

// Who can not be asked is said, and the others are compared.
func TestDriftAway(t *testing.T) {
	h := open(t, newServer(), newServer())
	h.home.coll("app", "orders").indexes = []bson.Raw{index("n_1", one("n"))}
	far := fileTenant("far", modeOwn)
	far.Cluster = "big"
	tenants := append(manyTenants(2*driftWidth), far)
	h.mustApply(t, testConfig("mixed", tenants...))
	for _, x := range tenants {
		h.mustResolve(t, x.Key)
	}
	h.home.coll("app_t3", "orders").indexes = nil
	h.big.setDown(true)
	found, why := h.drifted(t, "far")
	if len(found) > 0 || !strings.Contains(why, "app_far could not be read") {
		t.Errorf("far: %q %q", found, why)
	}
	differ := 0
	for _, s := range h.Drift(t.Context()) {
		differ += len(s.Drift)
	}
	if differ != 1 {
		t.Errorf("%d differences, want t3's", differ)
	}
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, s := range h.Drift(over) {
		if s.NotCompared == "" {
			t.Errorf("%s was compared in no time", s.Key)
		}
	}
}

func manyTenants(n int) (all []config.Tenant) {
	for i := range n {
		all = append(all, fileTenant(fmt.Sprint("t", i), modeOwn))
	}
	return all
}
