package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const (
	// lookLimit bounds the first look, in which nothing is paused yet. It may read a large
	// collection that has no index on the tenant field.
	lookLimit = time.Minute
	// writeLimit bounds the write of a route, and that of finding out what became of it.
	writeLimit = 5 * time.Second
)

// Outcomes of a flip, which are also the metric's labels.
const (
	outcomeSwitched   = "switched"   // to its own database
	outcomeHome       = "home"       // back to shared
	outcomeRefused    = "refused"    // documents would have been hidden
	outcomeTimeout    = "timeout"    // the drain took too long
	outcomeFailed     = "failed"     // a server did not do its part
	outcomeSuperseded = "superseded" // the configuration or the tenant's flag changed meanwhile
	outcomeUnsure     = "unsure"     // the route's write may or may not have been made
)

// flip is one tenant's flip under way. Its fields are guarded by Control.mu.
type flip struct {
	id     tenantID
	done   chan struct{} // closed when it has ended
	paused uint64        // the first epoch with the tenant's pause; 0 while there is none
	tried  *Route        // the route whose write has begun
	old    *Route        // what it replaces
	unsure bool          // it has ended, and nobody knows yet whether tried was written
}

// verdict is why a flag is not obeyed. It holds until what it is about changes, the configuration
// is loaded again, or it is old; then it is only shown, until the tenant is looked at again.
type verdict struct {
	plan    plan
	epoch   uint64 // of the route that it was about
	outcome string
	why     string
	at      time.Time
	lapsed  bool // it holds no longer
}

// Ages at which a verdict lapses, so that a tenant whose documents have gone, or a server that is
// back, needs no operator.
const (
	refusedAge = 30 * time.Second
	failedAge  = 5 * time.Second
)

func (v *verdict) stale(now time.Time) bool {
	age := failedAge
	if v.outcome == outcomeRefused || v.outcome == outcomeSwitched {
		age = refusedAge
	}
	return now.Sub(v.at) >= age
}

// isAbout reports whether the verdict is about the tenant as it is.
func (v *verdict) isAbout(t *tenant) bool {
	return v != nil && t != nil && v.epoch == t.route.epoch() && v.plan.same(&t.plan)
}

// holdsFor reports whether the tenant need not be looked at again.
func (v *verdict) holdsFor(t *tenant) bool { return v.isAbout(t) && !v.lapsed }

// lapse has the verdicts lapse that are stale by now, and forgets those about tenants that are otherwise
// by now; mu is held.
func (c *Control) lapse(stale func(*verdict) bool) {
	for id, v := range c.verdicts {
		switch {
		case !v.isAbout(c.tenant(id)):
			delete(c.verdicts, id)
		case !v.lapsed && stale(v):
			v.lapsed = true
			c.changed()
		}
	}
}

// job is what one flip works with: the tenant and the rules as they were when it began.
type job struct {
	*tenant
	rules  *rules
	store  *store
	home   cluster
	target cluster // with the tenant's own databases
	homes  map[string]string
	made   map[namespace]string
	// forApply says that the flip brings a tenant home so that a configuration can be loaded: the
	// current one does not ask for it.
	forApply bool
}

// newJob finds the clusters of a flip.
func (c *Control) newJob(r *rules, t *tenant) (*job, error) {
	j := &job{tenant: t, rules: r, homes: r.homes(t.key), made: map[namespace]string{}}
	name := t.plan.cluster
	if t.route.own() {
		name = t.route.Cluster
		maps.Copy(j.homes, t.route.Databases)
	}
	if j.home = c.cluster(r.cfg.Routing.Home); j.home == nil {
		return nil, fmt.Errorf("there is no cluster %q", r.cfg.Routing.Home)
	}
	j.store = c.storeOf(r)
	if j.target = c.cluster(name); j.target == nil {
		return nil, fmt.Errorf("there is no cluster %q", name)
	}
	return j, nil
}

func (j *job) back() bool { return j.plan.look == flipBack }

func (j *job) look(ctx context.Context, strict bool) (*survey, error) {
	if j.back() {
		return j.surveyOwn(ctx, strict)
	}
	return j.survey(ctx, strict)
}

// outcome is how a flip ended; why is for people, and empty where everything went as asked.
type outcome struct {
	kind string
	why  string
}

func failure(doing string, err error) outcome {
	return outcome{outcomeFailed, doing + ": " + err.Error()}
}

// runFlip makes the flip from beginning to end. Whatever it returns, the tenant has one home; the
// caller ends the pause.
func (c *Control) runFlip(ctx context.Context, f *flip, j *job) outcome {
	s, out := c.firstLook(ctx, j)
	if s == nil {
		return out
	}
	epoch, err := c.pause(ctx, f, j)
	if err != nil {
		return failure("pause", err)
	}
	// Held commands wait for the queue's time, and some began before the pause: it ends clearly before
	// that, so that they go on where they were.
	limit := j.rules.cfg.Limits.QueueTimeout
	ctx, cancel := context.WithTimeout(ctx, limit*3/4)
	defer cancel()
	if err := c.drain(ctx, j.num, epoch, limit/2); err != nil {
		return outcome{outcomeTimeout, "writes in flight, or an open transaction, did not end in time: " + err.Error()}
	}
	if s, err = j.look(ctx, true); err != nil {
		return lookFailure(err)
	}
	if s.target == nil {
		return outcome{outcomeRefused, s.reasons()}
	}
	if err := j.prepare(ctx, s); err != nil {
		return failure("make its collections", err)
	}
	return c.commit(ctx, f, j, s)
}

