package work

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"
)

// Draw makes programs. What it never makes is what docs/differences.md lists: one _id in two
// homes, joins of one tenant's documents with another's, unique indexes without the tenant field;
// and what servers leave open, such as which of several documents an update of one chooses.
func Draw() *rapid.Generator[*Program] {
	return rapid.Custom(func(t *rapid.T) *Program {
		w := &world{r: t, p: &Program{Routing: drawRouting(t)}}
		w.p.Lines = append(w.p.Lines, w.definitions()...)
		w.p.Lines = append(w.p.Lines, w.seed()...)
		w.p.Lines = append(w.p.Lines, w.met()...)
		w.p.Lines = append(w.p.Lines, w.leftovers()...)
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) []Line {
			return (&world{r: t, p: w.p}).step()
		}), 10, 45).Draw(t, "steps")
		for _, s := range steps {
			w.p.Lines = append(w.p.Lines, s...)
		}
		w.p.Lines = oneMade(w.p.Lines)
		return w.p
	})
}

// oneMade leaves a program one write only for which a server may have to make an _id: which of two that
// different servers have made is the lower one, nobody can say.
func oneMade(lines []Line) []Line {
	made := 0
	return slices.DeleteFunc(lines, func(l Line) bool {
		if !makesID(l.Command) {
			return false
		}
		made++
		return made > 1
	})
}

func makesID(command bson.D) bool {
	entries := append(bson.A{command}, array(get(command, batches[name(command)]))...)
	return slices.ContainsFunc(entries, func(v any) bool {
		e := doc(v)
		text := text(get(e, "q")) + text(get(e, "query")) + text(get(e, "filter"))
		return get(e, "upsert") == true && !strings.Contains(text, `"_id"`)
	})
}

// world is a program that is being drawn.
type world struct {
	r     *rapid.T
	p     *Program
	first []Line // definitions, while they are drawn
}

// owner is one whose documents there are: a tenant of the configuration, one that it does not
// list, or nobody.
type owner struct {
	prefix string // of its _ids, which no other has
	id     any    // nil: documents without the tenant field
	listed bool
}

var (
	tenantIDs = []any{"acme", "globex", int32(42), mustID("65a000000000000000000001"), "initech"}
	homes     = []string{"home", "shared", "big"}
)

func mustID(hex string) bson.ObjectID {
	id, err := bson.ObjectIDFromHex(hex)
	if err != nil {
		panic(err)
	}
	return id
}

func drawRouting(t *rapid.T) Routing {
	r := Routing{
		Mode:     rapid.SampledFrom([]string{"mixed", "mixed", "mixed", "mixed", "forced", "disabled"}).Draw(t, "mode"),
		Control:  rapid.IntRange(0, 1<<30).Draw(t, "routes")%40 == 7, // takes a proxy of its own
		Sections: rapid.Bool().Draw(t, "sections"),
	}
	if r.Mode != "disabled" {
		r.Without = draw(&world{r: t}, "without a tenant", "", "", "", "", "", "", "", "", "shared", "reject")
	}
	n := rapid.IntRange(2, 4).Draw(t, "tenants")
	clusters := rapid.SampledFrom([][]string{homes, homes[:2], homes[:2]}).Draw(t, "clusters")
	for i, id := range rapid.Permutation(tenantIDs).Draw(t, "ids")[:n] {
		tn := Tenant{Key: fmt.Sprint("t", i), ID: id, Home: rapid.SampledFrom(clusters).Draw(t, "home")}
		if s, ok := id.(string); ok {
			tn.Key = s
		}
		if tn.Home != "shared" && rapid.IntRange(0, 2).Draw(t, "partly") == 0 {
			tn.Modules = []string{rapid.SampledFrom([]string{"orders", "accounting", "projects"}).Draw(t, "module")}
		}
		r.Tenants = append(r.Tenants, tn)
	}
	return r
}

func draw[T any](w *world, what string, from ...T) T { return from[w.between(what, 0, len(from)-1)] }

