package config

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// summaryTenants is how many tenants a summary lists; nobody reads a hundred thousand lines.
const summaryTenants = 50

// WriteSummary writes the effective configuration as aligned text for people, without secrets.
func (c *Config) WriteSummary(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, "  "+strings.Join(cells, "\t")) }
	title := func(text string) { fmt.Fprintln(t, "\n"+text) }
	c.summarizeRouting(row)
	title("Listeners")
	row("ADDRESS", "PRESENTATION", "TENANT", "ISOLATION", "ACCESS", "NOTES")
	for _, ln := range c.Listeners {
		row(ln.Address, ln.presentation(), dash(ln.Tenant), dash(ln.Isolation), dash(ln.Access), dash(ln.notes()))
	}
	title("Clusters")
	row("NAME", "URI", "ROLE")
	for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
		row(word(name), c.Clusters[name].URI.String(), dash(when(name == c.Routing.Home, "home")))
	}
	title("Databases")
	row("LOGICAL AND SHARED", "TENANTS' OWN")
	for _, d := range c.Routing.Databases {
		row(d.Shared, d.Tenant)
	}
	title("Modules")
	row("MODULE", "COLLECTIONS")
	for _, m := range c.Modules {
		row(word(m.Name), words(m.Collections))
	}
	row("(platform)", dash(words(c.Platform.Collections)))
	title(fmt.Sprintf("Tenants: %d", len(c.Tenants)))
	c.summarizeTenants(row)
	return t.Flush()
}

func (c *Config) summarizeRouting(row func(...string)) {
	row("mode", c.Routing.Mode)
	row("home", word(c.Routing.Home))
	row("admin", orElse(c.Admin.Address, "off")+when(c.Admin.TLS != nil, ", "+c.Admin.TLS.note()))
	row("control database", orElse(when(c.Control.Enabled, c.Control.Database), "none: the file alone decides"))
	row("tenant field", c.Routing.TenantField)
	for _, name := range slices.Sorted(maps.Keys(c.Routing.TenantFields)) {
		row("tenant field of "+word(name), c.Routing.TenantFields[name])
	}
	row("other databases", c.Routing.OtherDatabases)
	row("without tenant", c.Routing.WithoutTenant)
	row("modules to isolate", c.isolated(nil))
	if c.Auth.UsersFile != "" {
		row("users", fmt.Sprintf("%d in %s", len(c.Users), word(c.Auth.UsersFile)))
	}
	if len(c.Deny) > 0 {
		row("shut out", fmt.Sprintf("%d by [[deny]]", len(c.Deny)))
	}
	if n := len(c.Certificates); n > 0 {
		row("certificates", fmt.Sprintf("%d rules for clients' certificates", n))
	}
	if from := c.TenantsFrom; from != nil {
		row("tenants collection", fmt.Sprintf("%s.%s (id %s, key %s, mode %s)", from.Database, from.Name, from.ID, from.Key, from.Mode))
	}
}

func (c *Config) summarizeTenants(row func(...string)) {
	if len(c.Tenants) == 0 {
		return
	}
	row("KEY", "ID", "MODE", "CLUSTER", "MODULES", "SOURCE")
	for _, t := range c.Tenants[:min(len(c.Tenants), summaryTenants)] {
		row(word(t.Key), idText(t.ID), orElse(t.Mode, "(by default)"), word(orElse(t.Cluster, c.Routing.Home)),
			c.isolated(t.Modules), t.Source)
	}
	if more := len(c.Tenants) - summaryTenants; more > 0 {
		row("… and " + strconv.Itoa(more) + " more")
	}
}

// isolated is what "modules" comes to: a tenant's own, else the default, else all.
func (c *Config) isolated(modules []string) string {
	if modules == nil {
		modules = c.Routing.IsolateModules
	}
	if modules == nil {
		return "all"
	}
	return orElse(words(modules), "none")
}

func (ln Listener) presentation() string {
	if ln.ReplicaSet != "" {
		return ln.Presentation + " " + word(ln.ReplicaSet)
	}
	return ln.Presentation
}

func (ln Listener) notes() string {
	notes := []string{
		when(ln.LoadBalanced, "load balanced"),
		when(ln.Advertise != "", "advertises "+ln.Advertise),
		when(ln.IsSocket(), fmt.Sprintf("permissions %#o", ln.SocketMode)),
		when(ln.Insecure, "insecure"),
		when(ln.Auth != "", "auth "+ln.Auth),
		ln.TLS.note(),
	}
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), ", ")
}

// word is a name as it is where it is plain, else quoted: a tab or line end would break the table.
func word(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '"' }) || looksSecret(name) {
		return show(name)
	}
	return name
}

func words(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = word(name)
	}
	return strings.Join(quoted, ", ")
}

func when(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func dash(text string) string { return orElse(text, "-") }
