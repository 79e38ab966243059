// Package wiretest is a scripted MongoDB server and a raw client for tests. The server speaks the
// wire protocol well enough for the drivers' topology monitors (hello, streamed too, elections,
// topologyVersion), answers further commands by a script, and can enforce what real servers do and
// test doubles mostly don't: retry history, transactions, a cursor's session, signed cluster times.
// It runs on 127.0.0.1 or in memory, the latter also inside a testing/synctest bubble.
//
//	s := wiretest.NewServer(t, wiretest.As(wiretest.Mongos), wiretest.Handle(func(c wiretest.Command) wiretest.Reply {
//		return wiretest.OK(bson.E{Key: "n", Value: 1})
//	}))
//	c := wiretest.Dial(t, s.Addr())
//	c.Run("shop", bson.D{{Key: "insert", Value: "orders"}, {Key: "documents", Value: bson.A{bson.D{}}}})
//
// It checks nobody's identity and measures nothing.
package wiretest

import (
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// D marshals a bson.D, a struct or a map; a [wire.Doc] is returned as it is. What can't be
// marshalled is a mistake of the test and panics.
func D(v any) wire.Doc {
	switch v := v.(type) {
	case wire.Doc:
		return v
	case nil:
		return wire.Doc{5, 0, 0, 0, 0}
	}
	b, err := bson.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Decode is the reverse of [D].
func Decode(d wire.Doc) bson.D {
	var v bson.D
	if err := bson.Unmarshal(d, &v); err != nil {
		panic(err)
	}
	return v
}

// Get returns the value at a path of names, nil where there is none.
func Get(d bson.D, path ...string) any {
	for i, name := range path {
		v, ok := field(d, name)
		if !ok {
			return nil
		}
		if i == len(path)-1 {
			return v
		}
		if d, ok = v.(bson.D); !ok {
			return nil
		}
	}
	return d
}

// field is the first value with the name.
func field(d bson.D, name string) (any, bool) {
	for _, e := range d {
		if e.Key == name {
			return e.Value, true
		}
	}
	return nil, false
}
