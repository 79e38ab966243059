package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// line acquires in the background and sends what it got.
func line(c *Cluster, tenant uint32) chan *Conn {
	got := make(chan *Conn, 1)
	go func() {
		conn, _ := c.Acquire(context.Background(), write, tenant)
		got <- conn
	}()
	return got
}

func (p *pool) waitingFor(n int) func() bool {
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		waiting := p.queue.len
		for _, s := range p.shares() {
			waiting += s.blocked.len
		}
		return waiting == n
	}
}

func TestWaitersAreServedInOrder(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 1})
	conn := acquire(t, c, write, 0)
	var lines []chan *Conn
	for i := range 5 {
		lines = append(lines, line(c, uint32(i)))
		eventually(t, "waiting", conn.pool.waitingFor(i+1))
	}
	for i, l := range lines {
		conn.Release()
		select {
		case conn = <-l:
		case <-time.After(time.Second):
			t.Fatalf("waiter %d was not served in its turn", i)
		}
	}
	conn.Release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted > 3 { // one of ours, the monitor's two
		t.Errorf("%d connections", s.accepted)
	}
}

func TestTenantsDoNotWaitBehindAnother(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 3, MaxPerTenant: 2})
	a, b := acquire(t, c, write, 1), acquire(t, c, write, 1)
	p := a.pool
	third := line(c, 1)
	eventually(t, "blocked", p.waitingFor(1))
	other := acquire(t, c, write, 2)
	fourth := line(c, 1)
	eventually(t, "blocked", p.waitingFor(2))
	other2 := line(c, 2)
	eventually(t, "waiting", p.waitingFor(3))
	other.Release() // tenant 1 has its share: tenant 2 is served though it came last
	other = <-other2
	a.Release()
	a = <-third
	select {
	case <-fourth:
		t.Fatal("more than the share")
	case <-time.After(20 * time.Millisecond):
	}
	b.Release()
	b = <-fourth
	for _, conn := range []*Conn{a, b, other} {
		conn.Release()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.shares() {
		if s.claimed != 0 {
			t.Errorf("tenant %d still claims %d", id, s.claimed)
		}
	}
}

func TestGivingUpLetsTheNextOneMoveUp(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 2, MaxPerTenant: 1})
	a, b := acquire(t, c, write, 1), acquire(t, c, write, 2)
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, err := c.Acquire(ctx, write, 3) // claims tenant 3's share and waits for capacity
		failed <- err
	}()
	eventually(t, "waiting", a.pool.waitingFor(1))
	next := line(c, 3)
	eventually(t, "blocked", a.pool.waitingFor(2))
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	b.Release()
	(<-next).Release()
	a.Release()
}

func TestPoolUnderLoad(t *testing.T) {
	s := newScripted(t, standalone())
	s.canned.Store(true)
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 5, MaxPerTenant: 3})
	var most, held atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+i%7)*5*time.Millisecond)
				conn, err := c.Acquire(ctx, write, uint32(i%4))
				cancel()
				if err != nil {
					continue
				}
				n := held.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				roundTrip(t, conn)
				held.Add(-1)
				if i == 0 {
					conn.Interrupt()
				}
				conn.Release()
			}
		}()
	}
	wg.Wait()
	if most.Load() > 5 || most.Load() < 2 {
		t.Errorf("%d at once", most.Load())
	}
	p := c.current.Load().allPools()[0]
	eventually(t, "at rest", func() bool { return !p.busy() })
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != len(p.open) || p.queue.len != 0 || p.inUse.Load() != 0 {
		t.Error(len(p.idle), len(p.open), p.queue.len, p.inUse.Load())
	}
	for _, s := range p.shares() {
		if s.claimed != 0 || s.blocked.len != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestLimitsChange(t *testing.T) {
	s := newScripted(t, standalone())
	cs, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 1})
	a := acquire(t, c, write, 0)
	waiting := line(c, 0)
	eventually(t, "waiting", a.pool.waitingFor(1))
	if err := cs.Apply([]Spec{{Name: "c", URI: "mongodb://" + s.addr}}, Limits{MaxPerServer: 2}); err != nil {
		t.Fatal(err)
	}
	b := <-waiting
	if cs.Get("c") != c {
		t.Error("replaced")
	}
	if err := cs.Apply([]Spec{{Name: "c", URI: "mongodb://" + s.addr}}, Limits{MaxPerServer: 1}); err != nil {
		t.Fatal(err)
	}
	a.Release()
	b.Release()
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	if len(a.pool.open) != 1 {
		t.Errorf("%d open", len(a.pool.open))
	}
}

