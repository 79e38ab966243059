package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a server that listens, and what the rooms behind it say.
type site struct {
	base     string
	server   *Server
	notReady error
	refused  error
	reloads  int
	token    string // path
	tls      atomic.Pointer[tls.Config]
	log      bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "commands_total", Help: "Commands."})
	registry.MustRegister(counter)
	counter.Add(3)
	s.server = New(Options{
		Log: zerolog.New(zerolog.SyncWriter(&s.log)), Registry: registry,
		Ready: func() error { return s.notReady },
		Reload: func(context.Context) error {
			s.reloads++
			return s.refused
		},
		Tenants:   func() any { return []map[string]string{{"key": "acme"}} },
		Drift:     func(context.Context) any { return []map[string]string{{"key": "drifted"}} },
		TLS:       s.tls.Load,
		TokenFile: func() string { return s.token },
	})
	addr, err := s.server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + addr.String()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.server.Shutdown(t.Context())
	})
	return s
}

func (s *site) ask(t *testing.T, method, path, token string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestPages(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		method, path string
		status       int
		body         string // part of it
		kind         string
	}{
		{"GET", "/metrics", 200, "commands_total 3", "text/plain"},
		{"GET", "/healthz", 200, "ok\n", "text/plain"},
		{"GET", "/readyz", 200, "ready\n", "text/plain"},
		{"POST", "/reload", 200, "reloaded\n", "text/plain"},
		{"GET", "/tenants", 200, `[{"key":"acme"}]`, "application/json"},
		{"GET", "/tenants?drift=1", 200, `[{"key":"drifted"}]`, "application/json"},
		{"GET", "/reload", 405, "", ""},
		{"POST", "/metrics", 405, "", ""},
		{"DELETE", "/tenants", 405, "", ""},
		{"GET", "/", 404, "", ""},
		{"GET", "/debug/pprof/", 404, "", ""},
	} {
		status, body, header := s.ask(t, c.method, c.path, "")
		if status != c.status || !strings.Contains(body, c.body) || !strings.HasPrefix(header.Get("Content-Type"), c.kind) {
			t.Errorf("%s %s: %d %s %q", c.method, c.path, status, header.Get("Content-Type"), body)
		}
	}
	if s.reloads != 1 {
		t.Errorf("%d reloads; only POST /reload is one", s.reloads)
	}
}

func TestNotReady(t *testing.T) {
	s := newSite(t)
	s.notReady = errors.New("cluster home has no server that takes writes")
	if status, body, _ := s.ask(t, "GET", "/readyz", ""); status != 503 || body != s.notReady.Error()+"\n" {
		t.Errorf("%d %q", status, body)
	}
	if status, _, _ := s.ask(t, "GET", "/healthz", ""); status != 200 {
		t.Errorf("a process that is not ready is alive: %d", status)
	}
}

func TestRefusedReload(t *testing.T) {
	s := newSite(t)
	s.refused = errors.New("tenantry.toml:7: routing.mode: \"mixd\" is not a choice")
	status, body, _ := s.ask(t, "POST", "/reload", "")
	if status != 422 || !strings.Contains(body, "stays") || !strings.Contains(body, s.refused.Error()) {
		t.Errorf("%d %q", status, body)
	}
}

func TestToken(t *testing.T) {
	s := newSite(t)
	s.token = filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(s.token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	check := func(path, token string, want int) {
		t.Helper()
		method := "GET"
		if path == "/reload" {
			method = "POST"
		}
		status, _, header := s.ask(t, method, path, token)
		if status != want || (want == 401) != (header.Get("WWW-Authenticate") == "Bearer") {
			t.Errorf("%s with %q: %d, want %d", path, token, status, want)
		}
	}
	for _, path := range []string{"/metrics", "/tenants", "/reload"} {
		for _, token := range []string{"", "first", "Bearer ", "Bearer second", "Bearer first2", "Basic first"} {
			check(path, token, 401)
		}
		check(path, "Bearer first", 200)
	}
	check("/healthz", "", 200)
	check("/readyz", "", 200)
	write("second")
	check("/tenants", "Bearer first", 401)
	check("/tenants", "Bearer second", 200)
	write("\n")
	check("/tenants", "Bearer ", 401)
	if err := os.Remove(s.token); err != nil {
		t.Fatal(err)
	}
	check("/tenants", "Bearer second", 401)
	if !strings.Contains(s.log.String(), "nobody is let in") {
		t.Error("the log does not say why nobody is let in")
	}
	s.token = ""
	check("/tenants", "", 200)
}

func TestTakenPort(t *testing.T) {
	s := newSite(t)
	addr := strings.TrimPrefix(s.base, "http://")
	if _, err := s.server.Listen(addr); err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("listen twice: %v", err)
	}
}

// TestShutdown: a client that keeps the server busy cannot keep it alive.
func TestShutdown(t *testing.T) {
	s := newSite(t)
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, "GET /healthz HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	s.server.Shutdown(ctx)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("shutdown took %v", took)
	}
	if err := nc.SetReadDeadline(began.Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's connection: %v", err)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://")); err == nil {
		t.Error("the port is still open")
	}
}
