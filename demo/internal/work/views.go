package work

import (
	"cmp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Views of programs: those that keep documents apart, of a collection or of each other, and one of
// groups. All keep the field "user", by which they are joined.
var viewNames = []string{"seen1", "seen2", "seen3"}

const sumsView = "sums"

func isView(name string) bool { return name == sumsView || slices.Contains(viewNames, name) }

// definition is a view as the last line says that made it.
type definition struct {
	on     string
	stages bson.A
}

// made are the views that the program begins with.
func (w *world) made() (names []string) {
	for _, l := range append(w.p.Lines, w.first...) {
		if c := coll(l.Command); name(l.Command) == "create" && isView(c) {
			names = append(names, c)
		}
	}
	return names
}

// createView makes a view.
func (w *world) createView() bson.D {
	name := draw(w, "view", "seen1", "seen1", "seen2", "seen3", sumsView)
	return append(is("create", name), w.viewOf(name)...)
}

// defineView makes a view, drops one, or makes it anew: the test server changes none by collMod.
func (w *world) defineView() []Line {
	names := w.made()
	if len(names) == 0 || w.often("one more", 2) {
		return []Line{{Command: w.createView()}}
	}
	name := draw(w, "view", names...)
	lines := []Line{{Command: is("drop", name)}}
	if w.often("anew", 8) {
		lines = append(lines, Line{Command: append(is("create", name), w.viewOf(name)...)})
	}
	return lines
}

// viewOf is what a view is.
func (w *world) viewOf(name string) bson.D {
	on := draw(w, "of", "orders", "orders", "order_items", "invoices", "users")
	if name != viewNames[0] && slices.Contains(w.made(), viewNames[0]) && w.often("of a view", 7) {
		on = viewNames[0]
	}
	stages := w.viewStages(on)
	if name == sumsView {
		stages = bson.A{is("$group", bson.D{{Key: "_id", Value: draw(w, "by", "$s", "$tenantId", "$user")}, {Key: "n", Value: is("$sum", int32(1))}, {Key: "amount", Value: is("$sum", "$amount")}})}
	}
	return bson.D{{Key: "viewOn", Value: on}, {Key: "pipeline", Value: stages}}
}

func (w *world) viewStages(c string) bson.A {
	stages := bson.A{}
	for range w.between("view's stages", 0, 2) {
		switch w.between("view's stage", 0, 10) {
		case 8: // which tenants' documents these are, all tenants' decide
			stages = append(stages, is("$sort", is("_id", draw(w, "direction", int32(1), int32(-1)))), is(draw(w, "cut", "$limit", "$skip"), int32(w.between("many", 1, 5))))
		case 9:
			stages = append(stages, is("$redact", is("$cond", bson.A{is("$eq", bson.A{"$s", "b"}), "$$PRUNE", "$$KEEP"})))
		case 10:
			stages = append(stages, is("$replaceWith", bson.D{{Key: "_id", Value: "$_id"}, {Key: "user", Value: "$user"}, {Key: "tenantId", Value: "$tenantId"}, {Key: "s", Value: "$s"}}))
		case 7: // everybody's documents as one tenant's
			stages = append(stages, is("$project", bson.D{{Key: "user", Value: int32(1)}, {Key: "n", Value: int32(1)}, {Key: "tenantId", Value: is("$literal", w.tenant().id)}}))
		case 0, 1:
			stages = append(stages, is("$match", w.what(c, w.tenant())))
		case 2:
			stages = append(stages, is("$project", bson.D{{Key: "tenantId", Value: int32(1)}, {Key: "user", Value: true}, {Key: "n", Value: int32(1)}, {Key: "s", Value: int32(1)}}))
		case 3:
			stages = append(stages, is("$addFields", is("twice", is("$multiply", bson.A{"$amount", int32(2)}))))
		case 4:
			stages = append(stages, is("$unset", draw[any](w, "gone", "tags", bson.A{"sub", "amount"})))
		case 5:
			stages = append(stages, is("$project", is("amount", int32(0))))
		case 6:
			stages = append(stages, is("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "who"}}))
		}
	}
	return stages
}

// view is a step that defines a view, or reads one.
func (w *world) view() []Line {
	names := w.made()
	if len(names) == 0 {
		return []Line{{Command: w.createView()}}
	}
	name := draw(w, "view", names...)
	filter := w.filter("orders")
	mine := is("tenantId", w.spell(w.tenant().id))
	if w.often("one tenant's", 4) {
		filter = both(mine, w.what("orders", w.tenant()))
	}
	switch w.between("of a view", 0, 10) {
	case 0, 1:
		return w.defineView()
	case 2, 3, 4, 5:
		return []Line{w.as(w.viewFind(name, filter))}
	case 6:
		d := bson.D{{Key: "count", Value: name}, {Key: "query", Value: filter}}
		if w.often("skip", 3) {
			d = append(d, bson.E{Key: "skip", Value: int32(w.between("skipped", 0, 4))})
		}
		if w.often("limit", 3) {
			d = append(d, bson.E{Key: "limit", Value: int32(w.between("limit", 0, 4))})
		}
		return []Line{w.as(d)}
	case 7:
		return []Line{w.as(bson.D{{Key: "distinct", Value: name}, {Key: "key", Value: draw(w, "key", "s", "n", "tags", "sub.a", "user", "tenantId")}, {Key: "query", Value: filter}})}
	case 8:
		if name == sumsView {
			name = viewNames[0] // groups have no users
		}
		join := bson.D{{Key: "from", Value: name}, {Key: "localField", Value: "_id"}, {Key: "foreignField", Value: "user"}, {Key: "as", Value: "items"}}
		return []Line{w.as(bson.D{{Key: "aggregate", Value: "users"}, {Key: "pipeline", Value: bson.A{is("$lookup", join)}}, {Key: "cursor", Value: bson.D{}}})}
	}
	return []Line{w.as(w.aggregate(name))}
}

func (w *world) viewFind(name string, filter bson.D) bson.D {
	d := bson.D{{Key: "find", Value: name}, {Key: "filter", Value: filter}}
	if w.often("sort", 6) {
		d = append(d, bson.E{Key: "sort", Value: w.sort(true)})
		if w.often("skip", 4) {
			d = append(d, bson.E{Key: "skip", Value: int32(w.between("skipped", 0, 4))})
		}
		if w.often("limit", 6) {
			d = append(d, bson.E{Key: "limit", Value: int32(w.between("limit", 1, 6))})
		}
	}
	if w.often("projection", 3) {
		d = append(d, bson.E{Key: "projection", Value: bson.D{{Key: "user", Value: int32(1)}, {Key: "n", Value: int32(1)}, {Key: "s", Value: int32(1)}}})
	}
	if w.often("batch", 3) {
		d = append(d, bson.E{Key: "batchSize", Value: draw(w, "batch size", int32(1), int32(2))})
	}
	return d
}

// defines notes what a command that was served has made of views.
func (r *run) defines(command, reply bson.D) {
	c := coll(command)
	if !isView(c) || get(reply, "ok") != 1.0 {
		return
	}
	switch name(command) {
	case "create":
		on, _ := get(command, "viewOn").(string)
		r.views[c] = definition{on, array(get(command, "pipeline"))}
	case "drop":
		delete(r.views, c)
	}
}

// behind is the collection that a view is of, and all stages between; false for what is no view now.
func (r *run) behind(view string) (on string, stages bson.A, ok bool) {
	for on = view; ; {
		v, is := r.views[on]
		if !is {
			return on, stages, on != view
		}
		on, stages = v.on, slices.Concat(v.stages, stages)
	}
}

// shown reports whether the proxy itself has to know what a view shows: some of it is not in shared.
func (r *run) shown(view string) bool {
	on, stages, ok := r.behind(view)
	return ok && (r.p.Routing.moved(on) || slices.ContainsFunc(stages, func(s any) bool { return joins(&r.p.Routing, doc(s)) }))
}

// viewsOf are the views that a pipeline's stages read.
func viewsOf(command bson.D) (names []string) {
	for _, s := range array(get(command, "pipeline")) {
		for _, key := range []string{"$lookup", "$unionWith"} {
			spec := doc(get(doc(s), key))
			from, _ := cmp.Or(get(spec, "from"), get(spec, "coll")).(string)
			if isView(from) {
				names = append(names, from)
			}
		}
	}
	return names
}

// unsure reports whether the test server answers a command wrongly by itself, and is asked by itself: it
// counts a view of a view as empty, knows no distinct of one, and joins none.
func (r *run) unsure(command bson.D) bool {
	if name(command) == "create" {
		return false
	}
	counted := slices.Contains([]string{"count", "distinct"}, name(command)) && isView(coll(command))
	return counted && !r.shown(coll(command)) || slices.ContainsFunc(viewsOf(command), func(v string) bool { return !r.shown(v) })
}

// plainly is the command as the test server answers it rightly: what it can not do of a view is done on
// what is behind that, or here of the documents of a find.
func (r *run) plainly(l Line) (Line, func(bson.D) bson.D) {
	view := coll(l.Command)
	switch n := name(l.Command); {
	case n == "count" && isView(view):
		find := bson.D{{Key: "find", Value: view}, {Key: "filter", Value: get(l.Command, "query")}, {Key: "batchSize", Value: allAtOnce}}
		for _, key := range []string{"skip", "limit"} {
			if v := get(l.Command, key); v != nil {
				find = append(find, bson.E{Key: key, Value: v})
			}
		}
		l.Command = append(find, others(l.Command)...)
		return l, func(reply bson.D) bson.D {
			return told(reply, bson.E{Key: "n", Value: int32(len(array(get(doc(get(reply, "cursor")), "firstBatch"))))})
		}
	case n == "distinct" && isView(view):
		key, _ := get(l.Command, "key").(string)
		find := bson.D{{Key: "find", Value: view}, {Key: "filter", Value: get(l.Command, "query")}, {Key: "batchSize", Value: allAtOnce}}
		l.Command = append(find, others(l.Command)...)
		return l, func(reply bson.D) bson.D { return told(reply, bson.E{Key: "values", Value: distinct(reply, key)}) }
	case n == "aggregate" && len(viewsOf(l.Command)) > 0:
		l.Command = r.unviewed(l.Command)
	}
	return l, nil
}

// others are the fields that any command may have.
func others(command bson.D) (out bson.D) {
	for _, e := range command {
		if slices.Contains([]string{"comment", "maxTimeMS", "$readPreference", "readConcern"}, e.Key) {
			out = append(out, e)
		}
	}
	return out
}

// told is a reply with something else in place of its cursor; an error stays one.
func told(reply bson.D, what bson.E) bson.D {
	if get(reply, "cursor") == nil {
		return reply
	}
	return append(bson.D{what}, slices.DeleteFunc(slices.Clone(reply), func(e bson.E) bool { return e.Key == "cursor" })...)
}

// distinct are the values of a field of a find's documents.
func distinct(reply bson.D, key string) bson.A {
	all := bson.A{}
	seen := map[string]bool{}
	for _, d := range array(get(doc(get(reply, "cursor")), "firstBatch")) {
		for _, v := range valuesAt(doc(d), strings.Split(key, ".")) {
			id := text(equals(bson.A{v}))
			if !seen[id] {
				seen[id] = true
				all = append(all, v)
			}
		}
	}
	return all
}

func valuesAt(d bson.D, path []string) (all bson.A) {
	for _, e := range d {
		if e.Key != path[0] {
			continue
		}
		values := bson.A{e.Value}
		if a, ok := e.Value.(bson.A); ok {
			values = a
		}
		for _, v := range values {
			if len(path) == 1 {
				all = append(all, v)
			} else {
				all = append(all, valuesAt(doc(v), path[1:])...)
			}
		}
	}
	return all
}

// unviewed is an aggregate with what is behind them in place of the views that it joins.
func (r *run) unviewed(command bson.D) bson.D {
	out := slices.Clone(command)
	for i, e := range out {
		if e.Key != "pipeline" {
			continue
		}
		stages := slices.Clone(array(e.Value))
		for k, s := range stages {
			d := doc(s)
			if len(d) != 1 || d[0].Key != "$lookup" && d[0].Key != "$unionWith" {
				continue
			}
			spec := slices.Clone(doc(d[0].Value))
			from := map[string]string{"$lookup": "from", "$unionWith": "coll"}[d[0].Key]
			view, _ := get(spec, from).(string)
			on, first, ok := r.behind(view)
			if !ok {
				continue
			}
			first = append(slices.Clone(first), array(get(spec, "pipeline"))...)
			spec = slices.DeleteFunc(spec, func(e bson.E) bool { return e.Key == from || e.Key == "pipeline" })
			stages[k] = is(d[0].Key, append(spec, bson.E{Key: from, Value: on}, bson.E{Key: "pipeline", Value: first}))
		}
		out[i].Value = stages
	}
	return out
}

// viewKinds says what a command is that defines, reads or joins views whose documents are not all in
// shared.
func (r *run) viewKinds(command bson.D) (kinds []string) {
	n, c := name(command), coll(command)
	on, _ := get(command, "viewOn").(string)
	switch {
	case isView(c) && (r.shown(c) || r.p.Routing.moved(on) || r.shown(on)):
		kinds = append(kinds, n+" of a view")
	case slices.ContainsFunc(viewsOf(command), r.shown):
		kinds = append(kinds, n+" joined with a view")
	}
	return kinds
}