// between draws evenly, where rapid itself prefers the small.
func (w *world) between(what string, from, to int) int {
	const odd = 0x9e3779b97f4a7c15
	return from + int(rapid.Uint64().Draw(w.r, what)*odd>>33)%(to-from+1)
}

// often is true in n of 10 cases.
func (w *world) often(what string, n int) bool { return w.between(what, 0, 9) >= 10-n }

func (w *world) owners() []owner {
	var out []owner
	for _, t := range w.p.Routing.Tenants {
		out = append(out, owner{t.Key, t.ID, true})
	}
	return append(out, owner{"stranger", "stranger", false}, owner{"none", nil, false})
}

func (w *world) tenant() owner {
	if w.often("unlisted", 1) {
		o := draw(w, "owner", w.owners()...)
		if o.prefix == "stranger" { // of whatever type
			o.id = draw[any](w, "stranger", o.id, o.id, "", "ACME", "A-cme", true, 1.5, int64(43), bson.DateTime(86400000))
		}
		return o
	}
	return draw(w, "tenant", w.owners()[:len(w.p.Routing.Tenants)]...)
}

func (w *world) collection() string {
	return draw(w, "collection", "orders", "orders", "orders", "order_items", "invoices", "tasks", "users", "notes")
}

const idsEach = 4 // that one owner's documents of a collection may have

// id is one of the owner's _ids. Their types differ from owner to owner, so that orders over all
// tenants are those of types too.
func (w *world) id(o owner) any { return idOf(o, w.between("id", 1, idsEach)) }

func idOf(o owner, n int) any {
	switch o.id.(type) {
	case int32:
		return int32(4200 + n)
	case bson.ObjectID:
		return mustID(fmt.Sprintf("65b00000000000000000000%d", n))
	}
	return fmt.Sprintf("%s-%d", o.prefix, n)
}

// spell gives the tenant's value, numbers in any of their types.
func (w *world) spell(v any) any {
	n, ok := v.(int32)
	if !ok {
		return v
	}
	return draw[any](w, "spelling", n, n, n, n, int64(n), int64(n), float64(n), float64(n), decimal(n))
}

// owned adds the tenant field to a document.
func (w *world) owned(d bson.D, c string, o owner) bson.D {
	switch {
	case c == "users":
		return d
	case o.id == nil:
		if w.often("null", 3) && c != "tasks" {
			return append(d, bson.E{Key: "tenantId", Value: nil})
		}
		return d
	case c == "tasks":
		return append(d, bson.E{Key: "company", Value: bson.D{{Key: "id", Value: w.spell(o.id)}, {Key: "city", Value: draw(w, "city", "Bern", "Wien")}}})
	}
	return append(d, bson.E{Key: "tenantId", Value: w.spell(o.id)})
}

// value of the field n, which has every type that sorts differently.
func (w *world) n() any {
	if w.often("odd", 2) {
		return draw[any](w, "n", nil, "1", 1.5, int64(2), true, bson.D{{Key: "a", Value: int32(1)}})
	}
	return int32(w.between("n", -1, 4))
}

func (w *world) s() string { return draw(w, "s", "a", "A", "b", "ä", "") }

func (w *world) tags() bson.A {
	out := bson.A{}
	for range w.between("tags", 0, 2) {
		out = append(out, draw(w, "tag", "x", "y", "z"))
	}
	return out
}

// amount is a number that sums up without an error, in whatever order.
func (w *world) amount() any {
	n := w.between("amount", -3, 6)
	return draw[any](w, "type", int32(n), float64(n)/2, int64(n))
}

func (w *world) document(c string, o owner) bson.D {
	d := bson.D{{Key: "_id", Value: w.id(o)}}
	if c == "users" {
		d[0].Value = fmt.Sprint("u", w.between("user", 1, 4))
	}
	d = w.owned(d, c, o)
	return append(d, w.fields(c, o)...)
}

