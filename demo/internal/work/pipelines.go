package work

import "go.mongodb.org/mongo-driver/v2/bson"

// pipeline is stages that are being drawn, and whether their documents have one order only and are
// still those of the collection.
type pipeline struct {
	*world
	coll    string
	owner   owner
	stages  bson.A
	ordered bool
	whole   bool
}

func (w *world) aggregate(c string) bson.D {
	p := &pipeline{world: w, coll: c, owner: w.tenant(), whole: true}
	if !w.often("no match", 1) {
		match := w.filter(c)
		if w.often("one tenant", 3) {
			match = both(is(tenantField(c), w.spell(p.owner.id)), w.what(c, p.owner))
		} else if w.often("two tenants", 3) {
			match = is(tenantField(c), is("$in", bson.A{p.owner.id, w.tenant().id}))
		}
		p.add("$match", match)
	}
	for range w.between("stages", 1, 4) {
		p.stage()
	}
	cursor := bson.D{}
	if w.often("batch", 3) {
		cursor = is("batchSize", draw(w, "batch size", int32(2), int32(0), int32(1)))
	}
	return bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: p.pipeline()}, {Key: "cursor", Value: cursor}}
}

func (p *pipeline) pipeline() bson.A { return append(bson.A{}, p.stages...) }

func (p *pipeline) add(name string, spec any) { p.stages = append(p.stages, is(name, spec)) }

func (p *pipeline) stage() {
	if !p.whole {
		p.after()
		return
	}
	switch p.between("stage", 0, 21) {
	case 0, 1:
		p.add("$sort", p.sort(true))
		p.ordered = true
	case 2:
		p.cut()
	case 3:
		p.add("$match", p.what(p.coll, p.owner))
	case 4:
		p.add("$addFields", is("twice", is("$multiply", bson.A{"$amount", int32(2)})))
	case 5:
		p.add("$project", p.projection())
		p.whole = false
	case 6:
		p.add("$unwind", "$tags")
		p.whole, p.ordered = false, false // one _id several times
	case 7, 8:
		p.group()
	case 9:
		p.add(draw(p.world, "count", "$count", "$sortByCount"), "s")
		if last := p.stages[len(p.stages)-1].(bson.D); last[0].Key == "$sortByCount" {
			last[0].Value = "$s"
		}
		p.whole, p.ordered = false, false
	case 10:
		p.lookup()
	case 11:
		p.facet()
	case 12:
		p.union()
	case 13, 14:
		p.page()
	case 15:
		p.correlated()
	default:
		p.further()
	}
}

// page is what an application shows of a sorted list.
func (p *pipeline) page() {
	p.add("$sort", p.sort(true))
	p.ordered = true
	if p.often("skip", 5) {
		p.add("$skip", int32(p.between("skipped", 1, 4)))
	}
	p.add("$limit", int32(p.between("limit", 1, 6)))
}

// after is for documents that have lost their fields.
func (p *pipeline) after() {
	if p.ordered && p.often("cut", 6) {
		p.cut()
		return
	}
	p.grouped()
}

func (p *pipeline) cut() {
	if p.ordered {
		p.add(draw(p.world, "cut", "$limit", "$skip"), draw[any](p.world, "number", int32(1), int64(3)))
	}
}

func (p *pipeline) group() {
	key := draw[any](p.world, "key", "$s", "$"+tenantField(p.coll), nil, bson.D{{Key: "who", Value: "$" + tenantField(p.coll)}, {Key: "s", Value: "$s"}}, "$sub.a")
	spec := bson.D{{Key: "_id", Value: key}}
	all := []bson.E{
		{Key: "count", Value: is("$sum", int32(1))},
		{Key: "sum", Value: is("$sum", "$amount")},
		{Key: "low", Value: is("$min", "$n")},
		{Key: "high", Value: is("$max", "$n")},
		{Key: "mean", Value: is("$avg", "$amount")},
		{Key: "set", Value: is("$addToSet", "$s")},
		{Key: "list", Value: is("$push", "$_id")},
	}
	if p.ordered {
		all = append(all, bson.E{Key: "first", Value: is("$first", "$_id")}, bson.E{Key: "last", Value: is("$last", "$s")})
	}
	if p.often("further accumulators", 4) {
		all = p.accumulators()
	}
	for _, e := range all {
		if p.often(e.Key, 3) {
			spec = append(spec, e)
		}
	}
	p.add("$group", spec)
	if get(spec, "deviation") != nil { // of which the last digits are those of an order
		p.add("$addFields", is("deviation", is("$round", bson.A{"$deviation", int32(6)})))
	}
	p.whole, p.ordered = false, false
	if p.often("sort groups", 4) {
		p.add("$sort", is("_id", draw(p.world, "direction", int32(1), int32(-1))))
		p.ordered = true
	}
}

