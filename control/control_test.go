package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.uber.org/goleak"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func raw(v any) bson.RawValue {
	typ, b, err := bson.MarshalValue(v)
	if err != nil {
		panic(err)
	}
	return bson.RawValue{Type: typ, Value: b}
}

func value(v any) wire.Value { return fromRaw(raw(v)) }

func testConfig(mode string, tenants ...config.Tenant) *config.Config {
	return &config.Config{
		Control:  config.Control{Enabled: true, Database: "tenantry"},
		Clusters: map[string]config.Cluster{"home": {Name: "home"}, "big": {Name: "big"}},
		Routing: config.Routing{
			Mode: mode, Home: "home", Databases: []config.Database{{Shared: "app", Tenant: "app_{key}"}},
			TenantField: "tenantId", TenantFields: map[string]string{"special": "company.id"},
			OtherDatabases: "pass", WithoutTenant: "scatter",
		},
		Modules:  []config.Module{{Name: "orders", Collections: []string{"orders", "order_items"}}, {Name: "files", Collections: []string{"file_*"}}},
		Platform: config.Platform{Collections: []string{"tenants", "users"}},
		Tenants:  tenants,
		Limits:   config.Limits{QueueTimeout: 2 * time.Second},
	}
}

func fileTenant(key, mode string) config.Tenant {
	return config.Tenant{ID: raw(key), Key: key, Mode: mode, Source: "tenantry.toml:1"}
}

func withRows(cfg *config.Config) *config.Config {
	cfg.TenantsFrom = &config.TenantsCollection{Database: "app", Name: "tenants", ID: "_id", Key: "slug", Mode: "dbMode", Refresh: 5 * time.Millisecond}
	return cfg
}

// house is a control room with its servers.
type house struct {
	*Control
	home, big *server
	router    *routing.Router
	drained   func(ctx context.Context, tenant uint32, epoch uint64) error
}

// open makes a control room over servers that may have been used before.
func open(t testing.TB, home, big *server) *house {
	h := &house{home: home, big: big, router: &routing.Router{}}
	h.Control = newControl(Options{
		Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(), Router: h.router,
		Drained: func(ctx context.Context, tenant uint32, epoch uint64) error {
			if h.drained != nil {
				return h.drained(ctx, tenant, epoch)
			}
			return nil
		},
	})
	h.cluster = func(name string) cluster {
		switch name {
		case "home":
			return home
		case "big":
			return big
		}
		return nil
	}
	t.Cleanup(h.close)
	return h
}

func start(t testing.TB, cfg *config.Config) *house {
	t.Helper()
	h := open(t, newServer(), newServer())
	h.mustApply(t, cfg)
	return h
}

// Apply loads a configuration of the clusters there are.
func (h *house) Apply(ctx context.Context, cfg *config.Config) error {
	return h.Control.Apply(ctx, cfg, nil)
}

