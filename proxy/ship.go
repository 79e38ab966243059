package proxy

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// shipping runs a pipeline whose parts have different places. What the homes bring is shipped as
// $documents to where the next part runs, so that no stage is ever evaluated here:
//
//	homes ─▶ prefix, at once ─▶ documents ─▶ { aggregate: 1, pipeline: [{ $documents: … }, rest …] }
type shipping struct {
	c       *clientConn
	t       *routing.Table
	tx      *txn
	tenant  uint32
	main    *routing.Segment // that reads the collection which the command names
	body    wire.Doc         // the command's
	strings wire.Value       // the collation of the collection, where the command says none
	cur     *cursor          // of the whole command
	opened  []*stream        // all that have been, for their cursors to be ended when the command fails
}

// aggregate answers a pipeline by its segments.
func (c *clientConn) aggregate(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	if _, err := c.enterRoom(d.Tenant); err != nil {
		return nil, err
	}
	defer c.letGo()
	if d.Sorted != nil {
		if reply, err := c.sorted(t, d, tx); reply != nil || err != nil {
			return reply, err
		}
	}
	s := c.newShipping(t, d, &d.Segments[len(d.Segments)-1], tx)
	streams, err := s.run(d.Segments, true)
	if err != nil {
		s.end()
		return nil, err
	}
	if d.Segments[0].Counts {
		docs, err := s.drain(streams, &d.Segments[0])
		if err != nil {
			s.end()
			return nil, err
		}
		streams = []*stream{{docs: summedDocs(docs)}}
	}
	s.cur.merged.streams = streams
	return c.firstOfMerged(s.cur, c.cursorSize(), tx)
}

// newShipping is the shipping of a pipeline, whose documents are those of its last segment.
func (c *clientConn) newShipping(t *routing.Table, d *routing.Decision, last *routing.Segment, tx *txn) *shipping {
	s := &shipping{c: c, t: t, tx: tx, main: &d.Segments[0], body: c.msg.Body, strings: t.Collation(&c.req), cur: c.ownCursor()}
	if d.Tenant != nil {
		s.tenant, s.cur.tenant = d.Tenant.Num, d.Tenant.Num
	}
	s.cur.merged = &merged{skip: last.Skip, left: -1}
	if last.Limit > 0 {
		s.cur.merged.left = last.Limit
	}
	return s
}

// summedDocs is one document with the sums of what the documents count; none where there is none.
func summedDocs(docs []wire.Doc) []wire.Doc {
	if len(docs) < 2 {
		return docs
	}
	return []wire.Doc{build(func(d []byte) []byte {
		for it := docs[0].Iter(); it.Next(); {
			if key := string(it.Key); key == "_id" {
				d = it.Value.AppendTo(d, key)
			} else {
				d = appendSum(d, key, docs)
			}
		}
		return d
	})}
}

// ownCursor is a cursor of this command under the names that the client has given.
func (c *clientConn) ownCursor() *cursor {
	return &cursor{principal: c.principal, lsid: c.lsid, hasLSID: c.hasLSID, db: string(c.req.DB), coll: c.cursorColl()}
}

// end ends the cursors of a command that has failed.
func (s *shipping) end() { s.c.killAll(s.opened, s.cur) }

// run runs segments one after the other; the documents of the last are left where they are. open
// says that what follows takes them as they come.
func (s *shipping) run(segs []routing.Segment, open bool) ([]*stream, *wire.Error) {
	flows := 0 // the first of those segments at the end that take documents as they come
	for i := range segs {
		if i > 0 && !(open && segs[i].Flows()) {
			flows = i
		}
	}
	streams, err := s.first(&segs[0], open && flows == 0)
	for i := 1; i < len(segs) && err == nil; i++ {
		if seg := &segs[i]; i > flows {
			streams, err = s.through(streams, seg)
		} else {
			streams, err = s.after(streams, seg)
		}
	}
	return streams, err
}

// after runs a segment on all documents of the one before.
func (s *shipping) after(streams []*stream, seg *routing.Segment) ([]*stream, *wire.Error) {
	if len(seg.Also) > 0 {
		more, err := s.run(seg.Also, len(seg.Stages) == 0)
		if err != nil {
			return nil, err
		}
		streams = append(streams, more...)
	}
	if len(seg.Stages) == 0 {
		return streams, nil // nothing but a $unionWith
	}
	docs, err := s.drain(streams, seg)
	if err != nil {
		return nil, err
	}
	return s.ship(seg, docs)
}

