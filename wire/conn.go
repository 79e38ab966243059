package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// readSize is what one read asks for: a small command or reply arrives whole in one read.
const readSize = 16 << 10

// Conn reads and writes whole messages on a connection. While it waits for a message's first
// byte it holds no buffer, where the connection lets it wait for readiness (TCP and unix
// sockets; TLS can't). One goroutine reads and one writes; they may be the same.
type Conn struct {
	net.Conn
	raw   syscall.RawConn
	ready func(fd uintptr) bool // made once: a closure for each read would be an allocation
	in    *Buf                  // bytes read and not yet handed out; nil while idle
	err   error                 // of the read inside ready

	Budget *Budget       // bounds the memory of large messages; nil for none
	Wait   time.Duration // how long a large message waits for the budget; 0 waits without limit
}

// NewConn wraps a connection.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{Conn: nc}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw, c.ready = raw, c.tryRead
		}
	}
	return c
}

// tryRead reads once what is there; false makes the runtime wait until there is something.
func (c *Conn) tryRead(fd uintptr) bool {
	b := NewBuf(readSize)
	for {
		n, err := syscall.Read(int(fd), b.B)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			b.Free()
			return false
		case err != nil:
			b.Free()
			c.err = err
		case n == 0:
			b.Free()
			c.err = io.EOF
		default:
			b.B = b.B[:n]
			c.in = b
		}
		return true
	}
}

// fill waits until at least one byte is there.
func (c *Conn) fill() error {
	if c.in != nil {
		return nil
	}
	if c.raw != nil {
		if err := c.raw.Read(c.ready); err != nil {
			return err
		}
		err := c.err
		c.err = nil
		return err
	}
	b := NewBuf(readSize)
	n, err := c.Conn.Read(b.B)
	if n == 0 {
		b.Free()
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	b.B = b.B[:n]
	c.in = b
	return nil
}

// Buffered reports whether bytes of a further message have been read already.
func (c *Conn) Buffered() bool { return c.in != nil }

// Await waits until the first byte of the next message is there, holding no buffer meanwhile.
func (c *Conn) Await() error { return c.fill() }

// ReadMessage reads one message of at most limit bytes, the whole frame with its header. The
// caller frees the buffer. The error is io.EOF only between messages; a [FrameError] says that
// what arrived is no message or too long, before memory for it is taken.
func (c *Conn) ReadMessage(limit int) (*Buf, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	for len(c.in.B) < HeaderLen {
		if err := c.more(); err != nil {
			return nil, err
		}
	}
	n := int(ReadHeader(c.in.B).Length)
	if n < HeaderLen || n > limit {
		return nil, badFrame("length %d, want %d to %d", n, HeaderLen, limit)
	}
	switch have := len(c.in.B); {
	case have == n:
		b := c.in
		c.in = nil
		return b, nil
	case have > n: // the next message's first bytes came with it
		rest := NewBuf(have - n)
		copy(rest.B, c.in.B[n:])
		b := c.in
		b.B = b.B[:n]
		c.in = rest
		return b, nil
	}
	return c.readRest(n)
}

// more reads further bytes behind those that are there, for a header that came in pieces.
func (c *Conn) more() error {
	have := len(c.in.B)
	if cap(c.in.B) < readSize {
		b := NewBuf(readSize)
		copy(b.B, c.in.B)
		c.in.Free()
		c.in = b
	}
	n, err := c.Conn.Read(c.in.B[have:cap(c.in.B)])
	c.in.B = c.in.B[:have+n]
	if n > 0 {
		return nil
	}
	return unexpected(err)
}

// readRest reads a message whose beginning is there into a buffer of its size.
func (c *Conn) readRest(n int) (*Buf, error) {
	ctx := context.Background()
	if c.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Wait)
		defer cancel()
	}
	b, err := c.Budget.take(ctx, n)
	if err != nil {
		return nil, err
	}
	have := copy(b.B, c.in.B)
	c.in.Free()
	c.in = nil
	if _, err := io.ReadFull(c.Conn, b.B[have:]); err != nil {
		b.Free()
		return nil, unexpected(err)
	}
	return b, nil
}

func unexpected(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Release frees what was read and not handed out; the connection is not used afterwards.
func (c *Conn) Release() {
	c.in.Free()
	c.in = nil
}
