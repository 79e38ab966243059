package control

import (
	"github.com/smetasc/tenantry/routing"
)

// publish makes a table of what is known now and publishes it, unless another caller has done so
// meanwhile or nothing differs from the current one. Callers that come while a table is being made
// share the next.
func (c *Control) publish() error {
	c.mu.Lock()
	want := c.gen
	c.mu.Unlock()
	c.publishing.Lock()
	defer c.publishing.Unlock()
	if c.published >= want {
		return nil
	}
	c.mu.Lock()
	if c.rules == nil {
		c.mu.Unlock()
		return nil
	}
	spec, gen, counts := c.spec(), c.gen, c.counts()
	c.mu.Unlock()
	if c.last != nil && sameSpec(c.last, spec) {
		c.published = gen
		c.metrics.count(counts)
		return nil
	}
	table, err := c.newTable(spec)
	if err != nil {
		c.log.Error().Err(err).Msg("no table can be made of the routes; the current one stays")
		return err
	}
	c.put(table, spec, gen, counts)
	return nil
}

// spec is the content of a table; mu is held.
func (c *Control) spec() *routing.Spec {
	s := c.rules.buildSpec(c.order, c.catalog, c.epoch, c.marks)
	s.Unique, s.StrictUnique = c.uniques.indexes(), c.rules.cfg.Routing.StrictUnique
	if !c.rules.guarded() && c.last != nil {
		s.Epoch = c.last.Epoch
	}
	return s
}

// marks says whether a tenant is paused, or has to be looked at; mu is held.
func (c *Control) marks(t *tenant) marks {
	m := marks{look: t.plan.look != settled && !c.verdicts[t.id].holdsFor(t)}
	if f := c.flips[t.id]; f != nil {
		m.paused = f.paused
	}
	return m
}

// newTable gives the table the next version. Without routes there are no epochs to take; the
// version, which grows as well, stands for one.
func (c *Control) newTable(s *routing.Spec) (*routing.Table, error) {
	s.Version = c.version + 1
	if s.ControlDB == "" {
		s.Epoch = s.Version
	}
	return routing.NewTable(s)
}

// put publishes a table; publishing is held.
func (c *Control) put(t *routing.Table, s *routing.Spec, gen uint64, n counts) {
	c.router.Publish(t)
	c.last, c.version, c.published = s, s.Version, gen
	c.metrics.table(s.Version, s.Epoch)
	c.metrics.count(n)
	c.logTelling(t)
	c.log.Debug().Uint64("version", s.Version).Uint64("epoch", s.Epoch).Int("tenants", len(s.Tenants)).Msg("table published")
}
