package routing

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Watch is how a change stream is served that one server's own can not serve: of one home under
// another name, or of several homes. Those of one cluster are one stream of the whole cluster, less
// what is no home's: one order, and one resume token.
type Watch struct {
	DB, Coll string // what the client watches; without Coll a database, without DB all of them
	Own      bool   // one home, watched on the level that the client asks for
	Streams  []Stream

	t        *Table
	homes    []watched
	expanded bool // the client asks for definitions too
	simple   bool // strings are compared as bytes
}

// Stream is the part of a change stream that one cluster serves.
type Stream struct {
	Target *Target    // the home, or the cluster's "admin"
	Stages []wire.Doc // they go right behind $changeStream, before the client's
}

// watched is a home that a change stream sees.
type watched struct {
	target *Target
	names  wire.Doc // what its collections' names have to match beside the stream's; nil for any
}

// Watches reports whether the command opens a change stream.
func (r *Request) Watches() bool {
	return r.Cmd != nil && r.Cmd.Tenant.Kind == InStages && string(r.firstStage()) == "$changeStream" && !r.value(fExplain).True()
}

// ChangeStream is the pipeline of a command that opens a change stream, and the options of that.
func (r *Request) ChangeStream() (pipeline, options wire.Doc) {
	pipeline, _ = r.value(fPipeline).Array()
	it := pipeline.Iter()
	it.Next()
	d, _ := it.Value.Doc()
	it = d.Iter()
	it.Next()
	options, _ = it.Value.Doc()
	return pipeline, options
}

func (r *Request) watchOption(name string) bool {
	_, options := r.ChangeStream()
	v, _ := options.Lookup(name)
	return v.True()
}

// watch decides for a change stream of an open connection that some route touches. A filter on the
// tenant field binds it to no home: a delete's event tells no tenant.
func (t *Table) watch(r *Request, db *Database, d *Decision) *wire.Error {
	if err := r.watchable(db); err != nil {
		return err
	}
	if _, ok := r.said(); ok {
		return t.watchOne(r, d)
	}
	if t.without == Reject {
		return wire.Errorf(wire.IllegalOperation,
			"a change stream names no tenant, which without_tenant = \"reject\" does not allow; watch as a connection that is bound to one")
	}
	w := &Watch{t: t, expanded: r.watchOption("showExpandedEvents"), simple: simple(r.value(fCollation))}
	switch {
	case d.Coll != nil:
		w.DB, w.Coll = db.Name, string(r.Coll())
		for _, x := range t.holders(d.Coll) {
			w.homes = append(w.homes, watched{target: x})
		}
	case db != nil:
		w.DB = db.Name
		w.homes = w.within(db)
	default:
		for _, db := range t.databases {
			w.homes = append(w.homes, w.within(db)...)
		}
	}
	if len(w.homes) == 1 && db != nil {
		d.Action, d.Target, d.Why = Forward, db.shared, "no other database holds what it watches"
		return nil
	}
	w.plan()
	d.watches(w, "it watches every tenant")
	return nil
}

// watches has the change stream go on at the homes of what it watches.
func (d *Decision) watches(w *Watch, why string) {
	d.Action, d.Watch, d.Why = Follow, w, why
	for _, h := range w.homes {
		d.Targets = append(d.Targets, h.target)
	}
}

// watchable refuses what is no change stream of one of the three kinds, and stages that would look
// beyond it.
func (r *Request) watchable(db *Database) *wire.Error {
	whole := r.watchOption("allChangesForCluster")
	switch named := r.Value.Type == bsoncore.TypeString; {
	case r.InTxn():
		return wire.Errorf(wire.OperationNotSupportedTxn, "a change stream can not be opened in a transaction")
	case whole && (db != nil || named):
		return wire.Errorf(wire.InvalidOptions, "allChangesForCluster needs the database admin and no collection")
	case db == nil && !whole:
		return wire.Errorf(wire.InvalidNamespace, "the database %q can not be watched; for the whole cluster set allChangesForCluster", r.DB)
	}
	return r.watchStages()
}

