package wire

import (
	"net"
	"syscall"
)

// noNetwork spares a connection between two processes of this machine what is meant for networks. Where the
// system's congestion control is BBR, each segment is sent by a timer: a message of 16 MB takes twice the time
// so, and three times the CPU's. Reno, which knows of no timers, is in every kernel.
func noNetwork(nc net.Conn) {
	for {
		over, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = over.NetConn()
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok || !here(tcp.LocalAddr(), tcp.RemoteAddr()) {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // without it the connection is as good, and slower
			_ = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CONGESTION, "reno")
		})
	}
}

// here reports whether both ends are on this machine.
func here(local, remote net.Addr) bool {
	l, isTCP := local.(*net.TCPAddr)
	r, ok := remote.(*net.TCPAddr)
	return isTCP && ok && (r.IP.IsLoopback() || r.IP.Equal(l.IP))
}
