package work

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// seldomChange is an update of one document, or of many, by operators that are met more seldom.
func (w *world) seldomChange(c string, o owner) any {
	f := tenantField(c)
	tag := draw(w, "tag", "x", "y", "z")
	return draw[any](w, "seldom change",
		is("$mul", is("amount", int32(2))),
		bson.D{{Key: "$max", Value: is("amount", int32(3))}, {Key: "$inc", Value: is("sub.a", int32(1))}},
		is("$push", is("tags", bson.D{{Key: "$each", Value: bson.A{tag, "a"}}, {Key: "$slice", Value: int32(-2)}, {Key: "$sort", Value: int32(1)}})),
		is("$push", is("tags", bson.D{{Key: "$each", Value: bson.A{tag}}, {Key: "$position", Value: int32(0)}})),
		is("$addToSet", is("tags", is("$each", bson.A{tag, "q"}))),
		is("$addToSet", is("tags", tag)),
		is("$pop", is("tags", draw(w, "end", int32(1), int32(-1)))),
		is("$pullAll", is("tags", bson.A{tag})),
		is("$pull", is("tags", is("$in", bson.A{"x", "q"}))),
		is("$bit", is("flags", is("xor", int32(5)))),
		bson.D{{Key: "$set", Value: is("sub.b", tag)}, {Key: "$unset", Value: is("n", "")}},
		is("$rename", is("sub.a", "sub.b")),
		is("$rename", is(f, "former")),
		is("$rename", is("s", f)),
		is("$inc", is(f, int32(1))),
		is("$min", is(f, w.spell(o.id))),
		is("$setOnInsert", is("s", "new")),
		is("$set", bson.D{{Key: f, Value: w.spell(o.id)}, {Key: "n", Value: int32(7)}}),
		is("$set", is("company.city", "Genf")),
		is("$set", is("company", is("city", "Genf"))),
		is("$unset", is("company", "")),
		bson.A{is("$unset", bson.A{"tags", "n"})},
		bson.A{is("$unset", f)},
		bson.A{is("$project", bson.D{{Key: "s", Value: int32(1)}, {Key: f, Value: int32(1)}, {Key: "amount", Value: int32(1)}})},
		bson.A{is("$project", is("n", int32(0)))},
		bson.A{is("$replaceRoot", is("newRoot", is("$mergeObjects", bson.A{is("n", int32(0)), "$$ROOT"})))},
		bson.A{is("$set", is("tags", is("$concatArrays", bson.A{is("$cond", bson.A{is("$isArray", "$tags"), "$tags", bson.A{}}), bson.A{tag}})))},
		bson.A{is("$set", is(f, "$"+f))})
}

// seldomUpsert says in other words whose the new document is.
func (w *world) seldomUpsert(c string, o owner) (filter, update bson.D) {
	id, f, set := w.anyID(c, o), tenantField(c), is("$set", w.fields(c, o))
	mine := is(f, w.spell(o.id))
	return draw(w, "seldom upsert's filter",
		is("$and", bson.A{is("_id", id), mine}),
		append(is("_id", is("$eq", id)), mine...),
		append(is("$and", bson.A{mine}), is("_id", id)...),
		append(is("$or", bson.A{mine}), is("_id", id)...),
		append(is("_id", id), is(f, is("$eq", mine[0].Value))...),
		append(is("_id", id), is(f, is("$all", bson.A{mine[0].Value}))...),
		append(append(is("_id", id), mine...), is("n", is("$gt", int32(100)))...),
		append(append(is("_id", id), mine...), is("s", w.s())...)), set
}

// positional is an update entry that changes elements of an array.
func (w *world) positional(c string, o owner) bson.D {
	q := w.one(c, o)
	entry := func(u bson.D) bson.D { return bson.D{{Key: "q", Value: q}, {Key: "u", Value: u}} }
	switch w.between("positional", 0, 2) {
	case 0: // of the tenant's by name: within "$and", as others are asked for, the test server finds no place
		if o.id != nil && c != "users" {
			q = append(append(is("_id", w.id(o)), is(tenantField(c), o.id)...), bson.E{Key: "tags", Value: "x"})
			return entry(is("$set", is("tags.$", "q")))
		}
		fallthrough
	case 1:
		q = append(q, bson.E{Key: "tags.0", Value: is("$exists", true)}, bson.E{Key: "tags", Value: is("$type", "array")})
		return entry(is("$set", is("tags.$[]", "q")))
	}
	q = append(q, bson.E{Key: "tags.0", Value: is("$exists", true)}, bson.E{Key: "tags", Value: is("$type", "array")})
	return append(entry(is("$set", is("tags.$[tag]", "q"))), bson.E{Key: "arrayFilters", Value: bson.A{is("tag", is("$ne", "x"))}})
}

// sorted is an update of the first of several documents.
func (w *world) sorted(c string, o owner) bson.D {
	q := w.broad(c)
	if w.often("narrow", 4) {
		q = w.filter(c)
	}
	return bson.D{{Key: "q", Value: q}, {Key: "u", Value: w.change(c, o, true)}, {Key: "sort", Value: w.sort(true)}}
}

// withVariables is an update that says by "let" which documents it means, and what becomes of them.
func (w *world) withVariables(c string, o owner) bson.D {
	q := append(w.one(c, o), is("$expr", is("$ne", bson.A{"$s", "$$not"}))...)
	u := any(is("$set", is("n", int32(3))))
	if w.often("computed", 5) {
		u = bson.A{is("$set", is("s", "$$becomes"))}
	}
	entry := bson.D{{Key: "q", Value: q}, {Key: "u", Value: u}}
	return bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{entry}}, {Key: "let", Value: bson.D{{Key: "not", Value: "b"}, {Key: "becomes", Value: w.s()}}}}
}

// unheard is a write of which the client wants to hear nothing, and which no proxy may refuse.
func (w *world) unheard(c string) Line {
	if w.p.Routing.Without != "" || c == "tasks" {
		c = "users" // of which it is all the same who is named
	}
	o := w.tenant()
	if !o.listed {
		o = w.owners()[0] // whom no validator refuses
	}
	var command bson.D
	switch w.between("unheard", 0, 4) {
	case 0:
		docs := w.batch(c, o, 3)
		if w.often("another's", 4) {
			docs = append(docs, w.batch(c, w.owners()[0], 2)...)
		}
		for _, d := range docs { // none that a validator refuses, for which the test server leaves out all of the batch
			d.(bson.D)[slices.IndexFunc(d.(bson.D), func(e bson.E) bool { return e.Key == "s" })].Value = "a"
		}
		command = insert(c, docs)
	case 1:
		command = bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: w.one(c, o)}, {Key: "u", Value: is("$set", w.fields(c, o))}}}}}
	case 2:
		command = bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: w.filter(c)}, {Key: "u", Value: is("$inc", is("amount", int32(1)))}, {Key: "multi", Value: true}}}}, {Key: "bypassDocumentValidation", Value: true}}
	case 3:
		command = bson.D{{Key: "delete", Value: c}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: w.one(c, o)}, {Key: "limit", Value: int32(1)}}}}}
	case 4:
		command = bson.D{{Key: "delete", Value: c}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: w.filter(c)}, {Key: "limit", Value: int32(0)}}}}}
	}
	return Line{Unheard: true, Command: append(command, bson.E{Key: "writeConcern", Value: is("w", int32(0))})}
}
