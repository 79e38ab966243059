package backend

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"

	"github.com/smetasc/tenantry/wire"
)

// pool is the connections to one server.
//
// Who finds an idle connection takes it. Who finds none waits in the queue, first come, first
// served, and a released connection goes to the queue's head; while the queue is longer than the
// number of dials under way, another dial is begun, at most maxDialing at once. A tenant that has
// its share in use does not enter the queue: it waits in its own, so that nobody waits behind it.
type pool struct {
	d    *deployment
	addr string

	// generation rises when the sockets of this server are to be distrusted; those of an older one
	// are closed instead of being lent again.
	generation atomic.Uint64
	inUse      atomic.Int32 // connections; this and the following are written under mu
	waits      atomic.Int32 // for one

	dials    atomic.Int64
	failures atomic.Int64
	clears   atomic.Int64
	beats    atomic.Int64 // heartbeats that the driver's monitor has begun

	reporting sync.Mutex // held while an error is reported, so that one cause is reported once

	mu        sync.Mutex     // guards the following
	open      []*Conn        // all that are open, in use or idle; Conn.at is the index
	idle      []*Conn        // the last released is at the end and is lent first
	queue     queue          // all of them have claimed their share
	tenants   []*[page]share // by number, in pages; nil where none of them uses anything
	dialing   int
	failed    int // dials since one succeeded
	dialError error
	failedAt  int64
	loggedAt  int64
	max       int
	perTenant int
	acquires  int64
	retired   bool
	lent      *waiter // borrowers to be told when the mutex is free, by their next
}

// maxDialing bounds the handshakes at once with one server.
const maxDialing = 4

// page is how many tenants' shares stand beside each other, so that one is found without a look at a pointer
// of its own.
const page = 64

// share is one tenant's part of a pool.
type share struct {
	claimed int   // connections in use and places in the pool's queue
	blocked queue // those beyond the limit
}

func newPool(d *deployment, addr string, l Limits) *pool {
	return &pool{
		d: d, addr: addr,
		max: l.MaxPerServer, perTenant: l.MaxPerTenant,
	}
}

// take lends an idle connection; nil if there is none or the tenant has its share already. t is the turn that it is
// taken in, if it is in one.
func (p *pool) take(t *wire.Turn, tenant uint32, at time.Duration) *Conn {
	for {
		p.mu.Lock()
		c := p.takeIdle(tenant)
		p.mu.Unlock()
		if c == nil || c.usable(int64(at)) {
			return c
		}
		c.broken.Store(true) // it is dead, and closed by that
		p.release(c, t)
	}
}

