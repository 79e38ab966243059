package routing

import (
	"bytes"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// A view is a definition and holds no documents, so that it stays in shared, whosever documents it
// shows. A read of one that shows documents which are not all there is made a pipeline of the
// collection behind it, as a server itself does, and goes the way of every pipeline.

// ViewSpec is a view of a shared database.
type ViewSpec struct {
	Name      string   // "db.view"
	On        string   // the collection or view that it reads
	Pipeline  wire.Doc // an array
	Collation wire.Doc // nil where strings are compared as bytes
}

// Equal reports whether both are the same view with the same definition.
func (v ViewSpec) Equal(o ViewSpec) bool {
	return v.Name == o.Name && v.On == o.On && bytes.Equal(v.Pipeline, o.Pipeline) && bytes.Equal(v.Collation, o.Collation)
}

// Collated is a collection that compares strings by a collation of its own.
type Collated struct {
	Name      string // "db.coll"
	Collation wire.Doc
}

// Equal reports whether both are the same collection with the same collation.
func (x Collated) Equal(o Collated) bool {
	return x.Name == o.Name && bytes.Equal(x.Collation, o.Collation)
}

// view is the definition of a view.
type view struct {
	on        string
	stages    []wire.Doc
	collation wire.Doc
	bad       *wire.Error // why its pipeline can not be read
}

// Expanded is what a command stands for that reads a view.
type Expanded struct {
	Command wire.Doc // of the collection behind the view
	Shape   Shape    // how its reply becomes the one that the client expects
}

// Shape says how the reply of an aggregate becomes that of another command.
type Shape uint8

// Shapes.
const (
	AsCursor Shape = iota // a cursor, under the name that the client has given
	AsCount               // the number in its document
	AsValues              // the array in its document
)

// shaped is the field of the one document that a count or a distinct is told by.
const shaped = "values"

// Field is the field of the reply's document that has it.
func (s Shape) Field() string { return shaped }

// ViewRead is how a command that reads a view becomes an aggregate.
type ViewRead struct {
	Parts []ViewPart // of the pipeline, in its order
	Last  []wire.Doc // stages behind them
	Keep  FieldSet   // fields that the aggregate takes as they are
	Deny  FieldSet   // fields that no aggregate has
	Shape Shape
}

// ViewPart is what a field of a command becomes in a pipeline.
type ViewPart struct {
	Field  fieldID
	Stages func(v wire.Value) ([]wire.Doc, *wire.Error)
}

// addView enters a view. What a list says of the name is said of a collection, which it is not.
func (db *Database) addView(v *ViewSpec, name string, cols *[]*Collection) {
	c := db.exact.find([]byte(name))
	if c == nil {
		c = &Collection{db: db, name: name, num: len(*cols), field: db.rest.field}
		*cols = append(*cols, c)
		db.exact.set(name, c)
	}
	c.Tenant, c.view = false, &view{on: v.On, collation: v.Collation}
	steps, err := stepsOf(wire.Value{Type: bsoncore.TypeArray, Data: v.Pipeline})
	for i := range steps {
		c.view.stages = append(c.view.stages, steps[i].doc)
	}
	c.view.bad = err
}

// settleViews finds the views that show documents of tenants who have databases of their own.
func (t *Table) settleViews() {
	for _, db := range t.databases {
		seen := map[*Collection]bool{}
		for c := range db.exact.all {
			if c.view != nil {
				c.over = db.reaches(c, seen)
			}
		}
	}
}

// reaches reports whether a view, or a collection, shows documents that are not all in shared.
func (db *Database) reaches(c *Collection, seen map[*Collection]bool) bool {
	v := c.view
	if v == nil {
		return c.touched()
	}
	if known, ok := seen[c]; ok {
		return known
	}
	seen[c] = true // where it reads itself, which servers do not let it, its read is refused
	over := v.bad != nil || strings.HasPrefix(v.on, "system.") && db.touched() || db.reaches(db.collection([]byte(v.on)), seen)
	for i := 0; i < len(v.stages) && !over; i++ {
		var w walker
		if err := w.stage(v.stages[i], 0, 0); err != nil {
			over = true
		}
		for _, u := range w.uses {
			over = over || u.coll != nil && db.reaches(db.collection(u.coll), seen)
		}
	}
	seen[c] = over
	return over
}

// readsViews reports whether a stage of the command's pipeline names a view that has to be expanded.
func (r *Request) readsViews(db *Database) bool {
	uses, _ := r.stages()
	for i := range uses {
		if u := &uses[i]; u.row != nil && u.row.Via != NoView && u.coll != nil && db.collection(u.coll).over {
			return true
		}
	}
	return false
}

// onView refuses what no view takes, in the words of servers.
func onView(db *Database, name []byte) *wire.Error {
	return wire.Errorf(wire.NotSupportedOnView, "Namespace %s.%s is a view, not a collection", db.Name, name)
}

// expand decides for a read of a view, or of a collection that is joined with one.
func (t *Table) expand(r *Request, db *Database, d *Decision) *wire.Error {
	if d.Coll.over && r.Watches() {
		return onView(db, r.Coll())
	}
	return t.standsFor(r, d, "it reads a view")
}

// standsFor has the aggregate run that the command stands for.
func (t *Table) standsFor(r *Request, d *Decision, why string) *wire.Error {
	x, err := t.AsPipeline(r, d.Coll)
	if err != nil {
		return err
	}
	d.Action, d.Expanded, d.Why = Expand, x, why
	return nil
}

// AsPipeline is what a read of the collection, or view, stands for. The error says what no pipeline offers.
func (t *Table) AsPipeline(r *Request, c *Collection) (*Expanded, *wire.Error) {
	command, err := t.expanded(r, c.db, c)
	if err != nil {
		return nil, err
	}
	return &Expanded{Command: command, Shape: r.Cmd.View.Shape}, nil
}

// expanded is the aggregate that the command stands for.
func (t *Table) expanded(r *Request, db *Database, c *Collection) (wire.Doc, *wire.Error) {
	x := expander{db: db, collation: r.value(fCollation), left: maxExpanded}
	coll, stages := r.Coll(), []wire.Doc(nil)
	if c.over {
		var err *wire.Error
		if err = x.under(c.view); err != nil {
			return nil, err
		}
		if coll, stages, err = x.behind(coll, 0); err != nil {
			return nil, err
		}
	}
	own, err := r.asStages(c.over)
	if err == nil {
		own, err = x.all(own, 0)
	}
	if err != nil {
		return nil, err
	}
	stages = append(stages, own...)
	return r.asAggregate(coll, stages, x.collation, c.over && db.collated[string(coll)].Type != 0), nil
}

// whenRead are fields that say how a cursor is read, and not what of.
var whenRead = fields("noCursorTimeout allowPartialResults singleBatch")

// asStages is the command as the pipeline that it stands for, which is a view's where servers have it so.
func (r *Request) asStages(view bool) (all []wire.Doc, err *wire.Error) {
	how := r.Cmd.View
	for it := r.Msg.Body.Iter(); it.Next(); {
		id := idOf(it.Key)
		if how.Deny.has(id) && (view || !whenRead.has(id)) && says(it.Value) && !r.onlyOne(id) {
			return nil, wire.Errorf(wire.InvalidPipelineOperator, "Option %s not supported in aggregation.", it.Key)
		}
	}
	for _, p := range how.Parts {
		v := r.value(p.Field)
		if v.Type == 0 {
			continue
		}
		stages, err := p.Stages(v)
		if err != nil {
			return nil, err
		}
		all = append(all, stages...)
	}
	return append(all, how.Last...), nil
}

// onlyOne reports whether the field is singleBatch beside a limit of 1, which servers let pass: it is
// how drivers ask for one document.
func (r *Request) onlyOne(id fieldID) bool {
	limit, _ := r.value(fLimit).Int()
	return id == fSingleBatch && limit == 1
}

// says reports whether an option is more than there.
func says(v wire.Value) bool {
	d, ok := v.Doc()
	return v.True() || ok && len(d) > 5
}

// asAggregate is the aggregate of the stages with what else the command says. Bytes says that where it
// says no collation it has none, whatever the collection's own is.
func (r *Request) asAggregate(coll []byte, stages []wire.Doc, collation wire.Value, bytes bool) wire.Doc {
	how := r.Cmd.View
	return build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "aggregate", string(coll))
		d = AppendStages(d, "pipeline", stages)
		for it := r.Msg.Body.Iter(); it.Next(); {
			if id := idOf(it.Key); generic.has(id) || how.Keep.has(id) {
				d = append(d, r.Msg.Body[it.Start:it.End()]...)
			}
		}
		if !how.Keep.has(fCursor) {
			d = appendDoc(d, "cursor", func(d []byte) []byte {
				if v := r.value(fBatchSize); v.Type != 0 && how.Shape == AsCursor {
					d = v.AppendTo(d, "batchSize")
				}
				return d
			})
		}
		switch {
		case collation.Type != 0:
			d = collation.AppendTo(d, "collation")
		case bytes:
			d = AppendSimple(d)
		}
		return d
	})
}

