// Package routing is the decision: from an immutable [Table] and one [Request] to where it goes and
// how it must be changed. It does no I/O, reads no clock and starts nothing, which is why it can be
// tested by the thousand. What a decision needs from outside (who is connected, where a cursor or a
// transaction is) is given to it with the request.
package routing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Mode is MULTI_DB_MODE.
type Mode uint8

// Modes.
const (
	Disabled Mode = iota // every tenant is in shared
	Mixed                // isolated tenants by word
	Forced               // new tenants are isolated
)

func (m Mode) String() string { return [...]string{"disabled", "mixed", "forced"}[m] }

// NoTenantRule is what happens to a command on moved collections that names no tenant.
type NoTenantRule uint8

// Rules of without_tenant.
const (
	ToHolders NoTenantRule = iota
	ToShared
	Reject
)

// Spec is what a table is made of: the file's, the control database's and the tenants
// collection's words, joined.
type Spec struct {
	Version       uint64 // grows by one with each table that is published
	Epoch         uint64 // highest epoch of the routes
	Mode          Mode
	Home          string // cluster
	Databases     []DatabaseSpec
	ControlDB     string // "" where there is none
	HideOthers    bool
	WithoutTenant NoTenantRule
	Field         string
	Fields        map[string]string // by "coll" or "db.coll"
	Collections   []string          // of all modules: "coll", "db.coll", "prefix*", "*"
	Platform      []string
	Grants        map[string]Grant // by platform collection: "coll" or "db.coll"
	Views         []ViewSpec       // of the shared databases
	Collated      []Collated       // what compares strings by a collation of its own
	Names         []string         // "db.coll" of all that the shared databases hold; nil where that is nobody's business
	Tenants       []TenantSpec
	LookUp        bool // tenant values in no entry are looked for before their first command
	RequireTenant bool
	MaxScatter    int
	AllowDrop     bool
	Unique        []UniqueIndex // of the shared databases' collections
	StrictUnique  bool          // no write of a bound connection where one of them tells of others
}

// DatabaseSpec is one logical database.
type DatabaseSpec struct {
	Name   string // the logical name, and the shared database's
	Prefix string // tenants' databases: Prefix + key + Suffix
	Suffix string
}

// TenantSpec is one tenant of a table.
type TenantSpec struct {
	ID      wire.Value
	Aliases []wire.Value // further values that documents carry
	Key     string
	Num     uint32     // stable number of the tenant in this process; 0 is nobody
	Route   *RouteSpec // nil for plain shared
	Paused  bool       // commands are held
	Since   uint64     // the first epoch with that pause; 0 where that is not known
	Look    bool       // flag and route differ: to be looked at before the tenant's next command
}

// RouteSpec is where a tenant's collections are.
type RouteSpec struct {
	Cluster     string
	Databases   map[string]string // logical to physical
	Collections []string          // "coll", "db.coll" or "prefix*"
	Except      []string          // all but these, where Collections is nil
	Epoch       uint64            // of its last change
}

// Table is the immutable snapshot that commands are routed by.
type Table struct {
	Version uint64
	Epoch   uint64
	Mode    Mode
	// Plain says that no tenant is outside shared and none is about to leave it: an open
	// connection is served as by a plain proxy of the home cluster.
	Plain    bool
	HomeAny  *Target // home cluster, whatever database the client names
	Clusters []string

	databases  []*Database
	byName     wordMap[*Database]
	control    string
	hideOthers bool
	without    NoTenantRule
	requireT   bool
	maxScatter int
	allowDrop  bool
	lookUp     bool
	telling    []UniqueIndex
	strict     bool // see Spec.StrictUnique
	isolating  bool // the mode allows databases of tenants
	tenants    []*Tenant
	paused     *Tenant // one of those that are
	byKey      map[string]*Tenant
	byValue    tenantIndex
	physical   map[string]string // lower-case physical database of a route to its logical one
	catalog    uint64            // see [Table.Catalog]
	looksOnce  sync.Once
	looks      map[look][]*Tenant // made by looksOnce; see alike
}