func (p *pool) takeIdle(tenant uint32) *Conn {
	n := len(p.idle)
	if n == 0 || p.retired {
		return nil
	}
	s := p.share(tenant)
	if s != nil && s.claimed >= p.perTenant {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	if s != nil {
		s.claimed++
	}
	p.lend(c, s)
	return c
}

// lend marks a connection as in use by a tenant, whose share has been claimed.
func (p *pool) lend(c *Conn, s *share) {
	c.busy, c.share = true, s
	p.acquires++
	p.inUse.Add(1)
}

// share finds a tenant's share; nil for no tenant, which nothing limits.
func (p *pool) share(tenant uint32) *share {
	if tenant == 0 {
		return nil
	}
	n := int(tenant / page)
	if n >= len(p.tenants) {
		p.tenants = append(p.tenants, make([]*[page]share, n+1-len(p.tenants))...)
	}
	if p.tenants[n] == nil {
		p.tenants[n] = new([page]share)
	}
	return &p.tenants[n][tenant%page]
}

// shares are those of the tenants that use something.
func (p *pool) shares() iter.Seq2[uint32, *share] {
	return func(yield func(uint32, *share) bool) {
		for n, shares := range p.tenants {
			for i := 0; shares != nil && i < page; i++ {
				if s := &shares[i]; s.used() && !yield(uint32(n*page+i), s) {
					return
				}
			}
		}
	}
}

func (s *share) used() bool { return s.claimed > 0 || s.blocked.head != nil }

// unclaim gives back a place of the share; who is blocked by it moves up.
func (p *pool) unclaim(s *share) {
	if s == nil {
		return
	}
	s.claimed--
	p.unblock(s)
}

func (p *pool) unblock(s *share) {
	for s.claimed < p.perTenant && s.blocked.head != nil {
		w := s.blocked.pop()
		s.claimed++
		p.queue.insert(w)
	}
}

// unlock gives the mutex back, and tells the borrowers that were served under it, in a loop's turn or in
// one of their own.
func (p *pool) unlock(t *wire.Turn) {
	w := p.lent
	p.lent = nil
	p.mu.Unlock()
	if w == nil {
		return
	}
	if t == nil {
		t = &wire.Turn{At: time.Now()}
		defer t.Run()
	}
	for w != nil {
		next := w.next
		w.next = nil
		w.tell(t)
		w = next
	}
}

// release takes a connection back.
func (p *pool) release(c *Conn, t *wire.Turn) {
	p.mu.Lock()
	if !c.busy {
		p.mu.Unlock()
		return
	}
	s := c.share
	c.busy, c.share = false, nil
	p.inUse.Add(-1)
	keep := !c.broken.Load() && !c.amid && !p.retired && c.generation == p.generation.Load() && len(p.open) <= p.max
	if keep {
		if c.idleSince = c.repliedAt; c.idleSince == 0 {
			c.idleSince = now()
		}
		c.repliedAt = 0
		p.idle = append(p.idle, c)
	} else {
		p.forget(c)
	}
	p.unclaim(s)
	p.serve()
	p.unlock(t)
	if !keep {
		c.close()
	}
}

// forget takes a connection out of the list of those that are open.
func (p *pool) forget(c *Conn) {
	last := len(p.open) - 1
	p.open[c.at] = p.open[last]
	p.open[c.at].at = c.at
	p.open[last] = nil
	p.open = p.open[:last]
}

// serve gives idle connections to those who wait, and begins dials where there are too few.
func (p *pool) serve() {
	for n := len(p.idle); n > 0 && p.queue.head != nil; n = len(p.idle) {
		w := p.queue.pop()
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.lend(c, w.share)
		w.deliver(c, nil)
	}
	for p.wantsDial() {
		p.dialing++
		p.d.cluster.all.wg.Add(1)
		go p.dialLoop()
	}
}

func (p *pool) wantsDial() bool {
	return !p.retired && p.queue.len > p.dialing && p.dialing < maxDialing && len(p.open)+p.dialing < p.max
}

// dialLoop dials for those who wait until they are enough.
func (p *pool) dialLoop() {
	defer p.d.cluster.all.wg.Done()
	for {
		p.dials.Add(1)
		c, err := p.d.dial(p)
		if err != nil {
			p.failures.Add(1)
			p.d.checkServer(p.addr)
		}
		pause, more := p.dialed(c, err)
		if !more {
			return
		}
		if pause > 0 && !p.rest(pause) {
			return
		}
	}
}

// dialed takes over what a dial gave, and says whether to dial again and when.
func (p *pool) dialed(c *Conn, err error) (pause time.Duration, more bool) {
	p.mu.Lock()
	defer p.unlock(nil)
	switch {
	case err != nil:
		pause = p.dialFailed(err)
	case p.retired || c.generation != p.generation.Load():
		c.close()
	default:
		p.failed, p.dialError = 0, nil
		c.at = len(p.open)
		p.open = append(p.open, c)
		c.idleSince = now()
		p.idle = append(p.idle, c)
		p.dialing--
		p.serve()
		return 0, false
	}
	if p.retired || p.queue.head == nil {
		p.dialing--
		return 0, false
	}
	return pause, true
}

// dialFailed notes the error. One that waiting cannot mend is what those who wait get; one of the
// network leaves them waiting, for a later dial, a connection released, or another server.
func (p *pool) dialFailed(err error) time.Duration {
	p.failed++
	p.dialError, p.failedAt = err, now()
	if p.loggedAt == 0 || p.failedAt-p.loggedAt > int64(logEvery) {
		p.loggedAt = p.failedAt
		p.d.log().Warn().Err(err).Str("server", p.addr).Int("failed", p.failed).Msg("cannot connect")
	}
	if !isNetwork(err) {
		p.refuse(err)
	}
	return min(20*time.Millisecond<<min(p.failed-1, 7), 2*time.Second)
}

// logEvery is how often a server's failing dials are logged at most.
const logEvery = 30 * time.Second

// refused is what the last log-in was refused with, for as long as it is not worth another try.
func (p *pool) refused() error {
	if p.dialError == nil || len(p.open) > 0 || now()-p.failedAt > int64(time.Second) || isNetwork(p.dialError) {
		return nil
	}
	return p.dialError
}

// rest pauses between dials; false if nobody waits any more.
func (p *pool) rest(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-p.d.ctx.Done():
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired || p.queue.len < p.dialing || len(p.open)+p.dialing > p.max {
		p.dialing--
		return false
	}
	return true
}

// refuse gives all who wait an error.
func (p *pool) refuse(err error) {
	for _, s := range p.shares() {
		for w := s.blocked.pop(); w != nil; w = s.blocked.pop() {
			w.deliver(nil, err)
		}
	}
	for w := p.queue.pop(); w != nil; w = p.queue.pop() {
		if w.share != nil {
			w.share.claimed--
		}
		w.deliver(nil, err)
	}
}

// kick sends all who wait back to selection.
func (p *pool) kick() {
	p.mu.Lock()
	defer p.unlock(nil)
	p.refuse(errReselect)
}

// outdate makes all connections of now stale. It takes no lock: the topology calls it.
func (p *pool) outdate() {
	p.clears.Add(1)
	p.generation.Add(1)
}

// dropOutdated closes the idle connections of older generations, and where interrupt is set makes
// those in use fail, so that nobody waits for ever for a dead server.
func (p *pool) dropOutdated(interrupt bool) {
	p.closeIdle(func(c *Conn) bool { return c.generation != p.generation.Load() })
	if interrupt {
		p.interrupt(func(c *Conn) bool { return c.generation != p.generation.Load() })
	}
}

// closeIdle closes the idle connections for which the function is true.
func (p *pool) closeIdle(which func(*Conn) bool) {
	var dead []*Conn
	p.mu.Lock()
	p.idle = slices.DeleteFunc(p.idle, func(c *Conn) bool {
		if !which(c) {
			return false
		}
		dead = append(dead, c)
		p.forget(c)
		return true
	})
	p.serve()
	p.unlock(nil)
	for _, c := range dead {
		c.close()
	}
}

// interrupt makes round trips fail that are under way.
func (p *pool) interrupt(which func(*Conn) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		if c.busy && which(c) {
			c.kill()
		}
	}
}

