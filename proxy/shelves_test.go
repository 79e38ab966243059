package proxy

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// twoTenants are listeners for acme, for globex, and an open one.
func twoTenants(t *testing.T) (g *guarded, acme, globex *wiretest.Client) {
	t.Helper()
	of := func(tenant string) config.Listener {
		return config.Listener{Tenant: tenant, Isolation: "rows", Access: "write"}
	}
	g = guard(t, newGround(t, nil), nil, of("acme"), of("globex"))
	return g, g.dial(t, 1), g.dial(t, 2)
}

func nthSession(n int) (id sessionID) {
	binary.BigEndian.PutUint32(id[:], uint32(n))
	id[6], id[8] = 0x40, 0x80
	return id
}

func TestTransactionsOfOnePrincipalAreBounded(t *testing.T) {
	g, acme, globex := twoTenants(t)
	open := func(c *wiretest.Client, number int64, n int) bson.D {
		id := nthSession(n)
		return c.Run("app", d("insert", "orders", "documents", bson.A{d("_id", n)}, "lsid", d("id", bson.Binary{Subtype: 4, Data: id[:]}),
			"txnNumber", number, "autocommit", false, "startTransaction", true))
	}
	if r := open(globex, 1, 1); wiretest.Get(r, "ok") != 1.0 {
		t.Fatalf("got %v", r)
	}
	for i := range maxOfBound {
		if _, err := g.proxy.txns.find(txnKey{"tenant:acme", nthSession(i)}, 1, true, 1, maxOfBound, g.proxy.flights); err != nil {
			t.Fatal(err)
		}
	}
	before := len(g.server.Commands("insert"))
	if r := open(acme, 1, maxOfBound); wiretest.Get(r, "code") != int32(261) || wiretest.Get(r, "codeName") != "TooManyLogicalSessions" {
		t.Errorf("one too many: %v", r)
	}
	if seen := len(g.server.Commands("insert")); seen != before {
		t.Errorf("it reached the server")
	}
	if r := open(acme, 2, 5); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("the next one of a session that has one: %v", r)
	}
	id := nthSession(1)
	for _, c := range []*wiretest.Client{globex, g.client} {
		if r := open(c, 1, 2); wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("another principal: %v", r)
		}
	}
	if r := globex.Run("admin", d("commitTransaction", 1, "lsid", d("id", bson.Binary{Subtype: 4, Data: id[:]}), "txnNumber", int64(1), "autocommit", false)); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("the transaction of another principal was pushed out: %v", r)
	}
}

func TestTransactionsThatMayGo(t *testing.T) {
	x, f := newTxns(), newFlights()
	begin := func(n int) (*txn, bool) {
		tx, err := x.find(txnKey{"a", nthSession(n)}, 1, true, 1, 3, f)
		return tx, err == nil
	}
	first, _ := begin(1)
	second, _ := begin(2)
	third, _ := begin(3)
	if _, ok := begin(4); ok {
		t.Fatal("there is room for more than there is")
	}
	second.state = txnEnded
	if _, ok := begin(4); !ok {
		t.Fatal("no room in the place of one that has ended")
	}
	k := flightKey{tenant: 7, epoch: 1}
	f.enter(k)
	f.enter(k)
	third.count(k, f)
	third.count(k, f)
	if len(third.flights) != 1 {
		t.Errorf("%d flights of a transaction are remembered that are the same", len(third.flights))
	}
	third.used = time.Now().Add(-txnHeld - time.Second)
	if _, ok := begin(5); !ok || f.older(7, 2, 0) {
		t.Errorf("one that servers have aborted: room %v, writes still counted %v", ok, f.older(7, 2, 0))
	}
	if _, err := x.find(txnKey{"a", nthSession(1)}, 1, false, 1, 3, f); err != nil || first.state != txnOpen {
		t.Errorf("one that is open was forgotten: %v", err)
	}
	x.reap(time.Now().Add(txnIdle+time.Minute), f)
	if len(x.kept) != 0 {
		t.Errorf("%d principals are remembered for nothing", len(x.kept))
	}
}

