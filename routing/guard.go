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
	doc    wire.Doc // the whole entry
}

// Ops calls yield for each write of an update, delete or findAndModify; false where the batch is
// no array of documents, which the server is left to say.
func (r *Request) Ops(yield func(op *Op) bool) bool {
	switch r.Cmd.Tenant.Kind {
	case InFindAndModify:
		q, _ := r.value(fQuery).Doc()
		op := Op{Filter: q, Update: r.value(fUpdate), Upsert: r.value(fUpsert).True()}
		if r.value(fRemove).True() {
			op.Update = wire.Value{}
		}
		return yield(&op)
	case InUpdates, InDeletes:
		return r.each(r.Cmd.Tenant.Path, func(i int, d wire.Doc, _ int) bool {
			op := Op{Index: i, doc: d}
			it := d.Iter()
			for it.Next() {
				switch string(it.Key) {
				case "q":
					op.Filter, _ = it.Value.Doc()
				case "u":
					op.Update = it.Value
				case "multi":
					op.Many = it.Value.True()
				case "limit":
					n, _ := it.Value.Int()
					op.Many = n != 1
				case "upsert":
					op.Upsert = it.Value.True()
				}
			}
			return yield(&op)
		})
	}
	return false
}

// OpenOps calls yield for each write that names no tenant, with the _ids it names.
func (t *Table) OpenOps(r *Request, c *Collection, yield func(op *Op, ids []wire.Value)) {
	r.Ops(func(op *Op) bool {
		x := t.extractor(r, c, r.CollationOf(op))
		if s := x.filter(op.Filter, 0); !s.known {
			ids, _ := IDs(op.Filter)
			yield(op, ids)
		}
		return true
	})
}

// Count is the number of writes or documents of a batch.
func (r *Request) Count() int {
	n := 0
	if r.Cmd.Tenant.Kind == InFindAndModify {
		return 1
	}
	r.each(r.Cmd.Tenant.Path, func(int, wire.Doc, int) bool { n++; return true })
	return n
}

// CollationOf is the write's own, else the command's.
func (r *Request) CollationOf(op *Op) wire.Value {
	if op != nil && op.doc != nil {
		v, _ := op.doc.Lookup("collation")
		return v
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
func (f *fieldPath) upsertTenant(u wire.Value) tenantSet {
	d, _ := u.Doc()
	switch formOf(u) {
	case replacement:
		if v, found, err := f.documentTenant(d); err == nil && found && scalar(v) {
			return one(v)
		}
	case operators:
		for _, op := range []string{"$set", "$setOnInsert"} {
			v, _ := d.Lookup(op)
			sub, ok := v.Doc()
			if !ok {
				continue
			}
			if v, ok := sub.Lookup(f.name); ok && scalar(v) {
				return one(v)
			}
		}
	}
	return tenantSet{}
}

// named is every value that an update may give the tenant field, for looking whether those
// tenants are to be waited for.
func (f *fieldPath) named(u wire.Value, yield func(wire.Value)) {
	d, _ := u.Doc()
	switch formOf(u) {
	case replacement:
		if v, found, err := f.documentTenant(d); err == nil && found {
			yield(v)
		}
	case operators:
		it := d.Iter()
		for it.Next() {
			sub, ok := it.Value.Doc()
			if !ok {
				continue
			}
			for s := sub.Iter(); s.Next(); {
				if f.touches(s.Key) {
					yield(s.Value)
				}
			}
		}
	}
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
	r.Ops(func(op *Op) bool {
		index, err = op.Index, t.guard(op, c, target)
		return err == nil
	})
	return index, err
}

func (t *Table) guard(op *Op, c *Collection, target *Target) *wire.Error {
	d, _ := op.Update.Doc()
	switch formOf(op.Update) {
	case replacement:
		return t.guardReplacement(d, c, target)
	case operators:
		return t.guardOperators(d, c, target)
	case pipelineUpdate:
		return wire.Errorf(wire.IllegalOperation,
			"an update by a pipeline is not offered while tenants of this collection have databases of their own; use update operators")
	}
	return nil
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
		op := string(it.Key)
		for s := sub.Iter(); s.Next(); {
			if err := t.guardPath(op, s.Key, s.Value, c, target); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Table) guardPath(op string, path []byte, v wire.Value, c *Collection, target *Target) *wire.Error {
	hit := c.field.touches(path)
	if op == "$rename" && !hit {
		to, _ := v.Str()
		hit = c.field.touches(to)
	}
	if !hit {
		return nil
	}
	if op == "$set" || op == "$setOnInsert" {
		if string(path) == c.field.name {
			return t.guardValue(v, c, target)
		}
		x := extractor{field: &c.field, exact: true}
		if string(path) == c.field.parts[0] {
			if s := x.object(v); s.known && s.n == 1 {
				return t.guardValue(s.at(0), c, target)
			}
		}
	}
	if target.Tenant == nil && len(c.holders) == 1 {
		return nil
	}
	return wire.Errorf(wire.ImmutableField, "%s of %q would change the tenant field %q of a document", op, path, c.field.name)
}
