package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// withView is the change of a table that has a view of the open orders.
func withView(s *routing.Spec) {
	s.Views = []routing.ViewSpec{{Name: "app.open", On: "orders", Pipeline: wiretest.D(d("0", d("$match", d("state", "open"))))}}
}

// TestViewCursor: a cursor on a view goes by the view's name, and is read by the collection's.
func TestViewCursor(t *testing.T) {
	g := newGround(t, nil)
	g.router.Publish(tableOf(t, 2, withView))
	g.server.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 77, true, d("_id", 1)))
	r := g.client.Run("app", d("find", "open", "filter", d("tenantId", "acme"), "batchSize", 1))
	id, _ := wiretest.Get(r, "cursor", "id").(int64)
	if wiretest.Get(r, "cursor", "ns") != "app.open" || id == 0 || id == 77 {
		t.Fatalf("%v", r)
	}
	sent := g.server.Commands("aggregate")[0]
	if sent.Value("$db") != "app_t_acme" || sent.Collection() != "orders" || len(g.server.Commands("find")) > 0 {
		t.Errorf("%v", sent.D())
	}
	if other := g.client.Run("app", d("getMore", id, "collection", "orders")); wiretest.Get(other, "code") != int32(43) {
		t.Errorf("by the name of the collection: %v", other)
	}
	g.server.Once("getMore", wiretest.Cursor("app_t_acme.orders", 77, false, d("_id", 2)))
	r = g.client.Run("app", d("getMore", id, "collection", "open", "batchSize", 1))
	if wiretest.Get(r, "cursor", "ns") != "app.open" || wiretest.Get(r, "cursor", "id") != id {
		t.Errorf("%v", r)
	}
	more := g.server.Commands("getMore")[0]
	if more.Value("collection") != "orders" || more.Value("getMore") != int64(77) || more.Value("batchSize") != int32(1) {
		t.Errorf("%v", more.D())
	}
	r = g.client.Run("app", d("killCursors", "open", "cursors", bson.A{id}))
	if killed, _ := wiretest.Get(r, "cursorsKilled").(bson.A); len(killed) != 1 || g.server.Commands("killCursors")[0].Collection() != "orders" {
		t.Errorf("%v", r)
	}
}

// TestViewOverHomes: of several homes too.
func TestViewOverHomes(t *testing.T) {
	g := newGround(t, nil)
	g.router.Publish(tableOf(t, 2, withView))
	g.server.Once("aggregate", wiretest.Cursor("app.orders", 0, true, d("_id", 1)))
	g.server.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 78, true, d("_id", 2)))
	r := g.client.Run("app", d("find", "open", "batchSize", 1))
	id, _ := wiretest.Get(r, "cursor", "id").(int64)
	if wiretest.Get(r, "cursor", "ns") != "app.open" || id == 0 {
		t.Fatalf("%v", r)
	}
	g.server.Once("getMore", wiretest.Cursor("app_t_acme.orders", 0, false, d("_id", 3)))
	r = g.client.Run("app", d("getMore", id, "collection", "open"))
	if docs, _ := wiretest.Get(r, "cursor", "nextBatch").(bson.A); wiretest.Get(r, "cursor", "ns") != "app.open" || len(docs) == 0 {
		t.Errorf("%v", r)
	}
}

// TestShapedReplies: a count and a distinct are answered as such, with what else the reply says, and an
// error stays one.
func TestShapedReplies(t *testing.T) {
	g := newGround(t, nil)
	g.router.Publish(tableOf(t, 2, withView))
	acme := d("tenantId", "acme")
	answer := func(docs ...any) { g.server.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 0, true, docs...)) }
	answer(d("values", 3))
	if r := g.client.Run("app", d("count", "open", "query", acme)); wiretest.Get(r, "n") != int32(3) || wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "cursor") != nil {
		t.Errorf("%v", r)
	}
	answer()
	if r := g.client.Run("app", d("count", "open", "query", acme)); wiretest.Get(r, "n") != int32(0) {
		t.Errorf("%v", r)
	}
	answer(d("_id", nil, "values", bson.A{1, "x"}))
	r := g.client.Run("app", d("distinct", "open", "key", "v", "query", acme))
	if values, _ := wiretest.Get(r, "values").(bson.A); len(values) != 2 || wiretest.Get(r, "cursor") != nil {
		t.Errorf("%v", r)
	}
	answer()
	r = g.client.Run("app", d("distinct", "open", "key", "v", "query", acme))
	if values, ok := wiretest.Get(r, "values").(bson.A); !ok || len(values) != 0 {
		t.Errorf("%v", r)
	}
	g.server.Once("aggregate", wiretest.Fail(2, "bad hint on app_t_acme.orders"))
	if r := g.client.Run("app", d("count", "open", "query", acme)); wiretest.Get(r, "code") != int32(2) || strings.Contains(fmt.Sprint(r), "app_t_acme") {
		t.Errorf("%v", r)
	}
	g.insert(t, 1, "acme")
	if r := g.client.Run("app", d("count", "orders", "query", acme)); wiretest.Get(r, "ok") != 1.0 || len(g.server.Commands("count")) != 1 {
		t.Errorf("the next command is not its own: %v", r)
	}
}

