package routing

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Stage is one row of the table of pipeline stages.
type Stage struct {
	Name  string
	Class StageClass
	Coll  string // path of the collection's name in the stage's document
	Bare  bool   // the stage's value may be the collection's name itself
	Sub   string // path of a nested pipeline; "*" is every value
	Lead  Lead
	Over  Over
	Rows  RowsRule
	Via   Via
	Score string // what documents are found by, as $meta calls it
	Alone string // options with which one home alone can serve it
	Query string // path of a filter of the stage's own, into which a predicate on the collection goes
	By    string // path of what a joined document is found by: a field's name, ViaFilter a filter
}

// Via says how a stage that names a view reads what is behind it.
type Via uint8

// How a view is read.
const (
	NoView      Via = iota // by name
	ViaPipeline            // the view's stages stand before those of the stage's own pipeline
	ViaFilter              // they are a part of the stage's filter, as far as each of them is one
)

// RowsRule is what a connection with row isolation may do with a stage. A stage that says nothing is
// refused.
type RowsRule uint8

// Rules of row isolation.
const (
	RowsDeny    RowsRule = iota
	RowsAllow            // its expressions are looked at
	RowsFilter           // it is a filter
	RowsQuery            // it holds a filter, which gets the predicate
	RowsJoin             // what it reads gets the predicate
	RowsFacet            // its pipelines are of documents that have been narrowed
	RowsOwn              // in a database of the tenant's own, narrowed behind it
	RowsFigures          // in a database of the tenant's own, whose documents it does not show
	RowsMerge            // into a collection of the tenant's own database
)

// Over says what becomes of a stage that reads nothing else where the documents before it are in
// several homes.
type Over uint8

// What becomes of it.
const (
	Each       Over = iota // it runs at each home
	Together               // it runs where all documents have been brought together
	Order                  // likewise; with a $limit behind it each home brings its first
	Nearest                // at each home, and what it has sorted by is sorted by again
	Bounds                 // at each home as far as could be needed, then once more
	Groups                 // at each home, and the parts are combined
	Partitions             // at each home where it keeps tenants apart, else where all documents have been brought together
	Branches               // at each home branch by branch, and what these bring is joined branch by branch
	Random                 // each home brings as many as are wanted, each with its lot
	Scored                 // at each home, and the best of what these bring by its Score
	Ranked                 // at each home, where nothing behind it asks for its order or its scores
	Everywhere             // asked of every cluster, on the database admin; refused on a collection
	Nowhere                // refused
)

// Lead says what a stage at the front of a pipeline means for a predicate on the collection.
type Lead uint8

// Leads.
const (
	Follows Lead = iota // the predicate goes before it
	Leads               // must be the first; the predicate right behind it does the same
	Rules               // must be the first, and what it gives no $match behind it can narrow
)

// StageClass says what a stage does.
type StageClass uint8

// Stage classes.
const (
	Row      StageClass = iota // works on one document after the other
	Whole                      // needs all documents
	Join                       // reads another collection beside each document
	Union                      // reads another collection
	Output                     // writes a collection
	Source                     // makes documents of its own
	Info                       // reads the server
	Change                     // change stream
	Internal                   // belongs between servers
)

