package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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
		{"tenants --all", "not defined: -all; usage: tenantry tenants"},
		{"tenants --admin", "needs an argument: -admin"},
		{"tenants --admin http://[::1", "admin address"},
	} {
		tenantry(t, nil, strings.Fields(c.args)...).want(t, 2, "tenantry: ", c.text)
	}
}

// TestTrouble: what a newcomer meets says what to do.
func TestTrouble(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	file := newFile(t, strings.Replace(goodFile, "127.0.0.1:0", address, 1))
	tenantry(t, nil, "serve", "--config", file).want(t, 1, address, "already in use", "choose another address under [[listeners]]")
	taken.Close() // nobody is there now
	tenantry(t, nil, "tenants", "--admin", address).want(t, 1, "no proxy answers at http://"+address, "--admin or TENANTRY_ADMIN")
	tenantry(t, nil, "explain", file, `{find: "orders"}`).want(t, 2, "double quotes")
}