// TestNewView: a view that another proxy has made is looked for before its name is taken for a
// collection's, and one that cannot be looked for is not read.
func TestNewView(t *testing.T) {
	g := newGround(t, nil)
	named := func(s *routing.Spec) { s.Names = []string{"app.orders"} }
	g.router.Publish(tableOf(t, 2, named))
	asked, away, read := 0, false, time.Time{}
	g.proxy.opts.Review = func(context.Context, time.Time) (time.Time, error) {
		if asked++; away {
			return read, errors.New("it is away")
		}
		g.router.Publish(tableOf(t, 3, func(s *routing.Spec) { named(s); withView(s) }))
		return read, nil
	}
	if g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"))); asked != 0 {
		t.Error("a name that is known was looked for")
	}
	g.server.Once("aggregate", wiretest.Cursor("app_t_acme.orders", 0, true, d("_id", 1)))
	r := g.client.Run("app", d("find", "open", "filter", d("tenantId", "acme")))
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 1 || asked != 1 {
		t.Errorf("looked for %d times: %v", asked, r)
	}
	if r := g.client.Run("app", d("find", "nothing")); wiretest.Get(r, "ok") != 1.0 || asked != 2 {
		t.Errorf("looked for %d times: %v", asked, r)
	}
	away = true
	if r := g.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$lookup", d("from", "else", "pipeline", bson.A{}, "as", "x"))}, "cursor", d())); wiretest.Get(r, "code") != int32(6) {
		t.Errorf("%v", r)
	}
	if n := len(g.server.Commands("aggregate")); n != 1 {
		t.Errorf("%d aggregates were sent", n)
	}
	g.router.Publish(tableOf(t, 4, func(s *routing.Spec) { s.Names = []string{} }))
	if r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"))); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("what needs nothing of shared fails with it: %v", r)
	}
	away, asked, read = false, 0, time.Now().Add(time.Hour)
	for range 3 {
		if r := g.client.Run("app", d("find", "nothing")); wiretest.Get(r, "ok") != 1.0 || asked != 1 {
			t.Errorf("looked for %d times, and not once for all of a while: %v", asked, r)
		}
	}
}

// A name that shared could have a view of is not waited for while nobody can say so, by a command that has
// nothing to do there.
func TestNewNameWithoutHome(t *testing.T) {
	g := twoClusters(t)
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Tenants[0].Route.Cluster, s.Names = "big", []string{} }))
	asked := 0
	g.proxy.opts.Review = func(context.Context, time.Time) (time.Time, error) {
		asked++
		return time.Time{}, errors.New("it is away")
	}
	insert := func(id int, tenant string) any {
		return wiretest.Get(g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", id, "tenantId", tenant)})), "n")
	}
	g.client.Run("app", d("ping", 1)) // which connects
	if n := insert(1, "acme"); n != int32(1) || asked != 1 {
		t.Errorf("with home: asked %d times, wrote %v", asked, n)
	}
	g.server.StepDown()
	home := g.proxy.opts.Clusters.Get("home")
	for range 200 {
		if !home.Ready() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := insert(2, "acme"); n != int32(1) || asked != 1 {
		t.Errorf("without home: asked %d times, wrote %v", asked, n)
	}
	if r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "globex"))); wiretest.Get(r, "code") != int32(6) || asked != 2 {
		t.Errorf("what goes to shared: asked %d times: %v", asked, r)
	}
}

