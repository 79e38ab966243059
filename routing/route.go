package routing

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Action is what is to be done with a command.
type Action uint8

// Actions.
const (
	Refuse   Action = iota // answer with Err
	Answer                 // the proxy answers itself
	Empty                  // answer as for a database that does not exist
	Hold                   // wait until the tenant with value Held has been looked at or resumed, then route again
	Forward                // to Target
	ByID                   // to the one of Targets that has the documents the filter names by _id
	EachOf                 // to all Targets, replies merged by the row's kind
	FirstOf                // to Targets in order until one has an answer
	Clusters               // to every cluster
	AtCursor               // where the cursor is
	AtTxn                  // where the transaction is
)

func (a Action) String() string {
	return [...]string{"refuse", "answer", "empty", "hold", "forward", "by-id", "each", "first", "clusters", "cursor", "transaction"}[a]
}

// Decision is all that the proxy needs for one command; a later stage never asks an earlier one.
// It points into the table and the request.
type Decision struct {
	Action  Action
	Err     *wire.Error
	Target  *Target
	Targets []*Target
	Tenant  *Tenant // the one that the command names; nil for none, several, or one in no table
	Held    wire.Value
	Coll    *Collection
	Why     string // for people
}

func refuse(code wire.Code, format string, args ...any) Decision {
	return Decision{Action: Refuse, Err: wire.Errorf(code, format, args...)}
}

func refuseWith(err *wire.Error) Decision { return Decision{Action: Refuse, Err: err} }

// Route decides where the request goes. It is pure: the same table and request give the same
// decision.
func (t *Table) Route(r *Request) Decision {
	if r.intern != nil {
		return refuse(wire.Unauthorized, "field %q belongs between servers; leave it out", r.intern)
	}
	if r.Bound != nil {
		return t.routeBound(r)
	}
	db := t.byName[string(r.DB)]
	if db == nil && t.hidden(r.DB) {
		return t.nowhere(r)
	}
	touched, err := t.touches(r, db)
	if err != nil {
		return refuseWith(err)
	}
	if !touched && (r.Cmd == nil || r.Cmd.Plain) {
		return Decision{Action: Forward, Target: t.plainTarget(db), Why: "no route touches it"}
	}
	if r.Cmd == nil {
		return refuse(wire.CommandNotFound, "no such command: %q", r.Name)
	}
	if r.unknown != nil && r.Cmd.Plain {
		return refuse(wire.UnknownField, "field %q of %s is unknown", r.unknown, r.Cmd.Name)
	}
	return t.byRow(r, db)
}

func (t *Table) plainTarget(db *Database) *Target {
	if db != nil {
		return db.shared
	}
	return t.HomeAny
}

// hidden reports whether a client may not learn of the database.
func (t *Table) hidden(name []byte) bool {
	switch string(name) {
	case "admin", "config", "local", "$external":
		return false
	}
	_, hidden := t.Logical(string(name))
	if !hidden {
		_, hidden = t.physical[string(bytes.ToLower(name))]
	}
	return hidden
}

// nowhere answers a command on a database that does not exist for the client.
func (t *Table) nowhere(r *Request) Decision {
	if r.Cmd != nil && r.Cmd.Access == None {
		return t.byRow(r, nil)
	}
	if r.Cmd != nil && r.Cmd.Access == Read && r.Cmd.Route != Refused && !r.Writes() {
		return Decision{Action: Empty, Why: "clients can not name this database"}
	}
	return refuse(wire.InvalidNamespace, "the database %q can not be used", r.DB)
}

// byRow follows the command's row.
func (t *Table) byRow(r *Request, db *Database) Decision {
	c := r.Cmd
	d := Decision{}
	if db != nil && r.Value.Type == bsoncore.TypeString {
		d.Coll = db.collection(r.Coll())
	}
	switch c.Route {
	case Local:
		d.Action = Answer
	case Home, Shared:
		d.Action, d.Target = Forward, t.plainTarget(db)
	case EachCluster:
		d.Action = Clusters
	case ByCursor:
		d.Action = AtCursor
	case ByTxn:
		d.Action = AtTxn
	case EachHolder, FirstHolder:
		return t.onHolders(r, db, d)
	case ByTenant:
		return t.byTenant(r, db, d)
	case Refused:
		return refuse(c.Refuse.Code, "%s: %s", c.Name, c.Refuse.Text)
	}
	return d
}

