package work

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// further are stages that programs use more seldom than those of [pipeline.stage].
func (p *pipeline) further() {
	switch p.between("further stage", 0, 15) {
	case 0, 1:
		p.bucket()
	case 2, 3:
		p.window()
	case 4:
		p.chain()
	case 5:
		p.replace()
	case 6:
		p.sample()
	case 7:
		p.add("$redact", is("$cond", bson.A{is("$eq", bson.A{"$s", p.s()}), draw(p.world, "then", "$$PRUNE", "$$KEEP"), draw(p.world, "else", "$$DESCEND", "$$KEEP", "$$PRUNE")}))
	case 8:
		p.fill()
	case 9, 10:
		p.relabel()
	case 11:
		p.unwind()
	case 12, 13:
		p.joinOne()
	case 14:
		p.add("$unset", draw[any](p.world, "gone", "tags", bson.A{"sub.a", "n"}))
	case 15:
		if p.p.Routing.Without == "" { // which asks of the filter in front who is named
			p.add("$match", p.whose(p.coll, p.owner))
		}
	}
}

// number is the amount as a type that equal values have alike: which of them stands for all is open.
var number64 = is("$toDouble", "$amount")

func (p *pipeline) bucket() {
	output := bson.D{{Key: "count", Value: is("$sum", int32(1))}, {Key: "list", Value: is("$push", "$_id")}}
	if p.often("auto", 4) {
		p.add("$bucketAuto", bson.D{{Key: "groupBy", Value: draw[any](p.world, "by", "$_id", number64)}, {Key: "buckets", Value: int32(p.between("buckets", 1, 4))}, {Key: "output", Value: output}})
	} else {
		p.add("$bucket", bson.D{{Key: "groupBy", Value: "$amount"}, {Key: "boundaries", Value: bson.A{int32(-3), int32(0), int32(2), int32(5)}}, {Key: "default", Value: "other"}, {Key: "output", Value: output}})
	}
	p.whole, p.ordered = false, true
}

// window is what a document has of those beside it.
func (p *pipeline) window() {
	spec := bson.D{}
	if by := draw[any](p.world, "partition", nil, "$s", "$"+tenantField(p.coll)); by != nil {
		spec = append(spec, bson.E{Key: "partitionBy", Value: by})
	}
	before := is("window", is("documents", draw(p.world, "window", bson.A{"unbounded", "current"}, bson.A{int32(-1), int32(1)})))
	output := draw(p.world, "output",
		is("run", append(is("$sum", "$amount"), before...)),
		is("run", append(is("$push", "$_id"), before...)),
		is("run", is("$documentNumber", bson.D{})),
		is("run", is("$rank", bson.D{})),
		is("run", is("$shift", bson.D{{Key: "output", Value: "$_id"}, {Key: "by", Value: int32(-1)}, {Key: "default", Value: "none"}})))
	p.add("$setWindowFields", append(spec, bson.E{Key: "sortBy", Value: is("_id", draw(p.world, "direction", int32(1), int32(-1)))}, bson.E{Key: "output", Value: output}))
	p.ordered = false
}

// chain follows users from one to the next, or a tenant's items to their orders.
func (p *pipeline) chain() {
	from, start, next := "users", "$user", "user"
	if p.coll == "order_items" && p.p.Routing.Without != "shared" && p.often("orders", 6) {
		from, start, next = "orders", "$order", "order"
	}
	spec := bson.D{{Key: "from", Value: from}, {Key: "startWith", Value: start}, {Key: "connectFromField", Value: next}, {Key: "connectToField", Value: "_id"}, {Key: "as", Value: "chain"}}
	if p.often("depth", 4) {
		spec = append(spec, bson.E{Key: "maxDepth", Value: int32(p.between("deep", 0, 2))}, bson.E{Key: "depthField", Value: "deep"})
	}
	if p.often("restricted", 3) {
		spec = append(spec, bson.E{Key: "restrictSearchWithMatch", Value: is("s", is("$ne", "b"))})
	}
	p.add("$graphLookup", spec)
}

