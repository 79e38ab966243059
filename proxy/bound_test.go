package proxy

import (
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// boundTo is a client that is bound to a tenant's rows, on a ground with several clusters.
func boundTo(t *testing.T, g *ground, tenant string) *wiretest.Client {
	t.Helper()
	g.client.Command(ping)
	set := *g.proxy.settings.Load()
	set.listeners = map[string]*config.Listener{"127.0.0.1:0": {Address: "127.0.0.1:0", Tenant: tenant, Isolation: "rows", Access: "write"}}
	g.proxy.settings.Store(&set)
	return wiretest.Dial(t, g.addr)
}

// A bound client's sessions end wherever its commands have gone to, and on no other cluster.
func TestBoundSessionsEnd(t *testing.T) {
	for tenant, clusters := range map[string][2]int{"acme": {1, 1}, "globex": {1, 0}} {
		g := twoClusters(t)
		client := boundTo(t, g, tenant)
		client.Run("app", d("insert", "orders", "documents", bson.A{d("x", 1)}, "lsid", session(1)))
		for _, s := range []*wiretest.Server{g.server, g.big} {
			if _, err := g.proxy.opts.Clusters.Get("big").Run(t.Context(), "admin", wiretest.D(ping)); err != nil { // it is known to be there
				t.Fatal(err)
			}
			s.Forget()
		}
		for _, name := range []string{"killSessions", "endSessions", "refreshSessions"} {
			if r := client.Run("admin", d(name, bson.A{session(1)})); wiretest.Get(r, "ok") != 1.0 {
				t.Errorf("%s: %v", name, r)
			}
			for i, s := range []*wiretest.Server{g.server, g.big} {
				if n := len(s.Commands(name)); n != clusters[i] {
					t.Errorf("%s of %s: %d reached cluster %d", name, tenant, n, i)
				}
			}
		}
	}
}

// A recovery token names a cluster: a bound client's one of its own, or one that it was given.
func TestRecoveryTokensOfBoundClients(t *testing.T) {
	g := twoClusters(t)
	acme, globex := boundTo(t, g, "acme"), boundTo(t, g, "globex")
	in := func(c *wiretest.Client, cmd bson.D, more ...any) bson.D {
		return c.Run("app", append(append(cmd, d("lsid", session(3), "txnNumber", int64(1), "autocommit", false)...), d(more...)...))
	}
	commit := func(c *wiretest.Client, token any) bson.D {
		t.Helper()
		g.proxy.txns.kept = shelves[sessionID, *txn]{} // as in another process
		g.server.Forget()
		g.big.Forget()
		cmd := append(d("commitTransaction", 1), d("lsid", session(3), "txnNumber", int64(1), "autocommit", false)...)
		if token != nil {
			cmd = append(cmd, bson.E{Key: "recoveryToken", Value: token})
		}
		return c.Run("admin", cmd)
	}
	reached := func() [2]int {
		return [2]int{len(g.server.Commands("commitTransaction")), len(g.big.Commands("commitTransaction"))}
	}
	r := in(acme, d("insert", "orders", "documents", bson.A{d("_id", 1)}), "startTransaction", true)
	token, _ := wiretest.Get(r, "recoveryToken").(bson.D)
	if wiretest.Get(token, "tenantryCluster") != "big" {
		t.Fatalf("got %v", r)
	}

	t.Run("of another cluster", func(t *testing.T) {
		r := commit(globex, d("tenantryCluster", "big"))
		if reached() != [2]int{1, 0} || wiretest.Get(r, "code") != int32(251) {
			t.Errorf("%v reached, %v", reached(), r)
		}
		r = commit(globex, token)
		if reached() != [2]int{1, 0} || wiretest.Get(r, "code") != int32(251) {
			t.Errorf("another client's: %v reached, %v", reached(), r)
		}
	})
	t.Run("none", func(t *testing.T) { // home does not know it, big does
		if r := commit(acme, nil); reached() != [2]int{1, 1} || wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("%v reached, %v", reached(), r)
		}
	})
	t.Run("of its own", func(t *testing.T) {
		if r := commit(acme, token); reached() != [2]int{0, 1} || wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("%v reached, %v", reached(), r)
		}
	})
	t.Run("of where it was before it moved", func(t *testing.T) { // so that a commit is not run again
		g.router.Publish(tableOf(t, 2, nil))
		if r := commit(acme, token); reached() != [2]int{0, 1} || wiretest.Get(r, "ok") != 1.0 {
			t.Errorf("%v reached, %v", reached(), r)
		}
		if commit(acme, d("tenantryCluster", "big")); reached() != [2]int{1, 0} {
			t.Errorf("without its proof: %v reached", reached())
		}
	})
}

// A transaction that was aborted here is not committed where that was not heard.
func TestCommitOfAborted(t *testing.T) {
	g := twoClusters(t)
	in := func(db string, cmd bson.D, more ...any) bson.D {
		return g.client.Run(db, append(append(cmd, d("lsid", session(3), "txnNumber", int64(1), "autocommit", false)...), d(more...)...))
	}
	r := in("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}), "startTransaction", true)
	g.big.Once("abortTransaction", wiretest.Fail(6, "not heard"))
	in("app", d("mapReduce", "orders"))
	if r := in("admin", d("commitTransaction", 1), "recoveryToken", wiretest.Get(r, "recoveryToken")); wiretest.Get(r, "code") != int32(251) || len(g.big.Commands("commitTransaction")) != 0 {
		t.Errorf("got %v", r)
	}
}

// A command that waits is held against a reload of meanwhile before it goes on.
func TestDenyOfWaiting(t *testing.T) {
	deny := func(s *Server) {
		set := *s.settings.Load()
		set.deny = []config.Deny{{Tenant: "acme", Reason: "bill"}}
		s.settings.Store(&set)
	}
	t.Run("for its tenant", func(t *testing.T) {
		g := newGround(t, func(g *ground) {
			deny(g.proxy)
			g.router.Publish(tableOf(t, 3, nil))
		})
		client := boundTo(t, g, "acme")
		g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[0].Route, s.Tenants[0].Look = nil, true }))
		r := client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1)}))
		if wiretest.Get(r, "code") != int32(13) || wiretest.Get(r, "errmsg") != "tenantry: bill" || len(g.server.Commands("insert")) != 0 {
			t.Errorf("got %v", r)
		}
	})
	t.Run("for a place", func(t *testing.T) {
		g := newGround(t, nil)
		set := *g.proxy.settings.Load()
		set.perTenant = 1
		g.proxy.settings.Store(&set)
		clients := []*wiretest.Client{boundTo(t, g, "acme"), boundTo(t, g, "acme")}
		insert := d("insert", "orders", "documents", bson.A{d("x", 1)})
		release, first, second := make(chan struct{}), make(chan struct{}), make(chan bson.D, 1)
		clients[1].Command(ping)
		g.server.Once("insert", wiretest.Pass().After(release))
		go func() {
			clients[0].Run("app", insert)
			close(first)
		}()
		g.server.Wait("insert", 1)
		go func() { second <- clients[1].Run("app", insert) }()
		for busy := 0; busy < 2; time.Sleep(10 * time.Millisecond) { // then it waits, or is about to
			g.proxy.mu.Lock()
			busy = 0
			for c := range g.proxy.clients {
				if c.busy.Load() {
					busy++
				}
			}
			g.proxy.mu.Unlock()
		}
		deny(g.proxy)
		close(release)
		<-first
		if r := <-second; wiretest.Get(r, "code") != int32(13) || len(g.server.Commands("insert")) != 1 {
			t.Errorf("got %v", r)
		}
	})
}
