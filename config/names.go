package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// keySlot is where a pattern takes the tenant's key.
const keySlot = "{key}"

// maxDatabaseName is the server's limit, in bytes.
const maxDatabaseName = 63

// badInDatabase is what some server refuses in a database name; Windows is the strictest.
const badInDatabase = "/\\. \"$*<>:|?\x00"

// serverDatabases are the server's own, which no configuration may take for something else.
var serverDatabases = []string{"admin", "config", "local"}

// fold makes equal what the server takes for one database: it refuses to create "Acme" where
// there is "acme".
func fold(name string) string { return strings.ToLower(name) }

// badDatabase says why a server would refuse a database name; "" where it would not.
func badDatabase(name string) string {
	if name == "" {
		return "is empty"
	}
	if why := badDatabaseText(name); why != "" {
		return why
	}
	if len(name) > maxDatabaseName {
		return fmt.Sprintf("%s has %d bytes; a database name may have %d", show(name), len(name), maxDatabaseName)
	}
	return ""
}

// badDatabaseText says which character of text cannot be in a database name.
func badDatabaseText(text string) string {
	if i := strings.IndexAny(text, badInDatabase); i >= 0 {
		return fmt.Sprintf("%s contains %q, which no database name may", show(text), text[i])
	}
	if !utf8.ValidString(text) {
		return "is not valid UTF-8"
	}
	return ""
}

// badCollection says why a server would refuse a collection name, or why it cannot move.
func badCollection(name string) string {
	switch {
	case name == "":
		return "has no collection name"
	case strings.ContainsAny(name, "$\x00"):
		return show(name) + ` contains "$" or NUL, which no collection name may`
	case strings.HasPrefix(name, ".") || strings.HasSuffix(name, "."):
		return show(name) + " begins or ends with a dot"
	case strings.HasPrefix(name, "system."):
		return show(name) + " is one of the server's own collections"
	}
	return ""
}

// badField says why a (dotted) field name cannot hold the tenant.
func badField(name string) string {
	if name == "" {
		return "is empty"
	}
	for part := range strings.SplitSeq(name, ".") {
		switch {
		case part == "":
			return show(name) + " has an empty part between its dots"
		case strings.HasPrefix(part, "$"):
			return show(name) + ` has a part that begins with "$"`
		case strings.ContainsRune(part, 0):
			return show(name) + " contains NUL"
		}
	}
	return ""
}

// Name is the database of the tenant with this key: the pattern with the key in it.
func (d Database) Name(key string) string { return strings.Replace(d.Tenant, keySlot, key, 1) }

// Around is what stands before and behind the key in the names of tenants' databases.
func (d Database) Around() (before, after string) {
	before, after, _ = strings.Cut(d.Tenant, keySlot)
	return before, after
}

// IsOwn reports whether the name is that of a tenant's database: some key makes the pattern this name.
func (d Database) IsOwn(name string) bool {
	before, after := d.Around()
	return pattern{before, after}.has(name)
}

// pattern is a tenant_database around its key.
type pattern struct{ before, after string }

func splitPattern(text string) (pattern, bool) {
	before, after, ok := strings.Cut(text, keySlot)
	return pattern{fold(before), fold(after)}, ok && !strings.Contains(after, keySlot)
}

// gives reports whether some key would make the pattern what the server takes for this name.
func (p pattern) gives(name string) bool { return p.has(fold(name)) }

// has reports whether some key would make the pattern this name.
func (p pattern) has(name string) bool {
	return len(name) > len(p.before)+len(p.after) &&
		strings.HasPrefix(name, p.before) && strings.HasSuffix(name, p.after)
}

// meets reports whether two patterns could give one name, each with a key of its own.
func (p pattern) meets(q pattern) bool {
	return (strings.HasPrefix(p.before, q.before) || strings.HasPrefix(q.before, p.before)) &&
		(strings.HasSuffix(p.after, q.after) || strings.HasSuffix(q.after, p.after))
}

// Entry is one entry of [modules] or [platform], taken apart.
type Entry struct {
	Database string // logical database; "" is each of them
	Name     string // collection, or what it begins with
	Prefix   bool   // a pattern: every collection whose name begins with Name, for "*" all
}

// Entry takes apart an entry of [modules] or [platform]. What stands before the first dot is a
// database only where a logical database has that name, since collection names have dots too.
func (r Routing) Entry(text string) Entry {
	var e Entry
	e.Name = text
	if database, rest, ok := strings.Cut(text, "."); ok && r.logical(database) {
		e.Database, e.Name = database, rest
	}
	e.Name, e.Prefix = strings.CutSuffix(e.Name, "*")
	return e
}

func (r Routing) logical(name string) bool {
	for _, d := range r.Databases {
		if d.Shared == name {
			return true
		}
	}
	return false
}

// Has reports whether the entry means this collection of this logical database.
func (e Entry) Has(database, collection string) bool {
	if e.Database != "" && e.Database != database {
		return false
	}
	return e.Name == collection || e.Prefix && strings.HasPrefix(collection, e.Name)
}

// overlaps reports whether some collection is in both entries.
func (e Entry) overlaps(f Entry) bool {
	if e.Database != "" && f.Database != "" && e.Database != f.Database {
		return false
	}
	return e.Name == f.Name ||
		e.Prefix && strings.HasPrefix(f.Name, e.Name) ||
		f.Prefix && strings.HasPrefix(e.Name, f.Name)
}