// retire ends the pool; connections in use are closed when they are released.
func (p *pool) retire() {
	p.mu.Lock()
	p.retired = true
	p.refuse(errReselect)
	p.unlock(nil)
	p.closeIdle(func(*Conn) bool { return true })
}

// sweep closes what has been idle for too long, and forgets pages of tenants that use nothing.
func (p *pool) sweep(idle time.Duration) {
	before := now() - int64(idle)
	p.closeIdle(func(c *Conn) bool { return c.idleSince < before })
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, shares := range p.tenants {
		if shares != nil && !slices.ContainsFunc(shares[:], func(s share) bool { return s.used() }) {
			p.tenants[n] = nil
		}
	}
}

func (p *pool) setLimits(l Limits) {
	p.mu.Lock()
	p.max, p.perTenant = l.MaxPerServer, l.MaxPerTenant
	for _, s := range p.shares() {
		p.unblock(s)
	}
	surplus := len(p.open) - p.max
	p.unlock(nil)
	p.closeIdle(func(*Conn) bool { surplus--; return surplus >= 0 })
}

func (p *pool) taken() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acquires
}

func (p *pool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse.Load() > 0 || p.queue.head != nil || p.dialing > 0
}

// report tells the topology about an error of a connection in use. The driver matches the error
// by its type, so it must not be wrapped. What a burst of errors has in common is reported once:
// the first makes the others' connections stale. The table knows when report returns.
func (p *pool) report(c *Conn, err error) {
	p.tell(c, err)
	if tp := p.d.tp.Load(); tp != nil {
		p.d.publish(tp)
	}
}

func (p *pool) tell(c *Conn, err error) {
	p.reporting.Lock()
	defer p.reporting.Unlock()
	before := p.generation.Load()
	s := p.d.server(p.addr)
	if s == nil || c.generation != before {
		return
	}
	beats := p.beats.Load()
	cleared := s.ProcessError(err, c.desc) == driver.ConnectionPoolCleared
	if cleared {
		p.d.cluster.all.wg.Add(1)
		go p.insist(s, err, c.desc, beats)
	}
	if cleared && p.generation.Load() == before { // no event while the driver's pool is paused
		p.outdate()
		p.d.clears.add(poolClear{addr: p.addr})
	}
}

// insist makes sure that the monitor looks at the server anew. A report breaks off the heartbeat that
// is under way, by a sign that is lost where the monitor is just between two of them; then it would
// wait for what the server pushes next, some ten seconds later, with the server unknown meanwhile.
func (p *pool) insist(s *topology.SelectedServer, err error, desc *described, beats int64) {
	defer p.d.cluster.all.wg.Done()
	for pause := 50 * time.Millisecond; pause < 2*time.Second; pause *= 2 {
		select {
		case <-p.d.ctx.Done():
			return
		case <-time.After(pause):
		}
		if x := p.d.table.Load().find(p.addr); p.beats.Load() != beats || x == nil || x.kind != description.Unknown {
			return
		}
		s.ProcessError(err, desc)
	}
}

// isNetwork reports whether a dial failed for a reason that may pass by itself.
func isNetwork(err error) bool {
	var n *dialError
	return errors.As(err, &n)
}
