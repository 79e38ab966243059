package proxy

import (
	"context"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// in1 is a command of the session's first transaction.
func in1(first bool, kv ...any) bson.D {
	cmd := append(d(kv...), d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)...)
	if first {
		cmd = append(cmd, bson.E{Key: "startTransaction", Value: true})
	}
	return cmd
}

// drains reports whether a change of the tenant's route goes on from that epoch.
func (g *ground) drains(tenant uint32, epoch uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	return g.proxy.Drained(ctx, tenant, epoch) == nil
}

func (g *ground) good(cmd bson.D) {
	g.t.Helper()
	r := g.client.Run("app", cmd)
	if code := wiretest.Get(r, "code"); code != nil || wiretest.Get(r, "writeErrors") != nil {
		g.t.Fatalf("%v: %v", cmd, r)
	}
}

// ends ends the session's first transaction.
func (g *ground) ends(by string) {
	g.t.Helper()
	if r := wiretest.Dial(g.t, g.addr).Run("admin", in1(false, by, 1)); wiretest.Get(r, "ok") != 1.0 {
		g.t.Fatal(r)
	}
}

func pausedAt(epoch uint64, tenants ...int) func(*routing.Spec) {
	return func(s *routing.Spec) {
		for _, i := range tenants {
			s.Tenants[i].Paused, s.Tenants[i].Since = true, epoch
		}
	}
}

