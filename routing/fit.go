package routing

import (
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// said is the tenant that the command's comment names: { tenantry: { tenant: x } }.
func (r *Request) said() (wire.Value, bool) {
	d, ok := r.value(fComment).Doc()
	if !ok {
		return wire.Value{}, false
	}
	v, _ := d.Lookup("tenantry")
	if d, ok = v.Doc(); !ok {
		return wire.Value{}, false
	}
	v, ok = d.Lookup("tenant")
	return v, ok && scalar(v)
}

// Scope is which documents a command's filters concern beside what they say themselves.
type Scope struct {
	Only []wire.Value // those of these tenants; nil: whosever
	Open bool         // no tenant is named
}

// predicate is what a filter gets at a target, so that it matches only documents whose home that is;
// nil where it matches no others anyway.
func (t *Table) predicate(c *Collection, s Scope, target *Target, collation wire.Value) wire.Doc {
	if s.Only == nil {
		if s.Open && target.Tenant == nil && c.left() {
			return c.notLeft(collation)
		}
		return nil
	}
	var only []wire.Value
	for _, v := range s.Only {
		if t.byValue.find(v).home(c) == target {
			only = append(only, v)
		}
	}
	return c.onlyOf(only, collation)
}

// left reports whether shared may hold documents whose home is elsewhere: what a move has copied
// and not cleaned up.
func (c *Collection) left() bool { return len(c.away) > 0 }

// notLeft is the predicate that leaves such documents out.
func (c *Collection) notLeft(collation wire.Value) wire.Doc {
	if !simple(collation) {
		return c.tenantIn("$nin", c.awayIDs(), false)
	}
	c.once.Do(func() { c.notAway = c.tenantIn("$nin", c.awayIDs(), true) })
	return c.notAway
}

func (c *Collection) awayIDs() []wire.Value {
	var ids []wire.Value
	for _, tn := range c.away {
		ids = append(append(ids, tn.ID), tn.aliases...)
	}
	return ids
}

// onlyOf is the predicate that a document's tenant is one of the values.
func (c *Collection) onlyOf(values []wire.Value, collation wire.Value) wire.Doc {
	return c.among(values, simple(collation))
}

// among is onlyOf for strings that are compared as bytes, or that are not.
func (c *Collection) among(values []wire.Value, exact bool) wire.Doc {
	if len(values) != 1 {
		return c.tenantIn("$in", values, exact)
	}
	i, d := bsoncore.AppendDocumentStart(nil)
	d = appendExact(d, c.field.name, values[0], exact)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

func (c *Collection) tenantIn(operator string, values []wire.Value, exact bool) wire.Doc {
	i, d := bsoncore.AppendDocumentStart(nil)
	j, d := bsoncore.AppendDocumentElementStart(d, c.field.name)
	k, d := bsoncore.AppendArrayElementStart(d, operator)
	for n, v := range values {
		d = appendExact(d, strconv.Itoa(n), v, exact)
	}
	d, _ = bsoncore.AppendArrayEnd(d, k)
	d, _ = bsoncore.AppendDocumentEnd(d, j)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// appendExact appends a value to be equal to. A collation widens the equality of strings, but no
// regular expression.
func appendExact(d []byte, key string, v wire.Value, exact bool) []byte {
	s, ok := v.Str()
	if exact || !ok {
		return v.AppendTo(d, key)
	}
	return bsoncore.AppendRegexElement(d, key, `\A`+quoted(s)+`\z`, "")
}

// Fit adds to the patch what the command is sent to the target with, beside other names.
func (t *Table) Fit(r *Request, d *Decision, target *Target, p *wire.Patch) *wire.Error {
	c := d.Coll
	if r.Bound.Rows() && r.Cmd.Tenant.Kind != InInner {
		x := isolation{t: t, r: r, tn: t.byKey[r.Bound.Key], target: target}
		return x.fit(p)
	}
	switch r.Cmd.Tenant.Kind {
	case InInner:
		in, err := r.inner()
		if err != nil {
			return err
		}
		return t.Fit(in, d, target, p)
	case InFilter:
		r.narrowFilter(r.Cmd.Tenant.Path, t.predicate(c, d.Scope, target, t.collation(r)), p)
	case InStages:
		if stage := t.plainWatch(r); stage != nil {
			r.insertStage(1, stage, p)
			return nil
		}
		return t.narrowStages(r, d, target, p)
	case InUpdates, InDeletes, InBulkOps:
		var o ops
		o.of(r)
		names := t.bulkNames(r)
		holders := append(r.within(), o.docs.holder)
		if o.docs.section {
			holders = holders[len(holders)-1:]
		}
		for o.next() && o.op.in(names, c, r.Coll()) {
			with, err := t.FitEntry(r, d, &o.op, target)
			if err != nil {
				return err
			}
			if with != nil {
				p.Replace(o.docs.at, len(o.op.Entry), with, holders...)
			}
		}
	case InFindAndModify:
		var o ops
		o.of(r)
		for o.next() {
			o.op.Scope = d.Scope
			o.op.of(c, r.Coll())
			t.FitOne(r, &o.op, target, p)
		}
	}
	return nil
}

// FitEntry is an entry of a batch as it is sent by the decision to its target; nil where that is as it came.
func (t *Table) FitEntry(r *Request, d *Decision, op *Op, target *Target) (wire.Doc, *wire.Error) {
	switch {
	case !d.Fit:
		return nil, nil
	case r.Bound.Rows():
		x := isolation{t: t, r: r, tn: t.byKey[r.Bound.Key], target: target}
		if op.kind != InBulkOps {
			op.Coll = x.coll()
		}
		return x.fitEntry(op)
	}
	op.Scope = d.Scope
	return t.FitWrite(op, target), nil
}

// FitWrite is the entry of a batch as it is sent to the target; nil where that is as it came. An
// upsert whose document exists makes none.
func (t *Table) FitWrite(op *Op, target *Target) wire.Doc {
	if op.Coll == nil || op.inserts() {
		return nil
	}
	filter, update := t.fitFilter(op, target), t.fitUpdate(op, target)
	if filter == nil && update == nil && !(op.Upsert && op.Exists) {
		return nil
	}
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, len(op.Entry)+len(filter)+len(update)))
	for it := op.Entry.Iter(); it.Next(); {
		switch key := string(it.Key); {
		case (key == "q" || key == "filter") && filter != nil:
			d = bsoncore.AppendDocumentElement(d, key, bsoncore.Document(filter))
		case (key == "u" || key == "updateMods") && update != nil:
			d = bsoncore.AppendArrayElement(d, key, bsoncore.Array(update))
		case key == "upsert" && op.Exists:
		default:
			d = append(d, op.Entry[it.Start:it.End()]...)
		}
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// FitOne is FitWrite for a findAndModify.
func (t *Table) FitOne(r *Request, op *Op, target *Target, p *wire.Patch) {
	if filter := t.fitFilter(op, target); filter != nil {
		r.replace(fQuery, bsoncore.AppendDocumentElement(nil, "query", bsoncore.Document(filter)), p)
	}
	if update := t.fitUpdate(op, target); update != nil {
		r.replace(fUpdate, bsoncore.AppendArrayElement(nil, "update", bsoncore.Array(update)), p)
	}
	if op.Upsert && op.Exists {
		r.replace(fUpsert, nil, p)
	}
}

// Set puts an element in the place of the body's field with the name, which is one of the command
// table's, or at the body's end.
func (r *Request) Set(name string, element []byte, p *wire.Patch) {
	r.replace(idOf(name), element, p)
}

// replace puts an element in the place of a field of the body, or at its end.
func (r *Request) replace(id fieldID, with []byte, p *wire.Patch) {
	if f, ok := r.field(id); ok {
		p.Replace(f.Start, f.End-f.Start, with, r.within()...)
		return
	}
	p.Replace(r.Msg.BodyAt+len(r.Msg.Body)-1, 0, with, r.within()...)
}

// settledIn is the predicate that leaves out of shared what may not be written to without a look at its
// tenant: documents whose home is elsewhere, and those of tenants who are waited for. It is nil where there
// are none.
func (t *Table) settledIn(c *Collection, collation wire.Value) wire.Doc {
	not := c.awayIDs()
	for _, tn := range t.tenants {
		if tn.waits(nil) && tn.home(c) == c.db.shared {
			not = append(append(not, tn.ID), tn.aliases...)
		}
	}
	if not == nil {
		return nil
	}
	return c.tenantIn("$nin", not, simple(collation))
}

// fitFilter is the write's filter with what it gets at the target; nil where it gets nothing. Of a
// located document the tenant is asked for again: it may have been given to another one meanwhile,
// whose home is elsewhere or who is paused. A tenant's own database holds no other's.
func (t *Table) fitFilter(op *Op, target *Target) wire.Doc {
	c := op.Coll
	var filter wire.Doc
	add := func(pred wire.Doc) {
		if filter == nil {
			filter = op.Filter
		}
		filter = both(filter, pred)
	}
	switch {
	case op.None:
		add(build(func(d []byte) []byte {
			return appendDoc(d, "_id", func(d []byte) []byte { return appendArray(d, "$in", func(d []byte) []byte { return d }) })
		}))
	case op.Any && op.Open && target.Tenant == nil:
		if pred := t.settledIn(c, op.Collation); pred != nil {
			add(pred)
		}
	case op.Tenant.Type == 0:
		if pred := t.predicate(c, op.Scope, target, op.Collation); pred != nil {
			add(pred)
		}
	case target.Tenant == nil && op.Made:
		// Two values, since of one a server makes a field of the document, and the first one at
		// that. What has no tenant is in shared whatever happens.
		add(c.onlyOf([]wire.Value{op.Tenant, {Type: bsoncore.TypeNull}}, op.Collation))
	case target.Tenant == nil:
		add(c.onlyOf([]wire.Value{op.Tenant}, op.Collation))
	}
	if op.ID.Type != 0 {
		i, d := bsoncore.AppendDocumentStart(nil)
		d = appendExact(d, "_id", op.ID, simple(op.Collation))
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		add(d)
	}
	return filter
}

// Filter is the write's filter as it is sent to the target.
func (t *Table) Filter(op *Op, target *Target) wire.Doc {
	switch filter := t.fitFilter(op, target); {
	case filter != nil:
		return filter
	case len(op.Filter) > 0: // null is none to servers
		return op.Filter
	}
	return wire.Doc{5, 0, 0, 0, 0}
}

// fitUpdate is an update by a pipeline with a last stage that keeps the tenant field, whatever was
// computed, in a database that is one tenant's; nil for any other.
func (t *Table) fitUpdate(op *Op, target *Target) wire.Doc {
	if target.Tenant == nil || formOf(op.Update) != pipelineUpdate {
		return nil
	}
	a, _ := op.Update.Array()
	n := 0
	for it := a.Iter(); it.Next(); {
		n++
	}
	d := append(make([]byte, 0, len(a)+128), a[:len(a)-1]...)
	for _, stage := range op.Coll.keeping(target.Tenant) {
		d = bsoncore.AppendDocumentElement(d, strconv.Itoa(n), bsoncore.Document(stage))
		n++
	}
	d, _ = bsoncore.AppendArrayEnd(d, 0)
	return d
}

// keeping are the stages that make a document the tenant's, whatever was computed before them. In an array
// a $set of a deeper field sets that of each element, and so none in an empty one: a parent of the field
// that was made one becomes an object.
func (c *Collection) keeping(tn *Tenant) (all []wire.Doc) {
	set := func(fields func(d []byte) []byte) {
		all = append(all, build(func(d []byte) []byte { return appendDoc(d, "$set", fields) }))
	}
	for i := 1; i < len(c.field.parts); i++ {
		parent := strings.Join(c.field.parts[:i], ".")
		set(func(d []byte) []byte {
			return appendDoc(d, parent, func(d []byte) []byte {
				return appendArray(d, "$cond", func(d []byte) []byte {
					d = appendDoc(d, "0", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$isArray", "$"+parent) })
					d = appendDoc(d, "1", func(d []byte) []byte { return d })
					return bsoncore.AppendStringElement(d, "2", "$"+parent)
				})
			})
		})
	}
	set(func(d []byte) []byte { return c.appendKept(d, tn) })
	return all
}

// appendKept appends the expression of the tenant's own value of the field: the one that is there
// where it is one of those that its documents carry, a number in whichever type, else its id.
func (c *Collection) appendKept(d []byte, tn *Tenant) []byte {
	literal := func(d []byte, key string, v wire.Value) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, key)
		d = v.AppendTo(d, "$literal")
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	}
	kept := tn.aliases
	if tn.ID.IsNumber() {
		kept = append([]wire.Value{tn.ID}, kept...)
	}
	if len(kept) == 0 {
		return literal(d, c.field.name, tn.ID)
	}
	i, d := bsoncore.AppendDocumentElementStart(d, c.field.name)
	j, d := bsoncore.AppendArrayElementStart(d, "$cond")
	k, d := bsoncore.AppendDocumentElementStart(d, "0")
	l, d := bsoncore.AppendArrayElementStart(d, "$in")
	d = bsoncore.AppendStringElement(d, "0", "$"+c.field.name)
	m, d := bsoncore.AppendArrayElementStart(d, "1")
	for n, v := range kept {
		d = literal(d, strconv.Itoa(n), v)
	}
	d, _ = bsoncore.AppendArrayEnd(d, m)
	d, _ = bsoncore.AppendArrayEnd(d, l)
	d, _ = bsoncore.AppendDocumentEnd(d, k)
	d = bsoncore.AppendStringElement(d, "1", "$"+c.field.name)
	d = literal(d, "2", tn.ID)
	d, _ = bsoncore.AppendArrayEnd(d, j)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// quoted is the text as a regular expression that matches only it: every byte of ASCII that is no
// letter or digit escaped (pcre2pattern: such an escape always stands for the byte itself).
func quoted(s []byte) string {
	out := make([]byte, 0, len(s)+8)
	for _, b := range s {
		if b == 0 {
			out = append(out, `\x00`...)
			continue
		}
		if b < 0x80 && (b < '0' || b > '9') && (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') {
			out = append(out, '\\')
		}
		out = append(out, b)
	}
	return string(out)
}

// narrowFilter adds the predicate to the filter that is the command's field.
func (r *Request) narrowFilter(id fieldID, pred wire.Doc, p *wire.Patch) {
	if pred == nil {
		return
	}
	v := r.value(id)
	filter, ok := v.Doc()
	if ok || v.Type == 0 || null(v) { // null is none to servers; any other type they refuse
		r.replace(id, bsoncore.AppendDocumentElement(nil, fieldNames[id], bsoncore.Document(both(filter, pred))), p)
	}
}

// narrowStages narrows the command's pipeline to its documents whose home the target is: by a filter of the
// first stage's own, or by a $match before it, or behind a first stage that must stay the first. One $match
// behind another is the same to a server as before it.
func (t *Table) narrowStages(r *Request, d *Decision, target *Target, p *wire.Patch) *wire.Error {
	row := stages[string(r.firstStage())]
	pred := t.predicate(d.Coll, d.Scope, target, row.comparing(t.collation(r)))
	switch {
	case pred == nil || t.narrowless(row, d.Scope, target):
		return nil
	case row.fixed():
		return row.broad()
	case row != nil && row.Query != "":
		r.replaceFirst(func(first wire.Doc) wire.Doc { return queried(first, row.Query, pred) }, p)
		return nil
	}
	at := 0
	if row != nil {
		at = int(row.Lead)
	}
	r.insertStage(at, build(func(d []byte) []byte { return bsoncore.AppendDocumentElement(d, "$match", bsoncore.Document(pred)) }), p)
	return nil
}

// narrowless reports whether a pipeline that begins with the stage needs no predicate at the target: it reads
// figures of no tenant's, or, where it has no place for one, the database is that of the tenant who is named.
func (t *Table) narrowless(first *Stage, s Scope, target *Target) bool {
	if first == nil || first.Lead != Rules {
		return false
	}
	return first.Class == Info && s.Only == nil || t.ownOf(s, target)
}

// ownOf reports whether the target is a database of the only tenant whose documents are concerned.
func (t *Table) ownOf(s Scope, target *Target) bool {
	return target.Tenant != nil && len(s.Only) == 1 && t.byValue.find(s.Only[0]) == target.Tenant
}

// fixed reports whether a pipeline that begins with the stage has no place for a predicate. The stage may be
// nil.
func (s *Stage) fixed() bool { return s != nil && s.Lead == Rules && s.Query == "" }

// comparing is the collation by which the stage's own filter, or a $match in its place, compares strings: an
// index of vectors has none. The stage may be nil.
func (s *Stage) comparing(collation wire.Value) wire.Value {
	if s != nil && s.Score != "" {
		return wire.Value{}
	}
	return collation
}

// broad refuses a pipeline that begins with the stage where it would tell of other tenants too.
func (s *Stage) broad() *wire.Error {
	return wire.Errorf(wire.IllegalOperation,
		"%s tells of all that a database holds, and nothing can leave other tenants' documents out of it; where the command's comment names a tenant, leave that out", s.Name)
}

// firstStage is the name of the pipeline's first stage; nil where there is none.
func (r *Request) firstStage() []byte {
	a, _ := r.value(fPipeline).Array()
	it := a.Iter()
	if !it.Next() {
		return nil
	}
	d, _ := it.Value.Doc()
	if it = d.Iter(); !it.Next() {
		return nil
	}
	return it.Key
}

// Operations reports whether the command is an aggregate that begins with $currentOp.
func (r *Request) Operations() bool {
	if r.Cmd == nil || r.Cmd.Tenant.Kind != InStages {
		return false
	}
	row := stages[string(r.firstStage())]
	return row != nil && row.Over == Everywhere
}

// insertStage puts a stage into the command's pipeline before the one with the index.
func (r *Request) insertStage(index int, stage wire.Doc, p *wire.Patch) {
	f, ok := r.field(fPipeline)
	a, isArray := f.Value.Array()
	if !ok || !isArray {
		return
	}
	inside := append(r.within(), f.At)
	it := a.Iter()
	at := f.At + 4
	for n := 0; it.Next(); n++ {
		if n < index {
			at = f.At + it.End()
			continue
		}
		key := f.At + it.Start + 1
		p.Replace(key, len(it.Key), []byte(strconv.Itoa(n+1)), inside...)
	}
	p.Replace(at, 0, bsoncore.AppendDocumentElement(nil, strconv.Itoa(index), bsoncore.Document(stage)), inside...)
}

// replaceFirst puts another stage in the place of the pipeline's first.
func (r *Request) replaceFirst(with func(wire.Doc) wire.Doc, p *wire.Patch) {
	f, _ := r.field(fPipeline)
	a, _ := f.Value.Array()
	it := a.Iter()
	if !it.Next() {
		return
	}
	first, _ := it.Value.Doc()
	p.Replace(f.At+it.At, len(first), with(first), append(r.within(), f.At)...)
}

// both is { $and: [filter, pred] }, or pred alone where the filter says nothing.
func both(filter, pred wire.Doc) wire.Doc {
	if len(filter) <= 5 {
		return pred
	}
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, len(filter)+len(pred)+32))
	j, d := bsoncore.AppendArrayElementStart(d, "$and")
	d = bsoncore.AppendDocumentElement(d, "0", bsoncore.Document(filter))
	d = bsoncore.AppendDocumentElement(d, "1", bsoncore.Document(pred))
	d, _ = bsoncore.AppendArrayEnd(d, j)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// FitNames is an operation of a bulkWrite for a list of namespaces in which its own has another
// place; names maps the old places to the new ones, and grows.
func (op *Op) FitNames(entry wire.Doc, names map[int]int) wire.Doc {
	n, ok := names[op.ns]
	if !ok {
		n = len(names)
		names[op.ns] = n
	}
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, len(entry)+8))
	it := entry.Iter()
	if it.Next() {
		d = bsoncore.AppendInt32Element(d, string(it.Key), int32(n))
		d = append(d, entry[it.End():len(entry)-1]...)
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}
