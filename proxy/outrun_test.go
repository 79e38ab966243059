package proxy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// takers are the writes of one document, here of one whose x is 0 to make it 1.
var takers = map[string]bson.D{
	"update":        d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$inc", d("x", 1)))}),
	"delete":        d("delete", "orders", "deletes", bson.A{d("q", d("x", 0), "limit", 1)}),
	"findAndModify": d("findAndModify", "orders", "query", d("x", 0), "update", d("$inc", d("x", 1))),
	"upsert": d("update", "orders", "updates", bson.A{
		d("q", d("x", 0), "u", d("$inc", d("x", 1), "$setOnInsert", d("tenantId", "acme", "made", true)), "upsert", true),
	}),
	"findAndModify upsert": d("findAndModify", "orders", "query", d("x", 0),
		"update", d("$inc", d("x", 1), "$setOnInsert", d("tenantId", "acme", "made", true)), "upsert", true),
}

// took is how many documents a taker's reply says that it has changed, and made.
func took(r bson.D) (changed, made int32) {
	n, ok := wiretest.Get(r, "n").(int32)
	if !ok {
		n, _ = wiretest.Get(r, "lastErrorObject", "n").(int32)
	}
	if wiretest.Get(r, "upserted") != nil || wiretest.Get(r, "lastErrorObject", "upserted") != nil {
		return 0, n
	}
	return n, 0
}

// racing has the servers run the script before each of the proxy's writes, with their number from 1 on.
func (g *ground) racing(t *testing.T, script func(write int, server, big *wiretest.Client)) {
	t.Helper()
	clients := map[*wiretest.Server]*wiretest.Client{}
	var mu sync.Mutex // writes may come to several homes at once
	n := 0
	for _, s := range []*wiretest.Server{g.server, g.big} {
		if s == nil {
			continue
		}
		clients[s] = wiretest.Dial(t, s.Addr())
		s.Handle(func(c wiretest.Command) wiretest.Reply {
			switch c.Name {
			case "update", "delete", "findAndModify":
				if c.Value("comment") != "another" {
					mu.Lock()
					defer mu.Unlock()
					n++
					script(n, clients[g.server], clients[g.big])
				}
			}
			return wiretest.Pass()
		})
	}
}

// takeAt is another client's write at a home.
func takeAt(c *wiretest.Client, db string, ids ...int) {
	for _, id := range ids {
		c.Run(db, d("update", "orders", "updates", bson.A{d("q", d("_id", id), "u", d("$set", d("x", 7)))}, "comment", "another"))
	}
}

// A write whose document is changed by another before it comes takes the next one, in whatever home, as long
// as there is any; and where there is none an upsert makes one.
func TestWriteIsOutrun(t *testing.T) {
	for name, cmd := range takers {
		for _, left := range []bool{true, false} {
			for _, numbered := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s left %v numbered %v", name, left, numbered), func(t *testing.T) {
					g := twoClusters(t)
					for id, tenant := range []string{"globex", "globex", "acme", "acme"} {
						g.insert(t, id, tenant)
					}
					g.racing(t, func(write int, server, big *wiretest.Client) {
						switch {
						case write == 1:
							takeAt(server, "app", 0, 1)
						case write == 3:
							takeAt(big, "app_t_acme", 2)
						case write == 4 && !left:
							takeAt(big, "app_t_acme", 3)
						}
					})
					cmd := cmd
					if numbered {
						cmd = append(cmd[:len(cmd):len(cmd)], d("lsid", session(1), "txnNumber", int64(1))...)
					}
					r := g.client.Run("app", cmd)
					changed, made := took(r)
					wantMade := int32(0)
					if upserts := name == "upsert" || name == "findAndModify upsert"; upserts && !left {
						wantMade = 1
					}
					if left != (changed == 1) || made != wantMade {
						t.Errorf("changed %d, made %d: %v", changed, made, r)
					}
					for id, doc := range append(g.server.Docs("app", "orders"), g.big.Docs("app_t_acme", "orders")...) {
						if x := wiretest.Get(doc, "x"); id < 3 && x != int32(7) || id == 3 && left && fmt.Sprint(x) != "1" {
							t.Errorf("%v", doc)
						}
					}
				})
			}
		}
	}
}

