package proxy

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/smetasc/tenantry/auth"
)

// caller is a process at the other end of a unix socket.
type caller struct {
	uid uint32
	pid int32
}

// bySocket reports whether the client came by a unix socket.
func (c *clientConn) bySocket() bool { return c.wc.RemoteAddr().Network() == "unix" }

// peer is where the client is, as people read it.
func (c *clientConn) peer() string {
	switch {
	case c.caller != nil:
		return fmt.Sprintf("unix socket, uid %d, pid %d", c.caller.uid, c.caller.pid)
	case c.bySocket():
		return "unix socket"
	}
	return c.wc.RemoteAddr().String()
}

// you is what a server calls the client.
func (c *clientConn) you() string {
	if c.bySocket() {
		return "anonymous unix socket"
	}
	return c.wc.RemoteAddr().String()
}

// origin tells clients apart by where they are: the address or, behind a unix socket, the user whose process it is.
func (c *clientConn) origin() string {
	switch {
	case c.caller != nil:
		return fmt.Sprint("uid ", c.caller.uid)
	case c.bySocket():
		return "unix"
	}
	return c.address().String()
}

// network is origin with one for all of an IPv6 client's network.
func (c *clientConn) network() string {
	if a := c.address(); a.IsValid() {
		return auth.Network(a)
	}
	return c.origin()
}

// address is the client's; the zero one where it has none, which is a unix socket's or a pipe's.
func (c *clientConn) address() netip.Addr {
	if a, ok := c.wc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
