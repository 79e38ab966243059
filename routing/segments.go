package routing

import (
	"bytes"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Segment is a part of a pipeline that runs in one go: the first at every home that it concerns,
// over a collection; each further one at one target, over the documents that the one before brings
// there. A join with a collection of which no tenant is known runs at every holder of that.
type Segment struct {
	Targets []*Target
	Stages  []wire.Doc // at a target: see [Table.StagesAt]
	Coll    []byte     // of the first; nil for those of documents that are brought
	Reads   bool       // some collection is read
	Info    bool       // its documents tell of servers and name databases
	Joined  string     // each target has a part of this array of each document, in the same order
	Also    []Segment  // what brings documents that follow those of the segment before
	Round   []wire.Doc // stages that make fewer documents of the same kind of what is brought; nil for none
	Skip    int64      // of the documents of all targets together
	Limit   int64      // likewise; 0 for no limit
	Counts  bool       // each target brings at most one document of numbers, which are to be summed
	Sort    wire.Doc   // the targets' documents are in this order, and are to be merged by it; nil for any order
	By      string     // path of the only field of Sort, which the documents have; "" where servers tell by what they sort

	of        *Collection // that Scope is about
	scope     Scope
	collation wire.Value
}

// Flows reports whether the segment's stages work on one document after the other, so that batches
// of what is brought can go through one at a time.
func (s *Segment) Flows() bool {
	for _, d := range s.Stages {
		if row := rowOf(d); row == nil || row.Class != Join && (row.Class != Row || row.Over != Each) {
			return false
		}
	}
	return true
}

// Clone is a copy that does not point into the request.
func (s *Segment) Clone() *Segment {
	c := *s
	c.Stages, c.Coll, c.collation.Data = nil, slices.Clone(s.Coll), slices.Clone(s.collation.Data)
	for _, d := range s.Stages {
		c.Stages = append(c.Stages, slices.Clone(d))
	}
	c.scope.Only = nil
	for _, v := range s.scope.Only {
		c.scope.Only = append(c.scope.Only, wire.Value{Type: v.Type, Data: slices.Clone(v.Data)})
	}
	return &c
}

// StagesAt are the segment's stages as the target gets them: with what keeps documents out whose
// home is elsewhere.
func (t *Table) StagesAt(s *Segment, target *Target) []wire.Doc {
	if s.of == nil {
		return s.Stages
	}
	var first *Stage
	if len(s.Stages) > 0 {
		first = rowOf(s.Stages[0])
	}
	pred := t.predicate(s.of, s.scope, target, first.comparing(s.collation))
	if pred == nil || t.narrowless(first, s.scope, target) {
		return s.Stages
	}
	if s.Joined != "" {
		return []wire.Doc{narrowJoin(s.Stages[0], pred)}
	}
	return narrowed(s.Stages, pred)
}

// narrowed are the stages with a $match before them, or behind a first that must stay the first.
func narrowed(stages []wire.Doc, pred wire.Doc) []wire.Doc {
	at := 0
	if len(stages) > 0 && rowOf(stages[0]) != nil {
		row := rowOf(stages[0])
		if row.Query != "" {
			return append([]wire.Doc{queried(stages[0], row.Query, pred)}, stages[1:]...)
		}
		at = int(row.Lead)
	}
	match := build(func(d []byte) []byte { return bsoncore.AppendDocumentElement(d, "$match", bsoncore.Document(pred)) })
	return slices.Insert(slices.Clone(stages), at, match)
}

// queried is a stage whose own filter asks for the predicate too.
func queried(s wire.Doc, path string, pred wire.Doc) wire.Doc {
	it := s.Iter()
	it.Next()
	spec, _ := it.Value.Doc()
	return stage(string(it.Key), func(d []byte) []byte {
		var given wire.Value
		for it := spec.Iter(); it.Next(); {
			if string(it.Key) == path {
				given = it.Value
				continue
			}
			d = append(d, spec[it.Start:it.End()]...)
		}
		if filter, ok := given.Doc(); ok || given.Type == 0 || null(given) {
			return bsoncore.AppendDocumentElement(d, path, bsoncore.Document(both(filter, pred)))
		}
		return appendDoc(d, path, func(d []byte) []byte { // the server says what is wrong with it
			return appendArray(d, "$and", func(d []byte) []byte {
				return bsoncore.AppendDocumentElement(given.AppendTo(d, "0"), "1", bsoncore.Document(pred))
			})
		})
	})
}

func rowOf(s wire.Doc) *Stage {
	it := s.Iter()
	if !it.Next() {
		return nil
	}
	return stages[string(it.Key)]
}

// narrowJoin is a $lookup of which the foreign documents match the predicate.
func narrowJoin(join, pred wire.Doc) wire.Doc {
	it := join.Iter()
	it.Next()
	spec, _ := it.Value.Doc()
	return stage("$lookup", func(d []byte) []byte {
		var sub []wire.Doc
		for it := spec.Iter(); it.Next(); {
			if string(it.Key) == "pipeline" {
				sub = docsOf(it.Value)
				continue
			}
			d = append(d, spec[it.Start:it.End()]...)
		}
		return AppendStages(d, "pipeline", narrowed(sub, pred))
	})
}

func docsOf(array wire.Value) (docs []wire.Doc) {
	a, _ := array.Array()
	for it := a.Iter(); it.Next(); {
		if d, ok := it.Value.Doc(); ok {
			docs = append(docs, d)
		}
	}
	return docs
}

// AppendStages appends stages as an array with the name.
func AppendStages(d []byte, name string, stages []wire.Doc) []byte {
	return appendDocs(d, name, stages)
}

// Behind are the stages behind the first segment, in their order, for people: what is brought from
// elsewhere by a $unionWith is told as one.
func Behind(segs []Segment) (all []wire.Doc) {
	for i := 1; i < len(segs); i++ {
		s := &segs[i]
		if len(s.Also) > 0 {
			all = append(all, stage("$unionWith", func(d []byte) []byte {
				d = bsoncore.AppendStringElement(d, "coll", string(s.Also[0].Coll))
				return AppendStages(d, "pipeline", append(slices.Clone(s.Also[0].Stages), Behind(s.Also)...))
			}))
		}
		all = append(all, s.Stages...)
	}
	return all
}

// step is one stage of a pipeline that is planned.
type step struct {
	doc  wire.Doc
	name []byte
	spec wire.Value
	row  *Stage     // nil for an unknown stage
	uses []stageUse // of it and of the pipelines inside of it
}

// stepsOf takes a pipeline apart.
func stepsOf(pipeline wire.Value) ([]step, *wire.Error) {
	a, ok := pipeline.Array()
	if !ok && pipeline.Type != 0 {
		return nil, wire.Errorf(wire.FailedToParse, "a pipeline must be an array")
	}
	var steps []step
	it := a.Iter()
	for it.Next() {
		s := step{}
		if s.doc, ok = it.Value.Doc(); !ok {
			return nil, wire.Errorf(wire.FailedToParse, "each stage of a pipeline must be a document")
		}
		e := s.doc.Iter()
		e.Next()
		s.name, s.spec = e.Key, e.Value
		if e.Value.Type == 0 || e.Next() || e.Err() != nil {
			return nil, wire.Errorf(wire.NotOneField, "a stage of a pipeline must have exactly one field")
		}
		s.row = stages[string(s.name)]
		var w walker
		if err := w.stage(s.doc, 0, 0); err != nil {
			return nil, err
		}
		s.uses = w.uses
		steps = append(steps, s)
	}
	if pipeline.Type != 0 && it.Err() != nil {
		return nil, wire.Errorf(wire.FailedToParse, "the pipeline is malformed BSON")
	}
	return steps, nil
}

// planner cuts a pipeline into segments.
type planner struct {
	t     *Table
	r     *Request
	h     *homes
	x     extractor
	only  []wire.Value // tenants that the pipeline names; nil for none
	segs  []Segment
	alive bool // the tenant field is still the collection's own
	whole bool // it is the whole command's pipeline, not a $unionWith's
}

// segments plans the pipeline of a collection, with the tenants that h has collected; whole says
// that it is the command's own.
func (t *Table) segments(r *Request, h *homes, name []byte, pipeline wire.Value, whole bool) ([]Segment, *wire.Error) {
	steps, err := stepsOf(pipeline)
	if err != nil {
		return nil, err
	}
	p := planner{t: t, r: r, h: h, alive: true, whole: whole}
	h.extractor(r, &p.x)
	first := Segment{Targets: []*Target{h.target}, Coll: name, Reads: true, of: h.coll, collation: t.collation(r)}
	switch {
	case h.unknown:
		first.Targets, first.scope.Open = h.holders(), true
	case h.several || h.tenants > 1:
		s := t.stagesSay(r, h, pipeline)
		p.only = s.values()
		first.Targets, first.scope.Only = t.homesOf(h.coll, p.only), p.only
	}
	h.mixed = false
	if h.only.Type != 0 {
		first.scope.Only = []wire.Value{h.only}
	}
	p.segs = []Segment{first}
	for i := 0; i < len(steps); {
		n, err := p.step(steps, i)
		if err != nil {
			return nil, err
		}
		i += n
	}
	return p.segs, p.narrowable()
}

// stagesSay is what a pipeline and the command's comment say about its tenants.
func (t *Table) stagesSay(r *Request, h *homes, pipeline wire.Value) (s tenantSet) {
	var x extractor
	h.extractor(r, &x)
	x.stages(&s, pipeline)
	h.comment(r, &s)
	return s
}

// narrowable refuses a first segment that no predicate can keep to the documents that are its own.
func (p *planner) narrowable() *wire.Error {
	s := &p.segs[0]
	if len(s.Stages) == 0 {
		return nil
	}
	row := rowOf(s.Stages[0])
	for _, x := range s.Targets {
		if row.fixed() && p.t.predicate(s.of, s.scope, x, row.comparing(s.collation)) != nil && !p.t.narrowless(row, s.scope, x) {
			return row.broad()
		}
	}
	return nil
}

func (p *planner) last() *Segment { return &p.segs[len(p.segs)-1] }

// several reports whether what runs now runs at several homes.
func (p *planner) several() bool { return len(p.segs) == 1 && len(p.segs[0].Targets) > 1 }

// step takes in the stage i and says how many stages it has seen to.
func (p *planner) step(steps []step, i int) (n int, err *wire.Error) {
	s := &steps[i]
	switch {
	case s.row == nil && p.several():
		return 0, wire.Errorf(wire.UnknownStage, "unknown stage %q", s.name)
	case s.row == nil:
		return 1, p.add(s.doc)
	case s.row.Class == Output:
		return 0, wire.Errorf(wire.IllegalOperation,
			"%s is not offered of what the databases of several tenants bring together; read it and write it by two commands", s.row.Name)
	case s.row.Class == Row && s.row.Over == Nowhere && p.several():
		return 0, wire.Errorf(wire.IllegalOperation,
			"%s over the databases of several tenants is not offered; name the tenant in its filter, or in the command's comment", s.row.Name)
	case s.row.Class == Change, s.row.Class == Info && i > 0, s.row.Over >= Everywhere && s.row.Class == Info:
		return 0, wire.Errorf(wire.IllegalOperation,
			"%s is not offered on a collection whose tenants have databases of their own", s.row.Name)
	case s.row.Class == Info:
		p.segs[0].Info = true
		return 1, p.add(s.doc)
	case len(s.uses) > 0:
		return 1, p.reach(s)
	case !p.several():
		return 1, p.add(s.doc)
	}
	return p.over(steps[i:])
}

// add appends a stage to the segment.
func (p *planner) add(doc wire.Doc) *wire.Error {
	if s := p.last(); s.Joined != "" {
		p.bring(nil)
	}
	if len(p.segs) > 1 && readsMeta(doc, 0) {
		return wire.Errorf(wire.IllegalOperation,
			"the pipeline reads $meta behind a stage that brings documents of several databases together, where it is lost; "+
				"put it into a field by $addFields before, or %s", addTenant)
	}
	it := doc.Iter()
	it.Next()
	p.alive = p.alive && p.x.passes(it.Key, it.Value, false)
	s := p.last()
	s.Stages = append(s.Stages, doc)
	return nil
}

func (p *planner) addAll(docs []wire.Doc) *wire.Error {
	for _, d := range docs {
		if err := p.add(d); err != nil {
			return err
		}
	}
	return nil
}

// readsMeta reports whether a stage asks for what a server knows of a document beside its fields.
func readsMeta(d wire.Doc, depth int) bool {
	for it := d.Iter(); it.Next() && depth < 64; {
		if string(it.Key) == "$meta" {
			return true
		}
		if s, ok := it.Value.Str(); ok && bytes.HasPrefix(s, []byte("$$SEARCH_META")) {
			return true
		}
		if sub, ok := it.Value.AnyDoc(); ok && readsMeta(sub, depth+1) {
			return true
		}
	}
	return false
}

// bring begins a segment at the target, nil for wherever: the documents go there. One that has not
// read anything yet goes on there instead.
func (p *planner) bring(target *Target) {
	s := p.last()
	free := len(p.segs) > 1 && !s.Reads
	switch {
	case target == nil && free:
	case target == nil:
		p.segs = append(p.segs, Segment{Targets: []*Target{p.h.coll.db.shared}})
	case free:
		s.Targets = []*Target{target}
	default:
		p.segs = append(p.segs, Segment{Targets: []*Target{target}})
	}
}

// inOrder is the pipeline of a segment at several homes as one segment whose documents have only to be merged:
// where nothing but a $sort, or a $geoNear whose distance they keep, and a $skip and a $limit at the end, keeps it
// from running at each home. Nil where it is another.
func inOrder(first *Segment, pipeline wire.Value) *Segment {
	steps, err := stepsOf(pipeline)
	if err != nil || len(first.Targets) < 2 {
		return nil
	}
	s := *first
	s.Stages = nil
	kept := true // the field that they are sorted by, if it is one, is still what it was
	for i := range steps {
		st := &steps[i]
		switch {
		case st.row == nil || len(st.uses) > 0 || readsMeta(st.doc, 0):
			return nil
		case st.row.Class == Row && st.row.Over == Each:
			kept = kept && (s.By == "" || keeps(s.By, st))
		case st.row.Over == Nearest && i == 0:
			if s.By = st.distance(); s.By == "" {
				return nil
			}
			s.Sort = build(func(d []byte) []byte { return bsoncore.AppendInt32Element(d, s.By, 1) })
		case st.row.Over == Order && (s.Sort == nil || s.By != ""):
			s.Sort, _ = st.spec.Doc()
			s.By, kept = "", true
		case st.row.Over == Bounds && s.Sort != nil && kept:
			skip, limit, n := bounds(steps[i:])
			if n < len(steps)-i {
				return nil
			}
			if s.Skip, s.Limit = skip, limit; limit > 0 {
				s.Stages = append(s.Stages, counted("$limit", skip+limit))
			}
			return &s
		default:
			return nil
		}
		s.Stages = append(s.Stages, st.doc)
	}
	if s.Sort == nil || !kept {
		return nil
	}
	return &s
}

// keeps reports whether a stage lets a field pass as it is.
func keeps(path string, s *step) bool {
	field := newFieldPath(path)
	x := extractor{field: &field}
	return x.passes(s.name, s.spec, false)
}

// distance is the field into which a $geoNear puts what it sorts by; "" for none.
func (s *step) distance() string {
	spec, _ := s.spec.Doc()
	v, _ := spec.Lookup("distanceField")
	path, _ := v.Str()
	return string(path)
}

// over takes in a stage at several homes that must not run at each of them as it is.
func (p *planner) over(steps []step) (n int, err *wire.Error) {
	s := &steps[0]
	switch s.row.Over {
	case Each:
		return 1, p.add(s.doc)
	case Order:
		return p.order(steps)
	case Nearest:
		return 1, p.nearest(steps)
	case Bounds:
		skip, limit, n := bounds(steps)
		p.limit(skip, limit)
		if n == len(steps) && n > 0 && p.whole {
			p.last().Skip, p.last().Limit = skip, limit
			return n, nil
		}
	case Groups:
		return p.group(steps)
	case Partitions:
		if p.partitioned(s) {
			return 1, p.add(s.doc)
		}
	case Branches:
		return p.branches(s)
	case Random:
		return p.sample(s)
	case Scored:
		return p.scored(steps)
	case Ranked:
		return 1, p.ranked(steps)
	}
	return p.gather(steps)
}

// gather begins a segment with the stages: of what is brought no more than they need.
func (p *planner) gather(steps []step) (int, *wire.Error) {
	if less := lessening(steps); less != nil && !p.x.rebound {
		if err := p.add(less); err != nil {
			return 0, err
		}
	}
	p.bring(nil)
	return 0, nil
}

// bounds reads $skip and $limit at the front; n is how many stages that is, 0 where a server would
// refuse one of them.
func bounds(steps []step) (skip, limit int64, n int) {
	for n < len(steps) && limit == 0 {
		v, ok := steps[n].spec.Int()
		switch string(steps[n].name) {
		case "$skip":
			if n > 0 || !ok || v < 0 {
				return skip, limit, n
			}
			skip = v
		case "$limit":
			if !ok || v <= 0 || v > 1<<61 || skip > 1<<61 {
				return skip, 0, 0
			}
			limit = v
		default:
			return skip, limit, n
		}
		n++
	}
	return skip, limit, n
}

// limit lets no home bring more documents than could be needed of it.
func (p *planner) limit(skip, limit int64) {
	if limit > 0 {
		s := p.last()
		s.Stages = append(s.Stages, counted("$limit", skip+limit))
	}
}

// order takes in a $sort: of each home its first documents are enough where a $limit follows.
func (p *planner) order(steps []step) (int, *wire.Error) {
	if p.orderless(steps[1:]) {
		return 1, p.add(steps[0].doc)
	}
	if skip, limit, _ := bounds(steps[1:]); limit > 0 {
		s := p.last()
		s.Stages = append(s.Stages, steps[0].doc)
		p.limit(skip, limit)
	}
	return p.gather(steps)
}

// orderless reports whether the order of documents before the stages is only of each home's own
// matter.
func (p *planner) orderless(steps []step) bool {
	alive := p.alive
	for i := range steps {
		s := &steps[i]
		if s.row == nil || len(s.uses) > 0 {
			return false
		}
		switch s.row.Over {
		case Each:
			alive = alive && p.x.passes(s.name, s.spec, false)
			continue
		case Order:
			return true
		case Groups:
			g, ok := s.grouped()
			return ok && !g.ordered || alive && p.apart(s)
		}
		return false
	}
	return false
}

// nearest takes in a $geoNear, which sorts by distance.
func (p *planner) nearest(steps []step) *wire.Error {
	if p.alive = false; p.orderless(steps[1:]) { // it makes fields
		return p.add(steps[0].doc)
	}
	field := steps[0].distance()
	if field == "" {
		return wire.Errorf(wire.IllegalOperation,
			"$geoNear over the databases of several tenants needs a distanceField to merge by; give one, or %s", addTenant)
	}
	s := p.last()
	s.Stages = append(s.Stages, steps[0].doc)
	skip, limit, _ := bounds(steps[1:])
	p.limit(skip, limit)
	p.bring(nil)
	return p.add(sortBy(field, 1))
}

// group takes in a stage that groups: groups that hold the tenant are each of one home, others are
// made in parts. What counts all documents, as drivers' countDocuments does, comes to a sum.
func (p *planner) group(steps []step) (int, *wire.Error) {
	s := &steps[0]
	if p.apart(s) {
		return 1, p.add(s.doc)
	}
	g, ok := s.grouped()
	if ok && len(steps) == 1 && p.whole && g.counts() {
		p.last().Counts = true
		return 1, p.add(s.doc)
	}
	if !ok {
		return p.gather(steps)
	}
	if err := p.add(g.part); err != nil {
		return 0, err
	}
	p.bring(nil)
	p.last().Round = g.round()
	return 1, p.addAll(g.whole())
}

// apart reports whether the groups of a $group never span tenants.
func (p *planner) apart(s *step) bool {
	spec, _ := s.spec.Doc()
	id, _ := spec.Lookup("_id")
	return string(s.name) == "$group" && p.byTenant(id)
}

// byTenant reports whether documents for which the expression is the same are of one tenant: it is the tenant
// field, or has it for one of its fields. Strings under a collation may be one group and two tenants.
func (p *planner) byTenant(v wire.Value) bool {
	if !p.alive || p.x.equality != byBytes || p.x.rebound {
		return false
	}
	if p.x.isField(v) {
		return true
	}
	d, _ := v.Doc()
	for it := d.Iter(); it.Next() && len(it.Key) > 0 && it.Key[0] != '$'; {
		if p.x.isField(it.Value) {
			return true
		}
	}
	return false
}

// partitioned reports whether the partitions of a stage never span tenants, and nothing that it makes of one
// depends on another.
func (p *planner) partitioned(s *step) bool {
	spec, _ := s.spec.Doc()
	within, _ := spec.Lookup("range")
	bounds, _ := within.Doc()
	of, _ := bounds.Lookup("bounds")
	if full, ok := of.Str(); ok && string(full) != "partition" {
		return false // from the least value of all to the greatest
	}
	by, _ := spec.Lookup("partitionBy")
	if p.byTenant(by) {
		return true
	}
	fields, _ := spec.Lookup("partitionByFields")
	a, _ := fields.Array()
	for it := a.Iter(); it.Next(); {
		if path, ok := it.Value.Str(); ok && p.byTenant(wire.StringValue("$"+string(path))) {
			return true
		}
	}
	return false
}

// branches takes in a $facet. Where each of its branches can be done in parts the homes do the first of every one, and
// bring a document of what these come to; a further $facet goes on with that. Else documents are brought together
// once, and not for each branch.
func (p *planner) branches(s *step) (int, *wire.Error) {
	spec, ok := s.spec.Doc()
	var names []string
	var parts, rest [][]wire.Doc
	for it := spec.Iter(); ok && it.Next(); {
		var part, after []wire.Doc
		part, after, ok = p.branch(it.Value)
		ok = ok && plainName(it.Key) && !slices.Contains(names, string(it.Key))
		names, parts, rest = append(names, string(it.Key)), append(parts, part), append(rest, append(unwound(it.Key), after...))
	}
	if !ok || len(names) == 0 {
		p.bring(nil)
		return 0, nil
	}
	facet := func(branches [][]wire.Doc) wire.Doc {
		return stage("$facet", func(d []byte) []byte {
			for i, name := range names {
				d = AppendStages(d, name, branches[i])
			}
			return d
		})
	}
	if err := p.add(facet(parts)); err != nil {
		return 0, err
	}
	p.bring(nil)
	return 1, p.add(facet(rest))
}

// branch is what each home does of a $facet's branch, and what is to be done with that; false where the homes
// would do nothing that makes it less.
func (p *planner) branch(pipeline wire.Value) (part, rest []wire.Doc, ok bool) {
	own := *p
	own.whole, own.segs = false, []Segment{{Targets: p.last().Targets}}
	steps, err := stepsOf(pipeline)
	for i := 0; i < len(steps) && err == nil; {
		var n int
		n, err = own.step(steps, i)
		i += n
	}
	part = own.segs[0].Stages
	switch {
	case err != nil || pipeline.Type != bsoncore.TypeArray || len(own.segs) > 2:
		return nil, nil, false
	case len(own.segs) == 1:
		return part, nil, true
	}
	less := slices.ContainsFunc(part, func(s wire.Doc) bool { row := rowOf(s); return row.Over == Groups || row.Over == Bounds })
	return part, own.segs[1].Stages, less
}

// unwound are the stages that make documents of those in an array.
func unwound(array []byte) []wire.Doc {
	path := "$" + string(array)
	return []wire.Doc{
		build(func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$unwind", path) }),
		stage("$replaceRoot", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "newRoot", path) }),
	}
}

