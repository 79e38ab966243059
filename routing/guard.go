package routing

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Op is one write of a batch, or the one of a findAndModify.
type Op struct {
	Index  int
	Filter wire.Doc
	Update wire.Value // zero for a delete
	Many   bool       // may change more than one document
	Upsert bool

	collation wire.Value
}

// ops goes through the writes of an update, delete or findAndModify.
type ops struct {
	op   Op
	docs docs
	one  bool // the command is a write itself
	bad  bool // an entry has a field twice: two readers could see different writes
}

func (r *Request) ops() ops {
	switch r.Cmd.Tenant.Kind {
	case InFindAndModify:
		q, _ := r.value(fQuery).Doc()
		op := Op{Filter: q, Update: r.value(fUpdate), Upsert: r.value(fUpsert).True(), collation: r.value(fCollation)}
		if r.value(fRemove).True() {
			op.Update = wire.Value{}
		}
		return ops{op: op, one: true, docs: docs{ok: true}}
	case InUpdates, InDeletes:
		return ops{docs: r.docs(r.Cmd.Tenant.Path)}
	}
	return ops{}
}

func (o *ops) next() bool {
	if o.one {
		o.docs.n++
		return o.docs.n == 1
	}
	if !o.docs.next() {
		return false
	}
	o.op = Op{Index: o.docs.n - 1}
	o.bad = !o.op.read(o.docs.doc)
	return !o.bad
}

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
			op.collation = it.Value
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

// Ops calls yield for each write of an update, delete or findAndModify; false where the batch is
// no array of documents, which the server is left to say.
func (r *Request) Ops(yield func(op *Op) bool) bool {
	o := r.ops()
	for o.next() {
		if !yield(&o.op) {
			return true
		}
	}
	return o.docs.ok
}

// OpenOps calls yield for each write that names no tenant, with the _ids it names.
func (t *Table) OpenOps(r *Request, c *Collection, yield func(op *Op, ids []wire.Value)) {
	o := r.ops()
	for o.next() {
		var s tenantSet
		x := t.extractor(r, c, o.op.collation)
		if x.filter(&s, o.op.Filter, 0); !s.known {
			ids, _ := IDs(o.op.Filter)
			yield(&o.op, ids)
		}
	}
}

// Count is the number of writes or documents of a batch.
func (r *Request) Count() int {
	if r.Cmd.Tenant.Kind == InFindAndModify {
		return 1
	}
	d := r.docs(r.Cmd.Tenant.Path)
	for d.next() {
	}
	return d.n
}

// CollationOf is the write's own, else the command's.
func (r *Request) CollationOf(op *Op) wire.Value {
	if op != nil {
		return op.collation
	}
	return r.value(fCollation)
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
			if v, ok := sub.Lookup(f.name); ok && scalar(v) {
				return v, true
			}
		}
	}
	return tenant, false
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
				yield(s.Value)
			}
		}
	}
	return hit
}

// GuardTarget checks that no write of the request can leave a document in the target that is not
// its tenant's. The index is that of the refused write in its batch.
func (t *Table) GuardTarget(r *Request, c *Collection, target *Target) (index int, err *wire.Error) {
	if r.Cmd.Access != Write || c == nil || !c.touched() {
		return 0, nil
	}
	if r.Cmd.Tenant.Kind == InDocuments {
		return 0, nil // each document's tenant chose the target
	}
	o := r.ops()
	for o.next() {
		if err := t.guard(r, &o.op, c, target); err != nil {
			return o.op.Index, err
		}
	}
	return 0, nil
}

