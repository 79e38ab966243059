package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// listening is the address of the ground's listener, as a configuration would name it.
const listening = "127.0.0.1:0"

// configured is a configuration with a listener of these settings, and what else follows them.
func configured(t testing.TB, settings string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tenantry.toml")
	text := fmt.Sprintf("[[listeners]]\naddress = %q\n%s\n[clusters.home]\nuri = \"mongodb://127.0.0.1:1/\"\n", listening, settings)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(file, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// withTLS are the settings of a listener with the certificate.
func withTLS(server wiretest.Issued, more string) string {
	return fmt.Sprintf("tls = { cert = %q, key = %[1]q%s }", server.File, more)
}

// written is a log that a test reads.
type written struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *written) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.b.String(), text)
}

// dialTLS is a raw client over TLS.
func (g *ground) dialTLS(c *tls.Config) (*wiretest.Client, error) {
	nc, err := tls.Dial("tcp", g.addr, c)
	if err != nil {
		return nil, err
	}
	return wiretest.NewClient(g.t, nc), nil
}

// alone is a proxy without servers that writes this log, and its address.
func alone(t *testing.T, log io.Writer, settings string) string {
	t.Helper()
	s := New(Options{Log: zerolog.New(log), Router: &routing.Router{}})
	s.Apply(configured(t, settings))
	addr, err := s.Listen(listening)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	return addr.String()
}

var ping = d("ping", 1, "$db", "admin")

func TestTLS(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	g.client.Command(ping) // it has been accepted, and not only queued
	g.proxy.Apply(configured(t, withTLS(ca.Issue("server", nil), `, min_version = "1.3"`)))
	client, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // past the number after which it keeps its goroutine for longer
		if r := client.Command(ping); wiretest.Get(wiretest.Decode(r), "ok") != 1.0 {
			t.Fatal(wiretest.Decode(r))
		}
	}
	if _, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("a version below the least one")
	}
	if r := g.client.Command(ping); wiretest.Get(wiretest.Decode(r), "ok") != 1.0 {
		t.Error("who came before there was TLS is served on", wiretest.Decode(r))
	}
}

// TestTLSRest: a connection goes on after it has rested, more than once.
func TestTLSRest(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	g.proxy.Apply(configured(t, withTLS(ca.Issue("server", nil), "")))
	client, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := client.Command(ping); wiretest.Get(wiretest.Decode(r), "ok") != 1.0 {
			t.Fatal(wiretest.Decode(r))
		}
		time.Sleep(150 * time.Millisecond) // a rest, or not: it has to go on in both cases
	}
}

// TestPlainClient: who comes without TLS, whatever his first message looks like, is sent away at once.
func TestPlainClient(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	log := &written{}
	addr := alone(t, log, withTLS(ca.Issue("server", nil), ""))
	for n := range 16 {
		// Lengths whose bytes are the beginning of records: 21 an alert, 22 a handshake, 22 and 3 both bytes.
		length := []int{16, 200, 256 + 21, 256 + 22, 3*256 + 21, 3*256 + 22}[n%6]
		b := make([]byte, length)
		wire.Header{Length: int32(length), RequestID: int32(n), OpCode: wire.OpMsg}.Put(b)
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write(b)
		_ = nc.SetReadDeadline(time.Now().Add(handshakeLimit / 2))
		if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a message of %d bytes: still connected", length)
		}
		_ = nc.Close()
	}
	if n := log.count("tls=true"); n != 1 {
		t.Errorf("%d lines in the log, want one for all of them", n)
	}
}

// TestTLSClientOnPlainListener is the reverse.
func TestTLSClientOnPlainListener(t *testing.T) {
	log := &written{}
	addr := alone(t, log, "")
	for range 3 {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(handshakeLimit / 2))
		err = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake()
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want the end at once", err)
		}
		_ = nc.Close()
	}
	if n := log.count("came to a listener without it"); n != 1 {
		t.Errorf("%d lines in the log, want one", n)
	}
}

// TestStalledHandshakes: those who stop in their handshake, before or after their first words, keep
// nobody else out.
func TestStalledHandshakes(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	g.proxy.Apply(configured(t, withTLS(ca.Issue("server", nil), "")))
	for n := range 4 * runtime.GOMAXPROCS(0) {
		nc, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if n%2 == 0 {
			continue
		}
		stalled := tls.Client(firstWords{nc}, &tls.Config{InsecureSkipVerify: true})
		if err := stalled.Handshake(); !errors.Is(err, errStalled) {
			t.Fatal(err)
		}
	}
	client, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	if r := client.Command(ping); wiretest.Get(wiretest.Decode(r), "ok") != 1.0 {
		t.Error(wiretest.Decode(r))
	}
}