func (h *house) mustApply(t testing.TB, cfg *config.Config) {
	t.Helper()
	if err := h.Apply(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
}

func (h *house) mustResolve(t testing.TB, v any) (unlisted bool) {
	t.Helper()
	unlisted, err := h.Resolve(context.Background(), value(v))
	if err != nil {
		t.Fatal(err)
	}
	return unlisted
}

// database is where a tenant's collection is by the current table.
func (h *house) database(v any, coll string) string {
	tn := h.router.Current().Find(value(v))
	if tn == nil || tn.Route() == nil {
		return "app"
	}
	r := tn.Route()
	has := slices.ContainsFunc(r.Collections, func(e string) bool { return match(e, coll) })
	if r.Collections == nil {
		has = !slices.ContainsFunc(r.Except, func(e string) bool { return match(e, coll) })
	}
	if !has {
		return "app"
	}
	return r.Databases["app"]
}

func match(entry, coll string) bool {
	entry = strings.TrimPrefix(entry, "app.")
	if p, ok := strings.CutSuffix(entry, "*"); ok {
		return strings.HasPrefix(coll, p)
	}
	return entry == coll
}

func (h *house) status1(t testing.TB, key string) TenantStatus {
	t.Helper()
	for _, s := range h.Status() {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("no tenant %q", key)
	return TenantStatus{}
}

func TestFlip(t *testing.T) {
	h := open(t, newServer(), newServer())
	h.home.coll("app", "orders").options = mustDoc(bson.D{{Key: "collation", Value: bson.D{{Key: "locale", Value: "de"}}}})
	h.home.coll("app", "orders").indexes = []bson.Raw{mustDoc(bson.D{{Key: "key", Value: bson.D{{Key: "n", Value: 1}}}, {Key: "name", Value: "n_1"}, {Key: "unique", Value: true}, {Key: "v", Value: int32(2)}})}
	h.home.put("app", "orders", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "other"}})
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn), fileTenant("other", "")))
	before := h.router.Current()
	if tn := before.Find(value("acme")); !tn.Look || tn.Isolated() {
		t.Fatalf("acme is %+v", tn)
	}
	var paused *routing.Table
	h.drained = func(_ context.Context, num uint32, epoch uint64) error {
		paused = h.router.Current()
		tn := paused.Find(value("acme"))
		if !tn.Paused || tn.Num != num || paused.Epoch != epoch || epoch <= before.Epoch {
			t.Errorf("drained %d at %d under %+v of %d", num, epoch, tn, paused.Epoch)
		}
		return nil
	}
	h.mustResolve(t, "acme")
	now := h.router.Current()
	tn := now.Find(value("acme"))
	if tn.Look || tn.Paused || h.database("acme", "orders") != "app_acme" || h.database("acme", "file_x") != "app_acme" || h.database("acme", "users") != "app" {
		t.Fatalf("acme is %+v at %+v", tn, tn.Route())
	}
	if now.Epoch <= paused.Epoch || now.Version <= paused.Version {
		t.Error("epoch or version did not grow")
	}
	own := h.home.coll("app_acme", "orders")
	if len(own.indexes) != 1 || own.indexes[0].Lookup("v").Type != 0 || own.options.Lookup("collation", "locale").StringValue() != "de" {
		t.Errorf("own collection is %+v", own)
	}
	doc := h.home.docs("tenantry", "routes")[0]
	if doc.Lookup("_id").StringValue() != "acme" || doc.Lookup("state").StringValue() != "switched" ||
		doc.Lookup("homes", "databases", "app").StringValue() != "app_acme" || doc.Lookup("operationTime").Type != bson.TypeTimestamp {
		t.Errorf("route is %s", doc)
	}
	if s := h.status1(t, "acme"); s.State != StateIsolated || s.Why != "" || !slices.Equal(s.Collections, []string{"file_*", "order_items", "orders"}) {
		t.Errorf("status is %+v", s)
	}

	again := open(t, h.home, h.big) // the slug is renamed, and the process restarted
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Tenants[0].Key = "renamed"
	again.mustApply(t, cfg)
	if again.database("acme", "orders") != "app_acme" || again.router.Current().Tenant("acme") == nil {
		t.Error("the key is not frozen")
	}
}