// onHolders sends a definition to every database that holds the collection.
func (t *Table) onHolders(r *Request, db *Database, d Decision) Decision {
	if t.paused != nil && r.Cmd.Access == DDL {
		return Decision{Action: Hold, Held: t.paused.ID, Tenant: t.paused, Why: "a tenant is paused"}
	}
	if v := r.value(fViewOn); v.Type != 0 {
		return refuse(wire.IllegalOperation,
			"a view over a collection whose tenants have databases of their own is not offered")
	}
	if db == nil {
		d.Action, d.Target = Forward, t.HomeAny
		return d
	}
	d.Action, d.Targets = EachOf, db.holders
	if d.Coll != nil {
		d.Targets = d.Coll.holders
	}
	if r.Cmd.Route == FirstHolder {
		d.Action = FirstOf
	}
	if len(d.Targets) == 1 {
		d.Action, d.Target = Forward, d.Targets[0]
	}
	return d
}

// homes collects where the parts of a command belong.
type homes struct {
	t       *Table
	coll    *Collection
	asked   bool // values in no entry have been looked for
	target  *Target
	several bool
	unknown bool // some part names no tenant
	shared  bool // documents without a tenant are asked for
	tenant  *Tenant
	tenants int
	held    wire.Value
	holds   bool
	guard   bool       // some write may change the tenant field or make a document
	last    wire.Value // of a batch, documents of one tenant follow each other
}

// note takes in a value of the tenant field; null stands for documents without one.
func (h *homes) note(v wire.Value) *Tenant {
	tn := h.t.byValue.find(v)
	if tn == nil && h.t.lookUp && !h.asked && scalar(v) || tn != nil && (tn.Look || tn.Paused) {
		if !h.holds {
			h.holds, h.held = true, v
		}
	}
	return tn
}

func (h *homes) value(v wire.Value) {
	if h.last.Type != 0 && h.last.Equal(v) {
		return
	}
	h.last = v
	var tn *Tenant
	if null(v) {
		h.shared = true
	} else {
		tn = h.note(v)
	}
	if h.tenants == 0 || h.tenant != tn {
		h.tenants++
		h.tenant = tn
	}
	h.at(tn.home(h.coll))
}

func (h *homes) at(target *Target) {
	if h.target == nil {
		h.target = target
	} else if h.target != target {
		h.several = true
	}
}

func (h *homes) set(s *tenantSet) {
	switch {
	case !s.known:
		h.unknown = true
	case s.n == 0:
		if h.target == nil {
			h.target = h.coll.db.shared // nothing can match; the server still checks the command
		}
	default:
		for i := range s.n {
			h.value(s.at(i))
		}
	}
}

func (t *Table) extractor(r *Request, c *Collection, collation wire.Value) extractor {
	x := extractor{field: &c.field, exact: simple(collation)}
	if let, ok := r.value(fLet).Doc(); ok {
		x.let = let
		_, x.rebound = let.Lookup("CURRENT")
	}
	return x
}

// simple reports whether strings are compared as bytes.
func simple(collation wire.Value) bool {
	d, ok := collation.Doc()
	if !ok {
		return collation.Type == 0 || null(collation)
	}
	locale, _ := d.Lookup("locale")
	s, _ := locale.Str()
	return string(s) == "simple"
}

