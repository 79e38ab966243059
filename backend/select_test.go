package backend

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/address"
	"go.mongodb.org/mongo-driver/v2/tag"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// at is when the test's servers were heard of.
var at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type peer struct {
	name   string
	kind   description.ServerKind
	rtt    time.Duration
	tags   string // a=1,b=2
	behind time.Duration
}

func tableOf(kind description.TopologyKind, peers ...peer) *table {
	top := description.Topology{Kind: kind}
	pools := map[string]*pool{}
	for _, p := range peers {
		s := description.Server{
			Addr: address.Address(p.name), Kind: p.kind, AverageRTT: p.rtt,
			LastUpdateTime: at, LastWriteTime: at.Add(-p.behind),
		}
		for _, kv := range strings.FieldsFunc(p.tags, func(r rune) bool { return r == ',' }) {
			k, v, _ := strings.Cut(kv, "=")
			s.Tags = append(s.Tags, tag.Tag{Name: k, Value: v})
		}
		top.Servers = append(top.Servers, s)
		pools[s.Addr.String()] = &pool{}
	}
	return newTable(top, &target{latencyWindow: 15 * time.Millisecond, heartbeat: 10 * time.Second}, pools)
}

const (
	primary   = description.ServerKindRSPrimary
	secondary = description.ServerKindRSSecondary
	router    = description.ServerKindMongos
	withP     = description.TopologyKindReplicaSetWithPrimary
	noP       = description.TopologyKindReplicaSetNoPrimary
	sharded   = description.TopologyKindSharded
	single    = description.TopologyKindSingle
)

