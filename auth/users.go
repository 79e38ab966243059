package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/smetasc/tenantry/config"
)

// Users is who may log in; it never changes.
type Users struct {
	byName map[identity]*config.User
	shapes map[string]config.Credential // what unknown users' look like, by mechanism
}

type identity struct{ source, name string }

// NewUsers makes the users of a configuration, which has seen to it that all credentials of a
// mechanism have one shape.
func NewUsers(list []config.User) *Users {
	u := &Users{byName: make(map[identity]*config.User, len(list)), shapes: map[string]config.Credential{}}
	for name, m := range mechanisms {
		u.shapes[name] = config.Credential{Iterations: m.iterations, Salt: strings.Repeat("\x00", m.salt)}
	}
	for i := range list {
		x := &list[i]
		u.byName[identity{x.Source, x.Name}] = x
		for _, c := range x.Credentials {
			u.shapes[c.Mechanism] = c
		}
	}
	return u
}

// plus separates the tenant in a name: app+acme is the user app, who logs in for the tenant acme.
const plus = "+"

// account is what a name that a client logs in with comes to.
type account struct {
	user   *config.User // nil: nobody may log in by this name
	name   string       // that the credential is of, whether there is such a user or not
	tenant string       // that the name asks for
}

// find takes a name apart. A user who is named with a plus himself comes first.
func (u *Users) find(source, name string) account {
	if x := u.byName[identity{source, name}]; x != nil {
		return account{user: x, name: name}
	}
	base, tenant, cut := cutLast(name)
	if !cut {
		return account{name: name}
	}
	a := account{name: base, tenant: tenant}
	if x := u.byName[identity{source, base}]; x != nil && x.Tenant == "" && tenant != "" {
		a.user = x
	}
	return a
}

func cutLast(name string) (base, tenant string, ok bool) {
	i := strings.LastIndex(name, plus)
	if i < 0 {
		return name, "", false
	}
	return name[:i], name[i+len(plus):], true
}

// credential is what a log-in of the account is checked against. Whom nobody knows gets one too,
// with the same salt whenever he is asked for, and so does a name with a plus the salt of the name
// before it: neither tells who is a user. The work is the same for all.
func (u *Users) credential(a account, source, mech string, secret []byte) (c config.Credential, known bool) {
	fake := fakeCredential(u.shapes[mech], secret, mech, source, a.name)
	owner := u.byName[identity{source, a.name}]
	if owner == nil {
		return fake, false
	}
	i := slices.IndexFunc(owner.Credentials, func(c config.Credential) bool { return c.Mechanism == mech })
	if i < 0 {
		return fake, false
	}
	return owner.Credentials[i], a.user != nil
}

// fakeCredential is one that no password fits, since its StoredKey is no hash of anything known.
func fakeCredential(shape config.Credential, secret []byte, mech, source, name string) config.Credential {
	key, err := hkdf.Key(sha256.New, secret, nil, "tenantry unknown users", 32)
	if err != nil {
		panic(err) // the length is a constant, and right
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range []string{mech, source, name} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	long, err := hkdf.Expand(sha256.New, mac.Sum(nil), "salt and keys", len(shape.Salt)+64)
	if err != nil {
		panic(err)
	}
	n := len(shape.Salt)
	size := mechanisms[mech].hash().Size()
	return config.Credential{
		Mechanism: mech, Iterations: shape.Iterations, Salt: string(long[:n]),
		StoredKey: string(long[n : n+size]), ServerKey: string(long[n+32 : n+32+size]),
	}
}

// principal is who logs in by the name.
func (a account) principal(source, name string) *Principal {
	role, _ := ParseRole(a.user.Role)
	p := &Principal{User: name, Source: source, Role: role, Tenant: a.user.Tenant, Database: a.user.Isolation == "database", record: a.user}
	if a.tenant != "" {
		p.Tenant = a.tenant
	}
	return p
}

// Still reports whether the principal, who has logged in by a user's name, would come to be the same
// now: his user has neither gone nor another role, tenant or password.
func (u *Users) Still(p *Principal) bool {
	if p.record == nil {
		return true // no user of the file
	}
	is := u.find(p.Source, p.User).user
	was := p.record
	return is == was || is != nil && is.Name == was.Name && is.Role == was.Role && is.Tenant == was.Tenant &&
		is.Isolation == was.Isolation && slices.Equal(is.Credentials, was.Credentials)
}

// Account is the name of the user whose password the principal knew: without the tenant that he
// logged in for.
func (p *Principal) Account() string {
	if p.record == nil {
		return p.User
	}
	return p.record.Name
}
