package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tcpListener is an address that the system chooses.
const tcpListener = "127.0.0.1:0"

// proxyConfig is the configuration that a variant is measured with: mixed mode, metrics on, some of the tenants
// isolated, and no control database, since the server behind can't hold one.
func proxyConfig(v *variant, server, address string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[log]
slow = "1m"
[[listeners]]
address = %q
%s
[admin]
address = "127.0.0.1:0"
[control]
enabled = false
[clusters.home]
uri = "mongodb://%s/"
[routing]
mode = "mixed"
home = "home"
shared_database = %q
tenant_database = "app_tenant_{key}"
tenant_field = "tenantId"
scatter_width = 64
[modules]
orders = ["orders", "order_items", "timed"]
slow = ["slow"]
[platform]
collections = ["users"]
[pools]
max_per_server = %d
`, address, v.Listener, server, sharedDB, v.Pool)
	if v.Second {
		fmt.Fprintf(&b, "[clusters.second]\nuri = \"mongodb://%s/\"\n", server)
	}
	if v.Calls {
		b.WriteString("[limits]\nio_uring = false\n")
	}
	for n := 1; n <= v.Tenants; n++ {
		mode := "shared"
		if n <= 2*v.Isolated && n%2 == 1 {
			mode = "per-tenant"
		}
		fmt.Fprintf(&b, "[[tenants]]\nid = %q\nkey = %[1]q\nmode = %q\n", tenantID(n), mode)
	}
	return b.String()
}

// tenantry is the proxy under test.
type tenantry struct {
	*child
	admin string
	file  string
}

// startTenantry runs the binary and returns when it serves. A certificate for listeners with TLS lies
// beside the configuration.
func startTenantry(cpu int, binary, configTOML string) (*tenantry, error) {
	dir, err := os.MkdirTemp("", "tenantry-bench")
	if err != nil {
		return nil, err
	}
	if err := writeCertificate(filepath.Join(dir, certificateFile)); err != nil {
		return nil, err
	}
	t := &tenantry{child: &child{}, file: filepath.Join(dir, "tenantry.toml")}
	if err := os.WriteFile(t.file, []byte(configTOML), 0o600); err != nil {
		return nil, err
	}
	t.cmd = exec.Command(binary, "serve", "--config", t.file)
	log, err := t.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if _, err := t.start(cpu); err != nil {
		return nil, err
	}
	if err := t.await(log); err != nil {
		t.stop()
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return t, nil
}

// await reads the log until the proxy serves, and goes on with it, since nobody else does. What it
// says after that at the level of warnings is shown.
func (t *tenantry) await(log io.Reader) error {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var l struct{ Level, Message, Address, Error string }
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			return errors.New(lines.Text())
		}
		switch l.Message {
		case "admin listens":
			t.admin = "http://" + l.Address
		case "listening":
			t.address = l.Address
		case "tenantry serves":
			go func() {
				for lines.Scan() {
					if s := lines.Text(); strings.Contains(s, `"level":"warn"`) || strings.Contains(s, `"level":"error"`) {
						fmt.Fprintln(os.Stderr, s)
					}
				}
			}()
			return t.ready()
		}
	}
	return errors.New("it has ended; run it by hand to see why")
}

// ready waits until the server behind is known.
func (t *tenantry) ready() error {
	for late := time.Now().Add(30 * time.Second); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if _, err := t.get("/readyz"); err == nil {
			return nil
		}
	}
	return errors.New("it does not become ready")
}

func (t *tenantry) get(path string) (string, error) { return answer(http.Get(t.admin + path)) }

// reload puts the file's present content in force.
func (t *tenantry) reload(configTOML string) error {
	if err := os.WriteFile(t.file, []byte(configTOML), 0o600); err != nil {
		return err
	}
	_, err := answer(http.Post(t.admin+"/reload", "", nil))
	return err
}

func answer(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}

func (t *tenantry) stop() {
	t.child.stop()
	_ = os.RemoveAll(filepath.Dir(t.file))
}
