package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Auth is [auth]: how clients authenticate on the listeners that ask for it.
type Auth struct {
	UsersFile  string   // path of the users file; "" where there is none
	Mechanisms []string // of SCRAM, in the order that clients are told them

	// How many failed log-ins are let through within FailurePeriod, from one address and for one
	// user from one address; 0 is no limit.
	AddressFailures, UserFailures int
	FailurePeriod                 time.Duration
}

// Deny is one of [[deny]]: who is shut out, by exactly one of the three, and why.
type Deny struct {
	Tenant  string
	User    string // whatever its source, with every tenant that it logs in for
	Address netip.Prefix
	Reason  string // what the client is told
}

// auth reads [auth] and the users file.
func (l *loader) auth(t *table) {
	l.cfg.Auth = Auth{
		Mechanisms:      t.list("mechanisms"),
		AddressFailures: t.number("address_failures", 60, 0),
		UserFailures:    t.number("user_failures", 20, 0),
		FailurePeriod:   t.duration("failure_period", time.Minute, false),
	}
	l.mechanisms(t)
	if name := t.optional("users_file", ""); name != "" {
		l.users(t.at.key("users_file"), name)
	}
	l.certificates(t)
	t.done()
}

func (l *loader) mechanisms(t *table) {
	a := &l.cfg.Auth
	if a.Mechanisms == nil {
		a.Mechanisms = []string{ScramSHA256}
	} else if len(a.Mechanisms) == 0 {
		t.refuse("mechanisms", "there is none", `name some, or remove it for ["`+ScramSHA256+`"]`)
	}
	for i, m := range a.Mechanisms {
		at := t.at.key("mechanisms").item(i)
		if m != "" && !slices.Contains(scramMechanisms, m) {
			l.refuse(at, show(m)+" is not a choice", "write one of "+alternatives(scramMechanisms))
		} else if slices.Index(a.Mechanisms, m) < i {
			l.refuse(at, show(m)+" is there already", "keep one of the two")
		}
	}
}

// deny reads one of [[deny]].
func (l *loader) deny(t *table) {
	d := Deny{Tenant: t.optional("tenant", ""), User: t.optional("user", "")}
	if text := t.optional("address", ""); text != "" {
		d.Address = l.prefix(t, text)
	}
	n := 0
	for _, key := range []string{"tenant", "user", "address"} {
		if t.has(key) {
			n++
		}
	}
	if n != 1 {
		l.refuse(t.at, "names not exactly one of tenant, user and address", "write one [[deny]] for each")
	}
	d.Reason, _ = t.required("reason", "say what the client is to be told")
	t.done()
	l.cfg.Deny = append(l.cfg.Deny, d)
	l.denyAt = append(l.denyAt, t.at)
}

// prefix reads an address or a block of addresses.
func (l *loader) prefix(t *table, text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		t.refuse("address", show(text)+" is no address", `write one, or a block of them, like "192.0.2.7" or "2001:db8::/32"`)
	case p != p.Masked():
		t.refuse("address", show(text)+" has bits behind its length", "write "+show(p.Masked().String()))
	}
	return p
}

// checkAuth finds what [auth], the listeners and the users file say against each other.
func (l *loader) checkAuth() {
	asks := false
	for i, ln := range l.cfg.Listeners {
		if ln.Auth != "scram" {
			continue
		}
		asks = true
		if at := l.listenerAt[i].key("auth"); l.cfg.Auth.UsersFile == "" {
			l.refuse(at, `"scram" needs users`, `set users_file under [auth]; tenantry user add makes the file`)
		}
	}
	l.checkUsers()
	l.checkDeny()
	if c := l.cfg.Control; asks && !c.Enabled && c.FleetKeyFile == "" {
		l.warn(l.root.key("control"), "without a fleet key that outlives a restart, names that are no user's can be told from those that are",
			"set fleet_key_file")
	}
}

// checkDeny warns where a name is nobody's: a misspelt one shuts nobody out.
func (l *loader) checkDeny() {
	for i, d := range l.cfg.Deny {
		at := l.denyAt[i]
		if d.Tenant != "" && l.cfg.TenantsFrom == nil && !slices.ContainsFunc(l.cfg.Tenants, func(t Tenant) bool { return t.Key == d.Tenant }) {
			l.warn(at.key("tenant"), show(d.Tenant)+" is not the key of a tenant", "correct or remove it")
		}
		name, _, _ := strings.Cut(d.User, "+")
		if d.User != "" && len(l.cfg.Certificates) == 0 && !slices.ContainsFunc(l.cfg.Users, func(u User) bool { return u.Name == d.User || u.Name == name }) {
			l.warn(at.key("user"), show(d.User)+" is not the name of a user", "correct or remove it")
		}
	}
}
