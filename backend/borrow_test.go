package backend

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// borrowing is a borrower and a taker that notes what it is told.
type borrowing struct {
	lent    chan lending
	replied chan lending
	begun   chan struct{}
	told    atomic.Int32
}

type lending struct {
	conn  *Conn
	reply *wire.Buf
	err   error
}

func newTold() *borrowing {
	return &borrowing{lent: make(chan lending, 10), replied: make(chan lending, 10), begun: make(chan struct{}, 10)}
}

func (b *borrowing) Lent(_ *wire.Turn, c *Conn, err error) {
	b.told.Add(1)
	b.lent <- lending{conn: c, err: err}
}

func (b *borrowing) Replied(_ *wire.Turn, reply *wire.Buf, err error) {
	b.told.Add(1)
	b.replied <- lending{reply: reply, err: err}
}

func (b *borrowing) Begun() { b.told.Add(1); b.begun <- struct{}{} }

// wantReply waits for a reply.
func (b *borrowing) wantReply(t testing.TB) {
	t.Helper()
	got := get(t, "the reply", b.replied)
	if got.err != nil {
		t.Fatal(got.err)
	}
	got.reply.Free()
}

func get[T any](t testing.TB, what string, c chan T) (x T) {
	t.Helper()
	select {
	case x = <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s has not come", what)
	}
	return x
}

func loops(t testing.TB) *wire.Loops {
	t.Helper()
	l, err := wire.NewLoops(1, true)
	if l == nil {
		t.Skip("there are no loops on this system:", err)
	}
	t.Cleanup(l.Close)
	return l
}

func aTurn() *wire.Turn { return &wire.Turn{At: time.Now()} }

// start has the connection Start in a turn of its own.
func start(c *Conn, req *wire.Buf, l *wire.Loops, t Taker) bool {
	turn := aTurn()
	sent := c.Start(turn, req, true, l, t)
	turn.Run()
	return sent
}

// startUnfinished starts a request in a turn that does not end, and waits until the reply has come meanwhile.
func startUnfinished(t *testing.T, c *Conn, req *wire.Buf, l *wire.Loops, taker Taker) {
	t.Helper()
	if !c.Start(&wire.Turn{}, req, true, l, taker) {
		t.Fatal("it was not sent")
	}
	if _, err := c.socket.Write(req.B); err != nil { // as the turn would
		t.Fatal(err)
	}
	c.out = nil
	eventually(t, "woken", func() bool {
		c.starting.Lock()
		defer c.starting.Unlock()
		return c.woken
	})
}

// TestBorrow: a free connection is had at once, a released one is handed over, in the order of arrival with
// those who wait on a goroutine.
func TestBorrow(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 1})
	a, b := newTold(), newTold()
	acquire(t, c, write, 0).Release()
	conn, waits := c.Borrow(aTurn(), write, 0, a)
	if conn == nil || waits || a.told.Load() != 0 {
		t.Fatal(conn, waits, a.told.Load())
	}
	if first, waits := c.Borrow(aTurn(), write, 0, a); first != nil || !waits {
		t.Fatal(first, waits)
	}
	second := line(c, 0)
	eventually(t, "waiting", conn.pool.waitingFor(2))
	if third, waits := c.Borrow(aTurn(), write, 0, b); third != nil || !waits {
		t.Fatal(third, waits)
	}
	if n := conn.Crowd(); n != 4 {
		t.Errorf("a crowd of %d with three who wait", n)
	}
	conn.Release()
	if got := get(t, "the connection", a.lent); got.conn != conn || got.err != nil || b.told.Load() != 0 {
		t.Fatal(got, b.told.Load())
	}
	conn.Release()
	if got := get(t, "the connection", second); got != conn || b.told.Load() != 0 {
		t.Fatal(got, b.told.Load())
	}
	conn.Release()
	if got := get(t, "the connection", b.lent); got.conn != conn {
		t.Fatal(got)
	}
	if n := conn.Crowd(); n != 1 {
		t.Errorf("a crowd of %d with nobody who waits", n)
	}
	conn.Release()
	if n := a.told.Load() + b.told.Load(); n != 2 {
		t.Errorf("told %d times", n)
	}
}

