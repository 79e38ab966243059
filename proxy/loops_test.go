package proxy

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// newLoops are loops as a process has them, until the test is over.
func newLoops(t testing.TB) *wire.Loops {
	t.Helper()
	l, err := wire.NewLoops(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// dialed connects to an address, or to the unix socket of a path.
func dialed(addr string) (net.Conn, error) {
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	return net.DialTimeout(network, addr, wiretest.Patience)
}
