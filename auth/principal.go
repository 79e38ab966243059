// Package auth says who is connected and to which tenant that binds him: principals, and (beside
// them) how each kind of log-in arrives at one. It has no I/O and knows no connection: conversations
// are steps from bytes to bytes, and credentials are values.
package auth

import "github.com/smetasc/tenantry/config"

// Role is what a principal may do.
type Role uint8

// Roles. The last three are of one tenant; each may do what the one before it may.
const (
	// Application is the application's own user: all tenants' data.
	Application Role = iota
	// Operator may also ask the proxy what only operators ask.
	Operator
	// Reader, Writer and Owner read a tenant's data, change it, and change the definitions in the
	// tenant's own databases.
	Reader
	Writer
	Owner
)

// ParseRole reads a role as configurations write it.
func ParseRole(word string) (Role, bool) {
	for r, name := range roleNames {
		if name == word {
			return Role(r), true
		}
	}
	return 0, false
}

var roleNames = [...]string{"application", "operator", "read", "write", "owner"}

func (r Role) String() string { return roleNames[r] }

// OfTenant reports whether the role is of one tenant.
func (r Role) OfTenant() bool { return r >= Reader }

// Principal is who a connection belongs to. It is never changed.
type Principal struct {
	// User and Source are the name and the database that the client authenticated with; both are ""
	// on a listener without authentication.
	User, Source string
	Role         Role
	// Tenant is the key of the tenant that the connection is bound to; "" for none.
	Tenant string
	// Database says that the tenant's own database is the boundary (isolation "database"), and not
	// the rows with the tenant's id.
	Database bool

	record *config.User // whose password he knew; nil for who is no user of the file
}

// On is the principal on a listener that is bound to a tenant, where what the listener allows bounds
// him too; nil where he is of another tenant.
func (p *Principal) On(tenant string, access Role, database bool) *Principal {
	if p.Tenant != "" && p.Tenant != tenant {
		return nil
	}
	q := *p
	if !q.Role.OfTenant() { // of all tenants: what the listener is for bounds him
		q.Tenant, q.Database = tenant, database
	}
	if !q.Role.OfTenant() && access != Writer || q.Role > access {
		q.Role = access
	}
	return &q
}

// Anonymous is who comes to a listener without authentication that is bound to the tenant with the
// key, or to none.
func Anonymous(tenant string, access Role, database bool) *Principal {
	if tenant == "" {
		return &Principal{}
	}
	return &Principal{Role: access, Tenant: tenant, Database: database}
}

// Name tells principals apart: no other one's sessions, cursors and resume tokens are under it. Names of
// users hold no zero byte.
func (p *Principal) Name() string {
	switch {
	case p.User != "":
		return "user:" + p.Source + "\x00" + p.User + "\x00" + p.Tenant
	case p.Tenant != "":
		return "tenant:" + p.Tenant
	}
	return ""
}
