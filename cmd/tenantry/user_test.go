package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smetasc/tenantry/config"
)

// withInput is tenantry with something on its input.
func withInput(t *testing.T, input string, args ...string) result {
	t.Helper()
	cmd := command(t.Context(), nil, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.toml")
	run := func(input, args string) result {
		t.Helper()
		return withInput(t, input, append([]string{"user"}, strings.Fields(args+" --file "+file)...)...)
	}
	find := func(source, name string) *config.User {
		t.Helper()
		f, err := config.OpenUsers(file)
		if err != nil {
			t.Fatal(err)
		}
		return f.Find(source, name)
	}
	run("hunter2\n", "add app --role application --password-stdin").want(t, 0, "app added to "+file)
	run("hunter2", "add --role read web --tenant acme --sha1 --password-stdin").want(t, 0, "web added")
	run("hunter2", "add ops --role operator --source crm --password-stdin").want(t, 0)
	run("", "list").want(t, 0, "NAME", "web   admin   read         acme    rows       SCRAM-SHA-256,SCRAM-SHA-1", "ops   crm     operator     -       -          SCRAM-SHA-256")
	run("", "list --json").want(t, 0, `"tenant": "acme"`, `"source": "crm"`)
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("%v: %s", err, text)
	}
	before := find("admin", "web")
	run("hunter3", "passwd web --password-stdin").want(t, 0, "web has a new password in "+file)
	after := find("admin", "web")
	if before.Credentials[0] == after.Credentials[0] || len(after.Credentials) != 2 || after.Tenant != "acme" {
		t.Errorf("%+v, then %+v", before, after)
	}
	run("hunter3", "passwd app --sha1 --password-stdin").want(t, 0)
	if u := find("admin", "app"); len(u.Credentials) != 2 {
		t.Errorf("%+v", u)
	}
	run("x", "add app --role operator --password-stdin").want(t, 1, "already", "tenantry user passwd")
	run("x", "passwd nobody --password-stdin").want(t, 1, `no user "nobody"`)
	run("", "remove ops").want(t, 1, `no user "ops" with source "admin"`)
	run("", "remove ops --source crm").want(t, 0, "ops removed from")
	if find("crm", "ops") != nil || find("admin", "web") == nil {
		t.Error("another user than ops was removed")
	}
	unchanged, _ := os.ReadFile(file)
	for _, c := range []struct{ input, args, text string }{
		{"", "add x --role application", "--password-stdin"},
		{"", "add x --role application --password-stdin", "the password is empty"},
		{strings.Repeat("x", 5000), "add x --role application --password-stdin", "more than 4096 bytes"},
		{"x", "add x --role root --password-stdin", `"root" is not a choice`},
		{"x", "add x --role read --password-stdin", "tenant: is missing"},
		{"x", "add x --role operator --tenant acme --password-stdin", "has no meaning"},
		{"x", "add x --password-stdin", "add needs --role"},
		{"x", "add x y --role application --password-stdin", "add takes one name"},
		{"x", "add x --role application --password hunter2", "not defined: -password"},
		{"", "passwd", "passwd takes one name"},
		{"", "list x", `list takes no "x"`},
		{"", "rename x", "usage: tenantry user add"},
	} {
		run(c.input, c.args).want(t, 2, c.text)
	}
	if text, _ := os.ReadFile(file); !bytes.Equal(text, unchanged) {
		t.Errorf("changed by what was refused:\n%s", text)
	}
	os.WriteFile(file, []byte("[[user]]\nname = \"x\"\n"), 0o600)
	run("", "list").want(t, 2, "unknown key", "did you mean users?")
	tenantry(t, nil, "user").want(t, 2, "usage: tenantry user add")
}
