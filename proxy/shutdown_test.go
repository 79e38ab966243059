package proxy

import (
	"context"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// TestShutdownAbortsOpen: transactions that nobody can go on with leave no locks at the servers; those that
// have ended are left alone, and a server that does not answer holds up nothing for long.
func TestShutdownAbortsOpen(t *testing.T) {
	g := newGround(t, nil)
	insert := func(n byte, id int) bson.D {
		return g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", "acme")},
			"lsid", session(n), "txnNumber", int64(1), "autocommit", false, "startTransaction", true))
	}
	for n := range byte(3) {
		if r := insert(n+1, int(n)); wiretest.Get(r, "ok") != 1.0 {
			t.Fatal(r)
		}
	}
	if r := g.client.Run("admin", d("commitTransaction", 1, "lsid", session(1), "txnNumber", int64(1), "autocommit", false)); wiretest.Get(r, "ok") != 1.0 {
		t.Fatal(r)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.proxy.Shutdown(ctx)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	inserts, aborts := g.server.Commands("insert"), g.server.Commands("abortTransaction")
	if len(aborts) != 2 {
		t.Fatalf("%d transactions were aborted", len(aborts))
	}
	for _, a := range aborts {
		found := false
		for _, in := range inserts[1:] {
			found = found || wiretest.Get(in.D(), "lsid", "id").(bson.Binary).Equal(wiretest.Get(a.D(), "lsid", "id").(bson.Binary))
		}
		if !found {
			t.Errorf("aborted: %v", a.D())
		}
	}
}

// TestShutdownWithoutServer does not wait for what can't be aborted.
func TestShutdownWithoutServer(t *testing.T) {
	g := newGround(t, nil)
	r := g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")},
		"lsid", session(1), "txnNumber", int64(1), "autocommit", false, "startTransaction", true))
	if wiretest.Get(r, "ok") != 1.0 {
		t.Fatal(r)
	}
	g.server.Kill()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.proxy.Shutdown(ctx)
	if took := time.Since(began); took > abortTime+2*time.Second {
		t.Errorf("it took %v", took)
	}
}