func (r *Request) watchStages() *wire.Error {
	uses, err := r.stages()
	for i := range uses {
		switch u := &uses[i]; {
		case i == 0:
		case u.row == nil:
			return wire.Errorf(wire.UnknownStage, "unknown stage %q", u.name)
		default:
			return wire.Errorf(wire.IllegalOperation, "%s is not possible in a change stream", u.row.Name)
		}
	}
	return err
}

// watchOne decides for a change stream of the tenant that the command's comment names: where that
// has a database of its own it is a stream of it.
func (t *Table) watchOne(r *Request, d *Decision) *wire.Error {
	if d.Coll == nil {
		return wire.Errorf(wire.IllegalOperation, "a change stream of more than a collection can not be narrowed to a tenant from outside")
	}
	h := homes{t: t, coll: d.Coll, asked: r.Unlisted, begun: r.Begun}
	v, _ := r.said()
	h.value(v)
	switch {
	case h.holds:
		d.hold(t, h.held, d.Coll)
		return nil
	case h.target.Tenant == nil:
		return wire.Errorf(wire.IllegalOperation, "a pipeline that begins with $changeStream can not be narrowed to a tenant from outside")
	}
	return t.watchOwn(r, h.target, "the tenant it names", d)
}

// watchOwn decides for a change stream of one tenant's own database.
func (t *Table) watchOwn(r *Request, home *Target, why string, d *Decision) *wire.Error {
	if err := r.watchStages(); err != nil {
		return err
	}
	w := &Watch{t: t, Own: true, DB: home.Logical, Coll: string(r.Coll()), homes: []watched{{target: home}}}
	w.plan()
	*d = Decision{Tenant: home.Tenant}
	d.watches(w, why)
	return nil
}

// within are the homes in a logical database: of a tenant's own database only the collections that
// it is the home of.
func (w *Watch) within(db *Database) []watched {
	if w.t.without == ToShared {
		return []watched{{target: db.shared}}
	}
	names := map[*collectionSet]wire.Doc{}
	all := make([]watched, 0, len(db.holders))
	for _, x := range db.holders {
		if x.Tenant == nil {
			all = append(all, watched{target: x})
			continue
		}
		set := x.Tenant.set
		if names[set] == nil {
			names[set] = w.moved(db, set)
		}
		all = append(all, watched{x, names[set]})
	}
	return all
}

// name is a name to be equal to. A client's collation holds for the stages put before its own as
// well; it widens the equality of strings, but no regular expression.
func (w *Watch) name(s string) wire.Value {
	if w.simple {
		return wire.StringValue(s)
	}
	return regexValue(`\A` + quoted([]byte(s)) + `\z`)
}

// moved is the condition that the collection has moved, or the database is dropped.
func (w *Watch) moved(db *Database, set *collectionSet) wire.Doc {
	var moved, listed []wire.Value
	for _, c := range slices.SortedFunc(db.exact.all, func(a, b *Collection) int { return cmp.Compare(a.name, b.name) }) {
		v := w.name(c.name)
		listed = append(listed, v)
		if set.moved[c.num] {
			moved = append(moved, v)
		}
	}
	either := []wire.Doc{
		build(func(d []byte) []byte { return appendOneOf(d, "ns.coll", "$in", moved) }),
		build(func(d []byte) []byte { return bsoncore.AppendStringElement(d, "operationType", "dropDatabase") }),
	}
	for i, p := range db.patterns { // the longest first: what it covers is no shorter one's
		prefix := regexValue(`\A` + quoted([]byte(strings.TrimSuffix(p.name, "*"))))
		if set.moved[p.num] {
			others := slices.Clone(listed)
			either = append(either, build(func(d []byte) []byte {
				return appendDoc(d, "ns.coll", func(d []byte) []byte {
					if p.name != "*" {
						d = prefix.AppendTo(d, "$regex")
					}
					return appendValues(d, "$nin", others)
				})
			}))
		}
		if i < len(db.patterns)-1 {
			listed = append(listed, prefix)
		}
	}
	return build(func(d []byte) []byte { return appendDocs(d, "$or", either) })
}

