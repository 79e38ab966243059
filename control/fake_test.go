package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/wire"
)

// server is an in-memory server with the commands that the control room sends.
type server struct {
	mu       sync.Mutex
	colls    map[string]map[string]*collection // by database and name
	log      []string                          // commands, "db: name value"
	fail     func(n int, db, name string) failMode
	n        int
	down     bool
	collates bool // by collations that collections have
	batch    int  // documents in a first batch; the rest comes by getMore
	cursors  map[int64][]bson.Raw
}

type collection struct {
	kind    string
	options bson.Raw
	docs    []bson.Raw
	indexes []bson.Raw
}

// failMode is where a command's connection breaks.
type failMode int

const (
	works failMode = iota
	lostBefore
	lostAfter // it has run, and nobody is told
	refuses   // the server says no
)

var errLost = &backend.Error{Cluster: "home", Sent: true, Err: errors.New("connection lost")}

func newServer() *server {
	return &server{colls: map[string]map[string]*collection{}, batch: 1000, cursors: map[int64][]bson.Raw{}}
}

func (s *server) Run(ctx context.Context, db string, cmd wire.Doc) (wire.Doc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.down {
		return nil, &backend.Error{Cluster: "home", Err: backend.ErrNoServer}
	}
	var d bson.D
	if err := bson.Unmarshal(cmd, &d); err != nil {
		return nil, err
	}
	s.n++
	s.log = append(s.log, fmt.Sprintf("%s: %s %v", db, d[0].Key, d[0].Value))
	mode := works
	if s.fail != nil {
		mode = s.fail(s.n, db, d[0].Key)
	}
	switch mode {
	case lostBefore:
		return nil, errLost
	case refuses:
		return nil, &backend.CommandError{Code: 13, CodeName: "Unauthorized", Message: "no"}
	}
	reply, err := s.run(db, d, bson.Raw(cmd))
	if mode == lostAfter {
		return nil, errLost
	}
	if err != nil {
		return nil, err
	}
	b, err := bson.Marshal(append(reply, bson.E{Key: "ok", Value: 1.0}))
	return b, err
}

func (s *server) coll(db, name string) *collection {
	if s.colls[db] == nil {
		s.colls[db] = map[string]*collection{}
	}
	if s.colls[db][name] == nil {
		s.colls[db][name] = &collection{kind: "collection"}
	}
	return s.colls[db][name]
}

func (s *server) run(db string, d bson.D, raw bson.Raw) (bson.D, error) {
	name, _ := d[0].Value.(string)
	switch d[0].Key {
	case "find":
		return s.find(db, name, raw)
	case "listDatabases":
		all := bson.A{}
		for name := range s.colls {
			all = append(all, bson.D{{Key: "name", Value: name}})
		}
		return bson.D{{Key: "databases", Value: all}}, nil
	case "dbStats":
		n := 0
		for _, c := range s.colls[db] {
			n += len(c.docs)
		}
		return bson.D{{Key: "objects", Value: n}}, nil
	case "aggregate": // of a document of a collection how it compares strings
		batch := bson.A{}
		if len(s.coll(db, name).docs) > 0 {
			batch = append(batch, bson.D{{Key: "apart", Value: s.collates}})
		}
		return bson.D{{Key: "cursor", Value: bson.D{{Key: "id", Value: int64(0)}, {Key: "ns", Value: db + "." + name}, {Key: "firstBatch", Value: batch}}}}, nil
	case "getMore":
		return s.getMore(d[0].Value.(int64), db+"."+raw.Lookup("collection").StringValue()), nil
	case "insert":
		return s.insert(db, name, raw), nil
	case "update":
		u := raw.Lookup("updates", "0").Document()
		n, _, err := s.update(db, name, u.Lookup("q").Document(), u.Lookup("u").Document(), truth(u, "upsert"))
		return bson.D{{Key: "n", Value: n}}, err
	case "findAndModify":
		_, after, err := s.update(db, name, raw.Lookup("query").Document(), raw.Lookup("update").Document(), truth(raw, "upsert"))
		return bson.D{{Key: "value", Value: after}, {Key: "operationTime", Value: bson.Timestamp{T: 7}}}, err
	case "create":
		return s.create(db, name, d)
	case "createIndexes":
		c := s.coll(db, name)
		values, _ := raw.Lookup("indexes").Array().Values()
		for _, v := range values {
			if !slices.ContainsFunc(c.indexes, func(i bson.Raw) bool { return bytes.Equal(i, v.Document()) }) {
				c.indexes = append(c.indexes, slices.Clone(v.Document()))
			}
		}
		return bson.D{}, nil
	case "listCollections":
		return s.listCollections(db, raw)
	case "listIndexes":
		if s.colls[db][name] == nil {
			return nil, &backend.CommandError{Code: 26, Message: "no such collection"}
		}
		return s.cursor(db+"."+name, append([]bson.Raw{mustDoc(bson.D{{Key: "v", Value: 2}, {Key: "key", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "name", Value: "_id_"}})}, s.coll(db, name).indexes...)), nil
	}
	return nil, &backend.CommandError{Code: 59, Message: "no such command " + d[0].Key}
}

