package proxy

import (
	"cmp"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// The bulkWrite command's outcome is a cursor with a row for each write, and counters beside it.

// bulkCounts are the counters, in the order of a server's reply.
var bulkCounts = [...]string{"nErrors", "nInserted", "nMatched", "nModified", "nUpserted", "nDeleted"}

// addBulk takes in the reply to a part of a bulkWrite, all of its rows.
func (w *writeResult) addBulk(c *clientConn, p *part, ops []int) *wire.Error {
	rows, err := c.drain(p, p.tr.txn)
	if err != nil {
		return err
	}
	w.any = true
	said := c.telling(p.tr)
	for _, row := range rows {
		v, _ := row.Lookup("idx")
		k, ok := v.Int()
		if !ok || k < 0 || int(k) >= len(ops) {
			continue
		}
		row = said(row)
		row = build(func(d []byte) []byte {
			for it := row.Iter(); it.Next(); {
				if key := string(it.Key); key == "idx" {
					d = bsoncore.AppendInt32Element(d, key, int32(ops[k]))
				} else {
					d = it.Value.AppendTo(d, key)
				}
			}
			return d
		})
		if v, _ := row.Lookup("ok"); v.True() {
			w.rows = append(w.rows, indexed{ops[k], row})
		} else {
			w.errors = append(w.errors, indexed{ops[k], row})
		}
	}
	for i, name := range bulkCounts {
		v, _ := p.tr.msg.Body.Lookup(name)
		n, _ := v.Int()
		w.counts[i] += n
		if i > 0 && name != "nModified" {
			w.n += n
		}
	}
	labels, _ := p.tr.msg.Body.Lookup("errorLabels")
	w.addLabels(labels)
	concern, _ := p.tr.msg.Body.Lookup("writeConcernError")
	w.addConcern(concern, said)
	retried, _ := p.tr.msg.Body.Lookup("retriedStmtIds")
	w.addRetried(retried)
	return nil
}

// failRow notes a write that was refused here.
func (w *writeResult) failRow(i int, e *wire.Error) {
	w.errors = append(w.errors, indexed{i, build(func(d []byte) []byte {
		d = bsoncore.AppendDoubleElement(d, "ok", 0)
		d = bsoncore.AppendInt32Element(d, "idx", int32(i))
		d = bsoncore.AppendInt32Element(d, "code", int32(e.Code))
		d = bsoncore.AppendStringElement(d, "errmsg", e.Error())
		return bsoncore.AppendInt32Element(d, "n", 0)
	})})
}

// dropFailed leaves out what some homes have said of a write that has failed in another.
func (w *writeResult) dropFailed() {
	failed := make(map[int]bool, len(w.errors))
	for _, e := range w.errors {
		failed[e.index] = true
	}
	w.rows = slices.DeleteFunc(w.rows, func(r indexed) bool { return failed[r.index] })
}

// joinRows makes one row of those that several homes have given for one write.
func (w *writeResult) joinRows() {
	var joined []indexed
	for _, r := range w.rows {
		last := len(joined) - 1
		if last < 0 || joined[last].index != r.index {
			joined = append(joined, r)
			continue
		}
		joined[last].doc = addRow(joined[last].doc, r.doc)
	}
	w.rows = joined
}

func addRow(a, b wire.Doc) wire.Doc {
	all := []wire.Doc{a, b}
	return build(func(d []byte) []byte {
		for it := a.Iter(); it.Next(); {
			if key := string(it.Key); key == "n" || key == "nModified" {
				d = appendSum(d, key, all)
			} else {
				d = it.Value.AppendTo(d, key)
			}
		}
		if v, ok := b.Lookup("upserted"); ok {
			d = v.AppendTo(d, "upserted")
		}
		return d
	})
}

// bulkReply is the answer to the whole bulkWrite.
func (w *writeResult) bulkReply(c *clientConn, target *routing.Target, tx *txn) *wire.Buf {
	byIndex := func(a, b indexed) int { return cmp.Compare(a.index, b.index) }
	slices.SortStableFunc(w.rows, byIndex)
	w.dropFailed()
	w.joinRows()
	w.counts[0] = int64(len(w.errors)) // several homes may have counted one
	rows := w.errors
	if !c.boolean("errorsOnly") {
		rows = append(rows, w.rows...)
	}
	slices.SortStableFunc(rows, byIndex)
	s := &stream{}
	for _, r := range rows {
		s.docs = append(s.docs, r.doc)
	}
	cur := c.newCursor([]byte("admin.$cmd.bulkWrite"), target)
	cur.merged = &merged{streams: []*stream{s}, left: -1}
	size := len(rows)
	if v := c.cursorSize(); v.Type != 0 {
		n, _ := v.Int()
		size = int(min(max(n, 0), int64(size)))
	}
	first, _ := c.take(cur, size, tx) // of rows that are all here
	id := int64(0)
	if !cur.merged.done() {
		id = c.keep(cur)
	}
	return c.answerOf(tx, func(d []byte) []byte {
		d = appendCursor(d, id, "admin.$cmd.bulkWrite", "firstBatch", first)
		for i, name := range bulkCounts {
			d = appendNumber(d, name, w.counts[i])
		}
		return w.appendRetried(w.appendConcern(d))
	})
}
