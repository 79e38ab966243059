package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/address"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"
)

// errReselect tells an acquire to look at the newest table again.
var errReselect = errors.New("the topology changed")

// deployment is one URI being run: the driver's topology, which is only watched, the table that
// is made of what it says, and a pool per server.
type deployment struct {
	cluster *Cluster
	tgt     atomic.Pointer[target]
	tp      atomic.Pointer[topology.Topology] // nil before the start and after the end
	watch   *monitors                         // the topology's connections; set by connect
	table   atomic.Pointer[table]
	clears  clearQueue
	waiting atomic.Int64 // acquires that wait for the table to change

	ctx    context.Context // of dials and of run; ended by retire
	cancel context.CancelFunc

	publishing sync.Mutex // held while the table is replaced

	mu      sync.Mutex // guards the following
	pools   map[string]*pool
	limits  Limits
	retired bool
	taken   int64 // acquires of pools that are gone
}

func newDeployment(c *Cluster, t *target, l Limits) *deployment {
	d := &deployment{cluster: c, pools: map[string]*pool{}, limits: l}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.clears.wake = make(chan struct{}, 1)
	d.tgt.Store(t)
	d.table.Store(&table{changed: make(chan struct{})})
	return d
}

func (d *deployment) target() *target { return d.tgt.Load() }

// run watches the topology until the deployment is retired.
func (d *deployment) run() {
	defer d.cluster.all.wg.Done()
	tp := d.connect()
	if tp == nil {
		return
	}
	defer d.disconnect(tp)
	sub, err := tp.Subscribe() // only after Connect
	if err != nil {
		d.log().Error().Err(err).Msg("the topology cannot be watched")
		return
	}
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.clears.wake:
			d.applyClears()
		case _, ok := <-sub.Updates:
			if !ok {
				return
			}
			d.publish(tp)
		}
	}
}

