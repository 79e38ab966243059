package backend

import (
	"net"
	"syscall"
)

// liveness looks whether an idle socket is still good: nothing may have come on it, neither the
// end nor bytes that nobody asked for. Under TLS the same holds, since what belongs to the
// handshake has been read with the first reply. The connection's user owns it.
type liveness struct {
	raw  syscall.RawConn
	peek func(fd uintptr)
	byte [1]byte
	good bool
}

func (l *liveness) watch(socket net.Conn) {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	l.raw = raw
	l.peek = func(fd uintptr) {
		for {
			err := peek(fd, l.byte[:])
			if err == syscall.EINTR {
				continue
			}
			l.good = err == syscall.EAGAIN
			return
		}
	}
}

// alive is true where it can't be told.
func (l *liveness) alive() bool {
	if l.raw == nil {
		return true
	}
	l.good = false
	return l.raw.Control(l.peek) == nil && l.good
}
