package routing

import (
	"bytes"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// accumulator says how what $group computes of some documents becomes what it computes of all.
type accumulator struct {
	With    string // accumulator of the parts
	Join    string // operator that makes one array of the parts, where With only collects them
	Mean    bool   // a sum and a number of summands instead of the result
	Ordered bool   // the result tells the order of the documents
}

// accumulators are those whose parts can be combined; documents of any other are brought together
// before it.
var accumulators = map[string]accumulator{
	"$sum":          {With: "$sum"},
	"$count":        {With: "$sum"},
	"$min":          {With: "$min"},
	"$max":          {With: "$max"},
	"$avg":          {With: "$sum", Mean: true},
	"$push":         {With: "$push", Join: "$concatArrays", Ordered: true},
	"$concatArrays": {With: "$concatArrays", Ordered: true},
	"$addToSet":     {With: "$push", Join: "$setUnion"},
	"$setUnion":     {With: "$setUnion"},
}

// output is one field that a $group computes.
type output struct {
	name string
	op   []byte
	arg  wire.Value
	accumulator
	sum, n string // names of a mean's two parts
}

// grouping is a $group, or what stands for one, that each home can do a part of.
type grouping struct {
	part    wire.Doc   // the stage at each home
	outputs []output   // of it, _id apart
	after   []wire.Doc // further stages behind the combining ones
	ordered bool
	only    bool // it has no _id: one document of one number
}

// grouped takes a stage apart that groups; false where its parts can not be combined.
func (s *step) grouped() (g grouping, ok bool) {
	spec, isDoc := s.spec.Doc()
	switch string(s.name) {
	case "$group":
		return groupOf(spec, isDoc)
	case "$bucket":
		return bucketOf(spec, isDoc)
	case "$sortByCount":
		return g.counting(s.spec)
	case "$count":
		return g.number(s)
	}
	return g, false
}

func groupOf(spec wire.Doc, ok bool) (g grouping, _ bool) {
	ok = ok && g.read(spec, "_id")
	g.part = stage("$group", func(d []byte) []byte {
		for it := spec.Iter(); it.Next(); {
			if string(it.Key) == "_id" {
				d = it.Value.AppendTo(d, "_id")
			}
		}
		return g.appendParts(d)
	})
	return g, ok
}

// bucketOf is a $bucket in parts; one without outputs counts.
func bucketOf(spec wire.Doc, ok bool) (g grouping, _ bool) {
	out, has := spec.Lookup("output")
	if has {
		var outputs wire.Doc
		if outputs, has = out.Doc(); !has {
			return g, false
		}
		ok = ok && g.read(outputs, "")
	} else {
		g.outputs = []output{counter}
	}
	g.part = stage("$bucket", func(d []byte) []byte {
		for it := spec.Iter(); it.Next(); {
			if string(it.Key) != "output" {
				d = append(d, spec[it.Start:it.End()]...)
			}
		}
		return bsoncore.AppendDocumentElement(d, "output", bsoncore.Document(build(g.appendParts)))
	})
	g.after = []wire.Doc{sortBy("_id", 1)}
	return g, ok
}

// counter is { count: { $sum: 1 } }.
var counter = output{
	name: "count", op: []byte("$sum"), arg: wire.Value{Type: bsoncore.TypeInt32, Data: []byte{1, 0, 0, 0}},
	accumulator: accumulators["$sum"],
}

// counting is a $sortByCount in parts.
func (g grouping) counting(by wire.Value) (grouping, bool) {
	s, isPath := by.Str()
	_, isDoc := by.Doc()
	g.outputs = []output{counter}
	g.part = stage("$group", func(d []byte) []byte { return g.appendParts(by.AppendTo(d, "_id")) })
	g.after = []wire.Doc{sortBy("count", -1)}
	return g, isDoc || isPath && len(s) > 1 && s[0] == '$'
}

// number is a $count in parts.
func (g grouping) number(s *step) (grouping, bool) {
	name, ok := s.spec.Str()
	g.outputs = []output{{name: string(name), accumulator: accumulators["$count"]}}
	g.part, g.only = s.doc, true
	return g, ok && plainName(name) && string(name) != "_id"
}

// read takes the outputs of a $group or $bucket.
func (g *grouping) read(spec wire.Doc, but string) bool {
	it := spec.Iter()
	for it.Next() {
		if string(it.Key) == but {
			continue
		}
		o, ok := outputOf(it.Key, it.Value, len(g.outputs))
		if !ok {
			return false
		}
		g.outputs = append(g.outputs, o)
		g.ordered = g.ordered || o.Ordered
	}
	return it.Err() == nil
}

func outputOf(name []byte, v wire.Value, index int) (o output, ok bool) {
	d, isDoc := v.Doc()
	it := d.Iter()
	if !isDoc || !plainName(name) || !it.Next() {
		return o, false
	}
	acc, known := accumulators[string(it.Key)]
	o = output{name: string(name), op: it.Key, arg: it.Value, accumulator: acc}
	if acc.Mean {
		at := partName + strconv.Itoa(index)
		o.sum, o.n = at+"s", at+"n"
	}
	// An array is a list of one argument to some and of too many to others: the server says which.
	return o, known && o.arg.Type != bsoncore.TypeArray && !it.Next() && it.Err() == nil
}

// partName is what the names begin with of fields that exist only between a home and where its
// documents are brought together.
const partName = "__tenantry_"

// plainName reports whether "$" before the name is a path to the field.
func plainName(name []byte) bool {
	return len(name) > 0 && name[0] != '$' && bytes.IndexByte(name, '.') < 0 && !bytes.HasPrefix(name, []byte(partName))
}

// appendParts appends what each home computes.
func (g *grouping) appendParts(d []byte) []byte {
	for i := range g.outputs {
		o := &g.outputs[i]
		if !o.Mean {
			d = appendDoc(d, o.name, func(d []byte) []byte { return o.arg.AppendTo(d, string(o.op)) })
			continue
		}
		d = appendDoc(d, o.sum, func(d []byte) []byte { return o.arg.AppendTo(d, "$sum") })
		d = appendDoc(d, o.n, func(d []byte) []byte {
			return appendDoc(d, "$sum", func(d []byte) []byte {
				return appendArray(d, "$cond", func(d []byte) []byte {
					d = appendDoc(d, "0", func(d []byte) []byte { return o.arg.AppendTo(d, "$isNumber") })
					d = bsoncore.AppendInt32Element(d, "1", 1)
					return bsoncore.AppendInt32Element(d, "2", 0)
				})
			})
		})
	}
	return d
}

// counts reports whether the grouping makes one group of all documents and only counts in it.
func (g *grouping) counts() bool {
	if !g.only && !constantGroup(g.part) {
		return false
	}
	for i := range g.outputs {
		o := &g.outputs[i]
		n, ok := o.arg.Int()
		if !g.only && string(o.op) != "$count" && (string(o.op) != "$sum" || !ok || n != 1 || o.arg.Type != bsoncore.TypeInt32) {
			return false
		}
	}
	return true
}

// constantGroup reports whether a $group's _id is null or a number.
func constantGroup(group wire.Doc) bool {
	it := group.Iter()
	it.Next()
	spec, _ := it.Value.Doc()
	id, ok := spec.Lookup("_id")
	return string(it.Key) == "$group" && ok && (null(id) || id.IsNumber())
}

// round are the stages that make parts of fewer documents of the homes' parts.
func (g *grouping) round() []wire.Doc {
	if g.only {
		return []wire.Doc{g.combine()}
	}
	stages := []wire.Doc{g.combine()}
	if g.needs(func(o *output) bool { return o.Join != "" }) {
		stages = append(stages, g.shape(false))
	}
	return stages
}

// whole are the stages that make the result of the parts.
func (g *grouping) whole() []wire.Doc {
	stages := []wire.Doc{g.combine()}
	if g.needs(func(o *output) bool { return o.Join != "" || o.Mean }) {
		stages = append(stages, g.shape(true))
	}
	if g.only {
		stages = append(stages, stage("$project", func(d []byte) []byte { return bsoncore.AppendInt32Element(d, "_id", 0) }))
	}
	return append(stages, g.after...)
}

func (g *grouping) needs(what func(*output) bool) bool {
	for i := range g.outputs {
		if what(&g.outputs[i]) {
			return true
		}
	}
	return false
}

// combine is the $group of the parts by their _id.
func (g *grouping) combine() wire.Doc {
	with := func(d []byte, name, op string) []byte {
		return appendDoc(d, name, func(d []byte) []byte { return bsoncore.AppendStringElement(d, op, "$"+name) })
	}
	return stage("$group", func(d []byte) []byte {
		if g.only {
			d = bsoncore.AppendNullElement(d, "_id")
		} else {
			d = bsoncore.AppendStringElement(d, "_id", "$_id")
		}
		for i := range g.outputs {
			o := &g.outputs[i]
			if o.Mean {
				d = with(with(d, o.sum, o.With), o.n, o.With)
			} else {
				d = with(d, o.name, o.With)
			}
		}
		return d
	})
}

// shape is the stage behind combine that makes arrays of collected arrays, and at the end means of
// sums, with the fields in the order that the client gave them.
func (g *grouping) shape(end bool) wire.Doc {
	return stage("$replaceRoot", func(d []byte) []byte {
		return appendDoc(d, "newRoot", func(d []byte) []byte {
			d = bsoncore.AppendStringElement(d, "_id", "$_id")
			for i := range g.outputs {
				o := &g.outputs[i]
				switch {
				case o.Join != "":
					d = appendJoined(d, o)
				case o.Mean && end:
					d = appendMean(d, o)
				case o.Mean:
					d = bsoncore.AppendStringElement(bsoncore.AppendStringElement(d, o.sum, "$"+o.sum), o.n, "$"+o.n)
				default:
					d = bsoncore.AppendStringElement(d, o.name, "$"+o.name)
				}
			}
			return d
		})
	})
}

func appendJoined(d []byte, o *output) []byte {
	return appendDoc(d, o.name, func(d []byte) []byte {
		return appendDoc(d, "$reduce", func(d []byte) []byte {
			d = bsoncore.AppendStringElement(d, "input", "$"+o.name)
			d = appendArray(d, "initialValue", func(d []byte) []byte { return d })
			return appendDoc(d, "in", func(d []byte) []byte {
				return appendArray(d, o.Join, func(d []byte) []byte {
					d = bsoncore.AppendStringElement(d, "0", "$$value")
					return bsoncore.AppendStringElement(d, "1", "$$this")
				})
			})
		})
	})
}

func appendMean(d []byte, o *output) []byte {
	return appendDoc(d, o.name, func(d []byte) []byte {
		return appendArray(d, "$cond", func(d []byte) []byte {
			d = appendDoc(d, "0", func(d []byte) []byte {
				return appendArray(d, "$eq", func(d []byte) []byte {
					d = bsoncore.AppendStringElement(d, "0", "$"+o.n)
					return bsoncore.AppendInt32Element(d, "1", 0)
				})
			})
			d = bsoncore.AppendNullElement(d, "1")
			return appendDoc(d, "2", func(d []byte) []byte {
				return appendArray(d, "$divide", func(d []byte) []byte {
					d = bsoncore.AppendStringElement(d, "0", "$"+o.sum)
					return bsoncore.AppendStringElement(d, "1", "$"+o.n)
				})
			})
		})
	})
}

// build makes a document of the elements that fill appends.
func build(fill func([]byte) []byte) wire.Doc {
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, 128)) // room for most
	d, _ = bsoncore.AppendDocumentEnd(fill(d), i)
	return d
}

// stage is { name: { … } }.
func stage(name string, fill func([]byte) []byte) wire.Doc {
	return build(func(d []byte) []byte { return appendDoc(d, name, fill) })
}

// counted is { name: n }.
func counted(name string, n int64) wire.Doc {
	return build(func(d []byte) []byte { return bsoncore.AppendInt64Element(d, name, n) })
}

func sortBy(field string, direction int32) wire.Doc {
	return stage("$sort", func(d []byte) []byte { return bsoncore.AppendInt32Element(d, field, direction) })
}

func appendDoc(d []byte, key string, fill func([]byte) []byte) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, key)
	d, _ = bsoncore.AppendDocumentEnd(fill(d), i)
	return d
}

func appendArray(d []byte, key string, fill func([]byte) []byte) []byte {
	i, d := bsoncore.AppendArrayElementStart(d, key)
	d, _ = bsoncore.AppendArrayEnd(fill(d), i)
	return d
}
