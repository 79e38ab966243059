package backend

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.uber.org/goleak"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoundTrip(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	if conn.Address() != s.addr || conn.Mongos() || conn.MaxWire() != 25 {
		t.Error(conn.Address(), conn.Mongos(), conn.MaxWire())
	}
	for range 3 {
		if ok := roundTrip(t, conn).Lookup("ok").AsInt64(); ok != 1 {
			t.Error("not ok")
		}
	}
	conn.Release()
	if again := acquire(t, c, write, 0); again != conn {
		t.Error("the idle connection was not taken")
	} else {
		again.Release()
	}
	if !c.Ready() {
		t.Error("not ready")
	}
	f := c.Facts()
	want := Facts{
		Known: true, MaxWire: 25, Sessions: true, SessionMinutes: 30, MaxDocument: 16 << 20,
		MaxMessage: 48_000_000, MaxBatch: 100000, Standalone: true,
	}
	if f != want {
		t.Errorf("%+v", f)
	}
}

func TestRoundTripAllocatesNothing(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerTenant: 3})
	acquire(t, c, write, 7).Release()
	s.canned.Store(true)
	ctx := context.Background()
	req := ping()
	defer req.Free()
	n := testing.AllocsPerRun(2000, func() {
		conn, err := c.Acquire(ctx, write, 7)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := conn.RoundTrip(req, true)
		if err != nil {
			t.Fatal(err)
		}
		reply.Free()
		conn.Release()
	})
	if n != 0 && !raceEnabled { // the race detector empties pools at random
		t.Errorf("%v allocations", n)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 3)
	_, c := open(t, rs.URI(), Limits{})
	sel := Select{Pref: &ReadPref{Mode: Nearest, Tags: [][]Tag{{}}}}
	eventually(t, "all known", func() bool {
		table := c.current.Load().table.Load()
		return len(table.eligible(sel.Pref, make([]*server, 0, 3))) == 3
	})
	table := c.current.Load().table.Load()
	if n := testing.AllocsPerRun(1000, func() { table.pick(sel) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	s := newScripted(b, standalone())
	_, c := open(b, "mongodb://"+s.addr, Limits{MaxPerTenant: 50})
	acquire(b, c, write, 7).Release()
	s.canned.Store(true)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		req := ping()
		defer req.Free()
		for pb.Next() {
			conn, err := c.Acquire(ctx, write, 7)
			if err != nil {
				b.Fatal(err)
			}
			reply, err := conn.RoundTrip(req, false)
			if err != nil {
				b.Fatal(err)
			}
			reply.Free()
			conn.Release()
		}
	})
}

func BenchmarkAcquireRelease(b *testing.B) {
	s := newScripted(b, standalone())
	_, c := open(b, "mongodb://"+s.addr, Limits{MaxPerTenant: 50})
	acquire(b, c, write, 7).Release()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		conn, err := c.Acquire(ctx, write, 7)
		if err != nil {
			b.Fatal(err)
		}
		conn.Release()
	}
}

func TestRunAndCommandError(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	s.answer = func(cmd bson.Raw) bson.D {
		if cmd.Lookup("$db").StringValue() != "shop" {
			t.Error(cmd)
		}
		return d("ok", 1, "n", int32(5))
	}
	reply, err := c.Run(within(t, time.Second), "shop", marshal(d("count", "x")))
	if v, _ := reply.Lookup("n"); err != nil || v.Type == 0 {
		t.Fatal(reply, err)
	}
	s.set(func() {
		s.answer = func(bson.Raw) bson.D {
			return d("ok", 0, "code", int32(26), "codeName", "NamespaceNotFound", "errmsg", "no",
				"errorLabels", bson.A{"a", "b"})
		}
	})
	_, err = c.Run(within(t, time.Second), "shop", marshal(d("drop", "x")))
	var ce *CommandError
	if !errors.As(err, &ce) || ce.Code != 26 || ce.CodeName != "NamespaceNotFound" || ce.Message != "no" || !ce.HasLabel("b") {
		t.Errorf("%#v", err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	hang := make(chan struct{})
	s.answer = func(bson.Raw) bson.D { <-hang; return nil }
	ctx := within(t, 100*time.Millisecond)
	_, err := c.Run(ctx, "a", marshal(d("ping", 1)))
	close(hang)
	var e *Error
	if !errors.As(err, &e) || !e.Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%#v", err)
	}
	if p := c.current.Load().allPools()[0]; p.clears.Load() != 0 {
		t.Error("our own giving up was told to the topology")
	}
}

func TestElectionMidFlight(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 3, wiretest.Enforce(), wiretest.Stored())
	_, c := open(t, rs.URI(), Limits{})
	conn := acquire(t, c, write, 0)
	if conn.Address() != rs.Servers[0].Addr() {
		t.Fatal("not the primary")
	}
	rs.Elect(1)
	req := wire.NewMessage(0, 0, 0, marshal(d("insert", "x", "documents", bson.A{d("a", 1)}, "$db", "shop")))
	reply, err := conn.RoundTrip(req, false)
	req.Free()
	if err != nil {
		t.Fatal(err)
	}
	var m wire.Message
	if err := m.Parse(reply.B); err != nil {
		t.Fatal(err)
	}
	v, _ := m.Body.Lookup("code")
	if code, _ := v.Int(); code != 10107 {
		t.Errorf("%v", wiretest.Decode(m.Body))
	}
	conn.Observe(m.Body)
	reply.Free()
	conn.Release()
	next := acquire(t, c, write, 0)
	defer next.Release()
	if next.Address() != rs.Servers[1].Addr() {
		t.Error("the old primary was picked")
	}
	pinned := acquire(t, c, Select{Address: rs.Servers[0].Addr()}, 0)
	defer pinned.Release()
	if pinned.Address() != rs.Servers[0].Addr() {
		t.Error("the pin was not kept")
	}
}

