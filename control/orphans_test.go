package control

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestOrphans: documents that no route leads to are told of, and nothing else.
func TestOrphans(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	var log bytes.Buffer
	h.log = zerolog.New(&log)
	one := bson.D{{Key: "_id", Value: 1}}
	for _, own := range []struct{ db, coll string }{{"app", "orders"}, {"app_acme", "orders"}, {"tenantry", "routes"}, {"other", "orders"}} {
		h.home.put(own.db, own.coll, one)
	}
	h.home.coll("app_empty", "orders")
	if h.warnOfOrphans(t.Context()); log.Len() > 0 {
		t.Errorf("nothing is lost, and it says %s", &log)
	}
	h.home.put("app_lost", "orders", one)
	h.big.put("app_acme", "orders", one) // where acme is not
	h.warnOfOrphans(t.Context())
	if text := log.String(); !strings.Contains(text, `["big/app_acme","home/app_lost"]`) {
		t.Errorf("it says %s", text)
	}
}
