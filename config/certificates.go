package config

import (
	"slices"
	"strings"
)

// Certificate is one of [[auth.certificates]]: who a client is whose certificate has this subject, or
// a name by this pattern; exactly one of the two is there.
type Certificate struct {
	Subject   string // by RFC 2253, the whole
	SAN       string // a DNS name or URI, with [TenantSlot] at most once
	Role      string // "application", "operator", "read", "write" or "owner"
	Tenant    string // key of the tenant that the client is bound to; "" for none, or by the pattern
	Isolation string // "rows" or "database"; "" where the client is bound to no tenant
}

// TenantSlot is where a pattern of names takes the tenant's key.
const TenantSlot = "{tenant}"

// ofTenant are the roles that are of one tenant.
var ofTenant = []string{"read", "write", "owner"}

// certificates reads [[auth.certificates]].
func (l *loader) certificates(auth *table) {
	for _, t := range auth.tables("certificates") {
		l.certificate(t)
	}
}

func (l *loader) certificate(t *table) {
	defer t.done()
	c := Certificate{
		Subject: t.optional("subject", ""), SAN: t.optional("san", ""), Tenant: t.optional("tenant", ""),
		Role: t.oneOf("role", "", append([]string{"application", "operator"}, ofTenant...)...),
	}
	if t.has("subject") == t.has("san") {
		l.refuse(t.at, "names not exactly one of subject and san", "write one rule for each")
	}
	if !t.has("role") {
		t.refuse("role", "is missing", `write "application" for all tenants, or "read", "write", "owner" for one`)
	}
	if why := badSubject(c.Subject); c.Subject != "" && why != "" {
		t.refuse("subject", why, `write it as "openssl x509 -noout -subject -nameopt RFC2253" does, like "CN=app,OU=services,O=example"`)
	}
	if why := badNamePattern(c.SAN); c.SAN != "" && why != "" {
		t.refuse("san", why, `write a name like "spiffe://example/tenant/{tenant}" or "{tenant}.clients.example"`)
	}
	l.certificateTenant(t, &c)
	l.cfg.Certificates = append(l.cfg.Certificates, c)
	l.certificateAt = append(l.certificateAt, t.at)
}

// certificateTenant checks that a role of one tenant has one, and no other role has.
func (l *loader) certificateTenant(t *table, c *Certificate) {
	slot := strings.Contains(c.SAN, TenantSlot)
	bound := slot || c.Tenant != ""
	switch {
	case slot && c.Tenant != "":
		t.refuse("tenant", "is given beside "+TenantSlot+" in san", "keep one of the two")
	case slices.Contains(ofTenant, c.Role) && !bound:
		t.refuse("role", show(c.Role)+" is of one tenant, and the rule names none", "add tenant, or "+TenantSlot+" in san")
	case c.Role != "" && !slices.Contains(ofTenant, c.Role) && bound:
		t.refuse("role", show(c.Role)+" is of all tenants, and the rule names one", `write "read", "write" or "owner"`)
	}
	if bound {
		c.Isolation = t.oneOf("isolation", "rows", "rows", "database")
	} else if t.known = append(t.known, "isolation"); t.has("isolation") {
		t.refuse("isolation", "has no meaning without a tenant", "name the tenant or remove it")
	}
}

// badSubject says why a text is not as the subjects are that it is compared with.
func badSubject(text string) string {
	if strings.HasPrefix(text, "/") {
		return show(text) + " is written with slashes"
	}
	for _, part := range splitUnescaped(text) {
		name, _, ok := strings.Cut(part, "=")
		if !ok || name == "" || strings.ContainsFunc(name, func(r rune) bool {
			return r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return show(text) + " has a part " + show(part) + " that is not TYPE=value, without blanks around it"
		}
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return show(text) + ` has a letter outside of ASCII, which a subject has as \XX for each byte`
	}
	return ""
}

// splitUnescaped cuts a subject at the commas and plus signs that separate its parts.
func splitUnescaped(text string) []string {
	var parts []string
	begin := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case ',', '+':
			parts = append(parts, text[begin:i])
			begin = i + 1
		}
	}
	return append(parts, text[begin:])
}

// badNamePattern says why a text can not be a pattern of names.
func badNamePattern(text string) string {
	before, after, open := strings.Cut(text, TenantSlot)
	switch {
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return show(text) + " has a blank or a letter outside of ASCII, which no such name has"
	case strings.ContainsAny(before+after, "{}"):
		return show(text) + " has braces other than one " + TenantSlot
	case strings.Contains(text, "*"):
		return show(text) + " has an asterisk, which stands for nothing"
	case open && (before != "" && !strings.HasSuffix(before, ".") && !strings.HasSuffix(before, "/") && !strings.HasSuffix(before, ":") ||
		after != "" && !strings.ContainsAny(after[:1], "./:")):
		return show(text) + " has " + TenantSlot + " beside other text, and it stands for a whole label or segment"
	case before+after == "" || strings.Trim(before+after, "./:") == "":
		return show(text) + " fits every name"
	}
	return ""
}

// checkCertificates finds what the rules, the listeners and the tenants say against each other.
func (l *loader) checkCertificates() {
	for i, ln := range l.cfg.Listeners {
		at := l.listenerAt[i].key("auth")
		switch {
		case ln.Auth != "x509":
		case len(l.cfg.Certificates) == 0:
			l.refuse(at, `"x509" needs rules that say who has which certificate`, "add [[auth.certificates]] with subject or san, and role")
		}
	}
	keys := make(map[string]bool, len(l.cfg.Tenants))
	for _, t := range l.cfg.Tenants {
		keys[t.Key] = true
	}
	for i, c := range l.cfg.Certificates {
		if c.Tenant != "" && !keys[c.Tenant] && l.cfg.TenantsFrom == nil {
			l.refuse(l.certificateAt[i].key("tenant"), show(c.Tenant)+" is not the key of a tenant",
				"add it to [[tenants]], or configure [tenants_collection]")
		}
	}
}
