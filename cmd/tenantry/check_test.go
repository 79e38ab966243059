package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smetasc/tenantry/control"
)

const goodFile = `[[listeners]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[clusters.home]
uri = "mongodb://127.0.0.1:1/?password=hunter2"
[routing]
mode = "mixed"
shared_database = "app"
tenant_database = "app_tenant_{key}"
[modules]
orders = ["orders"]
[platform]
collections = ["users"]
[[tenants]]
id = "acme"
mode = "per-tenant"
[[tenants]]
id = "globex"
`

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newFile(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "tenantry.toml"), text)
}

func TestCheck(t *testing.T) {
	good := newFile(t, goodFile)
	r := tenantry(t, nil, "check", good)
	r.want(t, 0, "mixed", "app_tenant_{key}", "acme", "127.0.0.1:0")
	if strings.Contains(r.stdout, "hunter2") {
		t.Error("the summary shows a secret")
	}
	bad := newFile(t, strings.NewReplacer(`"mixed"`, `"mixd"`, "[platform]", "[platfrom]").Replace(goodFile))
	tenantry(t, nil, "check", bad).want(t, 2, bad+`:8: routing.mode: "mixd" is not a choice`, bad+":13: platfrom: unknown key; did you mean platform?")
	tenantry(t, nil, "check", newFile(t, goodFile+"x = [")).want(t, 2, "tenantry.toml:20: ")
	// What serve refuses is not good: here a slash that the password may not have as it is.
	slash := newFile(t, strings.Replace(goodFile, "127.0.0.1:1/?password=hunter2", "app:hunt/er2@127.0.0.1:1/", 1))
	for _, args := range [][]string{{"check", slash}, {"serve", "--config", slash}} {
		r := tenantry(t, nil, args...)
		r.want(t, 2, "unescaped slash in password")
		if strings.Contains(r.stderr, "er2") {
			t.Error("it shows a secret")
		}
	}
	tenantry(t, nil, "check", bad+".missing").want(t, 2, "tenantry.toml.missing: cannot be read")
}

// TestReadme: the file that the README begins with is right, and so is its example of a command.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```toml\n")
	toml, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no configuration in the README")
	}
	file := newFile(t, toml)
	tenantry(t, nil, "check", file).want(t, 0, "acme", "app_tenant_{key}")
	tenantry(t, nil, "explain", file, `{"find": "orders", "filter": {"tenantId": "acme"}}`).want(t, 0, `"app_tenant_acme"`)
}

func TestCheckWarns(t *testing.T) {
	file := newFile(t, strings.Replace(goodFile, "[admin]", "[[listeners]]\naddress = \"0.0.0.0:27019\"\ninsecure = true\n[admin]", 1))
	tenantry(t, nil, "check", file).want(t, 0, "warning: "+file+":5: ")
}

func TestCheckJSON(t *testing.T) {
	type answer struct {
		OK       bool
		Errors   []struct{ File, Key, Text, Remedy string }
		Warnings []any
	}
	read := func(file string, code int) (a answer) {
		r := tenantry(t, nil, "check", file, "--json")
		if err := json.Unmarshal([]byte(r.stdout), &a); err != nil || r.code != code {
			t.Errorf("%v, exit code %d: %s", err, r.code, r.stdout)
		}
		return a
	}
	if a := read(newFile(t, goodFile), 0); !a.OK || a.Errors == nil || len(a.Errors) != 0 || a.Warnings == nil {
		t.Errorf("good: %+v", a)
	}
	if a := read(newFile(t, "[listeners]\n"), 2); a.OK || len(a.Errors) == 0 || a.Errors[0].Remedy == "" {
		t.Errorf("bad: %+v", a)
	}
}

func TestEnvironment(t *testing.T) {
	file := newFile(t, goodFile)
	tenantry(t, []string{"MULTI_DB_MODE=forced"}, "check", file).want(t, 0, "forced")
	tenantry(t, []string{"MULTI_DB_MODE=maybe"}, "check", file).want(t, 2, "MULTI_DB_MODE", `"maybe" is not a mode`)
	tenantry(t, []string{"MULTI_DB_TENANT_KEYS=acme,,initech"}, "check", file).want(t, 2, "MULTI_DB_TENANT_KEYS: entry 2 is empty")
	find := `{"find": "orders", "filter": {"tenantId": "globex"}}`
	tenantry(t, nil, "explain", file, find).want(t, 0, `"app"`)
	tenantry(t, []string{"MULTI_DB_TENANT_KEYS=globex, initech"}, "explain", file, find).want(t, 0, `"app_tenant_globex"`)
	tenantry(t, []string{"MULTI_DB_MODE=disabled"}, "explain", file, strings.ReplaceAll(find, "globex", "acme")).want(t, 0, `"app"`)
}

