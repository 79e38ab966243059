package proxy

import (
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// A session on two clusters asks each for what it has seen of that one: another's time would be an
// error there, or no promise.
func TestClocks(t *testing.T) {
	g := twoClusters(t)
	client, servers := g.client, []*wiretest.Server{g.server, g.big}
	after := func(tenant string, concern bson.D) (sent any, told bson.Timestamp) {
		t.Helper()
		for _, s := range servers {
			s.Forget()
		}
		r := client.Run("app", d("find", "orders", "filter", d("tenantId", tenant), "lsid", session(1), "readConcern", concern))
		if wiretest.Get(r, "ok") != 1.0 {
			t.Fatalf("find: %v", r)
		}
		for _, s := range servers {
			for _, c := range s.Commands("find") {
				sent = c.Value("readConcern", "afterClusterTime")
			}
		}
		told, _ = wiretest.Get(r, "operationTime").(bson.Timestamp)
		return sent, told
	}
	_, home := after("globex", d())
	if sent, _ := after("acme", d("afterClusterTime", home)); sent != nil {
		t.Errorf("big, which the session has not met, was asked for home's time: %v", sent)
	}
	_, big := after("acme", d())
	if sent, _ := after("globex", d("level", "local", "afterClusterTime", big)); sent != home {
		t.Errorf("home was asked for %v, want its own %v", sent, home)
	}
	stranger := bson.Timestamp{T: 1, I: 1}
	if sent, told := after("acme", d("afterClusterTime", stranger)); sent == nil || sent == stranger || sent.(bson.Timestamp).Compare(told) > 0 {
		t.Errorf("for a time that nobody knows big was asked for %v at %v", sent, told)
	}
	r := client.Run("app", d("count", "orders", "lsid", session(1)))
	if v, _ := wiretest.Get(r, "operationTime").(bson.Timestamp); v.IsZero() {
		t.Errorf("a reply of several clusters tells no time: %v", r)
	}
	if wiretest.Get(r, "$clusterTime") != nil {
		t.Errorf("a cluster's signed time reached the client: %v", r)
	}
}

// All parts of a read with read concern "snapshot" read at the time that the first has chosen; no
// time is one of two clusters.
func TestSnapshot(t *testing.T) {
	g := newGround(t, nil)
	at := bson.Timestamp{T: 42, I: 1}
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name != "find" && c.Name != "distinct" {
			return wiretest.Pass()
		}
		if c.Name == "distinct" {
			return wiretest.OK(d("values", bson.A{}, "atClusterTime", at)...)
		}
		return wiretest.OK(d("cursor", d("firstBatch", bson.A{}, "id", int64(0), "ns", c.DB+".orders", "atClusterTime", at))...)
	})
	snapshot := d("level", "snapshot")
	for _, cmd := range []bson.D{d("find", "orders"), d("distinct", "orders", "key", "x")} {
		g.server.Forget()
		for _, concern := range []bson.D{snapshot, append(d("atClusterTime", at), snapshot...)} {
			r := g.client.Run("app", append(slices.Clone(cmd), d("readConcern", concern)...))
			told := wiretest.Get(r, "atClusterTime")
			if cmd[0].Key == "find" {
				told = wiretest.Get(r, "cursor", "atClusterTime")
			}
			if told != at {
				t.Errorf("%s with %v tells of %v", cmd[0].Key, concern, r)
			}
		}
		var sent []any
		for _, c := range g.server.Commands(cmd[0].Key) {
			sent = append(sent, c.Value("readConcern", "atClusterTime"))
		}
		if sent = sent[:len(sent)-2]; len(sent) != 2 || sent[0] != nil || sent[1] != at {
			t.Errorf("%s read at %v", cmd[0].Key, sent)
		}
	}
	g = twoClusters(t)
	if r := g.client.Run("app", d("find", "orders", "readConcern", snapshot)); wiretest.Get(r, "code") != int32(72) {
		t.Errorf("over two clusters: %v", r)
	}
}

