// Package proxy is the client's side: listeners, connections, and the way of one command from the
// client to where routing sends it and back. One goroutine serves one client and does the whole
// round trip; or loops wait for many clients and servers, and goroutines serve only what has to wait for
// more than a reply (loop.go). Nothing is started for a command that has one target.
//
//	ReadMessage ─▶ Request.Parse ─▶ Table.Route ─▶ forward | by id | each | local ─▶ reply ─▶ Write
//
// It owns what must outlive a command: cursors, transactions, and the count of writes in flight.
// What a route is and where a tenant lives is decided in routing; who publishes tables is not
// known here.
package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Options is what a server is joined with.
type Options struct {
	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Router     *routing.Router
	Clusters   *backend.Clusters
	Budget     *wire.Budget
	Loops      *wire.Loops // wait for clients and servers; nil: goroutines do. Closed after Shutdown
	Version    string
	// Resolve looks at a tenant value whose command is held; see control.
	Resolve func(ctx context.Context, v wire.Value) (unlisted bool, err error)
	// Review returns when a table is published that shows what the shared databases held at the time, or
	// later, and when that was read; see control. Nil where tables say nothing of that.
	Review func(ctx context.Context, at time.Time) (read time.Time, err error)
	// FleetKey signs session ids; nil while it is not known.
	FleetKey func() []byte
}

// Server accepts clients and serves them until it is shut down.
type Server struct {
	opts     Options
	log      zerolog.Logger
	settings atomic.Pointer[settings]
	cursors  *cursors
	txns     *txns
	clocks   *clocks
	gossip   gossip
	seen     atomic.Pointer[time.Time] // when what the shared databases hold was last read for a command; nil for never
	begun    begun
	recalls  *recalls
	sortKeys sortKeys
	flights  *flights
	rooms    rooms
	hints    *hints
	throttle *auth.Throttle
	audits   *audits
	outages  *thinned // lines about clusters that do not answer, by cluster
	metrics  *metrics

	handshakes *handshakes

	process   bson.ObjectID // of topologyVersion and serviceId
	draining  chan struct{} // closed when the end is announced to monitoring clients
	drainOnce sync.Once
	stopped   chan struct{} // closed when no further command is taken
	started   time.Time
	nextConn  atomic.Int32

	ctx    context.Context // of everything that waits for a backend; ended by Shutdown
	cancel context.CancelFunc
	ending atomic.Bool // after that

	mu        sync.Mutex // guards the following
	listeners []net.Listener
	clients   map[*clientConn]struct{}
	sides     map[*clientConn]struct{} // without a client: they wait for change streams
	closed    bool
	wg        sync.WaitGroup
}

