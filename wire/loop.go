package wire

import (
	"sync/atomic"
	"time"
)

// Waiter is told that there may be something to read.
type Waiter interface {
	// Ready is called by a [Loops], by one goroutine at a time, and does not wait for anything. It is
	// called after something has come, and may be called without: what there is a [Conn.Poll] tells.
	Ready(t *Turn)
}

// Turn is what a loop does with what it has found at once, in passes: first all of it is read, by Ready, then
// come the steps that this has asked for, then those that they have. What is alike is done together, while
// its code is in the processor's cache: system calls, which throw much of that out, and what comes between
// them. Whoever serves connections elsewhere has a Turn of his own.
type Turn struct {
	At     time.Time // when what it serves was found
	now    []Stepper
	next   []Stepper
	passes int
}

// Stepper does what it has asked a [Turn] for.
type Stepper interface {
	// Step is called once for each Then, and does not wait for anything.
	Step(t *Turn)
}

// Then has s called in the next pass.
func (t *Turn) Then(s Stepper) { t.next = append(t.next, s) }

// Run makes passes until nothing is to be done.
func (t *Turn) Run() {
	for t.passes = 0; len(t.next) > 0; t.passes++ {
		t.now, t.next = t.next, t.now[:0]
		for i, s := range t.now {
			t.now[i] = nil
			s.Step(t)
		}
	}
}

// Long reports whether the turn has made so many passes that others have waited for long.
func (t *Turn) Long() bool { return t.passes > 50 }

// Loops wait for many connections with a few goroutines. A connection that waits by one of them has no
// goroutine and no stack of its own, and what comes for many at the same time is served one after the
// other with the same code and memory in the processor's cache; with 64 connections at work that is a
// fifth of a command's cost, with 512 a third.
//
// They exist where [NewLoops] says so; a nil *Loops waits for nobody.
type Loops struct {
	all  []*loop
	next atomic.Uint32 // whose turn it is to get a connection
}

// PollSize is what a message has less bytes than that [Conn.Poll] can take whole.
const PollSize = 16 << 10

// Polled is what [Conn.Poll] has found.
type Polled int

// What there was.
const (
	PolledNothing Polled = iota // nothing, or a wake-up for nothing
	PolledMessage               // a whole message
	PolledMore                  // the beginning of a message, a large one, or an end: for those who may wait
)

// watched is a connection that a loop waits for.
type watched struct {
	Waiter
	by    *loop
	ended atomic.Bool // the other side has ended it
}

// Watch makes the loops tell w of what comes from now on, and of what is there already. It reports
// whether they do: they wait for plain TCP and unix sockets alone. Who has watched a connection closes it by
// [Conn.Close], while nobody else uses it; to end it from elsewhere there is [Conn.Sever].
//
// A connection that is watched can be read and written as any other, by one goroutine at a time.
func (c *Conn) Watch(l *Loops, w Waiter) bool {
	if l == nil || c.raw == nil {
		return false
	}
	return l.all[int(l.next.Add(1))%len(l.all)].watch(c, w)
}

// Mute has the loop that watches the connection, if one does, be told of nothing more that comes, but maybe of its
// end: what is read on a goroutine for a while would wake it for nothing each time.
func (c *Conn) Mute() {
	if c.watched != nil && !c.muted {
		c.muted = c.watched.by.listen(c, false)
	}
}

// Unmute ends that. Of what is there already, its end included, the loop is told at once.
func (c *Conn) Unmute() {
	if !c.muted {
		return
	}
	if c.muted = false; !c.watched.by.listen(c, true) {
		c.Sever() // which a Poll finds
	}
}

// Plain reports whether loops can watch connections like this one, where there are loops.
func (c *Conn) Plain() bool { return c.raw != nil }

// Watched reports whether a Watch was successful.
func (c *Conn) Watched() bool { return c.watched != nil }

// Unpolled reports whether a Poll may find something of which nobody is told again: what has been read and
// not taken, what the last read may have left, and an end that came with bytes. It may be a false alarm. What
// reads that wait have left is not known to it.
func (c *Conn) Unpolled() bool { return c.in != nil || c.full || c.Ended() }

// Ended reports whether a connection that is watched is known to bring nothing more than what has come: a
// Poll finds the end, of which nobody is told again where he was told of bytes with it. It may be a false
// alarm.
func (c *Conn) Ended() bool { return c.watched != nil && c.watched.ended.Load() }

// Poll takes the next message of a connection that is watched, where it has come whole and is small,
// without waiting. The caller frees the frame. What is only PolledMore the waiting reads find as if nobody
// had looked, but for an end or a failure, which err says: io.EOF only between messages.
func (c *Conn) Poll() (frame *Buf, found Polled, err error) {
	if c.lost != nil {
		return nil, PolledMore, c.lost
	}
	if c.in == nil {
		if !c.tryRead(uintptr(c.fd)) {
			return nil, PolledNothing, nil
		}
		if err, c.err = c.err, nil; err != nil {
			return nil, PolledMore, err
		}
	}
	n := c.whole()
	if n == 0 {
		return nil, PolledMore, nil
	}
	frame, err = c.message(n, 0)
	return frame, PolledMessage, err
}

// WriteNow writes what a connection that is watched takes at once, and returns how much that was. Why it
// did not take all a Write of the rest finds.
func (c *Conn) WriteNow(b []byte) int { return writeNow(c.fd, b) }

// Close closes the connection.
func (c *Conn) Close() error {
	if c.watched != nil {
		c.watched.by.forget(c)
	}
	return c.Conn.Close()
}