func (t *Table) byTenant(r *Request, db *Database, d Decision) Decision {
	if r.Cmd.Tenant.Kind == InInner {
		return t.explain(r, db)
	}
	if db == nil || r.Cmd.Tenant.Kind == InBulkOps || d.Coll == nil {
		return refuse(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
	}
	if name := r.Coll(); db.views[string(name)] {
		return refuse(wire.IllegalOperation, "reading a view while tenants have databases of their own is not offered; query the collection behind it")
	} else if bytes.HasPrefix(name, []byte("system.")) {
		return refuse(wire.IllegalOperation, "%q holds what every tenant does and is not offered while tenants have databases of their own", name)
	}
	if r.index[fUUID] != 0 || r.index[fEncryption] != 0 {
		return refuse(wire.InvalidNamespace, "a collection must be named, and not by UUID or encryption state")
	}
	h := homes{t: t, coll: d.Coll, asked: r.Unlisted}
	if err := t.collect(r, &h); err != nil {
		return refuseWith(err)
	}
	return t.conclude(r, &h, d)
}

// collect reads the tenants that the command names.
func (t *Table) collect(r *Request, h *homes) *wire.Error {
	c := h.coll
	switch r.Cmd.Tenant.Kind {
	case InFilter:
		x := t.extractor(r, c, r.value(fCollation))
		q, _ := r.value(r.Cmd.Tenant.Path).Doc()
		var s tenantSet
		x.filter(&s, q, 0)
		h.set(&s)
	case InStages:
		return t.collectStages(r, h)
	case InDocuments:
		return t.collectDocuments(r, h)
	case InUpdates, InDeletes, InFindAndModify:
		o := r.ops()
		for o.next() {
			t.collectOp(r, h, &o.op)
		}
		if o.bad {
			return wire.Errorf(wire.DuplicateField, "a write of the batch has a field twice; send it once")
		}
	}
	return nil
}

func (t *Table) collectDocuments(r *Request, h *homes) *wire.Error {
	f := &h.coll.field
	batch := r.docs(r.Cmd.Tenant.Path)
	for batch.next() {
		v, found, err := f.documentTenant(batch.doc)
		switch {
		case err != nil:
			return err
		case found && !scalar(v):
			return wire.Errorf(wire.BadValue, "the tenant field %q must hold one plain value", f.name)
		case found:
			h.value(v)
		case t.requireT:
			return wire.Errorf(wire.ShardKeyNotFound, "a document lacks the tenant field %q", f.name)
		default:
			h.value(wire.Value{Type: bsoncore.TypeNull})
		}
	}
	if !batch.ok && h.target == nil {
		h.target = h.coll.db.shared // no documents; the server says what is wrong
	}
	return nil
}

func (t *Table) collectOp(r *Request, h *homes, op *Op) {
	c := h.coll
	x := t.extractor(r, c, op.collation)
	var s tenantSet
	x.filter(&s, op.Filter, 0)
	if op.Upsert && (!s.known || s.n == 0) && !r.byID(op) {
		if v, ok := c.field.upsertTenant(op.Update); ok {
			s = tenantSet{}
			s.keep(v)
		}
	}
	h.set(&s)
	if c.field.changes(op.Update, func(v wire.Value) { h.note(v) }) || op.Upsert {
		h.guard = true
	}
}

// byID reports whether a write selects documents by _id and changes one at most. Under a collation
// one _id may be that of several documents.
func (r *Request) byID(op *Op) bool {
	if op.Many || !simple(op.collation) {
		return false
	}
	_, ok := IDs(op.Filter)
	return ok
}

// conclude makes the decision of what was collected.
func (t *Table) conclude(r *Request, h *homes, d Decision) Decision {
	if h.holds {
		return Decision{Action: Hold, Held: h.held, Tenant: t.byValue.find(h.held), Coll: d.Coll, Why: "the tenant's route is not settled"}
	}
	if h.several {
		return refuse(r.Cmd.Refuse.Code, "%s names tenants whose databases differ: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
	}
	if h.unknown {
		return t.withoutTenant(r, h, d)
	}
	d.Action, d.Target, d.Why = Forward, h.target, "the tenant it names"
	if h.target == nil {
		d.Target = d.Coll.db.shared
	}
	if h.tenants == 1 {
		d.Tenant = h.tenant
	}
	return t.guarded(r, h, d)
}

// guarded refuses a write that would leave a document where it does not belong.
func (t *Table) guarded(r *Request, h *homes, d Decision) Decision {
	if !h.guard {
		return d
	}
	if _, err := t.GuardTarget(r, d.Coll, d.Target); err != nil {
		return refuseWith(err)
	}
	return d
}

func (t *Table) withoutTenant(r *Request, h *homes, d Decision) Decision {
	holders := d.Coll.holders
	shared := d.Coll.db.shared
	if len(holders) == 1 || t.without == ToShared {
		if h.target != nil && h.target != shared {
			return refuse(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
		}
		d.Action, d.Target, d.Why = Forward, shared, "it names no tenant"
		return t.guarded(r, h, d)
	}
	if t.without == Reject {
		return refuse(wire.IllegalOperation, "%s names no tenant, which without_tenant = \"reject\" does not allow; %s", r.Cmd.Name, addTenant)
	}
	if !r.selectsByID(t, d.Coll) {
		return refuse(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
	}
	if t.maxScatter > 0 && len(holders) > t.maxScatter {
		return refuse(wire.IllegalOperation, "%s would ask %d databases, more than max_scatter_targets; %s", r.Cmd.Name, len(holders), addTenant)
	}
	d.Action, d.Targets, d.Target, d.Why = ByID, holders, h.target, "it names no tenant, but documents by _id"
	return d
}

// selectsByID reports whether a command without a tenant can be served by finding out where the
// documents are whose _id it names.
func (r *Request) selectsByID(t *Table, c *Collection) bool {
	switch r.Cmd.Tenant.Kind {
	case InFilter:
		if r.Cmd.Merge != MergeCursor || r.value(fTailable).True() || r.value(fReturnKey).True() || !simple(r.value(fCollation)) {
			return false
		}
		q, _ := r.value(r.Cmd.Tenant.Path).Doc()
		_, ok := IDs(q)
		return ok
	case InUpdates, InDeletes, InFindAndModify:
		o := r.ops()
		for o.next() {
			x := t.extractor(r, c, o.op.collation)
			var s tenantSet
			x.filter(&s, o.op.Filter, 0)
			if !s.known && !r.byID(&o.op) || formOf(o.op.Update) == pipelineUpdate {
				return false
			}
		}
		return o.docs.ok
	}
	return false
}

// UpsertHome is where a document goes that an upsert without a tenant in its filter makes.
func (t *Table) UpsertHome(c *Collection, op *Op) (*Target, *Tenant, *wire.Error) {
	v, ok := c.field.upsertTenant(op.Update)
	if !ok {
		return nil, nil, wire.Errorf(wire.ShardKeyNotFound,
			"the upsert finds no document and says no tenant for a new one; add the tenant field %q to the filter or to $setOnInsert", c.field.name)
	}
	tn := t.byValue.find(v)
	return tn.home(c), tn, nil
}

// TenantOf is the tenant that a document of the collection belongs to, and its home; nil and
// shared for a document without one, or of a tenant in no table.
func (t *Table) TenantOf(c *Collection, doc wire.Doc) (*Tenant, *Target) {
	v, found, err := c.field.documentTenant(doc)
	if err != nil || !found {
		return nil, c.db.shared
	}
	tn := t.byValue.find(v)
	return tn, tn.home(c)
}

// Field is the collection's tenant field.
func (c *Collection) Field() string { return c.field.name }

// Database is the name of the collection's logical database.
func (c *Collection) Database() string { return c.db.Name }

// collectStages reads a pipeline: which tenants it sees, and whether all that it names has the
// same home. A join follows the tenant: the foreign collection is read where that tenant's is.
func (t *Table) collectStages(r *Request, h *homes) *wire.Error {
	f, ok := r.field(fPipeline)
	if !ok {
		h.target = h.coll.db.shared
		return nil
	}
	x := t.extractor(r, h.coll, r.value(fCollation))
	var s tenantSet
	x.stages(&s, f.Value)
	h.set(&s)
	if h.several || h.holds {
		return nil
	}
	uses, err := r.stages()
	if h.unknown || h.shared {
		for i := range uses {
			if err := t.untouched(&uses[i], h); err != nil {
				return err
			}
		}
	}
	if err != nil || h.unknown {
		return err
	}
	if h.target == nil {
		h.target = h.coll.db.shared
	}
	for i := range uses {
		if err := t.stageHome(&uses[i], h, x.exact); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) stageHome(u *stageUse, h *homes, exact bool) *wire.Error {
	if u.row == nil {
		return nil // one target: the server knows it or says that it does not
	}
	switch u.row.Class {
	case Info, Change:
		return wire.Errorf(wire.IllegalOperation,
			"%s is not offered on a collection whose tenants have databases of their own", u.row.Name)
	case Output:
		return t.outputHome(u, h)
	case Join, Union:
		return t.joinHome(u, h, exact)
	}
	return nil
}

// untouched refuses a stage that reads or writes tenants' documents in a pipeline that names no
// tenant: in shared are not all of them.
func (t *Table) untouched(u *stageUse, h *homes) *wire.Error {
	if u.row == nil || u.coll == nil {
		return nil
	}
	db := h.coll.db
	if u.db.DB != nil {
		db = t.byName[string(u.db.DB)]
	}
	if db == nil || !db.collection(u.coll).touched() && !db.views[string(u.coll)] {
		return nil
	}
	return wire.Errorf(wire.IllegalOperation,
		"%s of %q concerns every tenant, and some have databases of their own; begin the pipeline with a $match of one tenant, or make two queries", u.row.Name, u.coll)
}

func (t *Table) joinHome(u *stageUse, h *homes, exact bool) *wire.Error {
	if u.coll == nil {
		if u.row.Class == Join && u.spec.Type == bsoncore.TypeEmbeddedDocument {
			return nil // no collection: a pipeline that begins with $documents
		}
		return wire.Errorf(wire.IllegalOperation, "%s must name its collection by a string", u.row.Name)
	}
	db := h.coll.db
	c := db.collection(u.coll)
	if db.views[string(u.coll)] {
		return wire.Errorf(wire.IllegalOperation, "%s of a view is not offered while tenants have databases of their own", u.row.Name)
	}
	if h.tenants > 1 && c.touched() {
		return wire.Errorf(wire.IllegalOperation, "%s of %q for several tenants is not offered; name one tenant", u.row.Name, u.coll)
	}
	if h.tenant.home(c) != h.target {
		return wire.Errorf(wire.IllegalOperation,
			"%s would join collections of different databases: %q of this tenant is not where the others are; read it by a second query", u.row.Name, u.coll)
	}
	if u.row.Class == Union && c.touched() {
		return t.unionTenant(u, h, c, exact)
	}
	return nil
}

// unionTenant checks that a $unionWith of a tenant collection is narrowed to the tenant itself:
// without that it means every tenant's documents.
func (t *Table) unionTenant(u *stageUse, h *homes, c *Collection, exact bool) *wire.Error {
	d, _ := u.spec.Doc()
	sub, _ := d.Lookup("pipeline")
	x := extractor{field: &c.field, exact: exact}
	var s tenantSet
	x.stages(&s, sub)
	if s.known && s.n == 1 && t.byValue.find(s.at(0)) == h.tenant && h.tenant != nil {
		return nil
	}
	return wire.Errorf(wire.IllegalOperation,
		"$unionWith of %q reads every tenant; begin its pipeline with a $match of the same tenant", u.coll)
}

func (t *Table) outputHome(u *stageUse, h *homes) *wire.Error {
	db := h.coll.db
	if u.db.DB != nil {
		if db = t.byName[string(u.db.DB)]; db == nil {
			return wire.Errorf(wire.IllegalOperation, "%s to another database is not offered on a collection whose tenants have databases of their own", u.row.Name)
		}
	}
	c := db.collection(u.coll)
	if c.touched() || h.target != db.shared {
		return wire.Errorf(wire.IllegalOperation,
			"%s into %q is not offered: its documents would not be where the tenant's are", u.row.Name, u.coll)
	}
	return nil
}