// through lets the documents flow through a segment, batch by batch as they are asked for.
func (s *shipping) through(streams []*stream, seg *routing.Segment) ([]*stream, *wire.Error) {
	if len(seg.Also) > 0 {
		more, err := s.run(seg.Also, true)
		if err != nil {
			return nil, err
		}
		streams = append(streams, more...)
	}
	if len(seg.Stages) == 0 {
		return streams, nil
	}
	f := &flow{s: *s, seg: seg.Clone(), from: streams, snapshot: s.c.snapshot}
	f.s.main, f.s.body, f.s.opened = nil, slices.Clone(s.body), nil
	return []*stream{{flow: f}}, nil
}

// flow is a segment that takes documents batch by batch.
type flow struct {
	s    shipping // of the command that began it
	seg  *routing.Segment
	from []*stream
	ran  bool // a server has seen its stages

	snapshot snapshot // that the command which began it reads at
}

// ship runs the segment on documents for a command, which may be a later one than that which began the flow.
func (f *flow) ship(c *clientConn, docs []wire.Doc, tx *txn) (s *shipping, streams []*stream, err *wire.Error) {
	own := f.s
	own.c, own.tx, f.ran = c, tx, true
	if c.snapshot.at == 0 {
		c.snapshot = f.snapshot
	}
	streams, err = own.ship(f.seg, docs)
	return &own, streams, err
}

// probed has the stages of those flows looked at through which nothing has come yet: what is wrong with a
// pipeline a server says at once, also where it finds no documents.
func (c *clientConn) probed(streams []*stream, tx *txn) *wire.Error {
	for _, x := range streams {
		if x.flow == nil {
			continue
		}
		if err := c.probed(x.flow.from, tx); err != nil {
			return err
		}
		if x.flow.ran {
			continue
		}
		if s, _, err := x.flow.ship(c, nil, tx); err != nil {
			s.end()
			return err
		}
	}
	return nil
}

func (f *flow) more() bool {
	for _, x := range f.from {
		if len(x.docs) > 0 || x.more() {
			return true
		}
	}
	return false
}

// fetch ships the next batch, of size documents that come in, for a command, which may be a later one
// than that which began the flow.
func (f *flow) fetch(c *clientConn, to *stream, size int, tx *txn) *wire.Error {
	for len(f.from) > 0 && len(f.from[0].docs) == 0 && !f.from[0].more() {
		f.from = f.from[1:]
	}
	if len(f.from) == 0 {
		return nil
	}
	x := f.from[0]
	if len(x.docs) == 0 {
		return c.fetch(f.s.cur, x, size, tx)
	}
	n, sum := 0, 0
	for n < len(x.docs) && sum+shipped(x.docs[n]) <= whole {
		sum += shipped(x.docs[n])
		n++
	}
	if n == 0 {
		return tooMany(whole)
	}
	s, streams, err := f.ship(c, x.docs[:n], tx)
	if err == nil {
		x.docs = x.docs[n:]
		to.docs, err = s.all(streams)
	}
	if err != nil {
		s.end()
	}
	return err
}

// first runs the segment that reads the pipeline's collection.
func (s *shipping) first(seg *routing.Segment, last bool) ([]*stream, *wire.Error) {
	trips := make([]*trip, len(seg.Targets))
	for i, x := range seg.Targets {
		sub, err := s.command(seg, func(d []byte) []byte {
			d = routing.AppendStages(d, "pipeline", s.t.StagesAt(seg, x))
			if f, ok := s.c.req.Field("cursor"); ok && last {
				return f.Value.AppendTo(d, "cursor")
			}
			return appendAllAtOnce(d)
		})
		if err != nil {
			return nil, err
		}
		trips[i] = s.trip(x, sub, s.tx)
	}
	return s.open(trips, seg, s.tx)
}

// appendAllAtOnce asks for batches as large as they can be.
func appendAllAtOnce(d []byte) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
	d = bsoncore.AppendInt32Element(d, "batchSize", mostInReply)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

func (s *shipping) trip(x *routing.Target, sub *subRequest, tx *txn) *trip {
	tr := s.c.sideTrip(s.t, x, tx)
	tr.sub, tr.tenant = sub, s.tenant
	return tr
}

