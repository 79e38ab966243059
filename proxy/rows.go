package proxy

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// sealed reports whether the reply comes from a database that other tenants share, for a client that is
// bound to one tenant's rows: it may tell of that tenant's documents and of nothing else.
func (c *clientConn) sealed(tr *trip) bool { return c.bound.Rows() && tr.target.Tenant == nil }

// The codes of errors that tell of what the client itself has sent (error_codes.yml).
const (
	duplicateKey    = 11000
	documentInvalid = 121
)

// sealedText stands for the server's words.
const sealedText = "tenantry: the server refused this, for the reason that the code names; " +
	"its words are not shown, since other tenants share its database"

// sealedError is an error reply, or one of writes that failed, without the server's words: a text may
// quote a document that the client was not to see. Of a duplicate key it keeps what the client sent, of
// a failed validation what is said of the client's own document.
func sealedError(d wire.Doc) wire.Doc {
	v, _ := d.Lookup("code")
	code, _ := v.Int()
	own := code == duplicateKey || code == documentInvalid
	return build(func(dst []byte) []byte {
		for it := d.Iter(); it.Next(); {
			switch key := string(it.Key); {
			case key == "errmsg" && !own:
				dst = bsoncore.AppendStringElement(dst, key, sealedText)
			case key == "errInfo" && !own, key == "foundValue", key == "duplicateRid":
			case key == "writeErrors":
				dst = appendEach(dst, key, it.Value, sealedError)
			case key == "writeConcernError":
				sub, _ := it.Value.Doc()
				dst = bsoncore.AppendDocumentElement(dst, key, bsoncore.Document(sealedError(sub)))
			default:
				dst = append(dst, d[it.Start:it.End()]...)
			}
		}
		return dst
	})
}

// sealedSaid is the error without the server's words where these may tell of other tenants.
func (c *clientConn) sealedSaid(tr *trip, e *wire.Error) *wire.Error {
	if !c.sealed(tr) {
		return e
	}
	s := *e
	if s.Reply != nil {
		s.Reply = sealedError(s.Reply)
	}
	if s.Code != wire.HostUnreachable {
		s.Text = strings.TrimPrefix(sealedText, "tenantry: ")
	}
	return &s
}

// appendEach appends an array with each of its documents made anew.
func appendEach(dst []byte, key string, v wire.Value, rule func(wire.Doc) wire.Doc) []byte {
	i, dst := bsoncore.AppendArrayElementStart(dst, key)
	a, _ := v.Array()
	for it := a.Iter(); it.Next(); {
		sub, _ := it.Value.Doc()
		dst = bsoncore.AppendDocumentElement(dst, string(it.Key), bsoncore.Document(rule(sub)))
	}
	dst, _ = bsoncore.AppendArrayEnd(dst, i)
	return dst
}

// sealedRows is what becomes of the rows of a good reply for a client that is bound to a tenant's rows
// where they are not documents of a collection; nil where they stay.
func (c *clientConn) sealedRows(tr *trip) func(wire.Doc) wire.Doc {
	switch {
	case !c.bound.Rows():
	case tr.names == routing.ReplyRows:
		return sealedRow
	case !c.sealed(tr):
	case c.req.Cmd.Merge == routing.MergeBulk, tr.cursor != nil && tr.cursor.coll == "$cmd.bulkWrite":
		return sealedError
	}
	return nil
}

// sealedRow is a row about an index or a collection without what tells of servers, or may of tenants:
// the filter of a partial index.
func sealedRow(d wire.Doc) wire.Doc {
	return build(func(dst []byte) []byte {
		for it := d.Iter(); it.Next(); {
			switch string(it.Key) {
			case "partialFilterExpression", "host", "shard":
			default:
				dst = append(dst, d[it.Start:it.End()]...)
			}
		}
		return dst
	})
}

// overRows is a reply with the rows of its cursor made anew.
func overRows(reply wire.Doc, rule func(wire.Doc) wire.Doc) wire.Doc {
	return build(func(dst []byte) []byte {
		for it := reply.Iter(); it.Next(); {
			cursor, ok := it.Value.Doc()
			if !ok || string(it.Key) != "cursor" {
				dst = append(dst, reply[it.Start:it.End()]...)
				continue
			}
			i, next := bsoncore.AppendDocumentElementStart(dst, "cursor")
			for e := cursor.Iter(); e.Next(); {
				if key := string(e.Key); key == "firstBatch" || key == "nextBatch" {
					next = appendEach(next, key, e.Value, rule)
				} else {
					next = append(next, cursor[e.Start:e.End()]...)
				}
			}
			dst, _ = bsoncore.AppendDocumentEnd(next, i)
		}
		return dst
	})
}

