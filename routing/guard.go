package routing

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Op is one write of a batch, or the one of a findAndModify.
type Op struct {
	Index     int
	Coll      *Collection // nil for one of no logical database
	Name      []byte      // the collection's
	Entry     wire.Doc    // of the batch: a document, or an update or delete with its options
	Filter    wire.Doc
	Update    wire.Value // zero for a delete and an insert
	Many      bool       // may change more than one document
	Upsert    bool
	Scope     // of the filter
	Located   // the document that it was found to be for
	Collation wire.Value
	Sort      wire.Value

	kind TenantKind // how the entry is written
	doc  wire.Doc   // to be inserted
	ns   int        // place of the namespace in a bulkWrite's list

	updates bool // an operation of a bulkWrite that is an update
}

// Located is what is known of the one document that a write is for.
type Located struct {
	ID     wire.Value // zero where the write's own filter says it, or nothing is known
	Tenant wire.Value // the tenant field's value, null where it lacks it; zero where nothing is known
	// Exists says that the write makes no document.
	Exists bool
	// Made says that nobody has the document: Tenant is what an upsert's update says of it.
	Made bool
	// Any leaves it to the home which of its documents is written to, as the write's own filter and sort have it.
	Any bool
	// None says that no document is to be written to: the write asks for what it has done before.
	None bool
}

// ops goes through the writes of a command.
type ops struct {
	op   Op
	docs docs
	kind TenantKind
	bad  bool // an entry has a field twice: two readers could see different writes
}

// of begins with the writes of a request; o is the zero value.
func (o *ops) of(r *Request) {
	o.kind = r.Cmd.Tenant.Kind
	switch o.kind {
	case InFindAndModify:
		o.op.kind = o.kind
		o.op.Filter, _ = r.value(fQuery).Doc()
		if !r.value(fRemove).True() {
			o.op.Update = r.value(fUpdate)
		}
		o.op.Upsert, o.op.Collation, o.op.Sort = r.value(fUpsert).True(), r.value(fCollation), r.value(fSort)
		o.docs.ok = true
	case InUpdates, InDeletes, InDocuments, InBulkOps:
		o.docs.of(r, r.Cmd.Tenant.Path)
	}
}

func (o *ops) next() bool {
	if o.kind == InFindAndModify {
		o.docs.n++
		return o.docs.n == 1
	}
	if !o.docs.next() {
		return false
	}
	o.op = Op{}
	o.op.Index, o.op.Entry, o.op.kind = o.docs.n-1, o.docs.doc, o.kind
	switch o.kind {
	case InDocuments:
		o.op.doc = o.docs.doc
	case InBulkOps:
		o.bad = !o.op.readBulk(o.docs.doc)
	default:
		o.bad = !o.op.read(o.docs.doc)
	}
	return !o.bad
}

// Ops are the command's writes; false where its batch is no array of whole writes, which a server is
// left to say. c is the collection that the command itself names, if it does.
func (t *Table) Ops(r *Request, c *Collection) ([]Op, bool) {
	var all []Op
	var o ops
	o.of(r)
	names := t.bulkNames(r)
	for o.next() {
		op := o.op
		if !op.in(names, c, r.Coll()) || !op.complete() {
			return nil, false
		}
		all = append(all, op)
	}
	return all, o.docs.ok && !o.bad
}

// in makes the write one to its collection: of a bulkWrite the one that it names among these, false where it
// names none; of any other command the command's own.
func (op *Op) in(names []bulkName, c *Collection, name []byte) bool {
	if op.kind == InBulkOps {
		if op.ns < 0 || op.ns >= len(names) {
			return false
		}
		c, name = names[op.ns].coll, names[op.ns].name
	}
	op.of(c, name)
	return true
}

// complete reports whether the write has all that servers ask of one; they refuse the whole command
// where one lacks something.
func (op *Op) complete() bool {
	switch {
	case op.kind == InFindAndModify || op.inserts():
		return true
	case op.Filter == nil:
		return false
	case op.kind == InDeletes:
		_, ok := op.Entry.Lookup("limit")
		return ok
	case op.kind == InUpdates || op.updates:
		return formOf(op.Update) != noUpdate
	}
	return op.kind == InBulkOps
}

// bulkName is a namespace of a bulkWrite.
type bulkName struct {
	coll *Collection // nil for one of no logical database
	name []byte
}