func (p *pipeline) replace() {
	f := tenantField(p.coll)
	with := draw(p.world, "with",
		bson.D{{Key: "_id", Value: "$_id"}, {Key: "who", Value: "$" + f}, {Key: "s", Value: "$s"}},
		is("$mergeObjects", bson.A{is("_id", "$_id"), "$sub", is("s", "$s")}),
		is("$mergeObjects", bson.A{"$$ROOT", is("seen", true)}),
		is("$ifNull", bson.A{"$sub", is("a", "none")}))
	if p.often("root", 5) {
		p.add("$replaceRoot", is("newRoot", with))
	} else {
		p.add("$replaceWith", with)
	}
	p.whole = false
}

// sample takes all documents, or some, of which no more is seen than how many they are.
func (p *pipeline) sample() {
	p.ordered = false
	if p.often("all", 4) {
		p.add("$sample", is("size", int32(1000)))
		return
	}
	p.add("$sample", is("size", int32(p.between("size", 1, 6))))
	p.add("$count", "n")
	p.whole = false
}

func (p *pipeline) fill() {
	p.ordered = false
	switch p.between("fill", 0, 2) {
	case 0:
		p.add("$densify", bson.D{{Key: "field", Value: "amount"}, {Key: "range", Value: bson.D{{Key: "step", Value: int32(1)}, {Key: "bounds", Value: bson.A{int32(0), int32(4)}}}}})
		p.add("$group", bson.D{{Key: "_id", Value: number64}, {Key: "n", Value: is("$sum", int32(1))}})
		p.whole = false
	case 1:
		p.add("$fill", is("output", is("tags", is("value", bson.A{}))))
	case 2:
		spec := bson.D{{Key: "sortBy", Value: is("_id", int32(1))}, {Key: "output", Value: is("n", is("method", "locf"))}}
		if p.often("of each", 5) {
			spec = append(bson.D{{Key: "partitionByFields", Value: bson.A{draw(p.world, "partition", "s", tenantField(p.coll))}}}, spec...)
		}
		p.add("$fill", spec)
	}
}

// relabel gives the field that names tenants another value for all that is behind it, where it may be
// asked for: nobody may look for the documents of that tenant then.
func (p *pipeline) relabel() {
	if p.p.Routing.Without != "" {
		return
	}
	f, other := tenantField(p.coll), p.tenant().id
	switch p.between("label", 0, 3) {
	case 0:
		p.add("$set", is(f, is("$literal", other)))
	case 1:
		p.add("$set", is(f, is("$cond", bson.A{is("$eq", bson.A{"$s", "a"}), is("$literal", other), "$" + f})))
	case 2:
		p.add("$unset", f)
	case 3:
		p.add("$project", bson.D{{Key: f, Value: "$s"}, {Key: "s", Value: "$" + f}, {Key: "amount", Value: int32(1)}, {Key: "user", Value: int32(1)}})
	}
	if p.often("asked", 7) {
		p.add("$match", is(f, draw[any](p.world, "label", other, p.owner.id, is("$ne", other), nil)))
	}
}

func (p *pipeline) unwind() {
	spec := is("path", "$tags")
	if p.often("preserve", 7) {
		spec = append(spec, bson.E{Key: "preserveNullAndEmptyArrays", Value: true})
	}
	if p.often("index", 5) {
		spec = append(spec, bson.E{Key: "includeArrayIndex", Value: "at"})
	}
	p.add("$unwind", spec)
	p.whole, p.ordered = false, false
}

