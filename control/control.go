package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Options is what the control room is joined with.
type Options struct {
	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Clusters   *backend.Clusters
	Router     *routing.Router
	// Drained returns when no write of the tenant, or of no or of unlisted tenants, is in flight that
	// was routed under an epoch before this one.
	Drained func(ctx context.Context, tenant uint32, epoch uint64) error
}

// Control is the control room. [Control.Apply] gives it a configuration, [Control.Run] keeps it
// current, [Control.Resolve] answers for a held command.
type Control struct {
	log     zerolog.Logger
	limited every
	cluster func(name string) cluster // of those in force; nil for one that is not configured
	router  *routing.Router
	drained func(ctx context.Context, tenant uint32, epoch uint64) error
	metrics *metrics

	// life is the flips': they outlive the command that asked for them, and end with Run.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup
	wake chan struct{} // Apply has changed something that Run waits for

	applying sync.Mutex // one configuration at a time; taken before publishing

	publishing sync.Mutex    // one table at a time; taken before mu; guards the following
	last       *routing.Spec // of the current table
	version    uint64
	published  uint64 // gen of the current table

	mu sync.Mutex // guards the following
	state
	nums     map[tenantID]uint32
	flips    map[tenantID]*flip
	verdicts map[tenantID]*verdict
	unlisted map[tenantID]time.Time // looked for and not found
	epoch    uint64                 // the highest that a table may have
	gen      uint64                 // grows with each change that a table shows
	seq      uint64                 // of readings of the tenants collection
	key      []byte
	pending  *rules // asked for while the home cluster was away
	ready    error
	closed   bool
	polled   poll
	review   *reviewing // nil for none
	missed   *reviewing // the last, where it has failed
	reviewed time.Time  // when the last that was published began
}

// state is what a configuration, the tenants collection and the routes come to. Its maps and slices
// are made anew by rebuild.
type state struct {
	rules    *rules
	rows     *rows
	found    map[tenantID]foundRow // by a look-up, after rows had been read
	routes   map[tenantID]*Route
	uniques  *uniques // nil while they have not been read
	catalog  *catalog // nil before the first
	order    []*tenant
	at       map[tenantID]int // in order, aliases too
	byKey    map[string]tenantID
	owners   map[string]tenantID // of physical databases, folded
	problems []problem
	kept     bool // tenants are among them that are listed no more, since they are being flipped
}

type foundRow struct {
	row
	seq uint64
}

// permanent is an error that waiting does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func permanentf(format string, args ...any) error { return permanent{fmt.Errorf(format, args...)} }

// Away reports whether [Control.Apply] has failed since a server could not be asked: later it may succeed.
func Away(err error) bool { return isAway(err) }

// isAway reports whether an error is of a server that could not be asked, and may be later.
func isAway(err error) bool {
	var p permanent
	return err != nil && !errors.As(err, &p) && !answered(err)
}

// staticWait bounds what is asked of servers for a table that needs none.
const staticWait = 2 * time.Second

var errNotLoaded = errors.New("no configuration has been loaded yet")

// New makes a control room that publishes nothing before Apply.
func New(o Options) *Control {
	c := newControl(o)
	c.cluster = finder(o.Clusters.Get)
	return c
}

func finder(get func(name string) *backend.Cluster) func(name string) cluster {
	return func(name string) cluster {
		if found := get(name); found != nil {
			return found
		}
		return nil
	}
}

func newControl(o Options) *Control {
	c := &Control{
		log: o.Log, router: o.Router, drained: o.Drained, metrics: newMetrics(o.Registerer),
		wake: make(chan struct{}, 1), nums: map[tenantID]uint32{}, flips: map[tenantID]*flip{},
		verdicts: map[tenantID]*verdict{}, unlisted: map[tenantID]time.Time{}, ready: errNotLoaded,
	}
	c.routes = map[tenantID]*Route{}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Apply loads a configuration, at the start or as a reload: it publishes a table made by it and
// commits the change of its clusters with that, or returns an error and keeps the table there was.
// change is nil where the clusters are in force already. Where nothing has been loaded yet and the
// home cluster is away it commits and returns nil; Run tries again then, and until it succeeds Ready
// says why not and the router has no table.
func (c *Control) Apply(ctx context.Context, cfg *config.Config, change *backend.Change) error {
	if change == nil {
		return c.take(ctx, cfg, c.inForce())
	}
	return c.take(ctx, cfg, clusters{finder(change.Get), change.Commit})
}

// clusters are those of a configuration that is being loaded. Nothing but the loading asks them before commit.
type clusters struct {
	find   func(name string) cluster
	commit func()
}

// inForce is the clusters of a configuration that brings no others.
func (c *Control) inForce() clusters { return clusters{c.cluster, func() {}} }

func (c *Control) take(ctx context.Context, cfg *config.Config, next clusters) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	r, err := newRules(cfg)
	if err != nil {
		return err
	}
	err = c.apply(ctx, r, next)
	if !c.loaded() && isAway(err) && !errors.Is(ctx.Err(), context.Canceled) {
		c.log.Warn().Err(err).Msg("the home cluster is away; its routes are read as soon as it is back")
		next.commit()
		c.await(r, err)
		return nil
	}
	return err
}