func (t *Table) bulkNames(r *Request) (names []bulkName) {
	if r.Cmd.Tenant.Kind != InBulkOps {
		return nil
	}
	_ = r.nsInfo(func(p *Place) *wire.Error { // it has been looked at by touches
		n := bulkName{name: p.Coll}
		if db := t.byName.find(p.DB); db != nil {
			n.coll = db.collection(p.Coll)
		}
		names = append(names, n)
		return nil
	})
	return names
}

// readBulk takes an operation of a bulkWrite apart; false where two readers could see different ones.
func (op *Op) readBulk(entry wire.Doc) bool {
	it := entry.Iter()
	if !it.Next() {
		return false
	}
	n, ok := it.Value.Int()
	if op.ns = int(n); !ok {
		op.ns = -1
	}
	op.updates = string(it.Key) == "update"
	seen := map[string]bool{}
	for it.Next() {
		key := string(it.Key)
		if seen[key] {
			return false
		}
		seen[key] = true
		switch key {
		case "document":
			op.doc, _ = it.Value.Doc()
		case "filter":
			op.Filter, _ = it.Value.Doc()
		case "updateMods":
			op.Update = it.Value
		case "multi":
			op.Many = it.Value.True()
		case "upsert":
			op.Upsert = it.Value.True()
		case "collation":
			op.Collation = it.Value
		case "sort":
			op.Sort = it.Value
		}
	}
	return it.Err() == nil
}

// SameColl reports whether both writes are to one collection.
func (op *Op) SameColl(o *Op) bool { return op.Coll == o.Coll && bytes.Equal(op.Name, o.Name) }

// Docs are the documents of an array field of the body, or of the document sequence with its name.
func (r *Request) Docs(name string) (all []wire.Doc) {
	var d docs
	d.of(r, idOf(name))
	for d.next() {
		all = append(all, d.doc)
	}
	return all
}

// inserts reports whether the write is an insert.
func (op *Op) inserts() bool { return op.doc != nil }

// read takes an entry of a batch apart; false where it has a field twice.
func (op *Op) read(entry wire.Doc) bool {
	var seen, field uint8
	it := entry.Iter()
	for it.Next() {
		switch string(it.Key) {
		case "q":
			field = 1
			op.Filter, _ = it.Value.Doc()
		case "u":
			field = 2
			op.Update = it.Value
		case "multi":
			field = 4
			op.Many = it.Value.True()
		case "limit":
			field = 8
			n, _ := it.Value.Int()
			op.Many = n != 1
		case "upsert":
			field = 16
			op.Upsert = it.Value.True()
		case "collation":
			field = 32
			op.Collation = it.Value
		case "sort":
			field = 64
			op.Sort = it.Value
		default:
			continue
		}
		if seen&field != 0 {
			return false
		}
		seen |= field
	}
	return true
}

// IDs are the _ids that a write of one document selects by; false where it selects otherwise, or by
// equality that a collation widens.
func (op *Op) IDs() ([]wire.Value, bool) {
	if op.Many {
		return nil, false
	}
	return op.SelectedIDs()
}

// updateForm is how an update is written.
type updateForm uint8

const (
	noUpdate updateForm = iota
	replacement
	operators
	pipelineUpdate
)

func formOf(u wire.Value) updateForm {
	if u.Type == bsoncore.TypeArray {
		return pipelineUpdate
	}
	d, ok := u.Doc()
	if !ok {
		return noUpdate
	}
	it := d.Iter()
	if it.Next() && len(it.Key) > 0 && it.Key[0] == '$' {
		return operators
	}
	return replacement
}

// upsertTenant is the tenant that the document made by an upsert gets from the update itself.
func (f *fieldPath) upsertTenant(u wire.Value) (tenant wire.Value, ok bool) {
	d, _ := u.Doc()
	switch formOf(u) {
	case replacement:
		v, found, err := f.documentTenant(d)
		return v, err == nil && found && scalar(v)
	case operators:
		for _, op := range []string{"$set", "$setOnInsert"} {
			v, _ := d.Lookup(op)
			sub, ok := v.Doc()
			if !ok {
				continue
			}
			for it := sub.Iter(); it.Next(); {
				if v, ok := f.given(it.Key, it.Value); ok && scalar(v) {
					return v, true
				}
			}
		}
	case pipelineUpdate: // by a literal in its first stage: whatever is behind it leaves the field alone, or gives others
		a, _ := u.Array()
		first, _ := a.Lookup("0")
		stage, _ := first.Doc()
		it := stage.Iter()
		if it.Next() {
			f.computes(it.Key, it.Value, func(v wire.Value) {
				if !ok && scalar(v) {
					tenant, ok = v, true
				}
			})
		}
	}
	return tenant, ok
}

