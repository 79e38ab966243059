package proxy

import (
	"sync/atomic"
	"time"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/wire"
)

// Where loops wait for a client's messages and for servers' replies, a light command needs no goroutine of
// its own; see isLight:
//
//	Ready ─▶ handle ─▶ launch ─▶ Borrow ┄▶ Lent ─▶ Start ┄▶ Replied ─▶ land ─▶ (next message) or yield
//
// The dotted lines are where the command waits, and whoever brings what it waits for goes on with it: the
// loop of the server's connection, or the one who gives a connection back. The functions here are called by
// them, and wait for nothing. Whatever has to wait is left to a goroutine (attend), which serves the
// client until a loop can go on with it.

// A loop is cheaper than goroutines where it finds several at once, and dearer by two system calls where it
// finds one: a client whose light commands have had little company is served by a goroutine, and one whose
// light command has had much comes back.
const (
	crowded  = 24 // commands at one server: much
	lonely   = 12 // fewer are little
	patience = 64 // commands with little company that a loop serves; commands of one client without a pause
)

// turn says whether somebody serves a connection. Who has the turn owns the fields of the connection; it
// goes on with the command, from one who has sent it to the one who gets the reply.
type turn struct{ atomic.Int32 }

const (
	turnFree  = iota
	turnTaken // somebody has it
	turnMore  // and something has come meanwhile
)

// take takes the turn. Where somebody has it, he is told that something has come.
func (t *turn) take() bool {
	for {
		if t.CompareAndSwap(turnFree, turnTaken) {
			return true
		}
		if t.CompareAndSwap(turnTaken, turnMore) || t.Load() == turnMore {
			return false
		}
	}
}

// give gives the turn back; where something has come meanwhile it stays with who has it.
func (t *turn) give() bool {
	if t.CompareAndSwap(turnTaken, turnFree) {
		return true
	}
	t.Store(turnTaken)
	return false
}

// Ready is called by a loop when something has come from the client.
func (c *clientConn) Ready(at time.Time) {
	if c.turn.take() {
		c.serveHere(at)
	}
}

// resume goes on with a connection that waits for a message.
func (c *clientConn) resume() {
	if c.wc.Buffered() || c.wc.Ended() || !c.turn.give() {
		c.serveHere(time.Now())
	}
}

// serveHere serves what has come by then, as far as that needs no wait.
func (c *clientConn) serveHere(at time.Time) {
	defer c.stumbled()
	for range patience {
		frame, found, err := c.wc.Poll()
		switch {
		case err != nil:
			c.hangUp(err)
			return
		case found == wire.PolledNothing:
			if c.turn.give() {
				return
			}
			continue
		case found == wire.PolledMore:
			go c.srv.attend(c, nil)
			return
		}
		c.occupy(frame, false)
		c.start = at
		if !c.in {
			go c.srv.attend(c, (*clientConn).handleWaiting)
			return
		}
		f, err := c.handle()
		switch f {
		case ready:
			c.launch()
			return // it is somebody else's now
		case waits:
			go c.srv.attend(c, (*clientConn).dispatchWaiting)
			return
		}
		if !c.over(err) || !c.wc.Buffered() && !c.wc.Ended() && c.turn.give() {
			return
		}
	}
	go c.srv.attend(c, nil) // others wait for this loop
}

// over ends the work on a message; false where the turn is not the caller's any more.
func (c *clientConn) over(err error) bool {
	if err == errLate {
		go c.srv.attend(c, (*clientConn).writeLate)
		return false
	}
	if err = c.vacate(err); err == nil && c.srv.stopping() {
		err = errClose
	}
	if err != nil {
		c.hangUp(err)
		return false
	}
	if c.stream != nil {
		go c.srv.attend(c, nil)
		return false
	}
	return true
}

// hangUp ends the connection.
func (c *clientConn) hangUp(err error) {
	c.gone(err)
	c.close()
	c.srv.left(c)
}

// launch sends the command that is ready.
func (c *clientConn) launch() {
	srv, tr := c.srv, &c.trip
	cluster := srv.opts.Clusters.Get(tr.target.Cluster)
	if c.dest = cluster; cluster == nil {
		go srv.attend(c, (*clientConn).sendWaiting)
		return
	}
	out, err := c.request(tr)
	if err != nil {
		c.land(nil, err)
		return
	}
	c.out = out
	conn, waits := cluster.Borrow(tr.sel, tr.tenant, c.start, c)
	switch {
	case conn != nil:
		c.startOn(conn)
	case !waits:
		go srv.attend(c, (*clientConn).acquireWaiting)
	case srv.ending.Load(): // whoever ends it may have looked just before
		srv.opts.Clusters.Rouse()
	}
}

