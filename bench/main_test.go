package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smetasc/tenantry/config"
)

// TestMain lets the test's binary be the parts that the bench starts of itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && regexp.MustCompile("^(server|relay|load)$").MatchString(os.Args[1]) {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// TestExperimentsRun has real processes do a little of several experiments, and asserts no time.
func TestExperimentsRun(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the proxy and runs it")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "tenantry")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/tenantry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := settings{binary: binary, rounds: 1, length: 300 * time.Millisecond}
	if err := s.all(regexp.MustCompile("^(find-8-free|getmore-16KB|scatter)$"), dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Experiments) != 3 {
		t.Fatalf("%d experiments in the report", len(r.Experiments))
	}
	for _, o := range r.Experiments {
		for _, v := range o.Variants {
			if len(o.Rounds[v.Name]) != 1 || o.Rounds[v.Name][0].Commands == 0 {
				t.Errorf("%s, %s: %+v", o.Name, v.Name, o.Rounds[v.Name])
			}
		}
		var b bytes.Buffer
		o.table(&b)
		if !bytes.Contains(b.Bytes(), []byte(o.Title)) {
			t.Errorf("the table of %s: %s", o.Name, b.String())
		}
	}
}

func TestExperimentsAreWhole(t *testing.T) {
	names := map[string]bool{}
	for _, e := range experiments() {
		if names[e.Name] {
			t.Errorf("two experiments %s", e.Name)
		}
		names[e.Name] = true
		has := map[string]bool{}
		for _, v := range e.Variants {
			has[v.Name] = true
		}
		if e.Base != "" && !has[e.Base] {
			t.Errorf("%s has no variant %s to compare with", e.Name, e.Base)
		}
		for _, x := range e.Targets {
			if !has[x.Variant] || x.Over != "" && !has[x.Over] || figures[x.Figure] == nil {
				t.Errorf("%s: a target of nothing: %+v", e.Name, x)
			}
		}
	}
}

func TestProxyConfigLoads(t *testing.T) {
	listeners := map[string]bool{}
	for _, e := range experiments() {
		for _, v := range e.Variants {
			listeners[v.Listener] = true
		}
	}
	for listener := range listeners {
		dir := t.TempDir()
		file := filepath.Join(dir, "tenantry.toml")
		if err := writeCertificate(filepath.Join(dir, certificateFile)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(proxyConfig(&variant{Listener: listener, Second: listener == "", Calls: listener == "", Tenants: 10, Isolated: 3, Pool: 50}, "127.0.0.1:27117", tcpListener)), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.Load(file, func(string) string { return "" })
		if err != nil {
			t.Fatalf("%s: %v", listener, err)
		}
		isolated := 0
		for _, x := range cfg.Tenants {
			if x.Mode == "per-tenant" {
				isolated++
			}
		}
		l := cfg.Listeners[0]
		clusters := map[bool]int{true: 2, false: 1}[listener == ""]
		if len(cfg.Clusters) != clusters || len(cfg.Tenants) != 10 || isolated != 3 || cfg.Pools.MaxPerServer != 50 || cfg.Control.Enabled ||
			cfg.Limits.IOUring != (listener != "") || (listener != "") != (l.TLS != nil || l.Tenant != "") {
			t.Errorf("%s: %d tenants, %d isolated, %+v", listener, len(cfg.Tenants), isolated, cfg)
		}
	}
}
