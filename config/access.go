package config

import "slices"

// WithAccess is this configuration with what the other one says about who may connect, and as whom: the
// listeners, [admin], [auth] with its users and certificates, and [[deny]]. None of it needs a server, so that
// it can be put in force while the rest can not be.
func (c *Config) WithAccess(of *Config) *Config {
	n := *c
	n.Listeners, n.Admin, n.Auth, n.Users, n.Certificates, n.Deny = of.Listeners, of.Admin, of.Auth, of.Users, of.Certificates, of.Deny
	n.files, n.lines = of.files, of.lines
	return &n
}

// BindsRows reports whether connections may come that are bound to a tenant's rows.
func (c *Config) BindsRows() bool {
	rows := func(tenant, isolation string) bool { return tenant != "" && isolation == "rows" }
	return slices.ContainsFunc(c.Listeners, func(l Listener) bool {
		return rows(l.Tenant, l.Isolation) || l.Auth == "scram" && slices.ContainsFunc(c.Users, func(u User) bool {
			return u.Tenant == "" || u.Isolation == "rows" // of all tenants: may log in as one of them
		})
	}) || slices.ContainsFunc(c.Certificates, func(x Certificate) bool { return x.Isolation == "rows" })
}
