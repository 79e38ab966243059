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
//	Ready ─▶ handle ─▶ launch ─▶ Borrow ┄▶ Lent ─▶ Start ┄▶ Replied ─▶ land ─▶ write ─▶ (next message)
//
// The dotted lines are where the command waits, and whoever brings what it waits for goes on with it: the
// loop of the server's connection, or the one who gives a connection back. What is read and written in a turn of a
// loop (wire.Turn) is read and written together. The functions here wait for nothing. Whatever has to
// wait is left to a goroutine (attend), which serves the client until a loop can go on with it.

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
func (c *clientConn) Ready(t *wire.Turn) {
	if c.turn.take() {
		t.Read(c.wc, c)
	}
}

// resume goes on with a connection that waits for a message.
func (c *clientConn) resume(t *wire.Turn) {
	if c.wc.Unread() || !c.turn.give() {
		t.Read(c.wc, c)
	}
}

// resumeAlone is resume outside of a loop. What was read last has left is looked at: who reads on a goroutine
// is told of nothing else that has come.
func (c *clientConn) resumeAlone() {
	t := wire.Turn{At: time.Now()}
	t.Read(c.wc, c)
	t.Run()
}

// Step is called when the reply has been written, where there is one, or else what there was has been read.
func (c *clientConn) Step(t *wire.Turn) {
	defer c.stumbled()
	if c.work != nil {
		c.wroteHere(t)
	} else {
		c.takeHere(t)
	}
}

// takeHere takes what has come.
func (c *clientConn) takeHere(t *wire.Turn) {
	frame, found, err := c.wc.Take()
	switch {
	case err != nil:
		c.hangUp(err)
	case found == wire.TakenNothing:
		if !c.turn.give() {
			t.Read(c.wc, c)
		}
	case found == wire.TakenMore:
		go c.srv.attend(c, nil)
	default:
		c.occupy(frame, false)
		if c.start = t.At; !c.in || t.Long() {
			go c.srv.attend(c, (*clientConn).handleWaiting)
			return
		}
		c.handleHere(t)
	}
}

// handleHere handles the message that has been read, as far as that needs no wait.
func (c *clientConn) handleHere(t *wire.Turn) {
	f, err := c.handle()
	switch f {
	case ready:
		c.launch(t)
	case waits:
		go c.srv.attend(c, (*clientConn).dispatchWaiting)
	default:
		c.over(t, err)
	}
}

// over ends the work on a message, unless there is an answer to be written, and goes on with the next one.
func (c *clientConn) over(t *wire.Turn, err error) {
	if err == errUnwritten {
		t.Write(c.wc, c.unwritten.B, c)
		return
	}
	if err = c.vacate(err); err == nil && c.srv.stopping() {
		err = errClose
	}
	switch {
	case err != nil:
		c.hangUp(err)
	case c.stream != nil:
		go c.srv.attend(c, nil)
	case c.alone == patience:
		c.alone = 0
		go c.srv.attend(c, nil)
	default:
		c.resume(t)
	}
}

// wroteHere goes on when the reply has been written, as far as the socket took it.
func (c *clientConn) wroteHere(t *wire.Turn) {
	if c.wc.Written() < len(c.unwritten.B) {
		go c.srv.attend(c, (*clientConn).writeWaiting)
		return
	}
	c.unwritten.Free()
	c.unwritten = nil
	var err error
	if c.closing {
		err = errClose
	}
	c.over(t, err)
}

// hangUp ends the connection.
func (c *clientConn) hangUp(err error) {
	c.gone(err)
	c.close()
	c.srv.left(c)
}

// launch sends the command that is ready.
func (c *clientConn) launch(t *wire.Turn) {
	srv, tr := c.srv, &c.trip
	cluster := srv.opts.Clusters.Get(tr.target.Cluster)
	if c.dest = cluster; cluster == nil {
		go srv.attend(c, (*clientConn).sendWaiting)
		return
	}
	out, err := c.request(tr)
	if err == errTooLarge {
		go srv.attend(c, (*clientConn).sendWaiting)
		return
	}
	if err != nil {
		c.land(t, nil, err)
		return
	}
	c.out = out
	conn, waits := cluster.Borrow(t, tr.sel, tr.tenant, c)
	switch {
	case conn != nil:
		c.conn = conn
		c.sendHere(t)
	case !waits:
		go srv.attend(c, (*clientConn).acquireWaiting)
	case srv.ending.Load(): // whoever ends it may have looked just before
		srv.opts.Clusters.Rouse()
	}
}

// Lent is called when the connection that the command has waited for is there, or is not to come.
func (c *clientConn) Lent(t *wire.Turn, conn *backend.Conn, err error) {
	defer c.stumbled()
	switch {
	case conn != nil:
		c.conn = conn
		c.sendHere(t)
	case err != nil:
		c.landHere(t, attempt{err: err})
	default:
		go c.srv.attend(c, (*clientConn).acquireWaiting)
	}
}

// sendHere sends the command by the connection.
func (c *clientConn) sendHere(t *wire.Turn) {
	c.uses(c.conn)
	if !c.conn.Start(t, c.out, c.compressible(), c.srv.opts.Loops, c) {
		go c.srv.attend(c, (*clientConn).exchangeWaiting)
	}
}

// Replied is called when the reply has come, or the connection has failed.
func (c *clientConn) Replied(t *wire.Turn, reply *wire.Buf, err error) {
	defer c.stumbled()
	c.landHere(t, attempt{reply: reply, err: err})
}

// Begun is called when the reply has begun to come.
func (c *clientConn) Begun() { go c.srv.attend(c, (*clientConn).receiveWaiting) }

// landHere goes on when the command has been tried.
func (c *clientConn) landHere(t *wire.Turn, a attempt) {
	if conn := c.conn; conn != nil {
		if a.err != nil {
			a = c.missed(&c.trip, a.err)
		} else {
			a = c.received(&c.trip, conn, a.reply)
		}
		c.conn = nil
		conn.ReleaseIn(t)
	}
	if c.repeats(&c.trip, &a) {
		go c.srv.attend(c, (*clientConn).repeatWaiting)
		return
	}
	reply, err := c.judged(c.dest, &c.trip, &a)
	c.land(t, reply, err)
}

// land answers the client, or leaves that to a goroutine, where something is owed.
func (c *clientConn) land(t *wire.Turn, reply *wire.Buf, werr *wire.Error) {
	reply, _ = c.returned(reply, werr) // only a change stream may have to be decided again
	if c.owed != nil {
		c.unwritten = reply
		go c.srv.attend(c, (*clientConn).payWaiting)
		return
	}
	if c.trip.crowd >= lonely {
		c.alone = 0
	} else if c.alone < patience {
		c.alone++
	}
	c.over(t, c.conclude(c.told(c.trip.table, reply)))
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
	return c.landWaiting(c.retried(c.dest, &c.trip, c.out, a))
}

func (c *clientConn) landWaiting(reply *wire.Buf, werr *wire.Error) error {
	reply, _ = c.returned(reply, werr)
	return c.conclude(c.told(c.trip.table, reply))
}

// payWaiting does what had to wait, and answers.
func (c *clientConn) payWaiting() error {
	reply, owed := c.unwritten, c.owed
	c.unwritten, c.owed = nil, nil
	owed()
	return c.conclude(c.told(c.trip.table, reply))
}

func (c *clientConn) writeWaiting() error {
	reply := c.unwritten
	c.unwritten = nil
	defer reply.Free()
	_, err := c.wc.Write(reply.B[c.wc.Written():])
	if err == nil && c.closing {
		err = errClose
	}
	return err
}