// TestBorrowInVain: a wait ends with the server selection's time, and with what changes the selection.
func TestBorrowInVain(t *testing.T) {
	s := newScripted(t, standalone())
	cs, c := open(t, "mongodb://"+s.addr+"/?serverSelectionTimeoutMS=200", Limits{MaxPerServer: 1})
	conn := acquire(t, c, write, 0)
	b := newTold()
	for range 3 {
		began := time.Now()
		if _, waits := c.Borrow(&wire.Turn{At: began}, write, 0, b); !waits {
			t.Fatal("it does not wait")
		}
		got := get(t, "the end", b.lent)
		var e *Error
		if took := time.Since(began); got.conn != nil || !errors.Is(got.err, ErrBusy) || !errors.As(got.err, &e) || e.Sent || took < 150*time.Millisecond {
			t.Fatal(got, took)
		}
	}
	if _, waits := c.Borrow(aTurn(), write, 0, b); !waits {
		t.Fatal("it does not wait")
	}
	cs.Rouse()
	if got := get(t, "the end", b.lent); got.conn != nil || got.err != nil {
		t.Fatal(got)
	}
	conn.Release()
	time.Sleep(300 * time.Millisecond)
	if len(b.lent) != 0 || b.told.Load() != 4 {
		t.Error("it was told twice")
	}
	c.pool(t).mu.Lock()
	defer c.pool(t).mu.Unlock()
	if p := conn.pool; p.queue.len != 0 || p.inUse.Load() != 0 || len(p.idle) != 1 {
		t.Error(p.queue.len, p.inUse.Load(), len(p.idle))
	}
}

func (c *Cluster) pool(t testing.TB) *pool {
	t.Helper()
	return c.current.Load().allPools()[0]
}

// TestBorrowOfATenant: who has his share waits behind nobody and keeps nobody waiting.
func TestBorrowOfATenant(t *testing.T) {
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 2, MaxPerTenant: 1})
	one := acquire(t, c, write, 1)
	b := newTold()
	if _, waits := c.Borrow(aTurn(), write, 1, b); !waits {
		t.Fatal("it does not wait")
	}
	acquire(t, c, write, 2).Release()
	if b.told.Load() != 0 {
		t.Fatal("a tenant has more than its share")
	}
	one.Release()
	got := get(t, "the connection", b.lent)
	if got.conn == nil {
		t.Fatal(got.err)
	}
	got.conn.Release()
	for tenant, s := range got.conn.pool.shares() {
		if s.claimed != 0 {
			t.Errorf("tenant %d still claims %d", tenant, s.claimed)
		}
	}
}

// TestBorrowWithoutServer: a goroutine has to wait for one.
func TestBorrowWithoutServer(t *testing.T) {
	_, c := open(t, "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", Limits{})
	if conn, waits := c.Borrow(aTurn(), write, 0, newTold()); conn != nil || waits {
		t.Error(conn, waits)
	}
}

// TestStart: a reply is handed over, again and again, between round trips on goroutines, and each is the
// one to what was sent.
func TestStart(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{MaxPerServer: 1})
	b := newTold()
	for range 50 {
		conn := acquire(t, c, write, 0)
		req := ping()
		if !conn.Loopable() || !start(conn, req, l, b) {
			t.Fatal("it was not sent")
		}
		got := get(t, "the reply", b.replied)
		req.Free()
		if got.err != nil || wire.ReadHeader(got.reply.B).ResponseTo != conn.id {
			t.Fatal(got)
		}
		got.reply.Free()
		roundTrip(t, conn)
		conn.Release()
	}
	if b.told.Load() != 50 {
		t.Errorf("told %d times", b.told.Load())
	}
}

