package work

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Routing is where the proxy keeps the tenants while a program runs.
type Routing struct {
	Mode     string // disabled, mixed, forced
	Without  string // what a command without a tenant does: "shared", "reject"; "" is to look everywhere
	Control  bool   // tenants are flipped as they are met, and their routes kept; else the file alone decides
	Sections bool   // batches travel as document sequences, as drivers send them
	Tenants  []Tenant
}

// Tenant is one that the configuration lists.
type Tenant struct {
	Key     string
	ID      any
	Home    string   // "shared", or the cluster of its own database: "home", "big"
	Modules []string // that have moved there; nil is all
}

// modules of the configuration, in its order.
var modules = []struct {
	name        string
	collections []string
}{
	{"orders", []string{"orders", "order_items"}},
	{"accounting", []string{"invoices"}},
	{"projects", []string{"tasks"}},
}

// platform collections have no tenant, or one that routes nothing.
var platform = []string{"users", "packages"}

const ownerField = "company.id" // of tasks

// tenantField is the tenant field of a collection.
func tenantField(coll string) string {
	if coll == "tasks" {
		return ownerField
	}
	return "tenantId"
}

func moduleOf(coll string) string {
	for _, m := range modules {
		if slices.Contains(m.collections, coll) {
			return m.name
		}
	}
	return ""
}

// separate reports whether the tenant's documents of the collection are in its own database.
func (r *Routing) separate(t *Tenant, coll string) bool {
	m := moduleOf(coll)
	return r.Mode != "disabled" && t.Home != "shared" && m != "" && (t.Modules == nil || slices.Contains(t.Modules, m))
}

// moved reports whether some tenant's documents of the collection are not in shared.
func (r *Routing) moved(coll string) bool {
	return slices.ContainsFunc(r.Tenants, func(t Tenant) bool { return r.separate(&t, coll) })
}

// tenant finds a document's tenant by the value of its tenant field.
func (r *Routing) tenant(v any) *Tenant {
	for i := range r.Tenants {
		if same(r.Tenants[i].ID, v) {
			return &r.Tenants[i]
		}
	}
	return nil
}

// same is equality as servers see it: numbers by value.
func same(a, b any) bool {
	x, okA := number(a)
	y, okB := number(b)
	return okA && okB && x == y || !okA && !okB && a == b
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int32:
		return float64(n), true
	case int64:
		return float64(n), true
	case float64:
		return n, true
	case bson.Decimal128:
		f, err := strconv.ParseFloat(n.String(), 64)
		return f, err == nil
	}
	return 0, false
}

// String is the header of a program's text form.
func (r *Routing) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "mode %s\n", r.Mode)
	if r.Without != "" {
		fmt.Fprintf(&b, "without %s\n", r.Without)
	}
	if r.Control {
		b.WriteString("routes kept\n")
	}
	if r.Sections {
		b.WriteString("batches in sections\n")
	}
	for _, t := range r.Tenants {
		fmt.Fprintf(&b, "tenant %s %s %s\n", t.Key, strings.ReplaceAll(text(t.ID), " ", ""), strings.Join(append([]string{t.Home}, t.Modules...), " "))
	}
	return b.String()
}

// parse reads a line of the header; false for any other line.
func (r *Routing) parse(line string, err *error) bool {
	words := strings.Fields(line)
	switch {
	case words[0] == "mode" && len(words) == 2:
		r.Mode = words[1]
	case words[0] == "without" && len(words) == 2:
		r.Without = words[1]
	case line == "routes kept":
		r.Control = true
	case line == "batches in sections":
		r.Sections = true
	case words[0] == "tenant" && len(words) >= 4:
		var id bson.D
		*err = bson.UnmarshalExtJSON([]byte(`{"id": `+words[2]+`}`), false, &id)
		r.Tenants = append(r.Tenants, Tenant{Key: words[1], ID: get(id, "id"), Home: words[3], Modules: slices.Clip(words[4:])})
		if t := &r.Tenants[len(r.Tenants)-1]; len(t.Modules) == 0 {
			t.Modules = nil
		}
	default:
		return false
	}
	return true
}

// config is the proxy's configuration for the routing with a logical database of the name.
func (r *Routing) config(database, control string, clusters [2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
[[listeners]]
address = "$LISTEN"

[admin]
address = "$ADMIN"

[log]
level = "warn" # else a line for each reload

[control]
%s

[clusters.home]
uri = "mongodb://%s/"

[clusters.big]
uri = "mongodb://%s/"

[routing]
mode = %q
home = "home"
shared_database = %q
tenant_database = %q
without_tenant = %q

[routing.tenant_fields]
tasks = %q

`, control, clusters[0], clusters[1], r.Mode, database, ownName(database, "{key}"), cmp.Or(r.Without, "scatter"), ownerField)
	b.WriteString("[modules]\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "%s = [%s]\n", m.name, quoted(m.collections))
	}
	fmt.Fprintf(&b, "[platform]\ncollections = [%s]\n", quoted(platform))
	for _, t := range r.Tenants {
		b.WriteString(t.config())
	}
	return b.String()
}

func (t *Tenant) config() string {
	id := ""
	switch v := t.ID.(type) {
	case string:
		id = fmt.Sprintf("%q", v)
	case bson.ObjectID:
		id = fmt.Sprintf("{ oid = %q }", v.Hex())
	default:
		id = fmt.Sprintf("{ int = %v }", v)
	}
	s := fmt.Sprintf("\n[[tenants]]\nid = %s\nkey = %q\n", id, t.Key)
	if t.Home == "shared" {
		return s + "mode = \"shared\"\n"
	}
	s += fmt.Sprintf("mode = \"per-tenant\"\ncluster = %q\n", t.Home)
	if t.Modules != nil {
		s += fmt.Sprintf("modules = [%s]\n", quoted(t.Modules))
	}
	return s
}

// ownName is the name of a tenant's own database.
func ownName(database, key string) string { return database + "_own_" + key }

func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(out, ", ")
}