// explaining is the request, an explain, of another command.
func (r *Request) explaining(command wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		it := r.Msg.Body.Iter()
		it.Next()
		d = bsoncore.AppendDocumentElement(d, string(it.Key), bsoncore.Document(command))
		return append(d, r.Msg.Body[it.End():len(r.Msg.Body)-1]...)
	})
}

// maxViews is how many views servers let stand on each other, and maxExpanded how many may be put into
// one pipeline.
const (
	maxViews    = 20
	maxExpanded = 200
)

// expander puts what views stand for in the place of their names.
type expander struct {
	db        *Database
	collation wire.Value // of the whole command; none for bytes
	left      int        // views that may still be put in
}

// under takes the collation of the view that the command reads. One of the command's own has to be the
// same.
func (x *expander) under(v *view) *wire.Error {
	own := wire.Value{}
	if v.collation != nil {
		own = wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: unversioned(v.collation)}
	}
	if x.collation.Type != 0 && !sameCollation(x.collation, own) {
		return wire.Errorf(wire.OptionNotOnView, "Cannot override a view's default collation")
	}
	x.collation = own
	return nil
}

// behind is the collection that a view reads in the end, and the stages of it and of those between; the
// name itself for what is no view, or one that shared can answer.
func (x *expander) behind(name []byte, depth int) (on []byte, stages []wire.Doc, err *wire.Error) {
	on = name
	for c := x.db.collection(on); c.over; c = x.db.collection(on) {
		if depth++; depth > maxViews || x.left == 0 {
			return nil, nil, wire.Errorf(wire.ViewDepthExceeded, "View depth too deep or view cycle detected on %s.%s", x.db.Name, name)
		}
		x.left--
		if c.view.bad != nil {
			return nil, nil, c.view.bad
		}
		own, err := x.all(c.view.stages, depth)
		if err != nil {
			return nil, nil, err
		}
		on, stages = []byte(c.view.on), append(own, stages...)
	}
	return on, stages, nil
}

