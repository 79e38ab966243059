package backend

import (
	"context"
	"net"
	"sync"
)

// monitors dials the connections by which the driver watches a deployment's servers, and closes them at
// its end. The driver alone does not always: a check that begins while the topology is ended may have it
// wait for a hello that the server holds back for 10 s, the heartbeat's interval.
type monitors struct {
	dial dialFunc

	mu    sync.Mutex // guards the following
	conns map[*monitorConn]struct{}
	ended bool
}

func newMonitors(dial dialFunc) *monitors {
	return &monitors{dial: dial, conns: map[*monitorConn]struct{}{}}
}

// DialContext is the driver's way to a server.
func (m *monitors) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := m.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &monitorConn{Conn: nc, of: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		_ = nc.Close()
		return nil, ErrClosed
	}
	m.conns[c] = struct{}{}
	return c, nil
}

// end closes them, and lets no other be opened.
func (m *monitors) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for c := range m.conns {
		_ = c.Conn.Close()
	}
}

// monitorConn is a connection that is counted until it is closed.
type monitorConn struct {
	net.Conn
	of *monitors
}

// Close closes the connection.
func (c *monitorConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