// collectionRow is a row of listCollections as a client of one tenant may see it: options and
// validators may name tenants.
func (c *clientConn) collectionRow(row wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		for it := row.Iter(); it.Next(); {
			if key := string(it.Key); key == "name" || key == "type" {
				d = append(d, row[it.Start:it.End()]...)
			}
		}
		if c.boolean("nameOnly") {
			return d
		}
		empty := bsoncore.Document(build(func(d []byte) []byte { return d }))
		return bsoncore.AppendDocumentElement(bsoncore.AppendDocumentElement(d, "options", empty), "info", empty)
	})
}

// looksAtDocuments reports whether something in a reply's rows may have to be withheld or left out.
func (c *clientConn) looksAtDocuments() bool {
	return c.bound.Rows() || c.bound != nil && c.srv.settings.Load().leaks != leaksOff
}

// leaks looks at the documents of a reply for a client that is bound to a tenant, as far as
// [guard] leaks asks for it, and reports whether one is another tenant's. That is never to happen:
// it is a last look at what all else has let through.
func (c *clientConn) leaks(tr *trip) bool {
	mode := c.srv.settings.Load().leaks
	if c.bound == nil || mode == leaksOff || c.req.Cmd == nil {
		return false
	}
	t := c.srv.opts.Router.Current()
	coll := c.req.Coll()
	if tr.cursor != nil {
		coll = []byte(tr.cursor.coll)
	}
	if !t.Owned(c.bound, c.req.DB, coll) {
		return false
	}
	foreign := func(d wire.Doc) bool { return t.Foreign(c.bound, c.req.DB, coll, d) }
	if d, ok := tr.facts.value.Doc(); ok && foreign(d) {
		return c.alarm(coll)
	}
	for it := tr.facts.cursor.Iter(); it.Next(); {
		if key := string(it.Key); key != "firstBatch" && key != "nextBatch" {
			continue
		}
		a, _ := it.Value.Array()
		for e := a.Iter(); e.Next(); {
			if d, ok := e.Value.Doc(); ok && foreign(d) {
				return c.alarm(coll)
			}
			if mode == leaksSampled {
				break
			}
		}
	}
	return false
}

// leaking is leaks of a batch that was brought together here.
func (c *clientConn) leaking(cur *cursor, docs []wire.Doc) *wire.Error {
	mode := c.srv.settings.Load().leaks
	if c.bound == nil || mode == leaksOff || len(docs) == 0 {
		return nil
	}
	t, db, coll := c.srv.opts.Router.Current(), []byte(cur.db), []byte(cur.coll)
	if !t.Owned(c.bound, db, coll) {
		return nil
	}
	if mode == leaksSampled {
		docs = docs[:1]
	}
	for _, d := range docs {
		if t.Foreign(c.bound, db, coll, d) {
			c.alarm(coll)
			return leaked()
		}
	}
	return nil
}

func leaked() *wire.Error {
	return wire.Errorf(wire.OperationFailed, "a document of another tenant was about to be sent; it is withheld, and the operator is told")
}

// alarm tells the operator of a leak that has been stopped.
func (c *clientConn) alarm(coll []byte) bool {
	c.srv.metrics.leaks.WithLabelValues(c.bound.Key).Inc()
	c.log.Error().Bytes("command", c.req.Name).Bytes("database", c.req.DB).Bytes("collection", coll).
		Msg("LEAK stopped: a reply held a document of another tenant and was withheld; report this")
	return true
}

// dropCursor ends the cursor of a reply that is not sent.
func (c *clientConn) dropCursor(tr *trip) {
	_, id, ns := firstBatch(tr.facts.cursor)
	if tr.cursor != nil {
		c.srv.cursors.remove(tr.cursor.id)
	}
	if id == 0 || ns == nil {
		return
	}
	cur := c.newCursor(ns, tr.target)
	p := cursorPart{tr.target, tr.address, id, cur.coll}
	c.mayOwe(func() { c.killPart(p, cur) })
}

// How much the look for leaks reads ([guard] leaks).
const (
	leaksOff     = "off"
	leaksSampled = "sampled" // the first document of each reply
	leaksFull    = "full"
)
