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
		c.raw, c.ready, c.asked = raw, c.tryRead, c.askOnce
	}
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
			c.err = &net.OpError{
				Op: "read", Net: c.LocalAddr().Network(), Source: c.LocalAddr(),
				Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", err),
			}
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

// askOnce writes the question when it is called first, and reads when it is called again. What is not
// written whole at once is for the plain write to go on with.
func (c *Conn) askOnce(fd uintptr) bool {
	if c.question == nil {
		return c.tryRead(fd)
	}
	b := c.question
	c.question = nil
	for {
		n, err := syscall.Write(int(fd), b)
		if err == syscall.EINTR {
			continue
		}
		c.written = max(n, 0)
		return c.written < len(b)
	}
}
