package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func TestGoodFiles(t *testing.T) {
	for _, path := range glob(t, "testdata/*.good.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, warnings, err := Load(path, testEnvironment)
			if err != nil || c == nil {
				t.Fatal(err)
			}
			if wanted := strings.Contains(path, "inline"); wanted != (len(warnings) == 1) {
				t.Errorf("warnings: %v", warnings)
			}
		})
	}
}

// loadText loads text as if it were testdata/t.toml.
func loadText(text string, pairs ...string) (*Config, []Problem, error) {
	return load("testdata/t.toml", text, environment(pairs...), readLimited)
}

func mustLoad(t *testing.T, text string, pairs ...string) *Config {
	t.Helper()
	c, _, err := loadText(text, pairs...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const minimal = "[[listeners]]\naddress = \"127.0.0.1:27017\"\n[clusters.home]\nuri = \"mongodb://db.example/\"\n"

func TestExample(t *testing.T) {
	const path = "testdata/example.good.toml"
	c, warnings, err := Load(path, environment())
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Log: Log{Level: "info", Slow: 100 * time.Millisecond},
		Listeners: []Listener{
			{Address: "127.0.0.1:27017", Presentation: "mongos"},
			{Address: "127.0.0.1:27018", Presentation: "mongos", Tenant: "acme", Isolation: "rows", Access: "write"},
		},
		Admin:   Admin{Address: "127.0.0.1:8017"},
		Control: Control{Enabled: true, Database: "tenantry"},
		Clusters: map[string]Cluster{
			"home": {Name: "home", URI: "mongodb://127.0.0.1:27117/?replicaSet=rs0"},
			"big":  {Name: "big", URI: "mongodb://127.0.0.1:27217/"},
		},
		Routing: Routing{
			Mode: "mixed", Home: "home",
			Databases:   []Database{{Shared: "smetasc_shared", Tenant: "smetasc_tenant_{key}"}},
			TenantField: "tenantId", OtherDatabases: "pass", WithoutTenant: "scatter", ScatterWidth: 16, ShipLimit: 16 << 20,
		},
		Modules: []Module{
			{"orders", []string{"orders", "order_items"}},
			{"accounting", []string{"invoices", "transactions"}},
			{"hrm", []string{"employees"}},
			{"projects", []string{"projects", "tasks"}},
		},
		Platform: Platform{Collections: []string{"tenants", "packages", "users", "roles"}},
		TenantsFrom: &TenantsCollection{
			Database: "smetasc_shared", Name: "tenants", ID: "_id", Key: "slug", Mode: "dbMode", Refresh: 2 * time.Second,
		},
		Tenants: []Tenant{{
			ID: rawValue("acme"), Key: "acme", Mode: "per-tenant", Cluster: "home",
			Modules: []string{"orders", "accounting"}, Source: fmt.Sprintf("%s:%d", path, lineOf(t, path, "[[tenants]]")),
		}},
		Pools:    Pools{MaxPerServer: 100, MaxPerTenant: 20, Idle: 5 * time.Minute, MaxTenants: 1000},
		Limits:   Limits{ClientConnections: 20000, QueueTimeout: 5 * time.Second, MessageMemory: 1 << 30, IOUring: true},
		Guard:    Guard{Leaks: "sampled"},
		files:    []string{path},
		lines:    c.lines,
		fleetKey: nil,
		Auth:     defaultAuth,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %v", warnings)
	}
}

var defaultAuth = Auth{Mechanisms: []string{"SCRAM-SHA-256"}, AddressFailures: 60, UserFailures: 20, FailurePeriod: time.Minute}

func lineOf(t *testing.T, path, prefix string) int {
	t.Helper()
	for i, line := range strings.Split(read(t, path), "\n") {
		if strings.HasPrefix(line, prefix) {
			return i + 1
		}
	}
	t.Fatalf("%s has no line %s", path, prefix)
	return 0
}

// TestExampleUncommented takes the example's comments at their word, one setting at a time.
func TestExampleUncommented(t *testing.T) {
	example := read(t, "testdata/example.good.toml")
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(example) }
	for _, tt := range []struct{ name, text, want string }{
		{"load_balanced", edit("# load_balanced", "load_balanced"), ""},
		{"tls", edit("# tls", "tls"), `listeners[0].tls.cert: "server.pem" cannot be read`},
		{"proxy_protocol", edit("# proxy_protocol", "proxy_protocol"), "proxy_protocol on listeners is not offered yet; remove it"},
		{"auth", edit("# auth", "auth", "[clusters.home]", "[auth]\nusers_file = \"example.users.toml\"\n[clusters.home]"), ""},
		{"a unix socket", edit("# [[listeners]] ", "[[listeners]] ", "# address", "address", "# socket_mode", "socket_mode"), ""},
		{"advertise", edit("# advertise", "advertise"), ""},
		{"token_file", edit("# token_file", "token_file"), ""},
		{"enabled", edit("# enabled", "enabled"), ""},
		{"fleet_key_file", edit("# fleet_key_file", "fleet_key_file"), ""},
		{"isolate_modules", edit("# isolate_modules", "isolate_modules"), ""},
		{"everything", edit("# everything", "everything"), `modules.everything[0]: "*" and "orders" of module orders have collections in common`},
		{"bound", edit("# [platform.bound]", "[platform.bound]", "# users", "users", "# packages", "packages"), ""},
		{"replica-set", edit(`"mongos"`, `"replica-set"`, "# load_balanced = true", `replica_set = "rs0"`), ""},
		{"uri_env", edit(`uri = "mongodb://127.0.0.1:27117/?replicaSet=rs0"`, `uri_env = "HOME_URI"`), ""},
		{"uri_file", edit(`uri = "mongodb://127.0.0.1:27117/?replicaSet=rs0"`, `uri_file = "uri.secret"`), ""},
		{"tenant_fields", edit("[modules]", "[routing.tenant_fields]\norders = \"company.id\"\n[modules]"), ""},
		{"databases", edit("[modules]", "[[routing.databases]]\nshared = \"crm_shared\"\ntenant = \"crm_tenant_{key}\"\n[modules]"), ""},
		{"scatter", edit("[modules]", "scatter_width = 4\nmax_scatter_targets = 9\nrequire_tenant_on_insert = true\nallow_drop_database = true\n[modules]"), ""},
		{"ship_limit", edit("[modules]", "ship_limit = 0\n[modules]"), "the size is not above zero"},
		{"strict_unique", edit("[modules]", "strict_unique = true\n[modules]"), ""},
		{"oid", edit(`id = "acme"`, `id = { oid = "65f0c0ffee65f0c0ffee65f0" }`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.text == example {
				t.Fatal("the example has changed: nothing was uncommented")
			}
			_, _, err := load("testdata/example.good.toml", tt.text, testEnvironment, readLimited)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, _, err := loadText(`
[[listeners]]
address = "27017"
presentation = "mongoz"
[clusters.home]
uri = ""
colour = "red"
[routing]
home = "nowhere"
[[tenants]]
id = 7
mode = "own"
cluster = "big"
`, "MULTI_DB_MODE", "mixd")
	var problems Errors
	errors.As(err, &problems)
	var keys []string
	for _, p := range problems {
		keys = append(keys, fmt.Sprintf("%d %s", p.Line, p.Key))
	}
	want := []string{
		"0 MULTI_DB_MODE", "3 listeners[0].address", "4 listeners[0].presentation", "6 clusters.home.uri",
		"7 clusters.home.colour", "9 routing.home", "11 tenants[0].id", "12 tenants[0].mode", "13 tenants[0].cluster",
	}
	if !slices.Equal(keys, want) {
		t.Errorf("got %q\nwant %q", keys, want)
	}
}

// TestSockets: by default only who runs the proxy connects, the longest path is taken, and a socket that all may
// write to is warned of where nobody is asked who he is.
func TestSockets(t *testing.T) {
	longest := "/" + strings.Repeat("x", maxSocketPath-len("/.sock")) + ".sock"
	for _, tt := range []struct {
		settings string
		mode     fs.FileMode
		warning  string
	}{
		{"", 0o700, ""},
		{`socket_mode = "0660"`, 0o660, ""},
		{`socket_mode = "0666"`, 0o666, "every user of the machine"},
	} {
		text := "[[listeners]]\naddress = \"" + longest + "\"\n" + tt.settings + "\n[clusters.home]\nuri = \"mongodb://db.example/\"\n"
		c, warnings, err := loadText(text)
		if err != nil {
			t.Fatal(err)
		}
		if ln := c.Listeners[0]; ln.SocketMode != tt.mode || !ln.IsSocket() {
			t.Errorf("%s: %#o", tt.settings, ln.SocketMode)
		}
		if told := fmt.Sprint(warnings); (len(warnings) > 0) != (tt.warning != "") || !strings.Contains(told, tt.warning) {
			t.Errorf("%s: warnings %s", tt.settings, told)
		}
		var summary strings.Builder
		if err := c.WriteSummary(&summary); err != nil || !strings.Contains(summary.String(), fmt.Sprintf("permissions %#o", tt.mode)) {
			t.Error(summary.String())
		}
	}
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t, minimal)
	want := &Config{
		Log:       Log{Level: "info", Slow: 100 * time.Millisecond},
		Listeners: []Listener{{Address: "127.0.0.1:27017", Presentation: "mongos"}},
		Admin:     Admin{Address: "127.0.0.1:8017"},
		Control:   Control{Enabled: true, Database: "tenantry"},
		Clusters:  map[string]Cluster{"home": {Name: "home", URI: "mongodb://db.example/"}},
		Routing: Routing{
			Mode: "disabled", Home: "home", TenantField: "tenantId",
			OtherDatabases: "pass", WithoutTenant: "scatter", ScatterWidth: 16, ShipLimit: 16 << 20,
		},
		Pools:  Pools{MaxPerServer: 100, MaxPerTenant: 20, Idle: 5 * time.Minute, MaxTenants: 1000},
		Limits: Limits{ClientConnections: 20000, QueueTimeout: 5 * time.Second, MessageMemory: 1 << 30, IOUring: true},
		Guard:  Guard{Leaks: "sampled"},
		Auth:   defaultAuth,
		files:  c.files, lines: c.lines,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestModulesKeepOrder(t *testing.T) {
	for _, text := range []string{
		"[modules]\nz = [\"a\"]\na = [\"b\"]\nm = [\"c\"]\n",
		"[modules]\nz = [\"a\"]\n\"a\" = [\n\"b\", # b\n]\nm = ['c']\n",
	} {
		var names []string
		for _, m := range mustLoad(t, minimal+text).Modules {
			names = append(names, m.Name)
		}
		if !slices.Equal(names, []string{"z", "a", "m"}) {
			t.Errorf("%q: %v", text, names)
		}
	}
	c := mustLoad(t, "modules = { z = [\"a\"], a = [\"b\"] }\n"+minimal)
	if c.Modules[0].Name != "z" || c.Modules[1].Name != "a" {
		t.Error(c.Modules)
	}
}

func TestTenantIDs(t *testing.T) {
	c, _, err := Load("testdata/tenant-ids.good.toml", environment())
	if err != nil {
		t.Fatal(err)
	}
	oid, _ := bson.ObjectIDFromHex("65f0c0ffee65f0c0ffee65f0")
	uuid := bson.Binary{Subtype: 4, Data: []byte("\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\x00")}
	want := []struct {
		id   any
		key  string
		text string
	}{
		{"acme", "acme", `"acme"`},
		{oid, "Beta", "oid 65f0c0ffee65f0c0ffee65f0"},
		{uuid, "123e4567-e89b-12d3-a456-426614174000", "uuid 123e4567-e89b-12d3-a456-426614174000"},
		{int64(42), "42", "42"},
	}
	for i, w := range want {
		got := c.Tenants[i]
		if !got.ID.Equal(rawValue(w.id)) || got.Key != w.key || idText(got.ID) != w.text {
			t.Errorf("tenant %d: %v %q %s", i, got.ID, got.Key, idText(got.ID))
		}
	}
	if c.Tenants[0].Modules != nil || c.Tenants[3].Modules == nil || c.Tenants[2].Mode != "shared" {
		t.Error("nil and empty modules are two things; a mode is kept")
	}
}

// TestTenantIDsCompareAsTyped has pairs that are one text, or even the same bytes, as another type.
func TestTenantIDsCompareAsTyped(t *testing.T) {
	abc := int64(binary.LittleEndian.Uint64([]byte("\x04\x00\x00\x00abc\x00")))
	for text, number := range map[string]int64{"42": 42, "abc": abc} {
		mustLoad(t, minimal+fmt.Sprintf("[[tenants]]\nid = %q\nkey = \"a\"\n[[tenants]]\nid = { int = %d }\nkey = \"b\"\n", text, number))
	}
}

func TestBoundToUnlistedTenant(t *testing.T) {
	c := mustLoad(t, minimal+"[tenants_collection]\ndatabase = \"app\"\n[[listeners]]\naddress = \"127.0.0.1:27018\"\ntenant = \"acme\"\nisolation = \"database\"\n")
	if ln := c.Listeners[1]; ln.Tenant != "acme" || ln.Isolation != "database" || ln.Access != "write" {
		t.Errorf("%+v", ln)
	}
}

func TestControlDatabaseOnlyWhereThereIsOne(t *testing.T) {
	const routing = "[routing]\nshared_database = \"tenantry\"\ntenant_database = \"app_tenant_{key}\"\n"
	mustLoad(t, minimal+routing+"[control]\nenabled = false\n")
	if _, _, err := loadText(minimal + routing); err == nil {
		t.Error("the control database is a shared database too, and nobody says so")
	}
}

func TestEntry(t *testing.T) {
	r := Routing{Databases: []Database{{Shared: "crm"}}}
	for text, want := range map[string]Entry{
		"deals":     {Name: "deals"},
		"crm.deals": {Database: "crm", Name: "deals"},
		"fs.files":  {Name: "fs.files"},
		"*":         {Prefix: true},
		"ord*":      {Name: "ord", Prefix: true},
		"crm.fs.*":  {Database: "crm", Name: "fs.", Prefix: true},
	} {
		if got := r.Entry(text); got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if e := r.Entry("crm.fs.*"); !e.Has("crm", "fs.files") || e.Has("app", "fs.files") || e.Has("crm", "fs") {
		t.Error("Has")
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, _, err := Load("testdata/no-such.toml", environment())
	const want = "testdata/no-such.toml: cannot be read: no such file or directory; name a configuration file that tenantry may read"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestDuplicatesAreAllNamed(t *testing.T) {
	_, _, err := loadText("[log]\nlevel = \"info\"\nlevel = \"warn\"\n[pools]\n[pools]\n")
	const want = "testdata/t.toml:3: log.level: is given on line 2 already; keep one of the two\n" +
		"testdata/t.toml:5: pools: is given on line 4 already; keep one of the two"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestFiles(t *testing.T) {
	c := mustLoad(t, `[[listeners]]
address = "127.0.0.1:27017"
[clusters.home]
uri_file = "uri.secret"
[admin]
token_file = "admin.token"
[control]
fleet_key_file = "fleet.key"
`)
	want := []string{"testdata/t.toml", "testdata/admin.token", "testdata/fleet.key", "testdata/uri.secret"}
	if got := c.Files(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if c.Clusters["home"].URI.Reveal() != "mongodb://other.example/" || c.Admin.TokenFile != want[1] || c.Control.FleetKeyFile != want[2] {
		t.Error(c.Clusters["home"].URI.Reveal(), c.Admin, c.Control)
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct{ first, second, want string }{
		{"127.0.0.1:27017", "[::1]:27017", ""},
		{"127.0.0.1:0", "127.0.0.1:0", ""},
		{"127.0.0.1:27017", "127.0.0.2:27017", ""},
		{"127.0.0.1:27017", "[::ffff:127.0.0.1]:27017", "taken"},
		{"127.0.0.1:27017", "0.0.0.0:27017", "taken"},
		{"[::]:27017", "10.0.0.1:27017", "taken"},
		{"db.example:27017", "DB.example:27017", "taken"},
		{"127.0.0.1:27017", "127.0.0.1:027017", "no port"},
		{"127.0.0.1:27017", "127.0.0.1:65536", "no port"},
		{"127.0.0.1:27017", "[::1:27017", "not an address"},
	} {
		text := fmt.Sprintf("[[listeners]]\naddress = %q\ninsecure = true\n[[listeners]]\naddress = %q\ninsecure = true\n[clusters.home]\nuri = \"mongodb://h\"\n", tt.first, tt.second)
		_, _, err := loadText(text)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s and %s: %v", tt.first, tt.second, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1GiB": 1 << 30, "64MiB": 64 << 20, "10MB": 10e6, "3 kb": 3000, "12": 12, "5B": 5,
		"": -1, "MB": -1, "1.5GiB": -1, "-1MB": -1, "9999999999TiB": -1, "1PB": -1,
	} {
		got, ok := parseSize(text)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d %v", text, got, ok)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"level", "format", "slow", "id"}
	for key, want := range map[string]string{"levle": "level", "LEVEL": "level", "slwo": "slow", "colour": "", "ie": "id", "xy": ""} {
		if got := nearest(key, known); got != want {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// How long many tenants take is the benchmark's business.
func TestManyTenants(t *testing.T) {
	c := mustLoad(t, manyTenants(10_000))
	if n := len(c.Tenants); n != 10_000 || c.Tenants[n-1].Key != "tenant9999" {
		t.Errorf("%d tenants", n)
	}
}

func manyTenants(n int) string {
	var b strings.Builder
	b.WriteString(minimal + "[routing]\nmode = \"mixed\"\nshared_database = \"app\"\ntenant_database = \"app_tenant_{key}\"\n[modules]\norders = [\"orders\"]\n")
	for i := range n {
		fmt.Fprintf(&b, "[[tenants]]\nid = { oid = \"65f0c0ffee65f0c0%08x\" }\nkey = \"tenant%d\"\nmode = \"per-tenant\"\ncluster = \"home\"\nmodules = [\"orders\"]\n", i, i)
	}
	return b.String()
}

func BenchmarkLoad100kTenants(b *testing.B) {
	text := manyTenants(100_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, _, err := loadText(text); err != nil {
			b.Fatal(err)
		}
	}
}