// picks lists the servers that many picks choose.
func picks(tb *table, sel Select) string {
	found := map[string]bool{}
	for range 200 {
		if s := tb.pick(sel); s != nil {
			name, _, _ := strings.Cut(s.addr, ":")
			found[name] = true
		}
	}
	var names []string
	for n := range found {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestPick(t *testing.T) {
	ms := time.Millisecond
	rs := []peer{
		{"p", primary, 5 * ms, "dc=a", 0},
		{"s", secondary, 2 * ms, "dc=b,disk=ssd", 0},
		{"far", secondary, 40 * ms, "dc=c", 0},
		{"late", secondary, 3 * ms, "dc=b", 5 * time.Minute},
		{"gone", description.Unknown, 0, "", 0},
		{"arb", description.ServerKindRSArbiter, 1 * ms, "", 0},
	}
	full, orphans := tableOf(withP, rs...), tableOf(noP, rs[1:]...)
	routers := tableOf(sharded, peer{"m1", router, 1 * ms, "", 0}, peer{"m2", router, 10 * ms, "", 0}, peer{"m3", router, 90 * ms, "", 0})
	direct := tableOf(single, peer{"s", secondary, 2 * ms, "", 0})
	pref := func(m Mode, stale time.Duration, tags ...[]Tag) Select {
		return Select{Pref: &ReadPref{Mode: m, Tags: tags, MaxStaleness: stale}}
	}
	dc := func(v string) []Tag { return []Tag{{"dc", v}} }
	for _, tc := range []struct {
		name string
		tb   *table
		sel  Select
		want string
	}{
		{"write", full, write, "p"},
		{"write without a primary", orphans, write, ""},
		{"primary", full, Select{}, "p"},
		{"primary preferred", full, pref(PrimaryPreferred, 0), "p"},
		{"primary preferred without one", orphans, pref(PrimaryPreferred, 0), "late s"},
		{"secondary", full, pref(Secondary, 0), "late s"},
		{"secondary far", full, pref(Secondary, 0, dc("c")), "far"},
		{"secondary preferred", full, pref(SecondaryPreferred, 0), "late s"},
		{"secondary preferred, no such tag", full, pref(SecondaryPreferred, 0, dc("x")), "p"},
		{"secondary, no such tag", full, pref(Secondary, 0, dc("x")), ""},
		{"second tag set", full, pref(Secondary, 0, dc("x"), dc("b")), "late s"},
		{"last tag set is empty", full, pref(Secondary, 0, dc("x"), []Tag{}), "late s"},
		{"two tags", full, pref(Nearest, 0, []Tag{{"dc", "b"}, {"disk", "ssd"}}), "s"},
		{"nearest", full, pref(Nearest, 0), "late p s"},
		{"nearest by tag", full, pref(Nearest, 0, dc("a")), "p"},
		{"stale", full, pref(Secondary, 2*time.Minute), "s"},
		{"not that stale", full, pref(Secondary, 6*time.Minute), "late s"},
		{"stale without a primary", orphans, pref(Nearest, 2*time.Minute), "s"},
		{"mongos write", routers, write, "m1 m2"},
		{"mongos read", routers, pref(Secondary, 0, dc("x")), "m1 m2"},
		{"mongos pinned", routers, Select{Address: "m3:27017"}, "m3"},
		{"pinned", full, Select{Address: "far:27017", Write: true}, "far"},
		{"pinned to an arbiter", full, Select{Address: "arb:27017"}, ""},
		{"pinned to nobody", full, Select{Address: "x:27017"}, ""},
		{"direct", direct, Select{}, "s"},
		{"direct write", direct, write, "s"},
	} {
		if got := picks(tc.tb, tc.sel); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if full.impossible(Select{Address: "x:27017"}) == nil || full.impossible(Select{Address: "gone:27017"}) != nil {
		t.Error("who is gone for good")
	}
	if !full.ready() || orphans.ready() || direct.ready() || !routers.ready() {
		t.Error("ready")
	}
}

func TestQuieterServerIsPreferred(t *testing.T) {
	tb := tableOf(sharded, peer{"m1", router, 0, "", 0}, peer{"m2", router, 0, "", 0})
	tb.servers[0].pool.inUse.Store(3)
	if got := picks(tb, write); got != "m2" {
		t.Error(got)
	}
}

func TestReadFromTaggedMember(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 3, wiretest.HelloFields(d("tags", d("use", "reports"))))
	_, c := open(t, rs.URI(), Limits{})
	sel := Select{Pref: &ReadPref{Mode: Secondary, Tags: [][]Tag{{{"use", "reports"}}}}}
	conn := acquire(t, c, sel, 0)
	defer conn.Release()
	if conn.Address() == rs.Primary().Addr() {
		t.Error("the primary was picked")
	}
	sel.Pref.Tags = [][]Tag{{{"use", "backup"}}}
	if _, err := c.Acquire(within(t, 20*time.Millisecond), sel, 0); !errors.Is(err, ErrNoServer) {
		t.Error(err)
	}
	if f := c.Facts(); !f.ReplicaSet || f.Mongos || f.Standalone {
		t.Errorf("%+v", f)
	}
}

func TestDirectConnectionToASecondary(t *testing.T) {
	rs := wiretest.NewSet(t, "rs0", 2)
	_, c := open(t, rs.Servers[1].URI(), Limits{})
	conn := acquire(t, c, Select{}, 0)
	defer conn.Release()
	if conn.Address() != rs.Servers[1].Addr() || c.Ready() {
		t.Error("wrong server, or ready for writes")
	}
}

func TestParseReadPref(t *testing.T) {
	for _, tc := range []struct {
		doc  bson.D
		want string // of the error; empty: none
		pref ReadPref
	}{
		{d("mode", "primary"), "", ReadPref{}},
		{d("mode", "primary", "tags", bson.A{d()}), "", ReadPref{}},
		{d("mode", "secondaryPreferred", "hedge", d("enabled", true)), "", ReadPref{Mode: SecondaryPreferred}},
		{d("mode", "nearest", "maxStalenessSeconds", -1), "", ReadPref{Mode: Nearest}},
		{d("mode", "nearest", "maxStalenessSeconds", 120.0), "", ReadPref{Mode: Nearest, MaxStaleness: 2 * time.Minute}},
		{
			d("mode", "secondary", "tags", bson.A{d("a", "1", "b", "2"), d()}), "",
			ReadPref{Mode: Secondary, Tags: [][]Tag{{{"a", "1"}, {"b", "2"}}, {}}},
		},
		{d("mode", "primary", "tags", bson.A{d("a", "1")}), "no tags", ReadPref{}},
		{d("mode", "primary", "maxStalenessSeconds", 90), "no maxStaleness", ReadPref{}},
		{d("mode", "nearest", "maxStalenessSeconds", 60), "at least 90", ReadPref{}},
		{d("mode", "nearest", "maxStalenessSeconds", "x"), "integer", ReadPref{}},
		{d("mode", "best"), "none of", ReadPref{}},
		{d("mode", 1), "string", ReadPref{}},
		{d("mode", "nearest", "tags", d()), "array", ReadPref{}},
		{d("mode", "nearest", "tags", bson.A{1}), "documents", ReadPref{}},
		{d("mode", "nearest", "tags", bson.A{d("a", 1)}), "string", ReadPref{}},
		{d(), "needs a mode", ReadPref{}},
	} {
		got, err := ParseReadPref(marshal(tc.doc))
		if tc.want != "" {
			var shown *wire.Error
			if !errors.As(err, &shown) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v: %v", tc.doc, err)
			}
			continue
		}
		if err != nil || (got == nil) != (tc.pref.Mode == 0) {
			t.Errorf("%v: %v, %v", tc.doc, got, err)
			continue
		}
		if got != nil && (got.Mode != tc.pref.Mode || got.MaxStaleness != tc.pref.MaxStaleness ||
			!slices.EqualFunc(got.Tags, tc.pref.Tags, slices.Equal[[]Tag])) {
			t.Errorf("%v: %+v", tc.doc, got)
		}
	}
	if _, err := ParseReadPref(wire.Doc{1, 2, 3}); err == nil {
		t.Error("malformed")
	}
}