func TestFlipRefused(t *testing.T) {
	h := open(t, newServer(), newServer())
	h.home.put("app", "orders", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.home.put("app", "order_items", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.home.put("app", "file_a", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	if tn := h.router.Current().Find(value("acme")); tn.Look || tn.Isolated() {
		t.Fatalf("acme is %+v", tn)
	}
	if s := h.status1(t, "acme"); s.State != StateRefused || !strings.Contains(s.Why, "app.orders holds documents") {
		t.Errorf("status is %+v", s)
	}
	n := len(h.home.log)
	h.mustResolve(t, "acme")
	if len(h.home.log) != n {
		t.Error("a refused flip was tried again")
	}
	h.home.clear("app", "orders")
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	if h.database("acme", "orders") != "app_acme" || h.database("acme", "order_items") != "app" || h.database("acme", "file_a") != "app" {
		t.Errorf("the free collections did not move alone: %+v", h.status1(t, "acme"))
	}
	if s := h.status1(t, "acme"); s.State != StateRefused || !strings.Contains(s.Why, "order_items") {
		t.Errorf("status is %+v", s)
	}
}

// TestLateDocument is a write that was in flight during the first look.
func TestLateDocument(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.drained = func(context.Context, uint32, uint64) error {
		for _, c := range []string{"orders", "order_items", "file_a"} {
			h.home.put("app", c, bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
		}
		return nil
	}
	h.mustResolve(t, "acme")
	if tn := h.router.Current().Find(value("acme")); tn.Isolated() || tn.Paused || tn.Look {
		t.Fatalf("a document is hidden: %+v", tn)
	}
}

func TestDrainTimeout(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Limits.QueueTimeout = 10 * time.Millisecond
	h := start(t, cfg)
	h.drained = func(ctx context.Context, _ uint32, _ uint64) error { <-ctx.Done(); return ctx.Err() }
	h.mustResolve(t, "acme")
	tn := h.router.Current().Find(value("acme"))
	if tn.Paused || tn.Isolated() || tn.Look || h.status1(t, "acme").State != StateRefused {
		t.Fatalf("acme is %+v", tn)
	}
}

func TestConcurrentResolve(t *testing.T) {
	var tenants []config.Tenant
	for i := range 8 {
		tenants = append(tenants, fileTenant(fmt.Sprintf("t%d", i), modeOwn))
	}
	h := start(t, testConfig("mixed", tenants...))
	var mu sync.Mutex
	drains := map[uint32]int{}
	h.drained = func(_ context.Context, num uint32, epoch uint64) error {
		mu.Lock()
		drains[num]++
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		return nil
	}
	var wg sync.WaitGroup
	for i := range 80 {
		wg.Go(func() {
			v := fmt.Sprintf("t%d", i%8)
			if _, err := h.Resolve(context.Background(), value(v)); err != nil {
				t.Error(err)
			}
			if h.database(v, "orders") != "app_"+v {
				t.Errorf("%s is not settled after Resolve", v)
			}
		})
	}
	wg.Wait()
	for num, n := range drains {
		if n != 1 {
			t.Errorf("tenant %d was flipped %d times", num, n)
		}
	}
	seen := map[int64]bool{}
	for _, d := range h.home.docs("tenantry", "routes") {
		if e := d.Lookup("epoch").AsInt64(); seen[e] {
			t.Errorf("epoch %d twice", e)
		} else {
			seen[e] = true
		}
	}
}

// TestInterrupted breaks a flip at each of its commands, before and after the server ran it, then
// writes as the table says, restarts, and looks whether the tenant still sees what it wrote.
func TestInterrupted(t *testing.T) {
	for _, back := range []bool{false, true} {
		for _, mode := range []failMode{lostBefore, lostAfter, refuses} {
			for _, forEver := range []bool{false, true} {
				t.Run(fmt.Sprintf("back=%v,mode=%d,forever=%v", back, mode, forEver), func(t *testing.T) {
					for n := 1; interrupted(t, n, mode, back, forEver); n++ {
						if n > 100 {
							t.Fatal("no end")
						}
					}
				})
			}
		}
	}
}

// interrupted reports whether the failure came to happen.
func interrupted(t *testing.T, at int, mode failMode, back, forEver bool) bool {
	h := open(t, newServer(), newServer())
	h.home.coll("app", "orders").indexes = []bson.Raw{mustDoc(bson.D{{Key: "key", Value: bson.D{{Key: "n", Value: 1}}}, {Key: "name", Value: "n_1"}})}
	own, shared := testConfig("mixed", fileTenant("acme", modeOwn)), testConfig("mixed", fileTenant("acme", modeShared))
	first := own
	if back {
		h.mustApply(t, own)
		h.mustResolve(t, "acme")
		first = shared
	}
	h.mustApply(t, first)
	happened := false
	h.home.setFail(func(n int, _, _ string) failMode {
		if n == at || forEver && n > at {
			happened = true
			return mode
		}
		return works
	})
	_, _ = h.Resolve(context.Background(), value("acme"))
	write := func(h *house, id int) string {
		tn := h.router.Current().Find(value("acme"))
		if tn.Paused || tn.Look {
			return "" // held
		}
		db := h.database("acme", "orders")
		h.home.put(db, "orders", bson.D{{Key: "_id", Value: id}, {Key: "tenantId", Value: "acme"}})
		return db
	}
	wrote := write(h, 1)
	h.home.setFail(nil)
	h.refresh(context.Background())
	_, _ = h.Resolve(context.Background(), value("acme"))
	check := func(h *house, what string) {
		tn := h.router.Current().Find(value("acme"))
		if tn.Paused || tn.Look {
			t.Errorf("at %d: %s: still %+v", at, what, tn)
		}
		if db := h.database("acme", "orders"); wrote != "" && db != wrote {
			t.Errorf("at %d: %s: wrote to %s and reads from %s", at, what, wrote, db)
		}
	}
	check(h, "same process")
	again := open(t, h.home, h.big)
	again.mustApply(t, first)
	again.mustResolve(t, "acme")
	check(again, "after a restart")
	if n := len(h.home.docs("tenantry", "routes")); n > 1 {
		t.Errorf("at %d: %d routes", at, n)
	}
	return happened
}

// TestUnsure keeps a tenant paused while nobody can know whether its route was written.
func TestUnsure(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	broken := false
	h.home.setFail(func(_ int, db, name string) failMode {
		if name == "insert" {
			broken = true
			return lostAfter
		}
		if broken {
			return lostBefore
		}
		return works
	})
	if _, err := h.Resolve(context.Background(), value("acme")); err == nil {
		t.Fatal("the outcome is known")
	}
	if !h.router.Current().Find(value("acme")).Paused || h.status1(t, "acme").State != StatePaused {
		t.Fatal("the tenant is not paused")
	}
	if err := h.Apply(context.Background(), testConfig("disabled", fileTenant("acme", modeOwn))); err == nil {
		t.Error("a configuration was loaded against a route that may be there")
	}
	h.home.setFail(nil)
	h.mustResolve(t, "acme")
	if h.database("acme", "orders") != "app_acme" {
		t.Error("the route was written and is not followed")
	}
}

func TestWayBack(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	h.home.put("app_acme", "orders", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeShared)))
	if !h.router.Current().Find(value("acme")).Look {
		t.Fatal("not looked at")
	}
	h.mustResolve(t, "acme")
	if s := h.status1(t, "acme"); s.State != StateRefused || h.database("acme", "orders") != "app_acme" {
		t.Fatalf("status is %+v", s)
	}
	h.home.clear("app_acme", "orders")
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeShared)))
	h.mustResolve(t, "acme")
	if s := h.status1(t, "acme"); s.State != StateShared || h.database("acme", "orders") != "app" {
		t.Fatalf("status is %+v", s)
	}
	d := h.home.docs("tenantry", "routes")[0]
	if d.Lookup("state").StringValue() != "home" || d.Lookup("homes").Type != 0 {
		t.Errorf("route is %s", d)
	}
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	if h.database("acme", "orders") != "app_acme" {
		t.Error("it does not flip a second time")
	}
}

