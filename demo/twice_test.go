package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	tenantryconfig "github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/demo/internal/ferret"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

const (
	shared   = "smetasc_shared"
	isolated = "acme"
	own      = "smetasc_tenant_" + isolated

	runLimit  = 2 * time.Minute // of one program's run
	diffShown = 8               // lines
)

var (
	tenantCollections   = []string{"orders", "order_items", "invoices", "transactions", "employees", "projects", "tasks"}
	platformCollections = []string{"tenants", "packages", "users", "roles"}
)

func TestMain(m *testing.M) {
	code := m.Run()
	proxy.RemoveBinary()
	os.Exit(code)
}

// program is a client that does its work on the database "smetasc_shared" of a
// server and prints what each operation came to.
type program struct {
	name string
	run  func(t *testing.T, ctx context.Context, uri string) (string, error)
}

var programs = []program{
	{"mongoose", func(t *testing.T, ctx context.Context, uri string) (string, error) {
		return command(ctx, needNode(t), tree.Path(t, "demo", "node", "erp.mjs"), uri, shared)
	}},
	{"pymongo", func(t *testing.T, ctx context.Context, uri string) (string, error) {
		python := tree.Path(t, ".cache", "venv", "bin", "python")
		tree.NeedSetup(t, python)
		return command(ctx, python, tree.Path(t, "demo", "python", "erp.py"), uri, shared)
	}},
	{"go", func(_ *testing.T, ctx context.Context, uri string) (string, error) {
		var out bytes.Buffer
		err := runGo(ctx, &out, uri, shared, false)
		return out.String(), err
	}},
	{"mongosh", func(t *testing.T, ctx context.Context, uri string) (string, error) {
		node := needNode(t)
		shell := tree.Path(t, ".cache", "node", "node_modules", "mongosh", "bin", "mongosh.js")
		tree.NeedSetup(t, shell)
		return command(ctx, node, shell, "--quiet", "--norc", "--file", tree.Path(t, "demo", "node", "smoke.js"), uri+shared)
	}},
}

func needNode(t *testing.T) string {
	t.Helper()
	node, err := exec.LookPath("node")
	tree.Need(t, "node", "install Node 20.19 or newer", err == nil)
	tree.NeedSetup(t, tree.Path(t, ".cache", "node", ".stamp"))
	return node
}

// command runs a program to its end and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	home, err := os.MkdirTemp("", "tenantry-home-") // mongosh writes there
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(home)
	cmd.Env = append(os.Environ(), "HOME="+home, "PYTHONDONTWRITEBYTECODE=1")
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", filepath.Base(args[0]), err, firstLines(complaints.String(), 30))
	}
	return out.String(), nil
}

func (p program) log(t *testing.T, uri string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	out, err := p.run(t, ctx, uri)
	if err != nil {
		t.Fatalf("%s stopped after %d lines: %v", p.name, strings.Count(out, "\n"), err)
	}
	return out
}

// Without this the comparison below would prove nothing.
func TestProgramsAreDeterministic(t *testing.T) {
	skipShort(t)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			first := p.log(t, secantus.Start(t, secantus.Options{}))
			second := p.log(t, secantus.Start(t, secantus.Options{}))
			if strings.Count(first, "\n") < 10 {
				t.Fatalf("it printed too little:\n%s", first)
			}
			compare(t, "first run", first, "second run", second)
		})
	}
}

// The same work, once directly and once through the proxy in front of another
// fresh server: nobody may see a difference, in no mode, and the documents must
// be where the mode says.
func TestSameWorkTwice(t *testing.T) {
	skipShort(t)
	proxy.Binary(t) // skips here rather than after half of the work
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			direct := secantus.Start(t, secantus.Options{})
			want := p.log(t, direct)
			for _, mode := range []string{"mixed", "disabled"} {
				t.Run(mode, func(t *testing.T) {
					behind := secantus.Start(t, secantus.Options{})
					front := proxy.Start(t, config(mode, behind))
					compare(t, "direct", want, "proxied", p.log(t, front.URI))
					checkHomes(t, mode, direct, behind)
				})
			}
		})
	}
}

// The part of it that a machine with nothing but Go can run.
func TestSameWorkTwiceEmbedded(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	plain := program{"go", func(_ *testing.T, ctx context.Context, uri string) (string, error) {
		var out bytes.Buffer
		err := runGo(ctx, &out, uri, shared, true)
		return out.String(), err
	}}
	direct := startFerret(t)
	want := plain.log(t, direct)
	for _, mode := range []string{"mixed", "disabled"} {
		t.Run(mode, func(t *testing.T) {
			behind := startFerret(t)
			front := proxy.Start(t, config(mode, behind))
			compare(t, "direct", want, "proxied", plain.log(t, front.URI))
			checkHomes(t, mode, direct, behind)
		})
	}
}

func TestEmbeddedIsDeterministic(t *testing.T) {
	skipShort(t)
	var logs [2]bytes.Buffer
	for i := range logs {
		if err := runGo(t.Context(), &logs[i], startFerret(t), shared, true); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, "first run", logs[0].String(), "second run", logs[1].String())
}