// changes reports whether an update can change the tenant field or leave it out. Each value that
// it may give the field is yielded, since that tenant may have to be waited for.
func (f *fieldPath) changes(u wire.Value, yield func(wire.Value)) bool {
	switch formOf(u) {
	case noUpdate:
		return false
	case replacement:
		d, _ := u.Doc()
		if v, found, err := f.documentTenant(d); err == nil && found {
			yield(v)
		}
		return true
	case pipelineUpdate:
		a, _ := u.Array()
		for it := a.Iter(); it.Next(); {
			stage, _ := it.Value.Doc()
			for s := stage.Iter(); s.Next(); {
				f.computes(s.Key, s.Value, yield)
			}
		}
		return true
	}
	hit := false
	d, _ := u.Doc()
	it := d.Iter()
	for it.Next() {
		sub, ok := it.Value.Doc()
		if !ok {
			continue
		}
		hit = hit || string(it.Key) == "$rename"
		for s := sub.Iter(); s.Next(); {
			if f.touches(s.Key) {
				hit = true
				if v, ok := f.given(s.Key, s.Value); ok {
					yield(v)
				}
			}
		}
	}
	return hit
}

// Makes reports whether the write may make a document.
func (op *Op) Makes() bool { return op.Upsert || op.inserts() }

// Unsettles reports whether what is known of a document, that it is there and whose it is, may not hold
// any more after the write.
func (op *Op) Unsettles() bool {
	switch {
	case op.Coll == nil || op.inserts():
		return false
	case op.Update.Type == 0:
		return true // a delete
	}
	return op.Coll.field.changes(op.Update, func(wire.Value) {})
}

// Plan is where one write belongs. All of its targets get a write of many documents; of one that
// changes one document, one of them has the document.
type Plan struct {
	Targets []*Target
	Err     *wire.Error // why it can not be made at all
	// Bars are the further homes of a write of many documents at which it can not be made. It is made at the
	// targets where no document of these matches, and else fails with Barred.
	Bars   []*Target
	Barred *wire.Error
}

// Several reports whether the write concerns more than one home.
func (p *Plan) Several() bool { return len(p.Targets)+len(p.Bars) > 1 }

// Plan finds where a write of the request belongs, and sets its scope.
func (t *Table) Plan(r *Request, op *Op) Plan {
	c := op.Coll
	switch {
	case c == nil:
		return Plan{Targets: []*Target{t.HomeAny}}
	case !c.touched() && (!c.Tenant || op.inserts()): // no rule is about it
		return Plan{Targets: []*Target{c.db.shared}}
	}
	if c.over {
		return Plan{Targets: c.holders, Err: onView(c.db, op.Name)}
	}
	if op.inserts() {
		v, err := t.documentSays(c, op.doc)
		return Plan{Targets: []*Target{t.byValue.find(v).home(c)}, Err: err}
	}
	h := homes{t: t, coll: c}
	s := t.opSays(r, &h, op)
	if h.only.Type != 0 {
		op.Only = []wire.Value{h.only}
	}
	var p Plan
	switch {
	case s.alike:
		op.Open, p.Targets = true, t.near(c, &s)
	case !s.known:
		op.Open, p.Targets = true, t.holders(c)
	case s.n == 0:
		p.Targets = c.holders[:1]
	default:
		if p.Targets = t.homesOf(c, s.values()); len(p.Targets) > 1 {
			op.Only = s.values()
		}
	}
	if op.Many || len(p.Targets) == 1 {
		t.bar(r, op, &p)
	}
	return p
}

// bar finds out at which of the targets the write can be made. An update that sets the tenant field can be at
// one home: elsewhere it would move each document, and there it moves none.
func (t *Table) bar(r *Request, op *Op, p *Plan) {
	guarded := *op
	guarded.Exists = len(p.Targets) > 1 // an upsert first looks everywhere, and then chooses a home
	var open, bars []*Target
	var barred *wire.Error
	for _, x := range p.Targets {
		err := t.Guard(r, &guarded, x)
		if err == nil {
			open = append(open, x)
			continue
		}
		if bars = append(bars, x); barred == nil {
			barred = err
		}
	}
	switch {
	case barred == nil:
	case open == nil:
		p.Err = barred
	default:
		p.Targets, p.Bars, p.Barred = open, bars, barred
	}
}

