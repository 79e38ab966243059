package proxy

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// A transaction whose first command no server has got goes on as one that has begun.
func TestTransactionBegunHere(t *testing.T) {
	hidden := d("find", "routes", "$db", "tenantry")
	local := d("whatsmyuri", 1, "$db", "admin")
	insert := d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}, "$db", "app")
	located := d("update", "orders", "updates", bson.A{d("q", d("_id", 1), "u", d("$set", d("x", 1)))}, "$db", "app")
	refused := d("insert", "routes", "documents", bson.A{d("_id", 1)}, "$db", "tenantry")
	unknown := d("getLog", "x", "$db", "admin")
	commit := d("commitTransaction", 1, "$db", "admin")
	for _, tt := range []struct {
		name string
		cmds []bson.D
		code any // of the last; nil for ok
		docs int
	}{
		{"empty, then a write", []bson.D{hidden, insert, commit}, nil, 1},
		{"local, then a write", []bson.D{local, hidden, insert, commit}, nil, 1},
		{"a write that is looked for", []bson.D{hidden, located, insert, commit}, nil, 1},
		{"nothing else", []bson.D{hidden, commit}, nil, 0},
		{"refused", []bson.D{refused, commit}, int32(251), 0},
		{"refused later", []bson.D{hidden, refused, insert}, int32(251), 0},
		{"refused behind a write", []bson.D{insert, refused, commit}, int32(251), 0},
		{"ended before any server", []bson.D{hidden, commit, insert}, int32(251), 0},
		{"aborted before any server", []bson.D{hidden, d("abortTransaction", 1, "$db", "admin"), insert, commit}, nil, 0},
		{"failed locally", []bson.D{hidden, unknown, commit}, int32(251), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGround(t, nil)
			g.client.Run("app", d("create", "orders"))
			var r bson.D
			for i, cmd := range tt.cmds {
				cmd = append(append(bson.D{}, cmd...), d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)...)
				if i == 0 {
					cmd = append(cmd, d("startTransaction", true, "readConcern", d("level", "snapshot"))...)
				}
				r = wiretest.Decode(g.client.Command(cmd))
			}
			if code := wiretest.Get(r, "code"); code != tt.code {
				t.Errorf("the last is answered %v", r)
			}
			if n := len(g.server.Docs("app_t_acme", "orders")); n != tt.docs {
				t.Errorf("%d documents", n)
			}
			began := 0
			for _, c := range g.server.Commands("insert", "find", "update") {
				if c.Value("startTransaction") == true {
					began++
					if c.Value("readConcern", "level") != "snapshot" {
						t.Errorf("it begins without the client's read concern: %v", c.D())
					}
				}
			}
			if began > 1 || tt.docs > 0 && began != 1 {
				t.Errorf("the server was told %d times to begin", began)
			}
		})
	}
}

// A command that overtakes the first of its transaction begins none: the first may be under way.
func TestTransactionOvertaken(t *testing.T) {
	g := newGround(t, nil)
	g.client.Run("app", d("create", "orders"))
	first := make(chan struct{})
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "insert" && c.Value("startTransaction") == true {
			return wiretest.Pass().After(first)
		}
		return wiretest.Pass()
	})
	in := func(client *wiretest.Client, id int, start bool) bson.D {
		cmd := d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", "globex")}, "lsid", session(1), "txnNumber", int64(1), "autocommit", false)
		if start {
			cmd = append(cmd, d("startTransaction", true)...)
		}
		return client.Run("app", cmd)
	}
	done := make(chan bson.D)
	go func() { done <- in(g.client, 1, true) }()
	g.server.Wait("insert", 1)
	r := in(wiretest.Dial(t, g.addr), 2, false)
	close(first)
	if r := <-done; wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("the first: %v", r)
	}
	sent := g.server.Commands("insert")
	if wiretest.Get(r, "ok") != 1.0 || len(sent) != 2 || sent[1].Value("startTransaction") != nil {
		t.Errorf("the second: %v, sent as %v", r, sent[len(sent)-1].D())
	}
}

