package work

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func (w *world) insert(c string) bson.D {
	docs := w.batch(c, w.tenant(), 4)
	if w.often("several tenants", 3) {
		for range w.between("tenants", 1, 2) {
			docs = append(docs, w.batch(c, w.tenant(), 2)...)
		}
	}
	return w.ordered(insert(c, docs))
}

// ordered leaves the order of a batch open at times, where none is seen.
func (w *world) ordered(command bson.D) bson.D {
	if w.often("unordered", 3) && (name(command) == "insert" || independent(command)) {
		return append(command, bson.E{Key: "ordered", Value: false})
	}
	return command
}

// independent reports whether the writes of a batch are of different documents, each named by its _id.
func independent(command bson.D) bool {
	entries := array(get(command, batches[name(command)]))
	seen := map[string]bool{}
	for _, v := range entries {
		e := doc(v)
		id := get(doc(e[0].Value), "_id")
		of := "" // namespace of a bulkWrite's
		for _, field := range []string{"filter", "document"} {
			if d := doc(get(e, field)); d != nil {
				id, of = get(d, "_id"), text(e[0].Value)
			}
		}
		if _, several := id.(bson.D); id == nil || several || seen[of+plainID(id)] {
			return len(entries) == 1
		}
		seen[of+plainID(id)] = true
	}
	return true
}

// plainID is the text of an _id, equal ones' alike.
func plainID(id any) string { return text(equals(bson.A{id})) }

// says is the field of an update that names the tenant, or the object that it lies in.
func (w *world) says(c string, o owner) bson.D {
	if c == "tasks" && w.often("whole object", 4) {
		return is("company", is("id", w.spell(o.id)))
	}
	return is(tenantField(c), w.spell(o.id))
}

// change is an update of one document, or with many of whichever.
func (w *world) change(c string, o owner, many bool) any {
	set := func(d bson.D) bson.D { return is("$set", d) }
	switch w.between("change", 0, 21) {
	case 0, 1, 2, 3:
		return set(w.fields(c, o))
	case 4:
		return is("$inc", is("amount", int32(1)))
	case 5:
		return is("$push", is("tags", draw(w, "tag", "x", "y")))
	case 6:
		return is("$pull", is("tags", "x"))
	case 7:
		return bson.D{{Key: "$unset", Value: is("sub", "")}, {Key: "$set", Value: is("s", w.s())}}
	case 8:
		return is("$rename", is("s", "s2"))
	case 9:
		return bson.D{{Key: "$min", Value: is("amount", int32(0))}, {Key: "$setOnInsert", Value: is("s", "new")}}
	case 10:
		return set(w.says(c, w.tenant()))
	case 11, 16:
		return draw(w, "pipeline",
			bson.A{is("$set", is("n", is("$add", bson.A{"$amount", int32(1)})))},
			bson.A{is("$set", is("s", "b")), is("$unset", "sub")},
			bson.A{is("$addFields", is("seen", is("$ifNull", bson.A{"$n", "none"})))},
			bson.A{is("$replaceWith", is("$mergeObjects", bson.A{"$$ROOT", is("s", w.s())}))},
			bson.A{is("$set", is(tenantField(c), w.spell(w.tenant().id)))},
			bson.A{is("$set", bson.D{{Key: "s", Value: "b"}, {Key: tenantField(c), Value: w.spell(o.id)}})})
	case 12:
		return is("$unset", is(tenantField(c), ""))
	case 13:
		return set(is("tags.0", "z"))
	case 17, 18, 19, 20, 21:
		return w.seldomChange(c, o)
	}
	if many {
		return set(is("s", w.s()))
	}
	if w.often("given away", 2) {
		o = draw(w, "to", w.owners()...)
	}
	d := w.owned(bson.D{}, c, o)
	return append(d, w.fields(c, o)...)
}