func TestDisabled(t *testing.T) {
	var tenants []config.Tenant
	for i := range 25 {
		tenants = append(tenants, fileTenant(fmt.Sprintf("t%02d", i), modeOwn))
	}
	h := start(t, testConfig("mixed", tenants...))
	for i := range 25 {
		h.mustResolve(t, fmt.Sprintf("t%02d", i))
		if i > 0 {
			h.home.put(fmt.Sprintf("app_t%02d", i), "orders", bson.D{{Key: "_id", Value: 1}})
		}
	}
	table := h.router.Current()
	err := h.Apply(context.Background(), testConfig("disabled", tenants...))
	if err == nil || !strings.Contains(err.Error(), "24 tenants") || !strings.Contains(err.Error(), "t20 and 4 more") {
		t.Fatal(err)
	}
	if h.router.Current() != table {
		t.Error("the table changed")
	}
	atStart := open(t, h.home, h.big)
	if err := atStart.Apply(context.Background(), testConfig("disabled")); err == nil {
		t.Error("disabled was loaded at the start")
	}
	late := open(t, h.home, h.big)
	h.home.setDown(true)
	late.mustApply(t, testConfig("disabled"))
	if late.Ready() == nil || late.router.Current() != nil {
		t.Error("ready without the home cluster")
	}
	h.home.setDown(false)
	if err := late.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Error("Run did not end with the reason:", err)
	}
	for i := range 25 {
		h.home.clear(fmt.Sprintf("app_t%02d", i), "orders")
	}
	h.mustApply(t, testConfig("disabled", tenants...))
	if now := h.router.Current(); !now.Plain || h.database("t01", "orders") != "app" {
		t.Error("tenants are still isolated")
	}
}

// A command that is held while writes in flight do not end goes on where its tenant was, and not into its
// own limit.
func TestDrainEndsBeforeTheHold(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Limits.QueueTimeout = 400 * time.Millisecond
	h := start(t, cfg)
	h.drained = func(ctx context.Context, _ uint32, epoch uint64) error {
		if tn := h.router.Current().Find(value("acme")); !tn.Paused || tn.Since != epoch {
			t.Errorf("drained from %d on, with the tenant %+v", epoch, tn)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), cfg.Limits.QueueTimeout)
	defer cancel()
	if _, err := h.Resolve(ctx, value("acme")); err != nil {
		t.Error(err)
	}
	if tn := h.router.Current().Find(value("acme")); tn.Paused || tn.Since != 0 || tn.Isolated() {
		t.Errorf("acme is %+v", tn)
	}
}