func (t *Table) guard(r *Request, op *Op, c *Collection, target *Target) *wire.Error {
	d, _ := op.Update.Doc()
	switch formOf(op.Update) {
	case replacement:
		return t.guardReplacement(d, c, target)
	case operators:
		if op.Upsert && target.Tenant != nil && !t.upsertCarries(r, op, c) {
			return wire.Errorf(wire.ShardKeyNotFound,
				"the document that this upsert may make would lack the tenant field %q; add its equality to the filter, or $setOnInsert", c.field.name)
		}
		return t.guardOperators(d, c, target)
	case pipelineUpdate:
		return wire.Errorf(wire.IllegalOperation,
			"an update by a pipeline is not offered while tenants of this collection have databases of their own; use update operators")
	}
	return nil
}

// upsertCarries reports whether the document that an upsert with operators makes has the tenant
// field: from the update, or from an equality in the filter, which servers copy. They copy nothing
// of $in, $or and $expr.
func (t *Table) upsertCarries(r *Request, op *Op, c *Collection) bool {
	if _, ok := c.field.upsertTenant(op.Update); ok {
		return true
	}
	x := t.extractor(r, c, op.collation)
	return x.equality(op.Filter, 0)
}

// equality reports whether the filter asks for the field by plain equality.
func (x *extractor) equality(filter wire.Doc, depth int) bool {
	it := filter.Iter()
	for it.Next() && depth <= 64 {
		switch string(it.Key) {
		case x.field.name:
			v := it.Value
			if d, ok := v.Doc(); ok {
				v, _ = d.Lookup("$eq")
			}
			if v.Type != 0 && scalar(v) {
				return true
			}
		case x.field.parts[0]:
			if _, ok := x.object(it.Value); ok {
				return true
			}
		case "$and":
			a, ok := it.Value.Array()
			if !ok {
				continue
			}
			for sub := a.Iter(); sub.Next(); {
				if d, ok := sub.Value.Doc(); ok && x.equality(d, depth+1) {
					return true
				}
			}
		}
	}
	return false
}

func (t *Table) guardReplacement(d wire.Doc, c *Collection, target *Target) *wire.Error {
	v, found, err := c.field.documentTenant(d)
	if err != nil {
		return err
	}
	if !found {
		if target.Tenant == nil {
			return nil
		}
		return wire.Errorf(wire.ImmutableField, "the replacement lacks the tenant field %q; keep it in the document", c.field.name)
	}
	return t.guardValue(v, c, target)
}

func (t *Table) guardValue(v wire.Value, c *Collection, target *Target) *wire.Error {
	if scalar(v) && t.byValue.find(v).home(c) == target || null(v) && target.Tenant == nil {
		return nil
	}
	if v.Type == bsoncore.TypeArray {
		return wire.Errorf(wire.BadValue, "the tenant field %q may not hold an array", c.field.name)
	}
	return wire.Errorf(wire.ImmutableField,
		"the update would give a document to a tenant whose database is another; delete it there and insert it for the other tenant")
}

func (t *Table) guardOperators(d wire.Doc, c *Collection, target *Target) *wire.Error {
	it := d.Iter()
	for it.Next() {
		sub, ok := it.Value.Doc()
		if !ok {
			continue // the server says what is wrong with it
		}
		for s := sub.Iter(); s.Next(); {
			if err := t.guardPath(it.Key, s.Key, s.Value, c, target); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Table) guardPath(op, path []byte, v wire.Value, c *Collection, target *Target) *wire.Error {
	hit := c.field.touches(path)
	if string(op) == "$rename" && !hit {
		to, _ := v.Str()
		hit = c.field.touches(to)
	}
	if !hit {
		return nil
	}
	if string(op) == "$set" || string(op) == "$setOnInsert" {
		if string(path) == c.field.name {
			return t.guardValue(v, c, target)
		}
		x := extractor{field: &c.field}
		if string(path) == c.field.parts[0] {
			if v, ok := x.object(v); ok {
				return t.guardValue(v, c, target)
			}
		}
	}
	if target.Tenant == nil && len(c.holders) == 1 {
		return nil
	}
	return wire.Errorf(wire.ImmutableField, "%s of %q would change the tenant field %q of a document", op, path, c.field.name)
}
