package wiretest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// Patience is how long the Wait functions wait before the test fails.
const Patience = 10 * time.Second

// Server is one scripted server. All of its methods may be called from any goroutine, those that
// fail the test from the test's only.
type Server struct {
	t   testing.TB
	opt options
	set *set // never changes; its fields have a mutex of their own

	mu       sync.Mutex // guards the following fields
	addr     string
	ln       net.Listener
	up       bool
	stop     chan struct{} // closed by Kill
	conns    map[*serverConn]struct{}
	opened   int
	commands []Command
	news     chan struct{} // closed and made anew when commands or conns change
	handler  func(Command) Reply
	once     map[string][]Reply
	hello    helloState
	cursors  map[int64]*cursor

	lastCursor int64

	wg sync.WaitGroup // accepting and serving goroutines
}

var addresses atomic.Int32

// NewServer starts a server, which is closed when the test ends.
func NewServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	return newServer(t, newSet(), opts...)
}

func newServer(t testing.TB, set *set, opts ...Option) *Server {
	t.Helper()
	s := &Server{t: t, set: set, conns: map[*serverConn]struct{}{}, news: make(chan struct{}), once: map[string][]Reply{}}
	for _, o := range opts {
		o(&s.opt)
	}
	if s.opt.wireVersion == 0 {
		s.opt.wireVersion = 25
	}
	s.handler = s.opt.handler
	s.addr = s.opt.addr
	switch {
	case s.addr != "":
	case s.opt.inMemory:
		s.addr = fmt.Sprintf("m%d.test:27017", addresses.Add(1))
	default:
		s.addr = "127.0.0.1:0"
	}
	s.hello = helloState{role: s.opt.role, changed: make(chan struct{})}
	set.join(s)
	s.Restart()
	if s.opt.role == Primary {
		s.SetRole(Primary)
	}
	t.Cleanup(s.Close)
	return s
}

// Addr is the host:port, the same after a restart.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URI is a connection string for this server alone.
func (s *Server) URI() string { return "mongodb://" + s.Addr() + "/?directConnection=true" }

// Restart starts a killed server again on the same port, as a new process: another processId in
// topologyVersion, no cursors.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up {
		return
	}
	s.up, s.stop, s.cursors = true, make(chan struct{}), map[int64]*cursor{}
	s.hello.process, s.hello.counter = bson.NewObjectID(), 0
	if s.opt.inMemory {
		return
	}
	ln, err := listen(s.addr)
	if err != nil {
		s.up = false
		s.t.Fatalf("listen again: %v", err)
	}
	s.ln, s.addr = ln, ln.Addr().String()
	s.wg.Go(func() { s.accept(ln) })
}

// listen tries again for a moment: another process may have the port as a client's for long.
func listen(addr string) (net.Listener, error) {
	for try := 0; ; try++ {
		ln, err := net.Listen("tcp", addr)
		if err == nil || try == 50 {
			return ln, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *Server) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		if !s.take(nc) {
			nc.Close()
		}
	}
}

// take serves a connection, false where the server is down.
func (s *Server) take(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.up {
		return false
	}
	s.opened++
	c := &serverConn{s: s, Conn: wire.NewConn(nc), number: s.opened, stop: s.stop, gone: make(chan struct{})}
	s.conns[c] = struct{}{}
	s.tell()
	s.wg.Go(c.serve)
	return true
}

// DialContext connects to the server, over net.Pipe where it is in memory. As a method value it is
// a dialer for one server; for several see [Dialer].
func (s *Server) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	if !s.opt.inMemory {
		var d net.Dialer
		return d.DialContext(ctx, network, s.Addr())
	}
	near, far := net.Pipe()
	if !s.take(far) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return near, nil
}

// Dialer reaches servers by their addresses; it is what drivers call a ContextDialer.
type Dialer []*Server

// DialContext connects to the server with the address.
func (d Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	for _, s := range d {
		if s.Addr() == addr {
			return s.DialContext(ctx, network, addr)
		}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("no server %s", addr)}
}

// Kill stops the server as a crash does: the port is closed, all connections are cut, cursors and
// open transactions are gone. It returns when nothing of it runs any more.
func (s *Server) Kill() {
	s.mu.Lock()
	if !s.up {
		s.mu.Unlock()
		return
	}
	s.up = false
	close(s.stop)
	if s.ln != nil {
		s.ln.Close()
	}
	role := s.hello.role
	s.mu.Unlock()
	s.Drop()
	s.wg.Wait()
	if role == Primary || role == Standalone {
		s.set.abortAll()
	}
}

// Close is Kill for good.
func (s *Server) Close() { s.Kill() }

// Drop cuts all connections; the server lives on.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Conn.Close()
	}
}

// Handle sets the script for every command but hello. It runs on the connection's goroutine; what
// it passes (see [Pass]) the server answers itself. Nil is no script.
func (s *Server) Handle(h func(Command) Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = h
}

// Once says what to do about the next command of the name, before the script is asked. Several
// are used up in order.
func (s *Server) Once(name string, r Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.once[name] = append(s.once[name], r)
}

// scripted is what Once or the script says.
func (s *Server) scripted(cmd Command) Reply {
	s.mu.Lock()
	h := s.handler
	if q := s.once[cmd.Name]; len(q) > 0 {
		s.once[cmd.Name] = q[1:]
		s.mu.Unlock()
		return q[0]
	}
	s.mu.Unlock()
	if h == nil {
		return Pass()
	}
	return h(cmd)
}

// tell wakes those who wait for commands or connections.
func (s *Server) tell() {
	close(s.news)
	s.news = make(chan struct{})
}

func (s *Server) record(cmd Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, cmd)
	s.tell()
}

func (s *Server) forget(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.tell()
}

// Commands are those received so far of the names, of all names but hello's where there are none.
func (s *Server) Commands(names ...string) []Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named(names)
}

func (s *Server) named(names []string) []Command {
	var cmds []Command
	for _, c := range s.commands {
		if slices.Contains(names, c.Name) || len(names) == 0 && !wire.IsHello(c.Name) {
			cmds = append(cmds, c)
		}
	}
	return cmds
}

// Forget empties the record of commands.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = nil
}

// Wait returns the first n commands of the name as soon as there are so many.
func (s *Server) Wait(name string, n int) []Command {
	s.t.Helper()
	var cmds []Command
	s.until(fmt.Sprintf("%d %s", n, name), func() bool {
		cmds = s.named([]string{name})
		return len(cmds) >= n
	})
	return cmds[:n]
}

// Conns is how many connections are open now, and how many were opened ever.
func (s *Server) Conns() (open, ever int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns), s.opened
}

// WaitConns waits until so many connections are open.
func (s *Server) WaitConns(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d connections", n), func() bool { return len(s.conns) == n })
}

// until waits until the condition, which is asked under the lock, holds.
func (s *Server) until(what string, holds func() bool) {
	s.t.Helper()
	late := time.NewTimer(Patience)
	defer late.Stop()
	for {
		s.mu.Lock()
		ok, news := holds(), s.news
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-late.C:
			s.t.Fatalf("server %s: no %s within %v", s.Addr(), what, Patience)
		}
	}
}
