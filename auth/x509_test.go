package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire/wiretest"
)

var (
	typeO  = asn1.ObjectIdentifier{2, 5, 4, 10}
	typeOU = asn1.ObjectIdentifier{2, 5, 4, 11}
	typeCN = asn1.ObjectIdentifier{2, 5, 4, 3}
)

type attribute = pkix.AttributeTypeAndValue

// named is a certificate with this subject.
func named(t testing.TB, parts pkix.RDNSequence) *x509.Certificate {
	t.Helper()
	raw, err := asn1.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{RawSubject: raw}
}

func TestSubject(t *testing.T) {
	one := func(kind asn1.ObjectIdentifier, value any) pkix.RelativeDistinguishedNameSET {
		return pkix.RelativeDistinguishedNameSET{{Type: kind, Value: value}}
	}
	for _, tt := range []struct {
		parts pkix.RDNSequence
		want  string // "no" where there is none
	}{
		{nil, ""},
		{pkix.RDNSequence{one(typeO, "smetasc"), one(typeOU, "services"), one(typeCN, "app")}, "CN=app,OU=services,O=smetasc"},
		{pkix.RDNSequence{one(typeO, "a,b"), one(typeCN, `+"\<>;=`)}, `CN=\+\"\\\<\>\;=,O=a\,b`},
		{pkix.RDNSequence{one(typeCN, " #x ")}, `CN=\ #x\ `},
		{pkix.RDNSequence{one(typeCN, "# x")}, `CN=\# x`},
		{pkix.RDNSequence{one(typeCN, " ")}, `CN=\ `},
		{pkix.RDNSequence{one(typeCN, "")}, `CN=`},
		{pkix.RDNSequence{one(typeCN, "Müller")}, `CN=M\C3\BCller`},
		{pkix.RDNSequence{{{Type: typeCN, Value: "a"}, {Type: typeOU, Value: "b"}}, one(typeO, "c")}, "O=c,OU=b+CN=a"},
		{pkix.RDNSequence{one(asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, "example"), one(asn1.ObjectIdentifier{1, 2, 3}, "x")}, "1.2.3=x,DC=example"},
		{pkix.RDNSequence{one(typeCN, "app\x00evil")}, "no"},
		{pkix.RDNSequence{one(typeCN, 7)}, "no"},
		{pkix.RDNSequence{one(typeCN, []byte("app"))}, "no"},
	} {
		got, ok := Subject(named(t, tt.parts))
		if ok != (tt.want != "no") || ok && got != tt.want {
			t.Errorf("%v: got %q, %v", tt.parts, got, ok)
		}
	}
	for _, raw := range [][]byte{nil, {0x30}, {0x30, 0, 0}, {2, 1, 1}} {
		if got, ok := Subject(&x509.Certificate{RawSubject: raw}); ok {
			t.Errorf("% x: %q", raw, got)
		}
	}
}

// TestSubjectAsOpenSSL: another implementation, from which people copy what they configure.
func TestSubjectAsOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	ca := wiretest.NewAuthority(t)
	made := ca.Issue("app", func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		for _, text := range []string{"smetasc, Ltd.", "Büro #1", "#1 \"x\" <a+b>; \\ ", " app"} {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, attribute{Type: typeOU, Value: text})
		}
		for _, id := range []asn1.ObjectIdentifier{{2, 5, 4, 5}, {2, 5, 4, 9}, {2, 5, 4, 97}, {1, 2, 840, 113549, 1, 9, 1}, {0, 9, 2342, 19200300, 100, 1, 1}, {2, 5, 4, 42}} {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, attribute{Type: id, Value: "x"})
		}
	})
	out, err := exec.Command(openssl, "x509", "-in", made.File, "-noout", "-subject", "-nameopt", "RFC2253").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSuffix(strings.TrimPrefix(string(out), "subject="), "\n")
	if got, ok := Subject(made.Leaf); !ok || got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// FuzzSubject: two subjects never have one text, since what they were made of can be read from it.
