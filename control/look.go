package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/wire"
)

// definition is a collection as listCollections and listIndexes show it.
type definition struct {
	name    string
	kind    string // "collection", "view", "timeseries"
	options wire.Doc
	capped  bool
}

// unmovable says why a collection can not be made anew in a tenant's database; "" where it can.
func (d *definition) unmovable() string {
	switch {
	case d == nil:
		return ""
	case d.kind == "timeseries":
		return "is a time-series collection"
	case d.capped:
		return "is a capped collection, which orders documents across tenants"
	}
	return ""
}

// definitions lists what a database holds, the server's own collections left out.
func definitions(ctx context.Context, c cluster, db string) (map[string]*definition, error) {
	all := map[string]*definition{}
	err := each(ctx, c, db, bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: bson.D{}}}, func(doc wire.Doc) error {
		d := &definition{kind: "collection"}
		v, _ := doc.Lookup("name")
		name, _ := v.Str()
		d.name = string(name)
		if v, ok := doc.Lookup("type"); ok {
			kind, _ := v.Str()
			d.kind = string(kind)
		}
		v, _ = doc.Lookup("options")
		d.options, _ = v.Doc()
		capped, _ := d.options.Lookup("capped")
		d.capped = capped.True()
		if !strings.HasPrefix(d.name, "system.") {
			all[d.name] = d
		}
		return nil
	})
	return all, err
}

// answered reports whether the server has said no, for good: not that it is away or about to be.
func answered(err error) bool {
	var e *backend.CommandError
	return errors.As(err, &e) && !slices.Contains(away, e.Code)
}

// away are the codes of servers that stop, step down, or reach nobody.
var away = []int32{6, 7, 50, 89, 91, 133, 134, 189, 262, 317, 358, 9001, 10107, 11600, 11601, 11602, 13435, 13436}

// indexes lists a collection's indexes but the one on _id, as createIndexes takes them.
func indexes(ctx context.Context, c cluster, n namespace) (bson.A, error) {
	var all bson.A
	err := each(ctx, c, n.db, bson.D{{Key: "listIndexes", Value: n.coll}}, func(doc wire.Doc) error {
		var d bson.D
		if err := bson.Unmarshal(doc, &d); err != nil {
			return err
		}
		d = slices.DeleteFunc(d, byDefault)
		name, _ := doc.Lookup("name")
		clustered, _ := doc.Lookup("clustered")
		if s, _ := name.Str(); string(s) != "_id_" && !clustered.True() {
			all = append(all, d)
		}
		return nil
	})
	if hasCode(err, int32(wire.NamespaceNotFound)) {
		return nil, nil
	}
	return all, err
}

// byDefault reports whether a field of an index says what createIndexes does anyway; some servers
// list fields that they do not take.
func byDefault(e bson.E) bool {
	return e.Key == "ns" || e.Key == "v" && e.Value == int32(2)
}

// holds reports whether the collection has a document that matches the filter. The read is one
// that shows every acknowledged write where the server can promise that: linearizable. A majority
// read would miss a write that has been acknowledged by the primary alone; and to read the
// primary's own state, which is what is left on servers without, can only find too much.
func holds(ctx context.Context, c cluster, db, coll string, filter bson.D, strict bool) (bool, error) {
	found := false
	cmd := bson.D{
		{Key: "find", Value: coll},
		{Key: "filter", Value: filter},
		{Key: "projection", Value: bson.D{{Key: "_id", Value: int32(1)}}},
		{Key: "limit", Value: int32(1)},
		{Key: "singleBatch", Value: true},
	}
	note := func(wire.Doc) error { found = true; return nil }
	if strict {
		linear := append(slices.Clone(cmd), bson.E{Key: "readConcern", Value: bson.D{{Key: "level", Value: "linearizable"}}})
		if err := each(ctx, c, db, linear, note); !answered(err) {
			return found, err
		}
	}
	err := each(ctx, c, db, cmd, note)
	return found, err
}

// survey is what a look at a tenant found.
type survey struct {
	target  *scope                    // what will have moved after the flip; nil for nothing to do
	moving  []namespace               // collections that are there and free to move
	found   map[namespace]*definition // those of them that exist
	staying map[namespace]string      // those that are not free, and why
}

// reasons names what stays and why, for people.
func (s *survey) reasons() string {
	var all []string
	for n, why := range s.staying {
		all = append(all, fmt.Sprintf("%s %s", n, why))
	}
	slices.Sort(all)
	return some(all)
}

// some is at most 20 of the texts.
func some(all []string) string {
	const most = 20
	if len(all) > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", len(all)-most)
	}
	return strings.Join(all, ", ")
}

