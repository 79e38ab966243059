package proxy

import (
	"sync"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

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
