package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

const certificateRules = `
[[tenants]]
id = "acme"
key = "acme"
[[auth.certificates]]
subject = "CN=app,O=smetasc"
role = "application"
[[auth.certificates]]
san = "spiffe://smetasc/tenant/{tenant}"
role = "write"
isolation = "database"
`

// askingCertificates is a ground whose listener asks for certificates, and the authority of these.
func askingCertificates(t *testing.T) (*ground, *wiretest.Authority) {
	t.Helper()
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	g.proxy.Apply(configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+certificateRules))
	return g, ca
}

// come is a client with a certificate of this name and these URIs; none where the name is "".
func (g *ground) come(ca *wiretest.Authority, cn string, uris ...string) *wiretest.Client {
	g.t.Helper()
	settings := &tls.Config{RootCAs: ca.Pool()}
	if cn != "" {
		own := ca.Issue("client", func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: cn, Organization: []string{"smetasc"}}
			for _, u := range uris {
				parsed, err := url.Parse(u)
				if err != nil {
					g.t.Fatal(err)
				}
				c.URIs = append(c.URIs, parsed)
			}
		})
		settings.Certificates = []tls.Certificate{own.Certificate}
	}
	client, err := g.dialTLS(settings)
	if err != nil {
		g.t.Fatal(err)
	}
	return client
}

// authenticate is the command as drivers send it, with further fields.
func authenticate(more ...any) bson.D {
	return append(append(d("authenticate", 1, "mechanism", "MONGODB-X509"), d(more...)...), d("$db", "$external")...)
}

// answerCode is that of the answer to a command; 0 where it succeeds.
func answerCode(c *wiretest.Client, cmd bson.D) (int32, bson.D) {
	r := wiretest.Decode(c.Command(cmd))
	n, _ := wiretest.Get(r, "code").(int32)
	return n, r
}

func TestX509(t *testing.T) {
	g, ca := askingCertificates(t)
	find := d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")
	for _, tt := range []struct {
		name, cn, uri string
		cmd           bson.D
		want          int32
	}{
		{"application", "app", "", authenticate(), 0},
		{"no user", "app", "", authenticate("user", ""), 0},
		{"its own subject", "app", "", authenticate("user", "CN=app,O=smetasc"), 0},
		{"old drivers' fields", "app", "", authenticate("nonce", "x"), 0},
		{"by a URI", "x", "spiffe://smetasc/tenant/acme", authenticate(), 0},
		{"another's subject", "app", "", authenticate("user", "CN=ops,O=smetasc"), 18},
		{"the subject in another order", "app", "", authenticate("user", "O=smetasc,CN=app"), 18},
		{"a user that is no text", "app", "", authenticate("user", 1), 18},
		{"no rule", "stranger", "", authenticate(), 18},
		{"no rule for the URI", "x", "spiffe://smetasc/tenant/acme/more", authenticate(), 18},
		{"no certificate", "", "", authenticate(), 18},
		{"no certificate, somebody's name", "", "", authenticate("user", "CN=app,O=smetasc"), 18},
		{"another database", "app", "", d("authenticate", 1, "mechanism", "MONGODB-X509", "$db", "admin"), 18},
		{"another mechanism", "app", "", d("authenticate", 1, "mechanism", "MONGODB-CR", "$db", "$external"), 334},
		{"no mechanism", "app", "", d("authenticate", 1, "$db", "$external"), 334},
		{"SCRAM", "app", "", d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte("n,,n=app,r=x"), "$db", "admin"), 334},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := g.come(ca, tt.cn, strings.Fields(tt.uri)...)
			if n, r := answerCode(c, find); n != 13 || !strings.Contains(fmt.Sprint(r), "requires authentication") {
				t.Errorf("before: %v", r)
			}
			got, r := answerCode(c, tt.cmd)
			if got != tt.want {
				t.Errorf("code %d, want %d: %v", got, tt.want, r)
			}
			if n, r := answerCode(c, find); (n == 0) != (tt.want == 0) || n != 0 && n != 13 {
				t.Errorf("after: %v", r)
			}
			if tt.want == 0 && (wiretest.Get(r, "dbname") != "$external" || !strings.HasPrefix(wiretest.Get(r, "user").(string), "CN=")) {
				t.Errorf("the answer: %v", r)
			}
		})
	}
}