// fields are those beside _id and the tenant's.
func (w *world) fields(c string, o owner) bson.D {
	var d bson.D
	add := func(key string, v any) { d = append(d, bson.E{Key: key, Value: v}) }
	if !w.often("no n", 1) {
		add("n", w.n())
	}
	add("s", w.s())
	add("amount", w.amount())
	if w.often("tags", 5) {
		add("tags", w.tags())
	}
	if w.often("sub", 4) {
		add("sub", bson.D{{Key: "a", Value: int32(w.between("a", 0, 2))}})
	}
	add("user", fmt.Sprint("u", w.between("user", 1, 4)))
	if c == "order_items" {
		add("order", w.id(o))
	}
	return d
}

// batch is documents of one owner with different _ids, but for a rare slip.
func (w *world) batch(c string, o owner, most int) bson.A {
	var out bson.A
	seen := map[string]bool{}
	for range w.between("documents", 1, most) {
		d := w.document(c, o)
		id := text(d[0].Value)
		if seen[id] && !w.often("twice", 2) {
			continue
		}
		seen[id] = true
		out = append(out, d)
	}
	return out
}

func insert(c string, docs bson.A) bson.D {
	return bson.D{{Key: "insert", Value: c}, {Key: "documents", Value: docs}}
}

// seed is the documents that a program begins with.
func (w *world) seed() []Line {
	var out []Line
	for _, c := range []string{"orders", "order_items", "invoices", "tasks", "users"} {
		if !w.often("seed "+c, 7) {
			continue
		}
		for _, o := range w.owners() {
			if c == "users" && o.listed || !w.often("seed of "+o.prefix, 8) {
				continue
			}
			out = append(out, Line{Command: insert(c, w.batch(c, o, idsEach))})
			if c == "users" {
				break
			}
		}
	}
	return out
}

// met names each tenant once, so that it has been flipped before a transaction is open: a flip waits
// for those to end.
func (w *world) met() []Line {
	var out []Line
	for _, o := range w.owners() {
		if w.p.Routing.Control && o.listed {
			out = append(out, Line{Command: bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: is("tenantId", o.id)}}})
		}
	}
	return out
}

// leftovers are what moves have left in shared of isolated tenants, changed since.
func (w *world) leftovers() []Line {
	var out []Line
	if !w.often("leftovers", 4) {
		return nil
	}
	for _, m := range modules {
		for _, c := range m.collections {
			var docs bson.A
			for i := range w.p.Routing.Tenants {
				t, o := &w.p.Routing.Tenants[i], w.owners()[i]
				if !w.p.Routing.separate(t, c) {
					continue
				}
				for n := range w.between("left", 0, 3) {
					d := w.owned(bson.D{{Key: "_id", Value: idOf(o, n+1)}}, c, o)
					// No unique index is met by the amount, and no validator by the letter.
					docs = append(docs, append(d,
						bson.E{Key: "n", Value: w.n()}, bson.E{Key: "s", Value: "a"}, bson.E{Key: "amount", Value: int32(1000 + n)},
						bson.E{Key: "tags", Value: bson.A{"x"}}, bson.E{Key: "user", Value: "u1"}, bson.E{Key: "order", Value: idOf(o, 1)}))
				}
			}
			if len(docs) > 0 {
				out = append(out, Line{Left: true, Command: insert(c, docs)})
			}
		}
	}
	return out
}

// definitions come first, since a unique index is refused where the documents are not.
func (w *world) definitions() []Line {
	var out []Line
	for range w.between("views", 0, 3) {
		if w.p.Routing.Without == "" { // what a view shows then is more than can be told here
			w.first = append(w.first, Line{Command: w.createView()})
		}
	}
	out = append(out, w.first...)
	w.first = nil
	for range w.between("definitions", 0, 3) {
		c := w.collection()
		if w.often("create", 3) {
			out = append(out, Line{Command: w.create(c)})
			continue
		}
		out = append(out, Line{Command: w.createIndexes(c, true)})
	}
	return out
}

