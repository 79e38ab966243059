package proxy

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// However many retryable writes there are, the newest is remembered.
func TestRecallsFull(t *testing.T) {
	x := newRecalls()
	for n := range int64(maxRecalls + 10) {
		x.put(recallKey{number: n}, place{id: wire.StringValue("x")}, 1)
		if _, ok := x.get(recallKey{number: n}, 1); !ok || len(x.m) > maxRecalls {
			t.Fatalf("%d of %d: remembered %v", n, len(x.m), ok)
		}
	}
}

// The document that a write was found to be for is changed before the write comes, which does nothing;
// the next one that is found gets it. The retry goes to that one.
func TestRecallOfSecondLook(t *testing.T) {
	g := twoClusters(t)
	g.insert(t, 0, "globex")
	direct := wiretest.Dial(t, g.server.Addr())
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "update" {
			g.server.Handle(nil)
			direct.Run("app", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)}))
			g.insert(t, 1, "acme")
		}
		return wiretest.Pass()
	})
	cmd := d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$set", d("x", 1)))}, "lsid", session(1), "txnNumber", int64(1))
	g.big.Once("update", wiretest.Pass().ThenHangUp())
	client := wiretest.Dial(t, g.addr) // g's own is used meanwhile
	if r := client.Run("app", cmd); wiretest.Get(r, "code") != int32(6) {
		t.Fatalf("the lost reply: %v", r)
	}
	g.server.Forget()
	if r := client.Run("app", cmd); outcomeOf(r) != "n 1" || len(g.server.Commands("update")) != 0 {
		t.Errorf("the retry: %v; sent %d to the first", r, len(g.server.Commands("update")))
	}
}