// all expands the views that the stages name.
func (x *expander) all(stages []wire.Doc, depth int) ([]wire.Doc, *wire.Error) {
	var out []wire.Doc
	for _, s := range stages {
		own, err := x.stage(s, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, own)
	}
	return out, nil
}

func (x *expander) stage(s wire.Doc, depth int) (wire.Doc, *wire.Error) {
	row := rowOf(s)
	if row == nil || row.Via == NoView && row.Sub == "" {
		return s, nil
	}
	it := s.Iter()
	it.Next()
	if depth > maxNesting {
		return nil, wire.Errorf(wire.BadValue, "pipelines are nested deeper than %d levels", maxNesting)
	}
	spec, isDoc := it.Value.Doc()
	name, named := it.Value.Str()
	if isDoc {
		v, _ := spec.Lookup(row.Coll)
		name, named = v.Str()
	} else if !named || !row.Bare {
		return s, nil
	}
	j := joined{expander: x, row: row, spec: spec, depth: depth}
	if named = named && row.Via != NoView && x.db.collection(name).over; named {
		if err := j.read(name); err != nil {
			return nil, err
		}
	} else if !isDoc {
		return s, nil
	}
	return j.stage(named)
}

// joined is a stage with a pipeline of its own, and what is behind the view that it reads.
type joined struct {
	*expander
	row    *Stage
	spec   wire.Doc
	depth  int
	on     []byte
	stages []wire.Doc
}

func (j *joined) read(name []byte) (err *wire.Error) {
	c := j.db.collection(name)
	own := wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: c.view.collation}
	if c.view.collation == nil {
		own = wire.Value{}
	}
	if !sameCollation(j.collation, own) {
		return wire.Errorf(wire.OptionNotOnView, "%s of the view %q, which has another collation than the pipeline", j.row.Name, name)
	}
	if j.on, j.stages, err = j.behind(name, j.depth); err != nil {
		return err
	}
	by, ok := j.spec.Lookup(j.row.By)
	path, isPath := by.Str()
	switch {
	case j.row.Via == ViaFilter:
		if !filters(j.stages) {
			return wire.Errorf(wire.IllegalOperation,
				"%s of the view %q, whose pipeline does more than $match, is not offered while tenants of the collection behind it have "+
					"databases of their own; name the collection, with restrictSearchWithMatch for what the view leaves out", j.row.Name, name)
		}
	case j.row.By != "" && ok && isPath && !passesAll(j.stages, path):
		return wire.Errorf(wire.IllegalOperation,
			"%s of the view %q by %q, which the view's pipeline makes or may make, is not offered while tenants of the collection behind it "+
				"have databases of their own; give it a pipeline, with a $match by $expr, in place of foreignField", j.row.Name, name, path)
	}
	return nil
}