// The time of a snapshot that one cluster has chosen is sent to no other.
func TestSnapshotOfOther(t *testing.T) {
	g := twoClusters(t)
	at := bson.Timestamp{T: 42, I: 1}
	for _, s := range []*wiretest.Server{g.server, g.big} {
		s.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name != "find" {
				return wiretest.Pass()
			}
			return wiretest.OK(d("cursor", d("firstBatch", bson.A{}, "id", int64(0), "ns", c.DB+".orders", "atClusterTime", at))...)
		})
	}
	find := func(tenant string, lsid byte, more ...any) any {
		t.Helper()
		concern := d(append([]any{"level", "snapshot"}, more...)...)
		r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", tenant), "lsid", session(lsid), "readConcern", concern))
		if wiretest.Get(r, "ok") == 1.0 {
			return nil
		}
		return wiretest.Get(r, "code")
	}
	for i, tt := range []struct {
		tenant string
		more   []any
		want   any
	}{
		{"globex", nil, nil},
		{"globex", []any{"atClusterTime", at}, nil},
		{"acme", []any{"atClusterTime", at}, int32(wire.InvalidOptions)},
		{"acme", nil, nil},
		{"acme", []any{"atClusterTime", at}, nil},
		{"globex", []any{"atClusterTime", at}, int32(wire.InvalidOptions)},
	} {
		if got := find(tt.tenant, 1, tt.more...); got != tt.want {
			t.Errorf("%d, %s: %v, want %v", i, tt.tenant, got, tt.want)
		}
	}
	if got := find("globex", 2, "atClusterTime", at); got != nil {
		t.Errorf("a time that nobody has told: %v", got)
	}
}

// A write over several clusters is seen by what is read after it on each of them, though the client
// is told one time only.
func TestClocksOfParts(t *testing.T) {
	g := twoClusters(t)
	at := func(s *wiretest.Server, seconds uint32) {
		now := bson.Timestamp{T: seconds}
		s.Handle(func(c wiretest.Command) wiretest.Reply {
			if c.Name != "find" && c.Name != "update" {
				return wiretest.Pass()
			}
			cursor := d("firstBatch", bson.A{}, "id", int64(0), "ns", c.DB+".orders")
			return wiretest.OK(d("cursor", cursor, "n", 1, "operationTime", now, "$clusterTime", d("clusterTime", now))...)
		})
	}
	run := func(cmd bson.D, more ...any) bson.D {
		return g.client.Run("app", append(append(cmd, d("lsid", session(1))...), d(more...)...))
	}
	find := func(tenant string) bson.D { return d("find", "orders", "filter", d("tenantId", tenant)) }
	at(g.server, 100)
	at(g.big, 50)
	run(find("globex"))
	run(find("acme"))
	at(g.big, 60)
	r := run(d("update", "orders", "updates", bson.A{d("q", d(), "u", d("$set", d("x", 1)), "multi", true)}))
	g.big.Forget()
	run(find("acme"), "readConcern", d("afterClusterTime", wiretest.Get(r, "operationTime")))
	for _, c := range g.big.Commands("find") {
		if got := c.Value("readConcern", "afterClusterTime"); got != (bson.Timestamp{T: 60}) {
			t.Errorf("big was asked for %v, which is before the write", got)
		}
	}
}

// A transaction that begins with a question made here asks the cluster by its own time, too.
func TestClocksOfQuestions(t *testing.T) {
	g := twoClusters(t)
	g.insert(t, 0, "globex")
	run := func(cmd bson.D, more ...any) bson.D {
		return g.client.Run("app", append(append(cmd, d("lsid", session(1))...), d(more...)...))
	}
	find := func(tenant string) bson.D { return d("find", "orders", "filter", d("tenantId", tenant)) }
	home, _ := wiretest.Get(run(find("globex")), "operationTime").(bson.Timestamp)
	g.big.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "find" {
			far := bson.Timestamp{T: home.T + 1000}
			return wiretest.OK(d("cursor", d("firstBatch", bson.A{}, "id", int64(0), "ns", c.DB+".orders"),
				"operationTime", far, "$clusterTime", d("clusterTime", far))...)
		}
		return wiretest.Pass()
	})
	told := wiretest.Get(run(find("acme")), "operationTime")
	g.router.Publish(tableOf(t, 1, nil)) // both homes on one of the two clusters
	g.server.Forget()
	run(d("update", "orders", "updates", bson.A{d("q", d("_id", 0), "u", d("$set", d("x", 1)))}), "txnNumber", int64(1),
		"autocommit", false, "startTransaction", true, "readConcern", d("level", "snapshot", "afterClusterTime", told))
	sent := g.server.Commands("find")
	if len(sent) == 0 {
		t.Fatal("nothing was asked")
	}
	if c := sent[0]; c.Value("readConcern", "afterClusterTime") != home || c.Value("readConcern", "level") != "snapshot" {
		t.Errorf("asked with %v, want home's own %v", c.Value("readConcern"), home)
	}
}

