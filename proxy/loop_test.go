package proxy

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// storm is many clients at work at once, each of which knows what its own documents are.
type storm struct {
	*ground
	until  time.Time
	drops  bool // so that commands may fail
	served atomic.Int64
	failed atomic.Int64

	mu    sync.Mutex // guards the following
	wrote map[string]bool
}

// stormer is one client.
type stormer struct {
	*storm
	name, tenant string
	addr         string
	bound        bool // to its tenant
	rnd          *rand.Rand
	c            *wiretest.Client
	made         []string // ids of documents whose insert was acknowledged
	n            int
}

// lost notes a command that has failed.
func (s *stormer) lost(why any) {
	if s.failed.Add(1); !s.drops {
		s.errorf("%v", why)
	}
}

func (s *stormer) errorf(format string, args ...any) {
	s.t.Errorf("%s of %s: %s", s.name, s.tenant, fmt.Sprintf(format, args...))
}

// work does one thing; false where the connection was lost.
func (s *stormer) work() bool {
	s.n++
	switch s.rnd.IntN(10) {
	case 0, 1:
		return s.insert()
	case 2:
		return s.behindEachOther()
	case 3: // of all databases
		return s.find(d("owner", s.name), "")
	case 4:
		return s.bound || s.large() // platform collections are closed to who is bound
	case 5:
		r, ok := s.try(d("count", "orders", "query", d("tenantId", s.tenant, "owner", s.name)))
		if ok && r != nil && fmt.Sprint(wiretest.Get(r, "n")) != fmt.Sprint(len(s.made)) && s.failed.Load() == 0 {
			s.errorf("a count of %v, want %d", wiretest.Get(r, "n"), len(s.made))
		}
		return ok
	case 6:
		if s.rnd.IntN(8) == 0 { // and leaves in the middle of a command
			_, _ = s.c.TrySend(wiretest.Outgoing{Body: d("find", "orders", "filter", d("tenantId", s.tenant), "$db", "app")})
			return false
		}
		_, ok := s.try(d("ping", 1))
		return ok
	}
	if len(s.made) == 0 {
		return true
	}
	id := s.made[s.rnd.IntN(len(s.made))]
	return s.find(d("tenantId", s.tenant, "_id", id), id)
}

// try runs a command; the reply is nil where it was refused.
func (s *stormer) try(cmd bson.D) (r bson.D, ok bool) {
	got, err := s.c.Try(append(cmd, bson.E{Key: "$db", Value: "app"}))
	if err != nil {
		s.lost(err)
		return nil, false
	}
	s.served.Add(1)
	r = wiretest.Decode(got)
	if wiretest.Get(r, "ok") != 1.0 {
		s.lost(r)
		if code := wiretest.Get(r, "code"); code != int32(wire.HostUnreachable) {
			s.errorf("%v: %v", cmd, r)
		}
		return nil, true
	}
	return r, true
}