// Each of many writers at once gets a document of its own, and none is changed twice. Those that find none make
// one where they are to.
func TestWritersAtOnce(t *testing.T) {
	const writers, rounds, docs = 8, 5, 30 // 40 writes
	for name, cmd := range takers {
		t.Run(name, func(t *testing.T) {
			g := twoClusters(t)
			for id := range docs {
				g.insert(t, id, []string{"acme", "globex", "initech"}[id%3])
			}
			var changed, made atomic.Int32
			var wg sync.WaitGroup
			for w := range writers {
				client := wiretest.Dial(t, g.addr)
				wg.Go(func() {
					for round := range rounds {
						r := client.Run("app", append(cmd[:len(cmd):len(cmd)], d("lsid", session(byte(w+1)), "txnNumber", int64(round+1))...))
						c, m := took(r)
						changed.Add(c)
						made.Add(m)
						if wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "writeErrors") != nil {
							t.Errorf("%v", r)
						}
					}
				})
			}
			wg.Wait()
			wantMade := int32(0)
			if name == "upsert" || name == "findAndModify upsert" {
				wantMade = writers*rounds - docs
			}
			if changed.Load() != docs || made.Load() != wantMade {
				t.Errorf("%d writers have changed %d of %d documents and made %d, want %d", writers*rounds, changed.Load(), docs, made.Load(), wantMade)
			}
			all := append(g.server.Docs("app", "orders"), g.big.Docs("app_t_acme", "orders")...)
			if want := docs + int(wantMade); name != "delete" && len(all) != want || name == "delete" && len(all) != 0 {
				t.Errorf("%d documents, want %d", len(all), want)
			}
			for _, doc := range all {
				if x := fmt.Sprint(wiretest.Get(doc, "x")); x != "1" {
					t.Errorf("changed otherwise than once: %v", doc)
				}
			}
		})
	}
}

// What a server is left to choose among is not what waits: the tenant's document stays as it is until its
// route is settled.
func TestOutrunMeetsPaused(t *testing.T) {
	paused := func(epoch uint64, waits bool) *routing.Table {
		return tableOf(t, epoch, func(s *routing.Spec) {
			s.Tenants = append(s.Tenants, routing.TenantSpec{ID: wire.StringValue("initech"), Key: "initech", Num: 3, Paused: waits})
		})
	}
	for name, cmd := range takers {
		asked := false
		g := newGround(t, func(g *ground) {
			if x := wiretest.Get(g.server.Docs("app", "orders")[1], "x"); x != int32(0) {
				t.Errorf("%s: a paused tenant's document was written to: x is %v", name, x)
			}
			asked = true
			g.router.Publish(paused(3, false))
		})
		g.insert(t, 0, "globex")
		g.insert(t, 1, "initech")
		g.router.Publish(paused(2, true))
		g.racing(t, func(write int, server, _ *wiretest.Client) {
			if write == 1 {
				takeAt(server, "app", 0)
			}
		})
		r := g.client.Run("app", cmd)
		if n, _ := took(r); n != 1 || !asked {
			t.Errorf("%s: asked %v: %v", name, asked, r)
		}
	}
}

