package proxy

import (
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"testing"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// newLoops are loops as a process has them, until the test is over.
func newLoops(t testing.TB) *wire.Loops {
	t.Helper()
	l, err := wire.NewLoops(2, true)
	if l == nil {
		t.Skip("there are no loops on this system:", err)
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

// bySocket has the ground's proxy listen on a unix socket too, and returns its path.
func (g *ground) bySocket(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tenantry.sock")
	g.sockets(mode, path)
	if _, err := g.proxy.Listen(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// boundToEach has the proxy listen for tenants, each of which an address binds to its rows.
func (g *ground) boundToEach(t *testing.T, tenants ...string) map[string]string {
	t.Helper()
	set, addrs := *g.proxy.settings.Load(), map[string]string{}
	set.leaks, set.listeners = leaksFull, maps.Clone(set.listeners)
	if set.listeners == nil {
		set.listeners = map[string]*config.Listener{}
	}
	for _, tenant := range tenants {
		set.listeners[tenant] = &config.Listener{Address: tenant, Tenant: tenant, Isolation: "rows", Access: "write"}
	}
	g.proxy.settings.Store(&set)
	for _, tenant := range tenants {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g.proxy.Serve(l, tenant)
		addrs[tenant] = l.Addr().String()
	}
	return addrs
}

// sockets are the listeners that the proxy's configuration has.
func (g *ground) sockets(mode fs.FileMode, paths ...string) {
	set := *g.proxy.settings.Load()
	set.listeners = map[string]*config.Listener{}
	for _, path := range paths {
		set.listeners[path] = &config.Listener{Address: path, Presentation: "mongos", SocketMode: mode}
	}
	g.proxy.settings.Store(&set)
}
