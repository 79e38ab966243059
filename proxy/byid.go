package proxy

import (
	"slices"
	"sync"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Commands without a tenant that name their documents by _id: what saving a loaded document,
// findById and populate send. Reads ask every holder at once; writes find out where the document
// is and go there whole. Sent to no holder that the decision did not name.

// part is one holder's answer.
type part struct {
	tr    *trip
	reply *wire.Buf
	err   *wire.Error
}

func free(parts []part) {
	for i := range parts {
		parts[i].reply.Free()
		parts[i].reply = nil
	}
}

// byID serves a command that routing decided to find the home of by _id.
func (c *clientConn) byID(t *routing.Table, d *routing.Decision) (*wire.Buf, bool) {
	tx, werr := c.transaction()
	if werr != nil {
		return c.refuse(werr), false
	}
	if c.req.Writes() || tx != nil {
		k, stale := c.depart(t, d)
		if stale {
			return nil, true
		}
		if tx != nil {
			tx.count(k)
		} else {
			defer c.srv.flights.leave(k)
		}
	}
	begun := false
	if tx != nil {
		first, err := c.pinAll(tx, d.Targets)
		if err != nil {
			c.failTxn(tx)
			return c.refuse(err), false
		}
		begun = !first
	}
	c.outcome.target = d.Targets[0]
	var reply *wire.Buf
	again := false
	if c.req.Writes() {
		reply, again, werr = c.writeByID(t, d, tx, begun)
	} else {
		reply, werr = c.findByID(t, d, tx, begun)
	}
	if werr != nil {
		if tx != nil {
			c.failTxn(tx)
		}
		return c.refuse(werr), false
	}
	return reply, again
}

// pinAll pins the transaction to the one cluster of all the targets.
func (c *clientConn) pinAll(tx *txn, targets []*routing.Target) (first bool, err *wire.Error) {
	for _, x := range targets[1:] {
		if x.Cluster != targets[0].Cluster {
			return false, wire.Errorf(wire.OperationNotSupportedTxn,
				"in a transaction a command without a tenant can not look on several clusters; add the tenant field to its filter")
		}
	}
	return tx.pin(targets[0].Cluster)
}

// scatter sends every trip's command, at once within the width, one after the other in a
// transaction, and returns when all are back.
func (c *clientConn) scatter(trips []*trip, tx *txn, begun bool) []part {
	parts := make([]part, len(trips))
	if tx != nil || len(trips) == 1 {
		for i, tr := range trips {
			tr.noStart = begun || i > 0
			parts[i].tr = tr
			parts[i].reply, parts[i].err = c.send(tr)
		}
		return parts
	}
	room := make(chan struct{}, c.srv.settings.Load().width)
	var wg sync.WaitGroup
	for i, tr := range trips {
		parts[i].tr = tr
		if tr.body == nil {
			if tr.frame, parts[i].err = c.request(tr); parts[i].err != nil {
				continue
			}
		}
		room <- struct{}{}
		wg.Add(1)
		go func(p *part) {
			defer wg.Done()
			p.reply, p.err = c.send(p.tr)
			<-room
		}(&parts[i])
	}
	wg.Wait()
	return parts
}

// firstBatch takes a cursor's document apart.
func firstBatch(cursor wire.Doc) (docs []wire.Doc, id int64, ns []byte) {
	for it := cursor.Iter(); it.Next(); {
		switch string(it.Key) {
		case "firstBatch", "nextBatch":
			a, _ := it.Value.Array()
			for e := a.Iter(); e.Next(); {
				if d, ok := e.Value.Doc(); ok {
					docs = append(docs, d)
				}
			}
		case "id":
			id, _ = it.Value.Int()
		case "ns":
			ns, _ = it.Value.Str()
		}
	}
	return docs, id, ns
}

// findByID answers a find by _id from whoever holds the documents.
func (c *clientConn) findByID(t *routing.Table, d *routing.Decision, tx *txn, begun bool) (*wire.Buf, *wire.Error) {
	f, _ := c.req.Field("filter")
	filter, _ := f.Value.Doc()
	ids, _ := routing.IDs(filter)
	if len(ids) != 1 {
		return c.findMany(t, d, tx, begun)
	}
	targets := d.Targets
	if h := c.srv.hints.get(d.Coll, string(c.req.Coll()), ids[0], targets); h != nil && tx == nil {
		parts := c.scatter([]*trip{c.sideTrip(t, h, nil)}, nil, false)
		if found(&parts[0]) || parts[0].reply != nil && !parts[0].tr.facts.ok {
			return c.finish(parts[0].tr, parts[0].reply)
		}
		free(parts)
	}
	trips := make([]*trip, len(targets))
	for i, x := range targets {
		trips[i] = c.sideTrip(t, x, tx)
	}
	parts := c.scatter(trips, tx, begun)
	pick := pickFound(parts)
	for i := range parts {
		if i != pick {
			parts[i].reply.Free()
		}
	}
	p := &parts[pick]
	if p.err != nil {
		return nil, p.err
	}
	if found(p) {
		c.srv.hints.put(d.Coll, string(c.req.Coll()), ids[0], p.tr.target)
	}
	c.outcome.target = p.tr.target
	return c.finish(p.tr, p.reply)
}

// pickFound is the part that answers: the first with a document, else the first that failed (a
// document there can not be ruled out), else the first.
func pickFound(parts []part) int {
	pick := 0
	for i := range parts {
		p := &parts[i]
		if found(p) {
			return i
		}
		if bad := p.err != nil || !p.tr.facts.ok; bad && (parts[pick].err == nil && parts[pick].tr.facts.ok) {
			pick = i
		}
	}
	return pick
}

// found reports whether a find has brought a document.
func found(p *part) bool {
	if p.err != nil || p.reply == nil || p.tr.facts.cursor == nil {
		return false
	}
	docs, _, _ := firstBatch(p.tr.facts.cursor)
	return len(docs) > 0
}

// findMany answers a find by several _ids with every holder's documents.
func (c *clientConn) findMany(t *routing.Table, d *routing.Decision, tx *txn, begun bool) (*wire.Buf, *wire.Error) {
	limit, skip := c.number("limit"), c.number("skip")
	trips := make([]*trip, len(d.Targets))
	for i, x := range d.Targets {
		trips[i] = c.sideTrip(t, x, tx)
		trips[i].edit = func(p *wire.Patch) { c.widen(p, limit, skip) }
	}
	parts := c.scatter(trips, tx, begun)
	cur, err := c.join(parts)
	if err != nil {
		return nil, err
	}
	for ; skip > 0; skip-- {
		for len(cur.docs) == 0 && len(cur.parts) > 0 {
			if err := c.fetch(cur, tx); err != nil {
				return nil, err
			}
		}
		cur.docs = cur.docs[min(1, len(cur.docs)):]
	}
	if limit > 0 {
		cur.left = limit
	}
	size := 101
	if f, ok := c.req.Field("batchSize"); ok {
		n, _ := f.Value.Int()
		size = int(min(max(n, 0), 1<<30))
	}
	docs := cur.take(size)
	single := c.boolean("singleBatch")
	if cur.done() || single {
		for _, p := range cur.parts {
			c.killPart(p, cur)
		}
		return c.mergedReply(0, cur, "firstBatch", docs, tx), nil
	}
	return c.mergedReply(c.srv.cursors.add(cur), cur, "firstBatch", docs, tx), nil
}

// join makes one cursor of the parts' cursors, with a copy of what they have brought already.
func (c *clientConn) join(parts []part) (*cursor, *wire.Error) {
	defer free(parts)
	var cur *cursor
	for i := range parts {
		p := &parts[i]
		if p.err == nil && !p.tr.facts.ok {
			p.err = c.replied(p.tr)
		}
		if p.err != nil {
			c.killOpened(parts)
			return nil, p.err
		}
		docs, id, ns := firstBatch(p.tr.facts.cursor)
		if cur == nil {
			cur = c.newCursor(ns, p.tr.target)
			cur.docs = []wire.Doc{}
		}
		for _, doc := range docs {
			cur.docs = append(cur.docs, slices.Clone(doc))
		}
		if id != 0 {
			cur.parts = append(cur.parts, cursorPart{p.tr.target, p.tr.address, id})
		}
	}
	return cur, nil
}

// killOpened ends the cursors that the parts have opened.
func (c *clientConn) killOpened(parts []part) {
	for i := range parts {
		p := &parts[i]
		if p.reply == nil || p.tr.facts.cursor == nil {
			continue
		}
		if _, id, ns := firstBatch(p.tr.facts.cursor); id != 0 {
			c.killPart(cursorPart{p.tr.target, p.tr.address, id}, c.newCursor(ns, p.tr.target))
		}
	}
}

// replied is a part's error reply as an error of the whole command.
func (c *clientConn) replied(tr *trip) *wire.Error {
	msg, _ := tr.msg.Body.Lookup("errmsg")
	s, _ := msg.Str()
	code := tr.facts.code
	if stateChange(code) {
		code = wire.HostUnreachable
	}
	return c.label(wire.Errorf(code, "%s", renameText(string(s), tr.target)), false)
}

// widen makes a sub-find bring all that skip and limit could need of it.
func (c *clientConn) widen(p *wire.Patch, limit, skip int64) {
	c.remove(p, "skip")
	if limit <= 0 || skip <= 0 {
		return
	}
	c.remove(p, "limit")
	p.Replace(c.msg.BodyAt+len(c.msg.Body)-1, 0, bsoncore.AppendInt64Element(nil, "limit", limit+skip), c.msg.BodyAt)
}

func (c *clientConn) number(name string) int64 {
	f, ok := c.req.Field(name)
	if !ok {
		return 0
	}
	n, _ := f.Value.Int()
	return max(n, 0)
}

func (c *clientConn) boolean(name string) bool {
	f, _ := c.req.Field(name)
	return f.Value.True()
}

// maxBatch is when a batch is closed, below the largest document.
const maxBatch = wire.MaxDocument - 64<<10

// take gives the next batch of at most n documents; n < 0 is as many as fit.
func (cur *cursor) take(n int) []wire.Doc {
	bytes, i := 0, 0
	for i < len(cur.docs) && (n < 0 || i < n) && cur.left != 0 {
		if bytes += len(cur.docs[i]) + 16; bytes > maxBatch && i > 0 {
			break
		}
		if cur.left > 0 {
			cur.left--
		}
		i++
	}
	docs := cur.docs[:i]
	cur.docs = cur.docs[i:]
	return docs
}

func (cur *cursor) done() bool {
	return cur.left == 0 || len(cur.docs) == 0 && len(cur.parts) == 0
}

// nextMerged gives the next batch of a cursor over several parts.
func (c *clientConn) nextMerged(cur *cursor, tx *txn) *wire.Buf {
	size := -1
	if f, ok := c.req.Field("batchSize"); ok {
		if n, _ := f.Value.Int(); n > 0 {
			size = int(min(n, 1<<30))
		}
	}
	for len(cur.docs) == 0 && len(cur.parts) > 0 {
		if err := c.fetch(cur, tx); err != nil {
			return c.refuse(err)
		}
	}
	docs := cur.take(size)
	id := cur.id
	if cur.done() {
		for _, p := range cur.parts {
			c.killPart(p, cur)
		}
		c.srv.cursors.remove(id)
		id = 0
	}
	return c.mergedReply(id, cur, "nextBatch", docs, tx)
}

// fetch reads the next batch of the first part.
func (c *clientConn) fetch(cur *cursor, tx *txn) *wire.Error {
	part := &cur.parts[0]
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt64Element(d, "getMore", part.id)
		d = bsoncore.AppendStringElement(d, "collection", cur.coll)
		d = c.appendSession(d, part.target.Cluster, tx, false)
		return bsoncore.AppendStringElement(d, "$db", cur.physical(part.target))
	})
	tr := &trip{target: part.target, patch: &wire.Patch{}, msg: &wire.Message{}, aside: true, body: body, txn: tx, cursor: cur,
		sel: backend.Select{Address: part.address}}
	reply, err := c.send(tr)
	if err != nil {
		return err
	}
	defer reply.Free()
	if !tr.facts.ok {
		return c.replied(tr)
	}
	docs, id, _ := firstBatch(tr.facts.cursor)
	for _, d := range docs {
		cur.docs = append(cur.docs, slices.Clone(d))
	}
	if part.id = id; id == 0 {
		cur.parts = cur.parts[1:]
	}
	return nil
}

// appendSession appends the fields of the client's session, and of its transaction, to a command
// made here.
func (c *clientConn) appendSession(d []byte, cluster string, tx *txn, start bool) []byte {
	if !c.hasLSID {
		return d
	}
	d = bsoncore.AppendDocumentElement(d, "lsid", sessionDoc(*c.derive(cluster)))
	if tx == nil {
		return d
	}
	d = bsoncore.AppendInt64Element(d, "txnNumber", tx.number)
	d = bsoncore.AppendBooleanElement(d, "autocommit", false)
	if !start {
		return d
	}
	d = bsoncore.AppendBooleanElement(d, "startTransaction", true)
	if f, ok := c.req.Field("readConcern"); ok {
		d = f.Value.AppendTo(d, "readConcern")
	}
	return d
}

func (c *clientConn) mergedReply(id int64, cur *cursor, batch string, docs []wire.Doc, tx *txn) *wire.Buf {
	return replyOf(func(d []byte) []byte {
		d = appendCursor(d, id, cur.db+"."+cur.coll, batch, docs)
		if tx != nil {
			d = append(d, recoveryToken(tx.cluster)...)
		}
		return d
	})
}