// guarded checks all writes of the request against the one target that they go to.
func (t *Table) guarded(r *Request, c *Collection, target *Target) *wire.Error {
	var o ops
	o.of(r)
	for o.next() {
		o.op.of(c, r.Coll())
		if err := t.Guard(r, &o.op, target); err != nil {
			return err
		}
	}
	return nil
}

// Near reports whether the write is for the document that is nearest to a place, if nothing else sorts.
func (op *Op) Near() bool { return near(op.Filter, 0) }

// Guard checks that the write can leave no document in the target that is not its tenant's.
func (t *Table) Guard(r *Request, op *Op, target *Target) *wire.Error {
	c := op.Coll
	if c == nil || !c.touched() {
		return nil
	}
	d, _ := op.Update.Doc()
	guard := fieldGuard{t: t, c: c, target: target}
	switch formOf(op.Update) {
	case replacement:
		return guard.replacement(d)
	case operators:
		if err := guard.made(r, op, true); err != nil {
			return err
		}
		return guard.operators(d, op.Exists)
	case pipelineUpdate:
		if err := guard.made(r, op, false); err != nil {
			return err
		}
		return guard.pipeline(op.Update)
	}
	return nil
}

// pipeline refuses an update by a pipeline that computes the tenant field, or gives it a value that it may not
// have here. What it does to a document besides, a database of one tenant's own keeps the field through; see
// fitUpdate.
func (g *fieldGuard) pipeline(update wire.Value) (err *wire.Error) {
	a, _ := update.Array()
	for it := a.Iter(); it.Next() && err == nil; {
		d, _ := it.Value.Doc()
		for s := d.Iter(); s.Next() && err == nil; {
			names, whole := g.c.field.computes(s.Key, s.Value, func(v wire.Value) {
				if err == nil {
					err = g.value(v)
				}
			})
			if names || whole && g.target.Tenant == nil {
				return wire.Errorf(wire.ImmutableField, "%s would compute the tenant field %q of a document; use update operators that leave it alone, or $set a plain value", s.Key, g.c.field.name)
			}
		}
	}
	return err
}

// computes reports whether a stage of an update computes the field by its name, or may do so by making the
// whole document anew. A value that is given as it is, without anything to compute, is yielded instead.
func (f *fieldPath) computes(stage []byte, v wire.Value, given func(wire.Value)) (names, whole bool) {
	switch string(stage) {
	case "$set", "$addFields":
		d, ok := v.Doc()
		for it := d.Iter(); it.Next(); {
			if !f.touches(it.Key) {
				continue
			}
			v, plain := f.given(it.Key, it.Value)
			if v, plain = literal(v, plain); !plain {
				return true, false
			}
			given(v)
		}
		return false, !ok
	case "$project":
		d, ok := v.Doc()
		for it := d.Iter(); it.Next(); {
			if f.touches(it.Key) && !it.Value.True() {
				return true, false
			}
		}
		return false, !ok
	case "$unset":
		if path, ok := v.Str(); ok {
			return f.touches(path), false
		}
		a, ok := v.Array()
		for it := a.Iter(); it.Next(); {
			if path, isString := it.Value.Str(); !isString || f.touches(path) {
				return true, false
			}
		}
		return false, !ok
	}
	return false, true // $replaceRoot, $replaceWith, or what the server refuses
}

// literal is the value of an expression that is one, so that there is nothing to compute.
func literal(v wire.Value, ok bool) (wire.Value, bool) {
	if d, is := v.Doc(); is {
		it := d.Iter()
		ok = ok && it.Next() && string(it.Key) == "$literal"
		v = it.Value
	} else if s, is := v.Str(); is {
		ok = ok && !(len(s) > 0 && s[0] == '$')
	}
	return v, ok && (scalar(v) || null(v))
}