// Homes calls yield for each home that the stream sees.
func (w *Watch) Homes(yield func(*Target) bool) {
	for _, h := range w.homes {
		if !yield(h.target) {
			return
		}
	}
}

// Keep adds the homes of another plan of the same stream that this one lacks: what happened there
// may not have been read yet.
func (w *Watch) Keep(old *Watch) {
	n := len(w.homes)
	for _, o := range old.homes {
		if !slices.ContainsFunc(w.homes[:n], func(h watched) bool {
			return h.target.Cluster == o.target.Cluster && h.target.DB == o.target.DB && bytes.Equal(h.names, o.names)
		}) {
			w.homes = append(w.homes, o)
		}
	}
	if len(w.homes) > n {
		w.plan()
	}
}

// plan makes the streams of the homes.
func (w *Watch) plan() {
	w.Streams = nil
	if w.Own {
		home := w.homes[0].target
		w.Streams = []Stream{{home, w.stages(home.Cluster)}}
		return
	}
	for _, h := range w.homes {
		cluster := h.target.Cluster
		if slices.ContainsFunc(w.Streams, func(s Stream) bool { return s.Target.Cluster == cluster }) {
			continue
		}
		w.Streams = append(w.Streams, Stream{newTarget(cluster, "", "admin", nil), w.stages(cluster)})
	}
}

// unshown are fields of events that tell what is the proxy's own, or differs from home to home.
var unshown = build(func(d []byte) []byte {
	return appendValues(d, "$unset", []wire.Value{
		wire.StringValue("collectionUUID"), wire.StringValue("lsid"), wire.StringValue("txnNumber"),
	})
})

func (w *Watch) stages(cluster string) []wire.Doc {
	var stages []wire.Doc
	if !w.Own {
		stages = append(stages, w.match(cluster))
	}
	if names := w.logicalNames(cluster); names != nil {
		stages = append(stages, names)
	}
	return append(stages, unshown)
}

// match is the stage that leaves the events of homes on the cluster.
func (w *Watch) match(cluster string) wire.Doc {
	var either []wire.Doc
	for _, g := range w.groups(cluster) {
		either = append(either, w.ofGroup(g))
	}
	if w.Coll != "" {
		either = append(either, w.renamedTo(cluster))
	}
	if w.DB == "" && cluster == w.t.HomeAny.Cluster && !w.t.hideOthers {
		either = append(either, w.otherNames())
	}
	return build(func(d []byte) []byte {
		return appendDoc(d, "$match", func(d []byte) []byte {
			if len(either) == 1 {
				return append(d, either[0][4:len(either[0])-1]...)
			}
			return appendDocs(d, "$or", either)
		})
	})
}

// group is homes with the same condition.
type group struct {
	dbs   []wire.Value
	names wire.Doc
	plain bool // changes of documents only
}

func (w *Watch) groups(cluster string) []group {
	var all []group
	for _, h := range w.homes {
		if h.target.Cluster != cluster {
			continue
		}
		plain := w.expanded && h.target.Tenant != nil
		i := slices.IndexFunc(all, func(g group) bool { return g.plain == plain && bytes.Equal(g.names, h.names) })
		if i < 0 {
			i = len(all)
			all = append(all, group{names: h.names, plain: plain})
		}
		all[i].dbs = append(all[i].dbs, w.name(h.target.DB))
	}
	return all
}