func truth(d bson.Raw, key string) bool {
	b, ok := d.Lookup(key).BooleanOK()
	return ok && b
}

func mustDoc(v any) bson.Raw {
	b, err := bson.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (s *server) cursor(ns string, docs []bson.Raw) bson.D {
	var id int64
	if len(docs) > s.batch {
		id = int64(len(s.cursors) + 1)
		s.cursors[id] = docs[s.batch:]
		docs = docs[:s.batch]
	}
	return bson.D{{Key: "cursor", Value: bson.D{{Key: "id", Value: id}, {Key: "ns", Value: ns}, {Key: "firstBatch", Value: append([]bson.Raw{}, docs...)}}}}
}

func (s *server) getMore(id int64, ns string) bson.D {
	docs := s.cursors[id]
	next := id
	if n := min(s.batch, len(docs)); n < len(docs) {
		s.cursors[id], docs = docs[n:], docs[:n]
	} else {
		next = 0
	}
	return bson.D{{Key: "cursor", Value: bson.D{{Key: "id", Value: next}, {Key: "ns", Value: ns}, {Key: "nextBatch", Value: append([]bson.Raw{}, docs...)}}}}
}

func (s *server) find(db, name string, raw bson.Raw) (bson.D, error) {
	if _, err := raw.LookupErr("readConcern"); err == nil {
		return nil, &backend.CommandError{Code: 148, Message: "read concern level linearizable is not supported"}
	}
	var docs []bson.Raw
	if s.colls[db][name] != nil {
		for _, d := range s.colls[db][name].docs {
			if matches(d, raw.Lookup("filter").Document()) {
				docs = append(docs, d)
			}
		}
	}
	return s.cursor(db+"."+name, docs), nil
}

// matches knows equality and $in, on dotted fields.
func matches(d, filter bson.Raw) bool {
	elems, _ := filter.Elements()
	for _, e := range elems {
		v, err := d.LookupErr(strings.Split(e.Key(), ".")...)
		want := []bson.RawValue{e.Value()}
		if sub, ok := e.Value().DocumentOK(); ok {
			want, _ = sub.Lookup("$in").Array().Values()
		}
		if err != nil || !slices.ContainsFunc(want, func(w bson.RawValue) bool { return sameRaw(w, v) }) {
			return false
		}
	}
	return true
}

func sameRaw(a, b bson.RawValue) bool {
	x, okX := a.AsInt64OK()
	y, okY := b.AsInt64OK()
	return okX && okY && x == y || a.Type == b.Type && bytes.Equal(a.Value, b.Value)
}

func (s *server) insert(db, name string, raw bson.Raw) bson.D {
	c := s.coll(db, name)
	docs, _ := raw.Lookup("documents").Array().Values()
	for i, v := range docs {
		d := slices.Clone(v.Document())
		id := d.Lookup("_id")
		if slices.ContainsFunc(c.docs, func(o bson.Raw) bool { return sameRaw(o.Lookup("_id"), id) }) {
			return bson.D{{Key: "n", Value: i}, {Key: "writeErrors", Value: bson.A{bson.D{{Key: "index", Value: i}, {Key: "code", Value: 11000}, {Key: "errmsg", Value: "duplicate key"}}}}}
		}
		c.docs = append(c.docs, d)
	}
	return bson.D{{Key: "n", Value: len(docs)}}
}

// update knows replacements, $inc and $max of one field.
func (s *server) update(db, name string, q, u bson.Raw, upsert bool) (n int, after bson.Raw, err error) {
	c := s.coll(db, name)
	i := slices.IndexFunc(c.docs, func(d bson.Raw) bool { return matches(d, q) })
	if i < 0 && !upsert {
		return 0, nil, nil
	}
	var old bson.D
	if i < 0 {
		_ = bson.Unmarshal(q, &old)
		c.docs = append(c.docs, nil)
		i = len(c.docs) - 1
	} else {
		_ = bson.Unmarshal(c.docs[i], &old)
	}
	op := u.Index(0)
	if !strings.HasPrefix(op.Key(), "$") {
		c.docs[i] = slices.Clone(u)
		return 1, c.docs[i], nil
	}
	field := op.Value().Document().Index(0)
	at := slices.IndexFunc(old, func(e bson.E) bool { return e.Key == field.Key() })
	if at < 0 {
		old = append(old, bson.E{Key: field.Key(), Value: int64(0)})
		at = len(old) - 1
	}
	was, by := old[at].Value.(int64), field.Value().AsInt64()
	if op.Key() == "$inc" {
		old[at].Value = was + by
	} else {
		old[at].Value = max(was, by)
	}
	c.docs[i] = mustDoc(old)
	return 1, c.docs[i], nil
}

func (s *server) create(db, name string, d bson.D) (bson.D, error) {
	if s.colls[db][name] != nil {
		return nil, &backend.CommandError{Code: 48, Message: "exists"}
	}
	c := s.coll(db, name)
	options := slices.DeleteFunc(slices.Clone(d), func(e bson.E) bool {
		return e.Key == "create" || e.Key == "$db" || e.Key == "writeConcern"
	})
	c.options = mustDoc(options)
	return bson.D{}, nil
}

func (s *server) listCollections(db string, raw bson.Raw) (bson.D, error) {
	kind, _ := raw.Lookup("filter", "type").StringValueOK()
	var docs []bson.Raw
	for _, name := range sortedKeys(s.colls[db]) {
		c := s.colls[db][name]
		if kind != "" && kind != c.kind {
			continue
		}
		options := c.options
		if options == nil {
			options = mustDoc(bson.D{})
		}
		docs = append(docs, mustDoc(bson.D{{Key: "name", Value: name}, {Key: "type", Value: c.kind}, {Key: "options", Value: options}}))
	}
	return s.cursor(db+".$cmd.listCollections", docs), nil
}

// put inserts a document for a test.
func (s *server) put(db, name string, doc bson.D) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.coll(db, name)
	c.docs = append(c.docs, mustDoc(doc))
}

func (s *server) docs(db, name string) []bson.Raw {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.colls[db][name] == nil {
		return nil
	}
	return slices.Clone(s.colls[db][name].docs)
}

func (s *server) clear(db, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coll(db, name).docs = nil
}

func (s *server) setFail(fail func(n int, db, name string) failMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.n = fail, 0
}

func (s *server) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func TestFakePages(t *testing.T) {
	s := newServer()
	s.batch = 3
	for i := range 10 {
		s.put("db", "c", bson.D{{Key: "_id", Value: i}})
	}
	n := 0
	err := each(t.Context(), s, "db", bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: bson.D{}}}, func(wire.Doc) error { n++; return nil })
	if err != nil || n != 10 {
		t.Fatal(n, err)
	}
}
