package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	tenantCollections   = []string{"orders", "order_items", "invoices", "transactions", "employees", "projects", "tasks", "jobs", "stock", "papers", "ledger"}
	platformCollections = []string{"tenants", "packages", "users", "roles"}
)

func TestMain(m *testing.M) {
	code := m.Run()
	proxy.RemoveBinary()
	os.Exit(code)
}

// program is a client that does its work on the database "smetasc_shared" of a
// server and prints what each operation came to.
//
// What it does on several clusters is less: its mode is then "apart".
type program struct {
	name    string
	layouts []layout
	run     func(t *testing.T, ctx context.Context, uri, mode string) (string, error)
}

var programs = []program{
	{"mongoose", allLayouts, func(t *testing.T, ctx context.Context, uri, mode string) (string, error) {
		return command(ctx, needNode(t), tree.Path(t, "demo", "node", "erp.mjs"), uri, shared, mode)
	}},
	{"pymongo", allLayouts, func(t *testing.T, ctx context.Context, uri, mode string) (string, error) {
		python := tree.Path(t, ".cache", "venv", "bin", "python")
		tree.NeedSetup(t, python)
		return command(ctx, python, tree.Path(t, "demo", "python", "erp.py"), uri, shared, mode)
	}},
	{"go", modeLayouts, func(_ *testing.T, ctx context.Context, uri, _ string) (string, error) {
		var out bytes.Buffer
		err := runGo(ctx, &out, uri, shared, false)
		return out.String(), err
	}},
	{"java", modeLayouts[:2], func(t *testing.T, ctx context.Context, uri, _ string) (string, error) {
		java, err := exec.LookPath("java")
		tree.Need(t, "java", "install a JDK of Java 17 or newer, and mvn", err == nil)
		libraries := tree.Path(t, ".cache", "java")
		tree.NeedSetup(t, filepath.Join(libraries, ".stamp"))
		return command(ctx, java, "-cp", filepath.Join(libraries, "*"), tree.Path(t, "demo", "java", "Erp.java"), uri, shared)
	}},
	{"mongosh", modeLayouts[:2], func(t *testing.T, ctx context.Context, uri, _ string) (string, error) {
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
		return out.String(), fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, firstLines(complaints.String(), 30))
	}
	return out.String(), nil
}

func (p program) log(t *testing.T, uri, mode string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	out, err := p.run(t, ctx, uri, mode)
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
			t.Parallel()
			first := p.log(t, secantus.Start(t, secantus.Options{}), "")
			second := p.log(t, secantus.Start(t, secantus.Options{}), "")
			if strings.Count(first, "\n") < 10 {
				t.Fatalf("it printed too little:\n%s", first)
			}
			compare(t, "first run", first, "second run", second)
		})
	}
}

// layout is a way in which the tenants are laid out behind a proxy.
type layout struct {
	name   string
	long   bool // for test-long only
	config func(home, big string) string
	// homeOf is the database of a tenant's documents of a collection, and whether it is on the
	// second cluster.
	homeOf func(owner, coll string) (db string, big bool)
}

func (l *layout) apart() string {
	if _, big := l.homeOf(isolated, "orders"); big {
		return "apart"
	}
	return ""
}

var modeLayouts = []layout{
	{
		name:   "mixed",
		config: func(home, _ string) string { return config("mixed", home) },
		homeOf: ownFor(tenantCollections, isolated),
	},
	{
		name:   "disabled",
		config: func(home, _ string) string { return config("disabled", home) },
		homeOf: ownFor(nil),
	},
	{
		name: "forced",
		config: func(home, _ string) string {
			return strings.ReplaceAll(config("forced", home), "mode = \"shared\"\n", "")
		},
		homeOf: ownFor(tenantCollections, isolated, "globex", "initech"),
	},
}

// modules are those of the configuration, with their collections.
var modules = []struct {
	name        string
	collections []string
}{
	{"orders", []string{"orders", "order_items", "stock"}},
	{"accounting", []string{"invoices", "transactions", "ledger"}},
	{"hrm", []string{"employees"}},
	{"projects", []string{"projects", "tasks", "jobs"}},
	{"archive", []string{"papers"}},
}