// Database is one logical database.
type Database struct {
	Name           string
	num            int
	prefix, suffix string
	shared         *Target
	holders        []*Target              // shared, then every database of a tenant by name
	exact          wordMap[*Collection]   // by name
	patterns       []*Collection          // longest first
	rest           *Collection            // what nothing lists
	telling        map[string]UniqueIndex // by collection, one of those that tell; see [Table.Telling]
	collated       map[string]wire.Value  // the collations of collections that have one
	known          map[string]bool        // what shared holds; nil where that is nobody's business
}

// Collection is what the table knows of a collection, or of all that share a pattern.
type Collection struct {
	Tenant  bool // holds tenants' documents
	grant   Grant
	field   fieldPath
	db      *Database
	name    string // or pattern
	holders []*Target
	num     int
	known   bool  // it is one, and shared holds it
	settled bool  // nothing has to be looked at or waited for before a tenant's command
	view    *view // nil for a collection
	over    bool  // it is a view of documents that are not all in shared

	away    []*Tenant // whose home for it is not shared
	once    sync.Once
	notAway wire.Doc // made by once
}

// Target is one physical database on a named cluster.
type Target struct {
	Cluster string
	Logical string  // what clients call it; "" for a database passed on as it is
	DB      string  // its own name
	Tenant  *Tenant // whose database it is; nil for shared
	dbValue []byte  // the name as a BSON string value
}

// Tenant is one tenant of a table.
type Tenant struct {
	// What most commands read stands in the first line of the processor's cache.
	Num    uint32
	Paused bool
	Look   bool

	set     *collectionSet
	targets []*Target // by database

	Since   uint64 // see TenantSpec
	Key     string
	ID      wire.Value
	route   *RouteSpec
	aliases []wire.Value
}

// collectionSet says which collections of a table have moved; tenants with the same share one.
type collectionSet struct {
	moved []bool // by Collection.num
	all   bool   // no tenant collection is left in shared
}

// Isolated reports whether any of the tenant's collections is outside shared.
func (t *Tenant) Isolated() bool { return t.set != nil }

// Route is where the tenant's collections are; nil for plain shared.
func (t *Tenant) Route() *RouteSpec { return t.route }

// home is the one target that owns the tenant's documents of the collection; t may be nil.
func (t *Tenant) home(c *Collection) *Target {
	if t == nil || t.set == nil || !t.set.moved[c.num] {
		return c.db.shared
	}
	return t.targets[c.db.num]
}

// Router holds the current table: control publishes, everybody reads.
type Router struct {
	current atomic.Pointer[Table]

	mu    sync.Mutex // guards the following
	begun chan struct{}
}

// Current is the newest table. A command takes it once and runs wholly under it.
func (r *Router) Current() *Table { return r.current.Load() }

// Publish makes the table the current one.
func (r *Router) Publish(t *Table) {
	if r.current.Swap(t) != nil {
		return
	}
	begun := r.Begun()
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-begun:
	default:
		close(begun)
	}
}

// Begun is closed when there is a table.
func (r *Router) Begun() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun == nil {
		r.begun = make(chan struct{})
	}
	return r.begun
}

// NewTable makes a table. The error says which words contradict each other.
func NewTable(s *Spec) (*Table, error) {
	t := &Table{
		Version: s.Version, Epoch: s.Epoch, Mode: s.Mode, control: s.ControlDB, hideOthers: s.HideOthers,
		without: s.WithoutTenant, requireT: s.RequireTenant, maxScatter: s.MaxScatter, allowDrop: s.AllowDrop, lookUp: s.LookUp, strict: s.StrictUnique,
		isolating: s.Mode != Disabled, byName: newWordMap[*Database](len(s.Databases)), byKey: make(map[string]*Tenant, len(s.Tenants)),
		byValue: newTenantIndex(len(s.Tenants)), physical: map[string]string{},
		HomeAny: &Target{Cluster: s.Home}, catalog: catalogOf(s),
	}
	for i, d := range s.Databases {
		db := &Database{
			Name: d.Name, num: i, prefix: d.Prefix, suffix: d.Suffix, shared: newTarget(s.Home, d.Name, d.Name, nil),
			exact: newWordMap[*Collection](0), telling: map[string]UniqueIndex{}, collated: map[string]wire.Value{},
		}
		db.holders = []*Target{db.shared}
		t.databases = append(t.databases, db)
		t.byName.set(d.Name, db)
	}
	cols := t.addCollections(s)
	if err := t.addTenants(s, cols); err != nil {
		return nil, err
	}
	t.addHolders(cols)
	t.addUnique(s.Unique)
	t.settleViews()
	return t, nil
}

