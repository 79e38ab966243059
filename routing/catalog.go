package routing

import (
	"hash/fnv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// catalogOf is a number for what the spec says of which collections hold tenants' documents: with
// another catalog the number is another one.
func catalogOf(s *Spec) uint64 {
	h := fnv.New64a()
	list := func(names ...string) {
		for _, n := range names {
			h.Write([]byte(n))
			h.Write([]byte{0})
		}
		h.Write([]byte{1})
	}
	for _, d := range s.Databases {
		list(d.Name)
	}
	list()
	list(s.Collections...)
	list(s.Platform...)
	return h.Sum64()
}

// Catalog is a number that two tables share by which the same collections hold tenants' documents.
func (t *Table) Catalog() uint64 { return t.catalog }

// Whose is the number of the one tenant whose documents alone the request reads or writes by what it says,
// also where no route asked for that; 0 where it is not one that is known.
func (t *Table) Whose(r *Request) uint32 {
	db := t.byName.find(r.DB)
	if db == nil || r.Cmd == nil || r.Bound != nil || !t.isolating || r.Value.Type != bsoncore.TypeString {
		return 0
	}
	switch r.Cmd.Tenant.Kind {
	case InFilter, InDocuments, InUpdates, InDeletes, InFindAndModify:
	default:
		return 0
	}
	h := homes{t: t, coll: db.collection(r.Coll())}
	if err := t.collect(r, &h); err != nil || h.bad != nil || h.unknown || h.shared || h.gives || h.only.Type != 0 || h.tenants != 1 || h.tenant == nil {
		return 0
	}
	return h.tenant.Num
}

// Platform reports whether the request reads or writes documents of one collection alone, which holds
// none of tenants by the table's catalog: no change of a tenant's route concerns it.
func (t *Table) Platform(r *Request) bool {
	if r.Cmd == nil || r.Value.Type != bsoncore.TypeString {
		return false
	}
	switch r.Cmd.Tenant.Kind {
	case InFilter, InDocuments, InUpdates, InDeletes, InFindAndModify:
		db := t.byName.find(r.DB)
		return db == nil && r.Bound == nil || db != nil && !db.collection(r.Coll()).Tenant
	}
	return false
}