var stages = stageTable([]Stage{
	{Name: "$match", Lead: Leads, Rows: RowsFilter}, // with $text it must be
	{Name: "$sort", Class: Whole, Over: Order, Rows: RowsAllow},
	{Name: "$project", Rows: RowsAllow},
	{Name: "$unset", Rows: RowsAllow},
	{Name: "$addFields", Rows: RowsAllow},
	{Name: "$set", Rows: RowsAllow},
	{Name: "$unwind", Rows: RowsAllow},
	{Name: "$replaceRoot", Rows: RowsAllow},
	{Name: "$replaceWith", Rows: RowsAllow},
	{Name: "$redact", Rows: RowsAllow},
	{Name: "$limit", Class: Whole, Over: Bounds, Rows: RowsAllow},
	{Name: "$skip", Class: Whole, Over: Bounds, Rows: RowsAllow},
	{Name: "$sample", Class: Whole, Over: Random, Rows: RowsAllow},
	{Name: "$group", Class: Whole, Over: Groups, Rows: RowsAllow},
	{Name: "$count", Class: Whole, Over: Groups, Rows: RowsAllow},
	{Name: "$sortByCount", Class: Whole, Over: Groups, Rows: RowsAllow},
	{Name: "$bucket", Class: Whole, Over: Groups, Rows: RowsAllow},
	{Name: "$bucketAuto", Class: Whole, Over: Together, Rows: RowsAllow},
	{Name: "$setWindowFields", Class: Whole, Over: Partitions, Rows: RowsAllow},
	{Name: "$densify", Class: Whole, Over: Partitions, Rows: RowsAllow},
	{Name: "$fill", Class: Whole, Over: Partitions, Rows: RowsAllow},
	{Name: "$facet", Class: Whole, Sub: "*", Over: Branches, Rows: RowsFacet},
	{Name: "$lookup", Class: Join, Coll: "from", Sub: "pipeline", Rows: RowsJoin, Via: ViaPipeline, By: "foreignField"},
	{Name: "$graphLookup", Class: Join, Coll: "from", Rows: RowsJoin, Via: ViaFilter, By: "restrictSearchWithMatch"},
	{Name: "$unionWith", Class: Union, Coll: "coll", Bare: true, Sub: "pipeline", Rows: RowsJoin, Via: ViaPipeline},
	{Name: "$merge", Class: Output, Coll: "into", Bare: true, Rows: RowsMerge},
	{Name: "$out", Class: Output, Coll: "", Bare: true},
	{Name: "$geoNear", Lead: Leads, Over: Nearest, Rows: RowsQuery, Query: "query"},
	{Name: "$search", Lead: Leads, Over: Ranked, Rows: RowsOwn, Alone: "returnStoredSource returnScope searchAfter searchBefore"},
	{Name: "$vectorSearch", Lead: Rules, Over: Scored, Rows: RowsOwn, Score: "vectorSearchScore", Query: "filter"},
	{Name: "$searchMeta", Lead: Rules, Over: Nowhere, Rows: RowsFigures},
	{Name: "$rankFusion", Lead: Rules, Over: Nowhere},
	{Name: "$scoreFusion", Lead: Rules, Over: Nowhere},
	{Name: "$score", Over: Nowhere},
	{Name: "$rerank", Over: Nowhere},
	{Name: "$documents", Class: Source, Lead: Rules, Rows: RowsAllow},
	{Name: "$collStats", Class: Info, Lead: Rules, Rows: RowsFigures},
	{Name: "$indexStats", Class: Info, Lead: Rules, Rows: RowsFigures},
	{Name: "$planCacheStats", Class: Info, Lead: Rules},
	{Name: "$listSearchIndexes", Class: Info, Lead: Rules, Rows: RowsFigures},
	{Name: "$currentOp", Class: Info, Lead: Rules, Over: Everywhere},
	{Name: "$listSessions", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listLocalSessions", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$queryStats", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$querySettings", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$operationMetrics", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listCachedAndActiveUsers", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listSampledQueries", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listMqlEntities", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listCatalog", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$listClusterCatalog", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$shardedDataDistribution", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$backupCursor", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$backupCursorExtend", Class: Info, Lead: Rules, Over: Nowhere},
	{Name: "$changeStream", Class: Change, Lead: Rules, Over: Nowhere},
	{Name: "$changeStreamSplitLargeEvent", Rows: RowsAllow},
	{Name: "$mergeCursors", Class: Internal, Over: Nowhere},
	{Name: "$queue", Class: Internal, Over: Nowhere},
	{Name: "$setMetadata", Class: Internal, Over: Nowhere},
	{Name: "$setVariableFromSubPipeline", Class: Internal, Over: Nowhere},
})

// ofServers is the row of all stages that begin so.
var ofServers = &Stage{Name: "$_", Class: Internal, Over: Nowhere}

// rowFor is the row of a stage; nil for an unknown one.
func rowFor(name []byte) *Stage {
	if row := stages[string(name)]; row != nil || !bytes.HasPrefix(name, []byte(ofServers.Name)) {
		return row
	}
	return ofServers
}

// notOfClients refuses a stage as servers do (assertLanguageFeatureIsAllowed): it may read the cursors of others.
func notOfClients(name []byte) *wire.Error {
	return wire.Errorf(wire.InternalFeature, "%s is not allowed in user requests", name)
}

func stageTable(rows []Stage) map[string]*Stage {
	m := make(map[string]*Stage, len(rows))
	for i := range rows {
		m[rows[i].Name] = &rows[i]
	}
	return m
}

// maxNesting bounds pipelines inside of pipelines (the server's limit for sub-pipelines is 20).
const maxNesting = 20

// stageUse is one stage of a pipeline that more depends on than documents' shape: it names a
// collection, reads the server, or is unknown.
type stageUse struct {
	row  *Stage // nil for an unknown stage
	name []byte // of the stage
	db   Place  // where the stage names a database beside the collection; zero where it does not
	coll []byte
	spec wire.Value
}

// Place is where a request names a database, for the name to be replaced: the place of a BSON
// string (or of the database's part of a namespace string) with the lengths that contain it.
type Place struct {
	DB, Coll []byte
	At       int // of the string value, its length included
	Len      int
	Full     bool // the string is "db.coll"
	inside   [8]int
	depth    int
}