func TestContradictions(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*config.Config)
		want string
	}{
		{"platform", func(c *config.Config) {
			c.Modules[0].Collections = []string{"order_items"}
			c.Platform.Collections = append(c.Platform.Collections, "orders")
		}, `tenant "acme" has moved "app.orders"`},
		{"cluster", func(c *config.Config) { delete(c.Clusters, "big") }, `cluster "big"`},
		{"database", func(c *config.Config) { c.Routing.Databases[0].Shared = "app2" }, `"app"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			make1 := func() *config.Config {
				cfg := testConfig("mixed", fileTenant("acme", modeOwn))
				cfg.Tenants[0].Cluster = "big"
				return cfg
			}
			h := start(t, make1())
			h.mustResolve(t, "acme")
			if h.database("acme", "orders") != "app_acme" {
				t.Fatal(h.status1(t, "acme"))
			}
			table, cfg := h.router.Current(), make1()
			test.edit(cfg)
			if err := h.Apply(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
			if h.router.Current() != table {
				t.Error("the table changed")
			}
		})
	}
}

func TestModuleAdded(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Routing.IsolateModules = []string{"orders"}
	h := start(t, cfg)
	h.mustResolve(t, "acme")
	if h.database("acme", "file_a") != "app" {
		t.Fatal("a module moved that was not asked for")
	}
	h.home.put("app", "file_a", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "other"}})
	h.home.put("app", "file_b", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.mustApply(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mustResolve(t, "acme")
	if h.database("acme", "file_a") != "app_acme" || h.database("acme", "file_b") != "app" || h.database("acme", "orders") != "app_acme" {
		t.Fatalf("%+v", h.status1(t, "acme"))
	}
	cfg = testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Routing.IsolateModules = []string{"files"}
	h.mustApply(t, cfg)
	if s := h.status1(t, "acme"); h.database("acme", "orders") != "app_acme" || !strings.Contains(s.Why, "orders") {
		t.Errorf("%+v", s)
	}
}

func TestEverything(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Modules = []config.Module{{Name: "everything", Collections: []string{"*"}}}
	h := open(t, newServer(), newServer())
	h.home.put("app", "users", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.home.put("app", "a", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	h.home.put("app", "b", bson.D{{Key: "_id", Value: 1}})
	h.view("v", "users", bson.A{})
	h.home.coll("app", "capped").options = mustDoc(bson.D{{Key: "capped", Value: true}})
	h.mustApply(t, cfg)
	h.mustResolve(t, "acme")
	for coll, want := range map[string]string{"users": "app", "a": "app", "b": "app_acme", "later": "app_acme", "capped": "app"} {
		if got := h.database("acme", coll); got != want {
			t.Errorf("%s is in %s", coll, got)
		}
	}
	h.home.clear("app", "a")
	cfg.Routing.Databases = append(cfg.Routing.Databases, config.Database{Shared: "crm", Tenant: "crm_{key}"})
	h.mustApply(t, cfg)
	if r := h.router.Current().Find(value("acme")).Route(); !slices.Contains(r.Except, "crm.*") {
		t.Errorf("a new database is in an old route: %+v", r)
	}
	h.mustResolve(t, "acme")
	if r := h.router.Current().Find(value("acme")).Route(); slices.Contains(r.Except, "crm.*") || h.database("acme", "a") != "app_acme" {
		t.Errorf("%+v %+v", r, h.status1(t, "acme"))
	}
	if s := h.status1(t, "acme"); strings.Contains(s.Why, "app.v") || !strings.Contains(s.Why, "capped") {
		t.Errorf("%+v", s)
	}
	if r := h.router.Current().Find(value("acme")).Route(); slices.Contains(r.Except, "app.v") {
		t.Errorf("a view is taken for a collection that stays: %+v", r)
	}
}

func TestLookUp(t *testing.T) {
	h := start(t, withRows(testConfig("forced")))
	id := bson.NewObjectID()
	if !h.mustResolve(t, id) || !h.mustResolve(t, true) {
		t.Fatal("an unknown tenant is listed")
	}
	time.Sleep(unlistedAge)
	h.home.put("app", "tenants", bson.D{{Key: "_id", Value: id}, {Key: "slug", Value: "acme"}})
	// A command that is told of the tenant may be of a transaction that goes along with its change, which waits
	// for it: nothing has begun yet.
	if h.mustResolve(t, id) || h.database(id, "orders") != "app" || !h.router.Current().Find(value(id)).Look {
		t.Fatalf("%+v", h.Status())
	}
	if h.mustResolve(t, id) || h.database(id, "orders") != "app_acme" {
		t.Fatalf("%+v", h.Status())
	}
	h.home.put("app", "tenants", bson.D{{Key: "_id", Value: "x"}, {Key: "slug", Value: "ACME"}})
	if !h.mustResolve(t, "x") || len(h.Status()) != 2 || !strings.Contains(h.Status()[1].Why, "left out") {
		t.Errorf("%+v", h.Status())
	}
}

func TestRefresh(t *testing.T) {
	h := start(t, withRows(testConfig("mixed")))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.home.put("app", "tenants", bson.D{{Key: "_id", Value: int32(7)}, {Key: "slug", Value: "seven"}, {Key: "dbMode", Value: "per-tenant"}})
	h.home.put("app", "tenants", bson.D{{Key: "_id", Value: 1.5}, {Key: "slug", Value: "odd"}})
	h.home.mu.Lock()
	h.home.coll("app", "report").kind = "view"
	h.home.mu.Unlock()
	waitFor(t, func() bool { tn := h.router.Current().Find(value(int64(7))); return tn != nil && tn.Look })
	h.mustResolve(t, 7.0)
	var version uint64
	waitFor(t, func() bool { // until all of the above has been read, the view too
		version = h.router.Current().Version
		time.Sleep(30 * time.Millisecond)
		return h.router.Current().Version == version
	})
	h.home.setDown(true)
	time.Sleep(30 * time.Millisecond)
	h.home.setDown(false)
	time.Sleep(30 * time.Millisecond)
	if now := h.router.Current(); now.Version != version || h.database(int64(7), "orders") != "app_seven" || h.Ready() != nil {
		t.Errorf("a table like the current one was published: %d after %d", now.Version, version)
	}
	other := open(t, h.home, h.big) // another proxy flips a tenant
	other.mustApply(t, testConfig("mixed", fileTenant("far", modeOwn)))
	other.mustResolve(t, "far")
	waitFor(t, func() bool { return h.database("far", "orders") == "app_far" })
	if !bytes.Equal(other.FleetKey(), h.FleetKey()) || len(h.FleetKey()) != 32 {
		t.Error("the fleet keys differ")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := h.Resolve(context.Background(), value("far")); !errors.Is(err, errStopping) {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// TestReasonStays: why a flag was not obeyed is shown also when it is time to look again, until it is no longer so.
func TestReasonStays(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	h := open(t, newServer(), newServer())
	h.home.put("app", "orders", bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}})
	cfg.Routing.IsolateModules = []string{"orders"}
	cfg.Modules[0].Collections = []string{"orders"}
	h.mustApply(t, cfg)
	h.mustResolve(t, "acme")
	const why = "app.orders holds documents"
	if s := h.status1(t, "acme"); s.State != StateRefused || !strings.HasPrefix(s.Why, why) || h.router.Current().Find(value("acme")).Look {
		t.Fatalf("status is %+v", s)
	}
	again := func(what string) {
		t.Helper()
		s := h.status1(t, "acme")
		if s.State != StatePending || !strings.Contains(s.Why, "next command; when last looked at: "+why) || !h.router.Current().Find(value("acme")).Look {
			t.Errorf("%s: status is %+v", what, s)
		}
		h.mustResolve(t, "acme")
		if s := h.status1(t, "acme"); s.State != StateRefused || !strings.HasPrefix(s.Why, why) {
			t.Errorf("%s: looked at again, status is %+v", what, s)
		}
	}
	h.mu.Lock()
	h.verdicts[idOf(value("acme"))].at = time.Now().Add(-refusedAge)
	h.mu.Unlock()
	h.refresh(t.Context())
	again("stale")
	h.mustApply(t, cfg)
	again("reloaded")

	h.mustApply(t, cfg)
	h.home.clear("app", "orders")
	h.mustResolve(t, "acme")
	if s := h.status1(t, "acme"); s.State != StateIsolated || s.Why != "" {
		t.Errorf("status is %+v", s)
	}
	h.mustApply(t, testConfig("mixed"))
	h.refresh(t.Context())
	if len(h.verdicts) != 0 {
		t.Errorf("%d verdicts are kept of nobody", len(h.verdicts))
	}
}

// TestOtherClusters: until a configuration is accepted nothing but its loading asks the clusters that it
// brings, and they come into force right after its table.
func TestOtherClusters(t *testing.T) {
	guarded := func(mode string) *config.Config { return testConfig(mode, fileTenant("acme", modeOwn)) }
	refused := guarded("mixed")
	refused.Modules[0].Collections = []string{"order_items"}
	refused.Platform.Collections = append(refused.Platform.Collections, "orders")
	static := testStatic(fileTenant("acme", modeOwn))
	for _, test := range []struct {
		name     string
		now      *config.Config
		next     *config.Config
		down     bool // the other home
		held     bool // documents in acme's database
		copied   bool // the other home has the control database, too
		want     string
		away     bool
		accepted bool
	}{
		{name: "refused", now: guarded("mixed"), next: refused, copied: true, want: "[platform] lists now"},
		{name: "away", now: guarded("mixed"), next: guarded("forced"), down: true, want: "no eligible server", away: true},
		{name: "static, away", now: static, next: static, down: true, want: "no eligible server", away: true},
		{name: "static", now: static, next: static, accepted: true},
		{name: "disabled, held", now: guarded("mixed"), next: guarded("disabled"), held: true, copied: true, want: "1 tenants"},
		{name: "disabled", now: guarded("mixed"), next: guarded("disabled"), copied: true, accepted: true},
		{name: "accepted", now: guarded("mixed"), next: guarded("forced"), held: true, copied: true, accepted: true},
		{name: "another deployment", now: guarded("mixed"), next: guarded("mixed"), held: true, want: `"tenantry" there lacks the routes of tenants whose documents are in databases of their own (acme)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := start(t, test.now)
			h.mustResolve(t, "acme")
			if test.held {
				h.home.put("app_acme", "orders", bson.D{{Key: "_id", Value: 1}})
			}
			other, running, table := newServer(), h.cluster, h.router.Current()
			if test.copied {
				for _, name := range []string{routesColl, keysColl, countersColl} {
					other.coll("tenantry", name).docs = h.home.docs("tenantry", name)
				}
			}
			other.setDown(test.down)
			find := func(name string) cluster {
				if name == "home" {
					return other
				}
				return running(name)
			}
			commits := 0
			err := h.take(context.Background(), test.next, clusters{find, func() {
				commits++
				if h.router.Current() == table {
					t.Error("the clusters come into force before the table")
				}
				h.cluster = find
			}})
			if (err == nil) != test.accepted || err != nil && !strings.Contains(err.Error(), test.want) || Away(err) != test.away {
				t.Error(err)
			}
			if (commits == 1) != test.accepted || (h.router.Current() != table) != test.accepted {
				t.Errorf("%d commits, table changed: %v", commits, h.router.Current() != table)
			}
			if test.copied {
				return
			}
			if len(other.docs("tenantry", "routes")) != 0 || len(other.docs("tenantry", "keys")) != 0 {
				t.Error("the other home has been written to")
			}
		})
	}
}

