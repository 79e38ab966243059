package wiretest

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// The store of a server with the option Stored: a slice of documents per collection. It can
//
//	insert, find (filter, projection of fields, skip, limit, batchSize, singleBatch), count, getMore, killCursors,
//	update and findAndModify ($set, $setOnInsert, $unset, $inc of top-level fields, replacements),
//	delete, create, createIndexes, listIndexes, listCollections, drop, dropDatabase
//
// with filters of equality, $eq, $in, $and, $or on top-level fields. It can't sort, project,
// aggregate, use dotted paths or enforce an index other than _id's. Documents come in the order of
// insertion. A transaction's writes are seen by all at once and taken back by abort: there is no
// isolation and no write conflict. What it can't do is error 238, also a field of a command that
// it doesn't know: never a wrong answer.
type collection struct {
	docs    []bson.D
	indexes []bson.D
}

// cursor is one of a server's, with what it has not yet handed out.
type cursor struct {
	ns      string
	session string
	rest    []bson.D
}

// operation is one command at work on a set's store, under the set's mutex.
type operation struct {
	*set
	server *Server
	cmd    Command
	body   bson.D
	ns     string
	txn    *session // of a command with txnNumber
	ids    []int64  // of its statements
}

// generic are fields that the store need not look at.
var generic = []string{
	"$db", "lsid", "txnNumber", "autocommit", "startTransaction", "stmtId", "stmtIds",
	"$clusterTime", "$readPreference", "readConcern", "writeConcern", "comment", "maxTimeMS", "ordered",
	"apiVersion", "apiStrict", "apiDeprecationErrors", "bypassDocumentValidation",
}

var operations = map[string]struct {
	fields string // that the command may have beside the generic ones
	run    func(*operation) (bson.D, error)
}{
	"insert":          {"documents", (*operation).insert},
	"update":          {"updates", (*operation).update},
	"delete":          {"deletes", (*operation).delete},
	"findAndModify":   {"query update remove new upsert", (*operation).findAndModify},
	"findandmodify":   {"query update remove new upsert", (*operation).findAndModify},
	"find":            {"filter projection skip limit batchSize singleBatch", (*operation).find},
	"count":           {"query skip limit", (*operation).count},
	"getMore":         {"collection batchSize", (*operation).getMore},
	"killCursors":     {"cursors", (*operation).killCursors},
	"create":          {"", (*operation).create},
	"createIndexes":   {"indexes", (*operation).createIndexes},
	"listIndexes":     {"cursor", (*operation).listIndexes},
	"listCollections": {"filter nameOnly authorizedCollections cursor", (*operation).listCollections},
	"drop":            {"", (*operation).drop},
	"dropDatabase":    {"", (*operation).dropDatabase},
}

// failure is an error that a real server would answer too.
type failure struct {
	code wire.Code
	text string
}

func (f failure) Error() string { return f.text }

// store runs a command.
func (x *set) store(s *Server, cmd Command) wire.Doc {
	x.mu.Lock()
	defer x.mu.Unlock()
	known, ok := operations[cmd.Name]
	if !ok {
		return Fail(wire.CommandNotFound, fmt.Sprintf("no such command: '%s'", cmd.Name)).doc
	}
	o := &operation{set: x, server: s, cmd: cmd, body: cmd.D()}
	o.ns = cmd.DB + "." + cmd.Collection()
	if s.opt.enforce && cmd.Value("txnNumber") != nil {
		o.txn = x.sessions[cmd.session()]
	}
	for _, e := range o.body[1:] {
		if !slices.Contains(generic, e.Key) && !slices.Contains(strings.Fields(known.fields), e.Key) {
			return failed(unsupported(cmd.Name + " with " + e.Key))
		}
	}
	reply, err := known.run(o)
	if err != nil {
		return failed(err)
	}
	return D(append(reply, bson.E{Key: "ok", Value: 1.0}))
}

func failed(err error) wire.Doc {
	if f, ok := err.(failure); ok {
		return Fail(f.code, f.text).doc
	}
	return Fail(238, err.Error()).doc
}

// at is the collection of the command, made if it doesn't exist.
func (o *operation) at() *collection {
	c := o.collections[o.ns]
	if c == nil {
		c = &collection{indexes: []bson.D{{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}}}}
		o.collections[o.ns] = c
	}
	return c
}

// writing is called before each change of a collection: it moves the time, and notes how an open
// transaction takes the change back.
func (o *operation) writing(c *collection) {
	o.tick()
	if o.txn != nil && o.txn.txn == openTxn {
		before := slices.Clone(c.docs)
		o.txn.undo = append(o.txn.undo, func() { c.docs = before })
	}
}