// randomKey is the name under which documents carry what a sample is drawn by.
const randomKey = partName + "random"

// sample takes in a $sample: as many of each home would be too many of a small one.
func (p *planner) sample(s *step) (int, *wire.Error) {
	spec, _ := s.spec.Doc()
	v, _ := spec.Lookup("size")
	size, ok := v.Int()
	if !ok || size <= 0 {
		p.bring(nil)
		return 0, nil
	}
	first := []wire.Doc{sortBy(randomKey, 1), counted("$limit", size)}
	at := p.last()
	at.Stages = append(append(at.Stages, stage("$addFields", func(d []byte) []byte {
		return appendDoc(d, randomKey, func(d []byte) []byte {
			return appendDoc(d, "$rand", func(d []byte) []byte { return d })
		})
	})), first...)
	p.bring(nil)
	gone := build(func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$unset", randomKey) })
	return 1, p.addAll(append(first, gone))
}

// scoreKey is the name under which documents carry what they are ordered by, until nothing reads it.
const scoreKey = partName + "score"

// scored takes in a search whose scores mean the same at every home: each brings its best, and the best of
// these are the best of all. Stages behind it that ask for the score get the one that was brought.
func (p *planner) scored(steps []step) (int, *wire.Error) {
	s := &steps[0]
	spec, _ := s.spec.Doc()
	v, _ := spec.Lookup("limit")
	limit, ok := v.Int()
	if !ok || limit <= 0 {
		return 1, p.add(s.doc) // the server says what is wrong with it
	}
	at := p.last()
	at.Stages = append(at.Stages, s.doc, stage("$addFields", func(d []byte) []byte {
		return appendDoc(d, scoreKey, func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$meta", s.row.Score) })
	}))
	p.bring(nil)
	readers := p.readers(steps[1:], s.row.Score)
	stages := slices.Concat([]wire.Doc{sortBy(scoreKey, -1), counted("$limit", limit)}, readers,
		[]wire.Doc{build(func(d []byte) []byte { return bsoncore.AppendStringElement(d, "$unset", scoreKey) })})
	return 1 + len(readers), p.addAll(stages)
}

// readers are the stages at the front up to the last that asks for the score, with what was brought in place
// of it: those that documents go through one by one, and keep what they carry.
func (p *planner) readers(steps []step, score string) (all []wire.Doc) {
	last := 0
	for i := range steps {
		s := &steps[i]
		if s.row == nil || s.row.Class != Row || s.row.Over != Each {
			break
		}
		all = append(all, scoreOf(s.doc, score, 0))
		if readsMeta(s.doc, 0) {
			last = i + 1
		}
		if !keeps(scoreKey, s) {
			break
		}
	}
	return all[:last]
}

// scoreOf is a document with the field that carries the score in place of the question for it.
func scoreOf(d wire.Doc, score string, depth int) wire.Doc {
	return build(func(out []byte) []byte {
		for it := d.Iter(); it.Next(); {
			sub, nested := it.Value.AnyDoc()
			v, asks := sub.Lookup("$meta")
			name, _ := v.Str()
			switch {
			case nested && asks && string(name) == score:
				out = bsoncore.AppendStringElement(out, string(it.Key), "$"+scoreKey)
			case nested && depth < 64:
				out = wire.Value{Type: it.Value.Type, Data: scoreOf(sub, score, depth+1)}.AppendTo(out, string(it.Key))
			default:
				out = append(out, d[it.Start:it.End()]...)
			}
		}
		return out
	})
}

// ranked takes in a search whose scores are each index's own, so that documents of several can not be put
// into its order. Without that, all that each home finds is what one index would find.
func (p *planner) ranked(steps []step) *wire.Error {
	s := &steps[0]
	spec, _ := s.spec.Doc()
	for option := range strings.FieldsSeq(s.row.Alone) {
		if v, ok := spec.Lookup(option); ok && v.Type != bsoncore.TypeBoolean || v.True() {
			return wire.Errorf(wire.IllegalOperation,
				"%s with %s over the databases of several tenants is not offered; name the tenant in its filter, or in the command's comment", s.row.Name, option)
		}
	}
	meta := false
	for i := range steps[1:] {
		meta = meta || readsMeta(steps[1+i].doc, 0)
	}
	if meta || !p.orderless(steps[1:]) {
		return wire.Errorf(wire.IllegalOperation,
			"%s over the databases of several tenants finds documents in the order of each index, whose scores can not be compared; "+
				"put a $sort by fields, a $count or a $group behind it, or name the tenant in its filter, or in the command's comment", s.row.Name)
	}
	return p.add(s.doc)
}

// reach takes in a stage that reads other collections.
func (p *planner) reach(s *step) *wire.Error {
	target, spread, err := p.place(s)
	switch {
	case err != nil:
		return err
	case spread && string(s.name) == "$unionWith":
		return p.follow(s)
	case spread:
		return p.joinAll(s)
	case target != nil && (p.several() || p.last().Targets[0] != target || p.last().Joined != ""):
		p.bring(target)
	}
	if target != nil {
		p.last().Reads = true
	}
	if p.several() {
		p.bring(nil) // a $facet whose pipelines read nothing
	}
	return p.add(s.doc)
}

// place is the one target where all collections are that a stage reads; nil where it reads none.
// spread says that there is no such target.
func (p *planner) place(s *step) (target *Target, spread bool, err *wire.Error) {
	db := p.h.coll.db
	for i := range s.uses {
		u := &s.uses[i]
		if u.row == nil {
			continue
		}
		if u.row.Class > Union && u.row.Class != Source {
			return nil, false, wire.Errorf(wire.IllegalOperation,
				"%s is not offered on a collection whose tenants have databases of their own", u.row.Name)
		}
		c, err := db.read(u)
		if err != nil {
			return nil, false, err
		}
		if c == nil {
			continue
		}
		at, follows := c.db.shared, p.h.follows(u, c, p.x.equality)
		p.h.mixed = p.h.mixed || u.row.Class == Union && !p.h.narrowed(u, c, p.x.equality)
		if c.touched() {
			if !follows {
				spread = true
				continue
			}
			at = p.h.tenant.home(c)
		}
		if target != nil && target != at {
			spread = true
		}
		target = at
	}
	return target, spread, nil
}

// joinAll takes in a $lookup of a collection that several databases hold.
func (p *planner) joinAll(s *step) *wire.Error {
	as, c := p.h.coll.db.plainJoin(s)
	if c == nil {
		return wire.Errorf(wire.IllegalOperation,
			"%s reads collections of different databases, which only a $lookup can whose array is no path and whose pipeline, if any, "+
				"works on one document after the other; begin the pipeline with a $match of one tenant and join what lies in another database outside of other stages' pipelines, or make two queries", s.name)
	}
	targets := p.t.holders(c)
	if p.only != nil && !p.h.shared && !p.h.mixed {
		targets = p.t.homesOf(c, p.only)
	} else if err := p.t.everywhere(p.r, &homes{t: p.t, coll: c, unknown: true, nobody: true}); err != nil {
		return err
	}
	p.segs = append(p.segs, Segment{
		Targets: targets, Stages: []wire.Doc{s.doc}, Reads: true, Joined: as,
		of: c, scope: Scope{Open: true}, collation: p.t.collation(p.r),
	})
	p.alive = false
	return nil
}

// plainJoin is the array that a $lookup makes and the collection that it reads, where what it makes
// of several databases is what each makes, one after the other; nil where that is not so.
func (db *Database) plainJoin(s *step) (as string, c *Collection) {
	spec, _ := s.spec.Doc()
	if string(s.name) != "$lookup" || len(s.uses) != 1 {
		return "", nil
	}
	v, _ := spec.Lookup("as")
	path, ok := v.Str()
	if !ok || !plainName(path) {
		return "", nil
	}
	sub, piped := spec.Lookup("pipeline")
	_, equal := spec.Lookup("foreignField")
	steps, err := stepsOf(sub)
	if err != nil || !piped && !equal {
		return "", nil
	}
	for i := range steps {
		if row := steps[i].row; row == nil || row.Class != Row || row.Over != Each {
			return "", nil
		}
	}
	return string(path), db.collection(s.uses[0].coll)
}

// follow takes in a $unionWith whose documents are read as by a command of their own.
func (p *planner) follow(s *step) *wire.Error {
	u := &s.uses[0]
	var sub wire.Value
	if spec, ok := u.spec.Doc(); ok {
		sub, _ = spec.Lookup("pipeline")
	}
	h := homes{t: p.t, coll: p.h.coll.db.collection(u.coll), asked: p.h.asked, begun: p.h.begun}
	says := p.t.stagesSay(p.r, &h, sub)
	h.set(&says)
	if h.target == nil {
		h.target = h.coll.db.shared
	}
	if h.unknown {
		if err := p.t.everywhere(p.r, &h); err != nil {
			return err
		}
	}
	also, err := p.t.segments(p.r, &h, u.coll, sub, false)
	if h.holds {
		p.h.holds, p.h.held = true, h.held
	}
	p.segs = append(p.segs, Segment{Targets: []*Target{p.h.coll.db.shared}, Also: also})
	p.alive = false
	return err
}
