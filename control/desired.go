package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// Words of a tenant's mode, in the file and in the tenants collection.
const (
	modeShared = "shared"
	modeOwn    = "per-tenant"
)

// envSource is where config lists the keys of MULTI_DB_TENANT_KEYS.
const envSource = "MULTI_DB_TENANT_KEYS"

// rules is one configuration, prepared for the questions asked of it. It never changes.
type rules struct {
	cfg       *config.Config
	databases []string // logical, in the order of the file
	patterns  []string // of the tenants' own
	platform  []config.Entry
	modules   map[string][]config.Entry
	scopes    map[string]*scope // by modules
	envKeys   map[string]bool
}

// newRules refuses a combination of modules that no route could say.
func newRules(cfg *config.Config) (*rules, error) {
	r := &rules{cfg: cfg, modules: map[string][]config.Entry{}, scopes: map[string]*scope{}, envKeys: map[string]bool{}}
	for _, d := range cfg.Routing.Databases {
		r.databases = append(r.databases, d.Shared)
		r.patterns = append(r.patterns, d.Tenant)
	}
	r.platform = qualify(cfg.Routing, cfg.Platform.Collections, r.databases)
	for _, m := range cfg.Modules {
		r.modules[m.Name] = qualify(cfg.Routing, m.Collections, r.databases)
	}
	for _, k := range cfg.TenantKeys {
		r.envKeys[k] = true
	}
	lists := [][]string{nil}
	for _, t := range cfg.Tenants {
		lists = append(lists, t.Modules)
	}
	for _, modules := range lists {
		id := modulesID(modules)
		if r.scopes[id] != nil {
			continue
		}
		s, err := r.newScope(modules)
		if err != nil {
			return nil, err
		}
		r.scopes[id] = s
	}
	return r, nil
}

func modulesID(modules []string) string {
	if modules == nil {
		return "default"
	}
	return "=" + strings.Join(modules, "\x00")
}

// scopeOf is the collections of a tenant's modules; nil modules are the default ones.
func (r *rules) scopeOf(modules []string) *scope { return r.scopes[modulesID(modules)] }

func (r *rules) newScope(modules []string) (*scope, error) {
	if modules == nil {
		modules = r.cfg.Routing.IsolateModules
	}
	if modules == nil {
		for _, m := range r.cfg.Modules {
			modules = append(modules, m.Name)
		}
	}
	s := &scope{}
	stars := map[string]bool{}
	for _, m := range modules {
		for _, e := range r.modules[m] {
			s.entries = append(s.entries, e)
			stars[e.Database] = stars[e.Database] || star(e)
		}
	}
	return r.withStars(s, stars)
}

// withStars turns a scope that has whole databases into "all but".
func (r *rules) withStars(s *scope, stars map[string]bool) (*scope, error) {
	all := &scope{all: true, entries: slices.Clone(r.platform)}
	whole := false
	for _, db := range r.databases {
		if stars[db] {
			whole = true
		} else {
			all.entries = append(all.entries, config.Entry{Database: db, Prefix: true})
		}
	}
	if !whole {
		return s, nil
	}
	for _, e := range s.entries {
		if !stars[e.Database] {
			return nil, fmt.Errorf("modules that are isolated together have all of one database and %q of another; list the first one's collections, or all of both", entryText(e))
		}
	}
	return all, nil
}

func (r *rules) lookUp() bool { return r.cfg.Routing.Mode == "forced" && r.cfg.TenantsFrom != nil }

func (r *rules) guarded() bool { return r.cfg.Control.Enabled }

func (r *rules) disabled() bool { return r.cfg.Routing.Mode == "disabled" }

// listing is what the file, the environment and the tenants collection say of one tenant.
type listing struct {
	id      tenantID
	value   wire.Value
	key     string
	mode    string // modeShared, modeOwn, or "" where nobody says
	source  string // who says so, for people
	cluster string
	modules []string
}

// problem is something listed that can not be used; it stops nothing and is shown.
type problem struct {
	Tenant string // key or id
	Text   string
}

func (p problem) String() string { return p.Tenant + ": " + p.Text }

// list joins the sources. Where two claim one key or id, a route wins over the file, the file over
// the collection, and there the smaller id: the other one is left out, which leaves its documents
// where they are, in shared. A key that a route has frozen replaces the listed one.
func (r *rules) list(rows []row, routes map[tenantID]*Route) *lister {
	l := &lister{r: r, routes: routes, byKey: make(map[string]tenantID, len(rows)+len(routes)), at: make(map[tenantID]int, len(rows))}
	for id, route := range routes {
		l.byKey[strings.ToLower(route.Key)] = id
	}
	l.file()
	l.collection(rows)
	l.environment(rows)
	l.routesAlone()
	return l
}