// TestBeforeLogin: what a stranger may ask reaches no server, and everything else is 13.
func TestBeforeLogin(t *testing.T) {
	g, ca := askingCertificates(t)
	c := g.come(ca, "app")
	g.server.Forget()
	for _, cmd := range []bson.D{
		d("hello", 1), d("isMaster", 1), d("ping", 1), d("endSessions", bson.A{d("id", bson.Binary{Subtype: 4, Data: make([]byte, 16)})}), d("logout", 1),
	} {
		if n, r := answerCode(c, append(cmd, d("$db", "admin")...)); n != 0 {
			t.Errorf("%v: %v", cmd, r)
		}
	}
	for _, cmd := range []bson.D{
		d("find", "orders"), d("insert", "orders"), d("getMore", int64(1), "collection", "orders"), d("aggregate", 1),
		d("listDatabases", 1), d("serverStatus", 1), d("getParameter", "*"), d("getLog", "*"), d("startSession", 1),
		d("commitTransaction", 1), d("tenantryExplain", d("find", "orders")), d("listCommands", 1), d("noSuchCommand", 1), d("killCursors", "orders"),
	} {
		if n, r := answerCode(c, append(cmd, d("$db", "app")...)); n != 13 {
			t.Errorf("%v: %v", cmd, r)
		}
	}
	for _, asked := range g.server.Commands() {
		if !wire.IsHello(asked.Name) { // which is the monitors'
			t.Errorf("a server was asked %s", asked.Name)
		}
	}
	long := wire.AppendMessage(nil, 1, 0, 0, wiretest.D(d("ping", strings.Repeat("x", maxStranger), "$db", "admin")))
	if err := c.SendFrame(long); err != nil {
		t.Fatal(err)
	}
	c.Closed()
}

// TestX509Speculative: the log-in in a hello, also an old one, saves a round trip; where it fails the
// hello is answered as if it had not been there.
func TestX509Speculative(t *testing.T) {
	g, ca := askingCertificates(t)
	begin := func(more ...any) bson.D {
		return d("hello", 1, "speculativeAuthenticate", append(d("authenticate", 1, "mechanism", "MONGODB-X509"), d(more...)...), "$db", "admin")
	}
	for _, tt := range []struct {
		name, cn string
		hello    bson.D
		in       bool
	}{
		{"plain", "app", begin(), true},
		{"with its database", "app", begin("db", "$external"), true},
		{"with its user", "app", begin("user", "CN=app,O=smetasc"), true},
		{"another database", "app", begin("db", "admin"), false},
		{"a database that is no text", "app", begin("db", 1), false},
		{"another user", "app", begin("user", "CN=ops,O=smetasc"), false},
		{"nobody", "stranger", begin(), false},
		{"no certificate", "", begin(), false},
		{"SCRAM", "app", d("hello", 1, "speculativeAuthenticate", d("saslStart", 1, "mechanism", "MONGODB-X509"), "$db", "admin"), false},
		{"no document", "app", d("hello", 1, "speculativeAuthenticate", 1, "$db", "admin"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := g.come(ca, tt.cn)
			n, r := answerCode(c, tt.hello)
			got, _ := wiretest.Get(r, "speculativeAuthenticate").(bson.D)
			if n != 0 || (got != nil) != tt.in || tt.in && (wiretest.Get(got, "user") != "CN=app,O=smetasc" || wiretest.Get(got, "dbname") != "$external") {
				t.Errorf("hello: %v", r)
			}
			want := int32(13)
			if tt.in {
				want = 0
			}
			if n, r := answerCode(c, d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")); n != want {
				t.Errorf("after: %v", r)
			}
		})
	}
}

// TestX509Bound: a certificate with a tenant binds to it, for the connection's life.
func TestX509Bound(t *testing.T) {
	g, ca := askingCertificates(t)
	acme := g.come(ca, "x", "spiffe://smetasc/tenant/acme")
	if n, r := answerCode(acme, authenticate()); n != 0 {
		t.Fatal(r)
	}
	insert := func(tenant string) bson.D {
		return d("insert", "orders", "documents", bson.A{d("_id", tenant, "tenantId", tenant)}, "$db", "app")
	}
	if n, r := answerCode(acme, insert("acme")); n != 0 {
		t.Error(r)
	}
	if n, r := answerCode(acme, d("listDatabases", 1, "$db", "admin")); n != 0 || strings.Contains(fmt.Sprint(r), "app_t_") {
		t.Error(r)
	}
	if n, r := answerCode(acme, d("currentOp", 1, "$db", "admin")); n != 13 {
		t.Error(r)
	}
	if n, r := answerCode(acme, authenticate()); n != 0 {
		t.Errorf("the same once more: %v", r)
	}
	// A reload that gives the certificate to somebody else ends those who are there.
	cfg := configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+
		strings.Replace(certificateRules, `"write"`, `"read"`, 1))
	g.proxy.Apply(cfg)
	acme.Closed()
	late := g.come(ca, "x", "spiffe://smetasc/tenant/acme")
	if n, r := answerCode(late, authenticate()); n != 0 {
		t.Fatal(r)
	}
	if n, r := answerCode(late, insert("acme2")); n != 13 {
		t.Errorf("a reader writes: %v", r)
	}
}

