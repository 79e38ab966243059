package work

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// place is a physical database.
type place struct {
	name     string // for people
	server   *client
	database string
	tenant   *Tenant // whose it is; nil is everybody's
}

// places are all databases that the proxy may have made, and those that it may not.
func (r *run) places() []place {
	out := []place{{"shared", r.g.home, r.database, nil}, {"shared's name on big", r.g.big, r.database, nil}}
	for i := range r.p.Routing.Tenants {
		t := &r.p.Routing.Tenants[i]
		own := ownName(r.database, t.Key)
		out = append(out, place{t.Key + "'s own", r.g.home, own, t}, place{t.Key + "'s own on big", r.g.big, own, t})
	}
	return out
}

// holds reports whether documents of the collection may be in the place at all.
func (r *run) holds(p *place, c string) bool {
	if p.tenant == nil {
		return p.server == r.g.home
	}
	cluster := map[string]*client{"home": r.g.home, "big": r.g.big}[p.tenant.Home]
	return cluster == p.server && r.p.Routing.separate(p.tenant, c)
}

// rightful reports whether the place is the home of the document.
func (r *run) rightful(p *place, c string, d bson.D) bool {
	t := r.p.Routing.tenant(dig(d, tenantField(c)))
	if t == nil || !r.p.Routing.separate(t, c) {
		return p.tenant == nil
	}
	return p.tenant == t
}

// collection is what a place holds under one name.
type collection struct {
	options string
	indexes []string
	docs    map[string]bson.D // by _id
}

// plain reports whether inserting documents alone would have made it.
func (c *collection) plain() bool { return c.options == "{}" && len(c.indexes) == 1 }

func ask(server *client, database string, command bson.D) (bson.A, error) {
	reply, err := server.do(append(command, bson.E{Key: "$db", Value: database}), false)
	if err != nil {
		return nil, err
	}
	cursor := doc(get(reply, "cursor"))
	if cursor == nil || get(cursor, "id") != int64(0) {
		return nil, fmt.Errorf("%s of %s: %s", text(command), database, text(reply))
	}
	return array(get(cursor, "firstBatch")), nil
}

// byKey is a document of which the order of fields says nothing.
func byKey(d bson.D) bson.D {
	d = slices.Clone(d)
	slices.SortFunc(d, func(a, b bson.E) int { return strings.Compare(a.Key, b.Key) })
	return d
}

const allAtOnce = int32(100000) // documents in one batch

func read(server *client, database string) (map[string]*collection, error) {
	list, err := ask(server, database, bson.D{{Key: "listCollections", Value: int32(1)}})
	if err != nil {
		return nil, err
	}
	out := map[string]*collection{}
	for _, row := range list {
		name, _ := get(doc(row), "name").(string)
		c := &collection{options: text(byKey(doc(get(doc(row), "options")))), docs: map[string]bson.D{}}
		if get(doc(row), "type") == "view" {
			out[name] = c // its documents are others'
			continue
		}
		indexes, err := ask(server, database, bson.D{{Key: "listIndexes", Value: name}})
		if err != nil {
			return nil, err
		}
		for _, x := range indexes {
			c.indexes = append(c.indexes, text(x))
		}
		slices.Sort(c.indexes)
		docs, err := ask(server, database, bson.D{{Key: "find", Value: name}, {Key: "batchSize", Value: allAtOnce}})
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			id := text(get(doc(d), "_id"))
			if c.docs[id] != nil {
				return nil, fmt.Errorf("%s.%s holds _id %s twice", database, name, id)
			}
			c.docs[id] = doc(d)
		}
		out[name] = c
	}
	return out, nil
}

// contents compares all documents and definitions with those that the direct side has.
func (r *run) contents() error {
	want, err := read(r.g.direct, r.database)
	if err != nil {
		return err
	}
	found := map[string]map[string]string{} // collection, _id: place
	for _, p := range r.places() {
		got, err := read(p.server, p.database)
		if err != nil {
			return err
		}
		for name, c := range got {
			if c.docs, err = r.docs(&p, name, c.docs); err != nil {
				return err
			}
			if found[name] == nil {
				found[name] = map[string]string{}
			}
			if err := r.place(&p, name, c, want[name], found[name]); err != nil {
				return fmt.Errorf("%s of %s: %w", name, p.name, err)
			}
		}
		for name, c := range want {
			if r.holds(&p, name) && got[name] == nil && !c.plain() {
				return fmt.Errorf("%s has no collection %s, which was defined as %s with %s", p.name, name, c.options, strings.Join(c.indexes, ", "))
			}
		}
	}
	for name, c := range want {
		if found[name] == nil {
			return fmt.Errorf("no database has the collection %s", name)
		}
		for id, d := range c.docs {
			if found[name][id] == "" {
				return fmt.Errorf("%s: no database has %s", name, text(d))
			}
		}
	}
	return nil
}

// docs are the documents of a collection as they are compared: without those that were left in shared,
// which must all be there as they were.
func (r *run) docs(p *place, name string, all map[string]bson.D) (map[string]bson.D, error) {
	out := map[string]bson.D{}
	for id, d := range all {
		if p.tenant == nil && p.server == r.g.home && r.left[name][id] == text(d) {
			continue
		}
		d = r.same(d).(bson.D)
		out[text(get(d, "_id"))] = d
	}
	if p.tenant == nil && p.server == r.g.home && len(all)-len(out) != len(r.left[name]) {
		return nil, fmt.Errorf("%s: what was left in shared has been changed: it was %v", name, r.left[name])
	}
	return out, nil
}

// place compares one collection of one place.
func (r *run) place(p *place, name string, got, want *collection, found map[string]string) error {
	switch {
	case !r.holds(p, name):
		return fmt.Errorf("it may not be there, with %d documents", len(got.docs))
	case want == nil && got.plain() && len(got.docs) == 0:
		return nil // the test server makes a collection for an update that finds nothing, a server none
	case want == nil:
		return fmt.Errorf("directly there is none of the name")
	case got.options != want.options:
		return fmt.Errorf("options are %s, directly %s", got.options, want.options)
	case !slices.Equal(got.indexes, want.indexes):
		return fmt.Errorf("indexes are %s, directly %s", got.indexes, want.indexes)
	}
	for id, d := range got.docs {
		if !r.rightful(p, name, d) {
			return fmt.Errorf("this is not the home of %s", text(d))
		}
		if other := found[id]; other != "" {
			return fmt.Errorf("%s is in %s too", id, other)
		}
		found[id] = p.name
		if directly := want.docs[id]; directly == nil || text(directly) != text(d) {
			return fmt.Errorf("it has %s, directly %s", text(d), text(directly))
		}
	}
	return nil
}

// drop removes the program's databases, so that many programs can be played.
func (r *run) drop() error {
	drop := func(server *client, database string) error {
		_, err := server.do(bson.D{{Key: "dropDatabase", Value: int32(1)}, {Key: "$db", Value: database}}, false)
		return err
	}
	if err := drop(r.g.direct, r.database); err != nil {
		return err
	}
	for _, p := range r.places() {
		if err := drop(p.server, p.database); err != nil {
			return err
		}
	}
	if r.p.Routing.Control {
		return drop(r.g.home, r.controlDB())
	}
	return nil
}