func (s *stormer) insert() bool {
	id := fmt.Sprintf("%s-%d", s.name, s.n)
	r, ok := s.try(d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", s.tenant, "owner", s.name)}))
	if r != nil && wiretest.Get(r, "n") == int32(1) {
		s.made = append(s.made, id)
		s.mu.Lock()
		s.wrote[id] = true
		s.mu.Unlock()
	}
	return ok
}

// find looks at each document that comes: it is the client's own.
func (s *stormer) find(filter bson.D, id string) bool {
	r, ok := s.try(d("find", "orders", "filter", filter, "batchSize", 1000))
	if r != nil {
		s.check(r, id)
	}
	return ok
}

func (s *stormer) check(r bson.D, id string) {
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	for _, x := range docs {
		doc := x.(bson.D)
		if wiretest.Get(doc, "owner") != s.name || wiretest.Get(doc, "tenantId") != s.tenant || id != "" && wiretest.Get(doc, "_id") != id {
			s.errorf("got %v", doc)
		}
	}
	if id != "" && len(docs) != 1 {
		s.errorf("%d documents for %s", len(docs), id)
	}
}

// behindEachOther sends several commands before it reads an answer.
func (s *stormer) behindEachOther() bool {
	if len(s.made) == 0 {
		return true
	}
	type asked struct {
		request int32
		id      string
	}
	var all []asked
	for range 1 + s.rnd.IntN(4) {
		id := s.made[s.rnd.IntN(len(s.made))]
		n, err := s.c.TrySend(wiretest.Outgoing{Body: d("find", "orders", "filter", d("tenantId", s.tenant, "_id", id), "$db", "app")})
		if err != nil {
			s.lost(err)
			return false
		}
		all = append(all, asked{n, id})
	}
	for _, a := range all {
		in, err := s.c.TryReceive()
		if err != nil {
			s.lost(err)
			return false
		}
		if in.ResponseTo != a.request {
			s.errorf("the answer to %d, want %d", in.ResponseTo, a.request)
			return false
		}
		s.served.Add(1)
		if r := in.D(); wiretest.Get(r, "ok") == 1.0 {
			s.check(r, a.id)
		} else {
			s.lost(r)
		}
	}
	return true
}

// large has a reply that does not come with one read.
func (s *stormer) large() bool {
	r, ok := s.try(d("find", "users", "filter", d("owner", s.name)))
	if r == nil {
		return ok
	}
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if len(docs) != 1 || wiretest.Get(docs[0].(bson.D), "owner") != s.name {
		s.errorf("%d large documents", len(docs))
	}
	return ok
}

// run works until the time is over.
func (s *stormer) run() {
	for time.Now().Before(s.until) {
		nc, err := dialed(s.addr)
		if err != nil {
			s.errorf("%v", err)
			return
		}
		s.c = wiretest.NewClient(s.t, nc)
		for time.Now().Before(s.until) && s.work() {
		}
		s.c.Close()
	}
}

// TestLoopStorm: whatever happens to connections on both sides, to tables and to limits, each client gets
// the answers to its own commands, what was acknowledged is there once, and nothing is left held.
func TestLoopStorm(t *testing.T) {
	for name, c := range map[string]struct {
		limits    backend.Limits
		perTenant int
		slow      time.Duration
		drops     bool
		clients   int
		socket    bool
		bound     bool
	}{
		"few connections":  {limits: backend.Limits{MaxPerServer: 3, MaxPerTenant: 2}, clients: 24},
		"many connections": {limits: backend.Limits{MaxPerServer: 60}, slow: 4 * time.Millisecond, clients: 48},
		"few places":       {limits: backend.Limits{MaxPerServer: 60}, perTenant: 2, clients: 24},
		"unix sockets":     {limits: backend.Limits{MaxPerServer: 60}, slow: 4 * time.Millisecond, clients: 48, socket: true},
		"bound to rows":    {limits: backend.Limits{MaxPerServer: 60}, slow: 4 * time.Millisecond, clients: 48, bound: true},
		"lost servers":     {limits: backend.Limits{MaxPerServer: 8}, slow: time.Millisecond, drops: true, clients: 24},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t, nil)
			set := *g.proxy.settings.Load()
			set.perTenant, set.queueTimeout = c.perTenant, 5*time.Second
			g.proxy.settings.Store(&set)
			if err := g.clusters.Apply(g.specs, c.limits); err != nil {
				t.Fatal(err)
			}
			if c.socket {
				g.addr = g.bySocket(t, 0o600)
			}
			var addrs map[string]string
			if c.bound {
				addrs = g.boundToEach(t, "acme", "globex")
			}
			s := &storm{ground: g, drops: c.drops, wrote: map[string]bool{}}
			var all []*stormer
			for i := range c.clients {
				one := &stormer{storm: s, name: fmt.Sprint("client", i), tenant: []string{"acme", "globex"}[i%2], rnd: rand.New(rand.NewPCG(7, uint64(i)))}
				if one.addr = g.addr; c.bound {
					one.addr, one.bound = addrs[one.tenant], true
				}
				all = append(all, one)
				g.client.Run("app", d("insert", "users", "documents", bson.A{d("owner", one.name, "text", strings.Repeat(one.name, 3000))}))
			}
			if c.slow > 0 {
				g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
					if cmd.Name == "find" || cmd.Name == "insert" || cmd.Name == "count" {
						time.Sleep(rand.N(c.slow))
					}
					return wiretest.Pass()
				})
			}
			s.until = time.Now().Add(stormTime(t))
			var wg sync.WaitGroup
			for _, one := range all {
				wg.Go(one.run)
			}
			wg.Go(func() {
				for epoch := uint64(2); time.Now().Before(s.until); epoch++ {
					time.Sleep(10 * time.Millisecond)
					g.router.Publish(tableOf(t, epoch, func(s *routing.Spec) { s.Version = epoch }))
					if c.drops && epoch%5 == 0 {
						g.server.Drop()
					}
				}
			})
			wg.Wait()
			s.settled(t)
		})
	}
}

func stormTime(t *testing.T) time.Duration {
	t.Helper()
	if testing.Short() {
		return 300 * time.Millisecond
	}
	return 1500 * time.Millisecond
}

func (s *storm) settled(t *testing.T) {
	t.Helper()
	if n := s.served.Load(); n < 50 {
		t.Errorf("%d commands were served", n)
	}
	there := map[string]int{}
	for db, tenant := range map[string]string{"app": "globex", "app_t_acme": "acme"} {
		for _, doc := range s.server.Docs(db, "orders") {
			there[wiretest.Get(doc, "_id").(string)]++
			if wiretest.Get(doc, "tenantId") != tenant {
				t.Errorf("in %s: %v", db, doc)
			}
		}
	}
	for id := range s.wrote {
		if there[id] != 1 {
			t.Errorf("%s is there %d times", id, there[id])
		}
	}
	eventually := time.Now().Add(5 * time.Second)
	for s.held() != "" && time.Now().Before(eventually) {
		time.Sleep(10 * time.Millisecond)
	}
	if held := s.held(); held != "" {
		t.Error(held)
	}
}