// ofGroup is the condition for the events of a group. A definition is made in every home; shared's
// is the one that is told.
func (w *Watch) ofGroup(g group) wire.Doc {
	return build(func(d []byte) []byte {
		d = appendOneOf(d, "ns.db", "$in", g.dbs)
		if w.Coll != "" {
			d = w.name(w.Coll).AppendTo(d, "ns.coll")
		}
		if g.names != nil {
			d = append(d, g.names[4:len(g.names)-1]...)
		}
		if g.plain {
			d = appendOneOf(d, "operationType", "$in", changes)
		}
		return d
	})
}

// changes are the events that are no definitions; those that end a collection are looked at.
var changes = func() (all []wire.Value) {
	for _, name := range []string{"insert", "update", "replace", "delete", "drop", "rename", "dropDatabase"} {
		all = append(all, wire.StringValue(name))
	}
	return all
}()

// renamedTo is the condition that a collection has been given the watched one's name.
func (w *Watch) renamedTo(cluster string) wire.Doc {
	return build(func(d []byte) []byte {
		d = appendOneOf(d, "to.db", "$in", w.physical(cluster, func(*Target) bool { return true }, w.name))
		return w.name(w.Coll).AppendTo(d, "to.coll")
	})
}

func (w *Watch) physical(cluster string, pick func(*Target) bool, as func(string) wire.Value) (names []wire.Value) {
	for _, h := range w.homes {
		if h.target.Cluster == cluster && pick(h.target) {
			names = append(names, as(h.target.DB))
		}
	}
	return names
}

// otherNames is the condition that an event is of none of the databases that have homes, nor of one
// that no client may learn of.
func (w *Watch) otherNames() wire.Doc {
	not := w.t.secretNames()
	for _, db := range w.t.databases {
		not = append(not, w.name(db.Name))
	}
	return build(func(d []byte) []byte { return appendOneOf(d, "ns.db", "$nin", not) })
}

// secretNames are the databases that no client may learn of, as what a $nin takes; see [Table.Logical].
func (t *Table) secretNames() (names []wire.Value) {
	if t.control != "" {
		names = append(names, wire.StringValue(t.control))
	}
	for _, tn := range t.tenants {
		for i, x := range tn.targets {
			if db := t.databases[i]; !t.isolating || x.DB != db.prefix+tn.Key+db.suffix { // the others have a pattern
				names = append(names, wire.StringValue(x.DB))
			}
		}
	}
	if t.isolating {
		for _, db := range t.databases {
			names = append(names, regexValue("^"+quoted([]byte(db.prefix))+".+"+quoted([]byte(db.suffix))+"$"))
		}
	}
	return names
}

// plainWatch is the stage that keeps secret databases out of a change stream of the whole cluster
// while no tenant is outside shared; nil where there are none.
func (t *Table) plainWatch(r *Request) wire.Doc {
	if !r.Watches() || string(r.DB) != "admin" || !t.Plain {
		return nil
	}
	hidden := t.secretNames()
	var shown []wire.Value
	if t.hideOthers {
		for _, db := range t.databases {
			shown = append(shown, wire.StringValue(db.Name))
		}
	}
	if hidden == nil && shown == nil {
		return nil
	}
	return build(func(d []byte) []byte {
		return appendDoc(d, "$match", func(d []byte) []byte {
			return appendDoc(d, "ns.db", func(d []byte) []byte {
				if shown != nil {
					return appendValues(d, "$in", shown)
				}
				return appendValues(d, "$nin", hidden)
			})
		})
	})
}

// HomeField is the field of an event that tells the home's own name of the database, which ns does not.
// The client is not shown it.
const HomeField = "__tenantry_home"