// Nor does one without a read concern have any.
func TestQuestionWithoutConcern(t *testing.T) {
	g := newGround(t, nil)
	g.insert(t, 0, "globex")
	r := g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", 0), "u", d("$set", d("x", 1)))},
		"lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true))
	if got := outcomeOf(r); got != "n 1" || g.server.Commands("find")[0].Value("readConcern") != nil {
		t.Errorf("%s: %v", got, r)
	}
}

// What a client who is bound to a tenant says of time is not passed on: servers are told what they have told.
func TestBoundClientsTimes(t *testing.T) {
	g, acme, globex := twoTenants(t)
	made := d("clusterTime", bson.Timestamp{T: 4e9, I: 1}, "signature", d("hash", bson.Binary{Data: make([]byte, 20)}, "keyId", int64(0)))
	insert := func(c *wiretest.Client, more ...any) (r bson.D, told any) {
		t.Helper()
		g.server.Forget()
		r = c.Run("app", d(append([]any{"insert", "orders", "documents", bson.A{d("x", 1)}}, more...)...))
		if wiretest.Get(r, "ok") != 1.0 {
			t.Fatalf("insert: %v", r)
		}
		return r, g.server.Commands("insert")[0].Value("$clusterTime")
	}
	if r, told := insert(acme, "$clusterTime", made); told != nil || wiretest.Get(r, "$clusterTime") == nil {
		t.Errorf("before a server has told any: %v reached it, and its reply is %v", told, r)
	}
	r, _ := insert(globex)
	newest := wiretest.Get(r, "$clusterTime", "clusterTime")
	for name, sent := range map[string]any{"a made-up time": made, "none": "now", "an old one": d("clusterTime", bson.Timestamp{T: 1, I: 1})} {
		if _, told := insert(acme, "$clusterTime", sent); wiretest.Get(told.(bson.D), "clusterTime").(bson.Timestamp).Compare(newest.(bson.Timestamp)) < 0 || wiretest.Get(told.(bson.D), "signature", "keyId") == int64(0) {
			t.Errorf("%s: %v reached the server", name, told)
		}
	}
	if _, told := insert(acme); told != nil {
		t.Errorf("a client that tells no time: %v reached the server", told)
	}
	g.server.Forget()
	later := d("clusterTime", bson.Timestamp{T: newest.(bson.Timestamp).T, I: 1 << 20}, "signature", wiretest.Get(made, "signature"))
	concern := d("afterClusterTime", bson.Timestamp{T: newest.(bson.Timestamp).T, I: 1 << 20})
	if r := acme.Run("app", d("count", "orders", "lsid", session(1), "readConcern", concern, "$clusterTime", later)); wiretest.Get(r, "ok") == nil {
		t.Fatalf("count: %v", r)
	}
	if len(g.server.Commands("ping")) != 1 {
		t.Errorf("the cluster was not asked for a time that another proxy has told")
	}
	if told, _ := g.server.Commands("count")[0].Value("$clusterTime").(bson.D); wiretest.Get(told, "signature", "keyId") == int64(0) {
		t.Errorf("%v reached the server", told)
	}
	made[0].Value = newest
	if r := g.client.Run("app", d("find", "orders", "$clusterTime", made)); wiretest.Get(r, "code") != int32(211) {
		t.Errorf("of the application's own client the time is passed on: %v", r)
	}
}