// TestRoutesStay: a route that was deleted by hand is written again, by a reload and by what is read now and then.
func TestRoutesStay(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	for name, look := range map[string]func(*house) error{
		"reload": func(h *house) error { return h.Apply(t.Context(), cfg) },
		"refresh": func(h *house) error {
			h.mu.Lock()
			h.polled.read = time.Now().Add(-2 * routesAnyway)
			h.mu.Unlock()
			h.refresh(t.Context())
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, cfg)
			h.mustResolve(t, "acme")
			h.home.clear("tenantry", routesColl)
			if err := look(h); err != nil {
				t.Fatal(err)
			}
			again := open(t, h.home, h.big)
			again.mustApply(t, testConfig("mixed")) // which does not list the tenant any more
			if s := again.status1(t, "acme"); s.State != StateIsolated {
				t.Errorf("after a restart it is %+v", s)
			}
		})
	}
}

// TestOtherControlDatabase: proxies that use the old one still must not decide apart from one that has begun a new one.
func TestOtherControlDatabase(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	h := start(t, cfg)
	h.mustResolve(t, "acme")
	next := testConfig("mixed", fileTenant("acme", modeOwn))
	next.Control.Database = "other"
	if err := h.Apply(t.Context(), next); err == nil || !strings.Contains(err.Error(), `"other" there lacks the routes`) {
		t.Error(err)
	}
	if n := len(h.home.docs("other", routesColl)); n != 0 {
		t.Errorf("%d routes were written there", n)
	}
	for _, name := range []string{routesColl, keysColl, countersColl} {
		h.home.coll("other", name).docs = h.home.docs("tenantry", name)
	}
	h.mustApply(t, next)
	if h.database("acme", "orders") != "app_acme" {
		t.Error("the tenant is elsewhere")
	}
}

