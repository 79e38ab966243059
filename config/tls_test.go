package config

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// withTLS is a file with a listener that has these settings in its tls.
func withTLS(settings string) string {
	return strings.Replace(minimal, "[clusters", "tls = { "+settings+" }\n[clusters", 1)
}

func TestTLS(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server := ca.Issue("server", nil)
	files := fmt.Sprintf("cert = %q, key = %[1]q", server.File)
	for _, tt := range []struct {
		settings string
		clients  string
		auth     tls.ClientAuthType
		least    uint16
	}{
		{files, "none", tls.NoClientCert, tls.VersionTLS12},
		{files + `, min_version = "1.3"`, "none", tls.NoClientCert, tls.VersionTLS13},
		{files + fmt.Sprintf(", client_ca = %q", ca.File), "asked", tls.VerifyClientCertIfGiven, tls.VersionTLS12},
		{files + fmt.Sprintf(", require_client_cert = true, client_ca = %q", ca.File), "required", tls.RequireAndVerifyClientCert, tls.VersionTLS12},
	} {
		c, warnings, err := loadText(withTLS(tt.settings))
		if err != nil || len(warnings) > 0 {
			t.Fatal(tt.settings, err, warnings)
		}
		got := c.Listeners[0].TLS
		if s := got.Server(); got.Clients != tt.clients || s.ClientAuth != tt.auth || s.MinVersion != tt.least ||
			(s.ClientCAs != nil) != (tt.clients != "none") || !s.Certificates[0].Leaf.Equal(server.Leaf) {
			t.Errorf("%s: %s, %v, %x", tt.settings, got.Clients, s.ClientAuth, s.MinVersion)
		}
		if !got.NotAfter.Equal(server.Leaf.NotAfter) || !slices.Contains(c.Files(), server.File) {
			t.Error(got.NotAfter, c.Files())
		}
	}
	one, two := mustLoad(t, withTLS(files)).Listeners[0].TLS, mustLoad(t, withTLS(files)).Listeners[0].TLS
	if !one.Same(two) || one.Same(nil) || (*TLS)(nil).Same(one) || !(*TLS)(nil).Same(nil) {
		t.Error("the same files make the same settings")
	}
	ca.Issue("server", nil)
	for what, other := range map[string]*TLS{
		"another certificate": mustLoad(t, withTLS(files)).Listeners[0].TLS,
		"another version":     mustLoad(t, withTLS(files+`, min_version = "1.3"`)).Listeners[0].TLS,
	} {
		if one.Same(other) {
			t.Error(what)
		}
	}
}

// TestTLSRefused: what could not work is refused with its line and what to do.
func TestTLSRefused(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server, other := ca.Issue("server", nil), ca.Issue("other", nil)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	block := func(kind, content string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content)}))
	}
	encrypted := file("encrypted.pem", block("ENCRYPTED PRIVATE KEY", "hunter2"))
	broken := file("broken.pem", read(t, server.File)+block("CERTIFICATE", "hunter2"))
	text := file("text.pem", "hunter2")
	crl, forged := ca.Revoke("list", time.Hour), forge(t, ca)
	delta := file("delta.pem", block("X509 CRL", string(listWith(t, ca, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}))))
	withCA := fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q, client_crl = ", server.File, ca.File)
	for _, tt := range []struct{ settings, want string }{
		{fmt.Sprintf("key = %q", server.File), "3: listeners[0].tls.cert: is missing; "},
		{fmt.Sprintf("cert = %q", server.File), "3: listeners[0].tls.key: is missing; "},
		{fmt.Sprintf("cert = %q, key = %q", server.File, other.File), "3: listeners[0].tls.key: certificate and key can not be used together: "},
		{fmt.Sprintf("cert = %q, key = %q", server.File, encrypted), "3: listeners[0].tls.key: the key is encrypted; "},
		{fmt.Sprintf("cert = %q, key = %[1]q", text), "3: listeners[0].tls.cert: there is no certificate in the file; "},
		{fmt.Sprintf("cert = %q, key = %q", server.File, text), "3: listeners[0].tls.key: certificate and key "},
		{fmt.Sprintf("cert = %q, key = %[1]q", broken), "3: listeners[0].tls.cert: certificate 2 of the file can not be read: "},
		{fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q", server.File, broken), "3: listeners[0].tls.client_ca: certificate 2 "},
		{fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q", server.File, encrypted), "3: listeners[0].tls.client_ca: there is no certificate"},
		{fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q", server.File, dir+"/none"), `3: listeners[0].tls.client_ca: "` + dir},
		{fmt.Sprintf("cert = %q, key = %[1]q, require_client_cert = true", server.File), "3: listeners[0].tls.require_client_cert: has no meaning without client_ca; "},
		{withCA + fmt.Sprintf("%q", text), "3: listeners[0].tls.client_crl: list 1 of the file can not be read: "},
		{withCA + fmt.Sprintf("%q", dir+"/none"), `3: listeners[0].tls.client_crl: "` + dir},
		{withCA + fmt.Sprintf("%q", forged), "3: listeners[0].tls.client_crl: list 1 of the file was not signed by "},
		{withCA + fmt.Sprintf("%q", delta), "3: listeners[0].tls.client_crl: list 1 of the file is not a whole one "},
		{withCA + fmt.Sprintf("%q, client_crl_expired = \"accept\"", crl), "3: listeners[0].tls.client_crl_expired: "},
		{fmt.Sprintf("cert = %q, key = %[1]q, client_crl = %q", server.File, crl), "3: listeners[0].tls.client_crl: has no meaning without client_ca; "},
		{fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q, client_crl_expired = \"warn\"", server.File, ca.File), "3: listeners[0].tls.client_crl_expired: has no meaning without client_crl; "},
		{fmt.Sprintf("cert = %q, key = %[1]q, min_version = \"1.1\"", server.File), `3: listeners[0].tls.min_version: "1.1" is not a choice; write one of "1.2" or "1.3"`},
		{fmt.Sprintf("cert = %q, key = %[1]q, ca = \"x\"", server.File), "3: listeners[0].tls.ca: unknown key; "},
	} {
		c, _, err := loadText(withTLS(tt.settings))
		if err == nil || c != nil || !strings.HasPrefix(err.Error(), "testdata/t.toml:"+tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.settings, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Error("the message shows what a file holds")
		}
	}
}

// TestExpiry: who has to renew a certificate is told in time.
func TestExpiry(t *testing.T) {
	until := func(name string, days int) (*wiretest.Authority, wiretest.Issued) {
		ca := wiretest.NewAuthority(t)
		return ca, ca.Issue(name, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(-100 * 24 * time.Hour)
			c.NotAfter = time.Now().Add(time.Duration(days)*24*time.Hour + time.Minute)
		})
	}
	for days, want := range map[int]string{-3: "the certificate has expired on ", 29: "in 29 days", 31: ""} {
		ca, server := until("server", days)
		_, client := until("client-ca", days)
		files := fmt.Sprintf("cert = %q, key = %[1]q", server.File)
		_, warnings, err := loadText(withTLS(files))
		if err != nil || (want == "") != (len(warnings) == 0) || want != "" && !strings.Contains(warnings[0].String(), want) {
			t.Errorf("%d days: %v, %v", days, warnings, err)
		}
		_, warnings, err = loadText(withTLS(files + fmt.Sprintf(", client_ca = %q", client.File)))
		if n := len(warnings); err != nil || (want == "") != (n == 0) || want != "" && (n != 2 || warnings[1].Key != "listeners[0].tls.client_ca") {
			t.Errorf("%d days, and the authority's: %v, %v", days, warnings, err)
		}
		// An authority beside one that lives on does no harm.
		both := filepath.Join(t.TempDir(), "both.pem")
		write(t, both, read(t, client.File)+read(t, ca.File))
		if _, warnings, _ := loadText(withTLS(files + fmt.Sprintf(", client_ca = %q", both))); len(warnings) > 1 {
			t.Errorf("%d days: %v", days, warnings)
		}
	}
	ca := wiretest.NewAuthority(t)
	early := ca.Issue("early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	if _, warnings, err := loadText(withTLS(fmt.Sprintf("cert = %q, key = %[1]q", early.File))); err != nil || len(warnings) != 1 {
		t.Error(warnings, err)
	}
}