// A write that is outrun for longer than a command may wait says so, and a driver sends it again: it is never
// told that there was nothing.
func TestOutrunForLong(t *testing.T) {
	for name, cmd := range takers {
		g := newGround(t, nil)
		set := *g.proxy.settings.Load()
		set.queueTimeout = 20 * time.Millisecond
		g.proxy.settings.Store(&set)
		direct := wiretest.Dial(t, g.server.Addr())
		id := 0
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			switch {
			case c.Value("comment") == "another":
			case c.Name == "find" && c.DB == "app":
				id++
				direct.Run("app", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", "globex", "x", 0)}))
			case c.Name == "update" || c.Name == "delete" || c.Name == "findAndModify":
				takeAt(direct, "app", id)
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", append(cmd[:len(cmd):len(cmd)], d("lsid", session(1), "txnNumber", int64(1))...))
		labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
		if wiretest.Get(r, "code") != int32(112) || len(labels) != 1 || labels[0] != "RetryableWriteError" {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// What is found again and again, and never written to, is none that the write is for.
func TestFoundInVain(t *testing.T) {
	for name, cmd := range takers {
		g := newGround(t, nil)
		g.insert(t, 0, "globex")
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			q := c.Value("query", "$and")
			for _, name := range []string{"updates", "deletes"} {
				for _, entry := range c.Docs(name) {
					q = wiretest.Get(wiretest.Decode(entry), "q", "$and")
				}
			}
			if q != nil && strings.Contains(fmt.Sprint(q), "x 0") {
				return wiretest.OK(d("n", 0, "nModified", 0)...)
			}
			return wiretest.Pass()
		})
		r := g.client.Run("app", cmd)
		if wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "writeErrors") != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// A sorted write that is outrun looks for the first of all documents again, which may be in another home; and
// then takes the first of one.
func TestSortedIsOutrun(t *testing.T) {
	g := newGround(t, nil)
	writes := 0
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		switch ns := c.DB + ".orders"; c.Name {
		case "find":
			tenant, key := "globex", 5
			if c.DB != "app" {
				tenant, key = "acme", 5+2*(writes%2)-1
			}
			return wiretest.Cursor(ns, 0, true, d("_id", writes, "tenantId", tenant, sortKey, bson.A{key}))
		case "findAndModify":
			n := 0
			if writes++; writes > maxOutrun {
				n = 1
			}
			return wiretest.OK(d("lastErrorObject", d("n", n, "updatedExisting", n == 1), "value", nil)...)
		}
		return wiretest.Pass()
	})
	r := g.client.Run("app", d("findAndModify", "orders", "query", d("x", 0), "sort", d("n", 1), "update", d("$set", d("x", 9))))
	if n, _ := took(r); n != 1 {
		t.Fatalf("%v", r)
	}
	for i, c := range g.server.Commands("findAndModify") {
		want, byID := map[bool]string{true: "app", false: "app_t_acme"}[i%2 == 1 && i < maxOutrun], i < maxOutrun
		if i == maxOutrun {
			want = "app"
		}
		if q := fmt.Sprint(c.Value("query")); c.DB != want || strings.Contains(q, "_id") != byID || c.Value("sort") == nil {
			t.Errorf("write %d to %s by %s, want to %s, by _id %v", i, c.DB, q, want, byID)
		}
	}
}

// A write that has found nothing changes no document that comes before it is told so: in whose home that is
// nobody has looked.
func TestNothingFoundWritesNothing(t *testing.T) {
	for _, numbered := range []bool{true, false} {
		for name, cmd := range map[string]bson.D{
			"update":        d("update", "orders", "updates", bson.A{d("q", d("x", 0), "u", d("$set", d("tenantId", "acme")))}),
			"findAndModify": d("findAndModify", "orders", "query", d("x", 0), "update", d("$set", d("tenantId", "acme"))),
		} {
			g := newGround(t, nil)
			g.racing(t, func(_ int, server, _ *wiretest.Client) {
				server.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 0, "tenantId", "globex", "x", 0)}))
			})
			if numbered {
				cmd = append(cmd[:len(cmd):len(cmd)], d("lsid", session(1), "txnNumber", int64(1))...)
			}
			r := g.client.Run("app", cmd)
			if n, _ := took(r); n != 0 || wiretest.Get(g.server.Docs("app", "orders")[0], "tenantId") != "globex" {
				t.Errorf("%s: %v; %v", name, r, g.server.Docs("app", "orders"))
			}
		}
	}
}