// open sends the trips and makes a stream of what each begins.
func (s *shipping) open(trips []*trip, seg *routing.Segment, tx *txn) ([]*stream, *wire.Error) {
	parts := s.c.scatter(trips, tx)
	defer free(parts)
	var streams []*stream
	var failed *wire.Error
	for i := range parts {
		p := &parts[i]
		if p.err == nil && !p.tr.facts.ok {
			said := s.c.said(p.tr)
			if p.err = noDocuments(said); p.err == said {
				p.err = s.c.sealedSaid(p.tr, said)
			}
		}
		if p.err != nil {
			if failed == nil {
				failed = p.err
			}
			continue
		}
		docs, id, ns := firstBatch(p.tr.facts.cursor)
		x := &stream{cursorPart: partOf(p.tr, id, ns), apart: tx == nil, info: seg.Info}
		x.bring(docs)
		streams = append(streams, x)
	}
	s.opened = append(s.opened, streams...)
	return streams, failed
}

// noDocuments says what is the matter where servers can not be given documents: they know no such
// stage, or (FerretDB) no pipeline without a collection.
func noDocuments(err *wire.Error) *wire.Error {
	if !strings.Contains(err.Text, "$documents") && !strings.Contains(err.Text, "'aggregate' field must specify") {
		return err
	}
	return wire.Errorf(wire.CommandNotSupported,
		"this cluster's servers know no $documents (MongoDB has it since 5.1), so that documents of several databases can not be "+
			"brought together; add the tenant field to the first $match")
}

// whole is how many bytes of documents one command brings to a server: a command is one document.
const whole = wire.MaxDocument - 256<<10

func (s *shipping) limit() int { return int(min(s.c.srv.settings.Load().ship, whole)) }