func TestClocksOfOnePrincipalAreBounded(t *testing.T) {
	x := newClocks()
	x.note(txnKey{"b", nthSession(1)}, "home", 7, 3)
	for i := range 100 {
		x.note(txnKey{"a", nthSession(i)}, "home", uint64(i+1), 3)
		x.note(txnKey{"a", nthSession(0)}, "big", 5, 3)
	}
	if n := x.kept.size(); n != 4 {
		t.Errorf("%d sessions are remembered", n)
	}
	if own, _ := x.of(txnKey{"b", nthSession(1)}, "home", 7); own != 7 {
		t.Error("the session of another principal was pushed out")
	}
	if own, _ := x.of(txnKey{"a", nthSession(0)}, "big", 5); own != 5 {
		t.Error("a session that is used was pushed out")
	}
}

// The oldest cursor ends where a bound client opens one too many, at the server too, and no other one's.
func TestCursorsOfOnePrincipalAreBounded(t *testing.T) {
	g, acme, globex := twoTenants(t)
	open := func(c *wiretest.Client) any {
		g.server.Once("find", wiretest.Cursor("app.orders", 7, true))
		return wiretest.Get(c.Run("app", d("find", "orders", "batchSize", 0)), "cursor", "id")
	}
	next := func(c *wiretest.Client, id any) any {
		g.server.Once("getMore", wiretest.Cursor("app.orders", 0, false))
		return wiretest.Get(c.Run("app", d("getMore", id, "collection", "orders")), "code")
	}
	theirs, oldest, used := open(globex), open(acme), open(acme)
	for range maxOfBound - 3 {
		cur := &cursor{principal: "tenant:acme", bound: true}
		g.proxy.cursors.add(cur)
		g.proxy.cursors.count(cur, maxOfBound)
	}
	if next(acme, oldest) != nil { // and is over by that
		t.Error("there was no room for as many as there is")
	}
	oldest = open(acme)
	g.server.Once("getMore", wiretest.Cursor("app.orders", 0, false))
	for _, cur := range g.proxy.cursors.bound.of("tenant:acme").at { // all but one are used
		x := cur.Value.(*shelved[int64, *cursor])
		if x.key != oldest.(int64) {
			g.proxy.cursors.touch(x.value)
		}
	}
	open(acme)
	open(acme)
	if killed := g.server.Wait("killCursors", 1); len(killed) != 1 {
		t.Error("the cursor at the server was not ended")
	}
	if code := next(acme, oldest); code != int32(43) {
		t.Errorf("the cursor that was not used: %v", code)
	}
	for name, code := range map[string]any{"used": next(acme, used), "another principal's": next(globex, theirs)} {
		if code != nil {
			t.Errorf("%s: %v", name, code)
		}
	}
}

