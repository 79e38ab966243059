package backend

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Clusters is all clusters as configured now. One value lives as long as the process; a [Change]
// changes what it holds.
type Clusters struct {
	opts   Options
	byName atomic.Pointer[map[string]*Cluster]
	limits atomic.Pointer[Limits]
	stop   chan struct{}
	wake   chan struct{}  // the limits changed; holds one
	wg     sync.WaitGroup // every goroutine of this room
	waits  *waitMetrics

	mu     sync.Mutex // guards the following, and changes of byName
	closed bool
	change *Change // nil for none
}

// New returns a set without any cluster.
func New(opts Options) *Clusters {
	cs := &Clusters{opts: opts, stop: make(chan struct{}), wake: make(chan struct{}, 1), waits: newWaitMetrics()}
	l := opts.Limits.withDefaults()
	cs.limits.Store(&l)
	cs.byName.Store(&map[string]*Cluster{})
	cs.register(opts.Registerer)
	cs.wg.Add(1)
	go cs.sweep()
	return cs
}

// Get finds a cluster by name; nil if there is none.
func (cs *Clusters) Get(name string) *Cluster { return (*cs.byName.Load())[name] }

// All lists the clusters by name.
func (cs *Clusters) All() []*Cluster {
	return slices.SortedFunc(maps.Values(*cs.byName.Load()), func(a, b *Cluster) int {
		return strings.Compare(a.name, b.name)
	})
}

// Apply makes the clusters those of the specs, or changes nothing and says why: a [Change] for who has nothing
// else to put in force with it. It waits neither for servers nor for DNS. Connections in use finish their round
// trip, whatever becomes of their cluster.
func (cs *Clusters) Apply(specs []Spec, l Limits) error {
	ch, err := cs.Prepare(specs, l)
	if err != nil {
		return err
	}
	defer ch.Close()
	ch.Commit()
	return nil
}

// replace puts other clusters in the place of those now, and removes who is not among them. The mutex is held.
func (cs *Clusters) replace(now, next map[string]*Cluster) {
	cs.byName.Store(&next)
	for name, c := range now {
		if next[name] == nil {
			c.remove()
			cs.waits.drop(name)
		}
	}
}

// check reads the URIs of all specs. A cluster whose URI is as before has no target in the result.
func (cs *Clusters) check(specs []Spec, old map[string]*Cluster) (map[string]*target, error) {
	targets := make(map[string]*target, len(specs))
	var errs []error
	for _, s := range specs {
		if _, twice := targets[s.Name]; twice {
			errs = append(errs, fmt.Errorf("cluster %s: named twice", s.Name))
			continue
		}
		targets[s.Name] = nil
		if c := old[s.Name]; c != nil && c.uri() == s.URI {
			continue
		}
		t, err := check(s.URI, cs.opts.AppName)
		if err != nil {
			errs = append(errs, uriError(s.Name, err))
			continue
		}
		targets[s.Name] = t
	}
	return targets, errors.Join(errs...)
}

// Close gives up all connections, those in use too, and returns when every goroutine has ended.
func (cs *Clusters) Close() {
	cs.mu.Lock()
	if cs.closed {
		cs.mu.Unlock()
		cs.wg.Wait()
		return
	}
	cs.closed = true
	close(cs.stop)
	all := slices.Collect(maps.Values(*cs.byName.Load()))
	if cs.change != nil {
		all = slices.AppendSeq(all, maps.Values(cs.change.asked))
	}
	for _, c := range all {
		if d := c.remove(); d != nil {
			d.kill()
		}
	}
	cs.unregister()
	cs.mu.Unlock()
	cs.wg.Wait()
}

// sweep closes connections that have been idle for too long, and puts clusters to sleep that are
// too many.
func (cs *Clusters) sweep() {
	defer cs.wg.Done()
	for {
		l := *cs.limits.Load()
		timer := time.NewTimer(min(max(l.Idle/4, 20*time.Millisecond), 10*time.Second))
		select {
		case <-cs.stop:
			timer.Stop()
			return
		case <-cs.wake:
			timer.Stop()
			continue
		case <-timer.C:
		}
		for _, c := range *cs.byName.Load() {
			c.sweep(l.Idle)
		}
		cs.restrain(l.MaxIdleClusters)
	}
}

// restrain puts the least recently used clusters to sleep where more run than allowed.
func (cs *Clusters) restrain(allowed int) {
	if allowed <= 0 {
		return
	}
	var running []*Cluster
	for _, c := range *cs.byName.Load() {
		if c.current.Load() != nil {
			running = append(running, c)
		}
	}
	slices.SortFunc(running, func(a, b *Cluster) int { return int(a.used.Load() - b.used.Load()) })
	for _, c := range running[:max(0, len(running)-allowed)] {
		c.sleep()
	}
}

// started is when the process began; monotonic times are nanoseconds since then.
var started = time.Now()

func now() int64 { return int64(time.Since(started)) }
