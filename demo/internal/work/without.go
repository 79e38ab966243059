package work

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Of commands without a tenant a proxy may be told to look in shared alone, or to refuse them. In
// programs with such a rule a filter names its tenants plainly or not at all, see [world.whose], so that
// it can be told here as well what a command is.

// rejection is the refusal that only "reject" brings.
const rejection = `which without_tenant = "reject" does not allow`

// filterFields are where commands have their filter.
var filterFields = map[string]string{"find": "filter", "count": "query", "distinct": "query", "findAndModify": "query"}

// narrow gives every filter of the command what pred says of it beside; nil for nothing.
func narrow(command bson.D, pred func(c string, filter, entry bson.D) bson.D) bson.D {
	c := coll(command)
	out := slices.Clone(command)
	also := func(d bson.D, key, c string) bson.D {
		d = slices.Clone(d)
		for i, e := range d {
			if e.Key != key {
				continue
			}
			if more := pred(c, doc(e.Value), d); more != nil {
				d[i].Value = is("$and", bson.A{doc(e.Value), more})
			}
		}
		return d
	}
	if field := filterFields[name(command)]; field != "" {
		if get(out, field) == nil {
			out = append(out, bson.E{Key: field, Value: bson.D{}})
		}
		return also(out, field, c)
	}
	for i, e := range out {
		switch e.Key {
		case "pipeline":
			stages := array(e.Value)
			first := bson.D{}
			if len(stages) > 0 {
				first = doc(get(doc(stages[0]), "$match"))
			}
			if more := pred(c, first, command); more != nil {
				out[i].Value = append(bson.A{is("$match", more)}, stages...)
			}
		case "updates", "deletes", "ops":
			entries := slices.Clone(array(e.Value))
			for k, v := range entries {
				if e.Key == "ops" {
					entries[k] = also(doc(v), "filter", opColl(command, doc(v)))
				} else {
					entries[k] = also(doc(v), "q", c)
				}
			}
			out[i].Value = entries
		}
	}
	return out
}

// opColl is the collection of an operation of a bulkWrite.
func opColl(command, op bson.D) string {
	at, _ := op[0].Value.(int32)
	spaces := array(get(command, "nsInfo"))
	if int(at) >= len(spaces) {
		return ""
	}
	ns, _ := get(doc(spaces[at]), "ns").(string)
	_, c, _ := strings.Cut(ns, ".")
	return c
}

// open reports whether a filter of a collection that some tenant has elsewhere names no tenant.
func (r *Routing) open(c string, filter bson.D) bool {
	return r.moved(c) && !strings.Contains(text(filter), tenantField(c))
}

// ofShared is the command as it is sent directly where the proxy looks in shared alone.
func (r *Routing) ofShared(command bson.D) bson.D {
	return narrow(command, func(c string, filter, _ bson.D) bson.D {
		if !r.open(c, filter) {
			return nil
		}
		away := bson.A{}
		for i := range r.Tenants {
			if t := &r.Tenants[i]; r.separate(t, c) {
				away = append(away, t.ID)
			}
		}
		return is(tenantField(c), is("$nin", away))
	})
}

// rejects reports whether "reject" refuses the command; sure is false where that can not be told here:
// for an upsert, whose update may name the tenant, and for joins.
func (r *Routing) rejects(command bson.D) (yes, sure bool) {
	if commentTenant(inner(command)) != nil && moduleOf(coll(inner(command))) != "" {
		return false, true
	}
	sure = true
	narrow(inner(command), func(c string, filter, entry bson.D) bson.D {
		open := r.open(c, filter)
		stages := text(get(entry, "pipeline"))
		switch {
		case get(entry, "upsert") == true:
			sure = sure && !open
		case strings.Contains(stages, `ookup"`), strings.Contains(stages, `"$unionWith"`):
			sure = false
		default:
			yes = yes || open
		}
		return nil
	})
	return yes, sure || yes
}