// A find that makes a cursor too many is answered when that one has ended, also where a loop serves it: what one
// client's ends take of the servers is one connection.
func TestCursorsEndBeforeTheAnswer(t *testing.T) {
	g, acme, globex := twoTenants(t)
	release := make(chan struct{})
	finish := sync.OnceFunc(func() { close(release) })
	defer finish()
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		switch cmd.Name {
		case "killCursors":
			return wiretest.OK().After(release)
		case "find":
			return wiretest.Cursor("app.orders", 7, true)
		}
		return wiretest.Pass()
	})
	find := d("find", "orders", "batchSize", 0)
	globex.Run("app", find) // the server is known by that, so that loops serve those who find
	untilNoneIsAttended(t)
	first := wiretest.Get(acme.Run("app", find), "cursor", "id").(int64)
	for range maxOfBound - 1 {
		cur := &cursor{principal: "tenant:acme", bound: true}
		g.proxy.cursors.add(cur)
		g.proxy.cursors.count(cur, maxOfBound)
	}
	if n := attended(); n != 0 {
		t.Fatalf("%d are served by a goroutine", n)
	}
	if _, err := acme.TrySend(wiretest.Outgoing{Body: append(slices.Clip(find), bson.E{Key: "$db", Value: "app"})}); err != nil {
		t.Fatal(err)
	}
	g.server.Wait("killCursors", 1)
	if n := attended(); n != 1 {
		t.Errorf("%d goroutines end the cursor, want 1", n)
	}
	for range 4 { // whose clients all loops serve
		if r := g.dial(t, 2).Run("app", find); wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("meanwhile another tenant: %v", r)
		}
	}
	answered := make(chan bson.D, 1)
	go func() {
		in, err := acme.TryReceive()
		if err != nil {
			t.Error(err)
		}
		answered <- in.D()
	}()
	select {
	case r := <-answered:
		t.Errorf("it was answered before: %v", r)
	case <-time.After(30 * time.Millisecond):
	}
	finish()
	if r := <-answered; wiretest.Get(r, "ok") != 1.0 {
		t.Error(r)
	}
	if r := acme.Run("app", d("getMore", first, "collection", "orders")); wiretest.Get(r, "code") != int32(43) {
		t.Errorf("the cursor that was one too many: %v", r)
	}
}

// Of a principal's cursors that are over by time nothing is kept.
func TestBoundCursorsAreForgotten(t *testing.T) {
	x := newCursors()
	for i := range 5 {
		cur := &cursor{principal: fmt.Sprint("tenant:", i%2), bound: i < 4}
		x.add(cur)
		if cur.bound {
			x.count(cur, 10)
		}
		if cur.used = time.Now(); i == 0 {
			cur.used = cur.used.Add(time.Hour)
		}
	}
	x.reap(time.Now().Add(cursorIdle + time.Minute))
	if len(x.bound) != 1 || x.bound.size() != 1 || x.open() != 1 {
		t.Errorf("%d of %d principals, %d", x.bound.size(), len(x.bound), x.open())
	}
}

// A bound client that takes a new session for each command does not take those of all from the server.
func TestSessionsOfOnePrincipalAreBounded(t *testing.T) {
	g, acme, globex := twoTenants(t)
	in := func(n int) bson.D {
		id := nthSession(n)
		return d("id", bson.Binary{Subtype: 4, Data: id[:]})
	}
	insert := func(c *wiretest.Client, n int) any {
		return wiretest.Get(c.Run("app", d("insert", "orders", "documents", bson.A{d("x", 1)}, "lsid", in(n))), "code")
	}
	for n := range maxOfBound - 1 {
		if !g.proxy.begun.note("tenant:acme", nthSession(n), maxOfBound, time.Now()) {
			t.Fatal(n)
		}
	}
	if code := insert(acme, maxOfBound); code != nil {
		t.Errorf("the last that there is room for: %v", code)
	}
	before := len(g.server.Commands("insert"))
	if code := insert(acme, maxOfBound+1); code != int32(261) || len(g.server.Commands("insert")) != before {
		t.Errorf("one too many: %v", code)
	}
	if r := acme.Run("admin", d("refreshSessions", bson.A{in(maxOfBound + 2)})); wiretest.Get(r, "code") != int32(261) || len(g.server.Commands("refreshSessions")) > 0 {
		t.Errorf("one too many to be refreshed: %v", r)
	}
	for name, code := range map[string]any{"one that there is": insert(acme, maxOfBound), "another principal's": insert(globex, maxOfBound+1), "an open one": insert(g.client, maxOfBound+1)} {
		if code != nil {
			t.Errorf("%s: %v", name, code)
		}
	}
	acme.Run("admin", d("endSessions", bson.A{in(7)}))
	if code := insert(acme, maxOfBound+1); code != nil {
		t.Errorf("in the place of one that was ended: %v", code)
	}
	g.proxy.begun.reap(time.Now().Add(txnIdle + time.Minute))
	if len(g.proxy.begun.kept) != 0 {
		t.Error("sessions that servers have forgotten are remembered")
	}
}