// TestHandshakesAreBounded: while as many are worked on as may be, further ones wait, and who is
// connected is served.
func TestHandshakesAreBounded(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	g.proxy.Apply(configured(t, withTLS(ca.Issue("server", nil), "")))
	before, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	before.Command(ping) // the proxy's part of the handshake is over, too
	slots := g.proxy.handshakes.slots
	for range cap(slots) {
		slots <- struct{}{}
	}
	done := make(chan error, 1)
	go func() {
		nc, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: ca.Pool()})
		if err == nil {
			err = nc.Close()
		}
		done <- err
	}()
	for range 100 {
		if r := before.Command(ping); wiretest.Get(wiretest.Decode(r), "ok") != 1.0 {
			t.Fatal(wiretest.Decode(r))
		}
	}
	select {
	case err := <-done:
		t.Fatalf("a handshake did not wait: %v", err)
	default:
	}
	for range cap(slots) {
		<-slots
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// firstWords sends what it is told, and waits for the first byte of the answer only.
type firstWords struct{ net.Conn }

var errStalled = errors.New("stalled")

func (f firstWords) Read([]byte) (int, error) {
	_ = f.SetReadDeadline(time.Now().Add(wiretest.Patience))
	if n, err := f.Conn.Read(make([]byte, 1)); n == 0 {
		return 0, err
	}
	return 0, errStalled
}

// TestSilentClient: who says nothing is sent away after a while.
func TestSilentClient(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	cfg := configured(t, withTLS(ca.Issue("server", nil), ""))
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Log: zerolog.Nop(), Router: &routing.Router{}})
		s.Apply(cfg)
		near, far := net.Pipe()
		s.welcome(far, listening)
		begin := time.Now()
		if _, err := near.Read(make([]byte, 1)); err == nil {
			t.Error("an answer to nothing")
		}
		if took := time.Since(begin); took != handshakeLimit {
			t.Errorf("connected for %s, want %s", took, handshakeLimit)
		}
		synctest.Wait()
		if n := s.Clients(); n != 0 {
			t.Errorf("%d clients are left", n)
		}
		s.Shutdown(t.Context())
	})
}

// TestShutdownDuringHandshake waits for no client.
func TestShutdownDuringHandshake(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	cfg := configured(t, withTLS(ca.Issue("server", nil), ""))
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Log: zerolog.Nop(), Router: &routing.Router{}})
		s.Apply(cfg)
		near, far := net.Pipe()
		defer near.Close()
		s.welcome(far, listening)
		synctest.Wait()
		begin := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(begin); took > 0 {
			t.Error(took)
		}
	})
}

// TestRenewal: certificates are renewed while clients come and go. New handshakes get the new one,
// nobody's connection breaks.
func TestRenewal(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	g := newGround(t, nil)
	server := ca.Issue("server", nil)
	g.proxy.Apply(configured(t, withTLS(server, "")))
	settings := &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	stop := make(chan struct{})
	var commands, connections atomic.Int64
	var all sync.WaitGroup
	run := func(f func() error) {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 { // these stay connected throughout
		client, err := g.dialTLS(settings)
		if err != nil {
			t.Fatal(err)
		}
		run(func() error { commands.Add(1); return pinged(client.Conn) })
	}
	for range 2 { // these come and go
		run(func() error {
			nc, err := tls.Dial("tcp", g.addr, settings)
			if err != nil {
				return err
			}
			defer nc.Close()
			connections.Add(1)
			return pinged(wire.NewConn(nc))
		})
	}
	for range 20 {
		server = ca.Issue("server", nil)
		g.proxy.Apply(configured(t, withTLS(server, "")))
		nc, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: ca.Pool()})
		if err != nil {
			t.Error(err)
			break
		}
		if got := nc.ConnectionState().PeerCertificates[0]; !got.Equal(server.Leaf) {
			t.Errorf("certificate %d, want the renewed one, %d", got.SerialNumber, server.Leaf.SerialNumber)
		}
		_ = nc.Close()
		for before := connections.Load(); connections.Load() < before+4 && !t.Failed(); {
			runtime.Gosched()
		}
	}
	close(stop)
	all.Wait()
	t.Logf("%d commands on 4 connections, %d further connections, 20 renewals", commands.Load(), connections.Load())
}

