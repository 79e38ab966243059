package proxy

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// writeByID sends writes of documents by _id to the one home where those documents are: by hint,
// else by asking; sent again where the document went away in between; and where nothing is found
// a retried write is offered to every holder, since the one that has run it before its reply was
// lost answers from its history.
func (c *clientConn) writeByID(t *routing.Table, d *routing.Decision, tx *txn, begun bool) (*wire.Buf, bool, *wire.Error) {
	w := byIDWrite{c: c, t: t, d: d, tx: tx, begun: begun}
	w.collect()
	if h := w.hinted(); h != nil {
		if err := c.guard(t, d, h); err != nil {
			return c.refuseWrite(err), false, nil
		}
		reply, err := w.send(h)
		if err != nil || w.hit {
			return reply, false, err
		}
		reply.Free()
	}
	for attempt := 0; ; attempt++ {
		home, held, err := w.locate()
		switch {
		case err != nil:
			return nil, false, err
		case held != nil:
			if err := c.hold(&routing.Decision{Held: held.ID}); err != nil {
				return nil, false, err
			}
			return nil, true, nil
		case home == nil:
			return w.nowhere()
		}
		if err := c.guard(t, d, home); err != nil {
			return c.refuseWrite(err), false, nil
		}
		reply, err := w.send(home)
		if err != nil || w.hit || attempt > 0 || w.ops > 1 {
			return reply, false, err
		}
		reply.Free() // it moved between the look and the write: look once more
	}
}

// byIDWrite is one such command on its way.
type byIDWrite struct {
	c      *clientConn
	t      *routing.Table
	d      *routing.Decision
	tx     *txn
	begun  bool // the transaction has been begun at the cluster
	ops    int
	ids    []wire.Value
	upsert *routing.Op // one that may make a document
	single routing.Op
	hit    bool // the last write sent has changed or found something
}

// collect reads which documents are to be found.
func (w *byIDWrite) collect() {
	w.t.OpenOps(&w.c.req, w.d.Coll, func(op *routing.Op, ids []wire.Value) {
		w.ids = append(w.ids, ids...)
		if op.Upsert {
			own := *op
			w.upsert = &own
		}
		w.single = *op
	})
	w.c.req.Ops(func(*routing.Op) bool { w.ops++; return true })
}

func (w *byIDWrite) hinted() *routing.Target {
	if w.ops != 1 || len(w.ids) != 1 || w.upsert != nil {
		return nil
	}
	return w.c.srv.hints.get(w.d.Coll, string(w.c.req.Coll()), w.ids[0], w.d.Targets)
}

// send sends the client's command to the home.
func (w *byIDWrite) send(home *routing.Target) (*wire.Buf, *wire.Error) {
	c := w.c
	tr := c.sideTrip(w.t, home, w.tx)
	tr.noStart = w.begun
	w.begun = w.tx != nil
	c.outcome.target = home
	raw, err := c.send(tr)
	if err != nil {
		return nil, err
	}
	f := &tr.facts
	w.hit = !f.ok || f.errors || f.n > 0 || f.value.Type != 0 && f.value.Type != bsoncore.TypeNull
	if w.hit && f.ok && w.ops == 1 && len(w.ids) == 1 {
		c.srv.hints.put(w.d.Coll, string(w.c.req.Coll()), w.ids[0], home)
	}
	return c.finish(tr, raw)
}

// locate asks every holder which of the documents it has, and of whom they are. A nil home says
// that none was found.
func (w *byIDWrite) locate() (home *routing.Target, held *routing.Tenant, err *wire.Error) {
	c := w.c
	trips := make([]*trip, len(w.d.Targets))
	for i, x := range w.d.Targets {
		trips[i] = &trip{target: x, txn: w.tx, patch: &wire.Patch{}, msg: &wire.Message{}, aside: true, sel: c.selectServer(w.tx)}
		trips[i].body = w.question(x, w.tx != nil && !w.begun && i == 0)
	}
	parts := c.scatter(trips, w.tx, true)
	w.begun = w.tx != nil
	defer free(parts)
	home = w.d.Target // of the writes that do name a tenant
	for i := range parts {
		p := &parts[i]
		if p.err != nil {
			return nil, nil, p.err
		}
		if !p.tr.facts.ok {
			return nil, nil, c.replied(p.tr)
		}
		docs, _, _ := firstBatch(p.tr.facts.cursor)
		for _, doc := range docs {
			tn, own := w.t.TenantOf(w.d.Coll, doc)
			if p.tr.target.Tenant == nil && own != p.tr.target {
				continue // left over in shared; its tenant's home has the living one
			}
			if tn != nil && (tn.Look || tn.Paused) {
				return nil, tn, nil
			}
			if home != nil && home != p.tr.target {
				return nil, nil, wire.Errorf(wire.IllegalOperation,
					"the documents are in the databases of several tenants; add the tenant field to the filter and send one command per tenant")
			}
			home = p.tr.target
			if id, ok := doc.Lookup("_id"); ok {
				c.srv.hints.put(w.d.Coll, string(w.c.req.Coll()), id, home)
			}
		}
	}
	return home, nil, nil
}

