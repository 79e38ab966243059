package routing

import (
	"bytes"
	"slices"

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
	Hold                   // wait until the tenant with value Held has been looked at or resumed, or Strange, then route again
	Forward                // to Target
	Scatter                // a read: to all Targets, replies merged by the row's kind
	Split                  // writes: each to where its documents are, see [Table.Plan]
	EachOf                 // to all Targets, replies merged by the row's kind
	FirstOf                // to Targets in order until one has an answer
	Clusters               // to every cluster
	AtCursor               // where the cursor is
	AtTxn                  // where the transaction is
	Follow                 // a change stream, see [Watch]
	Expand                 // what it stands for is to be routed, see [Expanded]
)

func (a Action) String() string {
	return [...]string{"refuse", "answer", "empty", "hold", "forward", "scatter", "split", "each", "first", "clusters", "cursor", "transaction", "follow", "expand"}[a]
}

// Decision is all that the proxy needs for one command; a later stage never asks an earlier one.
// It points into the table and the request.
type Decision struct {
	Action  Action
	Err     *wire.Error
	Target  *Target
	Targets []*Target
	Tenant  *Tenant // the one that the command names; nil for none, several, or one in no table
	Gives   bool    // its write may make documents of that tenant another one's
	Held    wire.Value
	Strange bool // it is held until what the shared databases hold has been read
	Coll    *Collection
	Watch   *Watch // of a change stream
	Alone   bool   // a view's definition: in shared, if no other target has a collection of the name
	// Expanded is what a read of a view stands for.
	Expanded *Expanded
	Scope
	Fit bool // what is sent differs from what came in more than names: see [Table.Fit]
	// Segments are the parts of a pipeline that no one database can run whole; nil for any other.
	Segments []Segment
	// Sorted is another way to run a pipeline of Segments, where servers tell by what they sort: see [Segment.Sort].
	Sorted *Segment
	Why    string // for people
}

// Route decides where the request goes. It is pure: the same table and request give the same
// decision.
func (t *Table) Route(r *Request) (d Decision) {
	if err := t.route(r, &d); err != nil {
		return Decision{Action: Refuse, Err: r.Refusal(err)}
	}
	return d
}

// Refusal is the error as the command is to be answered with. Of a write Node's driver takes every error with
// 20 for a storage engine without retryable writes, and says that in the place of its text: so to what may be
// one, and to all that carries a txnNumber, what is not offered is not supported.
func (r *Request) Refusal(err *wire.Error) *wire.Error {
	if err == nil || err.Code != wire.IllegalOperation || err.Reply != nil {
		return err
	}
	if _, numbered := r.TxnNumber(); !numbered && !r.Writes() && !r.explainsWrite() {
		return err
	}
	other := *err
	other.Code = wire.CommandNotSupported
	return &other
}

// explainsWrite reports whether the command asks for a write's plan.
func (r *Request) explainsWrite() bool {
	if r.Cmd.Tenant.Kind != InInner {
		return false
	}
	in, err := r.inner()
	return err == nil && in.Writes()
}

// route is Route into d, which is the zero value: so it is for all that decide, but for what those who call them have
// decided before. Of what one who refuses leaves there nothing counts.
func (t *Table) route(r *Request, d *Decision) *wire.Error {
	if name := r.betweenServers(); name != nil {
		return wire.Errorf(wire.Unauthorized, "field %q belongs between servers; leave it out", name)
	}
	if r.Bound != nil {
		return t.routeBound(r, d)
	}
	db := t.byName.find(r.DB)
	if db == nil && t.hidden(r.DB) {
		return t.nowhere(r, d)
	}
	touched, err := t.touches(r, db)
	if err != nil {
		return err
	}
	if r.strangers && !r.Looked && (r.Cmd.Route == ByTenant || r.Cmd.Views) {
		*d = Decision{Action: Hold, Strange: true, Why: "it names what may be a new view"}
		return nil
	}
	if t.passes(r, db, touched) {
		*d = Decision{Action: Forward, Target: t.plainTarget(db), Fit: t.plainWatch(r) != nil, Why: "no route touches it"}
		return nil
	}
	if r.Cmd == nil {
		return wire.Errorf(wire.CommandNotFound, "no such command: %q", r.Name)
	}
	if r.unknown != nil && r.Cmd.Plain && r.Cmd.Route != Refused && !r.Cmd.Filters {
		return wire.Errorf(wire.UnknownField, "field %q of %s is unknown", r.unknown, r.Cmd.Name)
	}
	return t.byRow(r, db, d)
}

// passes reports whether a command goes to the home cluster whatever its documents say.
func (t *Table) passes(r *Request, db *Database, touched bool) bool {
	return !touched && (r.Cmd == nil || r.Cmd.Plain && !(r.Cmd.Users && r.LogsIn)) && !t.narrows(r, db)
}

