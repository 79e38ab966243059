package proxy

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// act does what was decided; again asks for a new decision, since the table changed meanwhile.
func (c *clientConn) act(t *routing.Table, d *routing.Decision) (reply *wire.Buf, again bool) {
	c.outcome.tenant = d.Tenant
	switch d.Action {
	case routing.Refuse:
		return c.refused(d.Err), false
	case routing.Answer:
		return c.answer(t, d), false
	case routing.Empty:
		return c.empty(), false
	case routing.Scatter:
		return c.gather(t, d)
	case routing.Split:
		return c.split(t, d)
	case routing.EachOf, routing.FirstOf:
		return c.each(t, d)
	case routing.Clusters:
		return c.clusters(t, d), false
	case routing.AtCursor:
		return c.atCursor(t), false
	case routing.AtTxn:
		return c.endTxn(t), false
	}
	leave, err := c.enterRoom(d.Tenant)
	if err != nil {
		return c.refused(err), false
	}
	defer leave()
	if d.Action == routing.Follow {
		return c.follow(t, d)
	}
	return c.forward(t, d)
}

// refused answers what routing refuses; in a transaction that ends it, as a server's error does.
func (c *clientConn) refused(e *wire.Error) *wire.Buf {
	if c.req.InTxn() {
		tx, err := c.transaction()
		if err != nil {
			return c.refuse(err)
		}
		c.failTxn(tx)
		return c.refuse(e)
	}
	return c.refuse(e)
}

// empty answers a read of a database that does not exist for the client.
func (c *clientConn) empty() *wire.Buf {
	switch c.req.Cmd.Merge {
	case routing.MergeCount:
		return replyOf(func(d []byte) []byte { return bsoncore.AppendInt32Element(d, "n", 0) })
	case routing.MergeDistinct:
		return replyOf(func(d []byte) []byte { return appendBatch(d, "values", nil) })
	case routing.MergeCursor:
		ns := string(c.req.DB) + "." + string(c.req.Coll())
		return replyOf(func(d []byte) []byte { return appendCursor(d, 0, ns, "firstBatch", nil) })
	case routing.MergeCollections:
		ns := string(c.req.DB) + ".$cmd.listCollections"
		return replyOf(func(d []byte) []byte { return appendCursor(d, 0, ns, "firstBatch", nil) })
	case routing.MergeFirst:
		return c.refuse(wire.Errorf(wire.NamespaceNotFound, "ns does not exist: %s.%s", c.req.DB, c.req.Coll()))
	}
	return c.refuse(wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", c.req.DB))
}