// statement runs the i-th statement of a write, or returns what it did when it ran before. One that did nothing
// has left no trace and runs again: a server's history is its oplog.
func (o *operation) statement(i int, run func() (bson.D, error)) (bson.D, error) {
	if o.txn == nil || o.txn.txn != noTxn {
		return run()
	}
	if o.ids == nil {
		o.ids = statementIDs(o.cmd)
	}
	id := o.ids[i]
	if done, ok := o.txn.statements[id]; ok {
		return done, nil
	}
	done, err := run()
	n, batch := Get(done, "n").(int32)
	if !batch {
		n, _ = Get(done, "lastErrorObject", "n").(int32)
	}
	if err == nil && n > 0 {
		o.txn.statements[id] = done
	}
	return done, err
}

// batch runs a write's statements and adds up what they did.
func (o *operation) batch(name string, one func(bson.D) (bson.D, error)) (bson.D, error) {
	docs := o.cmd.Docs(name)
	if len(docs) == 0 {
		return nil, failure{wire.InvalidOptions, "Write batch sizes must be between 1 and 100000. Got 0 operations."}
	}
	ordered := Get(o.body, "ordered") != false
	var n, modified int32
	var upserted, errs bson.A
	for i, d := range docs {
		done, err := o.statement(i, func() (bson.D, error) { return one(Decode(d)) })
		if f, ok := err.(failure); ok {
			errs = append(errs, bson.D{{Key: "index", Value: int32(i)}, {Key: "code", Value: int32(f.code)}, {Key: "errmsg", Value: f.text}})
			if ordered {
				break
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		n += Get(done, "n").(int32)
		if m, ok := Get(done, "nModified").(int32); ok {
			modified += m
		}
		if id, ok := field(done, "upserted"); ok {
			upserted = append(upserted, bson.D{{Key: "index", Value: int32(i)}, {Key: "_id", Value: id}})
		}
	}
	reply := bson.D{{Key: "n", Value: n}}
	if name == "updates" {
		reply = append(reply, bson.E{Key: "nModified", Value: modified})
	}
	if len(upserted) > 0 {
		reply = append(reply, bson.E{Key: "upserted", Value: upserted})
	}
	if len(errs) > 0 {
		reply = append(reply, bson.E{Key: "writeErrors", Value: errs})
	}
	return reply, nil
}

func (o *operation) insert() (bson.D, error) {
	return o.batch("documents", func(d bson.D) (bson.D, error) {
		if err := o.add(d); err != nil {
			return nil, err
		}
		return bson.D{{Key: "n", Value: int32(1)}}, nil
	})
}

// add inserts one document.
func (o *operation) add(d bson.D) error {
	id, has := field(d, "_id")
	if !has {
		d = append(bson.D{{Key: "_id", Value: bson.NewObjectID()}}, d...)
	}
	c := o.at()
	for _, other := range c.docs {
		ok, err := same(id, Get(other, "_id"))
		if err != nil {
			return err
		}
		if ok && has {
			return failure{11000, fmt.Sprintf("E11000 duplicate key error collection: %s index: _id_ dup key: { _id: %v }", o.ns, id)}
		}
	}
	o.writing(c)
	c.docs = append(slices.Clip(c.docs), d)
	return nil
}

// found are the indexes of the documents that match, at most limit where that is above 0.
func (o *operation) found(filter any, limit int) ([]int, error) {
	f, ok := filter.(bson.D)
	if !ok && filter != nil {
		return nil, failure{wire.BadValue, "filter is no document"}
	}
	if _, err := matches(f, bson.D{}); err != nil { // also where there is no document to try it on
		return nil, err
	}
	var hits []int
	c := o.collections[o.ns]
	if c == nil {
		return nil, nil
	}
	for i, d := range c.docs {
		ok, err := matches(f, d)
		if err != nil {
			return nil, err
		}
		if ok {
			hits = append(hits, i)
		}
		if limit > 0 && len(hits) == limit {
			break
		}
	}
	return hits, nil
}

// only refuses a statement with other fields.
func only(d bson.D, fields ...string) error {
	for _, e := range d {
		if !slices.Contains(fields, e.Key) {
			return unsupported("a statement with " + e.Key)
		}
	}
	return nil
}

func (o *operation) update() (bson.D, error) {
	return o.batch("updates", func(u bson.D) (bson.D, error) {
		if err := only(u, "q", "u", "multi", "upsert"); err != nil {
			return nil, err
		}
		limit := 1
		if Get(u, "multi") == true {
			limit = 0
		}
		hits, err := o.found(Get(u, "q"), limit)
		if err != nil {
			return nil, err
		}
		if len(hits) == 0 && Get(u, "upsert") == true {
			id, err := o.upsert(Get(u, "q"), Get(u, "u"))
			return bson.D{{Key: "n", Value: int32(1)}, {Key: "nModified", Value: int32(0)}, {Key: "upserted", Value: id}}, err
		}
		modified, err := o.change(hits, Get(u, "u"))
		return bson.D{{Key: "n", Value: int32(len(hits))}, {Key: "nModified", Value: modified}}, err
	})
}

// change updates the documents at the indexes and returns how many are other than before. All are
// computed before one is kept.
func (o *operation) change(hits []int, update any) (modified int32, err error) {
	c := o.at()
	next := slices.Clone(c.docs)
	for _, i := range hits {
		d, err := changed(c.docs[i], update, false)
		if err != nil {
			return 0, err
		}
		if string(D(d)) != string(D(c.docs[i])) {
			modified++
		}
		next[i] = d
	}
	if len(hits) > 0 {
		o.writing(c)
		c.docs = next
	}
	return modified, nil
}

// upsert inserts what the filter's equalities and the update say and returns its _id.
func (o *operation) upsert(filter, update any) (any, error) {
	var d bson.D
	f, _ := filter.(bson.D)
	if all, ok := Get(f, "$and").(bson.A); ok && len(f) == 1 {
		f = nil
		for _, part := range all {
			more, _ := part.(bson.D)
			f = append(f, more...)
		}
	}
	for _, e := range f {
		if in, ok := Get(f, e.Key, "$in").(bson.A); ok && len(in) > 1 {
			continue // no equality
		}
		if ops, ok := e.Value.(bson.D); strings.HasPrefix(e.Key, "$") || ok && len(ops) > 0 && strings.HasPrefix(ops[0].Key, "$") {
			return nil, unsupported("an upsert by " + e.Key)
		}
		d = append(d, e)
	}
	if u, ok := update.(bson.D); ok && (len(u) == 0 || !strings.HasPrefix(u[0].Key, "$")) {
		id, has := field(d, "_id") // of a replacement only the filter's _id stays
		d = nil
		if has {
			d = bson.D{{Key: "_id", Value: id}}
		}
	}
	d, err := changed(d, update, true)
	if err != nil {
		return nil, err
	}
	if _, has := field(d, "_id"); !has {
		d = append(bson.D{{Key: "_id", Value: bson.NewObjectID()}}, d...)
	}
	return Get(d, "_id"), o.add(d)
}

func (o *operation) delete() (bson.D, error) {
	return o.batch("deletes", func(u bson.D) (bson.D, error) {
		if err := only(u, "q", "limit"); err != nil {
			return nil, err
		}
		limit, _ := number(Get(u, "limit"))
		hits, err := o.found(Get(u, "q"), int(limit))
		o.remove(hits)
		return bson.D{{Key: "n", Value: int32(len(hits))}}, err
	})
}

// remove takes the documents at the indexes out.
func (o *operation) remove(hits []int) {
	if len(hits) == 0 {
		return
	}
	c := o.at()
	o.writing(c)
	var rest []bson.D
	for i, d := range c.docs {
		if !slices.Contains(hits, i) {
			rest = append(rest, d)
		}
	}
	c.docs = rest
}

func (o *operation) findAndModify() (bson.D, error) {
	return o.statement(0, func() (bson.D, error) {
		hits, err := o.found(Get(o.body, "query"), 1)
		if err != nil {
			return nil, err
		}
		var old, value any
		if len(hits) > 0 {
			old = o.at().docs[hits[0]]
		}
		value = old
		status := bson.D{{Key: "n", Value: int32(len(hits))}}
		switch {
		case Get(o.body, "remove") == true:
			o.remove(hits)
		case len(hits) > 0:
			_, err = o.change(hits, Get(o.body, "update"))
			status = append(status, bson.E{Key: "updatedExisting", Value: true})
			if Get(o.body, "new") == true {
				value = o.at().docs[hits[0]]
			}
		case Get(o.body, "upsert") == true:
			var id any
			id, err = o.upsert(Get(o.body, "query"), Get(o.body, "update"))
			status = bson.D{{Key: "n", Value: int32(1)}, {Key: "updatedExisting", Value: false}, {Key: "upserted", Value: id}}
			if docs := o.at().docs; err == nil && Get(o.body, "new") == true {
				value = docs[len(docs)-1]
			}
		default:
			status = append(status, bson.E{Key: "updatedExisting", Value: false})
		}
		return bson.D{{Key: "lastErrorObject", Value: status}, {Key: "value", Value: value}}, err
	})
}

// whole is an integer field, def where it is missing.
func (o *operation) whole(name string, def int) (int, error) {
	v, has := field(o.body, name)
	if !has {
		return def, nil
	}
	n, ok := number(v)
	if !ok || n < 0 {
		return 0, failure{wire.BadValue, fmt.Sprintf("BSON field '%s' value must be >= 0", name)}
	}
	return int(n), nil
}

func (o *operation) find() (bson.D, error) {
	hits, err := o.page(Get(o.body, "filter"))
	if err != nil {
		return nil, err
	}
	var docs []bson.D
	for _, i := range hits {
		doc, err := projected(o.at().docs[i], Get(o.body, "projection"))
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return o.open(o.ns, docs, "batchSize")
}

func (o *operation) count() (bson.D, error) {
	hits, err := o.page(Get(o.body, "query"))
	return bson.D{{Key: "n", Value: int32(len(hits))}}, err
}

// page are the indexes of the documents that match, skip and limit applied.
func (o *operation) page(filter any) ([]int, error) {
	skip, err := o.whole("skip", 0)
	if err != nil {
		return nil, err
	}
	limit, err := o.whole("limit", 0)
	if err != nil {
		return nil, err
	}
	hits, err := o.found(filter, 0)
	if err != nil {
		return nil, err
	}
	hits = hits[min(skip, len(hits)):]
	if limit > 0 {
		hits = hits[:min(limit, len(hits))]
	}
	return hits, nil
}

// projected is the document with the named fields only.
func projected(doc bson.D, projection any) (bson.D, error) {
	p, ok := projection.(bson.D)
	if !ok {
		return doc, nil
	}
	for _, e := range p {
		if n, ok := number(e.Value); !ok || n != 1 || strings.Contains(e.Key, ".") {
			return nil, unsupported("projection of " + e.Key)
		}
	}
	var out bson.D
	for _, e := range doc {
		if _, named := field(p, e.Key); named || e.Key == "_id" {
			out = append(out, e)
		}
	}
	return out, nil
}

// open replies a new cursor's first batch.
func (o *operation) open(ns string, docs []bson.D, size ...string) (bson.D, error) {
	n := 101
	if v := Get(o.body, size...); v != nil {
		f, ok := number(v)
		if !ok || f < 0 {
			return nil, failure{wire.BadValue, "batchSize must be >= 0"}
		}
		n = int(f)
	}
	first := docs[:min(n, len(docs))]
	var id int64
	if len(first) < len(docs) && Get(o.body, "singleBatch") != true {
		id = o.server.keep(&cursor{ns, o.cmd.session(), docs[len(first):]})
	}
	return batchOf(ns, id, "firstBatch", first), nil
}

func batchOf(ns string, id int64, name string, docs []bson.D) bson.D {
	batch := bson.A{}
	for _, d := range docs {
		batch = append(batch, d)
	}
	return bson.D{{Key: "cursor", Value: bson.D{{Key: name, Value: batch}, {Key: "id", Value: id}, {Key: "ns", Value: ns}}}}
}

// keep notes a cursor on the server that opened it and returns its id. Servers may give the same
// ones, as clusters do.
func (s *Server) keep(c *cursor) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastCursor++
	id := int64(1)<<40 + s.lastCursor
	s.cursors[id] = c
	return id
}

// Cursors are the ids of the store's open cursors on this server.
func (s *Server) Cursors() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int64
	for id := range s.cursors {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (o *operation) getMore() (bson.D, error) {
	id, _ := o.cmd.Int("getMore")
	n, err := o.whole("batchSize", 1<<30)
	if err != nil {
		return nil, err
	}
	s := o.server
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cursors[id]
	if name, _ := Get(o.body, "collection").(string); c == nil || c.ns != o.cmd.DB+"."+name {
		return nil, failure{wire.CursorNotFound, fmt.Sprintf("cursor id %d not found", id)}
	}
	if s.opt.enforce && c.session != o.cmd.session() {
		return nil, wrongSession(id, c.session, o.cmd.session())
	}
	if n == 0 {
		n = len(c.rest)
	}
	batch := c.rest[:min(n, len(c.rest))]
	c.rest = c.rest[len(batch):]
	if len(c.rest) == 0 {
		delete(s.cursors, id)
		id = 0
	}
	return batchOf(c.ns, id, "nextBatch", batch), nil
}

// wrongSession is the server's error for a cursor of another session (src/mongo/db/session).
func wrongSession(id int64, created, asked string) error {
	switch {
	case created == "":
		return failure{50736, fmt.Sprintf("Cannot run getMore on cursor %d, which was not created in a session, in session %x", id, asked)}
	case asked == "":
		return failure{50737, fmt.Sprintf("Cannot run getMore on cursor %d, which was created in session %x, without an lsid", id, created)}
	}
	return failure{50738, fmt.Sprintf("Cannot run getMore on cursor %d, which was created in session %x, in session %x", id, created, asked)}
}

func (o *operation) killCursors() (bson.D, error) {
	ids, _ := Get(o.body, "cursors").(bson.A)
	killed, missing := bson.A{}, bson.A{}
	s := o.server
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range ids {
		id, _ := v.(int64)
		if c := s.cursors[id]; c != nil && c.ns == o.ns {
			delete(s.cursors, id)
			killed = append(killed, id)
		} else {
			missing = append(missing, id)
		}
	}
	return bson.D{
		{Key: "cursorsKilled", Value: killed},
		{Key: "cursorsNotFound", Value: missing},
		{Key: "cursorsAlive", Value: bson.A{}},
		{Key: "cursorsUnknown", Value: bson.A{}},
	}, nil
}

func (o *operation) create() (bson.D, error) {
	if o.collections[o.ns] != nil {
		return nil, failure{wire.NamespaceExists, fmt.Sprintf("Collection %s already exists.", o.ns)}
	}
	o.tick()
	o.at()
	return nil, nil
}

func (o *operation) createIndexes() (bson.D, error) {
	created := o.collections[o.ns] == nil
	c := o.at()
	before := len(c.indexes)
	for _, d := range o.cmd.Docs("indexes") {
		index := Decode(d)
		name, _ := Get(index, "name").(string)
		if name == "" {
			return nil, failure{wire.FailedToParse, "an index needs a name"}
		}
		if !slices.ContainsFunc(c.indexes, func(d bson.D) bool { return Get(d, "name") == name }) {
			c.indexes = append(c.indexes, append(bson.D{{Key: "v", Value: int32(2)}}, index...))
		}
	}
	o.tick()
	return bson.D{
		{Key: "numIndexesBefore", Value: int32(before)},
		{Key: "numIndexesAfter", Value: int32(len(c.indexes))},
		{Key: "createdCollectionAutomatically", Value: created},
	}, nil
}

func (o *operation) listIndexes() (bson.D, error) {
	c := o.collections[o.ns]
	if c == nil {
		return nil, failure{wire.NamespaceNotFound, "ns does not exist: " + o.ns}
	}
	return o.open(o.ns, c.indexes, "cursor", "batchSize")
}

func (o *operation) listCollections() (bson.D, error) {
	var names []string
	for ns := range o.collections {
		if name, ok := strings.CutPrefix(ns, o.cmd.DB+"."); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	filter, _ := Get(o.body, "filter").(bson.D)
	var docs []bson.D
	for _, name := range names {
		d := bson.D{{Key: "name", Value: name}, {Key: "type", Value: "collection"}}
		ok, err := matches(filter, d)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if Get(o.body, "nameOnly") != true {
			d = append(d, bson.E{Key: "options", Value: bson.D{}}, bson.E{Key: "info", Value: bson.D{{Key: "readOnly", Value: false}}})
		}
		docs = append(docs, d)
	}
	return o.open(o.cmd.DB+".$cmd.listCollections", docs, "cursor", "batchSize")
}

func (o *operation) drop() (bson.D, error) {
	if o.collections[o.ns] == nil {
		return bson.D{}, nil
	}
	o.tick()
	delete(o.collections, o.ns)
	return bson.D{{Key: "ns", Value: o.ns}}, nil
}

func (o *operation) dropDatabase() (bson.D, error) {
	for ns := range o.collections {
		if strings.HasPrefix(ns, o.cmd.DB+".") {
			delete(o.collections, ns)
		}
	}
	o.tick()
	return bson.D{{Key: "dropped", Value: o.cmd.DB}}, nil
}

// Docs are a collection's documents in the store, in the order of insertion.
func (s *Server) Docs(db, collection string) []bson.D {
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	if c := s.set.collections[db+"."+collection]; c != nil {
		return slices.Clone(c.docs)
	}
	return nil
}