func newTarget(cluster, logical, db string, tenant *Tenant) *Target {
	return &Target{Cluster: cluster, Logical: logical, DB: db, Tenant: tenant, dbValue: wire.StringValue(db).Data}
}

// addCollections enters every collection and pattern that anything names, and the rest.
func (t *Table) addCollections(s *Spec) []*Collection {
	names := map[string]bool{"*": true}
	note := func(lists ...[]string) {
		for _, l := range lists {
			for _, n := range l {
				names[n] = true
			}
		}
	}
	note(s.Collections, s.Platform)
	for n := range s.Fields {
		names[n] = true
	}
	for n := range s.Grants {
		names[n] = true
	}
	for i := range s.Tenants {
		if r := s.Tenants[i].Route; r != nil {
			note(r.Collections, r.Except)
		}
	}
	var cols []*Collection
	for _, db := range t.databases {
		for _, n := range sortedKeys(names) {
			if c := t.newCollection(db, n, s); c != nil {
				c.num = len(cols)
				cols = append(cols, c)
			}
		}
		slices.SortFunc(db.patterns, func(a, b *Collection) int { return cmp.Compare(len(b.name), len(a.name)) })
		db.rest = db.patterns[len(db.patterns)-1] // "*" is the shortest
	}
	for i := range s.Views {
		v := &s.Views[i]
		if db, name := t.split(v.Name); db != nil {
			db.addView(v, name, &cols)
		}
	}
	for _, x := range s.Collated {
		if db, name := t.split(x.Name); db != nil {
			db.collated[name] = wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: unversioned(x.Collation)}
		}
	}
	t.addNames(s.Names)
	return cols
}

// addNames enters what the shared databases hold.
func (t *Table) addNames(names []string) {
	if names == nil {
		return
	}
	for _, db := range t.databases {
		db.known = map[string]bool{}
	}
	for _, n := range names {
		if db, name := t.split(n); db != nil {
			db.known[name] = true
			if c := db.exact.find([]byte(name)); c != nil && c.view == nil {
				c.known = true
			}
		}
	}
}

// newCollection enters one name into a logical database; nil where it is another database's or
// entered already.
func (t *Table) newCollection(db *Database, name string, s *Spec) *Collection {
	name, ok := t.within(db, name)
	if !ok || db.exact.find([]byte(name)) != nil {
		return nil
	}
	c := &Collection{db: db, name: name, field: newFieldPath(fieldOf(s, db.Name, name))}
	c.grant = cmp.Or(s.Grants[db.Name+"."+name], s.Grants[name])
	c.Tenant = t.listed(db, s.Collections, name) && !t.listed(db, s.Platform, name)
	if strings.HasSuffix(name, "*") {
		for _, p := range db.patterns {
			if p.name == name {
				return nil
			}
		}
		db.patterns = append(db.patterns, c)
	} else {
		db.exact.set(name, c)
	}
	return c
}

// within takes a logical database's name off an entry; false where it names another one's.
func (t *Table) within(db *Database, entry string) (string, bool) {
	if d, c := t.split(entry); d != nil {
		return c, d == db
	}
	return entry, true
}

// split takes a logical database's name off a collection's; nil where it begins with none.
func (t *Table) split(name string) (*Database, string) {
	db, coll, ok := strings.Cut(name, ".")
	if !ok {
		return nil, ""
	}
	return t.byName.find([]byte(db)), coll
}