func (w *world) create(c string) bson.D {
	d := bson.D{{Key: "create", Value: c}}
	if w.often("validator", 5) {
		d = append(d, bson.E{Key: "validator", Value: draw(w, "validator",
			is("s", is("$ne", "b")), is("s", is("$ne", "b")), is(tenantField(c), is("$ne", "stranger")),
			is("$jsonSchema", bson.D{{Key: "required", Value: bson.A{"_id", "user"}}}))})
	}
	return d
}

func (w *world) createIndexes(c string, mayBeUnique bool) bson.D {
	specs := bson.A{w.index(c, mayBeUnique)}
	// The test server keeps the first index where the second is refused, a server none: so these
	// two agree.
	if other := w.index(c, mayBeUnique); get(other, "name") != get(specs[0].(bson.D), "name") {
		specs = append(specs, other)
	}
	return bson.D{{Key: "createIndexes", Value: c}, {Key: "indexes", Value: specs}}
}

func (w *world) index(c string, mayBeUnique bool) bson.D {
	by := func(keys ...string) (key bson.D) {
		for _, k := range keys {
			key = append(key, bson.E{Key: k, Value: draw(w, "direction", int32(1), int32(-1))})
		}
		return key
	}
	f := tenantField(c)
	key := draw(w, "key", by("n"), by("s", "n"), by(f, "n"), by(f), by("tags"))
	unique := mayBeUnique && w.often("unique", 3)
	if unique {
		key = by(f, "s", "amount")
	}
	title := ""
	for _, e := range key {
		title += fmt.Sprint(e.Key, "_", e.Value, "_")
	}
	// One name has one definition only.
	spec := bson.D{{Key: "key", Value: key}, {Key: "name", Value: title}}
	if unique {
		return append(spec, bson.E{Key: "unique", Value: true})
	}
	if key[0].Key == "tags" {
		return append(spec, bson.E{Key: "sparse", Value: true})
	}
	return spec
}

// as puts a command into a session of its own, or into none.
func (w *world) as(command bson.D) Line {
	l := Line{Command: w.with(command)}
	if n := w.between("session", 0, 4); n > 0 && n < 3 {
		l.Session = n
	}
	if !slices.Contains([]string{"insert", "update", "delete", "findAndModify"}, name(command)) || l.Session == 0 || isMany(command) {
		return l
	}
	if l.Number = w.often("number", 5); l.Number {
		l.Again = w.often("again", 4) && (writes(command) <= 1 || repeatable(command)) && !strings.Contains(text(command), `"upsert"`) &&
			get(l.Command, "maxTimeMS") == nil // of which less is left the second time: the test server would not know it again
	}
	return l
}

// repeatable reports whether a batch comes to the same done once more, in parts too: its writes are
// of different documents, and none tells the one before. The test server knows a command again by all
// of its bytes, where a server knows each write by its number; so an upsert, which the proxy sends
// otherwise when its document exists, is done anew there.
func repeatable(command bson.D) bool {
	seen := map[string]bool{}
	for _, v := range array(get(command, batches[name(command)])) {
		e := doc(v)
		if u := doc(get(e, "u")); len(u) > 0 && u[0].Key != "$set" || get(e, "upsert") == true {
			return false
		}
		if _, pipeline := get(e, "u").(bson.A); pipeline {
			return false
		}
		id := plainID(get(e, "_id")) + plainID(get(doc(get(e, "q")), "_id"))
		if seen[id] {
			return false
		}
		seen[id] = true
	}
	return true
}

// with adds fields that any command may have.
func (w *world) with(command bson.D) bson.D {
	if w.often("comment's tenant", 1) && mayNarrow(command) {
		tenant := is("tenantry", is("tenant", w.spell(w.tenant().id)))
		return append(command, bson.E{Key: "comment", Value: tenant})
	}
	if !w.often("further field", 1) {
		return command
	}
	more := []bson.E{
		{Key: "comment", Value: "words"},
		{Key: "maxTimeMS", Value: int32(20000)},
		{Key: "$readPreference", Value: is("mode", "primaryPreferred")},
	}
	switch name(command) {
	case "insert", "update", "findAndModify":
		more = append(more, bson.E{Key: "bypassDocumentValidation", Value: true})
		fallthrough
	case "delete":
		more = append(more, bson.E{Key: "writeConcern", Value: is("w", "majority")})
	case "find", "aggregate", "count", "distinct":
		more = append(more, bson.E{Key: "readConcern", Value: is("level", draw(w, "level", "local", "majority", "available"))})
	}
	if name(command) == "aggregate" {
		more = append(more, bson.E{Key: "allowDiskUse", Value: true})
	}
	return append(command, draw(w, "field", more...))
}

