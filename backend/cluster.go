package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Cluster is one cluster by its name. It stays the same when its URI is replaced.
type Cluster struct {
	name    string
	all     *Clusters
	waits   *clusterWaits
	current atomic.Pointer[deployment] // nil while asleep or removed
	facts   atomic.Pointer[Facts]      // the last known
	used    atomic.Int64               // when the sweeper last saw it used

	mu      sync.Mutex // guards the following, and changes of current
	target  *target
	limits  Limits
	removed bool
	ready   bool  // as it was when it went to sleep
	taken   int64 // acquires as of the last sweep
}

// Name is the cluster's name in the configuration.
func (c *Cluster) Name() string { return c.name }

func (c *Cluster) uri() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target.uri
}

// apply takes over a new target, if there is one, and the limits.
func (c *Cluster) apply(t *target, l Limits, asleep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = l
	d := c.current.Load()
	if t == nil {
		if d != nil {
			d.setLimits(l)
		}
		return
	}
	c.target = t
	if d == nil && asleep {
		return
	}
	c.start()
	if d != nil {
		d.retire()
	}
}

// start runs the cluster's target. The caller holds the mutex.
func (c *Cluster) start() {
	d := newDeployment(c, c.target, c.limits)
	c.used.Store(now())
	c.current.Store(d)
	c.all.wg.Add(1)
	go d.run()
}

// remove ends the cluster and returns what was running.
func (c *Cluster) remove() *deployment {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
	d := c.current.Swap(nil)
	if d != nil {
		d.retire()
	}
	return d
}

// awake returns what is running and wakes the cluster where it sleeps; nil if it was removed.
func (c *Cluster) awake() *deployment {
	if d := c.current.Load(); d != nil {
		return d
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.Load() == nil && !c.removed {
		c.start()
	}
	return c.current.Load()
}

// sleep stops a cluster that nobody uses until somebody does.
func (c *Cluster) sleep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.current.Load()
	if d == nil || d.busy() {
		return
	}
	c.ready = d.table.Load().ready()
	c.current.Store(nil)
	d.retire()
}

func (c *Cluster) sweep(idle time.Duration) {
	d := c.current.Load()
	if d == nil {
		return
	}
	taken, busy := d.sweep(idle)
	c.mu.Lock()
	if busy || taken != c.taken {
		c.used.Store(now())
	}
	c.taken = taken
	c.mu.Unlock()
}

// Ready reports whether a server that takes writes is known now; of a sleeping cluster, whether
// one was known when it went to sleep.
func (c *Cluster) Ready() bool {
	if d := c.current.Load(); d != nil {
		return d.table.Load().ready()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready && !c.removed
}

// Acquire picks a server and lends a connection to it, which the caller releases. It waits for a
// server and for a connection, bounded by ctx and by the server selection timeout. tenant is
// the tenant's number for the limit per tenant, 0 for none. The error is a *[Error].
func (c *Cluster) Acquire(ctx context.Context, sel Select, tenant uint32) (*Conn, error) {
	if d := c.current.Load(); d != nil {
		if s := d.table.Load().pick(sel); s != nil {
			if conn := s.pool.take(nil, tenant, time.Since(started)); conn != nil {
				return conn, nil
			}
		}
	}
	conn, err := c.await(ctx, sel, tenant)
	if err != nil {
		return nil, &Error{Cluster: c.name, Err: err}
	}
	return conn, nil
}

// await is Acquire where something has to be waited for.
func (c *Cluster) await(ctx context.Context, sel Select, tenant uint32) (*Conn, error) {
	d := c.awake()
	if d == nil {
		return nil, ErrClosed
	}
	late := time.Now().Add(d.target().selectionTimeout)
	for {
		conn, err := c.attempt(ctx, late, d, sel, tenant)
		if err != errReselect {
			if none, ok := err.(*selectionError); ok {
				none.ctx = ctx.Err()
			}
			return conn, err
		}
		if d = c.awake(); d == nil {
			return nil, ErrClosed
		}
	}
}

// attempt waits once: for the table to change, or for a connection of the server that it names.
// errReselect says that things have changed and the caller should look again.
func (c *Cluster) attempt(ctx context.Context, late time.Time, d *deployment, sel Select, tenant uint32) (*Conn, error) {
	t := d.table.Load()
	if err := t.impossible(sel); err != nil {
		return nil, err
	}
	s := t.pick(sel)
	if s == nil {
		return nil, d.awaitChange(ctx, late, t, sel)
	}
	if conn := s.pool.take(nil, tenant, time.Since(started)); conn != nil {
		return conn, nil
	}
	begin := time.Now()
	conn, err := s.pool.wait(ctx, late, tenant)
	c.waits.observe(time.Since(begin), err)
	return conn, err
}