// TestExplain has each kind of decision that the file alone can lead to.
func TestExplain(t *testing.T) {
	file := newFile(t, goodFile)
	for _, c := range []struct {
		command, action, database, text string
	}{
		{`{"find": "orders", "filter": {"tenantId": "acme"}}`, "forward", "app_tenant_acme", `"tenant": "acme"`},
		{`{"find": "orders", "filter": {"tenantId": "globex"}}`, "forward", "app", ""},
		{`{"find": "users"}`, "forward", "app", ""},
		{`{"find": "things", "$db": "elsewhere"}`, "forward", "elsewhere", ""},
		{`{"find": "orders", "filter": {"_id": {"$oid": "65f000000000000000000000"}}}`, "scatter", "app_tenant_acme", ""},
		{`{"aggregate": "orders", "pipeline": [{"$sort": {"x": 1}}]}`, "scatter", "app_tenant_acme", `"segments"`},
		{`{"createIndexes": "orders", "indexes": []}`, "each", "app_tenant_acme", ""},
		{`{"listIndexes": "orders"}`, "first", "app", ""},
		{`{"listDatabases": 1, "$db": "admin"}`, "clusters", "", ""},
		{`{"hello": 1}`, "answer", "", ""},
		{`{"find": "orders", "$db": "app_tenant_acme"}`, "empty", "", ""},
		{`{"getMore": {"$numberLong": "7"}, "collection": "orders"}`, "cursor", "", ""},
		{`{"commitTransaction": 1, "$db": "admin"}`, "transaction", "", ""},
		{`{"nonsense": 1}`, "refuse", "", `"codeName": "CommandNotFound"`},
		{`{"shardCollection": "app.orders", "$db": "admin"}`, "refuse", "", `"code": 115`},
	} {
		r := tenantry(t, nil, "explain", file, c.command)
		r.want(t, 0, fmt.Sprintf(`"action": %q`, c.action), c.text)
		if want := fmt.Sprintf(`"database": %q`, c.database); c.database != "" && !strings.Contains(r.stdout, want) {
			t.Errorf("%s: no %s in %s", c.command, want, r.stdout)
		}
	}
}

func TestExplainMistakes(t *testing.T) {
	file := newFile(t, goodFile)
	for command, text := range map[string]string{
		`{"find": "orders"`:      "the command is no JSON document: unexpected end",
		`{"find": "orders"} and`: "the command is no JSON document: invalid character 'a'",
		`["find"]`:               "the command is no JSON document",
		`{"find": {"$oid": 1}}`:  "the command is no JSON document",
		`{}`:                     "tenantry: a command needs a name",
	} {
		tenantry(t, nil, "explain", file, command).want(t, 2, text)
	}
	tenantry(t, nil, "explain", newFile(t, "x"), `{"ping": 1}`).want(t, 2, "tenantry.toml:1: ")
}

func TestPrintDrift(t *testing.T) {
	same := control.TenantStatus{Key: "acme", Drift: []control.Drift{}}
	for _, c := range []struct {
		list       []control.TenantStatus
		fails, out string
	}{
		{[]control.TenantStatus{{Key: "globex"}, same}, "", "1 tenants have databases of their own, which are defined as shared is"},
		{
			[]control.TenantStatus{same, {Key: "beta", Drift: []control.Drift{{Collection: "app.orders", What: "lacks the index n_1"}}}, {Key: "far", NotCompared: "it is away"}},
			"1 differences from shared in 3 tenants' own databases; 1 tenants could not be compared",
			"beta  app.orders  lacks the index n_1\nfar               not compared: it is away\n",
		},
		{
			[]control.TenantStatus{{Key: "globex", Tells: []string{"app.users email_1"}}, {Key: "wonka", Tells: []string{"app.users email_1"}}},
			"",
			"(shared)  app.users  the unique index email_1 lacks the tenant field: a duplicate key tells bound connections that another tenant has the value\n0 tenants",
		},
	} {
		var out strings.Builder
		err := printDrift(&out, c.list)
		if text := fmt.Sprint(err); err == nil && c.fails != "" || err != nil && text != c.fails || !strings.Contains(out.String(), c.out) {
			t.Errorf("%v and %q, want %q and %q", err, out.String(), c.fails, c.out)
		}
	}
}