// An upsert by _id whose document was found in one home, and would be made in another, makes it there when it
// is gone by then.
func TestUpsertOfDeletedElsewhere(t *testing.T) {
	upsert := d("$set", d("y", 1), "$setOnInsert", d("tenantId", "globex"))
	entry := func(id int) bson.D { return d("q", d("_id", id), "u", upsert, "upsert", true) }
	for name, cmd := range map[string]bson.D{
		"one":       d("update", "orders", "updates", bson.A{entry(0)}),
		"ordered":   d("update", "orders", "updates", bson.A{entry(0), entry(1)}),
		"unordered": d("update", "orders", "updates", bson.A{entry(1), entry(0)}, "ordered", false),
		"modify":    d("findAndModify", "orders", "query", d("_id", 0), "update", upsert, "upsert", true),
	} {
		for _, guess := range []bool{true, false} {
			g := newGround(t, nil)
			direct := wiretest.Dial(t, g.server.Addr())
			direct.Run("app_t_acme", d("insert", "orders", "documents", bson.A{d("_id", 0, "tenantId", "acme"), d("_id", 1, "tenantId", "acme")}))
			if guess {
				g.client.Run("app", d("find", "orders", "filter", d("_id", 0)))
			}
			first := true
			g.racing(t, func(_ int, server, _ *wiretest.Client) {
				if first {
					server.Run("app_t_acme", d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)}, "comment", "another"))
				}
				first = false
			})
			r := g.client.Run("app", cmd)
			if g.wantHeld(t, "[0]", "[1]"); t.Failed() {
				t.Errorf("%s, guess %v: %v", name, guess, r)
			}
		}
	}
}

// The reply to a write that was outrun, and then was for whichever document the home had, is lost: the retry finds
// what was done, though others match by then. So it finds the document that an upsert has made.
func TestRetryOfOutrun(t *testing.T) {
	for name, cmd := range takers {
		for _, makes := range []bool{false, true} {
			if makes && name != "upsert" && name != "findAndModify upsert" {
				continue
			}
			g := twoClusters(t)
			g.insert(t, 0, "globex")
			if !makes {
				g.insert(t, 1, "globex")
			}
			g.insert(t, 2, "initech")
			command, lost := cmd[0].Key, wiretest.Pass().ThenHangUp()
			g.racing(t, func(write int, server, _ *wiretest.Client) {
				switch {
				case write == 1 && makes:
					takeAt(server, "app", 0, 2)
					g.big.Once(command, lost)
				case write == 1:
					takeAt(server, "app", 0)
					g.server.Once(command, lost)
				}
			})
			cmd := append(cmd[:len(cmd):len(cmd)], d("lsid", session(1), "txnNumber", int64(1))...)
			if r := g.client.Run("app", cmd); wiretest.Get(r, "code") != int32(6) {
				t.Fatalf("%s: the lost reply: %v", name, r)
			}
			g.insert(t, 3, "acme")
			g.insert(t, 4, "globex")
			r := g.client.Run("app", cmd)
			changed, made := took(r)
			if makes != (made == 1) || makes == (changed == 1) {
				t.Errorf("%s, makes %v: changed %d, made %d: %v", name, makes, changed, made, r)
			}
			ones := 0
			for _, doc := range append(g.server.Docs("app", "orders"), g.big.Docs("app_t_acme", "orders")...) {
				if x := fmt.Sprint(wiretest.Get(doc, "x")); x == "1" {
					ones++
				}
			}
			if want := map[bool]int{true: 0, false: 1}[name == "delete"]; ones != want {
				t.Errorf("%s, makes %v: %d documents were changed or made, want %d", name, makes, ones, want)
			}
		}
	}
}

// A write that the client has sent again without waiting is done by its last try.
func TestRecallOfLastTry(t *testing.T) {
	x := newRecalls()
	k := recallKey{number: 1}
	first := x.begin()
	if !x.put(k, place{}, first) {
		t.Error("the first try may go on")
	}
	retry := x.begin()
	if _, ok := x.get(k, retry); !ok {
		t.Error("the retry does not find the first try")
	}
	if x.put(k, place{}, first) || !x.put(k, place{}, retry) {
		t.Error("the first try goes on, or the retry does not")
	}
}