// logicalNames is the stage that makes the names of homes on the cluster logical where they stand, and
// keeps the home's own beside; nil where no name changes. Nothing is put where nothing was: an event
// that ends a stream has no ns.
func (w *Watch) logicalNames(cluster string) wire.Doc {
	names := map[string][]wire.Value{}
	for _, db := range w.t.databases {
		if p := w.physical(cluster, func(x *Target) bool { return x.Logical == db.Name && x.DB != db.Name }, wire.StringValue); p != nil {
			names[db.Name] = p
		}
	}
	if w.Own && len(names) == 0 {
		return nil
	}
	return build(func(d []byte) []byte {
		return appendDoc(d, "$addFields", func(d []byte) []byte {
			if !w.Own {
				d = bsoncore.AppendStringElement(d, HomeField, "$ns.db")
			}
			if len(names) == 0 {
				return d
			}
			d = appendRenamed(d, "ns", "ns", "", names)
			d = appendRenamed(d, "to", "to", "", names)
			return appendRenamed(d, "operationDescription", "operationDescription.to", "to", names)
		})
	})
}

// appendRenamed appends the expression of a field in which the database at the path is logical. The
// field of within, where there is one, holds the document that names the database.
func appendRenamed(d []byte, field, path, within string, names map[string][]wire.Value) []byte {
	value := func(d []byte, key string) []byte { return bsoncore.AppendStringElement(d, key, "$"+field) }
	for _, logical := range sortedKeys(names) {
		rest := value
		value = func(d []byte, key string) []byte {
			return appendDoc(d, key, func(d []byte) []byte {
				return appendList(d, "$cond", 3, func(d []byte, i int) []byte {
					switch i {
					case 0:
						return appendDoc(d, "0", func(d []byte) []byte {
							return appendList(d, "$in", 2, func(d []byte, i int) []byte {
								if i == 0 {
									return bsoncore.AppendStringElement(d, "0", "$"+path+".db")
								}
								return appendValues(d, "1", names[logical])
							})
						})
					case 1:
						return appendMerged(d, "1", field, path, within, logical)
					}
					return rest(d, "2")
				})
			})
		}
	}
	return value(d, field)
}

// appendMerged appends the expression of the field with the logical name in its document.
func appendMerged(d []byte, key, field, path, within, logical string) []byte {
	return appendDoc(d, key, func(d []byte) []byte {
		return appendList(d, "$mergeObjects", 2, func(d []byte, i int) []byte {
			if i == 0 {
				return bsoncore.AppendStringElement(d, "0", "$"+field)
			}
			return appendDoc(d, "1", func(d []byte) []byte {
				if within != "" {
					return appendMerged(d, within, path, path, "", logical)
				}
				return bsoncore.AppendStringElement(d, "db", logical)
			})
		})
	})
}

// Holders are the databases that hold a collection of a logical database, or any collection of it;
// nil for a database that is none.
func (t *Table) Holders(db, coll string) []*Target {
	switch x := t.byName.find([]byte(db)); {
	case x == nil:
		return nil
	case coll == "":
		return x.holders
	default:
		return x.collection([]byte(coll)).holders
	}
}

func appendList(d []byte, key string, n int, element func(d []byte, i int) []byte) []byte {
	return appendArray(d, key, func(d []byte) []byte {
		for i := range n {
			d = element(d, i)
		}
		return d
	})
}

func appendValues(d []byte, key string, values []wire.Value) []byte {
	return appendList(d, key, len(values), func(d []byte, i int) []byte { return values[i].AppendTo(d, strconv.Itoa(i)) })
}

func appendDocs(d []byte, key string, docs []wire.Doc) []byte {
	return appendList(d, key, len(docs), func(d []byte, i int) []byte {
		return bsoncore.AppendDocumentElement(d, strconv.Itoa(i), bsoncore.Document(docs[i]))
	})
}

// appendOneOf appends { field: { operator: [values] } }.
func appendOneOf(d []byte, field, operator string, values []wire.Value) []byte {
	return appendDoc(d, field, func(d []byte) []byte { return appendValues(d, operator, values) })
}

func regexValue(pattern string) wire.Value {
	d := bsoncore.AppendRegexElement(nil, "", pattern, "")
	return wire.Value{Type: bsoncore.TypeRegex, Data: d[2:]}
}