// held is what is still taken though no client is left but the first.
func (s *storm) held() string {
	if n := s.proxy.Clients(); n != 1 {
		return fmt.Sprintf("%d clients are left", n)
	}
	for tenant := range uint32(3) {
		if s.proxy.flights.older(tenant, 1<<62, 0) {
			return fmt.Sprintf("a write of tenant %d is counted", tenant)
		}
	}
	s.proxy.rooms.mu.Lock()
	defer s.proxy.rooms.mu.Unlock()
	for tenant, r := range s.proxy.rooms.m {
		if !r.places.TryAcquire(int64(r.size)) {
			return fmt.Sprintf("a place of tenant %d is taken", tenant)
		}
		r.places.Release(int64(r.size))
	}
	return ""
}

// TestLoopWithAClientThatDoesNotRead: he waits for himself alone, and gets all when he reads.
func TestLoopWithAClientThatDoesNotRead(t *testing.T) {
	g := newGround(t, nil)
	text := strings.Repeat("x", 8000)
	g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme", "text", text)}))
	lazy := wiretest.Dial(t, g.addr)
	var sent []int32
	asking := make(chan struct{})
	go func() { // who reads nothing is not read from in the end
		defer close(asking)
		for range 4000 {
			n, err := lazy.TrySend(wiretest.Outgoing{Body: d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")})
			if err != nil {
				t.Error(err)
				return
			}
			sent = append(sent, n)
		}
	}()
	others := make([]*wiretest.Client, 8) // on each loop
	for i := range others {
		others[i] = wiretest.Dial(t, g.addr)
	}
	for range 50 {
		for _, c := range others {
			if r := c.Run("app", d("count", "orders", "query", d("tenantId", "acme"))); wiretest.Get(r, "n") != int32(1) {
				t.Fatal(r)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	for i := range 4000 {
		in := lazy.Receive()
		docs, _ := wiretest.Get(in.D(), "cursor", "firstBatch").(bson.A)
		if len(docs) != 1 || wiretest.Get(docs[0].(bson.D), "text") != text {
			t.Fatalf("answer %d: %d documents", i, len(docs))
		}
		if i == 3999 {
			<-asking
			if in.ResponseTo != sent[i] {
				t.Errorf("the last answer is to %d, want %d", in.ResponseTo, sent[i])
			}
		}
	}
}

// TestLoopPanics: a command that makes the proxy panic ends its own client alone, and holds nothing.
func TestLoopPanics(t *testing.T) {
	g := newGround(t, nil)
	set := *g.proxy.settings.Load()
	set.perTenant = 1
	g.proxy.settings.Store(&set)
	key := g.proxy.opts.FleetKey
	var broken atomic.Bool
	g.proxy.opts.FleetKey = func() []byte {
		if broken.Load() {
			panic("no key")
		}
		return key()
	}
	for i := range 5 {
		c, other := wiretest.Dial(t, g.addr), wiretest.Dial(t, g.addr)
		other.Run("app", d("ping", 1))
		broken.Store(true)
		insert := d("insert", "orders", "documents", bson.A{d("_id", i, "tenantId", "acme")}, "lsid", session(byte(i+1)), "txnNumber", int64(1), "$db", "app")
		if r, err := c.Try(insert); err == nil {
			t.Fatal(wiretest.Decode(r))
		}
		broken.Store(false)
		if r := other.Run("app", d("find", "orders", "filter", d("tenantId", "acme"), "lsid", session(byte(i+1)))); wiretest.Get(r, "ok") != 1.0 {
			t.Fatal(r)
		}
		other.Close()
	}
	s := &storm{ground: g}
	for late := time.Now().Add(5 * time.Second); s.held() != "" && time.Now().Before(late); {
		time.Sleep(10 * time.Millisecond)
	}
	if held := s.held(); held != "" {
		t.Error(held)
	}
}

// TestLoopShutdown: who waits for a connection, for a reply or for nothing does not keep a shutdown waiting
// for longer than it may; a command under way is answered before.
func TestLoopShutdown(t *testing.T) {
	g := newGround(t, nil)
	if err := g.clusters.Apply(g.specs, backend.Limits{MaxPerServer: 2}); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		if cmd.Name == "find" {
			return wiretest.OK(bson.E{Key: "cursor", Value: d("id", int64(0), "ns", "app.orders", "firstBatch", bson.A{})}).After(release)
		}
		return wiretest.Pass()
	})
	var all []*wiretest.Client
	for range 6 {
		c := wiretest.Dial(t, g.addr)
		c.Run("app", d("ping", 1))
		all = append(all, c)
	}
	for _, c := range all[:5] { // two wait for a reply, three for a connection
		if _, err := c.TrySend(wiretest.Outgoing{Body: d("find", "orders", "filter", d("tenantId", "globex"), "$db", "app")}); err != nil {
			t.Fatal(err)
		}
	}
	g.server.Wait("find", 2)
	ended := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		g.proxy.Shutdown(ctx)
		ended <- time.Since(began)
	}()
	all[5].Closed()
	if took := <-ended; took < 400*time.Millisecond || took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	close(release)
	for _, c := range all[:5] { // who waited for a connection may have been told so
		if in, err := c.TryReceive(); err == nil {
			if wiretest.Get(in.D(), "code") != int32(wire.HostUnreachable) {
				t.Error(in.D())
			}
			c.Closed()
		}
	}
}

// TestLoopHearsOfTheEndWithACommand: a client that sends a command and ends its side at once is answered,
// and its connection does not stay.
func TestLoopHearsOfTheEndWithACommand(t *testing.T) {
	g := newGround(t, nil)
	for range 20 {
		nc, err := dialed(g.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := wiretest.NewClient(t, nc)
		c.Run("app", d("ping", 1))
		if _, err := c.TrySend(wiretest.Outgoing{Body: d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")}); err != nil {
			t.Fatal(err)
		}
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if in := c.Receive(); wiretest.Get(in.D(), "ok") != 1.0 {
			t.Fatal(in.D())
		}
		c.Closed()
	}
}

// TestLoopReadsWhatAFullReadLeaves: of what lies behind a message that filled a read nobody is told again.
func TestLoopReadsWhatAFullReadLeaves(t *testing.T) {
	g := newGround(t, nil)
	find := func(id int32, size int) []byte {
		frame := func(pad int) []byte {
			return wire.AppendMessage(nil, id, 0, 0, wiretest.D(d("find", "orders", "filter", d("tenantId", "acme", "x", strings.Repeat("y", pad)), "$db", "app")))
		}
		return frame(size - len(frame(0)))
	}
	for _, size := range []int{wire.TakeSize - 1, wire.TakeSize, wire.TakeSize + 1, 3 * wire.TakeSize} {
		c := wiretest.Dial(t, g.addr)
		c.Run("app", d("find", "orders", "filter", d("tenantId", "acme")))
		if err := c.SendFrame(append(find(7, size), find(8, 200)...)); err != nil {
			t.Fatal(err)
		}
		for _, id := range []int32{7, 8} {
			if in := c.Receive(); in.ResponseTo != id || wiretest.Get(in.D(), "ok") != 1.0 {
				t.Errorf("%d bytes: the answer to %d, want %d", size, in.ResponseTo, id)
			}
		}
	}
}

// attended is how many clients have a goroutine.
func attended() int {
	stacks := make([]byte, 4<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*Server).attend("))
}

func untilNoneIsAttended(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); attended() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("who rests keeps a goroutine")
		}
	}
}

// TestLoopsServeWhatIsLight: neither an open nor a bound client has a goroutine while its light command is at a
// server; others have one.
func TestLoopsServeWhatIsLight(t *testing.T) {
	g := newGround(t, nil)
	open, bound := g.addr, g.boundToEach(t, "acme")["acme"]
	find := d("find", "orders", "filter", d("tenantId", "acme"))
	g.client.Run("app", find) // the server is known by that
	untilNoneIsAttended(t)
	for _, c := range []struct {
		name, addr string
		cmd        bson.D
		alone      int
	}{
		{"a find", open, find, 0},
		{"a bound client's find", bound, find, 0},
		{"a find with a read concern", open, append(slices.Clip(find), bson.E{Key: "readConcern", Value: d("level", "majority")}), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := wiretest.Dial(t, c.addr)
			release := make(chan struct{})
			finish := sync.OnceFunc(func() { close(release) })
			defer finish()
			g.server.Once("find", wiretest.Cursor("app.orders", 0, true).After(release))
			seen := len(g.server.Commands("find"))
			if _, err := client.TrySend(wiretest.Outgoing{Body: append(slices.Clip(c.cmd), bson.E{Key: "$db", Value: "app"})}); err != nil {
				t.Fatal(err)
			}
			g.server.Wait("find", seen+1)
			if n := attended(); n != c.alone {
				t.Errorf("%d goroutines serve it, want %d", n, c.alone)
			}
			finish()
			if in, err := client.TryReceive(); err != nil || wiretest.Get(in.D(), "ok") != 1.0 {
				t.Error(err)
			}
		})
	}
}
