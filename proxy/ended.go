package proxy

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// endings are the events after which a collection, or a database, is gone.
var endings = []string{"drop", "rename", "dropDatabase"}

// judge looks at an event of a stream over several homes. That a collection, or a database, is gone
// in one home says nothing while another still has it; where it was the last, the client is told
// once, and a stream of it ends as a server's would.
func (c *clientConn) judge(w *watch, doc wire.Doc) (shown, last bool, err *wire.Error) {
	if w.plan.Own {
		return true, false, nil
	}
	v, _ := doc.Lookup("operationType")
	op, _ := v.Str()
	ends := slices.Contains(endings, string(op))
	if !ends && len(w.gone) == 0 {
		return true, false, nil
	}
	db, coll := namespaceOf(doc)
	if !ends {
		delete(w.gone, db+"."+coll)
		delete(w.gone, db+".")
		return true, false, nil
	}
	if holders := w.table.Holders(db, coll); len(holders) > 1 {
		if w.gone[db+"."+coll] {
			return false, false, nil
		}
		if left, err := c.anyLeft(holders, coll); left || err != nil {
			return false, false, err
		}
		if w.gone == nil {
			w.gone = map[string]bool{}
		}
		w.gone[db+"."+coll] = true
	}
	switch {
	case w.plan.Coll != "":
		last = string(op) != "dropDatabase"
	case w.plan.DB != "":
		last = string(op) == "dropDatabase"
	}
	return true, last, nil
}

// namespaceOf is what an event is about, under its logical name.
func namespaceOf(doc wire.Doc) (db, coll string) {
	v, _ := doc.Lookup("ns")
	ns, _ := v.Doc()
	for it := ns.Iter(); it.Next(); {
		s, _ := it.Value.Str()
		switch string(it.Key) {
		case "db":
			db = string(s)
		case "coll":
			coll = string(s)
		}
	}
	return db, coll
}

// anyLeft reports whether one of the homes still has the collection; without a name, any.
func (c *clientConn) anyLeft(holders []*routing.Target, coll string) (bool, *wire.Error) {
	trips := make([]*trip, len(holders))
	for i, x := range holders {
		trips[i] = ownTrip(x, func() wire.Doc {
			return build(func(d []byte) []byte {
				d = bsoncore.AppendInt32Element(d, "listCollections", 1)
				if coll != "" {
					j, e := bsoncore.AppendDocumentElementStart(d, "filter")
					e = bsoncore.AppendStringElement(e, "name", coll)
					d, _ = bsoncore.AppendDocumentEnd(e, j)
				}
				d = bsoncore.AppendBooleanElement(d, "nameOnly", true)
				d = c.appendSession(d, x.Cluster, nil)
				return bsoncore.AppendStringElement(d, "$db", x.DB)
			})
		})
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return false, err
	}
	for i := range parts {
		if docs, id, _ := firstBatch(parts[i].tr.facts.cursor); len(docs) > 0 || id != 0 {
			return true, nil
		}
	}
	return false, nil
}