// loadAndSave is what a mapper of documents does.
func (w *world) loadAndSave(c string) []Line {
	o := w.tenant()
	id := is("_id", w.anyID(c, o))
	save := bson.D{{Key: "q", Value: id}, {Key: "u", Value: w.change(c, o, false)}}
	return []Line{
		w.as(bson.D{{Key: "find", Value: c}, {Key: "filter", Value: id}, {Key: "limit", Value: int32(1)}}),
		w.as(bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{save}}}),
	}
}

func (w *world) updateEntry(c string, many bool) bson.D {
	o := w.tenant()
	e := bson.D{{Key: "q", Value: nil}, {Key: "u", Value: w.change(c, o, many)}}
	if many {
		if w.often("upsert of many", 2) {
			return w.upsertMany(c)
		}
		e[0].Value = w.filter(c)
		if w.often("of most", 4) {
			e[0].Value = w.broad(c)
		}
		if w.collated() {
			e = append(e, bson.E{Key: "collation", Value: w.how()})
		}
		return append(e, bson.E{Key: "multi", Value: true})
	}
	switch {
	case w.often("positional", 1):
		return w.positional(c, o)
	case w.often("sorted", 1):
		return w.sorted(c, o)
	}
	e[0].Value = w.one(c, o)
	if w.often("upsert", 2) {
		e[0].Value, e[1].Value = w.upsert(c)
		e = append(e, bson.E{Key: "upsert", Value: true})
	}
	return e
}

// upsertMany is a change of all that there are, or a new document, for which the server may have to
// make an _id.
func (w *world) upsertMany(c string) bson.D {
	o := w.tenant()
	set := is("$set", is("amount", w.amount()))
	filter := is("s", draw(w, "which", "a", "new", "b"))
	switch form := w.between("upsert of many", 0, 3); {
	case c == "users" || form == 0:
		var update bson.D
		filter, update = w.upsert(c)
		if strings.HasPrefix(update[0].Key, "$") {
			set = update
		}
	case form == 1 && o.id != nil:
		set = append(set, bson.E{Key: "$setOnInsert", Value: w.says(c, o)})
	case o.id != nil:
		filter = append(is(tenantField(c), w.spell(o.id)), filter...)
	}
	return bson.D{{Key: "q", Value: filter}, {Key: "u", Value: set}, {Key: "multi", Value: true}, {Key: "upsert", Value: true}}
}

// upsert is a filter and an update by which a new document becomes that of the owner of its _id.
func (w *world) upsert(c string) (filter, update bson.D) {
	o := draw(w, "owner", w.owners()...)
	filter = is("_id", w.anyID(c, o))
	if c == "users" {
		return filter, is("$set", w.fields(c, o))
	}
	if w.p.Routing.Without == "shared" && o.id != nil { // else it is not looked for in the tenant's own database
		return append(filter, bson.E{Key: tenantField(c), Value: w.spell(o.id)}), is("$set", w.fields(c, o))
	}
	if o.id != nil && w.often("seldom upsert", 2) {
		return w.seldomUpsert(c, o)
	}
	switch w.between("upsert", 0, 5) {
	case 5: // of which no server makes a field
		if o.id != nil {
			return append(filter, bson.E{Key: tenantField(c), Value: is("$in", bson.A{w.spell(o.id)})}), is("$set", w.fields(c, o))
		}
	case 0:
		return filter, append(w.owned(bson.D{}, c, o), w.fields(c, o)...)
	case 1, 2:
		if o.id != nil {
			return append(filter, bson.E{Key: tenantField(c), Value: w.spell(o.id)}), is("$set", w.fields(c, o))
		}
	case 3:
		o = w.owners()[len(w.owners())-1] // nobody's
		return is("_id", w.anyID(c, o)), is("$set", w.fields(c, o))
	}
	if o.id == nil {
		return filter, is("$set", w.fields(c, o))
	}
	return filter, bson.D{
		{Key: "$set", Value: w.fields(c, o)},
		{Key: "$setOnInsert", Value: w.says(c, o)},
	}
}

