package proxy

import (
	"bytes"
	"math"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// merged is a find over several homes as one stream: in the order of the client's sort, or as the
// homes bring it. Each home is asked for the first skip+limit documents; skip and limit are applied
// here.
type merged struct {
	streams []*stream
	down    []bool // by field of the sort: descending; nil for no sort
	skip    int64
	left    int64  // documents that may still be given; < 0 is no limit
	at      int    // of the streams before it nothing is left, without a sort
	front   *front // with one: the streams by their first documents; nil before these have been read
	given   bool   // the front's first document is taken, and its stream not looked at since
}

// stream is one home's part: what it has brought and, while its id is not 0, its cursor.
type stream struct {
	cursorPart
	docs  []wire.Doc
	apart bool // its cursor is outside of the command's transaction
	info  bool // its documents name databases
	flow  *flow
}

// more reports whether the stream may have documents beside those that it has brought.
func (s *stream) more() bool { return s.id != 0 || s.flow != nil && s.flow.more() }

// sortKey is the name under which servers are asked for the key that they sort a document by. It is
// taken off before the document leaves. Strings in it are collation keys where a collation is in
// force, so that comparing bytes is right for them too.
const sortKey = "__tenantry_sort_key"

// directions reads a sort; nil where it orders nothing.
func directions(sort wire.Doc) []bool {
	var down []bool
	for it := sort.Iter(); it.Next(); {
		if string(it.Key) == "$natural" {
			return nil
		}
		n, isNumber := it.Value.Int()
		down = append(down, !isNumber || n < 0) // {$meta: "textScore"} sorts downwards
	}
	return down
}

// askSortKey changes the find so that each document brings its sort key.
func (c *clientConn) askSortKey(p *wire.Patch) {
	e := appendSortKey(nil)
	f, ok := c.req.Field("projection")
	if d, isDoc := f.Value.Doc(); ok && isDoc {
		p.Replace(f.At+len(d)-1, 0, e, c.msg.BodyAt, f.At)
		return
	}
	remove(&c.req, p, "projection")
	i, whole := bsoncore.AppendDocumentElementStart(nil, "projection")
	whole, _ = bsoncore.AppendDocumentEnd(append(whole, e...), i)
	p.Replace(c.msg.BodyAt+len(c.msg.Body)-1, 0, whole, c.msg.BodyAt)
}

func appendSortKey(d []byte) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, sortKey)
	d = bsoncore.AppendStringElement(d, "$meta", "sortKey")
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// findMany answers a find with every home's documents.
func (c *clientConn) findMany(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	m := &merged{skip: c.number("skip"), left: -1}
	limit := c.number("limit")
	if limit > 0 {
		m.left = limit
	}
	if f, ok := c.req.Field("sort"); ok {
		sort, _ := f.Value.Doc()
		m.down = directions(sort)
	}
	trips := c.spread(t, d, tx)
	for _, tr := range trips {
		tr.edit = func(p *wire.Patch) {
			c.widen(p, limit, m.skip)
			if m.skip > 0 {
				remove(&c.req, p, "singleBatch") // what is skipped may be more than a batch
			}
			if m.down != nil {
				c.askSortKey(p)
			}
		}
	}
	cur, err := c.join(m, c.scatter(trips, tx))
	if err != nil {
		return nil, err
	}
	f, _ := c.req.Field("batchSize")
	return c.firstOfMerged(cur, f.Value, tx)
}

// mostInReply is more documents than any reply has room for: 16 MiB of the smallest ones. A server may
// make room for as many as it is asked for before it has read one.
const mostInReply = 1 << 21

// firstSize is how many documents a client wants at once that opens a cursor with the batchSize.
func firstSize(batchSize wire.Value) int {
	n, ok := batchSize.Int()
	if !ok {
		return 101
	}
	return int(min(max(n, 0), mostInReply))
}

// cursorSize is the batchSize in the command's cursor options.
func (c *clientConn) cursorSize() wire.Value {
	f, _ := c.req.Field("cursor")
	options, _ := f.Value.Doc()
	size, _ := options.Lookup("batchSize")
	return size
}

// nextSize is how many documents a getMore wants; < 0 for none said.
func (c *clientConn) nextSize() int {
	f, _ := c.req.Field("batchSize")
	if n, _ := f.Value.Int(); n > 0 {
		return int(min(n, mostInReply))
	}
	return -1
}

// firstOfMerged is the reply with the first batch of a cursor over several homes.
func (c *clientConn) firstOfMerged(cur *cursor, batchSize wire.Value, tx *txn) (*wire.Buf, *wire.Error) {
	docs, err := c.take(cur, firstSize(batchSize), tx)
	if err == nil {
		err = c.leaking(cur, docs)
	}
	if err == nil {
		err = c.probed(cur.merged.streams, tx)
	}
	if err != nil {
		c.killStreams(cur)
		return nil, err
	}
	id := int64(0)
	if cur.merged.done() || c.boolean("singleBatch") || c.viewed.once {
		c.killStreams(cur)
	} else {
		id = c.keep(cur)
	}
	return c.mergedReply(id, cur, "firstBatch", docs, tx), nil
}