// joinOne joins each document with its one user, as mappers do.
func (p *pipeline) joinOne() {
	p.add("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "who"}})
	switch p.between("unwound", 0, 2) {
	case 0:
		p.add("$unwind", bson.D{{Key: "path", Value: "$who"}, {Key: "preserveNullAndEmptyArrays", Value: true}})
	case 1:
		p.add("$unwind", "$who")
		p.add("$match", is("who.s", is("$ne", "b")))
	case 2:
		p.add("$unwind", "$who")
		p.add("$group", bson.D{{Key: "_id", Value: "$who._id"}, {Key: "n", Value: is("$sum", int32(1))}})
		p.whole, p.ordered = false, false
	}
}

// correlated is a join by a pipeline.
func (p *pipeline) correlated() {
	equal := func(pairs ...string) bson.D {
		var all bson.A
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, is("$eq", bson.A{"$" + pairs[i], "$$" + pairs[i+1]}))
		}
		return is("$match", is("$expr", is("$and", all)))
	}
	join := func(from string, let bson.D, stages ...any) {
		p.add("$lookup", bson.D{{Key: "from", Value: from}, {Key: "let", Value: let}, {Key: "pipeline", Value: bson.A(stages)}, {Key: "as", Value: "found"}})
	}
	user := is("u", "$user")
	who := is("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "who"}})
	form := p.between("correlated", 0, 6)
	if p.p.Routing.Without == "shared" || p.coll == "tasks" || moduleOf(p.coll) == "" {
		form = form % 3
	}
	mine := append(is("t", "$tenantId"), user...)
	switch form {
	case 0:
		join("users", user, equal("_id", "u"), is("$project", is("s", int32(1))))
	case 1:
		join("users", user, equal("_id", "u"), who, is("$set", is("count", is("$size", "$who"))))
	case 2:
		join("users", bson.D{}, is("$sort", is("_id", int32(-1))), is("$limit", int32(1)))
	case 3: // the same tenant's, found by the value
		join("invoices", mine, equal("tenantId", "t", "user", "u"), is("$project", is("s", int32(1))))
	case 4:
		join("order_items", mine, equal("tenantId", "t", "user", "u"), is("$sort", is("_id", int32(1))), is("$limit", int32(2)))
	case 5:
		join("order_items", mine, equal("tenantId", "t", "user", "u"), who)
	case 6:
		join("invoices", mine, equal("tenantId", "t", "user", "u"), is("$group", bson.D{{Key: "_id", Value: nil}, {Key: "sum", Value: is("$sum", "$amount")}}))
	}
}

// accumulators are those of a group beside the plain ones.
func (p *pipeline) accumulators() []bson.E {
	first := bson.D{{Key: "amount", Value: draw(p.world, "direction", int32(1), int32(-1))}, {Key: "_id", Value: int32(1)}}
	some := int32(p.between("some", 1, 3))
	n := func(input any) bson.D { return bson.D{{Key: "input", Value: input}, {Key: "n", Value: some}} }
	all := []bson.E{
		{Key: "deviation", Value: is(draw(p.world, "deviation", "$stdDevPop", "$stdDevSamp"), "$amount")},
		{Key: "number", Value: is("$count", bson.D{})},
		{Key: "some", Value: is("$sum", is("$cond", bson.A{is("$eq", bson.A{"$s", "a"}), int32(1), int32(0)}))},
		{Key: "best", Value: is(draw(p.world, "one", "$top", "$bottom"), bson.D{{Key: "sortBy", Value: first}, {Key: "output", Value: "$_id"}})},
		{Key: "few", Value: is(draw(p.world, "few", "$topN", "$bottomN"), bson.D{{Key: "sortBy", Value: first}, {Key: "output", Value: bson.A{"$_id", "$s"}}, {Key: "n", Value: some}})},
		{Key: "least", Value: is(draw(p.world, "least", "$minN", "$maxN"), n(number64))},
		{Key: "size", Value: is("$max", is("$size", is("$cond", bson.A{is("$isArray", "$tags"), "$tags", bson.A{}})))},
	}
	if p.ordered {
		all = append(all,
			bson.E{Key: "firsts", Value: is(draw(p.world, "ends", "$firstN", "$lastN"), n("$_id"))},
			bson.E{Key: "merged", Value: is("$mergeObjects", is("$cond", bson.A{is("$eq", bson.A{is("$type", "$sub"), "object"}), "$sub", bson.D{}}))})
	}
	return all
}

