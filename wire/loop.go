package wire

import "sync/atomic"

// Waiter is told that there may be something to read.
type Waiter interface {
	// Ready is called by a [Loops], by one goroutine at a time, and does not wait for anything. It is
	// called after something has come, and may be called without: what there is a [Turn.Read] finds.
	Ready(t *Turn)
}

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

// TakeSize is what a message has less bytes than that [Conn.Take] can take whole.
const TakeSize = 16 << 10

// Taken is what [Conn.Take] has found.
type Taken int

// What there was.
const (
	TakenNothing Taken = iota // nothing, or a wake-up for nothing
	TakenMessage              // a whole message
	TakenMore                 // the beginning of a message, a large one, or an end: for those who may wait
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
		c.Sever() // which a Turn.Read finds
	}
}

// Plain reports whether loops can watch connections like this one, where there are loops.
func (c *Conn) Plain() bool { return c.raw != nil }

// Watched reports whether a Watch was successful.
func (c *Conn) Watched() bool { return c.watched != nil }

// Unread reports whether a [Turn.Read] may find something of which nobody is told again: what has been read and
// not taken, what the last read may have left, and an end that came with bytes. It may be a false alarm. What
// reads that wait have left is not known to it.
func (c *Conn) Unread() bool { return c.in != nil || c.full || c.Ended() }

// Ended reports whether a connection that is watched is known to bring nothing more than what has come: a
// [Turn.Read] finds the end, of which nobody is told again where he was told of bytes with it. It may be a false
// alarm.
func (c *Conn) Ended() bool { return c.watched != nil && c.watched.ended.Load() }

// Take takes the next message of what a [Turn.Read] has read, where it has come whole and is small. The caller
// frees the frame. What is only TakenMore the waiting reads find as if nobody had looked, but for an end or a
// failure, which err says: io.EOF only between messages.
func (c *Conn) Take() (frame *Buf, found Taken, err error) {
	if c.lost != nil {
		return nil, TakenMore, c.lost
	}
	if c.in == nil {
		if err, c.err = c.err, nil; err != nil {
			return nil, TakenMore, err
		}
		return nil, TakenNothing, nil
	}
	n := c.whole()
	if n == 0 {
		return nil, TakenMore, nil
	}
	frame, err = c.message(n, 0)
	return frame, TakenMessage, err
}

// Written is how much of what it was given a [Turn.Write] has written. Why it was not all a Write of the rest
// finds.
func (c *Conn) Written() int { return c.written }

// Close closes the connection.
func (c *Conn) Close() error {
	if c.watched != nil {
		c.watched.by.forget(c)
	}
	return c.Conn.Close()
}
