package admin

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// client is one that trusts the authority, and shows these certificates.
func client(t *testing.T, ca *wiretest.Authority, own ...tls.Certificate) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: own}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestTLS(t *testing.T) {
	s := newSite(t)
	ca := wiretest.NewAuthority(t)
	secure := strings.Replace(s.base, "http:", "https:", 1)
	get := func(c *http.Client) (*x509.Certificate, int) {
		t.Helper()
		resp, err := c.Get(secure + "/tenants")
		if err != nil {
			t.Log(err)
			return nil, 0
		}
		resp.Body.Close()
		c.CloseIdleConnections()
		return resp.TLS.PeerCertificates[0], resp.StatusCode
	}
	if _, status := get(client(t, ca)); status != 0 {
		t.Fatal("TLS before there are settings")
	}
	for range 2 { // each reload may bring other settings
		server := ca.Issue("server", nil)
		s.tls.Store(&tls.Config{Certificates: []tls.Certificate{server.Certificate}})
		if got, status := get(client(t, ca)); status != 200 || !got.Equal(server.Leaf) {
			t.Fatalf("%d, %v", status, got)
		}
	}
	if status, body, _ := s.ask(t, "GET", "/tenants", ""); status != 400 || !strings.Contains(body, "HTTPS") {
		t.Errorf("plain HTTP: %d %q", status, body)
	}

	server := ca.Issue("server", nil)
	s.tls.Store(&tls.Config{Certificates: []tls.Certificate{server.Certificate}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert})
	if _, status := get(client(t, ca)); status != 0 {
		t.Error("a client without a certificate")
	}
	own := ca.Issue("operator", nil)
	if _, status := get(client(t, ca, own.Certificate)); status != 200 {
		t.Error("a client with its certificate:", status)
	}
	s.token = own.File // any file: a certificate is no token
	if _, status := get(client(t, ca, own.Certificate)); status != 401 {
		t.Error("a client with its certificate and no token:", status)
	}
	s.tls.Store(nil)
	s.token = ""
	if status, _, _ := s.ask(t, "GET", "/tenants", ""); status != 200 {
		t.Error("plain again:", status)
	}
}
