package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
)

// fields says in which field documents carry their tenant.
type fields struct {
	all   string            // where named says nothing; "" where nothing is known at all
	named map[string]string // by "collection" or "database.collection"
}

// fields are those of the configuration.
func (r *rules) fields() fields {
	return fields{r.cfg.Routing.TenantField, r.cfg.Routing.TenantFields}
}

func (f fields) of(n namespace) string {
	return cmp.Or(f.named[n.String()], f.named[n.coll], f.all)
}

// doc is the fields as a route keeps them. Names of collections have dots, which no key should.
func (f fields) doc() bson.D {
	d := bson.D{{Key: "field", Value: f.all}}
	if len(f.named) == 0 {
		return d
	}
	var named bson.A
	for _, coll := range sortedKeys(f.named) {
		named = append(named, bson.D{{Key: "collection", Value: coll}, {Key: "field", Value: f.named[coll]}})
	}
	return append(d, bson.E{Key: "fields", Value: named})
}

// fieldEntry is one of the named fields in a route.
type fieldEntry struct {
	Collection string `bson:"collection"`
	Field      string `bson:"field"`
}

func readFields(all string, named []fieldEntry) fields {
	f := fields{all: all}
	for _, e := range named {
		if f.named == nil {
			f.named = make(map[string]string, len(named))
		}
		f.named[e.Collection] = e.Field
	}
	return f
}

// refielded says which collections of the scope would carry their tenant in another field than they
// did; "" for none.
func (s *scope) refielded(was, now fields, databases []string) string {
	say := func(what, was, now string) string {
		return fmt.Sprintf("has moved %q by the tenant field %q, and the configuration says %q", what, was, now)
	}
	for _, n := range s.namedBy(was, now, databases) {
		if a, b := was.of(n), now.of(n); a != b {
			return say(n.String(), a, b)
		}
	}
	if was.all == now.all {
		return ""
	}
	if open := s.open(databases); len(open) > 0 {
		return say(entryText(open[0]), was.all, now.all)
	}
	return ""
}

// namedBy are the collections of the scope that it or the fields name one by one.
func (s *scope) namedBy(was, now fields, databases []string) []namespace {
	all := map[namespace]bool{}
	note := func(n namespace) {
		if s.has(n.db, n.coll) {
			all[n] = true
		}
	}
	for _, named := range []map[string]string{was.named, now.named} {
		for name := range named {
			for _, db := range databases {
				if coll, in := strings.CutPrefix(name, db+"."); in {
					note(namespace{db, coll})
				} else if !qualified(name, databases) {
					note(namespace{db, name})
				}
			}
		}
	}
	for _, e := range s.entries {
		if !e.Prefix {
			note(namespace{e.Database, e.Name})
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b namespace) int { return cmp.Compare(a.String(), b.String()) })
}

// qualified reports whether the name begins with one of the databases.
func qualified(name string, databases []string) bool {
	return slices.ContainsFunc(databases, func(db string) bool { return strings.HasPrefix(name, db+".") })
}

// open are the entries of the scope that are for collections of any name.
func (s *scope) open(databases []string) (all []config.Entry) {
	if s.all {
		for _, db := range databases {
			if e := (config.Entry{Database: db, Prefix: true}); s.touches(e) {
				all = append(all, e)
			}
		}
		return all
	}
	for _, e := range s.entries {
		if e.Prefix {
			all = append(all, e)
		}
	}
	return all
}