func TestObserveShutdown(t *testing.T) {
	s := wiretest.NewServer(t)
	_, c := open(t, s.URI(), Limits{})
	a, b := acquire(t, c, write, 0), acquire(t, c, write, 0)
	b.Release()
	a.Observe(marshal(d("ok", 1, "writeConcernError", d("code", 64)))) // not of the kind
	if a.pool.clears.Load() != 0 || !c.Ready() {
		t.Error("cleared for nothing")
	}
	a.Observe(marshal(d("ok", 1, "writeConcernError", d("code", 91, "errmsg", "shutting down"))))
	a.Observe(marshal(d("ok", 0, "code", int32(91), "errmsg", "shutting down")))
	if n := a.pool.clears.Load(); n != 1 {
		t.Errorf("%d clears", n)
	}
	a.Release()
	s.SetRole(wiretest.Standalone) // pushes a hello, for which the monitor waits
	next := acquire(t, c, write, 0)
	defer next.Release()
	if next == a || next == b {
		t.Error("an old connection was lent")
	}
}

func TestWritesWaitForAPrimary(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 2)
	rs.Primary().StepDown()
	_, c := open(t, rs.URI(), Limits{})
	acquire(t, c, Select{Pref: &ReadPref{Mode: SecondaryPreferred}}, 0).Release()
	if c.Ready() {
		t.Error("ready without a primary")
	}
	_, err := c.Acquire(within(t, 50*time.Millisecond), write, 0)
	var e *Error
	if !errors.As(err, &e) || e.Sent || !errors.Is(err, ErrNoServer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { rs.Elect(1) })
	w := acquire(t, c, write, 0)
	defer w.Release()
	if w.Address() != rs.Servers[1].Addr() {
		t.Error("not the new primary")
	}
}

func TestSelectionTimeout(t *testing.T) {
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	addr := ln.Addr().String()
	ln.Close()
	_, c := open(t, "mongodb://"+addr+"/?serverSelectionTimeoutMS=150", Limits{})
	begin := time.Now()
	_, err := c.Acquire(context.Background(), write, 0)
	if !errors.Is(err, ErrNoServer) || time.Since(begin) > 2*time.Second {
		t.Error(err, time.Since(begin))
	}
	if !strings.Contains(err.Error(), "refused") {
		t.Errorf("the reason is missing: %v", err)
	}
}

func TestKilledAndRestarted(t *testing.T) {
	s := wiretest.NewServer(t)
	_, c := open(t, s.URI(), Limits{})
	never := make(chan struct{})
	var conns []*Conn
	for range 5 {
		conns = append(conns, acquire(t, c, write, 0))
		s.Once("ping", wiretest.Pass().After(never))
	}
	acquire(t, c, write, 0).Release() // idle
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			defer conn.Release()
			req := ping()
			defer req.Free()
			_, err := conn.RoundTrip(req, false)
			var e *Error
			if !errors.As(err, &e) || !e.Sent {
				t.Errorf("%v", err)
			}
		})
	}
	s.Wait("ping", 5)
	s.Kill()
	wg.Wait()
	eventually(t, "the server is lost", func() bool { return !c.Ready() })
	p := c.current.Load().allPools()[0]
	if n := p.clears.Load(); n < 1 || n > 2 { // by the monitor, by us, or both
		t.Errorf("%d clears", n)
	}
	if !c.Facts().Known {
		t.Error("the facts are forgotten")
	}
	time.AfterFunc(100*time.Millisecond, s.Restart)
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	roundTrip(t, conn)
	if !c.Ready() {
		t.Error("not ready again")
	}
}