// connect starts the topology. It tries again for as long as DNS does not answer; nil means that
// the deployment was retired meanwhile.
func (d *deployment) connect() *topology.Topology {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		tp, err := d.open()
		if err == nil {
			d.tp.Store(tp)
			return tp
		}
		d.log().Warn().Err(err).Dur("retry_in", pause).Msg("cluster cannot be started")
		select {
		case <-d.ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (d *deployment) open() (*topology.Topology, error) {
	t := d.target()
	if t.srv() {
		found, err := resolve(t.uri, d.cluster.all.opts.AppName)
		if err != nil {
			return nil, err
		}
		d.tgt.Store(found)
		t = found
	}
	opts := *t.opts
	opts.PoolMonitor = &event.PoolMonitor{Event: d.poolEvent}
	opts.ServerMonitor = &event.ServerMonitor{ServerHeartbeatStarted: d.heartbeat}
	d.watch = newMonitors(t.dial)
	opts.Dialer = d.watch
	// No authenticator: monitors never log in, and the driver's pools must not.
	cfg, err := topology.NewAuthenticatorConfig(nil, topology.WithAuthConfigClientOptions(&opts))
	if err != nil {
		return nil, redact(t.uri, err)
	}
	tp, err := topology.New(cfg)
	if err != nil {
		return nil, redact(t.uri, err)
	}
	return tp, tp.Connect()
}

// disconnect ends the topology. No SelectServer of ours is ever under way: across a Disconnect
// it would spin.
func (d *deployment) disconnect(tp *topology.Topology) {
	d.tp.Store(nil)
	d.watch.end()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = tp.Disconnect(ctx)
}

// publish makes what the topology knows now the table that acquires see. It asks the topology
// instead of taking what a subscription delivered, so that a report of an error can publish what
// came of it before the next acquire, and nothing older comes after it.
func (d *deployment) publish(tp *topology.Topology) {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	desc, old := tp.Description(), d.table.Load()
	next := newTable(desc, d.target(), d.poolsFor(desc))
	d.table.Store(next)
	close(old.changed)
	if f, ok := next.facts(); ok {
		d.cluster.facts.Store(&f)
	}
	d.afterChange(old, next)
	if d.waiting.Load() > 0 {
		d.requestCheck()
	}
}

// afterChange sends those who wait for connections of servers that changed back to selection,
// and ends the pools of servers that are gone.
func (d *deployment) afterChange(old, next *table) {
	for _, s := range old.servers {
		n := next.find(s.addr)
		switch {
		case n == nil:
			d.dropPool(s.addr)
		case n.kind != s.kind:
			n.pool.kick()
		}
	}
	if was, is := old.ready(), next.ready(); was != is {
		d.log().Info().Bool("ready", is).Stringer("topology", next.kind).Msg("cluster changed")
	}
}

// poolsFor returns a pool for each server that the topology names, and makes those that are new.
func (d *deployment) poolsFor(desc description.Topology) map[string]*pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range desc.Servers {
		addr := s.Addr.String()
		if d.pools[addr] == nil && !d.retired {
			d.pools[addr] = newPool(d, addr, d.limits)
		}
	}
	found := make(map[string]*pool, len(d.pools))
	for addr, p := range d.pools {
		found[addr] = p
	}
	return found
}

func (d *deployment) dropPool(addr string) {
	d.mu.Lock()
	p := d.pools[addr]
	delete(d.pools, addr)
	if p != nil {
		d.taken += p.taken()
	}
	d.mu.Unlock()
	if p != nil {
		p.retire()
	}
}

// awaitChange waits until the table is no longer t, at most until late, and has all servers checked
// meanwhile.
func (d *deployment) awaitChange(ctx context.Context, late time.Time, t *table, sel Select) error {
	ctx, cancel := context.WithDeadline(ctx, late)
	defer cancel()
	if d.waiting.Add(1) == 1 {
		d.requestCheck()
	}
	defer d.waiting.Add(-1)
	select {
	case <-t.changed:
		return errReselect
	case <-d.ctx.Done():
		return errReselect
	case <-ctx.Done():
		return &selectionError{kind: ErrNoServer, want: sel.String(), last: t.lastError()}
	}
}

// requestCheck has all servers checked at once, at most every half second each.
func (d *deployment) requestCheck() {
	if tp := d.tp.Load(); tp != nil {
		tp.RequestImmediateCheck()
	}
}

// checkServer has one server checked at once, where its monitor is not waiting for a pushed hello.
func (d *deployment) checkServer(addr string) {
	if s := d.server(addr); s != nil {
		s.RequestImmediateCheck()
	}
}

// server finds the driver's server, which takes reports of errors; nil if it is gone.
func (d *deployment) server(addr string) *topology.SelectedServer {
	tp := d.tp.Load()
	if tp == nil {
		return nil
	}
	s, err := tp.FindServer(description.Server{Addr: address.Address(addr)})
	if err != nil {
		return nil
	}
	return s
}

// clearQueue hands pool clears from the topology's callbacks, which must never block, to run.
type clearQueue struct {
	wake chan struct{} // holds one
	mu   sync.Mutex    // guards list
	list []poolClear
}

type poolClear struct {
	addr      string
	interrupt bool // connections in use are dead too
}

func (q *clearQueue) add(c poolClear) {
	q.mu.Lock()
	q.list = append(q.list, c)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *clearQueue) drain() []poolClear {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.list
	q.list = nil
	return l
}

// poolEvent hears about the driver's unused pools. That one is cleared says that the driver thinks
// the sockets to this server are dead. It is called under the topology's locks: it must not call
// the topology, block, or panic.
func (d *deployment) poolEvent(e *event.PoolEvent) {
	if e.Type != event.ConnectionPoolCleared {
		return
	}
	if s := d.table.Load().find(e.Address); s != nil {
		s.pool.outdate()
	}
	d.clears.add(poolClear{addr: e.Address, interrupt: e.Interruption})
}

// heartbeat hears that the driver begins to look at a server. As in poolEvent, nothing may be done
// here but count.
func (d *deployment) heartbeat(e *event.ServerHeartbeatStartedEvent) {
	end := max(strings.LastIndex(e.ConnectionID, "[-"), 0) // the connection's number is behind the address
	if s := d.table.Load().find(e.ConnectionID[:end]); s != nil {
		s.pool.beats.Add(1)
	}
}

func (d *deployment) applyClears() {
	for _, c := range d.clears.drain() {
		d.mu.Lock()
		p := d.pools[c.addr]
		d.mu.Unlock()
		if p != nil {
			p.dropOutdated(c.interrupt)
		}
	}
}

// retire ends the deployment: its goroutines, its idle connections, and the waiting of those who
// wait for one. Connections in use are closed when they are released.
func (d *deployment) retire() {
	d.mu.Lock()
	d.retired = true
	d.mu.Unlock()
	d.cancel()
	for _, p := range d.allPools() {
		p.retire()
	}
}

// kill closes the connections in use too.
func (d *deployment) kill() {
	for _, p := range d.allPools() {
		p.interrupt(func(*Conn) bool { return true })
	}
}

func (d *deployment) allPools() []*pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	pools := make([]*pool, 0, len(d.pools))
	for _, p := range d.pools {
		pools = append(pools, p)
	}
	return pools
}

func (d *deployment) setLimits(l Limits) {
	d.mu.Lock()
	d.limits = l
	d.mu.Unlock()
	for _, p := range d.allPools() {
		p.setLimits(l)
	}
}

// busy reports whether anybody has or wants a connection.
func (d *deployment) busy() bool {
	if d.waiting.Load() > 0 {
		return true
	}
	for _, p := range d.allPools() {
		if p.busy() {
			return true
		}
	}
	return false
}

// sweep closes idle connections and returns how many acquires there have been.
func (d *deployment) sweep(idle time.Duration) (taken int64, busy bool) {
	for _, p := range d.allPools() {
		p.sweep(idle)
		taken += p.taken()
		busy = busy || p.busy()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return taken + d.taken, busy
}