type lister struct {
	r        *rules
	routes   map[tenantID]*Route
	all      []listing
	at       map[tenantID]int
	byKey    map[string]tenantID // folded, as a server compares database names
	problems []problem
}

func (l *lister) refuse(tenant, format string, args ...any) {
	l.problems = append(l.problems, problem{tenant, fmt.Sprintf(format, args...)})
}

// add enters a tenant of which at has no entry yet.
func (l *lister) add(t listing) {
	if route := l.routes[t.id]; route != nil {
		t.key = route.Key
	} else if why := badKey(t.key, l.r.patterns); why != "" {
		l.refuse(cmp.Or(t.key, shown(t.value)), "left out: %s", why)
		return
	}
	fold := strings.ToLower(t.key)
	if other, taken := l.byKey[fold]; taken && other != t.id {
		l.refuse(t.key, "left out: its key is also that of another tenant (%s and %s)", shown(t.value), l.textOf(other))
		return
	}
	l.byKey[fold] = t.id
	l.at[t.id] = len(l.all)
	l.all = append(l.all, t)
}

func (l *lister) textOf(id tenantID) string {
	if i, ok := l.at[id]; ok {
		return shown(l.all[i].value)
	}
	if route := l.routes[id]; route != nil {
		return shown(route.ID)
	}
	return "?"
}

func (l *lister) has(id tenantID) bool {
	_, ok := l.at[id]
	return ok
}

// sort puts the tenants in the order of their keys; at no longer holds after it.
func (l *lister) sort() {
	slices.SortFunc(l.all, func(a, b listing) int { return cmp.Compare(a.key, b.key) })
}

func (l *lister) file() {
	for _, t := range l.r.cfg.Tenants {
		if t.Source == envSource {
			continue
		}
		v := fromRaw(t.ID)
		if _, twice := l.at[idOf(v)]; twice {
			l.refuse(t.Key, "left out: its id is listed twice")
			continue
		}
		l.add(listing{
			id: idOf(v), value: v, key: t.Key, mode: t.Mode, source: t.Source,
			cluster: t.Cluster, modules: t.Modules,
		})
	}
}

// collection enters the rows. One that the file lists too only says the mode, where neither the
// file nor the environment does.
func (l *lister) collection(rows []row) {
	from := l.r.cfg.TenantsFrom
	if from == nil {
		return
	}
	source := from.Database + "." + from.Name
	seen := make(map[tenantID]bool, len(rows))
	for _, w := range rows {
		switch i, listed := l.at[w.id]; {
		case w.problem != "":
			l.refuse(w.name(), "left out: %s", w.problem)
		case seen[w.id]:
			l.refuse(w.name(), "left out: its id %s is listed twice", shown(w.value))
		case listed:
			if t := &l.all[i]; t.mode == "" && w.mode != "" {
				t.mode, t.source = w.mode, source
			}
		default:
			t := listing{id: w.id, value: w.value, key: w.key, mode: w.mode, source: source}
			if l.r.envKeys[w.key] {
				t.mode, t.source = modeOwn, envSource
			}
			l.add(t)
		}
		if w.oddMode != "" {
			l.refuse(w.name(), "its mode %s is neither %q nor %q and says nothing", w.oddMode, modeShared, modeOwn)
		}
		seen[w.id] = true
	}
}

// environment enters the keys that no listed tenant has: a tenant whose id is that string.
func (l *lister) environment(rows []row) {
	keys := make(map[string]bool, len(l.r.envKeys))
	if len(l.r.envKeys) > 0 {
		for _, w := range rows {
			keys[w.key] = true
		}
	}
	for _, t := range l.r.cfg.Tenants {
		if t.Source != envSource || keys[t.Key] {
			continue
		}
		v := fromRaw(t.ID)
		if i, listed := l.at[idOf(v)]; listed {
			l.all[i].mode, l.all[i].source = modeOwn, envSource
			continue
		}
		l.add(listing{id: idOf(v), value: v, key: t.Key, mode: t.Mode, source: envSource, cluster: t.Cluster, modules: t.Modules})
	}
}

// routesAlone enters the tenants of which only a route is left.
func (l *lister) routesAlone() {
	for id, route := range l.routes {
		if _, listed := l.at[id]; !listed {
			l.add(listing{id: id, value: route.ID, key: route.Key, source: "route"})
		}
	}
}

// look is what has to be looked at before a tenant's next command.
type look uint8

const (
	settled  look = iota
	flipOut       // from shared to a database of its own
	flipBack      // from its own to shared
)

