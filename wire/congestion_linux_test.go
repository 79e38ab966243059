package wire

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoNetwork: whatever the system has for networks, a connection within the machine has none of it.
func TestNoNetwork(t *testing.T) {
	const file = "/proc/sys/net/ipv4/tcp_available_congestion_control"
	available, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrap := range []func(nc net.Conn) net.Conn{
		func(nc net.Conn) net.Conn { return nc },
		func(nc net.Conn) net.Conn { return tls.Server(nc, &tls.Config{}) },
	} {
		_, far := tcpPair(t)
		raw, err := far.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		congestion := func() (name string) {
			if err := raw.Control(func(fd uintptr) {
				name, _ = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			}); err != nil {
				t.Fatal(err)
			}
			return name
		}
		for _, other := range strings.Fields(string(available)) { // the first that is not reno and is allowed
			if congestion() != "reno" {
				break
			}
			_ = raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CONGESTION, other)
			})
		}
		before := congestion()
		if NewConn(wrap(far)); congestion() != "reno" {
			t.Errorf("%s, before %s", congestion(), before)
		}
	}
	for _, a := range []net.Addr{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, &net.UnixAddr{}, nil} {
		if here(a) {
			t.Errorf("%v is of this machine", a)
		}
	}
}