func (c *Control) loaded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules != nil
}

// await remembers a configuration that Run shall load.
func (c *Control) await(r *rules, why error) {
	c.mu.Lock()
	c.pending, c.ready = r, fmt.Errorf("the routes could not be read yet: %w", why)
	c.mu.Unlock()
	c.nudge()
}

func (c *Control) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// apply reads what the configuration needs and installs it.
func (c *Control) apply(ctx context.Context, r *rules, next clusters) error {
	in, err := c.load(ctx, r, next)
	if err != nil {
		return err
	}
	if r.guarded() && r.disabled() {
		if err := c.bringHome(ctx, r); err != nil {
			return err
		}
	}
	if err := c.install(r, in, next); err != nil {
		return err
	}
	c.nudge()
	return nil
}

// inputs is what was read for a table. A nil field was not read.
type inputs struct {
	rows   *rows
	routes map[tenantID]*Route
	unique *uniques
	shown  *catalog // of the shared databases
	key    []byte
	seq    uint64
}

// load reads all that the first table of a configuration needs.
func (c *Control) load(ctx context.Context, r *rules, next clusters) (*inputs, error) {
	home := next.find(r.cfg.Routing.Home)
	if home == nil {
		return nil, permanent{fmt.Errorf("there is no cluster %q", r.cfg.Routing.Home)}
	}
	in := &inputs{seq: c.nextSeq()}
	same := home == c.cluster(r.cfg.Routing.Home)
	// A static table needs no server. But one that is to take over from another has to be there.
	static := !r.guarded() && same
	if static && r.cfg.TenantsFrom == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, staticWait)
		defer cancel()
	}
	var err error
	if in.key, err = c.loadKey(ctx, r, home); err != nil {
		return nil, err
	}
	if r.guarded() {
		s, now, known := store{home, r.cfg.Control.Database}, c.controlDatabase(), c.knownRoutes()
		if in.routes, err = s.confirmed(ctx); err != nil {
			return nil, err
		}
		if err = c.keepRoutes(ctx, &s, known, in.routes, same && s.db == now); err != nil {
			return nil, err
		}
	}
	if in.rows, err = readRows(ctx, home, r.cfg.TenantsFrom, nil); err != nil {
		return nil, err
	}
	if in.shown, err = readCatalog(ctx, home, r.databases, in.seq); err != nil {
		if !static {
			return nil, err
		}
		in.shown = unread(in.seq)
	}
	if in.unique, err = c.readUniques(ctx, r, home, nil); err != nil && r.cfg.Routing.StrictUnique {
		return nil, err
	}
	return in, nil
}

// loadKey finds the fleet key: the file's, the control database's or, without either, a new one.
// The file's content can be anything; what it comes to is the same in the whole fleet.
func (c *Control) loadKey(ctx context.Context, r *rules, home cluster) ([]byte, error) {
	if path := r.cfg.Control.FleetKeyFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, permanent{fmt.Errorf("read the fleet key: %w", err)}
		}
		sum := sha256.Sum256([]byte(strings.TrimSpace(string(text))))
		return sum[:], nil
	}
	if key := c.FleetKey(); key != nil {
		return key, nil
	}
	if r.guarded() {
		s := store{home, r.cfg.Control.Database}
		return s.fleetKey(ctx)
	}
	return newFleetKey(), nil
}

