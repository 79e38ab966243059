// Package proxy builds and runs the tenantry binary as a test's child, with
// the race detector on: what it finds fails the test that provoked it. What
// measures the proxy takes a build as it is shipped.
package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

const (
	startLimit = 30 * time.Second
	logShown   = 8000 // bytes of the proxy's log that a failed test shows
)

// Proxy is a running proxy.
type Proxy struct {
	URI     string // what clients connect to
	Address string // the same as host:port
	Admin   string // its HTTP side, http://127.0.0.1:…

	process *child.Process
	file    string
	fill    *strings.Replacer
}

// Start runs a proxy with the given configuration until the test ends. In the
// text $LISTEN and $ADMIN stand for addresses that Start chooses.
func Start(t testing.TB, configTOML string, env ...string) *Proxy {
	t.Helper()
	return start(t, Binary(t), configTOML, env)
}

// StartShipped is Start with a build that has no race detector, for tests that
// measure.
func StartShipped(t testing.TB, configTOML string, env ...string) *Proxy {
	t.Helper()
	return start(t, shipped.binary(t), configTOML, env)
}

func start(t testing.TB, binary, configTOML string, env []string) *Proxy {
	t.Helper()
	listen, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		URI:     "mongodb://" + listen + "/",
		Address: listen,
		Admin:   "http://" + admin,
		file:    filepath.Join(t.TempDir(), "tenantry.toml"),
		fill:    strings.NewReplacer("$LISTEN", listen, "$ADMIN", admin),
	}
	p.Replace(t, configTOML)
	cmd := exec.Command(binary, "serve", "--config", p.file)
	cmd.Env = append(os.Environ(), env...)
	if p.process, err = child.Start(cmd, nil); err != nil {
		t.Fatalf("start the proxy: %v", err)
	}
	t.Cleanup(func() { p.finish(t) })
	if err := p.process.WaitUntil(startLimit, p.ready); err != nil {
		t.Fatalf("start the proxy: %v", err) // finish shows its log
	}
	return p
}

// Reload replaces the configuration and returns when it is in force.
func (p *Proxy) Reload(t testing.TB, configTOML string) {
	t.Helper()
	p.Replace(t, configTOML)
	if err := p.PostReload(t.Context()); err != nil {
		t.Fatalf("reload: %v", err)
	}
}

// PostReload asks for a reload; the error is the proxy's refusal.
func (p *Proxy) PostReload(ctx context.Context) error {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.Admin+"/reload", nil)
	return expectOK(req)
}

// Hangup sends SIGHUP.
func (p *Proxy) Hangup(t testing.TB) {
	t.Helper()
	if err := p.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// Metric is the sum of a metric's series now; 0 where it has none.
func (p *Proxy) Metric(t testing.TB, name string) float64 {
	t.Helper()
	sum := 0.0
	for line := range strings.Lines(p.Get(t, "/metrics")) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			t.Fatalf("metric %s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// Get is what the HTTP side answers.
func (p *Proxy) Get(t testing.TB, path string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	reply, err := client.Get(p.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", path, reply.Status, err)
	}
	return string(text)
}

// Log is what the proxy has written so far.
func (p *Proxy) Log() string { return p.process.Output() }

// Replace replaces the configuration by a rename, so that a proxy watching the
// file never reads half.
func (p *Proxy) Replace(t testing.TB, configTOML string) {
	t.Helper()
	next := p.file + ".next"
	if err := os.WriteFile(next, []byte(p.fill.Replace(configTOML)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.file); err != nil {
		t.Fatal(err)
	}
}

// Swap replaces the configuration as a Kubernetes config map is: the file is a
// link through a link to a directory, and the latter is swapped.
func (p *Proxy) Swap(t testing.TB, configTOML string) {
	t.Helper()
	name, dir := filepath.Base(p.file), filepath.Dir(p.file)
	data := filepath.Join(dir, "..data")
	version, err := os.MkdirTemp(dir, "..version-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(version, name), []byte(p.fill.Replace(configTOML)), 0o600); err != nil {
		t.Fatal(err)
	}
	relink(t, filepath.Base(version), data)
	if at, err := os.Readlink(p.file); err != nil || at != filepath.Join("..data", name) {
		relink(t, filepath.Join("..data", name), p.file)
	}
}

func relink(t testing.TB, to, link string) {
	t.Helper()
	next := link + ".next"
	if err := os.Symlink(to, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, link); err != nil {
		t.Fatal(err)
	}
}

func (p *Proxy) ready() error {
	req, _ := http.NewRequest(http.MethodGet, p.Admin+"/readyz", nil)
	return expectOK(req)
}

// crash is what the Go runtime writes when it finds a race or gives up.
var crash = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic: |fatal error: |unexpected fault address)|"panic":`)

func (p *Proxy) finish(t testing.TB) {
	stopped := p.process.Stop()
	log := p.Log()
	if at := crash.FindStringIndex(log); at != nil {
		t.Errorf("the proxy crashed or has a data race:\n%s", shorten(log[at[0]:]))
	} else if stopped != nil {
		t.Errorf("the proxy did not end well: %v", stopped)
	}
	if t.Failed() {
		t.Logf("end of the proxy's log:\n%s", log[max(0, len(log)-logShown):])
	}
}

func shorten(s string) string { return s[:min(len(s), logShown)] }

func expectOK(req *http.Request) error {
	client := http.Client{Timeout: 10 * time.Second}
	reply, err := client.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(reply.Body, 4096))
	if reply.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, reply.Status, text)
	}
	return nil
}

// build is one way of building the binary, done once per test run.
type build struct {
	flags []string

	once sync.Once
	dir  string
	file string
	why  string // its errors
}

var (
	raced   = build{flags: []string{"-race"}}
	shipped build
)

// Binary is the proxy's binary: TENANTRY_BINARY if set, else built once per
// test run. While it doesn't build, tests are skipped (with CI=true: fail).
func Binary(t testing.TB) string {
	t.Helper()
	if file := os.Getenv("TENANTRY_BINARY"); file != "" {
		return file
	}
	return raced.binary(t)
}

// RemoveBinary is for TestMain, after the last test.
func RemoveBinary() {
	for _, b := range []*build{&raced, &shipped} {
		if b.dir != "" {
			os.RemoveAll(b.dir)
		}
	}
}

func (b *build) binary(t testing.TB) string {
	t.Helper()
	b.once.Do(func() { b.run(tree.Path(t)) })
	tree.Need(t, "the proxy", "go build ./cmd/tenantry does not work:\n"+b.why, b.why == "")
	return b.file
}

func (b *build) run(root string) {
	dir, err := os.MkdirTemp("", "tenantry-e2e-")
	if err != nil {
		b.why = err.Error()
		return
	}
	b.dir, b.file = dir, filepath.Join(dir, "tenantry")
	// In the proxy's own module, not from here: its versions, not this one's.
	cmd := exec.Command("go", append(append([]string{"build"}, b.flags...), "-o", b.file, "./cmd/tenantry")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		b.why = fmt.Sprintf("%v\n%s", err, shorten(string(out)))
	}
}
