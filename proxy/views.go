package proxy

import (
	"context"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// viewed is the client's command where another one runs in its place: see [routing.Expanded].
type viewed struct {
	coll  string        // the view, by which the client knows its cursor
	shape routing.Shape // of the reply
	is    bool
	once  bool // its first batch is all that the client wants
}

// expand puts the command that a read of a view stands for in the place of the client's.
func (c *clientConn) expand(x *routing.Expanded) *wire.Error {
	v := viewed{coll: string(c.req.Coll()), shape: x.Shape, is: true, once: c.boolean("singleBatch")}
	frame := wire.NewMessage(c.msg.RequestID, 0, 0, x.Command)
	if err := c.msg.Parse(frame.B); err != nil {
		frame.Free()
		return wire.Errorf(wire.InternalError, "what a view stands for can not be read: %v", err)
	}
	looked := c.req.Looked
	err := c.req.Parse(&c.msg)
	c.frame.Free()
	c.frame, c.viewed = frame, v
	c.req.Looked = looked
	return err
}

// shaped is the reply of what ran in the place of the client's command as the client expects it.
func (c *clientConn) shaped(reply *wire.Buf) *wire.Buf {
	if !c.viewed.is || c.viewed.shape == routing.AsCursor {
		return reply
	}
	var m wire.Message
	if err := m.Parse(reply.B); err != nil {
		reply.Free()
		return c.refuse(wire.Errorf(wire.HostUnreachable, "the server's reply can not be read"))
	}
	v, ok := m.Body.Lookup("cursor")
	cursor, isDoc := v.Doc()
	if !ok || !isDoc {
		return reply // an error
	}
	docs, _, _ := firstBatch(cursor)
	defer reply.Free()
	return wire.NewMessage(0, 0, 0, build(func(d []byte) []byte {
		d = appendShaped(d, c.viewed.shape, docs)
		for it := m.Body.Iter(); it.Next(); {
			if string(it.Key) != "cursor" {
				d = append(d, m.Body[it.Start:it.End()]...)
			}
		}
		return d
	}))
}

// appendShaped appends what the one document of an aggregate tells, under the name that a count or a
// distinct has for it. Without a document there is nothing.
func appendShaped(d []byte, shape routing.Shape, docs []wire.Doc) []byte {
	var v wire.Value
	if len(docs) > 0 {
		v, _ = docs[0].Lookup(shape.Field())
	}
	if shape == routing.AsCount {
		n, _ := v.Int()
		return appendNumber(d, "n", n)
	}
	if _, ok := v.Array(); ok {
		return v.AppendTo(d, "values")
	}
	return appendBatch(d, "values", nil)
}

// cursorColl is the collection that the client knows the command's cursor by.
func (c *clientConn) cursorColl() string {
	if c.viewed.is {
		return c.viewed.coll
	}
	return string(c.req.Coll())
}

// reviewAge is how long ago what the shared databases hold may have been read for a command that names
// what is not among it: long enough that a burst of such commands costs one reading.
const reviewAge = 250 * time.Millisecond

// review waits until a table is current that shows what the shared databases hold, at the time or later.
func (c *clientConn) review(at time.Time) error {
	if c.srv.opts.Review == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.settings.Load().queueTimeout)
	defer cancel()
	read, err := c.srv.opts.Review(ctx, at)
	if err == nil {
		c.srv.seen.Store(&read)
	}
	return err
}

// seen reports whether that has been done for another command of late.
func (c *clientConn) seen() bool {
	read := c.srv.seen.Load()
	return read != nil && !read.Before(c.start.Add(-reviewAge))
}

// look lets a command that names what the table does not know wait until that is looked for: another
// proxy may have made a view of it. Where the home cluster can not be asked, what needs none of it goes on.
func (c *clientConn) look() {
	if c.sparesHome() {
		c.req.Looked, c.unseen = true, true
		return
	}
	c.req.Looked = true
	if err := c.review(c.start.Add(-reviewAge)); err != nil {
		c.log.Debug().Err(err).Bytes("command", c.req.Name).Msg("what the shared databases hold could not be read for a held command")
		c.unseen = true
	}
}

// sparesHome reports whether the home cluster has no server that could be asked, and the command goes to one
// tenant's database on another cluster: there is nothing to wait for then.
func (c *clientConn) sparesHome() bool {
	t := c.srv.opts.Router.Current()
	name := t.HomeAny.Cluster
	if home := c.srv.opts.Clusters.Get(name); home != nil && home.Ready() {
		return false
	}
	c.req.Looked = true
	d := t.Route(&c.req)
	c.req.Looked = false
	return d.Action == routing.Forward && d.Target.Tenant != nil && d.Target.Cluster != name
}

// blind is the refusal of a command that would read shared under a name that may be a new view's.
func (c *clientConn) blind(d *routing.Decision) *wire.Error {
	shared := func(x *routing.Target) bool { return x.Tenant == nil }
	if !c.unseen || !(d.Target != nil && shared(d.Target) || slices.ContainsFunc(d.Targets, shared)) {
		return nil
	}
	return c.label(wire.Errorf(wire.HostUnreachable, "what the shared database holds could not be read in time; try again"), true)
}

// redefined has what the shared databases hold read again after a command that may have changed what
// views there are.
func (c *clientConn) redefined(t *routing.Table) {
	if !t.Redefines(&c.req) {
		return
	}
	if err := c.review(time.Now()); err != nil {
		c.log.Warn().Err(err).Bytes("command", c.req.Name).Msg("views could not be read after a definition; they are with the next refresh")
	}
}

// defineView makes or changes a view, in shared alone. No other database may have a collection of the
// name, whose documents nobody would see any more.
func (c *clientConn) defineView(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	ask := c.namesOnly()
	trips := make([]*trip, 0, len(d.Targets))
	for _, x := range d.Targets {
		if x.Tenant == nil {
			continue
		}
		body := build(func(b []byte) []byte {
			return bsoncore.AppendStringElement(append(b, ask...), "$db", x.DB)
		})
		trips = append(trips, ownTrip(x, func() wire.Doc { return body }))
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return nil, err
	}
	for i := range parts {
		if found(&parts[i]) {
			return nil, wire.Errorf(wire.NamespaceExists, "a collection of the name %q is there, with documents of tenants who have databases of their own", c.req.Coll())
		}
	}
	return c.roundTrip(c.sideTrip(t, d.Targets[0], tx))
}

// namesOnly are the elements of a command that lists the collection which the client's names.
func (c *clientConn) namesOnly() []byte {
	d := bsoncore.AppendInt32Element(nil, "listCollections", 1)
	d = appendSub(d, "filter", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "name", string(c.req.Coll())) })
	return bsoncore.AppendBooleanElement(d, "nameOnly", true)
}