// join makes one cursor of the parts' cursors, with a copy of what they have brought already.
func (c *clientConn) join(m *merged, parts []part) (*cursor, *wire.Error) {
	defer free(parts)
	var cur *cursor
	for i := range parts {
		p := &parts[i]
		if p.err == nil && !p.tr.facts.ok {
			p.err = c.replied(p.tr)
			if m.down != nil {
				p.err = sortable(p.err)
			}
		}
		if p.err != nil {
			c.killOpened(parts)
			return nil, p.err
		}
		docs, id, ns := firstBatch(p.tr.facts.cursor)
		if cur == nil {
			cur = c.newCursor(ns, p.tr.target)
			cur.merged = m
		}
		s := &stream{cursorPart: partOf(p.tr, id, ns)}
		s.bring(docs)
		m.streams = append(m.streams, s)
	}
	return cur, nil
}

// sortable says what is the matter where servers know no sortKey (238 is NotImplemented).
func sortable(err *wire.Error) *wire.Error {
	if err.Code != 238 {
		return err
	}
	return wire.Errorf(wire.IllegalOperation,
		"this cluster's servers do not tell sort keys, so that documents of several databases can not be sorted; add the tenant field to the filter")
}

// partOf is the cursor that a trip has opened.
func partOf(tr *trip, id int64, ns []byte) cursorPart {
	_, coll, _ := bytes.Cut(ns, []byte("."))
	return cursorPart{tr.target, tr.address, id, string(coll)}
}

// bring takes documents over, out of the reply that they came in.
func (s *stream) bring(docs []wire.Doc) {
	r := renamer{target: s.target, rule: rowNames}
	for _, d := range docs {
		if s.info {
			s.docs = append(s.docs, r.doc(nil, d, "", 0))
			continue
		}
		s.docs = append(s.docs, slices.Clone(d))
	}
}

// killOpened ends the cursors that the parts have opened.
func (c *clientConn) killOpened(parts []part) {
	for i := range parts {
		p := &parts[i]
		if p.reply == nil || p.tr.facts.cursor == nil {
			continue
		}
		if _, id, ns := firstBatch(p.tr.facts.cursor); id != 0 {
			c.killPart(partOf(p.tr, id, ns), c.newCursor(ns, p.tr.target))
		}
	}
}

func (c *clientConn) killStreams(cur *cursor) { c.killAll(cur.merged.streams, cur) }

func (c *clientConn) killAll(streams []*stream, cur *cursor) {
	for _, s := range streams {
		if s.id != 0 {
			c.killPart(s.cursorPart, cur)
			s.id = 0
		}
		if s.flow != nil {
			c.killAll(s.flow.from, cur)
			s.flow.from = nil
		}
	}
}

// widen makes a sub-find bring all that skip and limit could need of it.
func (c *clientConn) widen(p *wire.Patch, limit, skip int64) {
	remove(&c.req, p, "skip")
	if limit <= 0 || skip <= 0 {
		return
	}
	remove(&c.req, p, "limit")
	if limit > math.MaxInt64-skip {
		return // no server has as many
	}
	p.Replace(c.msg.BodyAt+len(c.msg.Body)-1, 0, bsoncore.AppendInt64Element(nil, "limit", limit+skip), c.msg.BodyAt)
}

func (m *merged) done() bool {
	if m.left == 0 {
		return true
	}
	for _, s := range m.streams {
		if s.more() || len(s.docs) > 0 {
			return false
		}
	}
	return true
}

// ready is the stream with the next document: with a sort every stream must show its first, without
// one any will do. None left gives nil. size is as for [clientConn.fetch].
func (c *clientConn) ready(cur *cursor, size int, tx *txn) (*stream, *wire.Error) {
	m := cur.merged
	if m.down != nil {
		return c.first(cur, size, tx)
	}
	for ; m.at < len(m.streams); m.at++ {
		s := m.streams[m.at]
		if err := c.show(cur, s, size, tx); err != nil || len(s.docs) > 0 {
			return s, err
		}
	}
	return nil, nil
}

// show reads on until the stream has a document, or has ended.
func (c *clientConn) show(cur *cursor, s *stream, size int, tx *txn) *wire.Error {
	for len(s.docs) == 0 && s.more() {
		if err := c.fetch(cur, s, size, tx); err != nil {
			return err
		}
	}
	return nil
}

// pass takes the first document off the stream that is ready.
func (m *merged) pass(s *stream) { s.docs, m.given = s.docs[1:], true }