// grouped is for what a group has made.
func (p *pipeline) grouped() {
	switch p.between("of groups", 0, 6) {
	case 0:
		p.add("$match", is("_id", is("$ne", draw[any](p.world, "group", nil, "a", "acme"))))
	case 1:
		p.add("$group", bson.D{{Key: "_id", Value: nil}, {Key: "groups", Value: is("$sum", int32(1))}})
		p.ordered = false
	case 2:
		p.add("$count", "groups")
		p.ordered = false
	case 3:
		p.add("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "_id"}, {Key: "foreignField", Value: "s"}, {Key: "as", Value: "who"}})
	case 4:
		p.add("$replaceWith", is("$mergeObjects", bson.A{is("group", "$_id"), "$$ROOT"}))
	case 5:
		p.add("$set", is("seen", true))
	case 6:
		p.add("$unionWith", bson.D{{Key: "coll", Value: "users"}, {Key: "pipeline", Value: bson.A{is("$count", "users")}}})
		p.ordered = false
	}
}

// documents joins what the pipeline itself brings with a collection.
func (w *world) documents() bson.D {
	from, local, foreign := "users", "user", "_id"
	if w.p.Routing.Without == "" && w.often("of tenants", 6) {
		from, foreign = draw(w, "from", "invoices", "orders"), "user"
	}
	docs := bson.A{}
	for n := range w.between("documents", 1, 4) {
		docs = append(docs, is("user", fmt.Sprint("u", n+1)))
	}
	join := bson.D{{Key: "from", Value: from}, {Key: "localField", Value: local}, {Key: "foreignField", Value: foreign}, {Key: "as", Value: "found"}}
	return bson.D{{Key: "aggregate", Value: int32(1)}, {Key: "pipeline", Value: bson.A{is("$documents", docs), is("$lookup", join)}}, {Key: "cursor", Value: bson.D{}}}
}

// store writes what a pipeline finds into a platform collection, or what it makes of one tenant's into a tenant
// collection.
func (w *world) store(c string) bson.D {
	if o := w.tenant(); o.listed && w.often("of one tenant", 5) {
		stages := bson.A{
			is("$match", is(tenantField(c), o.id)),
			is("$group", bson.D{{Key: "_id", Value: o.prefix + "sum"}, {Key: "sum", Value: is("$sum", "$amount")}}),
			is("$set", is(tenantField(c), w.spell(o.id))),
		}
		into := bson.D{{Key: "into", Value: c}}
		if w.often("matched by a pipeline", 5) {
			into = append(into, bson.E{Key: "whenMatched", Value: bson.A{is("$set", is("sum", "$$new.sum"))}})
		}
		return bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: append(stages, is("$merge", into))}, {Key: "cursor", Value: bson.D{}}}
	}
	match := is("$match", w.filter(c))
	if w.often("group", 5) {
		match = is("$group", bson.D{{Key: "_id", Value: "$user"}, {Key: "sum", Value: is("$sum", "$amount")}})
	}
	to := draw(w, "into", "packages", "report")
	into := is("$out", to)
	if w.often("merge", 6) {
		into = is("$merge", bson.D{{Key: "into", Value: to}, {Key: "whenMatched", Value: draw[any](w, "matched", "replace", "merge", "keepExisting", bson.A{is("$set", is("sum", "$$new.sum"))})}, {Key: "whenNotMatched", Value: draw(w, "not matched", "insert", "discard")}})
	}
	return bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: bson.A{match, into}}, {Key: "cursor", Value: bson.D{}}}
}
