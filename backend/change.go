package backend

import (
	"errors"
	"maps"
)

// Change is clusters that are prepared and not in force. Whoever decides on them may ask them by Get;
// nobody else meets a URI that has changed before Commit.
type Change struct {
	all     *Clusters
	specs   []Spec
	targets map[string]*target  // of the URIs that have changed
	limits  Limits              // with defaults
	before  map[string]*Cluster // what Close goes back to without Commit
	asked   map[string]*Cluster // with the URIs that have changed; they run from when they are asked on
	done    bool
}

var errOneChange = errors.New("another change of the clusters is under way")

// Prepare reads the specs, or changes nothing and says why. Clusters with new names are there at once, so that
// a table may name them from its first moment; the rest is as it was until Commit. There is one change at a
// time, until its Close.
func (cs *Clusters) Prepare(specs []Spec, l Limits) (*Change, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed:
		return nil, ErrClosed
	case cs.change != nil:
		return nil, errOneChange
	}
	before := *cs.byName.Load()
	targets, err := cs.check(specs, before)
	if err != nil {
		return nil, err
	}
	ch := &Change{all: cs, specs: specs, targets: targets, limits: l.withDefaults(), before: before, asked: map[string]*Cluster{}}
	next := maps.Clone(before)
	for i, s := range specs {
		switch t := targets[s.Name]; {
		case before[s.Name] == nil:
			c := &Cluster{name: s.Name, all: cs, waits: cs.waits.of(s.Name)}
			c.apply(t, ch.limits, ch.asleep(i))
			next[s.Name], targets[s.Name] = c, nil
		case t != nil:
			ch.asked[s.Name] = &Cluster{name: s.Name, all: cs, waits: cs.waits.of(s.Name), target: t, limits: ch.limits}
		}
	}
	cs.byName.Store(&next)
	cs.change = ch
	return ch, nil
}

// asleep reports whether the spec with this index is of a cluster too many.
func (ch *Change) asleep(i int) bool {
	return ch.limits.MaxIdleClusters > 0 && i >= ch.limits.MaxIdleClusters
}

// Get finds a cluster as it will be after Commit; nil if there will be none. One whose URI has changed is asked
// by connections of its own.
func (ch *Change) Get(name string) *Cluster {
	if c := ch.asked[name]; c != nil {
		return c
	}
	if _, listed := ch.targets[name]; !listed {
		return nil
	}
	return ch.all.Get(name)
}

// Commit puts the change in force: URIs that have changed replace what runs, and what the specs lack is removed.
// It waits neither for servers nor for DNS.
func (ch *Change) Commit() {
	cs := ch.all
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed || ch.done {
		return
	}
	ch.done = true
	cs.limits.Store(&ch.limits)
	select {
	case cs.wake <- struct{}{}:
	default:
	}
	now := *cs.byName.Load()
	next := make(map[string]*Cluster, len(ch.specs))
	for i, s := range ch.specs {
		c := now[s.Name]
		next[s.Name] = c
		c.apply(ch.targets[s.Name], ch.limits, ch.asleep(i))
	}
	cs.replace(now, next)
}

// Close ends the change. One without Commit leaves nothing behind.
func (ch *Change) Close() {
	cs := ch.all
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.change != ch {
		return
	}
	cs.change = nil
	for _, c := range ch.asked {
		c.remove()
	}
	if !ch.done && !cs.closed {
		cs.replace(*cs.byName.Load(), ch.before)
	}
}