func (w *world) update(c string) bson.D {
	if w.often("variables", 1) {
		return w.withVariables(c, w.tenant())
	}
	var entries bson.A
	switch w.between("update", 0, 9) {
	case 0, 1: // documents saved one by one, sent as a batch
		for range w.between("saves", 2, 5) {
			entries = append(entries, w.updateEntry(c, false))
		}
	case 2, 3, 4:
		entries = bson.A{w.updateEntry(c, true)}
	case 5:
		entries = bson.A{w.updateEntry(c, false), w.updateEntry(c, true)}
	default:
		entries = bson.A{w.updateEntry(c, false)}
	}
	return w.ordered(bson.D{{Key: "update", Value: c}, {Key: "updates", Value: entries}})
}

func (w *world) delete(c string) bson.D {
	var entries bson.A
	for range w.between("deletes", 1, 3) {
		if w.often("many", 3) {
			e := bson.D{{Key: "q", Value: w.filter(c)}, {Key: "limit", Value: int32(0)}}
			if w.collated() {
				e = append(e, bson.E{Key: "collation", Value: w.how()})
			}
			entries = append(entries, e)
		} else {
			entries = append(entries, bson.D{{Key: "q", Value: w.one(c, w.tenant())}, {Key: "limit", Value: int32(1)}})
		}
		if !w.often("batch", 4) {
			break
		}
	}
	return w.ordered(bson.D{{Key: "delete", Value: c}, {Key: "deletes", Value: entries}})
}

func (w *world) findAndModify(c string) bson.D {
	o := w.tenant()
	d := bson.D{{Key: "findAndModify", Value: c}}
	if w.often("upsert", 1) {
		filter, update := w.upsert(c)
		return append(d, bson.E{Key: "query", Value: filter}, bson.E{Key: "update", Value: update}, bson.E{Key: "upsert", Value: true}, bson.E{Key: "new", Value: true})
	}
	add := func(key string, v any) { d = append(d, bson.E{Key: key, Value: v}) }
	if w.often("sorted", 3) {
		query := w.filter(c)
		if w.often("broad", 7) {
			query = w.broad(c)
		}
		add("query", query)
		add("sort", w.sort(true))
	} else {
		add("query", w.one(c, o))
	}
	switch {
	case w.often("remove", 3):
		add("remove", true)
	case w.often("elements", 1):
		d[1].Value = both(doc(d[1].Value), bson.D{{Key: "tags", Value: is("$type", "array")}, {Key: "tags.0", Value: is("$exists", true)}})
		add("update", is("$set", is("tags.$[tag]", "q")))
		add("arrayFilters", bson.A{is("tag", is("$ne", "x"))})
	case w.often("variables", 1):
		add("update", bson.A{is("$set", is("s", "$$becomes"))})
		add("let", is("becomes", w.s()))
	default:
		add("update", w.change(c, o, false))
	}
	if get(d, "remove") == nil && w.often("new", 5) {
		add("new", true)
	}
	if w.often("fields", 2) {
		add("fields", w.projection())
	}
	if w.often("hint", 1) {
		add("hint", is("_id", int32(1)))
	}
	return d
}

