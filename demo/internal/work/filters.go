package work

import (
	"fmt"
	"slices"
	"strings"

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
	form := w.between("tenant's form", 0, 19)
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
	case 14, 15, 16:
		return w.oddly(f, v, w.spell(other.id))
	case 17:
		return w.byExpression(f, v, w.spell(other.id))
	case 18:
		return w.byParent(c, v)
	}
	return bson.D{}
}

// oddly asks for tenants by what is no equality, or one in other words.
func (w *world) oddly(f string, v, other any) bson.D {
	form := draw(w, "odd form",
		is("$not", is("$eq", v)),
		is("$not", is("$in", bson.A{v})),
		is("$nin", bson.A{v}),
		is("$nin", bson.A{v, nil}),
		is("$in", bson.A{nil, v}),
		is("$in", bson.A{}),
		is("$gt", v),
		bson.D{{Key: "$gte", Value: v}, {Key: "$lte", Value: v}},
		bson.D{{Key: "$eq", Value: v}, {Key: "$ne", Value: other}},
		bson.D{{Key: "$exists", Value: true}, {Key: "$eq", Value: v}},
		is("$type", "string"),
		is("$not", is("$type", "number")),
		is("$regex", "^(a|in)"),
		is("$all", bson.A{v}),
		is("$elemMatch", is("$eq", v)),
		is("$size", int32(1)),
		is("$mod", bson.A{int32(2), int32(0)}))
	return draw(w, "around",
		is(f, form), is(f, form), is(f, nil),
		is("$nor", bson.A{is("$nor", bson.A{is(f, v)})}),
		is("$nor", bson.A{is(f, v), is(f, other)}),
		is("$and", bson.A{is(f, v), is(f, other)}),
		is("$or", bson.A{is(f, form), is(f, v)}),
		is("$or", bson.A{is("$and", bson.A{is(f, v), is("s", "a")}), is(f, other)}),
		is(f+".x", is("$exists", false)))
}

func (w *world) byExpression(f string, v, other any) bson.D {
	field, one, two := "$"+f, is("$literal", v), is("$literal", other)
	return is("$expr", draw(w, "expression",
		is("$in", bson.A{field, bson.A{one, two}}),
		is("$and", bson.A{is("$eq", bson.A{field, one}), is("$gte", bson.A{"$amount", int32(0)})}),
		is("$or", bson.A{is("$eq", bson.A{field, one}), is("$eq", bson.A{two, field})}),
		is("$or", bson.A{is("$eq", bson.A{field, one}), is("$eq", bson.A{"$s", "a"})}),
		is("$not", bson.A{is("$eq", bson.A{field, one})}),
		is("$ne", bson.A{field, one}),
		is("$gte", bson.A{field, one}),
		is("$eq", bson.A{is("$type", field), "missing"}),
		is("$eq", bson.A{is("$ifNull", bson.A{field, two}), two}),
		is("$cond", bson.A{is("$eq", bson.A{"$s", "a"}), is("$eq", bson.A{field, one}), false})))
}

// byParent asks for the object that the tenant field of tasks lies in.
func (w *world) byParent(c string, v any) bson.D {
	if c != "tasks" {
		return is(tenantField(c), is("$in", bson.A{v, "nobody"}))
	}
	return is("company", draw[any](w, "company",
		bson.D{{Key: "id", Value: v}, {Key: "city", Value: "Bern"}},
		is("$in", bson.A{bson.D{{Key: "id", Value: v}, {Key: "city", Value: "Wien"}}}),
		is("$exists", true), is("$type", "object"), nil))
}

// what asks for anything but the tenant.
func (w *world) what(c string, o owner) bson.D {
	switch w.between("what", 0, 15) {
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
	case 12, 13, 14:
		return w.seldom(c, o)
	case 15:
		return is("_id", respelt(w, w.anyID(c, o)))
	}
	return bson.D{}
}

// seldom asks by operators that are met more seldom.
func (w *world) seldom(c string, o owner) bson.D {
	return draw(w, "seldom",
		is("n", is("$type", draw[any](w, "type", "number", "null", bson.A{"string", "object"}))),
		is("sub", is("$exists", w.often("exists", 5))),
		is("amount", is("$mod", bson.A{int32(2), int32(0)})),
		is("tags", is("$all", bson.A{"x", "y"})),
		is("tags", is("$size", int32(w.between("size", 0, 2)))),
		is("tags", is("$elemMatch", is("$in", bson.A{"x", "z"}))),
		is("tags.0", "x"),
		is("tags", bson.A{"x"}),
		is("n", nil),
		is("sub", is("a", int32(1))),
		is("s", is("$not", is("$regex", "^a"))),
		is("s", is("$nin", bson.A{"a", "b"})),
		is("s", bson.Regex{Pattern: "^A$", Options: "i"}), // which in "$in" the test server does not find by an index
		is("amount", bson.D{{Key: "$gt", Value: int32(-2)}, {Key: "$lt", Value: 2.5}}),
		is("_id", is(draw(w, "than", "$gt", "$lte"), w.anyID(c, o))),
		is("_id", is("$nin", bson.A{w.anyID(c, o)})),
		is("_id", is("$not", is("$eq", w.anyID(c, o)))),
		is("$expr", is("$gt", bson.A{"$amount", is("$strLenCP", is("$ifNull", bson.A{"$s", ""}))})),
		is("$nor", bson.A{is("s", "a"), is("n", int32(1))}),
		is("$jsonSchema", is("required", bson.A{"n", "sub"})),
		bson.D{{Key: "$comment", Value: "why"}, {Key: "s", Value: "a"}})
}