// TestStartCompressed: where that was agreed on, the reply too.
func TestStartCompressed(t *testing.T) {
	l := loops(t)
	s := wiretest.NewServer(t, wiretest.Compressors(wire.Snappy))
	_, c := open(t, s.URI()+"&compressors=snappy", Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	b := newTold()
	req := wire.NewMessage(0, 0, 0, marshal(d("ping", 1, "text", strings.Repeat("abc", 1000), "$db", "admin")))
	defer req.Free()
	if !start(conn, req, l, b) {
		t.Fatal("it was not sent")
	}
	got := get(t, "the reply", b.replied)
	if got.err != nil || wire.ReadHeader(got.reply.B).OpCode != wire.OpMsg {
		t.Fatal(got)
	}
	got.reply.Free()
	if cmd := s.Wait("ping", 1)[0]; !cmd.Compressed {
		t.Error("it was sent as it is")
	}
}

// TestStartOfALargeReply: a goroutine goes on with it.
func TestStartOfALargeReply(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	s.set(func() { s.answer = func(bson.Raw) bson.D { return d("ok", 1, "text", strings.Repeat("x", 100_000)) } })
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	b := newTold()
	req := ping()
	defer req.Free()
	if !start(conn, req, l, b) {
		t.Fatal("it was not sent")
	}
	get(t, "the beginning", b.begun)
	reply, err := conn.Receive()
	if err != nil || len(reply.B) < 100_000 {
		t.Fatal(err)
	}
	reply.Free()
	s.set(func() { s.answer = nil })
	roundTrip(t, conn)
}

// TestStartOfAWrongReply: what answers something else is an error, of a request that was sent.
func TestStartOfAWrongReply(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	conn.id = 5
	req := ping()
	defer req.Free()
	if _, err := conn.write(req, false, true); err != nil { // whose answer comes first
		t.Fatal(err)
	}
	b := newTold()
	if !start(conn, req, l, b) {
		t.Fatal("it was not sent")
	}
	var e *Error
	if got := get(t, "the reply", b.replied); !errors.Is(got.err, ErrMismatch) || !errors.As(got.err, &e) || !e.Sent {
		t.Errorf("%v", got.err)
	}
	conn.Release()
	if next := acquire(t, c, write, 0); next == conn {
		t.Error("it is lent again")
	} else {
		next.Release()
	}
}

// TestStartedIsTold: of a server that dies, and of an Interrupt from elsewhere, once.
func TestStartedIsTold(t *testing.T) {
	for name, end := range map[string]func(*scripted, *Conn){
		"killed": func(s *scripted, _ *Conn) {
			s.set(func() {
				for nc := range s.conns {
					nc.Close()
				}
			})
		},
		"interrupted": func(_ *scripted, c *Conn) { c.Interrupt() },
	} {
		t.Run(name, func(t *testing.T) {
			l := loops(t)
			s := newScripted(t, standalone())
			_, c := open(t, "mongodb://"+s.addr, Limits{})
			conn := acquire(t, c, write, 0)
			stay := make(chan struct{})
			s.set(func() {
				s.answer = func(bson.Raw) bson.D {
					<-stay
					return nil
				}
			})
			defer close(stay)
			b := newTold()
			req := ping()
			defer req.Free()
			if !start(conn, req, l, b) {
				t.Fatal("it was not sent")
			}
			time.Sleep(20 * time.Millisecond)
			end(s, conn)
			got := get(t, "the end", b.replied)
			var e *Error
			if !errors.As(got.err, &e) || !e.Sent || name == "interrupted" != errors.Is(got.err, ErrKilled) {
				t.Errorf("%v", got.err)
			}
			conn.Release()
			time.Sleep(20 * time.Millisecond)
			if b.told.Load() != 1 {
				t.Errorf("told %d times", b.told.Load())
			}
		})
	}
}

// TestStartIsNotToldBeforeAllIsSent: who is told gives the connection back, and may send the command again where
// it is said to be unsent.
func TestStartIsNotToldBeforeAllIsSent(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	b := newTold()
	req := ping()
	defer req.Free()
	if !start(conn, req, l, b) { // so that it is watched
		t.Fatal("it was not sent")
	}
	b.wantReply(t)
	startUnfinished(t, conn, req, l, b)
	if b.told.Load() != 1 {
		t.Fatal("it was told of a reply to what is being sent")
	}
	turn := aTurn()
	conn.hasSent(turn, true)
	turn.Run()
	b.wantReply(t)
}

// TestReadIsMadeAgain: what comes while the socket is at work, and is not found by that, is looked for behind it.
func TestReadIsMadeAgain(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	b := newTold()
	req := ping()
	defer req.Free()
	startUnfinished(t, conn, req, l, b)
	turn := aTurn()
	conn.stepRead(turn) // whose read was before
	turn.Run()
	b.wantReply(t)
}

// TestStartAfterTheEnd: of a server that sends nothing more, but takes what it is sent, the taker is told although
// the end came before.
func TestStartAfterTheEnd(t *testing.T) {
	l := loops(t)
	s := newScripted(t, standalone())
	_, c := open(t, "mongodb://"+s.addr, Limits{})
	conn := acquire(t, c, write, 0)
	defer conn.Release()
	b := newTold()
	req := ping()
	defer req.Free()
	if !start(conn, req, l, b) { // so that it is watched
		t.Fatal("it was not sent")
	}
	b.wantReply(t)
	stay := make(chan struct{})
	defer close(stay)
	s.set(func() {
		s.answer = func(bson.Raw) bson.D {
			<-stay
			return nil
		}
		for nc := range s.conns {
			if nc.LocalAddr().String() == conn.socket.RemoteAddr().String() && nc.RemoteAddr().String() == conn.socket.LocalAddr().String() {
				_ = nc.(*net.TCPConn).CloseWrite()
			}
		}
	})
	eventually(t, "the end", conn.wire.Ended)
	if !start(conn, req, l, b) {
		t.Fatal("it was not sent")
	}
	if got := get(t, "the end", b.replied); !errors.Is(got.err, io.EOF) {
		t.Error(got.err)
	}
}
