package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var binary string // built by TestMain

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tenantry-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "tenantry")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// command is the binary in an environment without settings but those given.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "MULTI_DB_") && !strings.HasPrefix(kv, "TENANTRY_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// result is what a finished process left.
type result struct {
	code           int
	stdout, stderr string
}

func tenantry(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := command(ctx, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("tenantry %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want checks the exit code and that each text is in the output that belongs to the code.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	out, other := r.stdout, r.stderr
	if code != 0 {
		out, other = r.stderr, r.stdout
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in %q", text, out)
		}
	}
	if r.code != code || other != "" {
		t.Errorf("exit code %d, want %d; stdout %q, stderr %q", r.code, code, r.stdout, r.stderr)
	}
}

func TestUsage(t *testing.T) {
	tenantry(t, nil).want(t, 2, "usage:", "name a command")
	tenantry(t, nil, "help").want(t, 0, "usage:", "exit codes")
	tenantry(t, nil, "--help").want(t, 0, "usage:")
	tenantry(t, nil, "serve", "--help").want(t, 0, "usage:")
	tenantry(t, nil, "version").want(t, 0, "tenantry devel")
	for _, c := range []struct{ args, text string }{
		{"start", `no command "start"`},
		{"serve --port 27017", "usage: tenantry serve"},
		{"serve --drain soon", `invalid value "soon"`},
		{"serve tenantry.toml", "--config"},
		{"check", "usage: tenantry check"},
		{"check --strict", "usage: tenantry check"},
		{"check one.toml two.toml", "usage: tenantry check"},
		{"explain one.toml", "usage: tenantry explain"},
		{"tenants --all", "usage: tenantry tenants"},
		{"tenants --admin", "usage: tenantry tenants"},
		{"tenants --admin http://[::1", "admin address"},
	} {
		tenantry(t, nil, strings.Fields(c.args)...).want(t, 2, "tenantry: ", c.text)
	}
}