// install makes the configuration the current one, wholly or not at all. Its clusters come into force
// after its table, so that no command is sent to them by the one before; and before anybody else can
// ask a cluster under the new rules.
func (c *Control) install(r *rules, in *inputs, next clusters) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	routes := c.withKnown(in.routes)
	if err := c.admissible(r, routes); err != nil {
		return permanent{err}
	}
	old := c.state
	c.state.rules, c.state.rows, c.state.routes, c.state.catalog, c.state.uniques = r, in.rows, routes, in.shown, in.unique
	c.found = c.foundSince(in.seq)
	for _, route := range routes {
		c.epoch = max(c.epoch, route.Epoch)
	}
	c.rebuild()
	c.lapse(func(*verdict) bool { return true })
	c.changed()
	spec, gen := c.spec(), c.gen
	table, err := c.newTable(spec)
	if err != nil {
		c.state = old
		return permanent{err}
	}
	c.key, c.pending, c.ready = in.key, nil, nil
	c.reviewed = time.Time{} // what was read since may have been read of another home
	c.put(table, spec, gen, c.counts())
	next.commit()
	return nil
}

// knownRoutes is the routes as they are known now. They are asked for before others are read to be compared with
// them: what is written meanwhile is not lacking there.
func (c *Control) knownRoutes() []*Route {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.routes))
}

// controlDatabase is the name of the control database in force, empty before the first.
func (c *Control) controlDatabase() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules == nil {
		return ""
	}
	return c.rules.cfg.Control.Database
}