func TestAdminTLS(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server := ca.Issue("server", nil)
	c := mustLoad(t, minimal+fmt.Sprintf("[admin]\ntls = { cert = %q, key = %[1]q, client_ca = %q, require_client_cert = true }\n", server.File, ca.File))
	if c.Admin.TLS == nil || c.Admin.TLS.Clients != "required" {
		t.Fatalf("%+v", c.Admin)
	}
	var out strings.Builder
	if err := c.WriteSummary(&out); err != nil || !strings.Contains(out.String(), "127.0.0.1:8017, tls until "+day(server.Leaf.NotAfter)+", client certificates required") {
		t.Error(err, out.String())
	}
	open := "[admin]\naddress = \"0.0.0.0:8017\"\ntoken_file = \"admin.token\"\n"
	if _, warnings, err := loadText(minimal + open); err != nil || len(warnings) != 1 || warnings[0].Key != "admin.address" {
		t.Error("a token in plain text:", warnings, err)
	}
	if _, warnings, err := loadText(minimal + open + fmt.Sprintf("tls = { cert = %q, key = %[1]q }\n", server.File)); err != nil || len(warnings) > 0 {
		t.Error(warnings, err)
	}
	os.Remove(server.File)
	if _, _, err := loadText(minimal + fmt.Sprintf("[admin]\ntls = { cert = %q, key = %[1]q }\n", server.File)); err == nil {
		t.Error("loaded without its certificate")
	}
}

// TestX509Listener: log-in by certificate makes an address that is not loopback possible, and needs
// what it works with.
func TestX509Listener(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server := ca.Issue("server", nil)
	text := strings.Replace(withTLS(fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q", server.File, ca.File)), "127.0.0.1:27017\"", "0.0.0.0:27017\"\nauth = \"x509\"", 1)
	rule := "[[auth.certificates]]\nsubject = \"CN=app\"\nrole = \"application\"\n"
	c := mustLoad(t, text+rule)
	if c.Listeners[0].Auth != "x509" || len(c.Certificates) != 1 {
		t.Errorf("%+v", c.Listeners[0])
	}
	tenant := strings.NewReplacer("[clusters", "tenant = \"acme\"\n[clusters").Replace(text) + rule + "[[tenants]]\nid = \"acme\"\n"
	if c := mustLoad(t, tenant); c.Listeners[0].Tenant != "acme" {
		t.Errorf("%+v", c.Listeners[0])
	}
	for name, tt := range map[string]struct{ text, want string }{
		"no rules": {text, `listeners[0].auth: "x509" needs rules`},
		"no auth":  {strings.Replace(text, `auth = "x509"`, "", 1), "is not a loopback address"},
	} {
		if _, _, err := loadText(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
