package proxy

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// act does what was decided.
func (c *clientConn) act(t *routing.Table, d *routing.Decision) (*wire.Buf, fate) {
	c.outcome.tenant = d.Tenant
	if d.Action != routing.Refuse && c.req.Cmd != nil && c.req.Cmd.Operator && !c.operates() {
		return c.refused(wire.Errorf(wire.Unauthorized, "%s needs a user with role = \"operator\"", c.req.Cmd.Name)), answered
	}
	switch d.Action {
	case routing.Refuse:
		return c.refused(d.Err), answered
	case routing.Answer:
		return c.inTxn(func() *wire.Buf { return c.answer(t, d) }), answered
	case routing.Empty:
		return c.inTxn(c.empty), answered
	case routing.Scatter:
		return fated(c.gather(t, d))
	case routing.Split:
		return fated(c.split(t, d))
	case routing.EachOf, routing.FirstOf:
		return fated(c.each(t, d))
	case routing.Clusters:
		return c.inTxn(func() *wire.Buf { return c.clusters(t, d) }), answered
	case routing.AtCursor:
		return c.atCursor(t), answered
	case routing.AtTxn:
		return c.endTxn(t), answered
	}
	if full, err := c.enterRoom(d.Tenant); err != nil {
		return c.refused(err), answered
	} else if full {
		return nil, waits
	}
	if d.Action == routing.Follow {
		return fated(c.follow(t, d))
	}
	return c.forward(t, d)
}

// operates reports whether the client may do what only operators do: anybody may where clients do not authenticate.
func (c *clientConn) operates() bool {
	return c.listener.Auth == "" || c.who.Load().Role == auth.Operator
}

// fated is the fate of what was done on a goroutine.
func fated(reply *wire.Buf, stale bool) (*wire.Buf, fate) {
	if stale {
		return nil, again
	}
	return reply, answered
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

// inTxn answers a command that may be of a transaction, which goes on with it without a server: also where it is
// the first. What fails ends it.
func (c *clientConn) inTxn(answer func() *wire.Buf) *wire.Buf {
	tx, err := c.transaction()
	if err != nil {
		return c.refuse(err)
	}
	if tx != nil {
		if err := c.beginHere(tx); err != nil {
			c.failTxn(tx)
			return c.refuse(err)
		}
	}
	reply := answer()
	if tx != nil && c.outcome.code != 0 {
		c.failTxn(tx)
	}
	return reply
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
