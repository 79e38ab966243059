package work

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// What may differ between the replies of two servers to the same command.
var volatile = []string{
	"$clusterTime", "operationTime", "electionId", "opTime", "recoveryToken", "topologyVersion",
	// Documents of cursors are compared over all batches, see pair.
	"cursor",
	// The text of an error. Its code tells applications what it is.
	"errmsg",
	// Each database makes a collection when it first needs it (docs/differences.md).
	"createdCollectionAutomatically",
	"totalSize", "totalSizeMb",
}

// outline is what must be equal of two replies, by field.
func outline(command, reply bson.D) []string {
	var out []string
	for _, e := range reply {
		if slices.Contains(volatile, e.Key) {
			continue
		}
		v := e.Value
		switch {
		case e.Key == "writeErrors":
			v = withoutTexts(array(v))
		case e.Key == "values":
			if get(command, "collation") != nil {
				v = folded(array(v))
			}
			v = bag(equals(array(v)))
		case e.Key == "cursorsKilled", e.Key == "cursorsNotFound":
			v = int32(len(array(v)))
		}
		out = append(out, e.Key+": "+text(v))
	}
	slices.Sort(out)
	return out
}

func withoutTexts(errs bson.A) bson.A {
	var out bson.A
	for _, e := range errs {
		d := slices.DeleteFunc(slices.Clone(doc(e)), func(e bson.E) bool { return e.Key == "errmsg" })
		out = append(out, byKey(d))
	}
	return out
}

// folded has strings without case: which of those that a collation has equal a distinct tells is open.
func folded(a bson.A) bson.A {
	out := bson.A{}
	for _, v := range a {
		if s, ok := v.(string); ok {
			v = strings.ToLower(s)
		}
		out = append(out, v)
	}
	return out
}

// equals has every number in one type: which of equal ones a distinct tells is open. The test server
// tells a decimal beside the number that it equals.
func equals(a bson.A) bson.A {
	out := bson.A{}
	for _, v := range a {
		n, ok := number(v)
		if !ok {
			out = append(out, v)
			continue
		}
		if _, isDecimal := v.(bson.Decimal128); !isDecimal || !slices.Contains(numbers(a), n) {
			out = append(out, n)
		}
	}
	return out
}

// numbers are those that are no decimals.
func numbers(a bson.A) (out []float64) {
	for _, v := range a {
		if _, isDecimal := v.(bson.Decimal128); isDecimal {
			continue
		}
		if n, ok := number(v); ok {
			out = append(out, n)
		}
	}
	return out
}

// bag is the array in an order of our own, where the server promises none.
func bag(a bson.A) bson.A {
	a = slices.Clone(a)
	slices.SortFunc(a, func(x, y any) int { return strings.Compare(text(x), text(y)) })
	return a
}

// order is what a command promises of the order of its documents.
type order struct {
	total bool     // one order only
	keys  []string // else: documents follow each other by these fields, equal ones as they come
	bags  []string // fields of documents that hold arrays without an order
	any   []string // fields of documents that hold one of several numbers that are equal
}

// orderOf reads it from the command. A sort that has _id in it leaves no ties.
func orderOf(command bson.D) order {
	var o order
	switch name(command) {
	case "find":
		o.sort(doc(get(command, "sort")))
	case "aggregate":
		o = within(get(command, "pipeline"))
	}
	return o
}

// within is the order of what a pipeline's stages bring.
func within(stages any) (o order) {
	for _, s := range array(stages) {
		if d := doc(s); len(d) == 1 {
			o.stage(d[0].Key, d[0].Value)
		}
	}
	return o
}

func (o *order) sort(sort bson.D) {
	o.total, o.keys = false, nil
	for _, e := range sort {
		if e.Key == "$natural" {
			o.keys = nil
			return
		}
		o.total = o.total || e.Key == "_id"
		o.keys = append(o.keys, e.Key)
	}
}

func (o *order) stage(name string, spec any) {
	switch name {
	case "$sort":
		o.sort(doc(spec))
	case "$group":
		for _, e := range doc(spec) {
			acc := doc(e.Value)
			switch {
			case len(acc) != 1:
			case acc[0].Key == "$addToSet", acc[0].Key == "$push" && !o.total:
				o.bags = append(o.bags, e.Key)
			case acc[0].Key == "$min", acc[0].Key == "$max":
				o.any = append(o.any, e.Key)
			}
		}
		o.total, o.keys = false, nil
	case "$bucket", "$bucketAuto":
		o.total = false // of the documents of a bucket
		o.stage("$group", get(doc(spec), "output"))
		o.total = true // by _id
	case "$sortByCount", "$setWindowFields", "$sample", "$densify", "$fill":
		o.total, o.keys = false, nil
	case "$unionWith":
		o.inside(within(get(doc(spec), "pipeline")))
		o.total, o.keys = false, nil
	case "$lookup", "$graphLookup":
		as, _ := get(doc(spec), "as").(string)
		o.bags = append(o.bags, as[strings.LastIndexByte(as, '.')+1:])
		o.inside(within(get(doc(spec), "pipeline")))
	case "$facet":
		for _, e := range doc(spec) {
			of := within(e.Value)
			if !of.total {
				o.bags = append(o.bags, e.Key)
			}
			o.inside(of)
		}
	case "$unwind", "$project", "$replaceRoot", "$replaceWith":
		o.keys = nil // the fields may be gone; a total order stays one
	}
}

// inside takes in what is open of documents within these.
func (o *order) inside(of order) {
	o.bags, o.any = append(o.bags, of.bags...), append(o.any, of.any...)
}

// settle puts the arrays that have no order into one, and numbers of which type is open into one type.
func (o *order) settle(v any) any {
	switch v := v.(type) {
	case bson.D:
		out := slices.Clone(v)
		for i, e := range out {
			out[i].Value = o.settle(e.Value)
			if a, ok := out[i].Value.(bson.A); ok && slices.Contains(o.bags, e.Key) {
				out[i].Value = bag(a)
			}
			if n, ok := number(out[i].Value); ok && slices.Contains(o.any, e.Key) {
				out[i].Value = n
			}
		}
		return out
	case bson.A:
		out := slices.Clone(v)
		for i := range out {
			out[i] = o.settle(out[i])
		}
		return out
	}
	return v
}

// texts are the documents as far as they must be equal: in their order where it is total, else
// sorted.
func (o *order) texts(docs bson.A) []string {
	out := make([]string, len(docs))
	for i, d := range docs {
		out[i] = text(o.settle(d))
	}
	if !o.total {
		slices.Sort(out)
	}
	return out
}

// steps are the documents' values of the sort's fields, in their order.
func (o *order) steps(docs bson.A) []string {
	if o.total || o.keys == nil {
		return nil
	}
	out := make([]string, len(docs))
	for i, d := range docs {
		for _, k := range o.keys {
			v := dig(doc(d), k)
			if n, ok := number(v); ok {
				v = n // of whatever type: equal ones come as they like
			}
			out[i] += text(v) + " "
		}
	}
	return out
}

// dig is the value at a dotted path.
func dig(d bson.D, path string) any {
	head, rest, more := strings.Cut(path, ".")
	v := get(d, head)
	if !more {
		return v
	}
	return dig(doc(v), rest)
}
