package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

// logins are the drivers; each prints a line for each connection string.
var logins = []struct {
	name string
	run  func(t *testing.T, ctx context.Context, uris []string) (string, error)
}{
	{"go", func(t *testing.T, ctx context.Context, uris []string) (string, error) {
		return loginGo(t, ctx, uris), nil
	}},
	{"node", func(t *testing.T, ctx context.Context, uris []string) (string, error) {
		return command(ctx, needNode(t), append([]string{tree.Path(t, "demo", "node", "login.mjs")}, uris...)...)
	}},
	{"mongosh", func(t *testing.T, ctx context.Context, uris []string) (string, error) {
		shell := tree.Path(t, ".cache", "node", "node_modules", "mongosh", "bin", "mongosh.js")
		list, _ := json.Marshal(uris)
		return command(ctx, needNode(t), shell, "--quiet", "--nodb", "--eval", "const uris = "+string(list), tree.Path(t, "demo", "node", "login.js"))
	}},
	{"pymongo", func(t *testing.T, ctx context.Context, uris []string) (string, error) {
		python := tree.Path(t, ".cache", "venv", "bin", "python")
		tree.NeedSetup(t, python)
		return command(ctx, python, append([]string{tree.Path(t, "demo", "python", "login.py")}, uris...)...)
	}},
	{"java", func(t *testing.T, ctx context.Context, uris []string) (string, error) {
		java, err := exec.LookPath("java")
		tree.Need(t, "java", "install a JDK of Java 17 or newer, and mvn", err == nil)
		libraries := tree.Path(t, ".cache", "java")
		tree.NeedSetup(t, libraries)
		return command(ctx, java, append([]string{"-cp", filepath.Join(libraries, "*"), tree.Path(t, "demo", "java", "Login.java")}, uris...)...)
	}},
}

func loginGo(t *testing.T, ctx context.Context, uris []string) string {
	var out strings.Builder
	for _, uri := range uris {
		fact := map[string]any{}
		var docs []bson.D
		client := open(t, uri)
		cur, err := client.Database(shared).Collection("orders").Find(ctx, bson.D{})
		if err == nil {
			err = cur.All(ctx, &docs)
		}
		if fact["count"] = len(docs); err != nil {
			fact = map[string]any{"message": err.Error()}
			if failed := (mongo.ServerError)(nil); errors.As(err, &failed) {
				fact["code"] = failed.ErrorCodes()[0]
			}
		}
		line, _ := json.Marshal(fact)
		fmt.Fprintf(&out, "%s\n", line)
	}
	return out.String()
}

// guardedProxy is a proxy before an embedded server whose clients authenticate, on a listener for all
// and on one of acme's.
type guardedProxy struct {
	*proxy.Proxy
	users string // the file
	acme  string // address of acme's listener
	local string // the unix socket of a listener for all, as a URI's host
	text  string // the configuration
}

func guardedStart(t *testing.T, sha1 bool) *guardedProxy {
	t.Helper()
	acme, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(t.TempDir(), "tenantry.sock")
	g := &guardedProxy{users: filepath.Join(t.TempDir(), "users.toml"), acme: acme, local: url.PathEscape(local)}
	g.user(t, "the application's", "add", "app", "--role", "application", "--sha1")
	g.user(t, "IX of acme", "add", "reader", "--role", "read", "--tenant", "acme", "--isolation", "database")
	g.user(t, "a/b@c:d%", "add", "a,b=c 🚲", "--role", "operator", "--source", "crm")
	g.user(t, "gone", "add", "gone", "--role", "application")
	mechanisms := `["SCRAM-SHA-256"]`
	if sha1 {
		mechanisms = `["SCRAM-SHA-256", "SCRAM-SHA-1"]`
	}
	g.text = strings.Replace(config("mixed", startFerret(t)), `presentation = "mongos"`, fmt.Sprintf(`auth = "scram"
[[listeners]]
address = %q
auth = "scram"
tenant = "acme"
isolation = "database"
[[listeners]]
address = %q
auth = "scram"

[auth]
users_file = %q
mechanisms = %s
user_failures = 0
address_failures = 0

[[deny]]
user = "gone"
reason = "gone has left"
`, acme, local, g.users, mechanisms), 1)
	g.Proxy = proxy.Start(t, g.text)
	client := open(t, g.uri(t, g.Address, "app", "the application's", ""))
	for n, tenant := range []string{"acme", "acme", "globex"} {
		if _, err := client.Database(shared).Collection("orders").InsertOne(t.Context(), bson.D{{Key: "_id", Value: n}, {Key: "tenantId", Value: tenant}}); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// user runs tenantry user with a password on its input.
func (g *guardedProxy) user(t *testing.T, password string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), proxy.Binary(t), append(append([]string{"user"}, args...), "--file", g.users, "--password-stdin")...)
	cmd.Stdin = strings.NewReader(password)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("tenantry user: %v %s", err, complaints.String())
	}
}

// uri escapes what url.QueryEscape does but for blanks, as drivers want it.
func (g *guardedProxy) uri(t *testing.T, address, user, password, options string) string {
	t.Helper()
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	return "mongodb://" + escape(user) + ":" + escape(password) + "@" + address + "/?" + options
}