// TestRouteWhileReading: a route that comes while the routes are read is not one that has been lost.
func TestRouteWhileReading(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	h.mu.Lock()
	h.polled.read = time.Now().Add(-2 * routesAnyway)
	h.mu.Unlock()
	came := false
	h.home.fail = func(_ int, db, command string) failMode {
		if log := h.home.log; db == "tenantry" && log[len(log)-1] == "tenantry: find "+routesColl && !came {
			came = true
			h.mu.Lock()
			h.setRoute(&Route{ID: value("acme"), Key: "acme", State: stateSwitched, Databases: map[string]string{"app": "app_acme"}, Epoch: h.epoch + 1})
			h.mu.Unlock()
		}
		return works
	}
	h.refresh(t.Context())
	if !came {
		t.Fatal("the routes were not read")
	}
	if n := len(h.home.docs("tenantry", routesColl)); n != 0 {
		t.Errorf("%d routes were written", n)
	}
}

// TestReloadMeanwhile changes the configuration while a tenant is paused.
func TestReloadMeanwhile(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	once := sync.Once{}
	h.drained = func(context.Context, uint32, uint64) error {
		once.Do(func() {
			cfg := testConfig("mixed")
			cfg.Platform.Collections = append(cfg.Platform.Collections, "orders")
			cfg.Modules[0].Collections = []string{"order_items"}
			h.mustApply(t, cfg)
			if tn := h.router.Current().Find(value("acme")); tn == nil || !tn.Paused {
				t.Error("the pause is lost with the listing")
			}
		})
		return nil
	}
	h.mustResolve(t, "acme")
	if h.database("acme", "orders") != "app" || len(h.home.docs("tenantry", "routes")) != 0 {
		t.Error("a route was written that the configuration contradicts")
	}
}