// firstLook is what needs no pause; nil where the flip ends with it.
func (c *Control) firstLook(ctx context.Context, j *job) (*survey, outcome) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if c.databaseTaken(j) {
		return nil, outcome{outcomeRefused, "a database with the name of its own is another tenant's"}
	}
	s, err := j.look(ctx, false)
	if err != nil {
		return nil, lookFailure(err)
	}
	if s.target == nil {
		return nil, outcome{outcomeRefused, s.reasons()}
	}
	if err := j.prepare(ctx, s); err != nil {
		return nil, failure("make its collections", err)
	}
	return s, outcome{}
}

// lookFailure tells what no route can say from what could not be read.
func lookFailure(err error) outcome {
	var p permanent
	if errors.As(err, &p) {
		return outcome{outcomeRefused, err.Error()}
	}
	return failure("look", err)
}

func (c *Control) databaseTaken(j *job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken(&Route{ID: j.value, Databases: j.homes})
}

func (c *Control) drain(ctx context.Context, num uint32, epoch uint64, limit time.Duration) error {
	if c.drained == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.drained(ctx, num, epoch)
}

// pause publishes a table in which the tenant is paused, under an epoch above that of every table
// before it: only then do commands of an older epoch include all that were routed without the pause.
func (c *Control) pause(ctx context.Context, f *flip, j *job) (uint64, error) {
	for range 5 {
		epoch, _, err := j.store.nextEpoch(ctx, c.knownEpoch())
		if err != nil {
			return 0, err
		}
		if c.setPaused(f, epoch) {
			return epoch, c.publish()
		}
	}
	return 0, errors.New("other proxies take epochs faster than this one can use them")
}

// setPaused fails where a table with that epoch, or a later one, may have been published already.
func (c *Control) setPaused(f *flip, epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch <= c.epoch {
		return false
	}
	c.epoch, f.paused = epoch, epoch
	c.changed()
	return true
}

// commit writes the route and takes it over. From the write on nothing ends the flip but knowing
// what became of it.
func (c *Control) commit(ctx context.Context, f *flip, j *job, s *survey) outcome {
	epoch, opTime, err := j.store.nextEpoch(ctx, c.knownEpoch())
	if err != nil {
		return failure("take an epoch", err)
	}
	route := j.newRoute(s, epoch, opTime)
	if !c.begin(f, j, route) {
		return outcome{outcomeSuperseded, "the configuration changed meanwhile"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	if err := j.store.writeRoute(ctx, route, j.route); err != nil {
		return c.settle(ctx, j.rules, f, err)
	}
	c.adopt(f, route)
	return j.success(s)
}

// success is the outcome of a route that was written.
func (j *job) success(s *survey) outcome {
	if j.back() {
		return outcome{outcomeHome, ""}
	}
	if len(s.staying) > 0 {
		return outcome{outcomeSwitched, "a part stays in shared: " + s.reasons()}
	}
	return outcome{outcomeSwitched, ""}
}

// newRoute is the route after the flip.
func (j *job) newRoute(s *survey, epoch uint64, opTime bson.RawValue) *Route {
	r := &Route{
		ID: j.value, Aliases: j.aliases(), Key: j.key, State: stateHome,
		Epoch: epoch, Who: who(), When: time.Now().UTC().Truncate(time.Millisecond), OpTime: opTime,
	}
	if j.back() {
		return r
	}
	r.State, r.Cluster, r.Databases, r.Fields = stateSwitched, j.plan.cluster, j.homes, j.rules.fields()
	if s.target.all {
		r.Except = texts(s.target.entries)
	} else {
		r.Collections = texts(s.target.entries)
	}
	return r
}

func who() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("tenantry on %s (%d)", host, os.Getpid())
}

// begin enters the route that is about to be written, so that no configuration that contradicts it
// is loaded meanwhile; false where what the flip began with is no longer so.
func (c *Control) begin(f *flip, j *job, route *Route) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.tenant(f.id)
	if !j.forApply && (c.rules != j.rules || now == nil || now.route != j.route || !now.plan.same(&j.plan)) {
		return false
	}
	if c.routes[f.id].epoch() != j.route.epoch() || c.taken(route) {
		return false
	}
	f.tried, f.old = route, j.route
	return true
}

// settle finds out what became of a route's write. Until that is known the tenant stays paused.
func (c *Control) settle(ctx context.Context, r *rules, f *flip, cause error) outcome {
	c.mu.Lock()
	tried, old := f.tried, f.old
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	now, err := c.storeOf(r).settleRoute(ctx, tried, old)
	if err != nil {
		return outcome{outcomeUnsure, fmt.Sprintf("write the route: %v; then: %v", cause, err)}
	}
	c.adopt(f, now)
	switch {
	case now.Epoch != tried.Epoch:
		return failure("write the route", cause)
	case now.State == stateHome:
		return outcome{outcomeHome, ""}
	}
	return outcome{outcomeSwitched, ""}
}

// adopt takes over a route that is written, and with it ends the flip's doubt.
func (c *Control) adopt(f *flip, route *Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.tried, f.old, f.unsure = nil, nil, false
	c.setRoute(route)
}