// listed reports whether a list's entries cover the collection or pattern of the database.
func (t *Table) listed(db *Database, list []string, name string) bool {
	for _, e := range list {
		e, ok := t.within(db, e)
		if ok && covers(e, name) {
			return true
		}
	}
	return false
}

func covers(entry, name string) bool {
	if p, ok := strings.CutSuffix(entry, "*"); ok {
		return strings.HasPrefix(name, p)
	}
	return entry == name
}

func fieldOf(s *Spec, db, name string) string {
	if f := s.Fields[db+"."+name]; f != "" {
		return f
	}
	return cmp.Or(s.Fields[name], s.Field)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (t *Table) addTenants(s *Spec, cols []*Collection) error {
	sets := map[string]*collectionSet{}
	clusters := map[string]bool{s.Home: true}
	for i := range s.Tenants {
		ts := &s.Tenants[i]
		tn := &Tenant{ID: ts.ID, Key: ts.Key, Num: ts.Num, Paused: ts.Paused, Since: ts.Since, Look: ts.Look, route: ts.Route, aliases: ts.Aliases}
		if ts.Route != nil {
			clusters[ts.Route.Cluster] = true
			tn.set = t.setOf(ts.Route, cols, sets)
			if err := t.addTargets(tn, ts.Route); err != nil {
				return err
			}
		}
		if o := t.byKey[ts.Key]; o != nil {
			return fmt.Errorf("two tenants have the key %q", ts.Key)
		}
		t.byKey[ts.Key] = tn
		for _, v := range append([]wire.Value{ts.ID}, ts.Aliases...) {
			if o := t.byValue.add(v, tn); o != nil {
				return fmt.Errorf("tenants %q and %q have one id", o.Key, ts.Key)
			}
		}
		t.tenants = append(t.tenants, tn)
	}
	t.Clusters = sortedKeys(clusters)
	return nil
}

func (t *Table) addTargets(tn *Tenant, r *RouteSpec) error {
	tn.targets = make([]*Target, len(t.databases))
	for i, db := range t.databases {
		name := r.Databases[db.Name]
		if name == "" {
			name = db.prefix + tn.Key + db.suffix
		}
		lower := strings.ToLower(name)
		if _, taken := t.physical[lower]; taken || t.reserved(lower) {
			return fmt.Errorf("the database %q of tenant %q is another's", name, tn.Key)
		}
		t.physical[lower] = db.Name
		tn.targets[i] = newTarget(r.Cluster, db.Name, name, tn)
	}
	return nil
}

// reserved reports whether a lower-case name is a logical or the control database's.
func (t *Table) reserved(lower string) bool {
	if lower == strings.ToLower(t.control) || lower == "admin" || lower == "config" || lower == "local" {
		return true
	}
	for _, db := range t.databases {
		if strings.ToLower(db.Name) == lower {
			return true
		}
	}
	return false
}

func (t *Table) setOf(r *RouteSpec, cols []*Collection, sets map[string]*collectionSet) *collectionSet {
	id := strings.Join(r.Collections, "\x00") + "\x01" + strings.Join(r.Except, "\x00")
	if s := sets[id]; s != nil {
		return s
	}
	s := &collectionSet{moved: make([]bool, len(cols)), all: true}
	for _, c := range cols {
		if c.view != nil {
			continue // it holds no documents
		}
		if r.Collections != nil {
			s.moved[c.num] = t.listed(c.db, r.Collections, c.name)
		} else {
			s.moved[c.num] = !t.listed(c.db, r.Except, c.name)
		}
		s.all = s.all && (s.moved[c.num] || !c.Tenant)
	}
	sets[id] = s
	return s
}

// addHolders finds for each collection the databases that are some tenant's home for it.
func (t *Table) addHolders(cols []*Collection) {
	looking, moved := t.lookUp, false
	for _, tn := range t.tenants {
		looking = looking || tn.Look || tn.Paused
		moved = moved || tn.set != nil
		if tn.Paused {
			t.paused = tn
		}
	}
	byDB := make([][]*Tenant, len(t.databases))
	for i, db := range t.databases {
		for _, tn := range t.tenants {
			if tn.set != nil {
				byDB[i] = append(byDB[i], tn)
			}
		}
		slices.SortFunc(byDB[i], func(a, b *Tenant) int { return cmp.Compare(a.targets[i].DB, b.targets[i].DB) })
		for _, tn := range byDB[i] {
			db.holders = append(db.holders, tn.targets[i])
		}
	}
	for _, c := range cols {
		c.holders = []*Target{c.db.shared}
		for _, tn := range byDB[c.db.num] {
			if tn.set.moved[c.num] {
				c.Tenant = true
				c.holders = append(c.holders, tn.targets[c.db.num])
				c.away = append(c.away, tn)
			}
		}
		c.settled = !looking
	}
	t.Plain = !moved && !looking
}

// collection finds what the table knows of a collection of the database.
func (db *Database) collection(name []byte) *Collection {
	if c := db.exact.find(name); c != nil {
		return c
	}
	for _, p := range db.patterns {
		if n := len(p.name) - 1; len(name) >= n && string(name[:n]) == p.name[:n] {
			return p
		}
	}
	return db.rest
}

// touched reports whether a command on the collection needs to be looked at: some of its
// documents are outside shared, or may be before the next table.
func (c *Collection) touched() bool {
	return c.Tenant && (len(c.holders) > 1 || !c.settled) || c.over
}

// touched reports whether any of the database's collections is.
func (db *Database) touched() bool {
	return len(db.holders) > 1
}

// Tenants calls yield for each tenant.
func (t *Table) Tenants(yield func(*Tenant) bool) {
	for _, tn := range t.tenants {
		if !yield(tn) {
			return
		}
	}
}

// Tenant finds a tenant by its key.
func (t *Table) Tenant(key string) *Tenant { return t.byKey[key] }

// MovedSince reports whether a tenant that the decision concerns has left shared since the epoch.
func (t *Table) MovedSince(d *Decision, epoch uint64) bool {
	since := func(tn *Tenant) bool { return tn.route != nil && tn.route.Epoch > epoch }
	switch {
	case d.Tenant != nil:
		return since(d.Tenant)
	case d.Coll != nil:
		return slices.ContainsFunc(d.Coll.away, since)
	case d.Action == Split: // a bulkWrite, whose writes have collections of their own
		return slices.ContainsFunc(t.tenants, since)
	}
	return false
}

// Key is the key of the tenant with the number; "" for one that is in no table any more.
func (t *Table) Key(num uint32) string {
	if tn := t.Number(num); tn != nil {
		return tn.Key
	}
	return ""
}

// Number finds a tenant by its number; nil for one that is not in the table.
func (t *Table) Number(num uint32) *Tenant {
	for _, tn := range t.tenants {
		if tn.Num == num {
			return tn
		}
	}
	return nil
}

// Find finds a tenant by a value of the tenant field.
func (t *Table) Find(v wire.Value) *Tenant { return t.byValue.find(v) }

// Logical is what clients may know of a physical database: the logical name of a tenant's own,
// the name itself of any other, and hidden for those that no client may learn of.
func (t *Table) Logical(physical string) (name string, hidden bool) {
	lower := strings.ToLower(physical)
	if l, ok := t.physical[lower]; ok {
		return l, false
	}
	if t.byName.find([]byte(physical)) != nil {
		return physical, false
	}
	return physical, t.secret(lower) || t.hideOthers
}

// secret reports whether a lower-case name is the control database's or could be a tenant's.
func (t *Table) secret(lower string) bool {
	if t.control != "" && lower == strings.ToLower(t.control) {
		return true
	}
	if _, ok := t.physical[lower]; ok {
		return true
	}
	if !t.isolating {
		return false
	}
	for _, db := range t.databases {
		if len(lower) > len(db.prefix)+len(db.suffix) &&
			strings.HasPrefix(lower, strings.ToLower(db.prefix)) && strings.HasSuffix(lower, strings.ToLower(db.suffix)) {
			return true
		}
	}
	return false
}
