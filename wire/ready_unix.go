//go:build unix

package wire

import (
	"io"
	"net"
	"os"
	"syscall"
)

// waitReady prepares the connection for waiting without a buffer. Only the two types whose Read is
// a plain read of the socket are taken: one that wraps them may do more in its own.
func (c *Conn) waitReady() {
	var sc syscall.Conn
	switch nc := c.Conn.(type) {
	case *net.TCPConn:
		sc = nc
	case *net.UnixConn:
		sc = nc
	default:
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		c.raw = raw
	}
}

// readRaw waits for what f, a method of this connection, takes of the socket: f is called until it is
// true, and in between the runtime waits until there is something to read. The closure that the runtime
// wants is made once, an allocation for each read would be dear; a connection has need of one or two.
func (c *Conn) readRaw(closure *func(fd uintptr) bool, f func(*Conn, uintptr) bool) error {
	if *closure == nil {
		*closure = func(fd uintptr) bool { return f(c, fd) }
	}
	err := c.raw.Read(*closure)
	if err == nil {
		err, c.err = c.err, nil
	}
	return err
}

// fillRaw waits for the first bytes of a message.
func (c *Conn) fillRaw() error { return c.readRaw(&c.ready, (*Conn).tryRead) }

// askRaw writes the question and waits for the first bytes of the answer.
func (c *Conn) askRaw() error { return c.readRaw(&c.asked, (*Conn).askOnce) }

// eachRaw serves messages inside of the wait for them.
func (c *Conn) eachRaw() error {
	defer func() { c.inside = false }()
	return c.readRaw(&c.served, (*Conn).serveOnce)
}

// tryRead reads once what is there; false makes the runtime wait until there is something.
func (c *Conn) tryRead(fd uintptr) bool {
	b := NewBuf(readSize)
	n, err := readNow(int(fd), b.B)
	return c.took(b, n, err)
}

// took takes what a read into b, a buffer of readSize, has said; false where there was nothing.
func (c *Conn) took(b *Buf, n int, err syscall.Errno) bool {
	if n > 0 {
		c.full = n == len(b.B)
		b.B = b.B[:n]
		c.in = b
		return true
	}
	c.full = false
	b.Free()
	switch err {
	case 0:
		c.err = io.EOF
	case syscall.EAGAIN:
		return false
	default:
		c.err = &net.OpError{
			Op: "read", Net: c.LocalAddr().Network(), Source: c.LocalAddr(),
			Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", err),
		}
	}
	return true
}

// askOnce writes the question when it is called first, and reads when it is called again. What is not
// written whole at once is for the plain write to go on with.
func (c *Conn) askOnce(fd uintptr) bool {
	if c.question == nil {
		return c.tryRead(fd)
	}
	b := c.question
	c.question = nil
	c.written = writeNow(int(fd), b)
	return c.written < len(b)
}

// serveOnce reads what is there and serves it, until nothing is. A read that did not fill its buffer
// has taken all, and what comes afterwards wakes the runtime's wait, however soon: it is asked to forget
// what it was told when the wait begins, not between two calls of this. Only an end of the stream that
// came with the bytes is not told again: it is seen when the lull is over.
func (c *Conn) serveOnce(fd uintptr) bool {
	c.inside, c.fd = true, int(fd)
	for {
		if !c.tryRead(fd) {
			return false
		}
		if c.err != nil {
			return true
		}
		all := len(c.in.B) < readSize
		var more bool
		if more, c.err = c.serveBuffered(); !more {
			return true
		}
		if all {
			return false
		}
	}
}

// readNow reads what is there.
func readNow(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, err := sysRead(fd, b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// writeNow writes what the socket takes at once. Why it did not take all is for a plain write to find.
func writeNow(fd int, b []byte) (n int) {
	for {
		n, err := sysWrite(fd, b)
		if err != syscall.EINTR {
			return max(n, 0)
		}
	}
}
