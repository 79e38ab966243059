package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// callerOf is the process that has connected by a unix socket, as it was then (unix(7), SO_PEERCRED); nil for
// any other connection.
func callerOf(nc net.Conn) (c *caller) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			c = &caller{uid: cred.Uid, pid: cred.Pid}
		}
	})
	return c
}