// mayNarrow reports whether a command with a tenant in its comment is the same as one that asks for
// the tenant by its filters.
func mayNarrow(command bson.D) bool {
	text := text(command)
	switch name(command) {
	case "find", "count", "distinct", "update", "delete", "findAndModify", "aggregate":
		return moduleOf(coll(command)) != "" && !strings.Contains(text, `"upsert"`) &&
			!strings.Contains(text, "ookup\"") && !strings.Contains(text, "$unionWith") &&
			!strings.Contains(text, "$no") // of which the test server knows when it meets a document
	}
	return false
}

// isMany reports whether a command has a write of many documents, which carries no number.
func isMany(command bson.D) bool {
	for _, e := range array(get(command, name(command)+"s")) {
		if get(doc(e), "multi") == true || get(doc(e), "limit") == int32(0) {
			return true
		}
	}
	return false
}

// step is one command or a few that belong together.
func (w *world) step() []Line {
	c := w.collection()
	one := func(of func(string) bson.D) []Line { return []Line{w.as(of(c))} }
	switch w.between("step", 0, 40) {
	case 34, 35, 36:
		return one(w.aggregate)
	case 37:
		return w.aside(c)
	case 38:
		return []Line{w.unheard(c)}
	case 39:
		return one(w.explained)
	case 40:
		return one(w.find)
	case 30, 31, 32, 33:
		if w.p.Routing.Without == "" {
			return w.view()
		}
		return one(w.find)
	case 27, 28:
		return one(w.page)
	case 29:
		return w.given(c)
	case 25, 26:
		return one(w.bulkWrite)
	case 21, 22, 23, 24:
		return one(w.aggregate)
	case 20:
		return w.loadAndSave(c)
	case 0, 1, 2:
		return one(w.find)
	case 3:
		return one(w.count)
	case 4:
		return one(w.distinct)
	case 5, 6, 7:
		return one(w.insert)
	case 8, 9, 10:
		return one(w.update)
	case 11, 12:
		return one(w.delete)
	case 13, 14:
		return one(w.findAndModify)
	case 15:
		return one(w.aggregate)
	case 16:
		return w.cursor(c)
	case 17:
		return w.definition(c)
	case 18:
		return w.wrong(c)
	}
	return w.transactions()
}

// aside is a command that programs send more seldom.
func (w *world) aside(c string) []Line {
	switch w.between("aside", 0, 5) {
	case 0:
		return []Line{{Command: w.documents()}}
	case 1:
		return []Line{{Command: w.store(c)}}
	case 2:
		return []Line{w.as(w.bounded(c))}
	case 3:
		return []Line{w.as(w.aggregateWith(c))}
	case 4:
		return w.sessions()
	}
	return []Line{{Command: w.figures(c)}}
}