// keyLess compares two sort keys: arrays with a value for each field of the sort.
func keyLess(a, b wire.Value, down []bool) bool {
	i, j := wire.Doc(a.Data).Iter(), wire.Doc(b.Data).Iter()
	for _, down := range down {
		var v, w wire.Value
		if i.Next() {
			v = i.Value
		}
		if j.Next() {
			w = j.Value
		}
		if o := wire.Compare(v, w); o != 0 {
			return o < 0 != down
		}
	}
	return false
}

// maxBatch is when a batch is closed, below the largest document.
const maxBatch = wire.MaxDocument - 64<<10

// take gives the next batch of at most n documents; n < 0 is as many as fit, and without a sort no
// more than are there.
func (c *clientConn) take(cur *cursor, n int, tx *txn) (docs []wire.Doc, err *wire.Error) {
	m := cur.merged
	for size := 0; m.left != 0 && (n < 0 || len(docs) < n); {
		s, err := c.ready(cur, m.wanted(n-len(docs)), tx)
		if err != nil {
			return nil, err
		}
		if s == nil {
			break
		}
		doc := s.docs[0]
		if m.skip > 0 {
			m.skip--
			m.pass(s)
			continue
		}
		if size += len(doc) + 16; size > maxBatch && len(docs) > 0 {
			break
		}
		m.pass(s)
		if m.down != nil {
			doc = without(doc, sortKey)
		}
		docs = append(docs, doc)
		if m.left > 0 {
			m.left--
		}
	}
	return docs, nil
}

// wanted is how many documents a stream may have to bring for the client's next n; 0 for as many as it
// likes.
func (m *merged) wanted(n int) int {
	if n <= 0 {
		return 0
	}
	return int(min(int64(n)+m.skip, mostInReply))
}

// without is the document less one field.
func without(d wire.Doc, name string) wire.Doc {
	for it := d.Iter(); it.Next(); {
		if string(it.Key) != name {
			continue
		}
		out := make(wire.Doc, 0, len(d))
		out = append(out, d[:it.Start]...)
		out = append(out, d[it.End():]...)
		n := len(out)
		out[0], out[1], out[2], out[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		return out
	}
	return d
}

// nextMerged gives the next batch of a cursor over several homes.
func (c *clientConn) nextMerged(cur *cursor, tx *txn) *wire.Buf {
	if err := c.countable("batchSize", "getMore"); err != nil {
		return c.refuse(err)
	}
	docs, err := c.take(cur, c.nextSize(), tx)
	if err == nil {
		err = c.leaking(cur, docs)
	}
	if err != nil {
		c.srv.cursors.remove(cur.id)
		c.killStreams(cur)
		return c.refuse(err)
	}
	id := cur.id
	if cur.merged.done() {
		c.killStreams(cur)
		c.srv.cursors.remove(id)
		id = 0
	}
	if id != 0 {
		c.weigh(cur)
	}
	return c.mergedReply(id, cur, "nextBatch", docs, tx)
}

// fetch reads the next batch of one stream, of size documents; as many as its server likes for none.
func (c *clientConn) fetch(cur *cursor, s *stream, size int, tx *txn) *wire.Error {
	if s.flow != nil {
		return s.flow.fetch(c, s, size, tx)
	}
	if s.apart {
		tx = nil
	}
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt64Element(d, "getMore", s.id)
		d = bsoncore.AppendStringElement(d, "collection", s.coll)
		if size > 0 {
			d = bsoncore.AppendInt32Element(d, "batchSize", int32(size))
		}
		d = c.appendSession(d, s.target.Cluster, tx)
		return bsoncore.AppendStringElement(d, "$db", cur.physical(s.target))
	})
	tr := ownTrip(s.target, func() wire.Doc { return body })
	tr.txn, tr.cursor, tr.sel, tr.tenant = tx, cur, backend.Select{Address: s.address}, cur.tenant
	reply, err := c.send(tr)
	if err != nil {
		return err
	}
	defer reply.Free()
	if !tr.facts.ok {
		return c.replied(tr)
	}
	docs, id, _ := firstBatch(tr.facts.cursor)
	s.id = id
	s.bring(docs)
	return nil
}

// mergedReply is a batch of a cursor over several homes.
func (c *clientConn) mergedReply(id int64, cur *cursor, batch string, docs []wire.Doc, tx *txn) *wire.Buf {
	return c.answerOf(tx, func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
		d = appendBatch(d, batch, docs)
		d = bsoncore.AppendInt64Element(d, "id", id)
		d = c.appendSnapshot(d)
		d = bsoncore.AppendStringElement(d, "ns", cur.db+"."+cur.coll)
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	})
}

// valueSet is values as servers tell them apart in a query: numbers by value across their types.
type valueSet []wire.Value

// union sorts the values and keeps one of each.
func (s valueSet) union() valueSet {
	slices.SortStableFunc(s, wire.Compare)
	return slices.CompactFunc(s, func(a, b wire.Value) bool { return wire.Compare(a, b) == 0 })
}
