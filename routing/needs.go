package routing

import (
	"bytes"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// needs are the fields that stages read of the documents before them. A field of a document or an array in a
// document is taken for all that it lies in: what is left of a document is as it was.
type needs struct {
	names []string
	all   bool // which they are can not be told
}

// lessening is a stage that leaves of documents what the stages need; nil where they need all of it, or that
// can not be told. They make new documents, before which others only sort and count.
func lessening(steps []step) wire.Doc {
	var n needs
	for i := range steps {
		s := &steps[i]
		if s.row == nil || len(s.uses) > 0 {
			return nil
		}
		switch s.row.Over {
		case Bounds:
			continue
		case Order:
			n.sort(s.spec)
			continue
		case Groups, Together:
			n.expression(s.spec, 0)
		default:
			return nil
		}
		return n.project()
	}
	return nil
}

func (n *needs) project() wire.Doc {
	if n.all {
		return nil
	}
	return stage("$project", func(d []byte) []byte {
		for _, name := range n.names {
			d = bsoncore.AppendInt32Element(d, name, 1)
		}
		if len(n.names) == 0 { // to take _id off would leave all others
			return bsoncore.AppendInt32Element(d, "_id", 1)
		}
		if !slices.Contains(n.names, "_id") {
			d = bsoncore.AppendInt32Element(d, "_id", 0)
		}
		return d
	})
}

// path adds the field that a path begins with.
func (n *needs) path(path []byte) {
	name, _, _ := bytes.Cut(path, []byte("."))
	switch {
	case !plainName(name):
		n.all = true
	case !slices.Contains(n.names, string(name)):
		n.names = append(n.names, string(name))
	}
}

// sort adds what a sort is by.
func (n *needs) sort(v wire.Value) {
	d, ok := v.Doc()
	it := d.Iter()
	for it.Next() {
		if !it.Value.IsNumber() {
			n.all = true
		}
		n.path(it.Key)
	}
	n.all = n.all || !ok || it.Err() != nil
}

var (
	// byName are operators of expressions that may read a field without a path to it.
	byName = words("$getField $setField $unsetField $meta")
	// byOrder are those with a sort of documents in them.
	byOrder = words("$top $topN $bottom $bottomN")
)

// expression adds what an expression reads, or the specification of a stage that is made of such.
func (n *needs) expression(v wire.Value, depth int) {
	if s, ok := v.Str(); ok {
		n.text(s)
		return
	}
	d, ok := v.AnyDoc()
	if n.all = n.all || depth > deepest; !ok {
		return
	}
	it := d.Iter()
	for !n.all && it.Next() {
		key := string(it.Key)
		switch {
		case key == "$literal":
			continue
		case operator(it.Key) && (!ofExpressions[key] || byName[key]), key == "CURRENT":
			n.all = true
		case byOrder[key]:
			spec, _ := it.Value.Doc()
			by, _ := spec.Lookup("sortBy")
			n.sort(by)
		}
		n.expression(it.Value, depth+1)
	}
	n.all = n.all || it.Err() != nil
}

// text adds the field of a string that is a path. A variable has the value of some other expression, but for the
// whole document; CURRENT may be the name of one that gives every path another meaning.
func (n *needs) text(s []byte) {
	name, variable := bytes.CutPrefix(s, []byte("$$"))
	switch {
	case variable:
		name, _, _ = bytes.Cut(name, []byte("."))
		n.all = n.all || string(name) == "ROOT" || string(name) == "CURRENT"
	case operator(s):
		n.path(s[1:])
	case string(s) == "CURRENT":
		n.all = true
	}
}
