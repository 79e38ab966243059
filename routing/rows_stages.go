package routing

import (
	"math"
	"slices"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// barrier is a stage that no server moves a $match before: what stands behind it is evaluated on
// documents alone that came through. A $match does not swap with a $limit (DocumentSourceLimit does not
// declare itself swappable).
var barrier = build(func(d []byte) []byte { return bsoncore.AppendInt64Element(d, "$limit", math.MaxInt64) })

// narrowing makes one pipeline anew.
type narrowing struct {
	*isolation
	db    *Database
	pred  wire.Doc // of the documents that it begins with; nil where they have been narrowed, or need not be
	out   []byte
	n     int  // stages in out
	fixed bool // the barrier stands
	depth int
}

// pipeline appends the elements of a pipeline that begins with a collection's documents, narrowed.
func (x *isolation) pipeline(dst []byte, db *Database, c *Collection, v wire.Value, depth int) ([]byte, *wire.Error) {
	var pred wire.Doc
	if c != nil {
		pred = x.pred(c)
	}
	return x.narrowed(dst, db, pred, v, depth)
}

func (x *isolation) narrowed(dst []byte, db *Database, pred wire.Doc, v wire.Value, depth int) ([]byte, *wire.Error) {
	a, ok := v.Array()
	switch {
	case !ok:
		return nil, wire.Errorf(wire.TypeMismatch, "a pipeline must be an array of stages")
	case depth > maxNesting:
		return nil, wire.Errorf(wire.BadValue, "pipelines are nested deeper than %d levels", maxNesting)
	}
	w := narrowing{isolation: x, db: db, pred: pred, out: dst, depth: depth}
	it := a.Iter()
	for it.Next() {
		if err := w.stage(it.Value); err != nil {
			return nil, err
		}
	}
	if w.n == 0 && pred != nil {
		w.match(pred)
	}
	return w.out, whole(it)
}

// emptyArray is an array without elements.
var emptyArray = wire.Value{Type: bsoncore.TypeArray, Data: []byte{5, 0, 0, 0, 0}}

func (w *narrowing) add(stage wire.Doc) {
	w.out = bsoncore.AppendDocumentElement(w.out, strconv.Itoa(w.n), bsoncore.Document(stage))
	w.n++
}

func (w *narrowing) match(filter wire.Doc) {
	w.add(stageOf("$match", wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: filter}))
}

func stageOf(name string, spec wire.Value) wire.Doc {
	return build(func(d []byte) []byte { return spec.AppendTo(d, name) })
}

// stage takes one stage over.
func (w *narrowing) stage(v wire.Value) *wire.Error {
	d, _ := v.Doc()
	it := d.Iter()
	if !it.Next() {
		return wire.Errorf(wire.FailedToParse, "a pipeline stage must be an object with one field")
	}
	row, name, spec := stages[string(it.Key)], it.Key, it.Value
	if it.Next() || it.Err() != nil {
		return wire.Errorf(wire.FailedToParse, "a pipeline stage must be an object with one field")
	}
	if row == nil || row.Rows == RowsDeny {
		return notOpen(name)
	}
	if w.n == 0 && w.pred != nil && row.Lead == Follows {
		w.match(w.pred)
	}
	switch row.Rows {
	case RowsFilter:
		return w.filterStage(spec)
	case RowsQuery:
		return w.query(row, spec)
	case RowsJoin:
		return w.join(row, spec)
	case RowsFacet:
		return w.facet(row, spec)
	case RowsMerge:
		return w.merge(spec)
	case RowsOwn, RowsFigures:
		if w.shared() {
			return notOpen(name)
		}
	}
	if row.Rows == RowsAllow && row.Lead == Rules && w.pred != nil {
		return wire.Errorf(wire.Unauthorized, "%s is open to this connection only where no collection is named", row.Name)
	}
	if err := w.look.expression(spec, 0); err != nil {
		return err
	}
	w.add(stageOf(row.Name, spec))
	if row.Rows == RowsOwn && w.pred != nil {
		w.match(w.pred)
	}
	return nil
}

// filterStage takes a $match over. One that may fail on a document comes behind the barrier.
func (w *narrowing) filterStage(spec wire.Value) *wire.Error {
	filter, ok := spec.Doc()
	if !ok {
		return wire.Errorf(wire.BadValue, "the match filter must be an expression in an object")
	}
	look := inspector{}
	if err := look.filter(filter, 0); err != nil {
		return err
	}
	guarded := look.fails && w.pred != nil && w.shared()
	switch {
	case w.n == 0 && w.pred != nil && !guarded:
		filter = both(filter, w.pred)
	case w.n == 0 && w.pred != nil:
		w.match(w.pred)
	}
	if guarded && !w.fixed {
		w.add(barrier)
		w.fixed = true
	}
	w.match(filter)
	return nil
}

