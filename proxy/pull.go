package proxy

import (
	"github.com/smetasc/tenantry/wire"
)

// A large insert whose documents decide nothing goes to the server as the client sends it: into a
// collection that no tenant's route touches. It is routed by its body, which comes first, and its
// documents are moved from socket to socket behind it, in the form that drivers give to inserts:
//
//	header, flags, { insert: "users", …, $db: "app" }, documents: …
//	└──────────────────── read ─────────────────────┘  └── moved ──┘
//
// Any other is read to its end before a byte is sent.

// pullFloor is the size from which inserts are looked at so: those that count in the budget of memory.
const pullFloor = wire.BudgetFloor

// pullFront is how much of a message has to hold its body and the name of its documents' section.
const pullFront = 8 << 10

// insertFront is how long header and body are of an insert of n bytes that is followed by its documents
// and nothing else; 0 where it has another form.
func insertFront(front []byte, n int) int {
	const bodyAt, insertKey, section = wire.FlagsAt + 5, "\x02insert\x00", "documents\x00"
	if len(front) < bodyAt+4 || wire.ReadHeader(front).OpCode != wire.OpMsg || front[wire.FlagsAt+4] != 0 ||
		front[wire.FlagsAt]&byte(wire.ChecksumPresent) != 0 {
		return 0
	}
	body := length(front, bodyAt)
	end := bodyAt + body
	if body < 4+len(insertKey) || body > pullFront || end+5+len(section) > len(front) ||
		string(front[bodyAt+4:bodyAt+4+len(insertKey)]) != insertKey {
		return 0
	}
	if front[end] != 1 || length(front, end+1) != n-end-1 || string(front[end+5:end+5+len(section)]) != section {
		return 0
	}
	return end
}

// mayPull reports whether the client's messages may be passed on before all is known of them: it has been
// let in, and is bound to nothing.
func (c *clientConn) mayPull() bool {
	if !c.in || c.bound != nil {
		return false
	}
	c.recheck()
	return c.barred == nil
}

// pull serves the message that has begun to come, where it can be passed on; else it has taken nothing.
func (c *clientConn) pull() (pulled bool, err error) {
	n, front, err := c.wc.Front(wire.MaxMessage, pullFront)
	if err != nil {
		return false, err
	}
	size := insertFront(front, n)
	if size == 0 {
		return false, nil
	}
	c.frame, c.compressor = wire.NewBuf(size), wire.Noop
	defer func() {
		if !pulled {
			c.frame.Free()
			c.frame = nil
		}
	}()
	copy(c.frame.B, front)
	wire.SetLength(c.frame.B, size)
	if c.msg.Parse(c.frame.B) != nil || c.req.Parse(&c.msg) != nil {
		return false, nil // what is read whole is refused in the right words
	}
	t := c.srv.opts.Router.Current()
	if t == nil {
		return false, nil
	}
	if _, ok := t.Unread(&c.req); !ok {
		return false, nil
	}
	if err := c.wc.Drop(size); err != nil { // it has been copied
		return false, err
	}
	c.unread = n - size
	c.begin()
	reply, complete := c.runUnread()
	if !complete {
		return true, c.complete()
	}
	if c.halfSent != nil {
		c.observe()
		reply.Free()
		return true, c.halfSent
	}
	if c.unread > 0 { // nothing of it was sent
		if err := c.wc.Drop(c.unread); err != nil {
			reply.Free()
			return true, err
		}
	}
	return true, c.conclude(reply)
}

// runUnread is run for an insert whose documents have not been read; false where a new table wants to
// have them read after all.
func (c *clientConn) runUnread() (reply *wire.Buf, ok bool) {
	defer c.letGo()
	_ = c.noteSession() // who is bound to a tenant does not come here
	for range 64 {
		t := c.srv.opts.Router.Current()
		d, ok := t.Unread(&c.req)
		if !ok {
			return nil, false
		}
		c.decision = d
		if reply, f := c.act(t, &c.decision); f == answered {
			return reply, true
		}
	}
	return nil, false
}

// complete reads what has not been read of the message, and serves it as any other.
func (c *clientConn) complete() error {
	whole := wire.NewBuf(len(c.frame.B) + c.unread)
	copy(whole.B, c.frame.B)
	wire.SetLength(whole.B, len(whole.B))
	if c.msg.Flags&wire.MoreToCome != 0 {
		whole.B[wire.FlagsAt] |= byte(wire.MoreToCome)
	}
	if err := c.wc.Fill(whole.B[len(c.frame.B):]); err != nil {
		whole.Free()
		return err
	}
	c.unread = 0
	c.frame.Free()
	c.frame = whole
	_, err := c.command()
	return err
}