// TestUnverified: a certificate that nobody has verified makes nobody, whatever it says.
func TestUnverified(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	own := ca.Issue("client", func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "app", Organization: []string{"smetasc"}}
	})
	g := newGround(t, nil)
	g.proxy.Apply(configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+certificateRules))
	g.proxy.settings.Load().tls[listening].ClientAuth = tls.RequireAnyClientCert
	client, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{own.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	if n, r := answerCode(client, authenticate()); n != 18 {
		t.Error(r)
	}
}

// TestX509Ends: a rule that is taken away ends who logged in by it, in the middle of a command too.
func TestX509Ends(t *testing.T) {
	g, ca := askingCertificates(t)
	acme := g.come(ca, "x", "spiffe://smetasc/tenant/acme")
	if n, r := answerCode(acme, authenticate()); n != 0 {
		t.Fatal(r)
	}
	same := configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+certificateRules)
	g.proxy.Apply(same)
	if n, r := answerCode(acme, d("find", "orders", "$db", "app")); n != 0 {
		t.Fatalf("rules that say the same: %v", r)
	}
	g.proxy.Apply(configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+
		strings.Replace(certificateRules, "/tenant/", "/nobody/", 1)))
	acme.Closed()
}

// TestX509ShutOut: [[deny]] names the subject, and holds for who is connected and who comes.
func TestX509ShutOut(t *testing.T) {
	g, ca := askingCertificates(t)
	was := g.come(ca, "app")
	if n, r := answerCode(was, authenticate()); n != 0 {
		t.Fatal(r)
	}
	g.proxy.Apply(configured(t, "auth = \"x509\"\n"+withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File))+certificateRules+
		"[[deny]]\nuser = \"CN=app,O=smetasc\"\nreason = \"asked to leave\"\n"))
	late := g.come(ca, "app")
	if n, r := answerCode(late, authenticate()); n != 13 || !strings.Contains(fmt.Sprint(r), "asked to leave") {
		t.Error(r)
	}
	if n, r := answerCode(late, d("find", "orders", "filter", d("tenantId", "acme"), "$db", "app")); n != 13 {
		t.Error(r)
	}
}

// TestX509OnTenantsListener: on a listener that is one tenant's a certificate must be of that tenant, or of
// all, and may do what both the rule and the listener let it do.
func TestX509OnTenantsListener(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	settings := func(access string) string {
		return "auth = \"x509\"\ntenant = \"acme\"\naccess = \"" + access + "\"\n" +
			withTLS(ca.Issue("server", nil), fmt.Sprintf(", client_ca = %q", ca.File)) + certificateRules + "[[tenants]]\nid = \"globex\"\nkey = \"globex\"\n"
	}
	g.proxy.Apply(configured(t, settings("write")))
	insert := func(c *wiretest.Client, tenant string) int32 {
		n, _ := answerCode(c, d("insert", "orders", "documents", bson.A{d("tenantId", tenant)}, "$db", "app"))
		return n
	}
	acme, app, other := g.come(ca, "x", "spiffe://smetasc/tenant/acme"), g.come(ca, "app"), g.come(ca, "x", "spiffe://smetasc/tenant/globex")
	for name, c := range map[string]*wiretest.Client{"acme": acme, "app": app} {
		if n, r := answerCode(c, authenticate()); n != 0 {
			t.Fatalf("%s: %v", name, r)
		}
		if n := insert(c, "acme"); n != 0 {
			t.Errorf("%s: its own: %d", name, n)
		}
	}
	if n := insert(app, "globex"); n != 66 {
		t.Errorf("another tenant's: %d", n)
	}
	if docs := g.server.Docs("app_t_acme", "orders"); len(docs) != 2 {
		t.Errorf("not all is in acme's own database: %v", docs)
	}
	if n, r := answerCode(other, authenticate()); n != 13 || insert(other, "globex") != 13 {
		t.Errorf("of another tenant: %v", r)
	}
	hello := d("hello", 1, "speculativeAuthenticate", d("authenticate", 1, "mechanism", "MONGODB-X509", "db", "$external"), "$db", "admin")
	if n, r := answerCode(g.come(ca, "x", "spiffe://smetasc/tenant/globex"), hello); n != 0 || wiretest.Get(r, "speculativeAuthenticate") != nil {
		t.Errorf("of another tenant, in a hello: %v", r)
	}
	g.proxy.Apply(configured(t, settings("write")))
	if n := insert(acme, "acme"); n != 0 {
		t.Errorf("after a reload that says the same: %d", n)
	}
	g.proxy.Apply(configured(t, settings("read")))
	late := g.come(ca, "x", "spiffe://smetasc/tenant/acme")
	if n, r := answerCode(late, authenticate()); n != 0 || insert(late, "acme") != 13 {
		t.Errorf("where the listener lets nobody write: %v", r)
	}
}