// allLayouts are also a tenant of which each module alone has been opted in, and one on a cluster
// of its own.
var allLayouts = func() []layout {
	all := append(slices.Clone(modeLayouts), layout{
		name: "apart",
		config: func(home, big string) string {
			return opted(config("mixed", home), "cluster = \"big\"") + fmt.Sprintf("\n[clusters.big]\nuri = %q\n", big)
		},
		homeOf: func(owner, coll string) (string, bool) {
			db, _ := ownFor(tenantCollections, isolated)(owner, coll)
			return db, db == own
		},
	})
	for _, m := range modules {
		all = append(all, layout{
			name: "module " + m.name, long: m.name != "orders",
			config: func(home, _ string) string {
				return opted(config("mixed", home), fmt.Sprintf("modules = [%q]", m.name))
			},
			homeOf: ownFor(m.collections, isolated),
		})
	}
	return all
}()

// opted is a configuration with one more line about the isolated tenant.
func opted(text, line string) string {
	return strings.Replace(text, "mode = \"per-tenant\"\n", "mode = \"per-tenant\"\n"+line+"\n", 1)
}

// ownFor is a layout where these tenants have these collections in databases of their own.
func ownFor(collections []string, tenants ...string) func(owner, coll string) (string, bool) {
	return func(owner, coll string) (string, bool) {
		if slices.Contains(tenants, owner) && slices.Contains(collections, coll) {
			return "smetasc_tenant_" + owner, false
		}
		return shared, false
	}
}

// The same work, once directly and once through the proxy in front of another
// fresh server: nobody may see a difference, in no layout, and the documents must
// be where the layout says.
func TestSameWorkTwice(t *testing.T) {
	skipShort(t)
	proxy.Binary(t) // skips here rather than after half of the work
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.twice(t, func(t *testing.T) string { return secantus.Start(t, secantus.Options{}) })
		})
	}
}

// direct is what a program did without a proxy.
type direct struct{ uri, log string }

func (p program) twice(t *testing.T, start func(*testing.T) string) {
	t.Helper()
	done := map[string]direct{} // by the program's mode
	for i := range p.layouts {
		l := &p.layouts[i]
		if l.long && !long() {
			continue
		}
		want, ok := done[l.apart()]
		if !ok {
			want.uri = start(t)
			want.log = p.log(t, want.uri, l.apart())
			done[l.apart()] = want
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel() // most of the time is one waiting for another
			home, big := start(t), ""
			if l.apart() != "" {
				big = start(t)
			}
			front := proxy.Start(t, l.config(home, big))
			compare(t, "direct", want.log, "proxied", p.log(t, front.URI, l.apart()))
			checkHomes(t, l, want.uri, home, big)
			checkDrift(t, front)
		})
	}
}

