package wire

import (
	"crypto/tls"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoNetwork: whatever the system has for networks, a connection within the machine has none of it.
func TestNoNetwork(t *testing.T) {
	available, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	allowed, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if !slices.Contains(strings.Fields(string(allowed)), "reno") || len(strings.Fields(string(available))) < 2 {
		t.Log("this system offers no choice")
		return
	}
	for _, wrap := range []func(nc net.Conn) net.Conn{
		func(nc net.Conn) net.Conn { return nc },
		func(nc net.Conn) net.Conn { return tls.Server(nc, &tls.Config{}) },
		func(nc net.Conn) net.Conn { return tls.Server(under{nc}, &tls.Config{}) },
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
	own, other := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2)}
	if !here(own, &net.TCPAddr{IP: own.IP, Port: 2}) {
		t.Error("by an address of the network that is its own")
	}
	if here(own, other) || here(own, &net.UnixAddr{}) || here(nil, nil) {
		t.Error("from elsewhere")
	}
}

// under is what lies between TLS and a socket.
type under struct{ net.Conn }

func (u under) NetConn() net.Conn { return u.Conn }
