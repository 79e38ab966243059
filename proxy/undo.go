package proxy

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// undone takes back what a createIndexes has made that a home has refused, so that it has failed as on
// one server, where all indexes of a command are made or none. It is done where each home's answer tells
// for certain what this command made there: a count of indexes that has grown by all of the command's, or
// not at all. Then failed is the part whose answer is the command's; < 0 is none, and gone says how many
// homes have theirs taken back.
func (c *clientConn) undone(parts []part) (failed, gone int) {
	names := c.indexNames()
	if c.req.Cmd.Name != "createIndexes" || len(names) == 0 {
		return -1, 0
	}
	failed = -1
	var homes []*routing.Target
	for i := range parts {
		p := &parts[i]
		switch {
		case p.err != nil:
			return -1, 0 // it may be building there
		case !p.tr.facts.ok:
			if failed < 0 {
				failed = i
			}
		default:
			all, none := made(p.tr.msg.Body, len(names))
			if !all && !none {
				return -1, 0
			}
			if all {
				homes = append(homes, p.tr.target)
			}
		}
	}
	trips := make([]*trip, len(homes))
	for i, x := range homes {
		trips[i] = ownTrip(x, func() wire.Doc { return c.dropOf(x, names) })
		trips[i].sel = backend.Select{Write: true}
	}
	drops := c.scatter(trips, nil)
	defer free(drops)
	if left := c.unsettled(drops); left > 0 {
		return -1, len(homes) - left
	}
	return failed, len(homes)
}

// made reports whether a createIndexes of n indexes has made all of them, or none; neither where its reply
// does not tell. Of a collection that was not there it has made all, whether the index of _id is counted
// before or not.
func made(reply wire.Doc, n int) (all, none bool) {
	if v, _ := reply.Lookup("createdCollectionAutomatically"); v.True() {
		return true, false
	}
	before, _ := reply.Lookup("numIndexesBefore")
	after, _ := reply.Lookup("numIndexesAfter")
	a, okA := before.Int()
	b, okB := after.Int()
	known := okA && okB
	return known && b-a == int64(n), known && b == a
}

// indexNames are the names of the indexes of a createIndexes; none where one lacks its name, or has that
// of another.
func (c *clientConn) indexNames() (names []string) {
	f, _ := c.req.Field("indexes")
	a, _ := f.Value.Array()
	for it := a.Iter(); it.Next(); {
		spec, _ := it.Value.Doc()
		v, _ := spec.Lookup("name")
		name, ok := v.Str()
		if !ok || slices.Contains(names, string(name)) {
			return nil
		}
		names = append(names, string(name))
	}
	return names
}

// dropOf is the command that drops these indexes of the command's collection.
func (c *clientConn) dropOf(x *routing.Target, names []string) wire.Doc {
	return build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "dropIndexes", string(c.req.Coll()))
		if len(names) == 1 {
			d = bsoncore.AppendStringElement(d, "index", names[0])
			return bsoncore.AppendStringElement(d, "$db", x.DB)
		}
		i, d := bsoncore.AppendArrayElementStart(d, "index")
		for n, name := range names {
			d = bsoncore.AppendStringElement(d, itoa(n), name)
		}
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return bsoncore.AppendStringElement(d, "$db", x.DB)
	})
}