// query takes a $geoNear over.
func (w *narrowing) query(row *Stage, spec wire.Value) *wire.Error {
	d, ok := spec.Doc()
	if !ok || w.n > 0 {
		return wire.Errorf(wire.FailedToParse, "%s must be the first stage of its pipeline", row.Name)
	}
	given, _ := d.Lookup("query")
	q, _ := given.Doc()
	q, err := w.filter(q, w.pred)
	if err != nil {
		return err
	}
	out, err := w.fields(d, geoFields, "query")
	if err != nil {
		return err
	}
	w.add(stageOf(row.Name, with(out, "query", q)))
	return nil
}

// filter is a filter with the predicate, where it may stand before a server at once.
func (x *isolation) filter(q, pred wire.Doc) (wire.Doc, *wire.Error) {
	look := inspector{}
	if err := look.filter(q, 0); err != nil {
		return nil, err
	}
	if pred == nil {
		return q, nil
	}
	if look.fails && x.shared() {
		return nil, wire.Errorf(wire.Unauthorized,
			"$expr with operators that may fail on a document is not open to this connection in a filter; put it into a $match of a pipeline")
	}
	return both(q, pred), nil
}

// The fields of stages that connections with row isolation may use, less those that are made anew.
var (
	geoFields   = words("near distanceField spherical maxDistance minDistance distanceMultiplier includeLocs key uniqueDocs limit num")
	joinFields  = words("from localField foreignField let as coll startWith connectFromField connectToField maxDepth depthField")
	mergeFields = words("on let whenNotMatched")
)

// fields is a stage's specification less the fields that are made anew. All others have to be allowed,
// and their expressions known.
func (w *narrowing) fields(d wire.Doc, allowed map[string]bool, anew ...string) (wire.Doc, *wire.Error) {
	var seen []string
	i, out := bsoncore.AppendDocumentStart(nil)
	it := d.Iter()
	for it.Next() {
		key := string(it.Key)
		if slices.Contains(seen, key) {
			return nil, duplicate(it.Key) // two readers could see different ones
		}
		if seen = append(seen, key); slices.Contains(anew, key) {
			continue
		}
		if !allowed[key] {
			return nil, notOpen(it.Key)
		}
		if err := w.look.expression(it.Value, 0); err != nil {
			return nil, err
		}
		out = it.Value.AppendTo(out, key)
	}
	out, _ = bsoncore.AppendDocumentEnd(out, i)
	return out, whole(it)
}

// with is a document with one more field.
func with(d wire.Doc, key string, sub wire.Doc) wire.Value {
	out := append(wire.Doc{}, d[:len(d)-1]...)
	if sub != nil {
		out = bsoncore.AppendDocumentElement(out, key, bsoncore.Document(sub))
	}
	out, _ = bsoncore.AppendDocumentEnd(out, 0)
	return wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: out}
}

// foreign is a collection that a stage reads: one that is open to the connection and in the same
// database, since no server reads another.
func (w *narrowing) foreign(stage string, v wire.Value) (*Collection, *wire.Error) {
	name, ok := v.Str()
	if !ok {
		return nil, wire.Errorf(wire.Unauthorized, "%s must name its collection by a string", stage)
	}
	c, err := w.db.open(name, false)
	if err == nil && w.tn.home(c) != w.target {
		err = wire.Errorf(wire.IllegalOperation,
			"%s reads %q, which is in another database than the documents before it; read it by a command of its own", stage, name)
	}
	return c, err
}

func (w *narrowing) join(row *Stage, spec wire.Value) *wire.Error {
	d, isDoc := spec.Doc()
	if row.Class == Union && !isDoc {
		c, err := w.foreign(row.Name, spec)
		if err != nil {
			return err
		}
		d, _ = with(build(func(d []byte) []byte { return spec.AppendTo(d, "coll") }), "", nil).Doc()
		return w.joined(row, d, c)
	}
	if !isDoc {
		return wire.Errorf(wire.FailedToParse, "%s must be an object", row.Name)
	}
	from, named := d.Lookup(row.Coll)
	if !named && row.Sub != "" { // its pipeline begins with $documents
		return w.joined(row, d, nil)
	}
	c, err := w.foreign(row.Name, from)
	if err != nil {
		return err
	}
	return w.joined(row, d, c)
}

