package proxy

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// flightKey is under what a write in flight is counted: its tenant (0 for one that named none, or
// one that is listed nowhere) and the epoch it was routed under. One of platform data, which no change
// of a route concerns while that is none of tenants, has the catalog by which it is not.
type flightKey struct {
	tenant  uint32
	epoch   uint64
	catalog uint64 // 0 for any other
}

// flights counts the writes on their way, so that a tenant's route can be changed when none of an
// older route is left. Reads are not counted: one that is under way reads what was there. A transaction's
// writes are until it ends, and so are its reads of a tenant, who is to have one home while it goes on.
type flights struct {
	shards [16]flightShard
}

type flightShard struct {
	mu sync.Mutex // guards the following
	m  map[flightKey]int
}

func newFlights() *flights {
	f := &flights{}
	for i := range f.shards {
		f.shards[i].m = map[flightKey]int{}
	}
	return f
}

func (f *flights) shard(tenant uint32) *flightShard { return &f.shards[tenant%uint32(len(f.shards))] }

func (f *flights) enter(k flightKey) {
	s := f.shard(k.tenant)
	s.mu.Lock()
	s.m[k]++
	s.mu.Unlock()
}

func (f *flights) leave(k flightKey) {
	s := f.shard(k.tenant)
	s.mu.Lock()
	if s.m[k]--; s.m[k] <= 0 {
		delete(s.m, k)
	}
	s.mu.Unlock()
}

// older reports whether a write of the tenant from before the epoch is on its way that concerns a
// change of its route under the catalog.
func (f *flights) older(tenant uint32, epoch, catalog uint64) bool {
	s := f.shard(tenant)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.m {
		if k.tenant == tenant && k.epoch < epoch && (k.catalog == 0 || k.catalog != catalog) {
			return true
		}
	}
	return false
}

// drained waits until there is none, of no tenant or of the tenant: in that order, since one of no tenant
// may become one of a tenant's; see [txn.recount].
func (f *flights) drained(ctx context.Context, tenant uint32, epoch, catalog uint64) error {
	wait := time.Millisecond
	for f.older(0, epoch, catalog) || f.older(tenant, epoch, catalog) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
	return nil
}

// rooms bounds how many commands of one tenant are under way at once ([limits]
// in_flight_per_tenant); those beyond it wait in turn.
type rooms struct {
	mu sync.Mutex // guards the following
	m  map[uint32]*room
}

type room struct {
	places *semaphore.Weighted
	size   int
}

// of is the tenant's room. After the limit was changed a new one is made; who is in the old one
// leaves that.
func (r *rooms) of(tenant uint32, size int) *semaphore.Weighted {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.m[tenant]
	if x == nil || x.size != size {
		x = &room{semaphore.NewWeighted(int64(size)), size}
		r.m[tenant] = x
	}
	return x.places
}

// enterRoom takes a place of the tenant's, which letGo gives back; one that the command has already, since
// the table has changed while it waited for it, it keeps. Full is for who can't wait for one.
func (c *clientConn) enterRoom(t *routing.Tenant) (full bool, err *wire.Error) {
	set := c.srv.settings.Load()
	if t == nil || set.perTenant <= 0 {
		return false, nil
	}
	places := c.srv.rooms.of(t.Num, set.perTenant)
	if c.places == places {
		return false, nil
	}
	c.letGo()
	if !places.TryAcquire(1) {
		if !c.mayWait {
			return true, nil
		}
		ctx, cancel := context.WithTimeout(c.srv.ctx, set.queueTimeout)
		defer cancel()
		if places.Acquire(ctx, 1) != nil {
			return false, wire.Errorf(wire.Overloaded, "the tenant has %d commands under way, its limit; try again later", set.perTenant).
				WithLabels(wire.LabelOverloaded, wire.LabelRetryable)
		}
		if err := c.stillMay(); err != nil {
			places.Release(1)
			return false, err
		}
	}
	c.places = places
	return false, nil
}

// letGo ends what the command has entered, once its reply is there.
func (c *clientConn) letGo() {
	c.leave(c.entry)
	c.entry = entry{}
	if c.places != nil {
		c.places.Release(1)
		c.places = nil
	}
}

// depart counts a write and then looks whether it was still decided by the current table: without
// this second look a drain could end while the write is on its way. The caller leaves by the key.
func (c *clientConn) depart(t *routing.Table, d *routing.Decision) (k flightKey, stale bool) {
	k = flightKey{epoch: t.Epoch}
	if d.Tenant != nil && !d.Gives {
		k.tenant = d.Tenant.Num
	} else if t.Platform(&c.req) {
		k.catalog = t.Catalog()
	} else if c.req.InTxn() { // which others may wait for, for as long as it is open
		k.tenant = t.Whose(&c.req)
	}
	c.srv.flights.enter(k)
	if c.srv.opts.Router.Current() != t {
		c.srv.flights.leave(k)
		return k, true
	}
	return k, false
}