// keepRoutes writes those known routes again that are not among the ones read: a process that is started without
// them would not find their tenants' documents. In another control database than the one in force they are to be
// there: what is lacking there may be of another deployment, whose proxies decide by a key and locks of their own.
func (c *Control) keepRoutes(ctx context.Context, s *store, known []*Route, read map[tenantID]*Route, sameDatabase bool) error {
	var lost []*Route
	for _, route := range known {
		if route.own() && read[idOf(route.ID)].epoch() < route.Epoch {
			lost = append(lost, route)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	var keys []string
	for _, route := range lost {
		keys = append(keys, route.Key)
	}
	slices.Sort(keys)
	if !sameDatabase {
		return permanentf("the control database is another one, and %q there lacks the routes of tenants whose documents are in databases "+
			"of their own (%s): copy the old one, all of it, while no proxy runs, or bring these tenants home first", s.db, some(keys))
	}
	for _, route := range lost {
		if err := s.writeRoute(ctx, route, read[idOf(route.ID)]); err != nil && !errors.Is(err, errConflict) {
			return err
		}
	}
	c.log.Warn().Str("database", s.db).Str("tenants", some(keys)).Msg("routes were not in the control database any more, and have been written again; nothing but tenantry may change it")
	return nil
}

// withKnown is the routes read, and those known, the later of two. A route is not forgotten for
// having been deleted by hand: its tenant's documents are where it said.
func (c *Control) withKnown(read map[tenantID]*Route) map[tenantID]*Route {
	all := make(map[tenantID]*Route, len(read)+len(c.routes))
	for id, route := range read {
		all[id] = route
	}
	for id, route := range c.routes {
		if all[id].epoch() <= route.Epoch {
			all[id] = route
		}
	}
	return all
}

// admissible says why a configuration can not be served with the routes there are, and with those
// that are being written.
func (c *Control) admissible(r *rules, routes map[tenantID]*Route) error {
	if !r.guarded() {
		return nil
	}
	check := make(map[tenantID]*Route, len(routes))
	for id, route := range routes {
		check[id] = route
	}
	for id, f := range c.flips {
		if f.tried != nil && f.tried.own() {
			check[id] = f.tried
		}
	}
	if r.disabled() {
		var names []string
		for _, route := range sortedRoutes(check) {
			if route.own() {
				names = append(names, route.Key)
			}
		}
		if len(names) > 0 {
			return errAway(names)
		}
	}
	if found := r.contradictions(check, c.rules); len(found) > 0 {
		return fmt.Errorf("the configuration contradicts where tenants are: %s", some(found))
	}
	return nil
}

// errAway refuses the mode disabled.
func errAway(keys []string) error {
	return fmt.Errorf(`the mode "disabled" can not be loaded: %d tenants have databases of their own, and shared would show them without their documents: %s. `+
		`Bringing them home is not offered yet; set the mode back to "mixed" or "forced"`, len(keys), some(keys))
}

// rebuild decides anew for every tenant.
func (c *Control) rebuild() {
	l := c.rules.list(c.allRows(), c.routes)
	c.kept = false
	for id := range c.flips { // a tenant that is paused stays so, also when it is listed no more
		if t := c.tenant(id); t != nil && !l.has(id) {
			l.add(t.listing)
			c.kept = true
		}
	}
	l.sort()
	c.order, c.at = make([]*tenant, len(l.all)), make(map[tenantID]int, len(l.all))
	c.byKey, c.problems, c.owners = l.byKey, l.problems, map[string]tenantID{}
	for i, listed := range l.all {
		c.order[i] = c.rules.newTenant(listed, c.num(listed.id), c.routes[listed.id])
		c.at[listed.id] = i
	}
	for id, route := range c.routes {
		c.own(id, route)
	}
}

// allRows is the rows read, and those looked up that are not among them.
func (c *Control) allRows() []row {
	all := c.rows.list()
	if len(c.found) == 0 {
		return all
	}
	all = slices.Clone(all)
	read := make(map[tenantID]bool, len(all))
	for i := range all {
		read[all[i].id] = true
	}
	for id, w := range c.found {
		if !read[id] {
			all = append(all, w.row)
		}
	}
	return all
}

// own enters what a route brings beside the tenant itself.
func (c *Control) own(id tenantID, route *Route) {
	for _, name := range route.Databases {
		c.owners[strings.ToLower(name)] = id
	}
	for _, v := range route.Aliases {
		if i, ok := c.at[id]; ok {
			if _, taken := c.at[idOf(v)]; !taken {
				c.at[idOf(v)] = i
			}
		}
	}
}

// taken reports whether a database of the route is another tenant's.
func (c *Control) taken(route *Route) bool {
	for _, name := range route.Databases {
		if id, ok := c.owners[strings.ToLower(name)]; ok && id != idOf(route.ID) {
			return true
		}
	}
	return false
}

// num is the tenant's number in this process, the same for as long as that lives.
func (c *Control) num(id tenantID) uint32 {
	n, ok := c.nums[id]
	if !ok {
		n = uint32(len(c.nums) + 1)
		c.nums[id] = n
	}
	return n
}

// tenant is a tenant by its id; nil where there is none.
func (c *Control) tenant(id tenantID) *tenant {
	if i, ok := c.at[id]; ok {
		return c.order[i]
	}
	return nil
}

// setRoute takes over a route, if it is later than the one known.
func (c *Control) setRoute(route *Route) {
	id := idOf(route.ID)
	if known := c.routes[id]; known != nil && known.Epoch >= route.Epoch {
		return
	}
	c.routes[id] = route
	// Also where another tenant's pause has taken a later epoch meanwhile, commands that were routed
	// without the route are of an earlier one than those with it.
	c.epoch = max(c.epoch+1, route.Epoch)
	c.changed()
	if c.rules == nil {
		return
	}
	t := c.tenant(id)
	if t == nil || t.key != route.Key {
		c.rebuild()
		return
	}
	c.order[c.at[id]] = c.rules.newTenant(t.listing, t.num, route)
	c.own(id, route)
}

// changed notes that the current table no longer shows all.
func (c *Control) changed() { c.gen++ }

func (c *Control) knownEpoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *Control) nextSeq() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	return c.seq
}

// foundSince is the look-ups' findings that a reading with this number may have missed.
func (c *Control) foundSince(seq uint64) map[tenantID]foundRow {
	all := map[tenantID]foundRow{}
	for id, w := range c.found {
		if w.seq >= seq {
			all[id] = w
		}
	}
	return all
}

// storeOf is the control database of a configuration.
func (c *Control) storeOf(r *rules) *store {
	return &store{c.cluster(r.cfg.Routing.Home), r.cfg.Control.Database}
}

// FleetKey is the key that signs session ids and tokens, the same for the whole fleet: 32 bytes,
// nil until it is known.
func (c *Control) FleetKey() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key
}

// Ready is nil once a table from the control database is published, else it says why there is none.
func (c *Control) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// resolvable finds the id that a value of the tenant field stands for.
func (c *Control) resolvable(v wire.Value) tenantID {
	if t := c.router.Current(); t != nil {
		if tn := t.Find(v); tn != nil {
			return idOf(tn.ID)
		}
	}
	return idOf(v)
}