// joined takes over a stage that reads another collection, with the predicate of that.
func (w *narrowing) joined(row *Stage, d wire.Doc, c *Collection) *wire.Error {
	var pred wire.Doc
	if c != nil {
		pred = w.isolation.pred(c)
	}
	sub, given := d.Lookup("pipeline")
	restrict, _ := d.Lookup("restrictSearchWithMatch")
	q, _ := restrict.Doc()
	q, err := w.filter(q, pred)
	if err != nil {
		return err
	}
	out, err := w.fields(d, joinFields, "pipeline", "restrictSearchWithMatch")
	if err != nil {
		return err
	}
	switch {
	case row.Sub == "": // $graphLookup
		w.add(stageOf(row.Name, with(out, "restrictSearchWithMatch", q)))
		return nil
	case !given && pred == nil:
		w.add(stageOf(row.Name, with(out, "", nil)))
		return nil
	case c == nil && !beginsWith(sub, "$documents"):
		return wire.Errorf(wire.Unauthorized, "%s must name its collection, or begin its pipeline with $documents", row.Name)
	}
	if !given {
		sub = emptyArray
	}
	i, stage := bsoncore.AppendArrayElementStart(append(wire.Doc{}, out[:len(out)-1]...), "pipeline")
	if stage, err = w.narrowed(stage, w.db, pred, sub, w.depth+1); err != nil {
		return err
	}
	stage, _ = bsoncore.AppendArrayEnd(stage, i)
	stage, _ = bsoncore.AppendDocumentEnd(stage, 0)
	w.add(stageOf(row.Name, wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: stage}))
	return nil
}

// beginsWith reports whether a pipeline's first stage is the one.
func beginsWith(pipeline wire.Value, stage string) bool {
	a, _ := pipeline.Array()
	it := a.Iter()
	if !it.Next() {
		return false
	}
	d, _ := it.Value.Doc()
	it = d.Iter()
	return it.Next() && string(it.Key) == stage
}

// facet takes the pipelines of a $facet over. What they begin with has been narrowed.
func (w *narrowing) facet(row *Stage, spec wire.Value) *wire.Error {
	d, ok := spec.Doc()
	if !ok {
		return wire.Errorf(wire.FailedToParse, "%s must be an object", row.Name)
	}
	i, out := bsoncore.AppendDocumentStart(nil)
	it := d.Iter()
	for it.Next() {
		j, next := bsoncore.AppendArrayElementStart(out, string(it.Key))
		next, err := w.narrowed(next, w.db, nil, it.Value, w.depth+1)
		if err != nil {
			return err
		}
		out, _ = bsoncore.AppendArrayEnd(next, j)
	}
	out, _ = bsoncore.AppendDocumentEnd(out, i)
	w.add(stageOf(row.Name, wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: out}))
	return whole(it)
}

// merge takes a $merge into a tenant collection of the tenant's own database over, where every document
// keeps the tenant whatever was computed.
func (w *narrowing) merge(spec wire.Value) *wire.Error {
	d, _ := spec.Doc()
	into, _ := d.Lookup("into")
	if _, ok := spec.Str(); ok {
		into = spec
		d = wire.Doc{5, 0, 0, 0, 0}
	}
	if where, ok := into.Doc(); ok {
		db, _ := where.Lookup("db")
		if s, ok := db.Str(); ok && string(s) != w.db.Name {
			return notYours(s)
		}
		into, _ = where.Lookup("coll")
	}
	name, _ := into.Str()
	c, err := w.db.open(name, true)
	switch {
	case err != nil:
		return err
	case w.shared() || !c.Tenant || w.tn.home(c) != w.target:
		return wire.Errorf(wire.Unauthorized, "$merge is open to this connection only within a database of its tenant's own")
	}
	for _, stage := range c.keeping(w.tn) {
		w.add(stage)
	}
	out, err := w.fields(d, mergeFields, "into", "whenMatched")
	if err != nil {
		return err
	}
	matched, ok := d.Lookup("whenMatched")
	if matched.Type == bsoncore.TypeArray {
		if matched, err = w.updatePipeline(c, matched); err != nil {
			return err
		}
	}
	own := bsoncore.AppendStringElement(append(wire.Doc{}, out[:len(out)-1]...), "into", string(name))
	if ok {
		own = matched.AppendTo(own, "whenMatched")
	}
	own, _ = bsoncore.AppendDocumentEnd(own, 0)
	w.add(stageOf("$merge", wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: own}))
	return nil
}
