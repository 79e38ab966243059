package routing

import (
	"slices"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// The fields that connections with row isolation may use in a write of a batch, by how it is written.
var (
	entryFields = words("q u c multi upsert collation arrayFilters hint sort limit")
	bulkFields  = words("document filter updateMods constants multi upsert collation arrayFilters hint sort")
)

var (
	fFields       = field("fields")
	fArrayFilters = field("arrayFilters")
	fBypass       = field("bypassDocumentValidation")
	fBypassTS     = field("bypassEmptyTsReplacement")
)

// fit adds to the patch what keeps the command within its tenant's rows. The error is the refusal of
// what can not be kept there.
func (x *isolation) fit(p *wire.Patch) *wire.Error {
	if err := x.options(); err != nil {
		return err
	}
	switch x.r.Cmd.Tenant.Kind {
	case InFilter:
		return x.fitRead(p)
	case InStages:
		return x.fitStages(p)
	}
	return x.fitWrites(p)
}

// options looks at what stands beside filters, pipelines and writes.
func (x *isolation) options() *wire.Error {
	for _, id := range []fieldID{fLet, fProjection, fFields, fSort} {
		if err := x.look.expression(x.r.value(id), 0); err != nil {
			return err
		}
	}
	for _, id := range []fieldID{fBypass, fBypassTS} {
		if x.r.value(id).True() {
			return wire.Errorf(wire.Unauthorized, "%s is not open to this connection", fieldNames[id])
		}
	}
	if v, ok := x.r.said(); ok && x.t.byValue.find(v) != x.tn {
		return wire.Errorf(wire.Unauthorized, "the command's comment names another tenant than this connection's")
	}
	return nil
}

func (x *isolation) coll() *Collection {
	if x.r.Value.Type != bsoncore.TypeString || x.r.Cmd.Tenant.Kind == InBulkOps {
		return nil
	}
	return x.t.byName.find(x.r.DB).collection(x.r.Coll())
}

// names refuses a set of tenants that the connection's is not one of: the command means another's.
func (x *isolation) names(s *tenantSet) *wire.Error {
	if !s.known || s.n == 0 {
		return nil
	}
	for i := range s.n {
		if x.t.byValue.find(s.at(i)) == x.tn {
			return nil
		}
	}
	return wire.Errorf(wire.Unauthorized, "the command names another tenant than this connection's")
}

// filtered is the filter of a read or a write on a collection as it is sent.
func (x *isolation) filtered(c *Collection, q wire.Doc, collation wire.Value, upsert bool) (wire.Doc, *wire.Error) {
	pred := x.pred(c)
	if upsert && pred != nil {
		pred = c.ownedOrNew(x.tn)
	}
	if pred != nil {
		var e extractor
		e.of(x.r, c, collation)
		var s tenantSet
		e.filter(&s, q, 0)
		if err := x.names(&s); err != nil {
			return nil, err
		}
	}
	return x.filter(q, pred)
}

func (x *isolation) fitRead(p *wire.Patch) *wire.Error {
	id := x.r.Cmd.Tenant.Path
	v := x.r.value(id)
	q, ok := v.Doc()
	if !ok && v.Type != 0 && !null(v) {
		return wire.Errorf(wire.TypeMismatch, "%s must be an object", fieldNames[id])
	}
	q, err := x.filtered(x.coll(), q, x.t.collation(x.r), false)
	if err == nil && q != nil {
		x.r.replace(id, bsoncore.AppendDocumentElement(nil, fieldNames[id], bsoncore.Document(q)), p)
	}
	return err
}

func (x *isolation) fitStages(p *wire.Patch) *wire.Error {
	if x.r.value(fExplain).True() && x.shared() {
		return wire.Errorf(wire.Unauthorized, "explain is not allowed in a database that other tenants share")
	}
	c, v := x.coll(), x.r.value(fPipeline)
	switch {
	case c == nil && !beginsWith(v, "$documents"):
		return wire.Errorf(wire.Unauthorized, "a pipeline of a whole database is open to this connection only where it begins with $documents")
	}
	if err := x.stagesName(); err != nil {
		return err
	}
	i, d := bsoncore.AppendArrayElementStart(nil, "pipeline")
	d, err := x.pipeline(d, x.t.byName.find(x.r.DB), c, v, 0)
	if err != nil {
		return err
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	x.r.replace(fPipeline, d, p)
	return nil
}

// stagesName refuses a pipeline that means another tenant's documents.
func (x *isolation) stagesName() *wire.Error {
	c := x.coll()
	if c == nil || x.pred(c) == nil {
		return nil
	}
	var e extractor
	e.of(x.r, c, x.t.collation(x.r))
	var s tenantSet
	e.stages(&s, x.r.value(fPipeline))
	return x.names(&s)
}

// fitWrites takes over the writes of a batch, or the one of a findAndModify.
func (x *isolation) fitWrites(p *wire.Patch) *wire.Error {
	var o ops
	o.of(x.r)
	names := x.t.bulkNames(x.r)
	c := x.coll()
	holders := append(x.r.within(), o.docs.holder)
	if o.docs.section {
		holders = holders[len(holders)-1:]
	}
	for o.next() {
		if o.op.Coll = c; o.kind == InBulkOps {
			if o.op.ns < 0 || o.op.ns >= len(names) {
				return wire.Errorf(wire.BadValue, "a write names no entry of nsInfo")
			}
			o.op.Coll = names[o.op.ns].coll
		}
		if !o.op.complete() {
			return wire.Errorf(wire.FailedToParse, "a write of the batch lacks a field that it needs: an update q and u, a delete q and limit")
		}
		var err *wire.Error
		if o.kind == InFindAndModify {
			err = x.fitOne(&o.op, p)
		} else {
			err = x.fitWrite(&o, holders, p)
		}
		if err != nil {
			return err
		}
	}
	if !o.docs.ok {
		return wire.Errorf(wire.FailedToParse, "%s must be an array of documents", x.r.Cmd.Batch())
	}
	return o.once()
}

func (x *isolation) fitWrite(o *ops, holders []int, p *wire.Patch) *wire.Error {
	with, err := x.fitEntry(&o.op)
	if err == nil && with != nil {
		p.Replace(o.docs.at, len(o.op.Entry), with, holders...)
	}
	return err
}

// fitEntry is the entry of a batch as it is sent; nil where that is as it came.
func (x *isolation) fitEntry(op *Op) (wire.Doc, *wire.Error) {
	if op.kind == InDocuments {
		return x.owned(op.Coll, op.doc)
	}
	w, err := x.written(op)
	if err != nil {
		return nil, err
	}
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, len(op.Entry)+len(w.filter)+64))
	for it := op.Entry.Iter(); it.Next(); {
		key := string(it.Key)
		if err := x.writeOption(op, it.Start == 4, key, it.Value); err != nil {
			return nil, err
		}
		switch {
		case key == "q" || key == "filter":
			d = bsoncore.AppendDocumentElement(d, key, bsoncore.Document(w.filter))
		case (key == "u" || key == "updateMods") && w.update.Type != 0:
			d = w.update.AppendTo(d, key)
		case key == "document" && w.doc != nil:
			d = bsoncore.AppendDocumentElement(d, key, bsoncore.Document(w.doc))
		default:
			d = append(d, op.Entry[it.Start:it.End()]...)
		}
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d, nil
}

// writeOption looks at a field of a write.
func (x *isolation) writeOption(op *Op, first bool, key string, v wire.Value) *wire.Error {
	switch bulk := op.kind == InBulkOps; {
	case bulk && first && (key == "insert") == op.inserts():
		return nil // a bulkWrite's entry begins with its kind
	case bulk && (first || !bulkFields[key] || op.inserts() != (key == "document")), !bulk && !entryFields[key]:
		return wire.Errorf(wire.UnknownField, "field %q of a write is unknown", key)
	}
	switch key {
	case "c", "constants", "sort":
		return x.look.expression(v, 0)
	case "arrayFilters":
		return x.look.filters(v, 0)
	}
	return nil
}

func (x *isolation) fitOne(op *Op, p *wire.Patch) *wire.Error {
	if x.r.value(fRemove).True() && x.r.value(fUpdate).Type != 0 {
		return wire.Errorf(wire.FailedToParse, "a findAndModify either removes or updates")
	}
	if err := x.look.filters(x.r.value(fArrayFilters), 0); err != nil {
		return err
	}
	w, err := x.written(op)
	if err != nil {
		return err
	}
	x.r.replace(fQuery, bsoncore.AppendDocumentElement(nil, "query", bsoncore.Document(w.filter)), p)
	if w.update.Type != 0 {
		x.r.replace(fUpdate, w.update.AppendTo(nil, "update"), p)
	}
	return nil
}

// written is a write as it is sent; without update where that is as it came.
type written struct {
	filter wire.Doc
	update wire.Value
	doc    wire.Doc // of an insert; nil where it is as it came
}

func (x *isolation) written(op *Op) (w written, err *wire.Error) {
	if op.inserts() {
		w.doc, err = x.owned(op.Coll, op.doc)
		return w, err
	}
	if w.filter, err = x.filtered(op.Coll, op.Filter, op.Collation, op.Upsert); err != nil {
		return w, err
	}
	if w.filter == nil {
		w.filter = wire.Doc{5, 0, 0, 0, 0}
	}
	guard := fieldGuard{t: x.t, c: op.Coll, target: x.target, tenant: x.tn}
	d, _ := op.Update.Doc()
	switch formOf(op.Update) {
	case replacement:
		doc, err := x.owned(op.Coll, d)
		if err == nil && doc != nil {
			w.update = wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: doc}
		}
		return w, err
	case operators:
		return w, x.operators(op, &guard, d, &w)
	case pipelineUpdate:
		w.update, err = x.updatePipeline(op.Coll, op.Update)
	}
	return w, err
}