func TestCloseWithWaiters(t *testing.T) {
	s := newScripted(t, standalone())
	cs, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 1})
	down := newScripted(t, standalone())
	down.kill()
	if err := cs.Apply([]Spec{{Name: "c", URI: "mongodb://" + s.addr}, {Name: "down", URI: "mongodb://" + down.addr}}, Limits{MaxPerServer: 1}); err != nil {
		t.Fatal(err)
	}
	s.answer = func(bson.Raw) bson.D { time.Sleep(200 * time.Millisecond); return nil }
	conn := acquire(t, c, write, 0)
	failed := make(chan error, 3)
	go func() { // in use
		req := ping()
		defer req.Free()
		_, err := conn.RoundTrip(req, false)
		conn.Release()
		failed <- err
	}()
	for _, c := range cs.All() { // one waits for a connection, one for a server
		go func() {
			_, err := c.Acquire(context.Background(), write, 0)
			failed <- err
		}()
	}
	eventually(t, "waiting", conn.pool.waitingFor(1))
	eventually(t, "waiting", func() bool { return cs.Get("down").current.Load().waiting.Load() == 1 })
	begin := time.Now()
	cs.Close()
	if d := time.Since(begin); d > time.Second {
		t.Errorf("close took %v", d)
	}
	for range 3 {
		err := <-failed
		if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrKilled) {
			t.Error(err)
		}
	}
	if _, err := c.Acquire(context.Background(), write, 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := cs.Apply(nil, Limits{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	cs.Close()
}

func TestApplyReplacesAndRemoves(t *testing.T) {
	one, two := newScripted(t, standalone()), newScripted(t, mongos())
	cs, c := open(t, "mongodb://"+one.addr, Limits{})
	held := acquire(t, c, write, 0)
	if err := cs.Apply([]Spec{{Name: "c", URI: "mongodb://" + two.addr}, {Name: "b", URI: "mongodb://" + one.addr}}, Limits{}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, held) // finishes
	held.Release()
	next := acquire(t, c, write, 0)
	if next.Address() != two.addr || !next.Mongos() {
		t.Error("not replaced")
	}
	if all := cs.All(); len(all) != 2 || all[0].Name() != "b" || all[1] != c {
		t.Error(all)
	}
	if err := cs.Apply(nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, next)
	next.Release()
	if cs.Get("c") != nil {
		t.Error("not removed")
	}
	if _, err := c.Acquire(context.Background(), write, 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestClustersSleep(t *testing.T) {
	one, two := newScripted(t, standalone()), newScripted(t, standalone())
	l := Limits{MaxIdleClusters: 1, Idle: 40 * time.Millisecond}
	cs := New(Options{Limits: l})
	defer cs.Close()
	if err := cs.Apply([]Spec{{Name: "a", URI: "mongodb://" + one.addr}, {Name: "b", URI: "mongodb://" + two.addr}}, l); err != nil {
		t.Fatal(err)
	}
	a, b := cs.Get("a"), cs.Get("b")
	if b.current.Load() != nil {
		t.Error("more than allowed were started")
	}
	acquire(t, a, write, 0).Release()
	conn := acquire(t, b, write, 0)
	eventually(t, "asleep", func() bool { return a.current.Load() == nil })
	if !a.Ready() || !a.Facts().Known {
		t.Error("forgotten")
	}
	time.Sleep(50 * time.Millisecond)
	if b.current.Load() == nil {
		t.Error("in use and put to sleep")
	}
	conn.Release()
	acquire(t, a, write, 0).Release()
}

func TestMetrics(t *testing.T) {
	s := newScripted(t, standalone())
	reg := prometheus.NewRegistry()
	cs := New(Options{Registerer: reg})
	defer cs.Close()
	if err := cs.Apply([]Spec{{Name: "home", URI: "mongodb://" + s.addr}}, Limits{MaxPerServer: 1}); err != nil {
		t.Fatal(err)
	}
	conn := acquire(t, cs.Get("home"), write, 0)
	defer conn.Release()
	_, _ = cs.Get("home").Acquire(within(t, 10*time.Millisecond), write, 0)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "tenantry_backend_")
			for _, l := range m.Label {
				if l.GetName() == "state" {
					name += " " + l.GetValue()
				}
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if values["wait_seconds"] > 2 { // who is woken too early on a busy machine waits once more
		values["wait_seconds"] = 2
	}
	want := map[string]float64{
		"connections idle": 0, "connections in_use": 1, "connections dialing": 0, "waiting": 0,
		"dials_total": 1, "dial_failures_total": 0, "pool_clears_total": 0, "topology_ready": 1,
		"wait_seconds": 2, "wait_timeouts_total": 1,
	}
	for name, v := range want {
		if got, ok := values[name]; !ok || got != v {
			t.Errorf("%s is %v, want %v", name, got, v)
		}
	}
}

func TestFrozenServerIsInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for heartbeats")
	}
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr+"/?connectTimeoutMS=200&heartbeatFrequencyMS=500", Limits{})
	thaw := make(chan struct{})
	s.answer = func(bson.Raw) bson.D { <-thaw; return nil }
	conn := acquire(t, c, write, 0)
	failed := make(chan error, 1)
	go func() {
		req := ping()
		defer req.Free()
		_, err := conn.RoundTrip(req, false)
		failed <- err
	}()
	time.Sleep(20 * time.Millisecond)
	s.set(func() { s.frozen = thaw })
	select {
	case err := <-failed:
		if !errors.Is(err, ErrKilled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the command hangs")
	}
	conn.Release()
	close(thaw)
}