// stage is the stage with the collection in place of the view, and with what views there are in its
// pipelines expanded.
func (j *joined) stage(viewed bool) (wire.Doc, *wire.Error) {
	var failed *wire.Error
	sub := func(v wire.Value) []wire.Doc {
		all, err := j.all(docsOf(v), j.depth+1)
		if err != nil {
			failed = err
		}
		return all
	}
	out := stage(j.row.Name, func(d []byte) []byte {
		piped, filtered := false, false
		for it := j.spec.Iter(); it.Next(); {
			key := string(it.Key)
			_, isArray := it.Value.Array()
			switch {
			case viewed && key == j.row.Coll:
			case viewed && j.row.Via == ViaFilter && key == j.row.By:
				given, _ := it.Value.Doc()
				d, filtered = j.appendFilter(d, given), true
			case isArray && j.row.Sub == "*":
				d = AppendStages(d, key, sub(it.Value))
			case isArray && key == j.row.Sub:
				d, piped = AppendStages(d, key, slices.Concat(j.stages, sub(it.Value))), true
			default:
				d = append(d, j.spec[it.Start:it.End()]...)
			}
		}
		if !viewed {
			return d
		}
		d = bsoncore.AppendStringElement(d, j.row.Coll, string(j.on))
		switch {
		case len(j.stages) == 0:
		case j.row.Via == ViaPipeline && !piped:
			d = AppendStages(d, j.row.Sub, j.stages)
		case j.row.Via == ViaFilter && !filtered:
			d = j.appendFilter(d, nil)
		}
		return d
	})
	return out, failed
}

// appendFilter appends the stage's filter with the view's stages, which are filters too.
func (j *joined) appendFilter(d []byte, given wire.Doc) []byte {
	all := []wire.Doc{}
	for _, s := range j.stages {
		it := s.Iter()
		it.Next()
		q, _ := it.Value.Doc()
		all = append(all, q)
	}
	if given != nil {
		all = append(all, given)
	}
	if len(all) == 0 {
		return d
	}
	return appendDoc(d, j.row.By, func(d []byte) []byte { return appendDocs(d, "$and", all) })
}

// filters reports whether the stages do nothing but leave documents out.
func filters(stages []wire.Doc) bool {
	for _, s := range stages {
		if row := rowOf(s); row == nil || row.Rows != RowsFilter {
			return false
		}
	}
	return true
}

// passesAll reports whether a document's field behind the stages is the one before them, and a filter by
// it the same there as here.
func passesAll(stages []wire.Doc, path []byte) bool {
	field := newFieldPath(string(path))
	x := extractor{field: &field}
	for _, s := range stages {
		it := s.Iter()
		if !it.Next() || !x.passes(it.Key, it.Value, false) {
			return false
		}
	}
	return true
}

// collationDefaults are what a collation says that does not say it.
var collationDefaults = map[string]wire.Value{
	"caseLevel": boolean(false), "caseFirst": wire.StringValue("off"), "strength": number(3), "numericOrdering": boolean(false),
	"alternate": wire.StringValue("non-ignorable"), "maxVariable": wire.StringValue("punct"),
	"normalization": boolean(false), "backwards": boolean(false),
}

func boolean(b bool) wire.Value {
	return wire.Value{Type: bsoncore.TypeBoolean, Data: bsoncore.AppendBoolean(nil, b)}
}

func number(n int32) wire.Value {
	return wire.Value{Type: bsoncore.TypeInt32, Data: bsoncore.AppendInt32(nil, n)}
}

// sameCollation reports whether two collations compare strings alike: servers keep one in full of which
// a client has said a part.
func sameCollation(a, b wire.Value) bool {
	if simple(a) || simple(b) {
		return simple(a) && simple(b)
	}
	one, _ := a.Doc()
	other, _ := b.Doc()
	return within(one, other) && within(other, one)
}

// within reports whether all that the one says the other says too, or leaves to the default.
func within(one, other wire.Doc) bool {
	for it := one.Iter(); it.Next(); {
		if string(it.Key) == "version" {
			continue
		}
		v, ok := other.Lookup(string(it.Key))
		if !ok {
			v = collationDefaults[string(it.Key)]
		}
		if wire.Compare(v, it.Value) != 0 {
			return false
		}
	}
	return true
}