// given is a document that changes hands as applications do it, deleted here and inserted there, and is
// saved by its _id: where it was seen last it is no more.
func (w *world) given(c string) []Line {
	if w.p.Routing.Without != "" {
		return []Line{w.as(w.page(c))} // it would not be found where it is deleted
	}
	if moduleOf(c) == "" {
		c = "orders"
	}
	id := fmt.Sprint("given-", w.between("given", 1, 2)) // nobody else's, so that one home has it at most
	by := is("_id", id)
	find := bson.D{{Key: "find", Value: c}, {Key: "filter", Value: by}, {Key: "limit", Value: int32(1)}}
	var out []Line
	add := func(command bson.D) {
		// Without a number, by which the test server would take the write where it is now for the one where
		// it was: it knows a command again by its bytes, whatever database it is for.
		l := w.as(command)
		l.Number, l.Again = false, false
		out = append(out, l)
	}
	for range w.between("hands", 1, 3) {
		o := w.tenant()
		d := w.document(c, o)
		d[0].Value = id
		gone := bson.D{{Key: "q", Value: by}, {Key: "limit", Value: int32(1)}}
		out = append(out, Line{Command: bson.D{{Key: "delete", Value: c}, {Key: "deletes", Value: bson.A{gone}}}}, Line{Command: insert(c, bson.A{d})})
		for range w.between("uses", 0, 2) {
			switch w.between("use", 0, 3) {
			case 0:
				add(find)
			case 1:
				add(bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: by}, {Key: "u", Value: is("$inc", is("amount", int32(1)))}}}}})
			case 2:
				add(bson.D{{Key: "findAndModify", Value: c}, {Key: "query", Value: by}, {Key: "update", Value: is("$set", w.fields(c, o))}, {Key: "new", Value: true}})
			case 3:
				add(bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: by}, {Key: "u", Value: w.change(c, o, false)}}}}})
			}
		}
	}
	return out
}

// wrong is a command that a server refuses, or is told what it does not know.
func (w *world) wrong(c string) []Line {
	mine := is(tenantField(c), w.spell(w.tenant().id))
	command := draw(w, "mistake",
		bson.D{{Key: "find", Value: c}, {Key: "filter", Value: both(mine, is("n", is("$no", int32(1))))}},
		bson.D{{Key: "find", Value: c}, {Key: "filter", Value: mine}, {Key: "limit", Value: int32(-1)}},
		bson.D{{Key: "count", Value: c}, {Key: "query", Value: both(mine, is("$no", bson.A{}))}},
		bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: bson.A{is("$match", mine), is("$no", bson.D{})}}, {Key: "cursor", Value: bson.D{}}},
		bson.D{{Key: "aggregate", Value: c}, {Key: "pipeline", Value: bson.A{is("$match", mine)}}},
		bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: mine}, {Key: "u", Value: is("$no", is("n", int32(1)))}}}}},
		bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: mine}, {Key: "u", Value: is("$set", is("_id", "other"))}}}}},
		bson.D{{Key: "insert", Value: c}, {Key: "documents", Value: bson.A{}}},
		bson.D{{Key: "getMore", Value: int64(4711)}, {Key: "collection", Value: c}},
		bson.D{{Key: "killCursors", Value: c}, {Key: "cursors", Value: bson.A{int64(4711)}}},
		bson.D{{Key: "dropIndexes", Value: c}, {Key: "index", Value: "no_1"}},
		bson.D{{Key: "nonsense", Value: c}},
		insert(c, bson.A{append(is("_id", "array-1"), is("tenantId", bson.A{mine[0].Value})...)}),
		bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: mine}, {Key: "u", Value: is("$set", is(tenantField(c), bson.A{"x"}))}}}}},
	)
	return []Line{w.as(command)}
}

// kindOfIndex is an index that holds not all documents or not as they are, and what becomes of it.
func (w *world) kindOfIndex(c string) []Line {
	spec := draw(w, "kind",
		bson.D{{Key: "key", Value: is("amount", int32(1))}, {Key: "name", Value: "part"}, {Key: "partialFilterExpression", Value: is("n", is("$gt", int32(1)))}},
		bson.D{{Key: "key", Value: is("seen", int32(1))}, {Key: "name", Value: "seen_1"}, {Key: "expireAfterSeconds", Value: int32(3600)}},
		bson.D{{Key: "key", Value: is("sub.$**", int32(1))}, {Key: "name", Value: "wild"}},
		bson.D{{Key: "key", Value: is("user", "hashed")}, {Key: "name", Value: "user_hashed"}},
		bson.D{{Key: "key", Value: is("s", int32(1))}, {Key: "name", Value: "s_en"}, {Key: "collation", Value: collation}})
	lines := []Line{{Command: bson.D{{Key: "createIndexes", Value: c}, {Key: "indexes", Value: bson.A{spec}}}}}
	switch w.between("then", 0, 3) {
	case 0:
		lines = append(lines, Line{Command: bson.D{{Key: "dropIndexes", Value: c}, {Key: "index", Value: get(spec, "name")}}})
	case 1:
		if get(spec, "expireAfterSeconds") != nil {
			later := bson.D{{Key: "name", Value: "seen_1"}, {Key: "expireAfterSeconds", Value: int32(7200)}}
			lines = append(lines, Line{Command: bson.D{{Key: "collMod", Value: c}, {Key: "index", Value: later}}})
		}
	case 2:
		lines = append(lines, Line{Command: bson.D{{Key: "collMod", Value: c}, {Key: "validator", Value: is("s", is("$ne", "b"))}, {Key: "validationLevel", Value: draw(w, "level", "moderate", "off", "strict")}, {Key: "validationAction", Value: draw(w, "action", "warn", "error")}}})
	}
	return append(lines, Line{Command: bson.D{{Key: "listIndexes", Value: c}}})
}