// drain reads the streams to their ends. Parts of groups that are too many are combined in rounds.
func (s *shipping) drain(streams []*stream, seg *routing.Segment) (docs []wire.Doc, err *wire.Error) {
	limit := s.limit()
	size, rounds := 0, 0 // bytes, and how many of them a round has left
	for _, x := range streams {
		for more := true; more; {
			size += sizeOf(x.docs)
			docs, x.docs = append(docs, x.docs...), nil
			if size > limit && seg.Round != nil && size > 2*rounds {
				if docs, err = s.round(docs, seg); err != nil {
					return nil, err
				}
				size = sizeOf(docs)
				rounds = size
			}
			if size > limit {
				return nil, tooMany(limit)
			}
			if more = x.more(); more {
				err = s.c.fetch(s.cur, x, 0, s.tx)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return docs, nil
}

func tooMany(limit int) *wire.Error {
	return wire.Errorf(wire.QueryMemoryLimit,
		"the pipeline brings more than %d bytes of documents of several databases together; begin it with a $match, "+
			"best of one tenant, or raise ship_limit (to no more than 16 MB)", limit)
}

// all reads the streams to their ends, however much that is.
func (s *shipping) all(streams []*stream) (docs []wire.Doc, err *wire.Error) {
	for _, x := range streams {
		for docs, x.docs = append(docs, x.docs...), nil; x.more(); docs, x.docs = append(docs, x.docs...), nil {
			if err := s.c.fetch(s.cur, x, 0, s.tx); err != nil {
				return nil, err
			}
		}
	}
	return docs, nil
}

// shipped is what a document adds to a command.
func shipped(d wire.Doc) int { return len(d) + 32 }

func sizeOf(docs []wire.Doc) (n int) {
	for _, d := range docs {
		n += shipped(d)
	}
	return n
}

// round makes fewer documents of parts of groups, as many at a time as a command can bring.
func (s *shipping) round(docs []wire.Doc, seg *routing.Segment) (fewer []wire.Doc, err *wire.Error) {
	part := &routing.Segment{Targets: seg.Targets, Stages: seg.Round}
	for len(docs) > 0 {
		n, size := 0, 0
		for n < len(docs) && (n == 0 || size+shipped(docs[n]) <= whole) {
			size += shipped(docs[n])
			n++
		}
		streams, err := s.ship(part, docs[:n])
		if err != nil {
			return nil, err
		}
		some, err := s.all(streams)
		if err != nil {
			return nil, err
		}
		fewer, docs = append(fewer, some...), docs[n:]
	}
	return fewer, nil
}

// ship runs a segment on documents. One that reads no collection has no part in the client's
// transaction: any server would do.
func (s *shipping) ship(seg *routing.Segment, docs []wire.Doc) ([]*stream, *wire.Error) {
	tx := s.tx
	if !seg.Reads {
		tx = nil
	}
	trips := make([]*trip, len(seg.Targets))
	for i, x := range seg.Targets {
		stages := append([]wire.Doc{documents(docs)}, s.t.StagesAt(seg, x)...)
		sub, err := s.command(seg, func(d []byte) []byte {
			d = routing.AppendStages(d, "pipeline", stages)
			return appendAllAtOnce(d)
		})
		if err != nil {
			return nil, err
		}
		trips[i] = s.trip(x, sub, tx)
	}
	streams, err := s.open(trips, seg, tx)
	if err != nil || seg.Joined == "" {
		return streams, err
	}
	return s.join(streams, seg.Joined, len(docs))
}

// documents is the stage that gives these documents. Each is a literal of its own: the stage takes
// expressions, and a stored string "$x" would be read as a field's path and vanish.
func documents(docs []wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		i, d := bsoncore.AppendArrayElementStart(d, "$documents")
		for n, doc := range docs {
			j, e := bsoncore.AppendDocumentElementStart(d, itoa(n))
			e = bsoncore.AppendDocumentElement(e, "$literal", bsoncore.Document(doc))
			d, _ = bsoncore.AppendDocumentEnd(e, j)
		}
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return d
	})
}

// join makes one document of those that each stream has of it, with the array that each has a part
// of.
func (s *shipping) join(streams []*stream, array string, n int) ([]*stream, *wire.Error) {
	all := make([][]wire.Doc, len(streams))
	for i, x := range streams {
		docs, err := s.drain([]*stream{x}, &routing.Segment{})
		if err != nil {
			return nil, err
		}
		if len(docs) != n {
			return nil, wire.Errorf(wire.OperationFailed, "a join of %d documents has come back with %d", n, len(docs))
		}
		all[i] = docs
	}
	joined := all[0]
	for i := range joined {
		for _, other := range all[1:] {
			joined[i] = longer(joined[i], other[i], array)
		}
	}
	return []*stream{{docs: joined}}, nil
}

// longer is the document with the other's array behind its own.
func longer(d, other wire.Doc, array string) wire.Doc {
	more, _ := other.Lookup(array)
	tail, _ := more.Array()
	if len(tail) <= 5 {
		return d
	}
	return build(func(out []byte) []byte {
		for it := d.Iter(); it.Next(); {
			if string(it.Key) != array {
				out = append(out, d[it.Start:it.End()]...)
				continue
			}
			i, e := bsoncore.AppendArrayElementStart(out, array)
			n := 0
			for _, part := range []wire.Value{it.Value, more} {
				a, _ := part.Array()
				for v := a.Iter(); v.Next(); n++ {
					e = v.Value.AppendTo(e, itoa(n))
				}
			}
			out, _ = bsoncore.AppendArrayEnd(e, i)
		}
		return out
	})
}

// command is the client's command for a segment, with what fill adds: the pipeline and the cursor.
func (s *shipping) command(seg *routing.Segment, fill func([]byte) []byte) (*subRequest, *wire.Error) {
	body := build(func(d []byte) []byte {
		if seg.Coll != nil {
			d = bsoncore.AppendStringElement(d, "aggregate", string(seg.Coll))
		} else {
			d = bsoncore.AppendInt32Element(d, "aggregate", 1)
		}
		d = fill(d)
		for it := s.body.Iter(); it.Next(); {
			switch string(it.Key) {
			case "aggregate", "pipeline", "cursor", "explain", "bypassDocumentValidation":
			case "hint":
				if seg == s.main {
					d = append(d, s.body[it.Start:it.End()]...)
				}
			case "readConcern", "txnNumber", "autocommit", "startTransaction":
				if seg.Reads {
					d = append(d, s.body[it.Start:it.End()]...)
				}
			default:
				d = append(d, s.body[it.Start:it.End()]...)
			}
		}
		switch _, given := s.body.Lookup("collation"); {
		case given:
		case s.strings.Type != 0:
			d = s.strings.AppendTo(d, "collation")
		case s.t.HasCollation(s.cur.db, seg.Coll): // a $unionWith reads it by the command's collation, which is none
			d = routing.AppendSimple(d)
		}
		return d
	})
	if len(body) > wire.MaxDocument {
		return nil, wire.Errorf(wire.QueryMemoryLimit, "the pipeline and the documents that it brings together are more than 16 MB; begin it with a $match")
	}
	return subRequestOf(body)
}