// A pause waits for the transactions that are open, and these for nothing.
func TestTransactionGoesAlong(t *testing.T) {
	insert := d("insert", "orders", "documents", bson.A{d("_id", 7, "tenantId", "globex")})
	set := d("$set", d("x", 1))
	for name, cmds := range map[string][2]bson.D{
		"named":         {insert, insert},
		"read, then":    {d("find", "orders", "filter", d("tenantId", "globex")), insert},
		"read":          {insert, d("find", "orders", "filter", d("tenantId", "globex"))},
		"by _id":        {insert, d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", set)})},
		"batch":         {insert, d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", set), d("q", d("_id", 2), "u", set)})},
		"by the rest":   {insert, d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", set)})},
		"findAndModify": {insert, d("findAndModify", "orders", "query", d("_id", 1), "update", set)},
		"of the rest":   {insert, d("findAndModify", "orders", "query", d("x", 0), "update", set)},
		"of all":        {insert, d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", set, "multi", true)})},
		"after all":     {d("update", "orders", "updates", bson.A{d("q", d("x", 1), "u", set, "multi", true)}), insert},
	} {
		for _, look := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				g := newGround(t, func(*ground) { t.Error("the command was held") })
				g.insert(t, 1, "globex")
				g.insert(t, 2, "globex")
				g.good(append(cmds[0], in1(true)...))
				change := pausedAt(2, 1)
				if look {
					change = func(s *routing.Spec) { s.Tenants[1].Look = true }
				}
				g.router.Publish(tableOf(t, 2, change))
				if name == "named" || name == "after all" || name == "read, then" {
					cmds[1] = d("insert", "orders", "documents", bson.A{d("_id", 8, "tenantId", "globex")})
				}
				g.good(append(cmds[1], in1(false)...))
				if g.drains(2, 2) {
					t.Error("drained while the transaction is open")
				}
				g.ends("commitTransaction")
				if !g.drains(2, 2) {
					t.Error("the committed transaction holds up the drain")
				}
			})
		}
	}
}

// A command that has gone along is waited for also where its transaction is over before it is.
func TestGoneAlongIsWaitedFor(t *testing.T) {
	g := newGround(t, func(*ground) { t.Error("the command was held") })
	g.good(in1(true, "insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "globex")}))
	g.router.Publish(tableOf(t, 2, pausedAt(2, 1)))
	release := make(chan struct{})
	g.server.Once("insert", wiretest.Pass().After(release))
	done := make(chan struct{})
	other := wiretest.Dial(t, g.addr)
	go func() {
		defer close(done)
		other.Run("app", in1(false, "insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "globex")}))
	}()
	g.server.Wait("insert", 2)
	g.server.Once("abortTransaction", wiretest.OK())
	g.ends("abortTransaction")
	if g.drains(2, 2) {
		t.Error("drained with a write under way to where the tenant was")
	}
	close(release)
	<-done
	if !g.drains(2, 2) {
		t.Error("what is over holds up the drain")
	}
}

// What a transaction has written since the pause is nothing that the pause waits for.
func TestTransactionIsHeld(t *testing.T) {
	all := d("update", "orders", "updates", bson.A{d("q", d("_id", 9), "u", d("$set", d("x", 1)))})
	acme := d("insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "acme")})
	globex := d("insert", "orders", "documents", bson.A{d("_id", 3, "tenantId", "globex")})
	for name, test := range map[string]struct {
		before, since bson.D
	}{
		"of all, since then":         {acme, all},
		"of another tenant":          {acme, acme},
		"of another, and a read":     {acme, d("find", "orders", "filter", d("x", 1))},
		"of platform data":           {d("insert", "users", "documents", bson.A{d("_id", 1)}), acme},
		"a read of no tenant before": {d("find", "orders", "filter", d("x", 1)), acme},
	} {
		t.Run(name, func(t *testing.T) {
			held := 0
			g := newGround(t, func(g *ground) {
				held++
				if !g.drains(2, 2) {
					t.Error("the held command's transaction is waited for")
				}
				g.router.Publish(tableOf(t, 2, nil))
			})
			g.good(append(test.before, in1(true)...))
			g.router.Publish(tableOf(t, 2, pausedAt(2, 1)))
			if name != "of another tenant" && name != "of platform data" && name != "a read of no tenant before" {
				g.good(append(test.since, in1(false)...))
			}
			g.good(append(globex, in1(false)...))
			if held != 1 {
				t.Errorf("held %d times", held)
			}
		})
	}
}

// A tenant in no entry turns out to be one that is to be looked at: the transaction that may have written for
// it goes along then too.
func TestTransactionGoesAlongWithUnlisted(t *testing.T) {
	held := 0
	entered := func(s *routing.Spec) {
		s.LookUp = true
		s.Tenants[1].Look = true
	}
	g := newGround(t, func(g *ground) {
		held++
		g.router.Publish(tableOf(t, 3, entered))
	})
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { entered(s); s.Tenants = s.Tenants[:1] }))
	g.good(in1(true, "find", "orders", "filter", d("_id", 1)))
	g.good(in1(false, "update", "orders", "updates", bson.A{d("q", d("x", 1), "u", d("$set", d("y", 1)), "multi", true)}))
	g.good(in1(false, "insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "globex")}))
	if held != 1 {
		t.Errorf("held %d times", held)
	}
}

// The transaction has written for one of two tenants that are paused: it waits for the other.
func TestTransactionIsHeldForOther(t *testing.T) {
	var held []string
	g := newGround(t, nil)
	g.proxy.opts.Resolve = func(_ context.Context, v wire.Value) (bool, error) {
		s, _ := v.Str()
		held = append(held, string(s))
		g.router.Publish(tableOf(t, 2, pausedAt(2, 1)))
		return false, nil
	}
	g.insert(t, 1, "acme")
	g.good(in1(true, "insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "globex")}))
	g.router.Publish(tableOf(t, 2, pausedAt(2, 0, 1)))
	g.good(in1(false, "update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$set", d("x", 1)), "multi", true)}))
	if len(held) != 1 || held[0] != "acme" {
		t.Errorf("held for %v", held)
	}
}

// A command of a transaction that is over learns that at once, and not when the pause is.
func TestHeldOfEndedTransaction(t *testing.T) {
	g := newGround(t, func(*ground) { t.Error("the command was held") })
	g.good(in1(true, "insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "globex")}))
	g.client.Run("app", in1(false, "mapReduce", "orders")) // refused
	g.router.Publish(tableOf(t, 2, pausedAt(2, 1)))
	r := g.client.Run("app", in1(false, "insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "globex")}))
	if wiretest.Get(r, "code") != int32(251) {
		t.Errorf("%v", r)
	}
}

// An open transaction holds up the tenants whose documents it has written, and no others where those are
// known.
func TestDrainedOfLocated(t *testing.T) {
	set := d("$set", d("x", 1))
	one := func(q, u bson.D) bson.D { return d("update", "orders", "updates", bson.A{d("q", q, "u", u)}) }
	for _, test := range []struct {
		name         string
		cmd          bson.D
		plain        bool // before any tenant has left shared
		acme, globex bool // are held up
	}{
		{"by _id, own database", one(d("_id", 1), set), false, true, false},
		{"by _id, shared", one(d("_id", 2), set), false, false, true},
		{"both", d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", set), d("q", d("_id", 2), "u", set)}), false, true, true},
		{"delete", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 2), "limit", 1)}), false, false, true},
		{"findAndModify", d("findAndModify", "orders", "query", d("_id", 2), "update", set), false, false, true},
		{"by the rest", one(d("x", 0), set), false, false, true},
		{"nobody's yet", one(d("_id", 9), set), false, true, true},
		{"given away", one(d("_id", 2), d("$set", d("tenantId", "initech"))), false, true, true},
		{"named, given away", one(d("_id", 2, "tenantId", "globex"), d("$set", d("tenantId", "initech"))), false, true, true},
		{"named, kept", one(d("_id", 2, "tenantId", "globex"), d("tenantId", "globex", "x", 1)), false, false, true},
		{"of many", d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", set, "multi", true)}), false, true, true},
		{"of an unlisted tenant", one(d("_id", 3), set), false, true, true},
		{"a read of no tenant", d("find", "orders", "filter", d("_id", 2)), false, false, false},
		{"plain, named", one(d("_id", 2, "tenantId", "globex"), set), true, false, true},
		{"plain, inserted", d("insert", "orders", "documents", bson.A{d("_id", 4, "tenantId", "globex")}), true, false, true},
		{"plain, of two", d("insert", "orders", "documents", bson.A{d("_id", 4, "tenantId", "globex"), d("_id", 5, "tenantId", "acme")}), true, true, true},
		{"plain, one unnamed", d("insert", "orders", "documents", bson.A{d("_id", 4, "tenantId", "globex"), d("_id", 5)}), true, true, true},
		{"plain, by _id", one(d("_id", 2), set), true, true, true},
		{"plain, given away", one(d("tenantId", "globex"), d("$set", d("tenantId", "acme"))), true, true, true},
		{"plain, computed", d("update", "orders", "updates", bson.A{d("q", d("tenantId", "globex"), "u", bson.A{d("$set", d("tenantId", "acme"))})}), true, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGround(t, nil)
			g.insert(t, 1, "acme")
			g.insert(t, 2, "globex")
			g.insert(t, 3, "initech")
			if test.plain {
				g.router.Publish(tableOf(t, 1, func(s *routing.Spec) { s.Tenants[0].Route = nil }))
			}
			if test.name == "plain, computed" { // which the scripted server can't
				g.server.Once("update", wiretest.OK(bson.E{Key: "n", Value: 1}))
			}
			r := g.client.Run("app", append(test.cmd, in1(true)...))
			if wiretest.Get(r, "ok") != 1.0 {
				t.Fatal(r)
			}
			g.router.Publish(tableOf(t, 2, nil))
			if acme, globex := !g.drains(1, 2), !g.drains(2, 2); acme != test.acme || globex != test.globex {
				t.Errorf("held up: acme %t, globex %t", acme, globex)
			}
			g.ends("commitTransaction")
			if !g.drains(1, 2) || !g.drains(2, 2) {
				t.Error("the committed transaction holds up a drain")
			}
		})
	}
}