// respelt is a number in another type than its documents have it.
func respelt(w *world, v any) any {
	n, ok := v.(int32)
	if !ok {
		return v
	}
	return draw[any](w, "respelt", int64(n), float64(n), decimal(n))
}

func decimal(n int32) bson.Decimal128 {
	d, err := bson.ParseDecimal128(fmt.Sprint(n))
	if err != nil {
		panic(err)
	}
	return d
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
	if w.often("respelt", 1) {
		for i, e := range d {
			if e.Key == "_id" {
				d[i].Value = respelt(w, e.Value)
			}
		}
	}
	return d
}

// sort leaves no ties, unless they may be compared as they come.
func (w *world) sort(total bool) bson.D {
	var d bson.D
	direction := func() int32 { return draw(w, "direction", int32(1), int32(-1)) }
	keys := []string{"n", "s", "amount", "sub.a"}
	if total && w.often("unusual", 3) { // but none that may be an empty array, of which the test server tells no sort key
		keys = []string{"sub", "tenantId", "company", "user"}
	}
	for _, k := range keys {
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
		is("tags", is("$slice", int32(1))), is("tags", is("$elemMatch", is("$eq", "x"))),
		bson.D{{Key: "who", Value: "$tenantId"}, {Key: "_id", Value: int32(0)}}, bson.D{{Key: "tenantId", Value: int32(0)}, {Key: "company", Value: int32(0)}},
		bson.D{{Key: "tenantId", Value: "$s"}, {Key: "s", Value: is("$literal", int32(1))}}, is("sub", is("a", int32(1))))
}

var collation = bson.D{{Key: "locale", Value: "en"}, {Key: "strength", Value: int32(2)}}

func (w *world) collated() bool { return w.often("collation", 1) }

// how is a collation, or none said by one.
func (w *world) how() bson.D {
	return draw(w, "collation", collation, collation, is("locale", "en"),
		bson.D{{Key: "locale", Value: "en"}, {Key: "strength", Value: int32(1)}, {Key: "alternate", Value: "shifted"}}, is("locale", "simple"))
}

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
	if w.collated() && get(d, "projection") == nil { // the test server tells no collation keys, so that it may run as a pipeline, whose projections are others
		add("collation", w.how())
	}
	if w.often("hint", 1) {
		add("hint", draw[any](w, "by", is("_id", int32(1)), is("$natural", int32(1)), "n_1_"))
	}
	if w.often("option", 1) {
		add(draw(w, "option", "allowDiskUse", "noCursorTimeout", "allowPartialResults"), true)
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
	if w.often("hint", 1) {
		add("hint", draw[any](w, "by", is("_id", int32(1)), "n_1_"))
	}
	if w.collated() {
		add("collation", w.how())
	}
	return d
}

// bounded is a find between bounds of an index of the program's definitions.
func (w *world) bounded(c string) bson.D {
	d := bson.D{{Key: "find", Value: c}, {Key: "filter", Value: w.filter(c)}, {Key: "hint", Value: is("n", int32(1))}}
	if w.often("min", 7) {
		d = append(d, bson.E{Key: "min", Value: is("n", int32(w.between("from", -1, 2)))})
	}
	if w.often("max", 7) {
		d = append(d, bson.E{Key: "max", Value: is("n", int32(w.between("to", 1, 5)))})
	}
	if w.often("sort", 5) {
		d = append(d, bson.E{Key: "sort", Value: w.sort(true)})
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
		{Key: "key", Value: draw(w, "key", "s", "s", "amount", "user", "tags", "tags.0", "sub", "sub.a", "tenantId", "company.id", "_id")},
		{Key: "query", Value: query},
	}
	if w.collated() {
		d = append(d, bson.E{Key: "collation", Value: w.how()})
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
		if other := w.collection(); w.often("write", 3) && !strings.Contains(text(find), `"`+other+`"`) { // what it sees of its own is open
			out = append(out, w.as(w.insert(other)))
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