// What is kept of a transaction's first command is little, and no longer than it is needed.
func TestTransactionKeepsLittle(t *testing.T) {
	g := newGround(t, nil)
	g.client.Run("app", d("create", "orders"))
	kept := func() (n int) {
		for _, s := range g.proxy.txns.kept {
			for _, e := range s.at {
				n += len(e.Value.(*shelved[sessionID, *txn]).value.concern.Data) + len(e.Value.(*shelved[sessionID, *txn]).value.api)
			}
		}
		return n
	}
	hidden := d("find", "routes", "$db", "tenantry")
	insert := d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}, "$db", "app")
	run := func(cmd bson.D, more ...bson.E) bson.D {
		cmd = append(append(bson.D{}, cmd...), d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)...)
		return wiretest.Decode(g.client.Command(append(cmd, more...)))
	}
	long := strings.Repeat("x", 1<<20)
	begin := func(level string) []bson.E { return d("startTransaction", true, "readConcern", d("level", level)) }
	if r := run(insert, append(begin(long), d("apiVersion", long)...)...); kept() != 0 {
		t.Errorf("%d bytes are kept: %v", kept(), r)
	}
	g = newGround(t, nil)
	g.client.Run("app", d("create", "orders"))
	if r := run(hidden, begin(long)...); wiretest.Get(r, "code") != int32(wire.InvalidOptions) || kept() != 0 {
		t.Errorf("%d bytes are kept: %v", kept(), r)
	}
	g = newGround(t, nil)
	g.client.Run("app", d("create", "orders"))
	run(hidden, begin("snapshot")...)
	before := kept()
	if r := run(insert); before == 0 || kept() != 0 || wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("%d bytes are kept, %d when a server has begun it: %v", before, kept(), r)
	}
}

// A command of a transaction that fails while it is held has ended it: the others are not committed without it.
func TestTransactionHeldInVain(t *testing.T) {
	g := newGround(t, nil)
	g.client.Run("app", d("create", "orders"))
	in := func(db string, cmd bson.D) bson.D {
		return g.client.Run(db, append(cmd, d("lsid", session(1), "txnNumber", int64(1), "autocommit", false)...))
	}
	in("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}, "startTransaction", true))
	g.router.Publish(tableOf(t, 1, func(s *routing.Spec) { s.Tenants[1].Look = true })) // which goes on
	if r := in("app", d("insert", "orders", "documents", bson.A{d("_id", 2, "tenantId", "globex")})); wiretest.Get(r, "code") != int32(6) {
		t.Fatalf("got %v", r)
	}
	if r := in("admin", d("commitTransaction", 1)); wiretest.Get(r, "code") != int32(251) {
		t.Errorf("got %v", r)
	}
	if n := len(g.server.Docs("app_t_acme", "orders")); n != 0 {
		t.Errorf("%d documents", n)
	}
}

// What a session is called at a cluster is the same in every proxy of a fleet, of whatever version: a write that is
// retried by another one, or after an update, would be made twice. (Python: hmac.new(key, principal + b"\0" + id +
// cluster, "sha256"), and a random UUID's bits.)
func TestDerivedIDs(t *testing.T) {
	key, id := make([]byte, 32), sessionID{}
	for i := range key {
		key[i] = byte(i)
	}
	for i := range id {
		id[i] = byte(100 + i)
	}
	other := bytes.Repeat([]byte("k"), 32)
	for range 3 { // what derives is used again
		for _, x := range []struct{ principal, cluster, want string }{
			{"app@admin", "home", "1fc93759d1be40c9a75f4921d02a3796"},
			{"", "big", "e94682fa68214c13a6129b5afe128934"},
		} {
			if got := deriveID(key, x.principal, id, x.cluster); hex.EncodeToString(got[:]) != x.want {
				t.Errorf("%q at %s: %x, want %s", x.principal, x.cluster, got, x.want)
			}
			if deriveID(other, x.principal, id, x.cluster) == deriveID(key, x.principal, id, x.cluster) {
				t.Error("another fleet's id is the same")
			}
		}
	}
}
