package wire

import (
	"errors"
	"io"
	"net"
	"runtime"
	"time"
)

// Front waits until the first want bytes of the next message are there, or all of it where it is
// shorter, and returns its length and what has come of it so far. Nothing is taken: [Conn.ReadMessage]
// reads the message whole, [Conn.Pass] and [Conn.Fill] take it piece by piece. The slice is the
// connection's own until then, and may be written to. want is at most 16 KiB.
func (c *Conn) Front(limit, want int) (n int, front []byte, err error) {
	if c.lost != nil {
		return 0, nil, c.lost
	}
	if err := c.fill(); err != nil {
		return 0, nil, err
	}
	if n, _, err = c.head(limit); err != nil {
		return 0, nil, err
	}
	if err := c.need(min(n, want)); err != nil {
		return 0, nil, err
	}
	front = c.in.B[c.at:]
	return n, front[:min(len(front), n)], nil
}

// Large reports whether the message that has begun to come announces at least so many bytes; false
// where its header is not there yet.
func (c *Conn) Large(bytes int) bool {
	return c.in != nil && len(c.in.B)-c.at >= HeaderLen && int(getInt32(c.in.B[c.at:])) >= bytes
}

// Small reports whether the message that has begun to come announces fewer bytes, likewise.
func (c *Conn) Small(bytes int) bool {
	return c.in != nil && len(c.in.B)-c.at >= HeaderLen && int(getInt32(c.in.B[c.at:])) < bytes
}

// Pass moves the next n bytes of a message to another connection as they come. What it has begun is
// lost where it fails: the rest of the message has not been read then, nor has the other side got it
// whole. ended says that this side has ended in the message's middle; any other error may be of either
// side, since between two sockets the kernel moves the bytes.
func (c *Conn) Pass(to *Conn, n int) (ended bool, err error) {
	if err = c.await(); err != nil {
		return false, err
	}
	if n, err = c.passBuffered(to, n); err == nil {
		if from, into := sockets(c, to); from != nil && n > 0 {
			ended, err = c.splice(to, from, into, n)
		} else {
			ended, err = c.passCopied(to, n)
		}
	}
	if err == nil {
		return false, errors.Join(c.endAwait(), to.endPart())
	}
	c.lost = unexpected(err)
	return ended, c.lost
}

// passBuffered writes of the next n bytes those that have been read already, and returns how many
// are left.
func (c *Conn) passBuffered(to *Conn, n int) (left int, err error) {
	if c.in == nil || n == 0 {
		return n, nil
	}
	b := c.in.B[c.at:]
	b = b[:min(len(b), n)]
	err = to.writePart(b)
	c.skip(len(b))
	return n - len(b), err
}

// passCopied passes n bytes through a buffer of passSize.
func (c *Conn) passCopied(to *Conn, n int) (ended bool, err error) {
	b := NewBuf(min(n, passSize))
	defer b.Free()
	for n > 0 {
		some, err := c.some(b.B[:min(n, len(b.B))])
		if err == nil {
			err = c.await()
		}
		if err != nil {
			return true, err
		}
		if err := to.writePart(b.B[:some]); err != nil {
			return false, err
		}
		n -= some
	}
	return false, nil
}

// sockets are the two ends where the kernel can move bytes between them: half of the CPU time for 16
// MiB, beside reading and writing them.
func sockets(c, to *Conn) (from net.Conn, into *net.TCPConn) {
	if runtime.GOOS != "linux" {
		return nil, nil
	}
	switch c.Conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		from = c.Conn
	default:
		return nil, nil
	}
	if into, _ = to.Conn.(*net.TCPConn); into == nil {
		return nil, nil
	}
	return from, into
}

// splice has the kernel move n bytes, some at a time, so that the other side has to take that many
// within [Conn.Stall].
func (c *Conn) splice(to *Conn, from net.Conn, into *net.TCPConn, n int) (ended bool, err error) {
	limited := io.LimitedReader{R: from}
	for n > 0 {
		if err := errors.Join(c.await(), to.extend()); err != nil {
			return false, err
		}
		limited.N = int64(min(n, spliceSize))
		moved, err := into.ReadFrom(&limited)
		if err != nil {
			return false, err
		}
		if moved == 0 {
			return true, io.ErrUnexpectedEOF
		}
		n -= int(moved)
	}
	return false, nil
}

// How much of a message that is passed on is held, and moved by the kernel, at once.
const (
	passSize   = 256 << 10
	spliceSize = 1 << 20
)

// Fill reads the next len(b) bytes of a message.
func (c *Conn) Fill(b []byte) error {
	for len(b) > 0 {
		n, err := c.some(b)
		if err != nil {
			c.lost = unexpected(err)
			return c.lost
		}
		b = b[n:]
	}
	return nil
}

// Drop reads the next n bytes of a message and forgets them.
func (c *Conn) Drop(n int) error {
	b := NewBuf(min(n, passSize))
	defer b.Free()
	for n > 0 {
		part := b.B[:min(n, len(b.B))]
		if err := c.Fill(part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// some reads what is there of a message, at most len(b), and waits for some.
func (c *Conn) some(b []byte) (int, error) {
	if c.in != nil {
		n := copy(b, c.in.B[c.at:])
		c.skip(n)
		return n, nil
	}
	n, err := c.Read(b)
	if n > 0 {
		return n, nil
	}
	return 0, progress(err)
}

// writePart writes a part of a message, of which the other side has to take some within [Conn.Stall].
func (c *Conn) writePart(b []byte) error {
	if err := c.extend(); err != nil {
		return err
	}
	n, err := c.Conn.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// extend gives the other side the time of a stall for the next part.
func (c *Conn) extend() error {
	if c.Stall == 0 {
		return nil
	}
	return c.SetWriteDeadline(time.Now().Add(c.Stall))
}

// await gives this side the time of a stall for its next part, whatever the deadline of a lull says.
func (c *Conn) await() error {
	c.lull = time.Time{}
	if c.Stall == 0 {
		return nil
	}
	return c.SetReadDeadline(time.Now().Add(c.Stall))
}

func (c *Conn) endAwait() error {
	if c.Stall == 0 {
		return nil
	}
	return c.SetReadDeadline(time.Time{})
}

func (c *Conn) endPart() error {
	if c.Stall == 0 {
		return nil
	}
	return c.SetWriteDeadline(time.Time{})
}