// operators checks an update's operators. The document that an upsert makes gets the tenant where the
// update does not say it.
func (x *isolation) operators(op *Op, guard *fieldGuard, d wire.Doc, w *written) *wire.Error {
	says, onInsert := false, false
	for it := d.Iter(); it.Next(); {
		if !ofUpdates[string(it.Key)] {
			return notOpen(it.Key)
		}
		set := string(it.Key) == "$set" || string(it.Key) == "$setOnInsert"
		onInsert = onInsert || string(it.Key) == "$setOnInsert"
		sub, _ := it.Value.Doc()
		for s := sub.Iter(); s.Next(); {
			says = says || set && op.Coll.field.touches(s.Key)
			if string(it.Key) == "$pull" {
				if err := x.look.operand(s.Value, 0); err != nil {
					return err
				}
			}
		}
	}
	if err := guard.operators(d, false); err != nil {
		return err
	}
	if op.Upsert && !says {
		w.update = wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: onInsertToo(d, onInsert, op.Coll, x.tn)}
	}
	return nil
}

// onInsertToo is an update that gives a document which it makes to the tenant.
func onInsertToo(update wire.Doc, has bool, c *Collection, tn *Tenant) wire.Doc {
	field := func(d []byte) []byte { return tn.ID.AppendTo(d, c.field.name) }
	return build(func(d []byte) []byte {
		for it := update.Iter(); it.Next(); {
			if sub, ok := it.Value.Doc(); ok && string(it.Key) == "$setOnInsert" {
				d = appendDoc(d, "$setOnInsert", func(d []byte) []byte { return field(append(d, sub[4:len(sub)-1]...)) })
				continue
			}
			d = it.Value.AppendTo(d, string(it.Key))
		}
		if !has {
			d = appendDoc(d, "$setOnInsert", field)
		}
		return d
	})
}