// Lent is called when the connection that the command has waited for is there, or is not to come.
func (c *clientConn) Lent(conn *backend.Conn, err error) {
	defer c.stumbled()
	switch {
	case conn != nil:
		c.startOn(conn)
	case err != nil:
		c.attempted(attempt{err: err})
	default:
		go c.srv.attend(c, (*clientConn).acquireWaiting)
	}
}

// startOn sends the command by a connection.
func (c *clientConn) startOn(conn *backend.Conn) {
	c.conn = conn
	c.uses(conn)
	if !conn.Start(c.out, c.compressible(), c.srv.opts.Loops, c) {
		go c.srv.attend(c, (*clientConn).exchangeWaiting)
	}
}

// Replied is called when the reply has come, or the connection has failed.
func (c *clientConn) Replied(reply *wire.Buf, err error) {
	defer c.stumbled()
	var a attempt
	if err != nil {
		a = c.missed(&c.trip, err)
	} else {
		a = c.received(&c.trip, c.conn, reply)
	}
	conn := c.conn
	c.conn = nil
	conn.Release()
	c.attempted(a)
}

// Begun is called when the reply has begun to come.
func (c *clientConn) Begun() { go c.srv.attend(c, (*clientConn).receiveWaiting) }

// attempted goes on when the command has been tried.
func (c *clientConn) attempted(a attempt) {
	if c.repeats(&c.trip, &a) {
		go c.srv.attend(c, (*clientConn).repeatWaiting)
		return
	}
	c.land(c.judged(c.dest, &c.trip, &a))
}

// land answers the client, and goes on with his next message.
func (c *clientConn) land(reply *wire.Buf, werr *wire.Error) {
	reply, _ = c.returned(reply, werr) // only a change stream may have to be decided again
	if c.trip.crowd >= lonely {
		c.alone = 0
	} else if c.alone < patience {
		c.alone++
	}
	switch {
	case !c.over(c.conclude(c.told(c.trip.table, reply))):
	case c.alone == patience:
		c.alone = 0
		go c.srv.attend(c, nil)
	default:
		c.resume()
	}
}

// stumbled ends this connection alone where serving it has panicked; see recovered.
func (c *clientConn) stumbled() {
	if fault := recover(); fault != nil {
		c.panicked(fault)
		c.abandon()
		c.close()
		c.srv.left(c)
	}
}

// abandon lets go of what a command has taken that has panicked.
func (c *clientConn) abandon() {
	if c.work == nil {
		return
	}
	if conn := c.conn; conn != nil {
		c.conn = nil
		conn.Interrupt()
		conn.Release()
	}
	c.letGo()
}

// What follows is for goroutines that go on with a command, from where it has to wait.

func (c *clientConn) handleWaiting() error {
	_, err := c.handle()
	return err
}

func (c *clientConn) dispatchWaiting() error {
	_, err := c.dispatch()
	return err
}

func (c *clientConn) sendWaiting() error { return c.landWaiting(c.send(&c.trip)) }

func (c *clientConn) acquireWaiting() error {
	return c.landWaiting(c.attempts(c.dest, &c.trip, c.out))
}

func (c *clientConn) repeatWaiting() error {
	a := c.exchange(c.dest, &c.trip, c.out)
	return c.landWaiting(c.judged(c.dest, &c.trip, &a))
}

func (c *clientConn) exchangeWaiting() error {
	conn := c.conn
	c.conn = nil
	return c.attemptedWaiting(c.exchangeOn(conn, &c.trip, c.out))
}

func (c *clientConn) receiveWaiting() error {
	conn := c.conn
	a := c.awaitReply(&c.trip, conn)
	c.conn = nil
	conn.Release()
	return c.attemptedWaiting(a)
}

func (c *clientConn) attemptedWaiting(a attempt) error {
	if c.repeats(&c.trip, &a) {
		return c.repeatWaiting()
	}
	return c.landWaiting(c.judged(c.dest, &c.trip, &a))
}

func (c *clientConn) landWaiting(reply *wire.Buf, werr *wire.Error) error {
	reply, _ = c.returned(reply, werr)
	return c.conclude(c.told(c.trip.table, reply))
}

func (c *clientConn) writeLate() error {
	reply := c.late
	c.late = nil
	defer reply.Free()
	_, err := c.wc.Write(reply.B[c.lateAt:])
	if err == nil && c.closing {
		err = errClose
	}
	return err
}