// question is the find that asks a holder for the documents' tenants.
func (w *byIDWrite) question(x *routing.Target, start bool) wire.Doc {
	return build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "find", string(w.c.req.Coll()))
		i, d := bsoncore.AppendDocumentElementStart(d, "filter")
		j, d := bsoncore.AppendDocumentElementStart(d, "_id")
		k, d := bsoncore.AppendArrayElementStart(d, "$in")
		for n, id := range w.ids {
			d = id.AppendTo(d, itoa(n))
		}
		d, _ = bsoncore.AppendArrayEnd(d, k)
		d, _ = bsoncore.AppendDocumentEnd(d, j)
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		i, d = bsoncore.AppendDocumentElementStart(d, "projection")
		d = bsoncore.AppendInt32Element(d, "_id", 1)
		d = bsoncore.AppendInt32Element(d, w.d.Coll.Field(), 1)
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		d = bsoncore.AppendInt32Element(d, "batchSize", int32(len(w.ids)+1))
		d = bsoncore.AppendBooleanElement(d, "singleBatch", true)
		if col := w.c.req.CollationOf(&w.single); col.Type != 0 && w.ops == 1 {
			d = col.AppendTo(d, "collation")
		}
		if w.tx != nil {
			d = w.c.appendSession(d, x.Cluster, w.tx, start)
		}
		return bsoncore.AppendStringElement(d, "$db", x.DB)
	})
}

// nowhere serves writes whose documents no holder has.
func (w *byIDWrite) nowhere() (*wire.Buf, bool, *wire.Error) {
	c := w.c
	shared := w.d.Targets[0]
	if w.upsert != nil {
		home, tn, err := w.t.UpsertHome(w.d.Coll, w.upsert)
		if err != nil {
			return c.refuseWrite(err), false, nil
		}
		if w.ops > 1 {
			return nil, false, wire.Errorf(wire.IllegalOperation, "a batch of upserts without the tenant in their filters is not offered; add the tenant field to the filter")
		}
		if tn != nil && (tn.Look || tn.Paused) {
			return nil, true, c.hold(&routing.Decision{Held: tn.ID})
		}
		if err := c.guard(w.t, w.d, home); err != nil {
			return c.refuseWrite(err), false, nil
		}
		reply, err := w.send(home)
		return reply, false, err
	}
	_, numbered := c.req.TxnNumber()
	if !numbered || w.tx != nil {
		reply, err := w.send(shared)
		return reply, false, err
	}
	return w.sweep()
}

// sweep offers a retryable write that matches nothing to every holder, shared first.
func (w *byIDWrite) sweep() (*wire.Buf, bool, *wire.Error) {
	var first *wire.Buf
	for _, x := range w.d.Targets {
		reply, err := w.send(x)
		if err != nil || w.hit {
			first.Free()
			return reply, false, err
		}
		if first == nil {
			first = reply
		} else {
			reply.Free()
		}
	}
	return first, false, nil
}

// guard checks the command's writes against the home they go to.
func (c *clientConn) guard(t *routing.Table, d *routing.Decision, home *routing.Target) *wire.Error {
	_, err := t.GuardTarget(&c.req, d.Coll, home)
	return err
}

// refuseWrite refuses a write before anything is sent: a batch of one as its write error, as a
// server would, any other command as a whole.
func (c *clientConn) refuseWrite(e *wire.Error) *wire.Buf {
	if c.req.Cmd.Merge != routing.MergeWrite || c.req.Count() != 1 || c.req.InTxn() {
		return c.refuse(e)
	}
	c.outcome.code = e.Code
	return replyOf(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "n", 0)
		if c.req.Cmd.Name == "update" {
			d = bsoncore.AppendInt32Element(d, "nModified", 0)
		}
		i, d := bsoncore.AppendArrayElementStart(d, "writeErrors")
		j, d := bsoncore.AppendDocumentElementStart(d, "0")
		d = bsoncore.AppendInt32Element(d, "index", 0)
		d = bsoncore.AppendInt32Element(d, "code", int32(e.Code))
		d = bsoncore.AppendStringElement(d, "errmsg", e.Error())
		d, _ = bsoncore.AppendDocumentEnd(d, j)
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return d
	})
}
