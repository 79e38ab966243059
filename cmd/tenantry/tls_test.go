package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// serving is a running proxy, and where its addresses are.
type serving struct {
	admin, client string
	lines         chan map[string]any // of its log
}

// serveFile runs the proxy until the test ends.
func serveFile(t *testing.T, file string) *serving {
	t.Helper()
	cmd := command(context.Background(), nil, "serve", "--config", file, "--drain", "1s")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &serving{lines: make(chan map[string]any, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := bufio.NewScanner(out); r.Scan(); {
			var line map[string]any
			if json.Unmarshal(r.Bytes(), &line) == nil {
				s.lines <- line
			}
		}
		close(s.lines)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	s.admin = s.until(t, "admin listens")["address"].(string)
	s.client = s.until(t, "listening")["address"].(string)
	return s
}

// until is the line of the log with the message, or with one that has it within.
func (s *serving) until(t *testing.T, message string) map[string]any {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("the proxy ended before it said %q", message)
			}
			if text, _ := line["message"].(string); strings.Contains(text, message) {
				return line
			}
		case <-late:
			t.Fatalf("the log does not say %q", message)
		}
	}
}

// TestTLSEndToEnd: certificates from the files to the handshake, the metric and the command line, and
// through their renewal, also by one that is no good.
func TestTLSEndToEnd(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server, own := ca.Issue("server", nil), ca.Issue("operator", nil)
	token := write(t, filepath.Join(t.TempDir(), "token"), "hunter2")
	settings := fmt.Sprintf("cert = %q, key = %[1]q", server.File)
	text := strings.Replace(goodFile, "[admin]", "tls = { "+settings+" }\n[admin]\ntoken_file = \""+token+"\"\ntls = { "+settings+
		fmt.Sprintf(", client_ca = %q, require_client_cert = true }", ca.File), 1)
	s := serveFile(t, newFile(t, text+"[control]\nenabled = false\n"))
	client := &tls.Config{RootCAs: ca.Pool()}
	shown := func() *x509.Certificate {
		nc, err := tls.Dial("tcp", s.client, client)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0]
	}
	if !shown().Equal(server.Leaf) {
		t.Error("another certificate")
	}

	env := func(kv ...string) []string { return append(kv, "TENANTRY_ADMIN=https://"+s.admin) }
	let := []string{"TENANTRY_ADMIN_TOKEN=hunter2", "TENANTRY_ADMIN_CA=" + ca.File, "TENANTRY_ADMIN_CERT=" + own.File}
	tenantry(t, env(let...), "tenants").want(t, 0)
	tenantry(t, env(let[0]), "tenants", "--ca", ca.File, "--cert", own.File, "--key", own.File).want(t, 0)
	tenantry(t, env(let[1:]...), "tenants").want(t, 1, "TENANTRY_ADMIN_TOKEN")
	tenantry(t, env(let[0], let[2]), "tenants").want(t, 1, "not trusted", "--ca or TENANTRY_ADMIN_CA")
	tenantry(t, env(let[:2]...), "tenants").want(t, 1, "certificate required", "--cert and --key")
	tenantry(t, let[:1], "tenants", "--admin", s.admin).want(t, 1, "400 Bad Request", "https://")
	tenantry(t, let[:2], "tenants", "--admin", s.admin).want(t, 2, "begins with https://")
	tenantry(t, env(), "tenants", "--ca", "/nowhere.pem").want(t, 2, "--ca: ", "nowhere.pem")
	tenantry(t, env(), "tenants", "--ca", token).want(t, 2, "no certificate in")
	tenantry(t, env(), "tenants", "--cert", token).want(t, 2, "--cert and --key: ")

	client.Certificates = []tls.Certificate{own.Certificate}
	metrics := func() string {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: client}
		defer transport.CloseIdleConnections()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.admin+"/metrics", nil)
		req.Header.Set("Authorization", "Bearer hunter2")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	expiry := func(listener string, c *x509.Certificate) string {
		return fmt.Sprintf("tenantry_certificate_expiry_timestamp_seconds{listener=%q} %g\n", listener, float64(c.NotAfter.Unix()))
	}
	if page := metrics(); !strings.Contains(page, expiry("127.0.0.1:0", server.Leaf)) || !strings.Contains(page, expiry("admin", server.Leaf)) {
		t.Errorf("the expiry is not told")
	}

	soon := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24*time.Hour + time.Minute) }
	renewed := ca.Issue("server", soon)
	s.until(t, "expires on "+renewed.Leaf.NotAfter.UTC().Format(time.DateOnly)+", in 1 days")
	s.until(t, "configuration reloaded")
	if !shown().Equal(renewed.Leaf) || !strings.Contains(metrics(), expiry("admin", renewed.Leaf)) {
		t.Error("the renewed certificate is not in force")
	}
	if err := os.WriteFile(server.File, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := s.until(t, "reload refused")
	if text := fmt.Sprint(refused["error"]); !strings.Contains(text, ".toml:3: listeners[0].tls.cert: there is no certificate in the file; ") {
		t.Error(text)
	}
	if !shown().Equal(renewed.Leaf) || !strings.Contains(metrics(), "tenantry_config_in_force 0") {
		t.Error("the refused certificate has changed something")
	}
	again := ca.Issue("server", nil)
	s.until(t, "configuration reloaded")
	if !shown().Equal(again.Leaf) {
		t.Error("the one after it is not in force")
	}
}
