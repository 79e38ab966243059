package work

import (
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func is(key string, v any) bson.D { return bson.D{{Key: key, Value: v}} }

// both asks for what two filters ask for. Of a key that stands twice the test server reads the last
// one only, where a server reads both.
func both(a, b bson.D) bson.D {
	for _, e := range b {
		if slices.ContainsFunc(a, func(o bson.E) bool { return o.Key == e.Key }) {
			return is("$and", bson.A{a, b})
		}
	}
	return append(a, b...)
}

// whose narrows a filter to tenants, or does not; single are the ways that name one.
func (w *world) whose(c string, o owner) bson.D {
	f := tenantField(c)
	v := w.spell(o.id)
	if w.often("plain tenant", 5) {
		return is(f, v)
	}
	other := w.tenant()
	form := w.between("tenant's form", 0, 13)
	if w.p.Routing.Without != "" && !slices.Contains([]int{0, 1, 2, 12, 13}, form) {
		return bson.D{} // plainly, or not at all
	}
	switch form {
	case 0:
		return is(f, is("$eq", v))
	case 1:
		return is(f, is("$in", bson.A{v}))
	case 2, 12, 13:
		return is(f, is("$in", bson.A{v, w.spell(other.id)}))
	case 3:
		return is("$and", bson.A{is(f, v), w.what(c, o)})
	case 4:
		return is("$or", bson.A{both(is(f, v), w.what(c, o)), append(is(f, w.spell(other.id)), is("n", int32(1))...)})
	case 5:
		return is("$or", bson.A{both(is(f, v), w.what(c, o)), is("n", int32(1))})
	case 6:
		return is("$expr", is("$eq", bson.A{"$" + f, is("$literal", v)}))
	case 7:
		return is(f, is("$ne", v))
	case 8:
		return is("$nor", bson.A{is(f, v)})
	case 9:
		return is(f, is("$exists", w.often("exists", 7)))
	case 10:
		return is("$and", bson.A{is("$or", bson.A{is(f, v), is("s", "b")}), is("n", is("$gte", int32(0)))})
	}
	return bson.D{}
}

// what asks for anything but the tenant.
func (w *world) what(c string, o owner) bson.D {
	switch w.between("what", 0, 11) {
	case 0:
		return is("n", w.n())
	case 1:
		return is("n", is(draw(w, "comparison", "$gt", "$lte", "$ne"), int32(w.between("than", 0, 3))))
	case 2:
		return is("s", w.s())
	case 3:
		return is("s", is("$in", bson.A{w.s(), w.s()}))
	case 4:
		return is("tags", draw(w, "tag", "x", "y"))
	case 5:
		return is("sub.a", int32(w.between("a", 0, 2)))
	case 6:
		return is("s", is("$regex", "^[aä]"))
	case 7:
		return is("_id", w.id(o))
	case 8:
		return is("_id", w.ids(c, o))
	case 9:
		return is("$or", bson.A{is("s", w.s()), is("amount", is("$gt", int32(1)))})
	}
	return bson.D{}
}

// ids is {$in: …} of documents of one owner, or of several.
func (w *world) ids(c string, o owner) bson.D {
	var in bson.A
	for range w.between("ids", 1, 12) {
		in = append(in, w.anyID(c, o))
		if w.often("another's", 6) {
			o = w.tenant()
		}
	}
	return is("$in", in)
}

func (w *world) anyID(c string, o owner) any {
	if c == "users" {
		return fmt.Sprint("u", w.between("user", 1, 4))
	}
	return w.id(o)
}

// filter is what a read, or a write of many documents, asks for.
func (w *world) filter(c string) bson.D {
	o := w.tenant()
	switch w.between("filter", 0, 10) {
	case 10:
		return w.broad(c)
	case 0:
		return w.what(c, o)
	case 1, 2:
		return is("_id", w.anyID(c, o))
	case 3:
		return is("_id", w.ids(c, o))
	}
	return both(w.whose(c, o), w.what(c, o))
}

// broad asks for most of a collection: of everybody, or of some.
func (w *world) broad(c string) bson.D {
	if w.often("some", 4) && moduleOf(c) != "" {
		in := bson.A{}
		for _, o := range w.owners() {
			if !w.often("not of "+o.prefix, 3) {
				in = append(in, w.spell(o.id))
			}
		}
		return is(tenantField(c), is("$in", in))
	}
	return draw(w, "broad", bson.D{}, is("amount", is("$gte", int32(1))), is("user", is("$ne", "u1")), is("s", is("$in", bson.A{"a", "A", "b"})))
}

// page is a part of a sorted list, as applications show it.
func (w *world) page(c string) bson.D {
	d := bson.D{
		{Key: "find", Value: c},
		{Key: "filter", Value: w.broad(c)},
		{Key: "sort", Value: w.sort(true)},
		{Key: "skip", Value: int32(w.between("skip", 0, 7))},
		{Key: "limit", Value: int32(w.between("limit", 1, 6))},
	}
	switch w.between("page", 0, 4) {
	case 0: // beside which the test server knows no batchSize
		return append(d, bson.E{Key: "singleBatch", Value: true})
	case 1:
		return append(d, bson.E{Key: "batchSize", Value: int32(w.between("batch size", 0, 3))})
	}
	return d
}

// one selects one document at most.
func (w *world) one(c string, o owner) bson.D {
	d := is("_id", w.anyID(c, o))
	if c != "users" && o.id != nil && w.often("with tenant", 4) {
		d = append(d, bson.E{Key: tenantField(c), Value: w.spell(o.id)})
		if w.often("tenant first", 5) {
			d[0], d[1] = d[1], d[0]
		}
	}
	if w.often("version", 1) {
		d = append(d, bson.E{Key: "s", Value: is("$ne", "b")})
	}
	return d
}

// sort leaves no ties, unless they may be compared as they come.
func (w *world) sort(total bool) bson.D {
	var d bson.D
	direction := func() int32 { return draw(w, "direction", int32(1), int32(-1)) }
	for _, k := range []string{"n", "s", "amount", "sub.a"} {
		if w.often("by "+k, 3) {
			d = append(d, bson.E{Key: k, Value: direction()})
		}
	}
	if total || d == nil || w.often("by _id", 7) {
		d = append(d, bson.E{Key: "_id", Value: direction()})
	}
	return d
}

func (w *world) projection() bson.D {
	return draw(w, "projection",
		is("s", int32(1)), is("tags", int32(0)), bson.D{{Key: "n", Value: int32(1)}, {Key: "_id", Value: int32(0)}},
		is("sub.a", true), is("_id", int32(1)), bson.D{{Key: "upper", Value: is("$toUpper", "$s")}, {Key: "tenantId", Value: int32(1)}},
		is("tags", is("$slice", int32(1))))
}

var collation = bson.D{{Key: "locale", Value: "en"}, {Key: "strength", Value: int32(2)}}

// collated is rare, and never where it matters whether a tenant is named: by the equality of a collation
// none is.
func (w *world) collated() bool { return w.often("collation", 1) && w.p.Routing.Without == "" }

func (w *world) find(c string) bson.D {
	d := bson.D{{Key: "find", Value: c}, {Key: "filter", Value: w.filter(c)}}
	if w.often("populate", 3) {
		d[1].Value = is("_id", w.ids(c, w.tenant()))
	}
	add := func(key string, v any) { d = append(d, bson.E{Key: key, Value: v}) }
	cut := w.often("cut", 4)
	sorted := cut || w.often("sort", 4)
	projected := w.often("project", 2)
	if sorted {
		add("sort", w.sort(cut || projected))
	}
	if projected {
		add("projection", w.projection())
	}
	if cut {
		if w.often("skip", 5) {
			add("skip", int32(w.between("skip", 0, 4)))
		}
		if w.often("limit", 6) {
			add("limit", draw[any](w, "limit", int32(1), int32(2), int64(5), int32(0)))
		}
		if w.often("single batch", 1) {
			add("singleBatch", true)
		}
	}
	if w.often("batch", 4) && get(d, "singleBatch") == nil {
		add("batchSize", draw(w, "batch size", int32(2), int32(1), int32(0), int32(5)))
	}
	if w.collated() && get(doc(get(d, "sort")), "s") == nil { // the test server's sort keys are no collation keys
		add("collation", draw(w, "collation", collation, is("locale", "simple")))
	}
	if w.often("hint", 1) {
		add("hint", is("_id", int32(1)))
	}
	if who := w.tenant().id; w.often("let", 1) && c != "users" && (who != nil || w.p.Routing.Without == "") { // null names nobody
		f := tenantField(c)
		add("let", is("who", w.spell(who)))
		d[1].Value = both(is("$expr", is("$eq", bson.A{"$" + f, "$$who"})), w.what(c, w.tenant()))
	}
	return d
}

func (w *world) count(c string) bson.D {
	d := bson.D{{Key: "count", Value: c}}
	add := func(key string, v any) { d = append(d, bson.E{Key: key, Value: v}) }
	switch {
	case w.often("broad", 3):
		return append(d,
			bson.E{Key: "query", Value: w.broad(c)}, bson.E{Key: "skip", Value: int32(w.between("skip", 0, 4))},
			bson.E{Key: "limit", Value: int32(w.between("limit", 1, 9))})
	case !w.often("all", 1):
		add("query", w.filter(c))
	}
	if w.often("skip", 2) {
		add("skip", int32(w.between("skip", 0, 3)))
	}
	if w.often("limit", 2) {
		add("limit", int32(w.between("limit", 0, 3)))
	}
	if w.collated() {
		add("collation", collation)
	}
	return d
}

// distinct asks for no field that holds true as well as numbers: the test server takes it for 1.
func (w *world) distinct(c string) bson.D {
	query := w.filter(c)
	if w.often("broad", 5) {
		query = w.broad(c)
	}
	d := bson.D{
		{Key: "distinct", Value: c},
		{Key: "key", Value: draw(w, "key", "s", "s", "amount", "user", "tags", "sub.a", "tenantId", "_id")},
		{Key: "query", Value: query},
	}
	if w.collated() {
		d = append(d, bson.E{Key: "collation", Value: collation})
	}
	return d
}

// cursor reads a result in several batches, with other reads in between.
func (w *world) cursor(c string) []Line {
	find := w.find(c)
	if w.often("aggregate", 3) {
		find = w.aggregate(c)
	}
	if name(find) == "find" && get(find, "batchSize") == nil && get(find, "singleBatch") == nil {
		find = append(find, bson.E{Key: "batchSize", Value: int32(w.between("batch", 0, 3))})
	}
	title := fmt.Sprint("c", w.between("cursor", 1, 1<<20))
	n := w.between("session", 0, 2)
	out := []Line{{Session: n, Cursor: title, Command: find}}
	for range w.between("more", 0, 4) {
		if w.often("else", 3) {
			out = append(out, w.as(w.find(w.collection())))
		}
		more := bson.D{{Key: "getMore", Value: title}, {Key: "collection", Value: c}}
		if w.often("size", 7) {
			more = append(more, bson.E{Key: "batchSize", Value: int32(w.between("batch", 1, 3))})
		}
		out = append(out, Line{Session: n, Command: more})
	}
	if w.often("kill", 3) {
		out = append(out, Line{Session: n, Command: bson.D{{Key: "killCursors", Value: c}, {Key: "cursors", Value: bson.A{title}}}})
	}
	return out
}