// The part of it that a machine with nothing but Go can run.
func TestSameWorkTwiceEmbedded(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	plain := program{"go", modeLayouts[:2], func(_ *testing.T, ctx context.Context, uri, _ string) (string, error) {
		var out bytes.Buffer
		err := runGo(ctx, &out, uri, shared, true)
		return out.String(), err
	}}
	plain.twice(t, startFerret)
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
orders = ["orders", "order_items*", "stock"]
accounting = ["invoices", "transactions", "ledger"]
hrm = ["employees"]
projects = ["projects", "tasks", "jobs"]
archive = ["papers"]

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
func checkHomes(t *testing.T, l *layout, direct, home, big string) {
	t.Helper()
	want := open(t, direct)
	clients := map[bool]*mongo.Client{false: open(t, home)}
	if big != "" {
		clients[true] = open(t, big)
	}
	inOwn := 0
	for _, coll := range slices.Concat(tenantCollections, platformCollections) {
		wrong, example := 0, ""
		expected := documents(t, want, shared, coll)
		held, n := everywhere(t, clients, coll)
		for id, doc := range expected {
			owner, _ := doc.Lookup("tenantId").StringValueOK()
			db, far := l.homeOf(owner, coll)
			if db != shared {
				inOwn++
			}
			if got := held[place{db, far}][id]; !bytes.Equal(got, doc) {
				wrong, example = wrong+1, fmt.Sprintf("%s of tenant %q is in %s as %q, want %q", id, owner, db, got, doc)
			}
		}
		if wrong > 0 {
			t.Errorf("%s: %d documents are not what and where they ought to be; %s", coll, wrong, example)
		}
		if n != len(expected) {
			t.Errorf("%s: %d documents in all databases, want %d", coll, n, len(expected))
		}
	}
	if l.name != "disabled" && inOwn == 0 {
		t.Error("nothing is in a database of its own: the program does nothing for who is isolated")
	}
}

// checkDrift looks whether every definition has reached every database.
func checkDrift(t *testing.T, front *proxy.Proxy) {
	t.Helper()
	var tenants []struct {
		Key         string
		Drift       []struct{ Collection, What string }
		NotCompared string `json:"not_compared"`
	}
	if err := json.Unmarshal([]byte(front.Get(t, "/tenants?drift=1")), &tenants); err != nil {
		t.Fatal(err)
	}
	for _, x := range tenants {
		if len(x.Drift) > 0 || x.NotCompared != "" {
			t.Errorf("%s differs from shared: %q %s", x.Key, x.Drift, x.NotCompared)
		}
	}
}

// place is a database of one of the two clusters.
type place struct {
	db  string
	big bool
}

// everywhere is what each database holds of a collection, and how many documents that is.
func everywhere(t *testing.T, clients map[bool]*mongo.Client, coll string) (held map[place]map[string]bson.Raw, n int) {
	t.Helper()
	held = map[place]map[string]bson.Raw{}
	for big, client := range clients {
		names, err := client.ListDatabaseNames(t.Context(), bson.D{{Key: "name", Value: bson.Regex{Pattern: "^smetasc_"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, db := range names {
			docs := documents(t, client, db, coll)
			held[place{db, big}], n = docs, n+len(docs)
		}
	}
	return held, n
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

// What is refused in a shell says why; what servers do it tells, and ends.
func TestShellOfOperations(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	front := proxy.Start(t, config("mixed", secantus.Start(t, secantus.Options{})))
	shell := tree.Path(t, ".cache", "node", "node_modules", "mongosh", "bin", "mongosh.js")
	for line, want := range map[string]string{
		"db.killOp(db.currentOp().inprog[0].opid)": "served",
		"db.killOp(1)":                     "2 tenantry: killOp needs \"op\" as currentOp tells it here",
		"db.adminCommand({ lockInfo: 1 })": "115 tenantry: lockInfo: this command is not offered by a router of tenants",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			out, err := command(t.Context(), needNode(t), shell, "--quiet", "--norc", front.URI+shared,
				"--eval", "try { "+line+"; print('served') } catch (e) { print(e.code, e.message) }")
			if err != nil || !strings.HasPrefix(out, want) {
				t.Errorf("%q, %v; want %q", out, err, want)
			}
		})
	}
}

// What no server can do is refused as one thing, and nothing of it stays.
func TestTransactionOverClusters(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	apart := allLayouts[slices.IndexFunc(allLayouts, func(l layout) bool { return l.apart() != "" })]
	home, big := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
	db := open(t, proxy.Start(t, apart.config(home, big)).URI).Database(shared)
	insert := func(ctx context.Context, coll, tenant string) error {
		_, err := db.Collection(coll).InsertOne(ctx, bson.D{{Key: "tenantId", Value: tenant}})
		return err
	}
	for _, coll := range []string{"orders", "users"} {
		for _, tenant := range []string{isolated, "globex"} {
			if err := insert(t.Context(), coll, tenant); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, second := range [][2]string{{"orders", "globex"}, {"users", isolated}} {
		session, err := db.Client().StartSession()
		if err != nil {
			t.Fatal(err)
		}
		err = mongo.WithSession(t.Context(), session, func(ctx context.Context) error {
			if err := session.StartTransaction(); err != nil {
				return err
			}
			if err := insert(ctx, "orders", isolated); err != nil {
				return err
			}
			return insert(ctx, second[0], second[1])
		})
		session.EndSession(t.Context())
		var refused mongo.CommandError
		if !errors.As(err, &refused) || refused.Code != 263 {
			t.Errorf("a transaction over %s of two clusters: %v, want 263", second[0], err)
		}
	}
	for _, coll := range []string{"orders", "users"} {
		if n, err := db.Collection(coll).CountDocuments(t.Context(), bson.D{}); n != 2 || err != nil {
			t.Errorf("%s holds %d documents, want 2 (%v)", coll, n, err)
		}
	}
}

// In a transaction what names its document by _id alone is served on that document's cluster, be it the first
// command or not, as on one database.
func TestTransactionByID(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	apart := allLayouts[slices.IndexFunc(allLayouts, func(l layout) bool { return l.apart() != "" })]
	home, big := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
	sides := []*mongo.Collection{
		open(t, secantus.Start(t, secantus.Options{})).Database(shared).Collection("orders"),
		open(t, proxy.Start(t, apart.config(home, big)).URI).Database(shared).Collection("orders"),
	}
	one := func(id int) bson.D { return bson.D{{Key: "_id", Value: id}} }
	more := bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}
	rows := func(ctx context.Context, c *mongo.Cursor, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		var docs []bson.D
		err = c.All(ctx, &docs)
		return fmt.Sprint(docs), err
	}
	type step struct {
		name string
		do   func(ctx context.Context, c *mongo.Collection, id int) (any, error)
	}
	steps := []step{
		{"find", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			cur, err := c.Find(ctx, one(id))
			return rows(ctx, cur, err)
		}},
		{"list", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			cur, err := c.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: bson.A{id, id + 10}}}}})
			return rows(ctx, cur, err)
		}},
		{"aggregate", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			cur, err := c.Aggregate(ctx, bson.A{bson.D{{Key: "$match", Value: one(id)}}, bson.D{{Key: "$limit", Value: 1}}, bson.D{{Key: "$project", Value: bson.D{{Key: "n", Value: 1}}}}})
			return rows(ctx, cur, err)
		}},
		{"sorted", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			cur, err := c.Aggregate(ctx, bson.A{bson.D{{Key: "$match", Value: one(id)}}, bson.D{{Key: "$sort", Value: bson.D{{Key: "n", Value: 1}}}}})
			return rows(ctx, cur, err)
		}},
		{"countDocuments", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			return c.CountDocuments(ctx, one(id))
		}},
		{"distinct", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			var values []int
			err := c.Distinct(ctx, "n", one(id)).Decode(&values)
			return fmt.Sprint(values), err
		}},
		{"updateMany", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			r, err := c.UpdateMany(ctx, one(id), more)
			return fmt.Sprint(r), err
		}},
		{"bulkWrite", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			r, err := c.BulkWrite(ctx, []mongo.WriteModel{mongo.NewUpdateManyModel().SetFilter(one(id)).SetUpdate(more), mongo.NewUpdateOneModel().SetFilter(one(id)).SetUpdate(more)})
			return fmt.Sprint(r), err
		}},
		{"deleteMany", func(ctx context.Context, c *mongo.Collection, id int) (any, error) {
			r, err := c.DeleteMany(ctx, one(id))
			return fmt.Sprint(r), err
		}},
	}
	for _, c := range sides {
		for i, tenant := range []string{isolated, "globex"} {
			if _, err := c.InsertOne(t.Context(), bson.D{{Key: "_id", Value: i}, {Key: "tenantId", Value: tenant}, {Key: "n", Value: 5}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, first := range steps {
		for _, second := range []step{steps[0], steps[4], steps[6]} {
			for id := range 3 { // of the last there is none
				var got [2]string
				for side, c := range sides {
					session, err := c.Database().Client().StartSession()
					if err != nil {
						t.Fatal(err)
					}
					err = mongo.WithSession(t.Context(), session, func(ctx context.Context) error {
						if err := session.StartTransaction(); err != nil {
							return err
						}
						for _, s := range []step{first, second} {
							result, err := s.do(ctx, c, id)
							if err != nil {
								return err
							}
							got[side] += fmt.Sprintln(s.name, result)
						}
						return session.AbortTransaction(ctx)
					})
					session.EndSession(t.Context())
					if err != nil {
						t.Errorf("%s, then %s of %d: %v", first.name, second.name, id, err)
					}
				}
				compare(t, "direct", got[0], "proxied", got[1])
			}
		}
	}
}
