package wire

import "time"

// Turn is what is done at once with connections that are watched, in passes: first the sockets read and write
// what they are asked to, all by one system call where the system has one for that; then each Stepper goes on
// with what has come of it, and asks for the next. So all that is alike is done together, while its code is in
// the processor's cache; and whom writes wake up, the system lets run when all are woken, not after each.
//
// A loop has a Turn of its own. Whoever serves connections elsewhere makes one, and has to Run it.
type Turn struct {
	At     time.Time // when what it serves was found
	asked  []op
	spare  []op
	ring   *ring
	passes int
}

// ringSize is how many reads and writes are one system call, where there is one for many, and how many connections a
// loop finds at once: a thread is in the system for as long as they take.
const ringSize = 32

// Stepper goes on with what a [Turn] has been asked for.
type Stepper interface {
	// Step is called once for each Read and Write, and does not wait for anything.
	Step(t *Turn)
}

// op is a read or write that was asked for.
type op struct {
	by   Stepper
	conn *Conn
	out  []byte // to be written; empty: it is a read
	in   *Buf   // to be read into, while that is under way
}

// Read has what has come read, without a wait, before s goes on; [Conn.Take] tells what it was. What was read
// before and has not been taken is not read again.
func (t *Turn) Read(c *Conn, s Stepper) { t.asked = append(t.asked, op{by: s, conn: c}) }

// Write has b, of at least one byte, written as far as the socket takes it at once, before s goes on;
// [Conn.Written] tells how much that was. Nobody else writes meanwhile, and b stays as it is.
func (t *Turn) Write(c *Conn, b []byte, s Stepper) {
	t.asked = append(t.asked, op{by: s, conn: c, out: b})
}

// Run makes passes until nothing is asked for.
func (t *Turn) Run() {
	for t.passes = 0; len(t.asked) > 0; t.passes++ {
		ops := t.asked
		t.asked = t.spare
		t.ring.do(ops)
		for i := range ops {
			s := ops[i].by
			ops[i] = op{}
			s.Step(t)
		}
		t.spare = ops[:0]
	}
}

// Long reports whether the turn has made so many passes that others have waited for long.
func (t *Turn) Long() bool { return t.passes > 50 }

// idle reports whether a read has nothing to do.
func (o *op) idle() bool { return len(o.out) == 0 && (o.conn.in != nil || o.conn.lost != nil) }

// alone does it by a system call of its own.
func (o *op) alone() {
	switch c := o.conn; {
	case o.idle():
	case len(o.out) > 0:
		c.written = writeNow(c.fd, o.out)
	default:
		c.tryRead(uintptr(c.fd))
	}
}