// unversioned is a collation less the version of the library that a server has it from: another
// server may have another.
func unversioned(c wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		for it := c.Iter(); it.Next(); {
			if string(it.Key) != "version" {
				d = append(d, c[it.Start:it.End()]...)
			}
		}
		return d
	})
}

// The stages that fields of commands become.

func one(name string, v wire.Value) []wire.Doc {
	return []wire.Doc{build(func(d []byte) []byte { return v.AppendTo(d, name) })}
}

// asStage is a field that is a stage as it is; none where it says nothing.
func asStage(stage string) func(wire.Value) ([]wire.Doc, *wire.Error) {
	return func(v wire.Value) ([]wire.Doc, *wire.Error) {
		d, ok := v.Doc()
		switch {
		case null(v) || ok && len(d) <= 5:
			return nil, nil
		case !ok:
			return nil, wire.Errorf(wire.TypeMismatch, "what is to become %s must be a document", stage)
		}
		if _, natural := d.Lookup("$natural"); natural && stage == "$sort" {
			return nil, wire.Errorf(wire.InvalidPipelineOperator, "Sort option $natural not supported in aggregation.")
		}
		return one(stage, v), nil
	}
}

// amount is a field that says how many; none for 0. A negative limit of a count is one without its sign.
func amount(stage string, signed bool) func(wire.Value) ([]wire.Doc, *wire.Error) {
	return func(v wire.Value) ([]wire.Doc, *wire.Error) {
		n, ok := v.Int()
		switch {
		case null(v) || ok && n == 0:
			return nil, nil
		case !ok:
			return nil, wire.Errorf(wire.TypeMismatch, "what is to become %s must be a number", stage)
		case n < 0 && !signed:
			return nil, wire.Errorf(wire.NegativeField, "BSON field '%s' value must be >= 0, actual value '%d'", stage[1:], n)
		}
		return []wire.Doc{counted(stage, max(n, -n))}, nil
	}
}

// stagesOf is the pipeline of an aggregate.
func stagesOf(v wire.Value) ([]wire.Doc, *wire.Error) {
	steps, err := stepsOf(v)
	var all []wire.Doc
	for i := range steps {
		all = append(all, steps[i].doc)
	}
	return all, err
}

// distinctBy are the stages that collect the values of a field: arrays on the way to it are taken apart
// once, as a distinct takes them.
func distinctBy(v wire.Value) ([]wire.Doc, *wire.Error) {
	key, ok := v.Str()
	switch {
	case !ok:
		return nil, wire.Errorf(wire.TypeMismatch, "the key of a distinct must be a string")
	case len(key) == 0 || key[0] == '$' || bytes.HasSuffix(key, []byte(".")):
		return nil, wire.Errorf(wire.BadValue, "%q is no path of a field", key)
	}
	var all []wire.Doc
	for at := 0; at < len(key); at++ {
		part, _, more := bytes.Cut(key[at:], []byte("."))
		if len(part) > 0 && part[0] >= '0' && part[0] <= '9' {
			return nil, wire.Errorf(wire.IllegalOperation,
				"distinct by %q is not offered of a view, or under a collation, while tenants have databases of their own: %q may be a "+
					"place in an array; use $group in an aggregate", key, part)
		}
		at += len(part)
		path := "$" + string(key[:at])
		all = append(all, stage("$unwind", func(d []byte) []byte {
			d = bsoncore.AppendStringElement(d, "path", path)
			return bsoncore.AppendBooleanElement(d, "preserveNullAndEmptyArrays", true)
		}))
		if more {
			all = append(all, typed("$eq", path, "object"))
		}
	}
	path := "$" + string(key)
	return append(all, typed("$ne", path, "missing"), stage("$group", func(d []byte) []byte {
		return bsoncore.AppendStringElement(d, "_id", path)
	}), stage("$group", func(d []byte) []byte {
		d = bsoncore.AppendNullElement(d, "_id")
		return appendDoc(d, shaped, func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$push", "$_id") })
	})), nil
}

// typed is a $match by the type of a field, by the name of it: "$eq" of the documents that have it, "$ne" of
// the others.
func typed(operator, path, name string) wire.Doc {
	return stage("$match", func(d []byte) []byte {
		return appendDoc(d, "$expr", func(d []byte) []byte {
			return appendArray(d, operator, func(d []byte) []byte {
				d = appendDoc(d, "0", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$type", path) })
				return bsoncore.AppendStringElement(d, "1", name)
			})
		})
	})
}