func startFerret(t *testing.T) string {
	t.Helper()
	s, err := ferret.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.URI
}

func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("real clients and servers: not with -short")
	}
}

// config is a proxy's configuration with one of three tenants isolated.
func config(mode, backend string) string {
	return fmt.Sprintf(`
[[listeners]]
address = "$LISTEN"
presentation = "mongos"

[admin]
address = "$ADMIN"

[clusters.home]
uri = %q

[routing]
mode = %q
home = "home"
shared_database = "smetasc_shared"
tenant_database = "smetasc_tenant_{key}"
tenant_field = "tenantId"

[modules]
orders = ["orders", "order_items"]
accounting = ["invoices", "transactions"]
hrm = ["employees"]
projects = ["projects", "tasks"]

[platform]
collections = ["tenants", "packages", "users", "roles"]

[[tenants]]
id = "acme"
key = "acme"
mode = "per-tenant"

[[tenants]]
id = "globex"
key = "globex"
mode = "shared"

[[tenants]]
id = "initech"
key = "initech"
mode = "shared"
`, backend, mode)
}

// A mistake in the configuration would look like a proxy that doesn't start.
func TestConfigLoads(t *testing.T) {
	for _, mode := range []string{"mixed", "disabled"} {
		text := strings.NewReplacer("$LISTEN", "127.0.0.1:27017", "$ADMIN", "127.0.0.1:8017").Replace(config(mode, "mongodb://127.0.0.1:27117/"))
		file := filepath.Join(t.TempDir(), "tenantry.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems, err := tenantryconfig.Load(file, func(string) string { return "" })
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v %v", mode, err, problems)
		}
	}
}

// compare shows where two logs differ: the operation, and both texts from
// shortly before the first different character.
func compare(t *testing.T, oneName, one, otherName, other string) {
	t.Helper()
	a, b := strings.Split(one, "\n"), strings.Split(other, "\n")
	if len(a) != len(b) {
		t.Errorf("%s printed %d lines, %s %d", oneName, len(a)-1, otherName, len(b)-1)
	}
	differ := 0
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		if differ++; differ > diffShown {
			continue
		}
		from := 0
		for from < min(len(a[i]), len(b[i])) && a[i][from] == b[i][from] {
			from++
		}
		t.Errorf("line %d, %.60s…\n%9s: %s\n%9s: %s", i+1, a[i], oneName, around(a[i], from), otherName, around(b[i], from))
	}
	if differ > diffShown {
		t.Errorf("and %d more lines differ", differ-diffShown)
	}
}

func around(s string, at int) string {
	from, to := max(0, at-40), min(len(s), at+240)
	return "…" + s[from:to]
}

// checkHomes looks at the servers behind the proxy's back: every document is
// there once, as on the server that had no proxy, and in the right database.
func checkHomes(t *testing.T, mode, direct, behind string) {
	t.Helper()
	want, got := open(t, direct), open(t, behind)
	inOwn := 0
	for _, coll := range slices.Concat(tenantCollections, platformCollections) {
		expected := documents(t, want, shared, coll)
		common, separate := documents(t, got, shared, coll), documents(t, got, own, coll)
		inOwn += len(separate)
		wrong, example := 0, ""
		for id, doc := range expected {
			owner, _ := doc.Lookup("tenantId").StringValueOK()
			home, name := common, shared
			if mode != "disabled" && owner == isolated && slices.Contains(tenantCollections, coll) {
				home, name = separate, own
			}
			if !bytes.Equal(home[id], doc) {
				wrong, example = wrong+1, fmt.Sprintf("%s of tenant %q is in %s as %q, want %q", id, owner, name, home[id], doc)
			}
		}
		if wrong > 0 {
			t.Errorf("%s: %d documents are not what and where they ought to be; %s", coll, wrong, example)
		}
		if n := len(common) + len(separate); n != len(expected) {
			t.Errorf("%s: %d documents in shared and %d in the tenant's own database, want %d in all", coll, len(common), len(separate), len(expected))
		}
	}
	if mode != "disabled" && inOwn == 0 {
		t.Errorf("nothing is in %s: the proxy isolated nobody", own)
	}
}

func open(t *testing.T, uri string) *mongo.Client {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Disconnect(context.Background()) })
	return client
}

// documents are those of a collection by their _id.
func documents(t *testing.T, client *mongo.Client, database, coll string) map[string]bson.Raw {
	t.Helper()
	cursor, err := client.Database(database).Collection(coll).Find(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var docs []bson.Raw
	if err := cursor.All(t.Context(), &docs); err != nil {
		t.Fatal(err)
	}
	byID := make(map[string]bson.Raw, len(docs))
	for _, d := range docs {
		byID[d.Lookup("_id").String()] = d
	}
	if len(byID) != len(docs) {
		t.Errorf("%s.%s holds an _id twice", database, coll)
	}
	return byID
}