// made checks the document that an upsert may make: it has the tenant field from the update, or from an
// equality in the filter, which servers copy. They copy nothing of $in, $or and $expr. A filter that
// contradicts itself may name another tenant by that than the one it was sent for; needed says that without
// either the field would be lacking.
func (g *fieldGuard) made(r *Request, op *Op, needed bool) *wire.Error {
	if !op.Upsert || op.Exists {
		return nil
	}
	if _, ok := g.c.field.upsertTenant(op.Update); ok {
		return nil // which is looked at as any value that is given
	}
	carries := len(op.Only) == 1 && simple(op.Collation)
	foreign := false
	var x extractor
	x.of(r, g.c, op.Collation)
	x.equalities(op.Filter, 0, func(v wire.Value) {
		carries = true
		foreign = foreign || g.value(v) != nil
	})
	switch {
	case foreign:
		return wire.Errorf(wire.ImmutableField,
			"the filter contradicts itself about the tenant field %q, and the document that this upsert may make would be of a tenant whose database is another; ask for one tenant", g.c.field.name)
	case needed && !carries && g.target.Tenant != nil:
		return wire.Errorf(wire.ShardKeyNotFound,
			"the document that this upsert may make would lack the tenant field %q; add its equality to the filter, or $setOnInsert", g.c.field.name)
	}
	return nil
}

// equalities visits the values that the filter asks of the field by plain equality.
func (x *extractor) equalities(filter wire.Doc, depth int, visit func(wire.Value)) {
	it := filter.Iter()
	for it.Next() && depth <= 64 {
		switch string(it.Key) {
		case x.field.name:
			v := it.Value
			if d, ok := v.Doc(); ok {
				v, _ = d.Lookup("$eq")
			}
			if v.Type != 0 && scalar(v) {
				visit(v)
			}
		case x.field.parts[0]:
			if v, ok := x.object(it.Value); ok {
				visit(v)
			}
		case "$and":
			a, ok := it.Value.Array()
			if !ok {
				continue
			}
			for sub := a.Iter(); sub.Next(); {
				if d, ok := sub.Value.Doc(); ok {
					x.equalities(d, depth+1, visit)
				}
			}
		}
	}
}

// fieldGuard checks what writes do to the tenant field of a collection's documents.
type fieldGuard struct {
	t      *Table
	c      *Collection
	target *Target
	tenant *Tenant // the only one whose documents may be written; nil for all whose home the target is
}

func (g *fieldGuard) replacement(d wire.Doc) *wire.Error {
	v, found, err := g.c.field.documentTenant(d)
	if err != nil {
		return err
	}
	if !found {
		if g.target.Tenant == nil {
			return nil
		}
		return wire.Errorf(wire.ImmutableField, "the replacement lacks the tenant field %q; keep it in the document", g.c.field.name)
	}
	return g.value(v)
}

// value checks what the field is to hold.
func (g *fieldGuard) value(v wire.Value) *wire.Error {
	tn := g.t.byValue.find(v)
	switch {
	case v.Type == bsoncore.TypeArray:
		return wire.Errorf(wire.BadValue, "the tenant field %q may not hold an array", g.c.field.name)
	case g.tenant != nil && tn == g.tenant:
		return nil
	case g.tenant != nil:
		return wire.Errorf(wire.ImmutableField, "the tenant field %q must hold the tenant of this connection", g.c.field.name)
	case scalar(v) && tn.home(g.c) == g.target || null(v) && g.target.Tenant == nil:
		return nil
	}
	return wire.Errorf(wire.ImmutableField,
		"the update would give a document to a tenant whose database is another; delete it there and insert it for the other tenant")
}

func (g *fieldGuard) operators(d wire.Doc, exists bool) *wire.Error {
	it := d.Iter()
	for it.Next() {
		sub, ok := it.Value.Doc()
		if !ok || exists && string(it.Key) == "$setOnInsert" {
			continue // the server says what is wrong with it; no document is made
		}
		for s := sub.Iter(); s.Next(); {
			if err := g.path(it.Key, s.Key, s.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *fieldGuard) path(op, path []byte, v wire.Value) *wire.Error {
	field := &g.c.field
	hit := field.touches(path)
	if string(op) == "$rename" && !hit {
		to, _ := v.Str()
		hit = field.touches(to)
	}
	if !hit {
		return nil
	}
	if string(op) == "$set" || string(op) == "$setOnInsert" {
		if v, ok := field.given(path, v); ok {
			return g.value(v)
		}
	}
	if g.tenant == nil && len(g.c.holders) == 1 {
		return nil
	}
	return wire.Errorf(wire.ImmutableField, "%s of %q would change the tenant field %q of a document", op, path, field.name)
}