// settings is what a configuration says to this room; immutable.
type settings struct {
	queueTimeout time.Duration
	slow         time.Duration
	maxClients   int
	perTenant    int
	width        int
	ship         int64 // bytes of documents brought together for one command
	oneCluster   bool
	leaks        string        // leaksOff and so on
	boundTime    time.Duration // longest time of a bound client's command; 0 for no limit
	listeners    map[string]*config.Listener
	users        *auth.Users
	mechanisms   []string
	failures     auth.Failures
	deny         []config.Deny
	tls          map[string]*tls.Config // of those that have it
	certificates []config.Certificate
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	s := &Server{
		opts: o, log: o.Log.With().Str("room", "proxy").Logger(), cursors: newCursors(), txns: newTxns(), clocks: newClocks(), begun: begun{kept: shelves[sessionID, time.Time]{}}, recalls: newRecalls(), flights: newFlights(), rooms: rooms{m: map[uint32]*room{}},
		hints: newHints(), throttle: auth.NewThrottle(), audits: newAudits(o.Log), outages: newThinned(1 << 10), process: bson.NewObjectID(), draining: make(chan struct{}), stopped: make(chan struct{}), started: time.Now(),
		clients: map[*clientConn]struct{}{}, sides: map[*clientConn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.metrics = newMetrics(o.Registerer, s)
	s.handshakes = newHandshakes(o.Registerer)
	s.settings.Store(&settings{queueTimeout: 5 * time.Second, maxClients: 20000, width: 16, ship: wire.MaxDocument, leaks: leaksSampled, listeners: map[string]*config.Listener{}, users: auth.NewUsers(nil)})
	return s
}

// Apply takes the settings of a configuration over. Connections keep what their listener said
// when they came; those whom it shuts out, and whose user it changes, end.
func (s *Server) Apply(cfg *config.Config) {
	n := &settings{
		queueTimeout: cfg.Limits.QueueTimeout, slow: cfg.Log.Slow, maxClients: cfg.Limits.ClientConnections,
		perTenant: cfg.Limits.InFlightPerTenant, width: max(cfg.Routing.ScatterWidth, 1), ship: cfg.Routing.ShipLimit, oneCluster: len(cfg.Clusters) == 1, leaks: cfg.Guard.Leaks, boundTime: cfg.Guard.MaxTime,
		listeners: make(map[string]*config.Listener, len(cfg.Listeners)), tls: map[string]*tls.Config{}, certificates: cfg.Certificates,
		users: auth.NewUsers(cfg.Users), mechanisms: cfg.Auth.Mechanisms, deny: cfg.Deny,
		failures: auth.Failures{
			PerAddress: auth.Limit{Count: cfg.Auth.AddressFailures, Period: cfg.Auth.FailurePeriod},
			PerUser:    auth.Limit{Count: cfg.Auth.UserFailures, Period: cfg.Auth.FailurePeriod},
		},
	}
	for _, l := range cfg.Listeners {
		n.listeners[l.Address] = &l
		if l.TLS != nil {
			n.tls[l.Address] = serverTLS(&l, s.settings.Load())
		}
	}
	s.settings.Store(n)
	s.shutOut(n)
}

// Listen opens the listener of a configured address. The file of a unix socket goes with its listener.
func (s *Server) Listen(address string) (net.Addr, error) {
	var l net.Listener
	var err error
	if set := s.settings.Load().listeners[address]; set != nil && set.IsSocket() {
		l, err = listenSocket(address, set.SocketMode)
	} else {
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		return nil, err // it names the address
	}
	s.Serve(l, address)
	return l.Addr(), nil
}

// Serve accepts clients from l, which stands for a configured address, until Shutdown.
func (s *Server) Serve(l net.Listener, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
	s.wg.Add(1)
	go s.accept(l, address)
}

func (s *Server) accept(l net.Listener, address string) {
	defer s.wg.Done()
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn().Err(err).Str("listener", address).Msg("accept failed; trying again")
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		s.welcome(nc, address)
	}
}

func (s *Server) welcome(nc net.Conn, address string) {
	c := s.admit(nc, address)
	if c == nil {
		return
	}
	c.log.Debug().Msg("client connected")
	if t, ok := c.wc.Conn.(*tls.Conn); ok {
		go s.secure(c, t)
		return
	}
	c.turn.take()
	if c.wc.Watch(s.opts.Loops, c) {
		c.resumeAlone()
		return
	}
	go s.attend(c, nil)
}

// admit makes what is needed for a client; nil where he is turned away.
func (s *Server) admit(nc net.Conn, address string) *clientConn {
	set := s.settings.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.clients) >= set.maxClients {
		s.metrics.turnedAway.Inc()
		_ = nc.Close()
		return nil
	}
	l := set.listeners[address]
	if l == nil {
		l = &config.Listener{Address: address}
	}
	c := newClientConn(s, s.secured(nc, set.tls[address]), l)
	s.clients[c] = struct{}{}
	s.wg.Add(1)
	return c
}

// attend serves a client on this goroutine, beginning with first, until it goes or a loop can go on with
// it. One that rests and that no loop waits for is handed to a new goroutine: a command makes its
// goroutine's stack grow, and the runtime takes minutes to give that back.
func (s *Server) attend(c *clientConn, first func(*clientConn) error) {
	switch {
	case !c.serve(first):
		s.left(c)
	case c.stream != nil || !c.wc.Watched():
		go s.attend(c, nil)
	default:
		c.wc.NoLull()
		c.wc.Unmute()
		c.resumeAlone()
	}
}

func (s *Server) left(c *clientConn) {
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Run does what must be done from time to time (old cursors and transactions are forgotten) until
// ctx ends.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.cursors.reap(now)
			s.txns.reap(now, s.flights)
			s.clocks.reap(now)
			s.begun.reap(now)
			s.recalls.reap(now)
			s.audits.flush()
		}
	}
}

// Drain announces to monitoring clients that this process is going away.
func (s *Server) Drain() { s.drainOnce.Do(func() { close(s.draining) }) }

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// Shutdown stops accepting, lets commands under way finish until ctx ends, then closes every
// connection and waits for all goroutines.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stopped)
	}
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.mu.Unlock()
	s.Drain()
	s.closeIdle()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	s.abortOpen()
	s.cancel()
	s.ending.Store(true)
	if s.opts.Loops != nil {
		s.opts.Clusters.Rouse() // those who wait without a goroutine
	}
	s.mu.Lock()
	for c := range s.clients {
		c.abort()
	}
	for c := range s.sides {
		c.interrupt()
	}
	s.mu.Unlock()
	<-done
}

// closeIdle closes the connections that wait for a command; the others close after their reply.
func (s *Server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if !c.busy.Load() {
			c.wc.Sever()
		}
	}
}

// Drained waits until no write that was routed before the epoch can still reach a backend for the
// tenant: its own, and those that named no tenant, but for writes of platform data.
func (s *Server) Drained(ctx context.Context, tenant uint32, epoch uint64) error {
	catalog := uint64(0)
	if t := s.opts.Router.Current(); t != nil {
		catalog = t.Catalog()
	}
	return s.flights.drained(ctx, tenant, epoch, catalog)
}

// Clients is how many are connected.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

func randomUUID() [16]byte {
	var id [16]byte
	_, _ = rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
