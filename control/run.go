package control

import (
	"context"
	"sync"
	"time"
)

const (
	// pollInterval is how often the routes are looked at where no tenants collection says it.
	pollInterval = 2 * time.Second
	// firstRetry and lastRetry bound the wait before the home cluster is asked again at the start.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
	// refreshLimit bounds one reading.
	refreshLimit = 30 * time.Second
	// A flip takes its epoch shortly before it writes its route, so for some time after the counter
	// has moved a route may still come; and once in a while everything is read, in any case.
	routesSettle = 30 * time.Second
	routesAnyway = time.Minute
)

// poll is what the last look at the epoch counter found.
type poll struct {
	counter uint64
	changed time.Time // when it was last seen to move
	read    time.Time // when the routes were last read
}

// Run keeps the table current until ctx ends, and returns when every flip has ended too. It returns
// an error only for what must stop the process: a first configuration that can not be served with
// the routes there are.
func (c *Control) Run(ctx context.Context) error {
	defer c.close()
	wait := firstRetry
	var orphans sync.Once
	for {
		c.mu.Lock()
		waiting, loaded := c.pending != nil, c.rules != nil
		c.mu.Unlock()
		switch {
		case loaded:
			c.refresh(ctx)
			orphans.Do(func() { c.work.Go(func() { c.warnOfOrphans(c.life) }) })
			wait = c.interval()
		case waiting:
			if err := c.retry(ctx); err != nil {
				return err
			}
			wait = min(2*wait, lastRetry)
		}
		if !c.sleep(ctx, wait) {
			return nil
		}
	}
}

// sleep waits; false when ctx has ended.
func (c *Control) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-c.wake:
	}
	return ctx.Err() == nil
}

// close ends the flips and waits for them.
func (c *Control) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.work.Wait()
}

func (c *Control) interval() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from := c.rules.cfg.TenantsFrom; from != nil && from.Refresh > 0 {
		return from.Refresh
	}
	return pollInterval
}

// retry loads the configuration that waits for the home cluster. What it returns must stop the
// process.
func (c *Control) retry(ctx context.Context) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	if c.loaded() {
		return nil
	}
	c.mu.Lock()
	r := c.pending // Apply may have brought another one since Run looked
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	err := c.apply(ctx, r, c.inForce())
	switch {
	case err == nil:
		c.log.Info().Msg("the home cluster is back, its routes are read")
	case isAway(err):
		c.mu.Lock()
		c.ready = err
		c.mu.Unlock()
	default:
		return err
	}
	return nil
}

// refresh reads what may have changed. A reading that fails leaves the table as it is.
func (c *Control) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	c.mu.Lock()
	r, before, unique := c.rules, c.rows, c.uniques
	c.mu.Unlock()
	in, err := c.read(ctx, r, before, unique)
	if err != nil && ctx.Err() != context.Canceled {
		c.metrics.refreshErrors.Inc()
		if c.limited.allows("refresh") {
			c.log.Warn().Err(err).Msg("tenants and routes could not be read; the last table stays")
		}
	}
	c.merge(r, in)
	_ = c.publish() // which logs
	c.logProblems()
	c.settleAll()
}

// read reads what a refresh needs, and returns what it got also where a part failed.
func (c *Control) read(ctx context.Context, r *rules, before *rows, unique *uniques) (*inputs, error) {
	in := &inputs{seq: c.nextSeq()}
	home := c.cluster(r.cfg.Routing.Home)
	if home == nil {
		return in, errNotLoaded
	}
	var err error
	if r.guarded() {
		if in.routes, err = c.readRoutes(ctx, r); err != nil {
			return in, err
		}
	}
	rows, err := readRows(ctx, home, r.cfg.TenantsFrom, before)
	if err != nil {
		return in, err
	}
	in.rows = rows
	if in.shown, err = readCatalog(ctx, home, r.databases, in.seq); err == nil {
		in.unique, err = c.readUniques(ctx, r, home, unique)
	}
	return in, err
}

// readRoutes reads the routes if some may have changed. One that is new here is confirmed before it
// is obeyed.
func (c *Control) readRoutes(ctx context.Context, r *rules) (map[tenantID]*Route, error) {
	s, now := c.storeOf(r), time.Now()
	counter, err := s.counter(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if counter != c.polled.counter {
		c.polled.counter, c.polled.changed = counter, now
	}
	due := now.Sub(c.polled.changed) < routesSettle || now.Sub(c.polled.read) > routesAnyway
	c.mu.Unlock()
	if !due {
		return nil, nil
	}
	known := c.knownRoutes()
	routes, err := s.routes(ctx)
	if err == nil {
		err = c.keepRoutes(ctx, s, known, routes, true)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.polled.read = now
	fresh := false
	for id, route := range routes {
		fresh = fresh || route.Epoch > c.routes[id].epoch()
	}
	c.mu.Unlock()
	if !fresh {
		return nil, nil
	}
	return routes, s.confirm(ctx)
}

// merge takes over what a refresh read, if the configuration is still the one it was read for.
func (c *Control) merge(r *rules, in *inputs) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules != r {
		return
	}
	now := time.Now()
	c.lapse(func(v *verdict) bool { return v.stale(now) })
	rebuild := false
	if in.routes != nil {
		c.routes = c.withKnown(in.routes)
		for _, route := range c.routes {
			c.epoch = max(c.epoch, route.Epoch)
		}
		rebuild = true
	}
	if in.rows != nil && in.rows != c.rows {
		c.rows, rebuild = in.rows, true
		clear(c.unlisted)
	}
	if in.rows != nil && len(c.found) > 0 {
		c.found, rebuild = c.foundSince(in.seq), true
	}
	c.takeCatalog(in.shown)
	if u := in.unique; u != nil && u != c.uniques {
		if !u.same(c.uniques) {
			c.changed()
		}
		c.uniques = u
	}
	if rebuild {
		c.rebuild()
		c.changed()
	}
}
