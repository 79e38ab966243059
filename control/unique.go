package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
)

// uniqueInterval is how often the indexes of shared are read, of each collection.
const uniqueInterval = time.Minute

// uniques are the unique indexes of shared at some time.
type uniques struct {
	list []routing.UniqueIndex
	read time.Time
}

// readUniques reads them where some are to be told of, and where they are due.
func (c *Control) readUniques(ctx context.Context, r *rules, home cluster, before *uniques) (*uniques, error) {
	wanted := r.cfg.BindsRows() || r.cfg.Routing.StrictUnique // who may connect may change without the rest
	if !wanted || before != nil && time.Since(before.read) < uniqueInterval {
		return before, nil
	}
	u := &uniques{read: time.Now()}
	for _, db := range r.databases {
		all, err := definitions(ctx, home, db)
		if err != nil {
			return before, fmt.Errorf("the collections of %s could not be read: %w", db, err)
		}
		for _, name := range sortedKeys(all) {
			if all[name].kind == "view" || strings.HasPrefix(name, "system.") {
				continue
			}
			list, err := indexes(ctx, home, namespace{db, name})
			if err != nil {
				return before, fmt.Errorf("the indexes of %s.%s could not be read: %w", db, name, err)
			}
			for _, d := range list {
				if x, ok := uniqueIndex(d.(bson.D)); ok {
					x.DB, x.Coll = db, name
					u.list = append(u.list, x)
				}
			}
		}
	}
	return u, nil
}

// uniqueIndex is the index, where it is a unique one.
func uniqueIndex(d bson.D) (x routing.UniqueIndex, ok bool) {
	unique, _ := lookup(d, "unique")
	name, _ := lookup(d, "name")
	key, _ := lookup(d, "key")
	fields, _ := key.(bson.D)
	for _, e := range fields {
		x.Fields = append(x.Fields, e.Key)
	}
	x.Name = fmt.Sprint(name)
	return x, truthy(unique)
}

// truthy is what a server takes for true.
func truthy(v any) bool {
	n, isNumber := number(valueOf(v))
	return v == true || isNumber && n != 0
}

// same reports whether the list is the same as of another reading.
func (u *uniques) same(v *uniques) bool {
	return slices.EqualFunc(u.indexes(), v.indexes(), routing.UniqueIndex.Equal)
}

func (u *uniques) indexes() []routing.UniqueIndex {
	if u == nil {
		return nil
	}
	return u.list
}

// logTelling says once which unique indexes tell tenants of each other.
func (c *Control) logTelling(t *routing.Table) {
	told := t.Telling()
	c.metrics.telling.Set(float64(len(told)))
	if len(told) == 0 {
		return
	}
	var names []string
	for _, x := range told {
		names = append(names, x.DB+"."+x.Coll+" "+x.Name)
	}
	if text := some(names); c.limited.allows(text) {
		c.log.Warn().Int("indexes", len(told)).Msg("unique indexes of shared collections lack the tenant field, so that a duplicate key tells connections " +
			"with row isolation that another tenant has the value; add the field to them, or set strict_unique = true in [routing] to refuse such writes: " + text)
	}
}