// inBatches reads definitions by a cursor.
func (w *world) inBatches(c string) []Line {
	title := fmt.Sprint("c", w.between("cursor", 1, 1<<20))
	some := is("batchSize", int32(1))
	command := draw(w, "in batches",
		bson.D{{Key: "listIndexes", Value: c}, {Key: "cursor", Value: some}},
		bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "nameOnly", Value: true}, {Key: "cursor", Value: some}},
		bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: is("type", draw(w, "type", "collection", "view"))}, {Key: "cursor", Value: some}},
		bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: is("name", is("$regex", "^(o|seen)"))}, {Key: "nameOnly", Value: true}, {Key: "authorizedCollections", Value: true}})
	return []Line{{Cursor: title, Command: command}, {Command: w.find(c)}}
}

// sessions are told of, in the midst of a transaction too: ended or killed it has none any more.
func (w *world) sessions() []Line {
	n := w.between("session", 1, 2)
	of := Line{Session: n, Command: is(draw(w, "of sessions", "refreshSessions", "endSessions", "killSessions"), bson.A{"$lsid"})}
	if w.often("alone", 4) {
		return []Line{of}
	}
	lines := w.transaction(n)
	at := w.between("at", 0, len(lines)-1)
	return append(append(append([]Line{}, lines[:at]...), of), lines[at:]...)
}

// definition is one that may come late. A collection is created again only where shared has it
// already: what isolated tenants alone have, shared does not know of (docs/differences.md).
func (w *world) definition(c string) []Line {
	command := w.createIndexes(c, false)
	switch w.between("definition", 0, 13) {
	case 10:
		return w.kindOfIndex(c)
	case 11:
		return w.inBatches(c)
	case 12:
		return w.sessions()
	case 0:
		stranger := w.owners()[len(w.p.Routing.Tenants)]
		return []Line{{Command: insert(c, w.batch(c, stranger, 1))}, {Command: w.create(c)}}
	case 1, 2:
		command = bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "nameOnly", Value: true}}
	case 3:
		command = bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: bson.D{{Key: "name", Value: c}}}}
	case 4, 5:
		command = bson.D{{Key: "listIndexes", Value: c}}
	case 9: // which the documents may refuse
		command = bson.D{{Key: "createIndexes", Value: c}, {Key: "indexes", Value: bson.A{w.index(c, true)}}}
	case 7:
		command = draw(w, "rare",
			bson.D{{Key: "drop", Value: c}},
			bson.D{{Key: "collMod", Value: c}, {Key: "validator", Value: is("n", is("$ne", "never"))}},
			bson.D{{Key: "listDatabases", Value: int32(1)}, {Key: "filter", Value: is("name", "$db")}, {Key: "nameOnly", Value: true}})
	case 6:
		command = bson.D{{Key: "dropIndexes", Value: c}, {Key: "index", Value: draw[any](w, "index", "*", "n_1_", "tags_-1_", bson.D{{Key: "n", Value: int32(1)}})}}
	}
	return []Line{{Command: command}}
}