// plan is what a tenant should be, and how that differs from its route.
type plan struct {
	mode    string // that is asked for
	source  string
	want    *scope // of collections in databases of its own
	cluster string // for those
	look    look
	todo    []config.Entry // what a flip out is about
	why     string         // what is asked for and never obeyed
}

// same reports whether two plans would make the same flip of the same route.
func (p *plan) same(o *plan) bool {
	return p.look == o.look && p.cluster == o.cluster && slices.Equal(p.todo, o.todo) && scopesEqual(p.want, o.want)
}

func scopesEqual(a, b *scope) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.all == b.all && slices.Equal(a.entries, b.entries)
}

// asked is the mode that a tenant's flags ask for and who asks; spoken says that somebody did, and
// not just the mode's default.
func (r *rules) asked(l *listing) (mode, source string, spoken bool) {
	switch {
	case r.disabled():
		return modeShared, "mode disabled", true
	case l.mode != "":
		return l.mode, l.source, true
	case r.cfg.Routing.Mode == "forced":
		return modeOwn, "mode forced", false
	}
	return modeShared, "mode mixed", false
}

// plan compares what is asked for a tenant with its route, which may be nil.
func (r *rules) plan(l *listing, route *Route) plan {
	p := plan{cluster: cmp.Or(l.cluster, r.cfg.Routing.Home)}
	var spoken bool
	p.mode, p.source, spoken = r.asked(l)
	if l.source == "route" && !r.disabled() {
		p.mode, p.source, spoken = modeShared, "route", false
	}
	if p.mode == modeOwn {
		p.want = r.scopeOf(l.modules)
	}
	if !r.guarded() {
		return p
	}
	have := r.routeScope(route)
	switch {
	case p.mode == modeOwn:
		if p.todo = missing(p.want, have, r.databases); len(p.todo) > 0 {
			p.look = flipOut
		}
		if have != nil && route.Cluster != p.cluster {
			p.why = fmt.Sprintf("it is on cluster %q; a move to %q is not offered yet", route.Cluster, p.cluster)
			p.cluster = route.Cluster
		}
	case have != nil && spoken:
		p.look = flipBack
	case have != nil:
		p.mode, p.source = modeOwn, "route"
	}
	return p
}

// routeScope is the collections that a route has moved; nil for none.
func (r *rules) routeScope(route *Route) *scope {
	if !route.own() {
		return nil
	}
	databases := make([]string, 0, len(r.databases))
	s := &scope{all: route.Collections == nil}
	for _, db := range r.databases {
		if _, has := route.Databases[db]; has {
			databases = append(databases, db)
		} else if s.all {
			s.entries = append(s.entries, config.Entry{Database: db, Prefix: true})
		}
	}
	list := route.Collections
	if s.all {
		list = route.Except
	}
	s.entries = append(s.entries, qualify(r.cfg.Routing, list, databases)...)
	return s
}

// contradictions says which routes the configuration can not be served with. Routes that do not say
// by which field they were made were made by that of the configuration in force, which may be nil.
func (r *rules) contradictions(routes map[tenantID]*Route, force *rules) []string {
	var all []string
	owner := map[string]string{}
	for _, route := range sortedRoutes(routes) {
		if !route.own() {
			continue
		}
		if why := r.contradiction(route, force); why != "" {
			all = append(all, fmt.Sprintf("tenant %q %s", route.Key, why))
		}
		for _, db := range sortedKeys(route.Databases) {
			name := strings.ToLower(route.Databases[db])
			if o, taken := owner[name]; taken {
				all = append(all, fmt.Sprintf("tenants %q and %q have one database %q", o, route.Key, route.Databases[db]))
			}
			owner[name] = route.Key
		}
	}
	return all
}

func (r *rules) contradiction(route *Route, force *rules) string {
	if _, ok := r.cfg.Clusters[route.Cluster]; !ok {
		return fmt.Sprintf("is on cluster %q, which is not configured", route.Cluster)
	}
	for db := range route.Databases {
		if !slices.Contains(r.databases, db) {
			return fmt.Sprintf("has moved collections of database %q, which is not a logical database any more", db)
		}
	}
	have := r.routeScope(route)
	for _, p := range r.platform {
		if have.touches(p) {
			return fmt.Sprintf("has moved %q, which [platform] lists now; take it off there", entryText(p))
		}
	}
	was := route.Fields
	if was.all == "" && force != nil {
		was = force.fields()
	}
	if was.all == "" {
		return ""
	}
	if why := have.refielded(was, r.fields(), r.databases); why != "" {
		return why + ": set it back in tenant_field or tenant_fields; it can be another one once the tenant is in shared again"
	}
	return ""
}