func TestStatic(t *testing.T) {
	cfg := testConfig("mixed", fileTenant("acme", modeOwn), fileTenant("other", ""))
	cfg.Control = config.Control{}
	h := open(t, newServer(), newServer())
	h.home.setDown(true)
	h.mustApply(t, cfg)
	if h.Ready() != nil || h.database("acme", "orders") != "app_acme" || h.database("other", "orders") != "app" || len(h.FleetKey()) != 32 {
		t.Errorf("%+v", h.Status())
	}
	epoch := h.router.Current().Epoch
	h.mustApply(t, testStatic(fileTenant("acme", modeShared)))
	if h.database("acme", "orders") != "app" || h.router.Current().Epoch <= epoch {
		t.Error("the file alone decides")
	}
}

func testStatic(tenants ...config.Tenant) *config.Config {
	cfg := testConfig("mixed", tenants...)
	cfg.Control = config.Control{}
	return cfg
}

// TestCounterLost drops the control database's counter under a running process.
func TestCounterLost(t *testing.T) {
	h := start(t, testConfig("mixed", fileTenant("a", modeOwn), fileTenant("b", modeOwn)))
	h.mustResolve(t, "a")
	h.home.clear("tenantry", "counters")
	epoch := h.router.Current().Epoch
	h.mustResolve(t, "b")
	if h.router.Current().Epoch <= epoch || h.database("b", "orders") != "app_b" {
		t.Error("epochs do not grow")
	}
}

// TestTwoProxies flips one tenant from two processes.
func TestTwoProxies(t *testing.T) {
	a := start(t, testConfig("mixed", fileTenant("acme", modeOwn)))
	b := open(t, a.home, a.big)
	cfg := testConfig("mixed", fileTenant("acme", modeOwn))
	cfg.Tenants[0].Key = "other-key"
	b.mustApply(t, cfg)
	a.mustResolve(t, "acme")
	b.mustResolve(t, "acme")
	if a.database("acme", "orders") != "app_acme" || b.database("acme", "orders") != "app_acme" {
		t.Errorf("two homes: %s and %s", a.database("acme", "orders"), b.database("acme", "orders"))
	}
}

func BenchmarkTable(b *testing.B) {
	s := newServer()
	for i := range 100_000 {
		s.put("app", "tenants", bson.D{{Key: "_id", Value: bson.NewObjectID()}, {Key: "slug", Value: fmt.Sprintf("tenant-%06d", i)}, {Key: "dbMode", Value: "per-tenant"}})
	}
	h := open(b, s, newServer())
	h.mustApply(b, withRows(testConfig("mixed")))
	for b.Loop() {
		h.mu.Lock()
		h.rebuild()
		h.epoch++
		h.changed()
		h.mu.Unlock()
		if err := h.publish(); err != nil {
			b.Fatal(err)
		}
	}
}
