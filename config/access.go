package config

// WithAccess is this configuration with what the other one says about who may connect, and as whom: the
// listeners, [admin], [auth] with its users and certificates, and [[deny]]. None of it needs a server, so that
// it can be put in force while the rest can not be.
func (c *Config) WithAccess(of *Config) *Config {
	n := *c
	n.Listeners, n.Admin, n.Auth, n.Users, n.Certificates, n.Deny = of.Listeners, of.Admin, of.Auth, of.Users, of.Certificates, of.Deny
	n.files, n.lines = of.files, of.lines
	return &n
}