// pinged sends a command and reads its answer, without the test's own goroutine.
func pinged(c *wire.Conn) error {
	if _, err := c.Write(wire.AppendMessage(nil, 1, 0, 0, wiretest.D(ping))); err != nil {
		return err
	}
	b, err := c.ReadMessage(wire.MaxMessage)
	if err != nil {
		return err
	}
	defer b.Free()
	var m wire.Message
	if err := m.Parse(b.B); err != nil {
		return err
	}
	if v, _ := m.Body.Lookup("ok"); !v.True() {
		return fmt.Errorf("%v", wiretest.Decode(m.Body))
	}
	return nil
}

// TestResumption: a reload that changes nothing of TLS lets clients resume their sessions; one that
// changes whose clients are let in does not let those of before resume theirs.
func TestResumption(t *testing.T) {
	ca, other := wiretest.NewAuthority(t), wiretest.NewAuthority(t)
	server, client := ca.Issue("server", nil), ca.Issue("client", nil)
	g := newGround(t, nil)
	from := func(a *wiretest.Authority) {
		g.proxy.Apply(configured(t, withTLS(server, fmt.Sprintf(", client_ca = %q, require_client_cert = true", a.File))))
	}
	from(ca)
	settings := &tls.Config{
		RootCAs: ca.Pool(), Certificates: []tls.Certificate{client.Certificate}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	resumed := func() (bool, error) {
		nc, err := tls.Dial("tcp", g.addr, settings)
		if err != nil {
			return false, err
		}
		defer nc.Close()
		return nc.ConnectionState().DidResume, pinged(wire.NewConn(nc)) // the ticket comes with the answer
	}
	for n, want := range []bool{false, true, true} {
		from(ca)
		if got, err := resumed(); err != nil || got != want {
			t.Errorf("connection %d: resumed %v, want %v; %v", n, got, want, err)
		}
	}
	from(other)
	if _, err := resumed(); err == nil {
		t.Error("a client whose authority is not trusted any more is let in")
	}
}

// TestClientCertificates: who is asked for one and has none, or one of somebody else's.
func TestClientCertificates(t *testing.T) {
	ca, other := wiretest.NewAuthority(t), wiretest.NewAuthority(t)
	server := ca.Issue("server", nil)
	past := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	notClient := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	for _, tt := range []struct {
		name        string
		certificate []tls.Certificate
		asked, must bool // let in where certificates are asked for, and where they are required
	}{
		{"none", nil, true, false},
		{"good", []tls.Certificate{ca.Issue("good", nil).Certificate}, true, true},
		{"another authority's", []tls.Certificate{other.Issue("other", nil).Certificate}, false, false},
		{"expired", []tls.Certificate{ca.Issue("past", past).Certificate}, false, false},
		{"a server's", []tls.Certificate{ca.Issue("not-client", notClient).Certificate}, false, false},
	} {
		for required, want := range map[bool]bool{false: tt.asked, true: tt.must} {
			g := newGround(t, nil)
			g.proxy.Apply(configured(t, withTLS(server, fmt.Sprintf(", client_ca = %q, require_client_cert = %v", ca.File, required))))
			client, err := g.dialTLS(&tls.Config{
				RootCAs:              ca.Pool(),
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return first(tt.certificate), nil },
			})
			if err == nil {
				err = pinged(client.Conn) // in TLS 1.3 the client hears of it afterwards
			}
			if (err == nil) != want {
				t.Errorf("%s, required %v: %v", tt.name, required, err)
			}
		}
	}
}

func first(all []tls.Certificate) *tls.Certificate {
	if len(all) == 0 {
		return &tls.Certificate{}
	}
	return &all[0]
}