// updateStages are those that an update by a pipeline may have.
var updateStages = words("$addFields $set $project $unset $replaceRoot $replaceWith")

// updatePipeline is an update by a pipeline with last stages that keep the document the tenant's.
func (x *isolation) updatePipeline(c *Collection, v wire.Value) (wire.Value, *wire.Error) {
	a, _ := v.Array()
	i, d := bsoncore.AppendDocumentStart(nil) // an array's bytes are a document's
	n := 0
	for it := a.Iter(); it.Next(); n++ {
		stage, _ := it.Value.Doc()
		for s := stage.Iter(); s.Next(); {
			if !updateStages[string(s.Key)] {
				return v, notOpen(s.Key)
			}
			if err := x.look.expression(s.Value, 0); err != nil {
				return v, err
			}
		}
		d = it.Value.AppendTo(d, strconv.Itoa(n))
	}
	for _, stage := range c.keeping(x.tn) {
		d = bsoncore.AppendDocumentElement(d, strconv.Itoa(n), bsoncore.Document(stage))
		n++
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return wire.Value{Type: bsoncore.TypeArray, Data: d}, nil
}

// owned is a document that is to be stored, with the tenant where it lacks it; nil where it has it. One
// with another tenant is refused.
func (x *isolation) owned(c *Collection, doc wire.Doc) (wire.Doc, *wire.Error) {
	v, found, err := c.field.documentTenant(doc)
	switch {
	case err != nil:
		return nil, err
	case found:
		guard := fieldGuard{t: x.t, c: c, target: x.target, tenant: x.tn}
		return nil, guard.value(v)
	}
	return insertField(doc, c.field.parts, x.tn.ID)
}

// insertField puts a value at a path into a document that lacks it: behind the _id, or into the parents
// that are there.
func insertField(doc wire.Doc, path []string, v wire.Value) (wire.Doc, *wire.Error) {
	var at wire.Iter // the field or its parent, where that is there
	there := false
	after := 4 // behind the length, or the _id
	for it := doc.Iter(); it.Next(); {
		if string(it.Key) == "_id" {
			after = it.End()
		}
		if string(it.Key) == path[0] {
			there, at = true, *it
		}
	}
	parent, isDoc := at.Value.Doc()
	switch {
	case !there:
		element := appendNested(nil, path, v)
		return resized(slices.Concat(doc[:after], element, doc[after:])), nil
	case isDoc:
		sub, err := insertField(parent, path[1:], v)
		if err != nil {
			return nil, err
		}
		element := bsoncore.AppendDocumentElement(nil, path[0], bsoncore.Document(sub))
		return resized(slices.Concat(doc[:at.Start], element, doc[at.End():])), nil
	case len(path) == 1: // null: it is to be the tenant's
		return resized(slices.Concat(doc[:at.Start], v.AppendTo(nil, path[0]), doc[at.End():])), nil
	}
	return nil, wire.Errorf(wire.ImmutableField, "%q must be an object, for the tenant field to lie in it", path[0])
}

func appendNested(d []byte, path []string, v wire.Value) []byte {
	if len(path) == 1 {
		return v.AppendTo(d, path[0])
	}
	return appendDoc(d, path[0], func(d []byte) []byte { return appendNested(d, path[1:], v) })
}

// resized is a document whose length is made to fit.
func resized(d wire.Doc) wire.Doc {
	d, _ = bsoncore.AppendDocumentEnd(d[:len(d)-1], 0)
	return d
}