// Of cursors whose documents wait here, a bound client's may hold no more than a share: those that were used
// least recently end, but for one that is being read.
func TestHeldDocumentsAreBounded(t *testing.T) {
	g := newGround(t, nil)
	c := newClientConn(g.proxy, noConn{}, &config.Listener{Tenant: "acme", Isolation: "rows", Access: "write"})
	c.takeWork(true)
	defer c.giveWork()
	doc := wiretest.D(d("x", strings.Repeat("x", 10<<20))) // the same of all, so that the test needs little
	open := func(docs int) *cursor {
		cur := &cursor{principal: "tenant:acme", merged: &merged{streams: []*stream{{flow: &flow{from: []*stream{{docs: slices.Repeat([]wire.Doc{doc}, docs)}}}}}}}
		c.keep(cur)
		return cur
	}
	there := func(cur *cursor) bool {
		s := g.proxy.cursors.shard(cur.id)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.m[cur.id] != nil
	}
	first, busy, third := open(2), open(2), open(2)
	if !there(first) || !there(busy) {
		t.Fatal("there was room for 60 MB")
	}
	busy.mu.Lock()
	fourth := open(2)
	if there(first) || !there(busy) || !there(third) || !there(fourth) {
		t.Errorf("with 80 MB the first should have ended: %v %v %v %v", there(first), there(busy), there(third), there(fourth))
	}
	busy.mu.Unlock()
	third.merged.streams[0].docs = slices.Repeat([]wire.Doc{doc}, 4) // what a getMore brings
	g.proxy.cursors.touch(third)
	c.weigh(third)
	if there(busy) || !there(third) || there(fourth) {
		t.Errorf("with more in the third the others should have ended: %v %v %v", there(busy), there(third), there(fourth))
	}
}

// What is over is found without a look at all that is not, and taken out in goes of a bounded length.
func TestExpire(t *testing.T) {
	now, looks := time.Now(), 0
	x := shelves[int, time.Time]{}
	over := func(used time.Time) bool {
		looks++
		return now.Sub(used) > txnIdle
	}
	const old, young = 2*atOnce + 7, 50_000
	for i := range old {
		x.of("app").put(i, now.Add(-txnIdle-time.Minute))
	}
	x.of("gone").put(0, now.Add(-txnIdle-time.Minute))
	for i := range young {
		x.of("app").put(old+i, now)
	}
	for i := range 500 {
		x.of(fmt.Sprint("of many ", i)).put(i, now.Add(-txnIdle-time.Minute))
	}
	calls := 1
	for had := x.size(); x.expire(over); calls++ {
		left := x.size()
		if had-left > atOnce {
			t.Errorf("%d were taken out at once", had-left)
		}
		had = left
	}
	if x.size() != young || len(x) != 1 || calls != 3 {
		t.Errorf("%d of %d left of %d principals, %d calls", x.size(), young, len(x), calls)
	}
	if most := old + 501 + calls; looks > most {
		t.Errorf("%d looks for %d that are over", looks, old+501)
	}
}

func TestClocksAreForgotten(t *testing.T) {
	x, now := newClocks(), time.Now()
	for i := range 3 {
		x.note(txnKey{"a", nthSession(i)}, "home", 5, 10)
		s, _ := x.kept.of("a").get(nthSession(i))
		s.used = now.Add(time.Duration(i) * time.Minute)
	}
	x.of(txnKey{"a", nthSession(0)}, "home", 5) // which does not use it
	for _, c := range []struct {
		after time.Duration
		left  int
	}{{0, 3}, {time.Second, 3}, {time.Minute + time.Second, 2}, {2*time.Minute + time.Second, 0}} {
		x.reap(now.Add(txnIdle + c.after))
		if n := x.kept.size(); n != c.left {
			t.Errorf("%v behind: %d are remembered, want %d", c.after, n, c.left)
		}
	}
}