// TestRevokedCertificates: whose certificate is on its authority's list is not let in, also by a session that
// was begun before, and a reload ends who is there by it and nobody else.
func TestRevokedCertificates(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server, kept, revoked := ca.Issue("server", nil), ca.Issue("kept", nil), ca.Issue("revoked", nil)
	g := newGround(t, nil)
	with := func(more string) {
		g.proxy.Apply(configured(t, withTLS(server, fmt.Sprintf(", client_ca = %q%s", ca.File, more))))
	}
	come := func(own *wiretest.Issued) (*wiretest.Client, error) {
		settings := &tls.Config{RootCAs: ca.Pool()}
		if own != nil {
			settings.Certificates = []tls.Certificate{own.Certificate}
		}
		client, err := g.dialTLS(settings)
		if err == nil {
			err = pinged(client.Conn)
		}
		return client, err
	}
	list := ca.Revoke("list", time.Hour)
	crl := fmt.Sprintf(", client_crl = %q", list)
	with(crl)
	was, err := come(&revoked)
	if err != nil {
		t.Fatalf("before it is revoked: %v", err)
	}
	other, err := come(&kept)
	if err != nil {
		t.Fatal(err)
	}
	cache := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{revoked.Certificate}, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	resume := func() error {
		nc, err := tls.Dial("tcp", g.addr, cache)
		if err != nil {
			return err
		}
		defer nc.Close()
		return pinged(wire.NewConn(nc))
	}
	if err := resume(); err != nil {
		t.Fatal(err)
	}

	ca.Revoke("list", time.Hour, revoked)
	with(crl)
	was.Closed()
	if err := pinged(other.Conn); err != nil {
		t.Errorf("another client: %v", err)
	}
	if err := resume(); err == nil {
		t.Error("a session of a revoked certificate is resumed")
	}
	for _, tt := range []struct {
		name string
		own  *wiretest.Issued
		in   bool
	}{{"revoked", &revoked, false}, {"kept", &kept, true}, {"none", nil, true}} {
		if _, err := come(tt.own); (err == nil) != tt.in {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if log := g.log.String(); !strings.Contains(log, "was revoked on") || !strings.Contains(log, "lists of client_crl") {
		t.Errorf("the log does not tell: %s", log)
	}

	ca.Revoke("list", -time.Minute, revoked)
	for policy, in := range map[string]bool{"": false, `, client_crl_expired = "refuse"`: false, `, client_crl_expired = "warn"`: true} {
		with(crl + policy)
		if err := pinged(other.Conn); err != nil {
			t.Errorf("an old list ends who is there: %v", err)
		}
		if _, err := come(&kept); (err == nil) != in {
			t.Errorf("an old list, %q: %v", policy, err)
		}
		if _, err := come(&revoked); err == nil {
			t.Errorf("an old list, %q: who is on it is let in", policy)
		}
	}
	foreign, both := wiretest.NewAuthority(t), filepath.Join(t.TempDir(), "both.pem")
	var all []byte
	for _, a := range []*wiretest.Authority{ca, foreign} {
		text, err := os.ReadFile(a.File)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	if err := os.WriteFile(both, all, 0o600); err != nil {
		t.Fatal(err)
	}
	g.proxy.Apply(configured(t, withTLS(server, fmt.Sprintf(", client_ca = %q, client_crl = %q", both, foreign.Revoke("list", time.Hour)))))
	if _, err := come(&kept); err == nil {
		t.Error("there is no list of the certificate's authority, and it is let in")
	}
}

// TestRevokedInHandshake: a certificate that is revoked while its handshake is on the way is found out by the
// first command, and the reload waits for no handshake.
func TestRevokedInHandshake(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server, own := ca.Issue("server", nil), ca.Issue("own", nil)
	g := newGround(t, nil)
	crl := fmt.Sprintf(", client_ca = %q, client_crl = %q", ca.File, ca.Revoke("list", time.Hour))
	g.proxy.Apply(configured(t, withTLS(server, crl)))
	asked, proceed := make(chan struct{}), make(chan struct{})
	type came struct {
		client *wiretest.Client
		err    error
	}
	done := make(chan came, 1)
	go func() {
		client, err := g.dialTLS(&tls.Config{RootCAs: ca.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			close(asked)
			<-proceed
			return &own.Certificate, nil
		}})
		done <- came{client, err}
	}()
	<-asked
	ca.Revoke("list", time.Hour, own)
	g.proxy.Apply(configured(t, withTLS(server, crl)))
	close(proceed)
	x := <-done
	if x.err != nil {
		t.Fatal(x.err)
	}
	if n, r := answerCode(x.client, d("count", "orders", "$db", "app")); n != 13 {
		t.Errorf("got %v", r)
	}
	x.client.Closed()
}