func TestDownAtStart(t *testing.T) {
	s := wiretest.NewServer(t)
	s.Kill()
	_, c := open(t, s.URI(), Limits{})
	if c.Ready() || c.Facts().Known {
		t.Error("ready")
	}
	time.AfterFunc(100*time.Millisecond, s.Restart)
	acquire(t, c, write, 0).Release()
}

func TestBurstOfErrorsIsOneBlip(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	gate := make(chan struct{})
	s.answer = func(bson.Raw) bson.D { <-gate; return nil } // closes the connection
	var wg sync.WaitGroup
	var conns []*Conn
	for range 20 {
		conns = append(conns, acquire(t, c, write, 0))
	}
	p := c.current.Load().allPools()[0]
	for _, conn := range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			req := ping()
			defer req.Free()
			_, err := conn.RoundTrip(req, false)
			if !errors.Is(err, io.EOF) && !errors.Is(err, ErrKilled) {
				t.Error(err)
			}
			conn.Release()
		}()
	}
	time.Sleep(20 * time.Millisecond)
	close(gate)
	wg.Wait()
	if n := p.clears.Load(); n != 1 {
		t.Errorf("%d clears", n)
	}
	s.set(func() { s.answer = nil })
	conn := acquire(t, c, write, 0)
	roundTrip(t, conn)
	conn.Release()
}

func TestDeadIdleConnection(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	local := conn.socket.LocalAddr().String()
	conn.Release()
	s.set(func() {
		for nc := range s.conns {
			if nc.RemoteAddr().String() == local {
				nc.Close()
			}
		}
	})
	time.Sleep(20 * time.Millisecond)
	conn.pool.mu.Lock()
	conn.idleSince -= 2 * restSure
	conn.pool.mu.Unlock()
	again := acquire(t, c, write, 0)
	defer again.Release()
	if again == conn {
		t.Fatal("a dead connection was lent")
	}
	roundTrip(t, again)
	if n := again.pool.clears.Load(); n != 0 {
		t.Error("the topology was told")
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{Idle: 50 * time.Millisecond})
	conn := acquire(t, c, write, 3)
	conn.Release()
	p := conn.pool
	eventually(t, "closed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.open) == 0 && len(p.idle) == 0
	})
}

func TestUnacknowledgedHasNoReply(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	req := ping()
	req.B[flagsAt] |= byte(wire.MoreToCome)
	reply, err := conn.RoundTrip(req, false)
	req.Free()
	if reply != nil || err != nil {
		t.Fatal(reply, err)
	}
	roundTrip(t, conn)
}

func TestCompression(t *testing.T) {
	big := strings.Repeat("abc", 5000)
	for _, by := range []wire.Compressor{wire.Snappy, wire.Zlib, wire.Zstd} {
		t.Run(by.String(), func(t *testing.T) {
			s := wiretest.NewServer(t, wiretest.Compressors(by), wiretest.Handle(func(wiretest.Command) wiretest.Reply {
				return wiretest.OK(bson.E{Key: "text", Value: big})
			}))
			_, c := open(t, s.URI()+"&compressors=snappy,zlib,zstd", Limits{})
			conn := acquire(t, c, write, 0)
			defer conn.Release()
			cmd := marshal(d("ping", 1, "text", big, "$db", "admin"))
			for _, compressible := range []bool{true, false} {
				req := wire.NewMessage(0, 0, 0, cmd)
				reply, err := conn.RoundTrip(req, compressible)
				req.Free()
				if err != nil {
					t.Fatal(err)
				}
				var m wire.Message
				if err := m.Parse(reply.B); err != nil {
					t.Fatal(err)
				}
				if v, _ := m.Body.Lookup("text"); len(v.Data) != len(big)+5 {
					t.Error("wrong reply")
				}
				reply.Free()
			}
			got := s.Wait("ping", 2)
			if !got[0].Compressed || got[0].Compressor != by || got[1].Compressed {
				t.Errorf("%v %v %v", got[0].Compressed, got[0].Compressor, got[1].Compressed)
			}
		})
	}
}

func TestWrongReply(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	conn.id = 5
	req := ping()
	defer req.Free()
	if _, err := conn.write(req, false, true); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RoundTrip(req, false); !errors.Is(err, ErrMismatch) {
		t.Errorf("%v", err)
	}
	conn.Release()
	if conn.pool.clears.Load() != 0 {
		t.Error("the topology was told")
	}
}

// TestOtherReplicaSet: who names another set than the servers' is told so.
func TestOtherReplicaSet(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 1)
	_, c := open(t, strings.Replace(rs.URI(), "rs0", "rs1", 1)+"&serverSelectionTimeoutMS=2000", Limits{})
	if _, err := c.Acquire(t.Context(), write, 0); !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), `replica set "rs1"`) {
		t.Errorf("%v", err)
	}
}