// entry is a command that has begun.
type entry struct {
	tx     *txn
	flight flightKey   // of a write outside of transactions, or in one of a read that names no tenant
	counts bool        // it is one
	begun  []flightKey // see goesAlong
}

// enter begins a command: it finds its transaction, and counts it among those in flight; the caller
// ends it by leave. stale asks for a new decision.
func (c *clientConn) enter(t *routing.Table, d *routing.Decision) (e entry, stale bool, err *wire.Error) {
	tx, err := c.transaction()
	if err == nil {
		err = c.goesOn(t, d, tx)
	}
	if err != nil || tx == nil && !c.req.Writes() {
		return entry{}, false, err
	}
	begun, stale := c.goesAlong(t, tx)
	if stale {
		return entry{}, true, nil
	}
	k, stale := c.depart(t, d)
	switch {
	case stale:
		c.leave(entry{begun: begun})
		return entry{}, true, nil
	case tx != nil && (c.req.Writes() || k.tenant != 0):
		tx.count(k, c.srv.flights) // until the transaction ends
		return entry{tx: tx, begun: begun}, false, nil
	}
	return entry{tx: tx, flight: k, counts: true, begun: begun}, false, nil
}

func (c *clientConn) leave(e entry) {
	if e.counts {
		c.srv.flights.leave(e.flight)
	}
	for _, k := range e.begun {
		c.srv.flights.leave(k)
	}
}

// goesAlong counts a command that does not wait with those of held tenants once more with the earlier
// writes of its transaction for which it need not: the change of the route waits for these, and so it does
// until the command is over, also if the transaction ends meanwhile. stale says that they are counted no
// more.
func (c *clientConn) goesAlong(t *routing.Table, tx *txn) (begun []flightKey, stale bool) {
	for _, num := range c.req.Begun {
		tn := t.Number(num)
		if tn == nil || !tn.Paused && !tn.Look {
			continue
		}
		k, ok := tx.earlier(tn, c.srv.flights)
		if !ok {
			c.leave(entry{begun: begun})
			c.req.Begun = nil
			return nil, true
		}
		begun = append(begun, k)
	}
	return begun, false
}

// hasBegun reports whether the command is of a transaction that has written for the tenant, or may have,
// before its commands were held: the change of its route waits for the transaction, which ends with its
// commands. It is noted for the decision. An error says that the transaction is over.
func (c *clientConn) hasBegun(d *routing.Decision) (bool, *wire.Error) {
	tn := c.srv.opts.Router.Current().Find(d.Held)
	if tn == nil || !c.req.InTxn() || c.req.StartsTxn() || slices.Contains(c.req.Begun, tn.Num) {
		return false, nil
	}
	tx, err := c.transaction()
	if err != nil {
		return false, err
	}
	k, ok := tx.earlier(tn, c.srv.flights)
	if ok {
		c.srv.flights.leave(k)
		c.req.Begun = append(c.req.Begun, tn.Num)
	}
	return ok, nil
}

// maxUnlisted is for how many tenants that are listed nowhere a command is held, one after the other.
// What the next one is nobody has looked at, so that it can't be taken for shared's.
const maxUnlisted = 60

// hold waits until the tenant that the command names has been looked at. A reload may have shut the client
// out meanwhile.
func (c *clientConn) hold(d *routing.Decision) *wire.Error {
	if begun, err := c.hasBegun(d); begun || err != nil {
		return err
	}
	c.srv.metrics.held.Inc()
	if d.Strange {
		c.look()
		return c.stillMay()
	}
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.settings.Load().queueTimeout)
	defer cancel()
	unlisted, err := c.srv.opts.Resolve(ctx, d.Held)
	if err != nil {
		c.log.Warn().Err(err).Bytes("command", c.req.Name).Msg("a held command's tenant could not be looked at")
		return c.label(wire.Errorf(wire.HostUnreachable, "the tenant's route could not be settled in time; try again"), true)
	}
	if unlisted && len(c.req.Unlisted) >= maxUnlisted {
		return wire.Errorf(wire.IllegalOperation, "the command names more than %d tenants that are listed nowhere; list them, or name fewer at once", maxUnlisted)
	}
	if unlisted {
		// It may lie in a reply that is given back before the command ends.
		c.req.Unlisted = append(c.req.Unlisted, clone(d.Held))
	}
	return c.stillMay()
}