func (p *Place) push(at int) {
	if p.depth < len(p.inside) {
		p.inside[p.depth] = at
	}
	p.depth++
}

// pushBody adds the lengths of the request's body and of the one that it lies in.
func (p *Place) pushBody(r *Request) {
	if r.outerAt != 0 {
		p.push(r.outerAt)
	}
	p.push(r.Msg.BodyAt)
}

// stages are the uses in the command's pipeline and the pipelines inside of it. They are found
// once, and kept with the request.
func (r *Request) stages() ([]stageUse, *wire.Error) {
	if r.walked {
		return r.uses, r.walkErr
	}
	r.walked = true
	if f, ok := r.field(fPipeline); ok {
		w := walker{uses: r.uses[:0]}
		w.at.pushBody(r)
		r.walkErr = w.pipeline(f.Value, f.At, 0)
		r.uses = w.uses
	}
	return r.uses, r.walkErr
}

// walker goes through a pipeline and the pipelines inside of it.
type walker struct {
	uses []stageUse
	at   Place // of where the walk is: the lengths that contain it
}

func (w *walker) pipeline(v wire.Value, at, depth int) *wire.Error {
	a, ok := v.Array()
	if !ok {
		return nil // the server says what is wrong with it
	}
	if depth > maxNesting {
		return wire.Errorf(wire.BadValue, "pipelines are nested deeper than %d levels", maxNesting)
	}
	level := w.at.depth
	w.at.push(at)
	it := a.Iter()
	for it.Next() {
		d, ok := it.Value.Doc()
		if !ok {
			continue
		}
		w.at.push(at + it.At)
		if err := w.stage(d, at+it.At, depth); err != nil {
			return err
		}
		w.at.depth--
	}
	if it.Err() != nil {
		return wire.Errorf(wire.FailedToParse, "the pipeline is malformed BSON")
	}
	w.at.depth = level
	return nil
}

func (w *walker) stage(d wire.Doc, at, depth int) *wire.Error {
	it := d.Iter()
	for it.Next() {
		row := rowFor(it.Key)
		if row == nil || row.Class > Whole {
			w.uses = append(w.uses, stageUse{row: row, name: it.Key, spec: it.Value})
			if row != nil {
				w.names(&w.uses[len(w.uses)-1], at+it.At)
			}
		}
		if row != nil && row.Sub != "" {
			if err := w.subs(row, it.Value, at+it.At, depth); err != nil {
				return err
			}
		}
	}
	if it.Err() != nil {
		return wire.Errorf(wire.FailedToParse, "a stage is malformed BSON")
	}
	return nil
}

// names finds the collection and the database that a stage names.
func (w *walker) names(u *stageUse, at int) {
	v, in := u.spec, w.at
	if u.row.Coll == "" && !u.row.Bare {
		return
	}
	for hops := 0; hops < 3; hops++ {
		if s, ok := v.Str(); ok {
			u.coll = s
			return
		}
		d, ok := v.Doc()
		if !ok {
			return
		}
		in.push(at)
		var next wire.Value
		nextAt := 0
		it := d.Iter()
		for it.Next() {
			switch {
			case string(it.Key) == "db":
				if s, ok := it.Value.Str(); ok {
					u.db = in
					u.db.DB, u.db.At, u.db.Len = s, at+it.At, len(it.Value.Data)
				}
			case string(it.Key) == u.row.Coll || string(it.Key) == "coll":
				next, nextAt = it.Value, at+it.At
			}
		}
		v, at = next, nextAt
	}
}

func (w *walker) subs(row *Stage, v wire.Value, at, depth int) *wire.Error {
	d, ok := v.Doc()
	if !ok {
		return nil
	}
	w.at.push(at)
	it := d.Iter()
	for it.Next() {
		if row.Sub == "*" || string(it.Key) == row.Sub {
			if err := w.pipeline(it.Value, at+it.At, depth+1); err != nil {
				return err
			}
		}
	}
	w.at.depth--
	return nil
}

// stages narrows the set to the tenants that a pipeline can see: every $match reachable from the
// front through stages that keep documents apart and leave the field alone.
func (x *extractor) stages(s *tenantSet, pipeline wire.Value) { x.stagesOf(s, pipeline, true) }

// stagesOf is stages; outer says that the pipeline may have a $facet, which is no stage of another one's branches.
func (x *extractor) stagesOf(s *tenantSet, pipeline wire.Value, outer bool) {
	a, ok := pipeline.Array()
	if !ok {
		return
	}
	it := a.Iter()
	for first := true; it.Next(); first = false {
		d, ok := it.Value.Doc()
		if !ok {
			return
		}
		st := d.Iter()
		if !st.Next() {
			return
		}
		if q, ok := matched(st.Key, st.Value, first); ok {
			x.filter(s, q, 0)
		}
		if outer && string(st.Key) == "$facet" {
			x.branches(s, st.Value)
		}
		if !x.passes(st.Key, st.Value, first) {
			return
		}
	}
}

