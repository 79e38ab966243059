package proxy

import (
	"net"
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

func dialed(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, wiretest.Patience) }
