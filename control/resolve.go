package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/smetasc/tenantry/wire"
)

const (
	// unlistedAge is how long a value that no tenant has is not looked for again: long enough that a
	// burst of commands costs one reading, and so short that a tenant who is made right after is found.
	unlistedAge = 250 * time.Millisecond
	// unlistedMost bounds what is remembered of values that clients can make up.
	unlistedMost = 10000
)

var errStopping = errors.New("tenantry is stopping")

// Resolve is called when a command is held for a value of the tenant field. It returns when a table
// is published under which the command can go on: the tenant has been flipped, or its flag refused,
// or a pause is over. For a value in no entry it reads the tenants collection, where unknown values
// are to be looked up; unlisted says that no tenant there has it. One that has is in the table then, and may
// still have to be flipped: that is for the command to ask, unless it is of a transaction that goes along.
func (c *Control) Resolve(ctx context.Context, v wire.Value) (unlisted bool, err error) {
	for range 4 {
		f, state := c.claim(v)
		switch state {
		case claimSettled:
			return false, c.publish()
		case claimUnknown:
			found, err := c.lookUp(ctx, v)
			if err != nil || !found {
				return err == nil, err
			}
			return false, c.publish()
		case claimStopping:
			return false, errStopping
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if c.isUnsure(f) {
			return false, errors.New("whether the tenant's route was written is not known yet; try again")
		}
	}
	return false, nil // the configuration changes faster than a flip ends; route it again
}

type claimState uint8

const (
	claimSettled claimState = iota
	claimFlip
	claimUnknown
	claimStopping
)

// claim finds the flip that a held command has to wait for, and begins it where nobody has.
func (c *Control) claim(v wire.Value) (*flip, claimState) {
	id := c.resolvable(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules == nil || c.closed {
		return nil, claimStopping
	}
	t := c.tenant(id)
	switch f := c.flips[id]; {
	case f != nil && f.unsure && f.ended():
		return c.resume(f), claimFlip
	case f != nil:
		return f, claimFlip
	case t == nil:
		if c.rules.lookUp() {
			return nil, claimUnknown
		}
		return nil, claimSettled
	case t.plan.look == settled || c.verdicts[t.id].holdsFor(t):
		return nil, claimSettled
	}
	return c.start(t), claimFlip
}

func (f *flip) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func (c *Control) isUnsure(f *flip) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.unsure
}

// start begins a tenant's flip; mu is held.
func (c *Control) start(t *tenant) *flip {
	f := &flip{id: t.id, done: make(chan struct{})}
	c.flips[t.id] = f
	r := c.rules
	c.work.Go(func() {
		j, err := c.newJob(r, t)
		if err != nil {
			c.conclude(f, t, failure("begin", err))
			return
		}
		c.conclude(f, t, c.runFlip(c.life, f, j))
	})
	return f
}

// resume finds out what became of a route's write; mu is held.
func (c *Control) resume(f *flip) *flip {
	again := &flip{id: f.id, done: make(chan struct{}), paused: f.paused, tried: f.tried, old: f.old}
	c.flips[f.id] = again
	t := c.tenant(f.id)
	r := c.rules
	c.work.Go(func() {
		c.conclude(again, t, c.settle(c.life, r, again, errors.New("its outcome was unknown")))
	})
	return again
}

// settleAll tries again for every tenant whose route's write has an unknown outcome.
func (c *Control) settleAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.flips {
		if f.unsure && f.ended() && !c.closed {
			c.resume(f)
		}
	}
}

// conclude ends a flip: the pause is over, unless the outcome is unknown, and a flag that was not
// obeyed has its reason.
func (c *Control) conclude(f *flip, t *tenant, out outcome) {
	c.mu.Lock()
	f.unsure = out.kind == outcomeUnsure
	if !f.unsure {
		f.paused, f.tried = 0, nil
		delete(c.flips, f.id)
		if c.kept {
			c.rebuild()
		}
	}
	if now := c.tenant(f.id); now != nil && out.why != "" && out.kind != outcomeSuperseded && !f.unsure {
		c.verdicts[f.id] = &verdict{plan: now.plan, epoch: now.route.epoch(), outcome: out.kind, why: out.why, at: time.Now()}
	}
	c.changed()
	c.mu.Unlock()
	_ = c.publish() // which logs
	c.report(t, out)
	close(f.done)
}

func (c *Control) report(t *tenant, out outcome) {
	direction, key := "own", ""
	if t != nil {
		key = t.key
		if t.plan.look == flipBack {
			direction = "home"
		}
	}
	c.metrics.flips.WithLabelValues(direction, out.kind).Inc()
	if out.why == "" {
		c.log.Info().Str("tenant", key).Str("outcome", out.kind).Msg("tenant flipped")
		return
	}
	if c.limited.allows(key + " " + out.kind) {
		c.log.Warn().Str("tenant", key).Str("outcome", out.kind).Str("asked", direction).Str("why", out.why).
			Msg("the tenant's flag is not, or not wholly, obeyed")
	}
}

// lookUp reads the tenants collection for a value in no entry and enters the tenant it finds.
func (c *Control) lookUp(ctx context.Context, v wire.Value) (found bool, err error) {
	id := idOf(v)
	if id == "" {
		return false, nil
	}
	c.mu.Lock()
	r, seq := c.rules, c.seq
	at, known := c.unlisted[id]
	c.mu.Unlock()
	if known && time.Since(at) < unlistedAge {
		return false, nil
	}
	home := c.cluster(r.cfg.Routing.Home)
	if home == nil {
		return false, fmt.Errorf("there is no cluster %q", r.cfg.Routing.Home)
	}
	started := time.Now()
	w, err := findRow(ctx, home, r.cfg.TenantsFrom, v)
	if err != nil {
		return false, fmt.Errorf("look for the tenant %s: %w", shown(v), err)
	}
	if w != nil && c.enter(r, *w, seq) {
		return true, nil
	}
	c.remember(id, started)
	return false, nil
}

// remember notes that no tenant had the value when the reading began.
func (c *Control) remember(id tenantID, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unlisted) >= unlistedMost {
		clear(c.unlisted)
	}
	c.unlisted[id] = at
}

// enter adds a tenant that was looked up; false where it can not be used.
func (c *Control) enter(r *rules, w row, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules != r {
		return true // routed again under the new configuration
	}
	if c.tenant(w.id) != nil {
		return true
	}
	if c.found == nil {
		c.found = map[tenantID]foundRow{}
	}
	c.found[w.id] = foundRow{w, seq + 1}
	c.changed()
	if _, taken := c.byKey[strings.ToLower(w.key)]; taken || badKey(w.key, r.patterns) != "" {
		c.rebuild() // which says what is wrong with it
		return c.tenant(w.id) != nil
	}
	from := r.cfg.TenantsFrom
	l := listing{id: w.id, value: w.value, key: w.key, mode: w.mode, source: from.Database + "." + from.Name}
	c.byKey[strings.ToLower(w.key)] = w.id
	c.at[w.id] = len(c.order)
	c.order = append(c.order, r.newTenant(l, c.num(w.id), nil))
	return true
}