// TestDefinedView: a definition goes to shared alone, is refused where a tenant has a collection of the
// name, and views are read again before the next command.
func TestDefinedView(t *testing.T) {
	g := newGround(t, nil)
	reviewed := 0
	g.proxy.opts.Review = func(context.Context, time.Time) (time.Time, error) { reviewed++; return time.Now(), nil }
	make := func(name string) bson.D {
		return g.client.Run("app", d("create", name, "viewOn", "orders", "pipeline", bson.A{}))
	}
	g.server.Once("create", wiretest.OK())
	if r := make("open"); wiretest.Get(r, "ok") != 1.0 || reviewed != 1 {
		t.Errorf("%v, read again %d times", r, reviewed)
	}
	if sent := g.server.Commands("create"); len(sent) != 1 || sent[0].Value("$db") != "app" || sent[0].Value("viewOn") != "orders" {
		t.Errorf("%v", sent)
	}
	g.server.Once("listCollections", wiretest.Cursor("app_t_acme.$cmd.listCollections", 0, true, d("name", "orders", "type", "collection")))
	if r := make("orders"); wiretest.Get(r, "code") != int32(48) || len(g.server.Commands("create")) != 1 {
		t.Errorf("%v", r)
	}
	g.server.Once("listCollections", wiretest.Fail(13, "not authorized"))
	if r := make("orders"); wiretest.Get(r, "code") != int32(13) || len(g.server.Commands("create")) != 1 {
		t.Errorf("%v", r)
	}
	g.router.Publish(tableOf(t, 2, withView))
	reviewed = 0
	g.client.Run("app", d("drop", "open"))
	g.client.Run("app", d("collMod", "open", "viewOn", "orders", "pipeline", bson.A{}))
	if reviewed != 2 {
		t.Errorf("read again %d times", reviewed)
	}
	if g.client.Run("app", d("drop", "users")); reviewed != 2 {
		t.Error("read again for a collection")
	}
	for _, sent := range append(g.server.Commands("drop"), g.server.Commands("collMod")...) {
		if sent.Value("$db") != "app" {
			t.Errorf("%v", sent.D())
		}
	}
	// A view that is in shared and not known is no pattern for the homes of a collection.
	g.server.Once("create", wiretest.Fail(wire.NamespaceExists, "it is there"))
	g.server.Once("listCollections", wiretest.Cursor("app.$cmd.listCollections", 0, true, d("name", "orders", "type", "view", "options", d("viewOn", "x", "pipeline", bson.A{}))))
	before := len(g.server.Commands("create"))
	if r := g.client.Run("app", d("create", "orders")); wiretest.Get(r, "code") != int32(48) || len(g.server.Commands("create")) != before+1 {
		t.Errorf("%v", r)
	}
}

// TestMapReduce: what one home has is mapped and reduced there, under the tenant's query.
func TestMapReduce(t *testing.T) {
	g := newGround(t, nil)
	g.server.Once("mapReduce", wiretest.OK(bson.E{Key: "results", Value: bson.A{d("_id", "x", "value", 2.0)}}))
	js := bson.JavaScript("function() { emit(this.x, 1) }")
	r := g.client.Run("app", d("mapReduce", "orders", "map", js, "reduce", js, "query", d("tenantId", "acme"), "out", d("inline", 1)))
	if results, _ := wiretest.Get(r, "results").(bson.A); len(results) != 1 {
		t.Errorf("%v", r)
	}
	sent := g.server.Commands("mapReduce")
	if len(sent) != 1 || sent[0].Value("$db") != "app_t_acme" || sent[0].Value("map") != js || sent[0].Value("query", "tenantId") != "acme" {
		t.Errorf("%v", sent)
	}
	g.server.Once("mapReduce", wiretest.Fail(139, "app_t_acme.orders: ReferenceError"))
	r = g.client.Run("app", d("mapReduce", "orders", "map", js, "reduce", js, "query", d("tenantId", "acme"), "out", d("inline", 1)))
	if wiretest.Get(r, "code") != int32(139) || strings.Contains(fmt.Sprint(r), "app_t_acme") {
		t.Errorf("%v", r)
	}
	r = g.client.Run("app", d("mapReduce", "orders", "map", js, "reduce", js, "out", d("inline", 1)))
	if wiretest.Get(r, "code") != int32(115) || len(g.server.Commands("mapReduce")) != 2 {
		t.Errorf("of several homes: %v", r)
	}
}
