// Package proxy builds and runs the tenantry binary as a test's child, with
// the race detector on: what it finds fails the test that provoked it.
package proxy

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
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
	URI   string // what clients connect to
	Admin string // its HTTP side, http://127.0.0.1:…

	process *child.Process
	file    string
	fill    *strings.Replacer
}

// Start runs a proxy with the given configuration until the test ends. In the
// text $LISTEN and $ADMIN stand for addresses that Start chooses.
func Start(t testing.TB, configTOML string, env ...string) *Proxy {
	t.Helper()
	binary := Binary(t)
	listen, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		URI:   "mongodb://" + listen + "/",
		Admin: "http://" + admin,
		file:  filepath.Join(t.TempDir(), "tenantry.toml"),
		fill:  strings.NewReplacer("$LISTEN", listen, "$ADMIN", admin),
	}
	p.write(t, configTOML)
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
	p.write(t, configTOML)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Admin+"/reload", nil)
	if err := expectOK(req); err != nil {
		t.Fatalf("reload: %v", err)
	}
}

// Log is what the proxy has written so far.
func (p *Proxy) Log() string { return p.process.Output() }

func (p *Proxy) write(t testing.TB, configTOML string) {
	t.Helper()
	// Replaced by a rename, so that a proxy watching the file never reads half.
	next := p.file + ".next"
	if err := os.WriteFile(next, []byte(p.fill.Replace(configTOML)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.file); err != nil {
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

var built struct {
	once sync.Once
	dir  string
	file string
	why  string // the build's errors
}

// Binary is the proxy's binary: TENANTRY_BINARY if set, else built once per
// test run. While it doesn't build, tests are skipped (with CI=true: fail).
func Binary(t testing.TB) string {
	t.Helper()
	if file := os.Getenv("TENANTRY_BINARY"); file != "" {
		return file
	}
	built.once.Do(func() { build(tree.Path(t)) })
	tree.Need(t, "the proxy", "go build ./cmd/tenantry does not work:\n"+built.why, built.why == "")
	return built.file
}

// RemoveBinary is for TestMain, after the last test.
func RemoveBinary() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

func build(root string) {
	dir, err := os.MkdirTemp("", "tenantry-e2e-")
	if err != nil {
		built.why = err.Error()
		return
	}
	built.dir, built.file = dir, filepath.Join(dir, "tenantry")
	// In the proxy's own module, not from here: its versions, not this one's.
	cmd := exec.Command("go", "build", "-race", "-o", built.file, "./cmd/tenantry")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		built.why = fmt.Sprintf("%v\n%s", err, shorten(string(out)))
	}
}