// bulkWrite is writes of two collections in one command.
func (w *world) bulkWrite(c string) bson.D {
	spaces := []string{c, w.collection()}
	var ops bson.A
	for range w.between("ops", 1, 5) {
		n := w.between("namespace", 0, 1)
		o := w.tenant()
		switch w.between("op", 0, 4) {
		case 0:
			ops = append(ops, bson.D{{Key: "insert", Value: int32(n)}, {Key: "document", Value: w.document(spaces[n], o)}})
		case 1:
			filter, many := w.one(spaces[n], o), w.often("many", 3)
			if many {
				filter = w.filter(spaces[n])
			}
			ops = append(ops, bson.D{{Key: "delete", Value: int32(n)}, {Key: "filter", Value: filter}, {Key: "multi", Value: many}})
		case 2:
			filter, update := w.upsert(spaces[n])
			ops = append(ops, bson.D{{Key: "update", Value: int32(n)}, {Key: "filter", Value: filter}, {Key: "updateMods", Value: update}, {Key: "multi", Value: false}, {Key: "upsert", Value: true}})
		default:
			many := w.often("many", 3)
			filter := w.one(spaces[n], o)
			if many {
				filter = w.filter(spaces[n])
			}
			mods := w.change(spaces[n], o, many)
			ops = append(ops, bson.D{{Key: "update", Value: int32(n)}, {Key: "filter", Value: filter}, {Key: "updateMods", Value: mods}, {Key: "multi", Value: many}})
		}
	}
	if w.often("elements", 2) {
		e := w.positional(spaces[0], w.tenant())
		op := bson.D{{Key: "update", Value: int32(0)}, {Key: "filter", Value: e[0].Value}, {Key: "updateMods", Value: e[1].Value}, {Key: "multi", Value: false}}
		ops = append(ops, append(op, e[2:]...))
	}
	info := bson.A{is("ns", "$db."+spaces[0]), is("ns", "$db."+spaces[1])}
	if spaces[0] == spaces[1] {
		info = bson.A{info[0]}
		for _, op := range ops {
			op.(bson.D)[0].Value = int32(0)
		}
	}
	d := w.ordered(bson.D{{Key: "bulkWrite", Value: int32(1)}, {Key: "ops", Value: ops}, {Key: "nsInfo", Value: info}})
	if w.often("errors only", 2) {
		d = append(d, bson.E{Key: "errorsOnly", Value: true})
	}
	return d
}

// transactions are one, or two whose commands come mixed with each other's.
func (w *world) transactions() []Line {
	out := w.transaction(1)
	if !w.often("two", 3) {
		return out
	}
	var mixed []Line
	for other := w.transaction(2); len(out)+len(other) > 0; {
		if len(other) == 0 || len(out) > 0 && w.often("first", 5) {
			mixed, out = append(mixed, out[0]), out[1:]
		} else {
			mixed, other = append(mixed, other[0]), other[1:]
		}
	}
	return mixed
}

func (w *world) transaction(session int) []Line {
	var out []Line
	add := func(command bson.D) { out = append(out, Line{Session: session, Txn: true, Command: command}) }
	o := w.tenant() // most transactions are one tenant's
	for range w.between("commands", 1, 4) {
		c := w.collection()
		switch w.between("command", 0, 11) {
		case 8:
			add(w.aggregate(c))
		case 9:
			add(w.distinct(c))
		case 10:
			add(slices.DeleteFunc(w.bulkWrite(c), func(e bson.E) bool { return e.Key == "ordered" })) // the test server goes on where a server ends
		case 11:
			out = append(out, w.cursorIn(session, c)...)
		case 0, 1:
			add(insert(c, w.batch(c, o, 2)))
		case 2:
			add(bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{
				bson.D{{Key: "q", Value: w.one(c, o)}, {Key: "u", Value: w.change(c, o, false)}},
			}}})
		case 3:
			add(w.update(c))
		case 4:
			add(w.delete(c))
		case 5:
			add(w.findAndModify(c))
		case 6:
			add(bson.D{{Key: "find", Value: c}, {Key: "filter", Value: is(tenantField(c), w.spell(o.id))}})
		case 7:
			add(w.find(c))
		}
		if w.often("aside", 2) {
			out = append(out, Line{Command: draw(w, "read", w.find, w.find, w.aggregate, w.count, w.distinct)(c)})
		}
	}
	end := draw(w, "end", "commitTransaction", "commitTransaction", "abortTransaction")
	add(bson.D{{Key: end, Value: int32(1)}})
	return out
}

// cursorIn reads a result in several batches within a transaction.
func (w *world) cursorIn(session int, c string) []Line {
	title := fmt.Sprint("c", w.between("cursor", 1, 1<<20))
	find := bson.D{{Key: "find", Value: c}, {Key: "filter", Value: w.filter(c)}, {Key: "batchSize", Value: int32(w.between("batch", 1, 2))}}
	out := []Line{{Session: session, Txn: true, Cursor: title, Command: find}}
	for range w.between("more", 1, 2) {
		out = append(out, Line{Session: session, Txn: true, Command: bson.D{{Key: "getMore", Value: title}, {Key: "collection", Value: c}}})
	}
	return out
}