func FuzzSubject(f *testing.F) {
	for _, text := range []string{"app", "a,O=b", `\`, " ", "#", "ü", "a+OU=b", "a\x00b", ""} {
		f.Add(text, "x,y")
		f.Add("x", text)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		raw, err := asn1.Marshal(pkix.RDNSequence{{{Type: typeO, Value: one}}, {{Type: typeCN, Value: two}}})
		if err != nil {
			return // no text of ASN.1
		}
		got, ok := Subject(&x509.Certificate{RawSubject: raw})
		if strings.ContainsRune(one+two, 0) {
			if ok {
				t.Errorf("a NUL is taken: %q", got)
			}
			return
		}
		want := []string{"CN=" + two, "O=" + one}
		if parts := unescaped(t, got); !ok || !slices.Equal(parts, want) {
			t.Errorf("%q of %q is read as %q", got, want, parts)
		}
	})
}

// unescaped takes a subject apart as RFC 2253, section 4, says.
func unescaped(t *testing.T, text string) []string {
	var parts []string
	var part []byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ',' || c == '+':
			parts, part = append(parts, string(part)), nil
		case c >= 0x80:
			t.Errorf("%q is not ASCII", text)
		case c != '\\':
			part = append(part, c)
		case i+2 < len(text) && strings.Contains(upperHex, text[i+1:i+2]) && strings.Contains(upperHex, text[i+2:i+3]):
			part = append(part, byte(strings.Index(upperHex, text[i+1:i+2])<<4|strings.Index(upperHex, text[i+2:i+3])))
			i += 2
		default:
			i++
			part = append(part, text[i])
		}
	}
	return append(parts, string(part))
}

func TestMatchName(t *testing.T) {
	const spiffe, host = "spiffe://smetasc/tenant/{tenant}", "{tenant}.clients.example"
	long := strings.Repeat("a", 63)
	for _, tt := range []struct{ pattern, name, tenant string }{
		{spiffe, "spiffe://smetasc/tenant/acme", "acme"},
		{spiffe, "spiffe://smetasc/tenant/Acme_2-x", "Acme_2-x"},
		{spiffe, "spiffe://smetasc/tenant/" + long, long},
		{host, "acme.clients.example", "acme"},
		{host, "ACME.Clients.Example", "acme"},
		{"spiffe://{tenant}/app", "spiffe://acme/app", "acme"},
		{"urn:tenant:{tenant}", "urn:tenant:acme", "acme"},
	} {
		if got, ok := matchName(tt.pattern, tt.name); !ok || got != tt.tenant {
			t.Errorf("%s, %s: %q, %v", tt.pattern, tt.name, got, ok)
		}
	}
	for _, tt := range []struct{ pattern, name string }{
		{spiffe, "spiffe://smetasc/tenant/"},
		{spiffe, "spiffe://smetasc/tenant"},
		{spiffe, "spiffe://smetasc/tenant/acme/"},
		{spiffe, "spiffe://smetasc/tenant/acme/globex"},
		{spiffe, "spiffe://smetasc/tenant/../tenant/acme"},
		{spiffe, "spiffe://smetasc/tenant//acme"},
		{spiffe, "spiffe://smetasc/tenant/ac%6De"},
		{spiffe, "spiffe://smetasc/tenant/acme#"},
		{spiffe, "spiffe://smetasc/tenant/acme?x"},
		{spiffe, "spiffe://smetasc/tenant/acme;x"},
		{spiffe, "spiffe://smetasc/tenant/acme\x00"},
		{spiffe, "spiffe://smetasc/tenant/acme\n"},
		{spiffe, "spiffe://smetasc/tenant/acmé"},
		{spiffe, "spiffe://smetasc/tenant/аcme"}, // a Cyrillic a
		{spiffe, "spiffe://smetasc/tenant/{tenant}"},
		{spiffe, "spiffe://smetasc/tenant/*"},
		{spiffe, "spiffe://smetasc/tenant/a.b"},
		{spiffe, "spiffe://smetasc/tenant/" + long + "a"},
		{spiffe, "spiffe://SMETASC/tenant/acme"},
		{spiffe, "xspiffe://smetasc/tenant/acme"},
		{spiffe, "spiffe://evil@smetasc/tenant/acme"},
		{spiffe, "https://evil/?spiffe://smetasc/tenant/acme"},
		{host, "*.clients.example"},
		{host, ".clients.example"},
		{host, "a.b.clients.example"},
		{host, "acme.clients.example."},
		{host, "acme.clients.example.evil"},
		{host, "evilclients.example"},
		{host, "acme.clients.eKample"},
		{host, "\u212Aelvin.clients.example"}, // the sign for kelvin is a k in lower case
		{host, "https://acme.clients.example"},
		{"app.example", "app.example.evil"},
		{"app.example", "xapp.example"},
		{"", ""},
	} {
		if got, ok := matchName(tt.pattern, tt.name); ok {
			t.Errorf("%s fits %q: %q", tt.pattern, tt.name, got)
		}
	}
}

// FuzzMatchName: what fits is the pattern with a key in it, and nothing else.
func FuzzMatchName(f *testing.F) {
	for _, name := range []string{"spiffe://smetasc/tenant/acme", "acme.clients.example", "ACME.CLIENTS.example", "a:b", "\u212A", ""} {
		for _, pattern := range []string{"spiffe://smetasc/tenant/{tenant}", "{tenant}.clients.example", "{tenant}", "{TENANT}", ""} {
			f.Add(pattern, name)
		}
	}
	key := regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	f.Fuzz(func(t *testing.T, pattern, name string) {
		tenant, ok := matchName(pattern, name)
		if !ok {
			return
		}
		made := strings.Replace(pattern, config.TenantSlot, tenant, 1)
		if made == pattern && tenant != "" && tenant != config.TenantSlot || made != pattern && !key.MatchString(tenant) {
			t.Errorf("%q, %q: %q is no key", pattern, name, tenant)
		}
		if made != name && (strings.Contains(name, ":") || !strings.EqualFold(made, name)) {
			t.Errorf("%q fits %q as %q", name, pattern, tenant)
		}
	})
}

var rules = []config.Certificate{
	{Subject: "CN=app,O=smetasc", Role: "application"},
	{Subject: "CN=ops,O=smetasc", Role: "operator"},
	{Subject: "CN=both,O=smetasc", Role: "read", Tenant: "globex", Isolation: "rows"},
	{SAN: "spiffe://smetasc/tenant/{tenant}", Role: "write", Isolation: "database"},
	{SAN: "{tenant}.clients.example", Role: "owner", Isolation: "rows"},
	{SAN: "reports.example", Role: "read", Tenant: "acme", Isolation: "rows"},
}

func TestOfCertificate(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	issue := func(cn string, names ...string) *x509.Certificate {
		return ca.Issue("client", func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: cn, Organization: []string{"smetasc"}}
			if cn == "" {
				c.Subject = pkix.Name{}
			}
			for _, n := range names {
				if u, err := url.Parse(n); err == nil && u.Scheme != "" {
					c.URIs = append(c.URIs, u)
				} else {
					c.DNSNames = append(c.DNSNames, n)
				}
			}
		}).Leaf
	}
	for _, tt := range []struct {
		name string
		cert *x509.Certificate
		want *Principal
	}{
		{"application", issue("app"), &Principal{User: "CN=app,O=smetasc", Source: "$external", Role: Application}},
		{"operator", issue("ops"), &Principal{User: "CN=ops,O=smetasc", Source: "$external", Role: Operator}},
		{"by a URI", issue("x", "https://other/", "spiffe://smetasc/tenant/acme"), &Principal{User: "CN=x,O=smetasc", Source: "$external", Role: Writer, Tenant: "acme", Database: true}},
		{"by a host's name", issue("x", "other.example", "acme.clients.example"), &Principal{User: "CN=x,O=smetasc", Source: "$external", Role: Owner, Tenant: "acme"}},
		{"by a fixed name", issue("x", "reports.example"), &Principal{User: "CN=x,O=smetasc", Source: "$external", Role: Reader, Tenant: "acme"}},
		{"no subject", issue("", "spiffe://smetasc/tenant/acme"), &Principal{User: "spiffe://smetasc/tenant/acme", Source: "$external", Role: Writer, Tenant: "acme", Database: true}},
		{"the first rule", issue("both", "spiffe://smetasc/tenant/acme"), &Principal{User: "CN=both,O=smetasc", Source: "$external", Role: Reader, Tenant: "globex"}},
		{"twice the same", issue("x", "acme.clients.example", "ACME.clients.example"), &Principal{User: "CN=x,O=smetasc", Source: "$external", Role: Owner, Tenant: "acme"}},
		{"nobody", issue("x"), nil},
		{"nobody, without a subject", issue(""), nil},
		{"two tenants", issue("x", "spiffe://smetasc/tenant/acme", "spiffe://smetasc/tenant/globex"), nil},
		{"two tenants by one rule, one by the next", issue("x", "spiffe://smetasc/tenant/acme", "spiffe://smetasc/tenant/globex", "acme.clients.example"), nil},
		{"a wildcard", issue("x", "*.clients.example"), nil},
		{"an escape", issue("x", "spiffe://smetasc/tenant/ac%6De"), nil},
		{"another subject that reads alike", issue("app,O=smetasc"), nil},
	} {
		got := OfCertificate(tt.cert, rules)
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if p := OfCertificate(issue("x", "reports.example"), []config.Certificate{{SAN: "reports.example", Role: "king"}}); p != nil {
		t.Errorf("a role that there is not: %+v", p)
	}
	if p := OfCertificate(issue("x", "reports.example"), []config.Certificate{{Role: "operator"}, {}}); p != nil {
		t.Errorf("a rule that says nothing: %+v", p)
	}
}

// TestHostileNames: names of another kind, and such as a parser would have made smooth.
func TestHostileNames(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	for _, tt := range []struct {
		tag  int
		name string
	}{
		{tagDNS, "spiffe://smetasc/tenant/acme"}, // of the wrong kind
		{tagURI, "acme.clients.example"},
		{1, "acme.clients.example"}, // a mail address
		{tagURI, "spiffe://smetasc/tenant/acme#"},
		{tagURI, "spiffe://smetasc/tenant/acme?"},
		{tagURI, "spiffe://@smetasc/tenant/acme"},
		{tagURI, "SPIFFE://smetasc/tenant/acme"},
	} {
		names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tt.tag, Bytes: []byte(tt.name)}})
		if err != nil {
			t.Fatal(err)
		}
		made := ca.Issue("client", func(c *x509.Certificate) {
			c.IPAddresses = nil
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}
		})
		if p := OfCertificate(made.Leaf, rules); p != nil {
			t.Errorf("%d %s: %+v", tt.tag, tt.name, p)
		}
	}
}
