package auth

import (
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"

	"github.com/smetasc/tenantry/config"
)

// X509 is the mechanism by which clients log in with the certificate of their TLS connection, and
// External the database that such users are of.
const (
	X509     = "MONGODB-X509"
	External = "$external"
)

// OfCertificate is who logs in by a client's certificate, whose chain has been verified: the first
// rule that fits says it; nil for nobody. A certificate by which one rule makes several tenants is
// nobody's, whatever further rules say.
func OfCertificate(c *x509.Certificate, rules []config.Certificate) *Principal {
	subject, ok := Subject(c)
	if !ok {
		return nil
	}
	names, ok := alternativeNames(c)
	if !ok {
		return nil
	}
	for _, r := range rules {
		name, tenants := fits(r, subject, names)
		if len(tenants) == 0 {
			continue
		}
		role, known := ParseRole(r.Role)
		if len(tenants) > 1 || !known {
			return nil
		}
		return &Principal{
			User: cmp.Or(subject, name), Source: External,
			Role: role, Tenant: tenants[0], Database: r.Isolation == "database",
		}
	}
	return nil
}

// fits tells by which name a rule fits, and the tenants that it makes ("" is none of them); it fits
// by none where there are no tenants.
func fits(r config.Certificate, subject string, names []string) (name string, tenants []string) {
	if r.Subject != "" {
		if subject == r.Subject {
			tenants = []string{r.Tenant}
		}
		return subject, tenants
	}
	for _, n := range names {
		if tenant, ok := matchName(r.SAN, n); ok {
			if tenant = cmp.Or(tenant, r.Tenant); !slices.Contains(tenants, tenant) {
				name, tenants = n, append(tenants, tenant)
			}
		}
	}
	return name, tenants
}

// matchName holds a name of a certificate against the whole of a pattern. What stands for the
// placeholder can only be a key, and so is within one label or segment. Host names are compared as
// lower case, URIs byte by byte.
func matchName(pattern, name string) (tenant string, ok bool) {
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", false // neither kind has such letters, and some would be others in lower case
	}
	before, after, open := strings.Cut(pattern, config.TenantSlot)
	if !isURI(pattern) && !isURI(name) {
		before, after, name = strings.ToLower(before), strings.ToLower(after), strings.ToLower(name)
	}
	if !open {
		return "", before != "" && before == name
	}
	rest, begins := strings.CutPrefix(name, before)
	rest, ends := strings.CutSuffix(rest, after)
	return rest, begins && ends && isKey(rest)
}

// isURI tells names with a scheme from names of hosts, which have no colon.
func isURI(name string) bool { return strings.Contains(name, ":") }

// isKey reports whether a name's part could be a tenant's key. Keys with other letters exist; they
// can't be told from certificates, where they would have several spellings.
func isKey(s string) bool {
	return s != "" && len(s) <= 63 && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// Tags of GeneralName in RFC 5280, section 4.2.1.6.
const (
	tagDNS = 2
	tagURI = 6
)

// alternativeNames are the DNS names and URIs of the subject's alternative names, byte by byte as
// they stand in the certificate: a parsed URI has lost what an empty fragment or an escape was.
func alternativeNames(c *x509.Certificate) (names []string, ok bool) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var all []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &all); err != nil || len(rest) > 0 {
			return nil, false
		}
		for _, n := range all {
			switch {
			case n.Class != asn1.ClassContextSpecific:
			case n.Tag == tagURI && isURI(string(n.Bytes)), n.Tag == tagDNS && !isURI(string(n.Bytes)):
				names = append(names, string(n.Bytes))
			}
		}
	}
	return names, true
}

// Subject is a certificate's subject as servers write it and clients name it: by RFC 2253, the last
// part first, with the short names of the types that have one; "" for an empty one. Not ok is one
// with values that are no text.
func Subject(c *x509.Certificate) (subject string, ok bool) {
	var parts pkix.RDNSequence
	if rest, err := asn1.Unmarshal(c.RawSubject, &parts); err != nil || len(rest) > 0 {
		return "", false
	}
	var b strings.Builder
	for i, part := range slices.Backward(parts) {
		if i < len(parts)-1 {
			b.WriteByte(',')
		}
		for j, v := range slices.Backward(part) {
			text, ok := v.Value.(string)
			if !ok || strings.ContainsRune(text, 0) {
				return "", false
			}
			if j < len(part)-1 {
				b.WriteByte('+')
			}
			name := v.Type.String()
			b.WriteString(cmp.Or(attributes[name], name))
			b.WriteByte('=')
			escape(&b, text)
		}
	}
	return b.String(), true
}

// attributes are the short names that OpenSSL has for the types that occur in subjects.
var attributes = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L",
	"2.5.4.8": "ST", "2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title",
	"2.5.4.13": "description", "2.5.4.15": "businessCategory", "2.5.4.16": "postalAddress",
	"2.5.4.17": "postalCode", "2.5.4.41": "name", "2.5.4.42": "GN", "2.5.4.43": "initials",
	"2.5.4.44": "generationQualifier", "2.5.4.45": "x500UniqueIdentifier", "2.5.4.46": "dnQualifier",
	"2.5.4.65": "pseudonym", "2.5.4.72": "role", "2.5.4.97": "organizationIdentifier",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
}

const upperHex = "0123456789ABCDEF"

// escape writes a value by RFC 2253, section 2.4, with bytes above ASCII in hex as servers do.
func escape(b *strings.Builder, text string) {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 0x80:
			b.WriteByte('\\')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
			continue
		case strings.IndexByte(`,+"\<>;`, c) >= 0, i == 0 && (c == ' ' || c == '#'), i == len(text)-1 && c == ' ':
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
}