// Each driver logs in by each mechanism and kind of user, and is told the server's code where
// something is wrong.
func TestLogins(t *testing.T) {
	skipShort(t)
	g := guardedStart(t, true)
	const right = "the application's"
	type login struct {
		what, uri string
		count     int
		code      int
		message   string
	}
	all := []login{
		{"the application", g.uri(t, g.Address, "app", right, ""), 3, 0, ""},
		{"SCRAM-SHA-256", g.uri(t, g.Address, "app", right, "authMechanism=SCRAM-SHA-256"), 3, 0, ""},
		{"SCRAM-SHA-1", g.uri(t, g.Address, "app", right, "authMechanism=SCRAM-SHA-1"), 3, 0, ""},
		{"a tenant's reader, by another spelling", g.uri(t, g.Address, "reader", "Ⅸ of acme", ""), 2, 0, ""},
		{"by a unix socket", g.uri(t, g.local, "app", right, ""), 3, 0, ""},
		{"an odd name and source", g.uri(t, g.Address, "a,b=c 🚲", "a/b@c:d%", "authSource=crm"), 3, 0, ""},
		{"the application on acme's listener", g.uri(t, g.acme, "app", right, ""), 2, 0, ""},
		{"the application for acme there", g.uri(t, g.acme, "app+acme", right, ""), 2, 0, ""},
		{"for globex there", g.uri(t, g.acme, "app+globex", right, ""), 0, 13, "another tenant"},
		{"a wrong password", g.uri(t, g.Address, "app", "wrong", ""), 0, 18, "Authentication failed."},
		{"nobody", g.uri(t, g.Address, "nobody", right, ""), 0, 18, "Authentication failed."},
		{"another source", g.uri(t, g.Address, "app", right, "authSource=crm"), 0, 18, "Authentication failed."},
		{"without a user", "mongodb://" + g.Address + "/", 0, 13, "requires authentication"},
		{"shut out", g.uri(t, g.Address, "gone", "gone", ""), 0, 13, "gone has left"},
	}
	for _, driver := range logins {
		t.Run(driver.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), runLimit)
			defer cancel()
			cases := slices.DeleteFunc(slices.Clone(all), func(c login) bool { // which Java's has only with a further library
				return driver.name == "java" && strings.Contains(c.uri, g.local)
			})
			var uris []string
			for _, c := range cases {
				uris = append(uris, c.uri)
			}
			out, err := driver.run(t, ctx, uris)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if len(lines) != len(cases) {
				t.Fatalf("%d lines:\n%s", len(lines), out)
			}
			for i, c := range cases {
				var got struct {
					Count, Code int
					Message     string
				}
				if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
					t.Fatalf("%s: %v", lines[i], err)
				}
				if got.Count != c.count || got.Code != c.code || !strings.Contains(got.Message, c.message) {
					t.Errorf("%s: %s, want count %d, code %d", c.what, lines[i], c.count, c.code)
				}
			}
		})
	}
	for _, secret := range []string{right, "IX of acme", "biws"} {
		if strings.Contains(g.Log(), secret) {
			t.Errorf("the log shows %q", secret)
		}
	}
}

// What tenantry user changes takes hold on a running proxy by itself: a new user may come, a removed
// one goes, and one whose password is changed has to know the new one. The others notice nothing.
func TestUsersReload(t *testing.T) {
	skipShort(t)
	g := guardedStart(t, false)
	find := func(c *mongo.Client) error {
		return c.Database(shared).Collection("orders").FindOne(t.Context(), bson.D{}).Err()
	}
	app := open(t, g.uri(t, g.Address, "app", "the application's", ""))
	g.user(t, "one", "add", "other", "--role", "application")
	other := open(t, g.uri(t, g.Address, "other", "one", ""))
	until(t, "the new user can log in", func() bool { return find(other) == nil })
	calm := g.Metric(t, "tenantry_shut_out_total")
	g.user(t, "two", "passwd", "other")
	until(t, "the old password is none any more", func() bool { return loginCode(find(other)) == 18 })
	if g.Metric(t, "tenantry_shut_out_total") == calm {
		t.Error("no connection was ended")
	}
	again := open(t, g.uri(t, g.Address, "other", "two", ""))
	if err := find(again); err != nil {
		t.Error(err)
	}
	if err := g.PostReload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := find(again); err != nil {
		t.Errorf("after a reload that changed nothing: %v", err)
	}
	g.Reload(t, strings.Replace(g.text, `user = "gone"`, "user = \"other\"", 1))
	until(t, "who is shut out is told why", func() bool {
		err := find(again)
		return loginCode(err) == 13 && strings.Contains(err.Error(), "gone has left")
	})
	if err := find(app); err != nil {
		t.Errorf("the application: %v", err)
	}
}

func loginCode(err error) int {
	if failed := (mongo.ServerError)(nil); errors.As(err, &failed) {
		return failed.ErrorCodes()[0]
	}
	return 0
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
