package demo

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// What the application has begun (a cursor, a session, a transaction) is nobody else's, though all of its
// ids are known.
func TestAttacksOnState(t *testing.T) {
	skipShort(t)
	ground := newAttackGround(t, false)
	app, attacker := dialRaw(t, ground.openAddress), dialRaw(t, ground.addresses["globex"])
	lsid := of("id", bson.Binary{Subtype: 4, Data: []byte("sixteen bytes ok")})
	on := func(cmd doc, more ...any) doc { return append(append(cmd, of("$db", shared)...), of(more...)...) }
	answer := func(c *wiretest.Client, cmd doc) (bson.Raw, int) {
		reply := bson.Raw(c.Command(cmd))
		code, _ := reply.Lookup("code").AsInt64OK()
		return reply, int(code)
	}
	open := func(more ...any) int64 {
		reply, code := answer(app, on(findIn("orders", doc{}, "batchSize", 2), more...))
		id, ok := reply.Lookup("cursor", "id").Int64OK()
		if code != 0 || !ok || id == 0 {
			t.Fatalf("the application opens no cursor: %s", reply)
		}
		return id
	}

	t.Run("cursor", func(t *testing.T) {
		for _, session := range [][]any{nil, {"lsid", lsid}} {
			id := open(session...)
			if reply, code := answer(attacker, on(of("getMore", id, "collection", "orders"), session...)); code != 43 {
				t.Errorf("the cursor is answered with %d: %s", code, reply)
			}
			reply, _ := answer(attacker, on(of("killCursors", "orders", "cursors", arr{id}), session...))
			if n, _ := reply.Lookup("cursorsKilled").Array().Values(); len(n) != 0 {
				t.Errorf("the cursor is ended: %s", reply)
			}
			if reply, code := answer(app, on(of("getMore", id, "collection", "orders"), session...)); code != 0 {
				t.Errorf("the application's cursor is gone: %s", reply)
			}
		}
	})

	t.Run("transaction", func(t *testing.T) {
		for number, end := range []string{"abortTransaction", "commitTransaction"} {
			id := "in-" + strings.ToLower(end)
			in := []any{"lsid", lsid, "txnNumber", int64(number + 1), "autocommit", false}
			begin := append(on(of("insert", "orders", "documents", arr{of("_id", id, "tenantId", "umbrella")}), in...), of("startTransaction", true)...)
			if reply, code := answer(app, begin); code != 0 {
				t.Fatalf("the application's transaction: %s", reply)
			}
			if reply, code := answer(attacker, on(findIn("orders", of("_id", id)), in...)); code == 0 {
				t.Errorf("the transaction goes on for somebody else: %s", reply)
			}
			admin := func(cmd doc) doc { return append(append(cmd, of("$db", "admin")...), of(in...)...) }
			answer(attacker, admin(of(end, 1)))
			answer(attacker, append(of("killSessions", arr{lsid}), of("$db", "admin")...))
			answer(attacker, append(of("endSessions", arr{lsid}), of("$db", "admin")...))
			if n := countOf(t, ground, id); n != 0 {
				t.Errorf("%d documents before the application commits", n)
			}
			if reply, code := answer(app, admin(of("commitTransaction", 1))); code != 0 {
				t.Errorf("the application can't commit: %s", reply)
			}
			if n := countOf(t, ground, id); n != 1 {
				t.Errorf("%d documents after the application has committed", n)
			}
		}
	})
}

func countOf(t *testing.T, g *attackGround, id string) int64 {
	t.Helper()
	n, err := g.server.Collection("orders").CountDocuments(t.Context(), of("_id", id))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func dialRaw(t *testing.T, address string) *wiretest.Client {
	t.Helper()
	c := wiretest.Dial(t, address)
	c.Command(of("hello", 1, "$db", "admin"))
	return c
}
