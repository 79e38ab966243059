package routing

import (
	"slices"

	"github.com/smetasc/tenantry/wire"
)

// UniqueIndex is a unique index of a collection in a shared database, but the one on _id.
type UniqueIndex struct {
	DB, Coll, Name string
	Fields         []string
}

// Equal reports whether two are the same.
func (x UniqueIndex) Equal(y UniqueIndex) bool {
	return x.DB == y.DB && x.Coll == y.Coll && x.Name == y.Name && slices.Equal(x.Fields, y.Fields)
}

// addUnique keeps those that tell: of a collection that connections with row isolation write to, and without
// the tenant field. Then one tenant's write fails by a value that another tenant has.
func (t *Table) addUnique(all []UniqueIndex) {
	for _, x := range all {
		db := t.byName.find([]byte(x.DB))
		if db == nil {
			continue
		}
		if c, err := db.open([]byte(x.Coll), true); err == nil && !slices.Contains(x.Fields, c.field.name) {
			t.telling = append(t.telling, x)
			db.telling[x.Coll] = x
		}
	}
}

// Telling are the unique indexes of shared by which a duplicate key tells a connection with row isolation that
// another tenant has a value.
func (t *Table) Telling() []UniqueIndex { return t.telling }

// untold refuses a write to shared that could tell of other tenants' values, where that is asked for. What
// deletes makes no duplicate.
func (t *Table) untold(r *Request, db *Database, name []byte, target *Target) *wire.Error {
	if !t.strict || target.Tenant != nil || !r.Writes() || r.Cmd.Tenant.Kind == InDeletes {
		return nil
	}
	x, tells := db.telling[string(name)]
	if !tells {
		return nil
	}
	return wire.Errorf(wire.Unauthorized, "the unique index %q of %q lacks the tenant field, so that a duplicate key would tell of another tenant's value (strict_unique)", x.Name, name)
}
