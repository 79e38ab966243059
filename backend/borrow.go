package backend

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// What follows is Acquire and RoundTrip for those who have no goroutine to wait on; see [wire.Loops].

// Borrower waits for a connection.
type Borrower interface {
	// Lent is called once, by whoever has given the connection back, ended the wait, or begun another one.
	// Without a connection err says why, a *[Error]; where there is none either things have changed, and Acquire
	// may find another way. It does not wait for anything.
	Lent(t *wire.Turn, c *Conn, err error)
}

// Borrow is [Cluster.Acquire] without a wait, in a loop's turn. Where no connection is free but one is to come, b
// is told when it has, which may be before Borrow returns: waits is true then. Where neither is so, a goroutine
// has to Acquire.
func (c *Cluster) Borrow(t *wire.Turn, sel Select, tenant uint32, b Borrower) (conn *Conn, waits bool) {
	d := c.current.Load()
	if d == nil {
		return nil, false
	}
	s := d.table.Load().pick(sel)
	if s == nil {
		return nil, false
	}
	if conn := s.pool.take(t, tenant, t.At.Sub(started)); conn != nil {
		return conn, false
	}
	w, _ := borrowings.Get().(*waiter)
	if w == nil {
		w = newBorrowing()
	}
	w.borrower, w.since = b, t.At
	if s.pool.enqueue(t, w, tenant, t.At.Add(d.target().selectionTimeout)) != nil {
		w.recycle()
		return nil, false
	}
	return nil, true
}

var borrowings sync.Pool // of waiters

func newBorrowing() *waiter {
	w := &waiter{}
	w.late = time.AfterFunc(time.Hour, func() { w.expired() })
	w.late.Stop()
	return w
}

func (w *waiter) recycle() {
	w.pool, w.borrower, w.share, w.conn, w.err = nil, nil, nil, nil, nil
	borrowings.Put(w)
}

// expired ends a borrower's wait in vain.
func (w *waiter) expired() {
	p := w.pool
	p.mu.Lock()
	defer p.unlock(nil)
	if err := p.withdraw(w); err != nil {
		w.deliver(nil, err)
	}
}

// tell tells the borrower how the wait has ended.
func (w *waiter) tell(t *wire.Turn) {
	b, c, err, cluster := w.borrower, w.conn, w.err, w.pool.d.cluster
	cluster.waits.observe(time.Since(w.since), err)
	if w.late.Stop() {
		w.recycle()
	} // else its expiry has begun, and finds that it is in no queue: nobody else may get it
	if err == errReselect {
		err = nil
	} else if err != nil {
		err = &Error{Cluster: cluster.name, Err: err}
	}
	b.Lent(t, c, err)
}

// Rouse sends all who wait for a connection back to look for another way.
func (cs *Clusters) Rouse() {
	for _, c := range *cs.byName.Load() {
		if d := c.current.Load(); d != nil {
			for _, p := range d.allPools() {
				p.kick()
			}
		}
	}
}

// Taker waits for the reply to what [Conn.Start] has sent.
type Taker interface {
	// Replied hands the reply over, which the taker frees, or a *[Error]. It does not wait for anything.
	Replied(t *wire.Turn, reply *wire.Buf, err error)
	// Begun says that a reply has begun to come that is large or comes in pieces: [Conn.Receive] or
	// [Conn.Front] goes on with it, on a goroutine.
	Begun()
}

// Loopable reports whether loops wait for connections like this one: over plain TCP.
func (c *Conn) Loopable() bool { return c.wire.Plain() }

// Crowd is how many use a connection to the same server or wait for one, with the one who uses this one.
func (c *Conn) Crowd() int { return int(c.pool.inUse.Load() + c.pool.waits.Load()) }

// Start is [Conn.Send] of a request that has a reply, in a loop's turn: t is told of the reply. Where it is
// false nothing was sent.
func (c *Conn) Start(turn *wire.Turn, req *wire.Buf, compressible bool, l *wire.Loops, t Taker) bool {
	if !c.wire.Watched() && !c.wire.Watch(l, c) {
		return false
	}
	c.id++
	prepare(req, c.id)
	c.out = c.packed(req, compressible)
	c.packing = c.out != req
	c.starting.Lock()
	c.taker, c.sent, c.atWork = t, false, true
	c.starting.Unlock()
	turn.Write(c.wire, c.out.B, c)
	return true
}

// Ready is called by a loop when something has come. What comes while nobody waits for it is seen when
// the connection is used again; what comes while the socket is at work, afterwards.
func (c *Conn) Ready(turn *wire.Turn) {
	c.starting.Lock()
	read := c.taker != nil && !c.atWork
	c.woken = c.atWork
	c.atWork = c.atWork || read
	c.starting.Unlock()
	if read {
		turn.Read(c.wire, c)
	}
}

// Step goes on when the socket has written or read.
func (c *Conn) Step(turn *wire.Turn) {
	if c.out != nil {
		c.stepSent(turn)
	} else {
		c.stepRead(turn)
	}
}

func (c *Conn) stepSent(turn *wire.Turn) {
	out := c.out
	c.out = nil
	rest := append([]byte(nil), out.B[c.wire.Written():]...)
	if c.packing {
		out.Free()
	}
	if len(rest) > 0 {
		go c.sendRest(rest)
	} else {
		c.hasSent(turn, true)
	}
}

// sendRest writes what the socket has not taken at once.
func (c *Conn) sendRest(b []byte) {
	_, err := c.wire.Write(b)
	if err != nil {
		c.broken.Store(true)
		c.wire.Sever() // of which the taker is told
	}
	turn := wire.Turn{At: time.Now()}
	c.hasSent(&turn, err == nil)
	turn.Run()
}

// hasSent ends the writing of a request. What has come meanwhile was left, since a taker who is told gives the
// connection back, and others use it; of an end that came before, nobody is told again.
func (c *Conn) hasSent(turn *wire.Turn, all bool) {
	c.starting.Lock()
	again := c.woken || c.wire.Ended()
	c.atWork, c.woken, c.sent = false, false, all
	c.starting.Unlock()
	if again {
		c.Ready(turn)
	}
}

func (c *Conn) stepRead(turn *wire.Turn) {
	frame, found, err := c.wire.Take()
	c.starting.Lock()
	t, sent, again := c.taker, c.sent, c.woken
	c.atWork, c.woken = false, false
	if found != wire.TakenNothing {
		c.taker, c.repliedAt = nil, int64(turn.At.Sub(started))
	}
	c.starting.Unlock()
	switch {
	case found == wire.TakenNothing:
		if again {
			c.Ready(turn)
		}
	case err == nil && found == wire.TakenMore:
		t.Begun()
	default:
		reply, err := c.outcome(frame, err, sent)
		t.Replied(turn, reply, err)
	}
}

// outcome is the reply, or what has come instead. A panic is an error of this connection alone.
func (c *Conn) outcome(frame *wire.Buf, lost error, sent bool) (reply *wire.Buf, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			c.broken.Store(true)
			c.pool.d.log().Error().Interface("panic", fault).Bytes("stack", debug.Stack()).Msg("a reply made tenantry panic; its connection is closed")
			reply, err = nil, &Error{Cluster: c.Cluster(), Sent: true, Err: fmt.Errorf("a fault of the proxy: %v", fault)}
		}
	}()
	if lost != nil {
		return nil, c.fail(sent, lost)
	}
	if reply, err = c.received(frame); err != nil {
		return nil, c.fail(true, err)
	}
	return reply, nil
}