// survey looks in shared at the collections that the flip is about.
func (j *job) survey(ctx context.Context, strict bool) (*survey, error) {
	s := &survey{found: map[namespace]*definition{}, staying: map[namespace]string{}}
	have := j.rules.routeScope(j.route)
	candidates, err := j.candidates(ctx, have, s.found)
	if err != nil {
		return nil, err
	}
	for _, n := range candidates {
		why := s.found[n].unmovable()
		if why == "" {
			held, err := holds(ctx, j.home, n.db, n.coll, j.filter(n), strict)
			if err != nil {
				return nil, err
			}
			if held {
				why = "holds documents of the tenant in shared, which have to be moved first"
			}
		}
		if why != "" {
			s.staying[n] = why
			delete(s.found, n)
			continue
		}
		s.moving = append(s.moving, n)
	}
	if len(s.moving) == 0 && len(s.staying) > 0 {
		return s, nil
	}
	var staying []namespace
	for n := range s.staying {
		staying = append(staying, n)
	}
	s.target, err = extend(j.plan.want, have, j.plan.todo, s.moving, staying)
	return s, err
}

// candidates is every collection that the flip could move: those that are named, there or not, and
// those there that a pattern means.
func (j *job) candidates(ctx context.Context, have *scope, found map[namespace]*definition) ([]namespace, error) {
	var all []namespace
	listed := map[string]map[string]*definition{}
	for _, e := range j.plan.todo {
		there := listed[e.Database]
		if there == nil {
			var err error
			if there, err = definitions(ctx, j.home, e.Database); err != nil {
				return nil, err
			}
			listed[e.Database] = there
		}
		names := []string{e.Name}
		if e.Prefix {
			names = sortedKeys(there)
		}
		for _, name := range names {
			n := namespace{e.Database, name}
			if !e.Has(n.db, n.coll) || !j.plan.want.has(n.db, n.coll) || have.has(n.db, n.coll) || slices.Contains(all, n) {
				continue
			}
			d := there[name]
			if d != nil && d.kind == "view" {
				continue // it holds no documents, and stays where it is
			}
			all = append(all, n)
			if d != nil {
				found[n] = d
			}
		}
	}
	return all, nil
}

// filter matches the tenant's documents in a shared collection.
func (j *job) filter(n namespace) bson.D {
	values := bson.A{toRaw(j.value)}
	for _, a := range j.aliases() {
		values = append(values, toRaw(a))
	}
	return bson.D{{Key: j.rules.fields().of(n), Value: bson.D{{Key: "$in", Value: values}}}}
}

// surveyOwn looks for documents in the tenant's own databases; what holds some is staying.
func (j *job) surveyOwn(ctx context.Context, strict bool) (*survey, error) {
	s := &survey{staying: map[namespace]string{}}
	have := j.rules.routeScope(j.route)
	for _, db := range sortedKeys(j.route.Databases) {
		own := j.route.Databases[db]
		there, err := definitions(ctx, j.target, own)
		if err != nil {
			return nil, err
		}
		for _, name := range sortedKeys(there) {
			n := namespace{db, name}
			if !have.has(db, name) || there[name].kind == "view" {
				continue
			}
			held, err := holds(ctx, j.target, own, name, bson.D{}, strict)
			if err != nil {
				return nil, err
			}
			if held {
				s.staying[n] = fmt.Sprintf("holds documents in %s, which have to be brought home first", own)
			}
		}
	}
	if len(s.staying) == 0 {
		s.target = &scope{}
	}
	return s, nil
}

// prepare makes the moving collections in the tenant's own databases, with shared's options and
// indexes. What is there already stays; made remembers what has been made, so that a second call
// makes only what has come since.
func (j *job) prepare(ctx context.Context, s *survey) error {
	for _, n := range s.moving {
		d := s.found[n]
		if d == nil {
			continue // made by its first insert, as it would be in shared
		}
		list, err := indexes(ctx, j.home, n)
		if err != nil {
			return err
		}
		create := bson.D{{Key: "create", Value: n.coll}}
		it := d.options.Iter()
		for it.Next() {
			create = append(create, bson.E{Key: string(it.Key), Value: toRaw(it.Value)})
		}
		seen, err := bson.Marshal(bson.D{{Key: "create", Value: create}, {Key: "indexes", Value: list}})
		if err != nil {
			return err
		}
		if j.made[n] == string(seen) {
			continue
		}
		if err := j.make(ctx, j.homes[n.db], n.coll, create, list); err != nil {
			return err
		}
		j.made[n] = string(seen)
	}
	return nil
}

func (j *job) make(ctx context.Context, db, coll string, create bson.D, list bson.A) error {
	_, err := write(ctx, j.target, db, append(create, majority))
	if err != nil && !hasCode(err, int32(wire.NamespaceExists)) {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	_, err = write(ctx, j.target, db, bson.D{{Key: "createIndexes", Value: coll}, {Key: "indexes", Value: list}, majority})
	return err
}