// Unread decides for an insert whose documents have not been read: false where they would have to be.
func (t *Table) Unread(r *Request) (Decision, bool) {
	if r.intern != nil || r.unknown != nil || r.Bound != nil || r.index[fDocuments] != 0 {
		return Decision{}, false
	}
	db := t.byName.find(r.DB)
	if db == nil && t.hidden(r.DB) {
		return Decision{}, false
	}
	touched, err := t.touches(r, db)
	if err != nil || !t.passes(r, db, touched) {
		return Decision{}, false
	}
	return Decision{Action: Forward, Target: t.plainTarget(db), Why: "no route touches it"}, true
}

// narrows reports whether a command that no route touches names a tenant in its comment: it is to
// match that tenant's documents alone, here as after they have moved.
func (t *Table) narrows(r *Request, db *Database) bool {
	if r.index[fComment] == 0 || !t.isolating || r.Cmd == nil || r.Cmd.Route != ByTenant {
		return false
	}
	_, ok := r.said()
	if r.Cmd.Tenant.Kind == InBulkOps {
		return ok && slices.ContainsFunc(t.bulkNames(r), func(n bulkName) bool { return n.coll != nil && n.coll.Tenant })
	}
	return ok && db != nil && r.Value.Type == bsoncore.TypeString && db.collection(r.Coll()).Tenant
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
func (t *Table) nowhere(r *Request, d *Decision) *wire.Error {
	if r.Cmd != nil && r.Cmd.Access == None {
		return t.byRow(r, nil, d)
	}
	if r.Cmd != nil && r.Cmd.Access == Read && r.Cmd.Route != Refused && !r.Writes() {
		*d = Decision{Action: Empty, Why: "clients can not name this database"}
		return nil
	}
	return wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", r.DB)
}

// byRow follows the command's row.
func (t *Table) byRow(r *Request, db *Database, d *Decision) *wire.Error {
	c := r.Cmd
	switch {
	case len(c.Names) > 0 && c.Names[0].Kind == FullNS:
		_ = r.places(c.Names[0], func(p *Place) *wire.Error { // it has been looked at by touches
			if db = t.byName.find(p.DB); db != nil {
				d.Coll = db.collection(p.Coll)
			}
			return nil
		})
	case db != nil && r.Value.Type == bsoncore.TypeString:
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
		return wire.Errorf(c.Refuse.Code, "%s: %s", c.Name, c.Refuse.Text)
	}
	return nil
}

// onHolders sends a definition to every database that holds the collection.
func (t *Table) onHolders(r *Request, db *Database, d *Decision) *wire.Error {
	if r.Cmd.Access == DDL {
		if tn := t.pausedFor(r); tn != nil {
			*d = Decision{Action: Hold, Held: tn.ID, Tenant: tn, Why: "a tenant is paused"}
			return nil
		}
	}
	if r.Cmd.Drops && !t.allowDrop {
		return wire.Errorf(wire.IllegalOperation,
			"%s would drop the databases of every tenant; set allow_drop_database = true in [routing] where that is meant", r.Cmd.Name)
	}
	if db == nil {
		d.Action, d.Target = Forward, t.HomeAny
		return nil
	}
	d.Action, d.Targets = EachOf, db.holders
	if d.Coll != nil {
		d.Targets = d.Coll.holders
	}
	d.Alone = r.definesView()
	if r.Cmd.Route == FirstHolder {
		d.Action = FirstOf
	}
	if len(d.Targets) == 1 {
		d.Action, d.Target = Forward, d.Targets[0]
	}
	return nil
}

// definesView reports whether the command says what a view is.
func (r *Request) definesView() bool {
	return r.Cmd.Views && (r.index[fViewOn] != 0 || r.index[fPipeline] != 0)
}

// Redefines reports whether the command may change which views there are, or what they are, or how a collection
// compares strings: then these have to be read again before the next command.
func (t *Table) Redefines(r *Request) bool {
	if r.Cmd == nil || !r.Cmd.Views || r.Bound != nil || !t.isolating {
		return false
	}
	db := t.byName.find(r.DB)
	if db == nil {
		return false
	}
	c := db.collection(r.Coll())
	return r.definesView() || r.index[fCollation] != 0 || c.view != nil || r.Value.Type != bsoncore.TypeString
}

// homes collects where the parts of a command belong.
type homes struct {
	t       *Table
	coll    *Collection
	asked   []wire.Value // in no entry, and have been looked for
	begun   []uint32     // see [Request.Begun]
	target  *Target
	several bool
	unknown bool             // some part names no tenant for certain
	nobody  bool             // and one of these none at all
	near    map[*Target]bool // where the documents of the others may be
	many    bool             // some such part may change many documents
	shared  bool             // documents without a tenant are asked for
	tenant  *Tenant
	tenants int
	held    wire.Value
	holds   bool
	apart   bool       // a pipeline's collections are not all where it begins
	mixed   bool       // a $unionWith has brought documents that are not the tenant's
	gives   bool       // some write may make a tenant's document another one's
	guard   bool       // some write may change the tenant field or make a document
	fit     bool       // something is sent otherwise than it came
	only    wire.Value // the comment's tenant, where the filters do not say as much themselves
	bad     *wire.Error
	last    wire.Value // of a batch, documents of one tenant follow each other
}

// note takes in a value of the tenant field; null stands for documents without one.
func (h *homes) note(v wire.Value) *Tenant {
	tn := h.t.byValue.find(v)
	if tn == nil && h.t.lookUp && scalar(v) && !h.hasAsked(v) || tn.waits(h.begun) {
		if !h.holds {
			h.holds, h.held = true, v
		}
	}
	return tn
}

// waits reports whether a command that names the tenant waits, where it does not go on with those of
// begun. t may be nil.
func (t *Tenant) waits(begun []uint32) bool {
	return t != nil && (t.Look || t.Paused) && !slices.Contains(begun, t.Num)
}

// Waits reports whether the request waits with the tenant's commands; tn may be nil.
func (r *Request) Waits(tn *Tenant) bool { return tn.waits(r.Begun) }

// pausedFor is a tenant whose pause the request waits for where it is of every tenant; nil for none.
func (t *Table) pausedFor(r *Request) *Tenant {
	if t.paused == nil || r.Waits(t.paused) {
		return t.paused
	}
	for _, tn := range t.tenants {
		if tn.Paused && r.Waits(tn) {
			return tn
		}
	}
	return nil
}

func (h *homes) hasAsked(v wire.Value) bool {
	return slices.ContainsFunc(h.asked, func(a wire.Value) bool { return SameValue(a, v) })
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
		h.asks(s)
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

// asks notes a part of which is not known whose documents it concerns.
func (h *homes) asks(s *tenantSet) {
	h.unknown = true
	if !s.alike {
		h.nobody = true
		return
	}
	for i := range s.n {
		if v := s.at(i); !null(v) {
			h.note(v)
		}
	}
	if h.near == nil {
		h.near = map[*Target]bool{}
	}
	for _, x := range h.t.near(h.coll, s) {
		h.near[x] = true
	}
}

// holders are the databases that such parts concern.
func (h *homes) holders() []*Target {
	if h.nobody {
		return h.t.holders(h.coll)
	}
	return h.coll.these(h.near)
}

// extractor is for what the request itself says of the collection's tenants.
func (h *homes) extractor(r *Request, x *extractor) {
	x.of(r, h.coll, h.coll.db.collation(r.Coll(), r.value(fCollation)))
}

// of makes it one for a filter or pipeline of the request, under a collation; x is the zero value.
func (x *extractor) of(r *Request, c *Collection, collation wire.Value) {
	x.field, x.equality = &c.field, equalityOf(collation)
	if let, ok := r.value(fLet).Doc(); ok {
		x.let = let
		_, x.rebound = let.Lookup("CURRENT")
	}
}

func (t *Table) byTenant(r *Request, db *Database, d *Decision) *wire.Error {
	if r.Cmd.Tenant.Kind == InInner {
		return t.explain(r, db, d)
	}
	if r.Cmd.Tenant.Kind == InBulkOps {
		return t.bulk(r, d)
	}
	if d.Coll == nil && r.Watches() {
		return t.watch(r, db, d)
	}
	if db == nil || d.Coll == nil {
		row := stages[string(r.firstStage())]
		switch {
		case row == nil:
		case row.Class == Info && r.Operations() && string(r.DB) == "admin":
			d.Action = Clusters
			return nil
		case row.Class == Info:
			return wire.Errorf(wire.CommandNotSupported, "%s is not offered by a router of tenants: it tells what servers do for all of them", row.Name)
		case row.Class == Source && db != nil:
			return t.ofDocuments(r, db, d)
		}
		if r.Cmd.Refuse.Code == 0 {
			return wire.Errorf(wire.InvalidNamespace, "%s: the name of the collection is no string", r.Cmd.Name)
		}
		return wire.Errorf(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
	}
	if name := r.Coll(); bytes.HasPrefix(name, []byte("system.")) {
		return wire.Errorf(wire.IllegalOperation, "%q holds what every tenant does and is not offered while tenants have databases of their own", name)
	}
	if r.index[fUUID] != 0 || r.index[fEncryption] != 0 {
		return wire.Errorf(wire.InvalidNamespace, "a collection must be named, and not by UUID or encryption state")
	}
	if d.Coll.over && r.Cmd.View == nil {
		return onView(db, r.Coll())
	}
	if r.Cmd.View != nil && (d.Coll.over || r.readsViews(db)) {
		return t.expand(r, db, d)
	}
	if r.Watches() {
		return t.watch(r, db, d)
	}
	var h homes
	h.t, h.coll, h.asked, h.begun = t, d.Coll, r.Unlisted, r.Begun
	err := t.collect(r, &h)
	if err == nil {
		err = t.conclude(r, &h, d)
	}
	if err == nil && d.Action == Forward {
		err = t.outputs(r, db, d.Target)
	}
	return err
}

// ofDocuments decides for a pipeline of no collection, which begins with documents of its own. It is
// shared's where all that it reads beside them is.
func (t *Table) ofDocuments(r *Request, db *Database, d *Decision) *wire.Error {
	h := homes{t: t, coll: &Collection{db: db}, target: db.shared, unknown: true}
	if err := t.stageHomes(r, &h, byLetters); err != nil {
		return err
	}
	if h.apart {
		return wire.Errorf(r.Cmd.Refuse.Code, "$documents joined with a collection whose tenants have databases of their own is not offered; begin with the collection")
	}
	d.Action, d.Target, d.Why = Forward, db.shared, "it reads no tenant's documents"
	return nil
}

// outputs refuses what would write the result of a command at the target where it would be missed.
func (t *Table) outputs(r *Request, db *Database, target *Target) *wire.Error {
	for _, n := range r.Cmd.Names {
		if n.Kind != OutputColl {
			continue
		}
		if c, named, err := t.output(r, db, n); err != nil {
			return err
		} else if named && (c == nil || !c.takes(target)) {
			return wire.Errorf(wire.IllegalOperation,
				"%s into a collection is offered for documents of shared, and into a platform collection; ask for { inline: 1 }", r.Cmd.Name)
		}
	}
	return nil
}

// takes reports whether what is made of documents at the target can be written into the collection there.
func (c *Collection) takes(target *Target) bool { return !c.touched() && target == c.db.shared }

// bulk decides for a bulkWrite that some route touches: each of its writes goes to where its documents
// are.
func (t *Table) bulk(r *Request, d *Decision) *wire.Error {
	if err := r.once(); err != nil {
		return err
	}
	all, ok := t.Ops(r, nil)
	if !ok || len(all) == 0 {
		d.Action, d.Target, d.Why = Forward, t.HomeAny, "a server is to say what is wrong with it"
		return nil
	}
	for i := range all {
		op := &all[i]
		if op.Coll == nil || op.Coll.over || !op.Coll.touched() { // as a single write to it passes
			continue
		}
		h := homes{t: t, coll: op.Coll, asked: r.Unlisted, begun: r.Begun}
		if op.inserts() {
			if v, err := t.documentSays(op.Coll, op.doc); err == nil {
				h.value(v)
			}
		} else {
			t.collectOp(r, &h, op)
		}
		if h.holds {
			d.hold(t, h.held, op.Coll)
			return nil
		}
		if !h.unknown {
			continue
		}
		if err := t.everywhere(r, &h); err != nil {
			return err
		}
		if tn := t.pausedFor(r); tn != nil && h.many {
			d.hold(t, tn.ID, op.Coll)
			return nil
		}
	}
	d.Action, d.Targets, d.Why = Split, []*Target{t.HomeAny}, "each write goes to where its documents are"
	return nil
}

// collect reads the tenants that the command names.
func (t *Table) collect(r *Request, h *homes) *wire.Error {
	switch r.Cmd.Tenant.Kind {
	case InFilter:
		var s tenantSet
		t.filterSays(r, h, &s)
		h.set(&s)
	case InStages:
		return t.collectStages(r, h)
	case InDocuments:
		return t.collectDocuments(r, h)
	case InUpdates, InDeletes, InFindAndModify:
		var o ops
		o.of(r)
		for o.next() {
			if !o.op.complete() {
				return wire.Errorf(wire.FailedToParse, "a write of the batch lacks a field that it needs: an update q and u, a delete q and limit")
			}
			o.op.of(h.coll, r.Coll())
			t.collectOp(r, h, &o.op)
		}
		return o.once()
	}
	return nil
}

// once refuses a write that has a field twice: two readers could see different ones.
func (o *ops) once() *wire.Error {
	if o.bad {
		return wire.Errorf(wire.DuplicateField, "a write of the batch has a field twice; send it once")
	}
	return nil
}

// once is [ops.once] for all writes of the request.
func (r *Request) once() *wire.Error {
	var o ops
	o.of(r)
	for o.next() {
	}
	return o.once()
}

// filterSays is what a read's filter and comment say about its tenants.
func (t *Table) filterSays(r *Request, h *homes, s *tenantSet) {
	var x extractor
	h.extractor(r, &x)
	q, _ := r.value(r.Cmd.Tenant.Path).Doc()
	x.filter(s, q, 0)
	h.comment(r, s)
}

// comment narrows the set to the tenant that the command's comment names. Where the filter says no
// less itself, nothing has to be added to it.
func (h *homes) comment(r *Request, s *tenantSet) {
	v, ok := r.said()
	if !ok || s.known && s.n == 1 && SameValue(s.at(0), v) {
		return
	}
	one := tenantSet{known: true}
	one.add(v)
	s.and(&one)
	h.only, h.fit = v, true
}

func (t *Table) collectDocuments(r *Request, h *homes) *wire.Error {
	var batch docs
	batch.of(r, r.Cmd.Tenant.Path)
	for batch.next() {
		v, err := t.documentSays(h.coll, batch.doc)
		if err != nil {
			h.bad = err
			continue
		}
		h.value(v)
	}
	if !batch.ok && h.target == nil {
		h.target = h.coll.db.shared // no documents; the server says what is wrong
	}
	return nil
}

// documentSays is the tenant of a document to be inserted; null for one without.
func (t *Table) documentSays(c *Collection, d wire.Doc) (wire.Value, *wire.Error) {
	v, found, err := c.field.documentTenant(d)
	switch {
	case err != nil:
		return v, err
	case found && !scalar(v):
		return v, wire.Errorf(wire.BadValue, "the tenant field %q must hold one plain value", c.field.name)
	case found:
		return v, nil
	case t.requireT:
		return v, wire.Errorf(wire.ShardKeyNotFound, "a document lacks the tenant field %q", c.field.name)
	}
	return wire.Value{Type: bsoncore.TypeNull}, nil
}

func (t *Table) collectOp(r *Request, h *homes, op *Op) {
	c := h.coll
	s := t.opSays(r, h, op)
	if op.Upsert && (!s.known || s.n == 0) && !r.byID(op) {
		if v, ok := c.field.upsertTenant(op.Update); ok {
			h.note(v)
		}
	}
	h.set(&s)
	h.many = h.many || !s.known && op.Many
	h.fit = h.fit || formOf(op.Update) == pipelineUpdate
	kept, given := false, false
	changes := c.field.changes(op.Update, func(v wire.Value) {
		h.note(v)
		same := s.known && s.n == 1 && SameValue(s.at(0), v)
		kept, given = kept || same, given || !same
	})
	h.guard = h.guard || changes || op.Upsert
	h.gives = h.gives || changes && (given || !kept)
}

// opSays is what a write's filter and the command's comment say about its tenants.
func (t *Table) opSays(r *Request, h *homes, op *Op) (s tenantSet) {
	var x extractor
	x.of(r, h.coll, op.Collation)
	x.filter(&s, op.Filter, 0)
	h.comment(r, &s)
	return s
}

// byID reports whether a write selects documents by _id and changes one at most. Under a collation
// one _id may be that of several documents.
func (r *Request) byID(op *Op) bool {
	if op.Many || !simple(op.Collation) {
		return false
	}
	_, ok := IDs(op.Filter)
	return ok
}

// conclude makes the decision of what was collected.
func (t *Table) conclude(r *Request, h *homes, d *Decision) *wire.Error {
	if h.holds {
		d.hold(t, h.held, d.Coll)
		return nil
	}
	d.Fit = h.fit
	if h.only.Type != 0 {
		d.Only = []wire.Value{h.only}
	}
	if h.several || h.unknown || h.bad != nil {
		return t.spread(r, h, d)
	}
	if h.apart {
		d.Targets, d.Why = []*Target{h.target}, "it reads collections of several databases"
		return t.spreadStages(r, h, d)
	}
	d.Action, d.Target, d.Why = Forward, h.target, "the tenant it names"
	if h.target == nil {
		d.Target = d.Coll.db.shared
	}
	if h.tenants == 1 {
		d.Tenant, d.Gives = h.tenant, h.gives
	}
	if h.guard && t.guarded(r, d.Coll, d.Target) != nil {
		d.Action, d.Targets = Split, []*Target{d.Target} // the others of its batch go on
	}
	return nil
}

// hold has the command wait for the tenant with the value.
func (d *Decision) hold(t *Table, v wire.Value, c *Collection) {
	*d = Decision{Action: Hold, Held: v, Tenant: t.byValue.find(v), Coll: c, Why: "the tenant's route is not settled"}
}

// spread decides for a command that no single home can serve.
func (t *Table) spread(r *Request, h *homes, d *Decision) *wire.Error {
	c := d.Coll
	d.Targets, d.Why = t.holders(c), "it names tenants whose databases differ"
	if h.unknown {
		d.Open, d.Targets, d.Why = true, h.holders(), "it names no tenant"
		if !h.nobody {
			d.Why = "it names a tenant by a collation, under which others may be equal"
		}
		if err := t.everywhere(r, h); err != nil {
			return err
		}
		if tn := t.pausedFor(r); tn != nil && h.many {
			d.hold(t, tn.ID, c) // it is of every tenant
			return nil
		}
	}
	switch r.Cmd.Tenant.Kind {
	case InFilter:
		return t.spreadRead(r, h, d)
	case InDocuments, InUpdates, InDeletes, InFindAndModify:
		t.spreadWrite(h, d)
		return nil
	case InStages:
		return t.spreadStages(r, h, d)
	}
	return wire.Errorf(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
}

// everywhere refuses a command that concerns every holder of the collection where that is not
// wanted.
func (t *Table) everywhere(r *Request, h *homes) *wire.Error {
	switch n := len(h.holders()); {
	case !h.coll.touched():
	case !h.nobody && (t.maxScatter == 0 || n <= t.maxScatter):
	case t.without == Reject:
		return wire.Errorf(wire.IllegalOperation, "%s names no tenant, which without_tenant = \"reject\" does not allow; %s", r.Cmd.Name, addTenant)
	case t.maxScatter > 0 && n > t.maxScatter:
		return wire.Errorf(wire.IllegalOperation, "%s would ask %d databases, more than max_scatter_targets; %s", r.Cmd.Name, n, addTenant)
	}
	return nil
}

// holders are the databases that a command without a tenant concerns.
func (t *Table) holders(c *Collection) []*Target {
	if t.without == ToShared {
		return c.holders[:1]
	}
	return c.holders
}

func (t *Table) spreadRead(r *Request, h *homes, d *Decision) *wire.Error {
	if !h.unknown {
		var s tenantSet
		t.filterSays(r, h, &s)
		d.Only = s.values()
		d.Targets = t.homesOf(d.Coll, d.Only)
	}
	d.Fit = d.Fit || d.Only != nil || d.Coll.left()
	if len(d.Targets) == 1 {
		d.Action, d.Target, d.Targets = Forward, d.Targets[0], nil
		return nil
	}
	if r.Cmd.Merge == MergeDistinct && t.Collated(r) {
		return t.standsFor(r, d, "only a server can tell which values are equal under the collation")
	}
	if r.Cmd.Merge == MergeNone {
		return wire.Errorf(r.Cmd.Refuse.Code, "%s: %s", r.Cmd.Name, r.Cmd.Refuse.Text)
	}
	if err := r.mergeable(); err != nil {
		return err
	}
	d.Action = Scatter
	return nil
}

// spreadWrite decides for writes. What all goes to shared as it came needs no splitting.
func (t *Table) spreadWrite(h *homes, d *Decision) {
	shared := d.Coll.db.shared
	if len(d.Targets) == 1 && h.bad == nil && !h.guard && (h.target == nil || h.target == shared && !h.several) {
		d.Action, d.Target, d.Targets = Forward, shared, nil
		d.Fit = d.Fit || d.Coll.left()
		return
	}
	d.Action = Split
}

// spreadStages decides for a pipeline that names no tenant or several, or whose collections have
// several homes.
func (t *Table) spreadStages(r *Request, h *homes, d *Decision) *wire.Error {
	own := *h // planning keeps it, and h is of every command's stack
	segments, err := t.segments(r, &own, r.Coll(), r.value(fPipeline), true)
	switch {
	case err != nil:
		return err
	case own.holds:
		d.hold(t, own.held, d.Coll)
		return nil
	}
	first := &segments[0]
	if h.tenants == 1 && !h.unknown {
		d.Tenant = h.tenant
	}
	if d.Scope = first.scope; len(segments) == 1 && len(first.Targets) == 1 {
		d.Action, d.Target, d.Targets = Forward, first.Targets[0], nil
		d.Fit = d.Fit || d.Only != nil || d.Open && d.Coll.left()
		return nil
	}
	d.Action, d.Targets, d.Segments, d.Sorted = Scatter, first.Targets, segments, inOrder(first, r.value(fPipeline))
	return nil
}

// homesOf are the homes of the tenants with these values, in the order of the holders.
func (t *Table) homesOf(c *Collection, values []wire.Value) []*Target {
	at := map[*Target]bool{}
	for _, v := range values {
		at[t.byValue.find(v).home(c)] = true
	}
	return c.these(at)
}

// mergeable refuses what no merging of several databases' answers can give.
func (r *Request) mergeable() *wire.Error {
	if r.Cmd.Merge != MergeCursor {
		return nil
	}
	for _, id := range []fieldID{fTailable, fAwaitData, fReturnKey} {
		if r.value(id).True() {
			return wire.Errorf(wire.InvalidOptions, "%s is not possible over the databases of several tenants; %s", fieldNames[id], addTenant)
		}
	}
	q, _ := r.value(fFilter).Doc()
	if near(q, 0) {
		return wire.Errorf(wire.IllegalOperation,
			"$near orders by a distance that nobody can ask for, so the databases of several tenants can not be merged by it; use $geoNear or %s", addTenant)
	}
	return nil
}

// near reports whether a filter sorts by distance.
func near(q wire.Doc, depth int) bool {
	for it := q.Iter(); it.Next() && depth < 64; {
		if string(it.Key) == "$near" || string(it.Key) == "$nearSphere" {
			return true
		}
		if sub, ok := it.Value.AnyDoc(); ok && near(sub, depth+1) {
			return true
		}
	}
	return false
}

// Upserted is the tenant of the document that an upsert makes whose filter names none.
func (c *Collection) Upserted(op *Op) (wire.Value, *wire.Error) {
	if v, ok := c.field.upsertTenant(op.Update); ok {
		return v, nil
	}
	x := extractor{field: &c.field}
	var given tenantSet
	x.equalities(op.Filter, 0, func(v wire.Value) { given.add(v) })
	if given.n == 1 && scalar(given.at(0)) { // which servers copy
		return given.at(0), nil
	}
	return wire.Value{}, wire.Errorf(wire.ShardKeyNotFound,
		"the upsert finds no document and says no tenant for a new one; add the tenant field %q to the filter or to $setOnInsert, "+
			"or list the collection in [platform] where its documents belong to no tenant", c.field.name)
}

// TenantOf is the value of the tenant field of a stored document of the collection; null where it
// lacks it.
func (c *Collection) TenantOf(doc wire.Doc) wire.Value {
	if v, found, err := c.field.documentTenant(doc); err == nil && found && scalar(v) {
		return v
	}
	return wire.Value{Type: bsoncore.TypeNull}
}

// Home is the one database that owns the documents of the collection with the value of the tenant
// field.
func (t *Table) Home(c *Collection, v wire.Value) *Target { return t.byValue.find(v).home(c) }

// Field is the collection's tenant field.
func (c *Collection) Field() string { return c.field.name }

// Database is the name of the collection's logical database.
func (c *Collection) Database() string { return c.db.Name }

// collectStages reads a pipeline: which tenants it sees, and whether all that it names has the
// same home. A join follows the tenant: the foreign collection is read where that tenant's is.
func (t *Table) collectStages(r *Request, h *homes) *wire.Error {
	f, ok := r.field(fPipeline)
	if !ok { // which some servers take for an empty one, of one database then
		return wire.Errorf(wire.FailedToParse, "BSON field 'aggregate.pipeline' is missing but a required field")
	}
	var x extractor
	h.extractor(r, &x)
	var s tenantSet
	x.stages(&s, f.Value)
	h.comment(r, &s)
	h.set(&s)
	if h.several || h.unknown || h.holds {
		return nil
	}
	if h.target == nil {
		h.target = h.coll.db.shared
	}
	if h.only.Type != 0 {
		if row := stages[string(r.firstStage())]; row.fixed() && !t.narrowless(row, Scope{Only: []wire.Value{h.only}}, h.target) {
			return row.broad()
		}
	}
	return t.stageHomes(r, h, x.equality)
}

// stageHomes notes whether all that the stages of the request's pipeline name has the home where it begins.
func (t *Table) stageHomes(r *Request, h *homes, how equality) *wire.Error {
	uses, err := r.stages()
	for i := range uses {
		if err == nil && (i > 0 || !r.leads(&uses[i])) {
			err = t.stageHome(r, &uses[i], h, how)
		}
	}
	return err
}

// leads reports whether the first of the uses is the pipeline's first stage, and reads figures of the
// collection.
func (r *Request) leads(u *stageUse) bool {
	return u.row != nil && u.row.Class == Info && u.row.Over == Each && string(r.firstStage()) == string(u.name)
}

func (t *Table) stageHome(r *Request, u *stageUse, h *homes, how equality) *wire.Error {
	if u.row == nil {
		return nil // one target: the server knows it or says that it does not
	}
	switch u.row.Class {
	case Info, Change:
		return wire.Errorf(wire.IllegalOperation,
			"%s is not offered on a collection whose tenants have databases of their own", u.row.Name)
	case Output:
		return t.outputHome(r, u, h)
	case Join, Union:
		return h.joinHome(u, how)
	}
	return nil
}

// oneTenant reports whether the command concerns one tenant's documents, or none at all: then all
// that is joined is that tenant's too.
func (h *homes) oneTenant() bool { return !h.unknown && !h.shared && !h.mixed && h.tenants <= 1 }

// joinHome notes whether a collection that a stage reads is not where the pipeline begins.
func (h *homes) joinHome(u *stageUse, how equality) *wire.Error {
	c, err := h.coll.db.read(u)
	if err != nil || c == nil {
		return err
	}
	h.apart = h.apart || h.tenant.home(c) != h.target || c.touched() && !h.follows(u, c, how)
	h.mixed = h.mixed || u.row.Class == Union && !h.narrowed(u, c, how)
	return nil
}

// read is the collection that a stage reads; nil for none, as of a pipeline that begins with
// $documents.
func (db *Database) read(u *stageUse) (*Collection, *wire.Error) {
	switch {
	case u.row.Class != Join && u.row.Class != Union, u.coll == nil && u.spec.Type == bsoncore.TypeEmbeddedDocument:
		return nil, nil
	case u.coll == nil || u.db.DB != nil:
		return nil, wire.Errorf(wire.IllegalOperation, "%s must name its collection by a string", u.row.Name)
	}
	return db.collection(u.coll), nil
}

// follows reports whether what a stage reads of a tenant collection is the pipeline's own tenant's.
func (h *homes) follows(u *stageUse, c *Collection, how equality) bool {
	return h.oneTenant() && (u.row.Class != Union || h.narrowed(u, c, how))
}

// narrowed reports whether a $unionWith of a tenant collection is narrowed to the pipeline's own
// tenant. Without that it means every tenant's documents.
func (h *homes) narrowed(u *stageUse, c *Collection, how equality) bool {
	d, _ := u.spec.Doc()
	sub, _ := d.Lookup("pipeline")
	x := extractor{field: &c.field, equality: how}
	var s tenantSet
	x.stages(&s, sub)
	return s.known && s.n == 1 && h.t.byValue.find(s.at(0)) == h.tenant && h.tenant != nil
}

func (t *Table) outputHome(r *Request, u *stageUse, h *homes) *wire.Error {
	db := h.coll.db
	if u.db.DB != nil {
		if db = t.byName.find(u.db.DB); db == nil {
			return wire.Errorf(wire.IllegalOperation, "%s to another database is not offered on a collection whose tenants have databases of their own", u.row.Name)
		}
	}
	if c := db.collection(u.coll); !c.takes(h.target) && !h.merges(r, u, c) {
		return wire.Errorf(wire.IllegalOperation,
			"%s into %q is not offered: its documents would not be where the tenant's are; $merge those of one tenant with the tenant field in them "+
				"(as they have it, or by a last $set), or read them and write them by two commands", u.row.Name, u.coll)
	}
	return nil
}

// merges reports whether a $merge at the end of the pipeline of one tenant puts documents of that tenant alone into
// a collection of the same database: they have the field when they come, and it is theirs or one given to them.
func (h *homes) merges(r *Request, u *stageUse, c *Collection) bool {
	if string(u.name) != "$merge" || c.view != nil || !h.oneTenant() || h.tenant.home(c) != h.target || c.field.name != h.coll.field.name {
		return false
	}
	x := extractor{field: &c.field}
	has := true
	steps, err := stepsOf(r.value(fPipeline))
	for i := range steps {
		s := &steps[i]
		given, own := false, true
		names, _ := c.field.computes(s.name, s.spec, func(v wire.Value) { given, own = true, own && h.own(v) })
		switch {
		case s.row != nil && (s.row.Class == Output || s.row.Over == Bounds):
		case given:
			has = own && !names
		default:
			has = has && x.passes(s.name, s.spec, i == 0)
		}
	}
	spec, _ := u.spec.Doc()
	matched, _ := spec.Lookup("whenMatched")
	a, _ := matched.Array()
	for it := a.Iter(); it.Next(); {
		d, _ := it.Value.Doc()
		for s := d.Iter(); s.Next(); {
			names, whole := c.field.computes(s.Key, s.Value, func(v wire.Value) { has = has && h.own(v) })
			has = has && !names && !whole
		}
	}
	return has && err == nil
}

// own reports whether the value is one of the command's tenant.
func (h *homes) own(v wire.Value) bool {
	return h.tenant != nil && scalar(v) && h.t.byValue.find(v) == h.tenant
}