// lookup joins with platform data, or with documents that belong to the same tenant.
func (p *pipeline) lookup() {
	join := func(from, local, foreign, as string) bson.D {
		return bson.D{{Key: "from", Value: from}, {Key: "localField", Value: local}, {Key: "foreignField", Value: foreign}, {Key: "as", Value: as}}
	}
	switch {
	case p.p.Routing.Without == "shared" && moduleOf(p.coll) != "":
		p.add("$lookup", join("users", "user", "_id", "who"))
	case p.coll == "orders" && p.often("items", 6):
		spec := join("order_items", "_id", "order", draw(p.world, "as", "items", "items", "items", "sub.items"))
		if p.often("some items", 4) {
			spec = append(spec, bson.E{Key: "pipeline", Value: bson.A{is("$match", p.what("order_items", p.owner))}})
		}
		p.add("$lookup", spec)
	case p.coll == "order_items" && p.often("order", 6):
		p.add("$lookup", join("orders", "order", "_id", "items"))
	case p.coll == "users" && p.p.Routing.Without != "shared" && p.often("invoices", 7):
		p.add("$lookup", join("invoices", "_id", "user", "items"))
	default:
		p.add("$lookup", join("users", "user", "_id", "who"))
	}
}

func (p *pipeline) facet() {
	branch := func() bson.A {
		sub := &pipeline{world: p.world, coll: p.coll, owner: p.owner, whole: true, ordered: p.ordered}
		for range p.between("branch", 1, 2) {
			switch p.between("branch's stage", 0, 6) {
			case 0:
				sub.add("$match", p.what(p.coll, p.owner))
			case 1:
				sub.add("$sort", p.sort(true))
				sub.ordered = true
			case 2:
				sub.cut()
			case 3:
				sub.add("$count", "n")
				return sub.pipeline()
			case 4:
				sub.group()
				return sub.pipeline()
			case 5:
				sub.joinOne()
				return sub.pipeline()
			case 6:
				if !isView(p.coll) { // which the test server does not read within
					sub.union()
				}
				return sub.pipeline()
			}
		}
		return sub.pipeline()
	}
	p.add("$facet", bson.D{{Key: "one", Value: append(branch(), is("$addFields", is("branch", int32(1))))}, {Key: "two", Value: append(branch(), is("$addFields", is("branch", int32(2))))}})
	p.whole, p.ordered = false, true // one document
}

func (p *pipeline) union() {
	from := draw(p.world, "from", p.coll, "users", "invoices")
	match := is(tenantField(from), p.spell(p.owner.id))
	if from == "users" || p.p.Routing.Without != "shared" && p.often("everybody's", 2) {
		match = bson.D{}
	}
	stages := bson.A{is("$match", match)}
	p.ordered = false
	p.whole = from == p.coll
	switch p.between("union's", 0, 5) {
	case 0:
		stages = append(stages, is("$group", bson.D{{Key: "_id", Value: "$s"}, {Key: "sum", Value: is("$sum", "$amount")}}))
		p.whole = false
	case 1:
		stages = append(stages, is("$sort", is("_id", int32(-1))), is("$limit", int32(2)))
	case 2:
		stages = append(stages, is("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "who"}}))
	}
	p.add("$unionWith", bson.D{{Key: "coll", Value: from}, {Key: "pipeline", Value: stages}})
}

// aggregateWith is a pipeline that says by an option what it means.
func (w *world) aggregateWith(c string) bson.D {
	o := w.tenant()
	match := both(is("$expr", is("$eq", bson.A{"$s", "$$s"})), w.whose(c, o))
	d := bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: bson.A{is("$match", match), is("$sort", w.sort(true)), is("$set", is("asked", "$$s"))}}, {Key: "cursor", Value: bson.D{}}, {Key: "let", Value: is("s", w.s())}}
	if w.often("hint", 3) {
		d = append(d, bson.E{Key: "hint", Value: is("_id", int32(1))})
	}
	return d
}