// branches narrows the set to the tenants that the branches of a $facet can see: one that says nothing makes all of
// them say nothing.
func (x *extractor) branches(s *tenantSet, facet wire.Value) {
	d, ok := facet.Doc()
	if !ok {
		return
	}
	var union tenantSet
	it := d.Iter()
	for first := true; it.Next(); first = false {
		var o tenantSet
		x.stagesOf(&o, it.Value, false)
		union.join(&o, first)
	}
	if it.Err() == nil {
		s.and(&union)
	}
}

// matched is the filter that a stage applies to the documents of the collection.
func matched(stage []byte, v wire.Value, first bool) (wire.Doc, bool) {
	d, ok := v.Doc()
	if !ok {
		return nil, false
	}
	if string(stage) == "$match" {
		return d, true
	}
	row := stages[string(stage)]
	if row == nil || row.Query == "" || !first {
		return nil, false
	}
	q, _ := d.Lookup(row.Query)
	return q.Doc()
}

// passes reports whether a $match behind the stage still speaks of the collection's field.
func (x *extractor) passes(stage []byte, v wire.Value, first bool) bool {
	switch string(stage) {
	case "$match", "$sort":
		return true
	case "$unwind":
		return x.unwinds(v)
	case "$addFields", "$set":
		d, ok := v.Doc()
		return ok && x.leavesAlone(d)
	case "$lookup", "$graphLookup":
		d, _ := v.Doc()
		return x.apart(d, "as", "")
	case "$unset":
		return x.unsets(v)
	case "$project":
		return x.projects(v)
	case "$search":
		d, ok := v.Doc()
		_, parts := d.Lookup("returnScope") // parts of documents in place of documents
		return ok && first && !parts
	}
	return false
}

// unsets reports whether an $unset leaves the field alone.
func (x *extractor) unsets(v wire.Value) bool {
	if path, ok := v.Str(); ok {
		return !x.field.touches(path)
	}
	all, ok := v.Array()
	it := all.Iter()
	for ok && it.Next() {
		path, isString := it.Value.Str()
		ok = isString && !x.field.touches(path)
	}
	return ok && it.Err() == nil
}

// projects reports whether a $project lets the field pass as it is: it takes others away, or names it,
// or what it lies in, as what is to stay.
func (x *extractor) projects(v wire.Value) bool {
	d, ok := v.Doc()
	takes, stays, touched := false, x.field.name == "_id", false
	it := d.Iter()
	for it.Next() {
		flag := it.Value.IsNumber() || it.Value.Type == bsoncore.TypeBoolean
		on := flag && it.Value.True()
		switch {
		case flag && !on:
			takes = takes || string(it.Key) != "_id"
			touched = touched || x.field.touches(it.Key)
		case on && x.field.within(it.Key):
			stays = true
		case x.field.touches(it.Key):
			return false
		}
	}
	if it.Err() != nil || !ok || touched {
		return false
	}
	return takes || stays || onlyID(d)
}

// onlyID reports whether a projection says of _id alone that it goes.
func onlyID(d wire.Doc) bool {
	it := d.Iter()
	return it.Next() && string(it.Key) == "_id" && !it.Value.True() && (it.Value.IsNumber() || it.Value.Type == bsoncore.TypeBoolean) && !it.Next()
}

func (x *extractor) unwinds(v wire.Value) bool {
	if path, ok := v.Str(); ok {
		return len(path) > 1 && !x.field.touches(path[1:])
	}
	d, _ := v.Doc()
	if _, ok := d.Lookup("includeArrayIndex"); ok && !x.apart(d, "includeArrayIndex", "") {
		return false
	}
	return x.apart(d, "path", "$")
}

// apart reports whether a stage's option is a path that leaves the field alone.
func (x *extractor) apart(d wire.Doc, option, prefix string) bool {
	v, _ := d.Lookup(option)
	path, ok := v.Str()
	return ok && len(path) > len(prefix) && !x.field.touches(path[len(prefix):])
}

func (x *extractor) leavesAlone(d wire.Doc) bool {
	it := d.Iter()
	for it.Next() {
		if x.field.touches(it.Key) {
			return false
		}
	}
	return it.Err() == nil
}

// pipelineWrites reports whether a stage of the command's pipeline writes a collection.
func (r *Request) pipelineWrites() bool {
	uses, err := r.stages()
	for i := range uses {
		if uses[i].row != nil && uses[i].row.Class == Output {
			return true
		}
	}
	return err != nil
}
