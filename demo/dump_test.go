package demo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// dumpGround is a proxy before two clusters, or one.
type dumpGround struct {
	front     *proxy.Proxy
	home, big string
	clients   map[bool]*mongo.Client
}

func newDumpGround(t *testing.T, two bool) *dumpGround {
	t.Helper()
	g := &dumpGround{home: secantus.Start(t, secantus.Options{})}
	g.clients = map[bool]*mongo.Client{false: open(t, g.home)}
	if g.big = g.home; two {
		g.big = secantus.Start(t, secantus.Options{})
		g.clients[true] = open(t, g.big)
	}
	g.front = proxy.Start(t, pipelineConfig(g.home, g.big))
	return g
}

// ownDatabases are the tenants that have databases of their own.
var ownDatabases = map[string]string{"acme": own, "beta": "smetasc_tenant_beta", "big": "smetasc_tenant_big", "42": "smetasc_tenant_n42"}

// checkPlaces looks behind the proxy: every document lies once, and in its tenant's database.
func (g *dumpGround) checkPlaces(t *testing.T, want []*dumpedCollection) {
	t.Helper()
	inOwn := 0
	for _, c := range want {
		if c.kind == "view" {
			continue
		}
		held, n := everywhere(t, g.clients, c.name)
		for _, doc := range c.docs {
			owner, _ := doc.Lookup("tenantId").StringValueOK()
			if i, ok := doc.Lookup("tenantId").AsInt64OK(); ok {
				owner = fmt.Sprint(i)
			}
			at := place{shared, false}
			if db := ownDatabases[owner]; db != "" && !slices.Contains(platformCollections, c.name) {
				at = place{db, len(g.clients) > 1 && (owner == "big" || owner == "42")}
				inOwn++
			}
			if got := held[at][doc.Lookup("_id").String()]; got.String() != doc.String() {
				t.Errorf("%s: %s is %s in %v", c.name, doc, got, at)
			}
		}
		if n != len(c.docs) {
			t.Errorf("%s: %d documents in all databases, want %d", c.name, n, len(c.docs))
		}
	}
	if inOwn == 0 {
		t.Error("nothing is in a database of its own")
	}
}

// fillDump is a database with everything that a dump has to keep.
func fillDump(t *testing.T, db *mongo.Database) {
	t.Helper()
	ctx := t.Context()
	for _, text := range []string{
		`{"create":"orders","validator":{"n":{"$lt":1000}},"validationLevel":"moderate","validationAction":"error"}`,
		`{"create":"users","capped":true,"size":65536,"max":100}`,
		`{"create":"tasks"}`,
		`{"create":"papers"}`,
		`{"create":"open","viewOn":"orders","pipeline":[{"$match":{"state":"open"}}]}`,
	} {
		if err := db.RunCommand(ctx, docOf(t, text)).Err(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	docs := pipelineDocuments()
	for i := range toolBatch + 50 {
		d := bson.D{{Key: "_id", Value: int32(i)}, {Key: "n", Value: int32(i % 7)}, {Key: "at", Value: bson.DateTime(i)}}
		if tenant := pipelineTenants[i%7]; tenant != nil {
			d = append(d, bson.E{Key: "tenantId", Value: tenant})
		}
		docs["tasks"] = append(docs["tasks"], d)
	}
	for coll, all := range docs {
		if _, err := db.Collection(coll).InsertMany(ctx, all); err != nil {
			t.Fatalf("fill %s: %v", coll, err)
		}
	}
	for _, text := range []string{
		`{"createIndexes":"orders","indexes":[{"name":"state_1_n_-1","key":{"state":1,"n":-1}},{"name":"t","key":{"tenantId":1,"_id":1},"unique":true},{"name":"sparse","key":{"v":1},"sparse":true}]}`,
		`{"createIndexes":"tasks","indexes":[{"name":"ttl","key":{"at":1},"expireAfterSeconds":2000000000},{"name":"partial","key":{"n":1},"partialFilterExpression":{"n":{"$gt":3}}},{"name":"capitals","key":{"name":1},"collation":{"locale":"en","strength":2}}]}`,
	} {
		if err := db.RunCommand(ctx, docOf(t, text)).Err(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

// dumpText is a dump as text that can be compared: identities of collections are left out, which no two servers share.
func dumpText(dump []*dumpedCollection) string {
	var lines []string
	for _, c := range dump {
		head := c.db + "." + c.name
		lines = append(lines, fmt.Sprintf("%s %s %s", head, c.kind, extended(c.options)))
		for _, index := range c.indexes {
			lines = append(lines, head+" index "+extended(index))
		}
		for _, doc := range c.docs {
			lines = append(lines, head+" "+doc.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func mustDump(t *testing.T, uri string, o dumpOptions) []*dumpedCollection {
	t.Helper()
	dump, err := mongodump(t.Context(), uri, o)
	if err != nil {
		t.Fatalf("mongodump %+v: %v", o, err)
	}
	return dump
}

// TestDump: mongorestore puts every document of a dump of one database where its tenant's are, and what
// mongodump then makes of them through the proxy is what it makes of the one database.
func TestDump(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	plain := secantus.Start(t, secantus.Options{})
	fillDump(t, open(t, plain).Database(shared))
	whole := mustDump(t, plain, dumpOptions{db: shared})
	// The test server keeps an index's `ns`, which servers drop: restored here as there.
	if err := mongorestore(t.Context(), plain, whole, restoreOptions{drop: true}); err != nil {
		t.Fatal(err)
	}
	dumps := []dumpOptions{
		{db: shared},
		{},
		{db: shared, collection: "orders"},
		{db: shared, collection: "none"},
		{db: shared, collection: "tasks", query: bson.D{{Key: "tenantId", Value: isolated}}},
		{db: shared, collection: "tasks", query: bson.D{{Key: "tenantId", Value: bson.D{{Key: "$in", Value: bson.A{"globex", "big", int32(42)}}}}}},
		{db: shared, collection: "open", viewsAsCollections: true},
	}
	want := map[int]string{}
	for i, o := range dumps {
		want[i] = dumpText(mustDump(t, plain, o))
	}
	for _, two := range []bool{false, true} {
		t.Run(map[bool]string{false: "one cluster", true: "two clusters"}[two], func(t *testing.T) {
			t.Parallel()
			g := newDumpGround(t, two)
			restore := func(o restoreOptions) {
				t.Helper()
				if err := mongorestore(t.Context(), g.front.URI, whole, o); err != nil {
					t.Fatalf("mongorestore %+v: %v", o, err)
				}
				compare(t, "dumped", want[0], "restored", dumpText(mustDump(t, g.front.URI, dumps[0])))
				g.checkPlaces(t, whole)
				checkDrift(t, g.front)
			}
			restore(restoreOptions{})
			if two {
				for i, o := range dumps[1:] {
					compare(t, fmt.Sprintf("direct %+v", o), want[i+1], "proxied", dumpText(mustDump(t, g.front.URI, o)))
				}
			}
			db := open(t, g.front.URI).Database(shared)
			if !two { // what is there stays, what is not is added
				if _, err := db.Collection("tasks").DeleteMany(t.Context(), bson.D{{Key: "n", Value: 3}}); err != nil {
					t.Fatal(err)
				}
				restore(restoreOptions{})
			}
			if _, err := db.Collection("orders").UpdateMany(t.Context(), bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: 999}}}}); err != nil {
				t.Fatal(err)
			}
			restore(restoreOptions{drop: true, bypassValidation: true})
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		refusedDumps(t, whole)
	})
	t.Run("bound", func(t *testing.T) {
		t.Parallel()
		boundDumps(t, whole)
	})
	t.Run("text", func(t *testing.T) {
		t.Parallel()
		exported(t, plain)
	})
}

// refusedDumps are those that can not be: each says why, and nothing of it stays.
func refusedDumps(t *testing.T, whole []*dumpedCollection) {
	home := secantus.Start(t, secantus.Options{})
	front := proxy.Start(t, strings.Replace(config("mixed", home), `presentation = "mongos"`, "presentation = \"replica-set\"\nreplica_set = \"rs0\"", 1))
	small := slices.DeleteFunc(slices.Clone(whole), func(c *dumpedCollection) bool { return c.name != "order_items" && c.name != "users" })
	if err := mongorestore(t.Context(), front.URI, small, restoreOptions{}); err != nil {
		t.Fatal(err)
	}
	before := dumpText(mustDump(t, front.URI, dumpOptions{db: shared}))
	refused := func(what string, err error, code int, text string) {
		t.Helper()
		var server mongo.ServerError
		if !errors.As(err, &server) || !server.HasErrorCode(code) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %d %q", what, err, code, text)
		}
	}
	_, err := mongodump(t.Context(), front.URI, dumpOptions{oplog: true})
	refused("mongodump --oplog", err, 20, "dump without --oplog")
	refused("mongorestore --preserveUUID", restoreData(t.Context(), open(t, front.URI), &dumpedCollection{db: shared, name: "papers", uuid: small[0].uuid}, false, restoreOptions{drop: true, preserveUUID: true}),
		115, "applyOps")
	refused("mongorestore --oplogReplay", mongorestore(t.Context(), front.URI, nil, restoreOptions{replay: []bson.D{{{Key: "op", Value: "i"}, {Key: "ns", Value: shared + ".orders"}, {Key: "o", Value: bson.D{}}}}}),
		115, "applyOps")
	refused("--dumpDbUsersAndRoles", open(t, front.URI).Database("admin").RunCommand(t.Context(), bson.D{{Key: "getParameter", Value: 1}, {Key: "authSchemaVersion", Value: 1}}).Err(),
		72, "no such parameter")
	compare(t, "before", before, "after", dumpText(mustDump(t, front.URI, dumpOptions{db: shared})))
}

// boundDumps: who is bound to a tenant dumps that tenant's documents alone.
func boundDumps(t *testing.T, whole []*dumpedCollection) {
	orders := *whole[slices.IndexFunc(whole, func(c *dumpedCollection) bool { return c.name == "orders" })]
	tasks := *whole[slices.IndexFunc(whole, func(c *dumpedCollection) bool { return c.name == "tasks" })]
	tasks.docs = tasks.docs[:200]
	home := secantus.Start(t, secantus.Options{})
	text := config("mixed", home)
	addresses := map[string]string{}
	for _, isolation := range []string{"rows", "database"} {
		address, err := child.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		addresses[isolation] = "mongodb://" + address + "/"
		text += fmt.Sprintf("\n[[listeners]]\naddress = %q\ntenant = %q\nisolation = %q\naccess = \"owner\"\n", address, isolated, isolation)
	}
	front := proxy.Start(t, text)
	if err := mongorestore(t.Context(), front.URI, []*dumpedCollection{&orders, &tasks}, restoreOptions{}); err != nil {
		t.Fatal(err)
	}
	for isolation, uri := range addresses {
		for _, coll := range []string{"orders", "tasks"} {
			dump := mustDump(t, uri, dumpOptions{db: shared, collection: coll})
			all := mustDump(t, front.URI, dumpOptions{db: shared, collection: coll, query: bson.D{{Key: "tenantId", Value: isolated}}})
			if isolation == "rows" { // a definition may show values of others
				dump[0].options, dump[0].indexes, all[0].options, all[0].indexes = nil, nil, nil, nil
			}
			compare(t, "open", dumpText(all), isolation, dumpText(dump))
			if len(dump[0].docs) == 0 {
				t.Errorf("%s: nothing is dumped", coll)
			}
			// A restore asks first, in a database of its own, whether empty timestamps are taken. That is
			// refused, as by a server to who has the rights of one database, and nothing is restored.
			before := dumpText(mustDump(t, front.URI, dumpOptions{db: shared}))
			if err := mongorestore(t.Context(), uri, dump, restoreOptions{}); err == nil || !strings.Contains(err.Error(), "_mongorestore_dummy") {
				t.Errorf("mongorestore of who is bound to %s: %v", isolation, err)
			}
			compare(t, "before", before, "after", dumpText(mustDump(t, front.URI, dumpOptions{db: shared})))
		}
	}
}

// exported: mongoexport reads, and mongoimport writes, what they do on one database.
func exported(t *testing.T, plain string) {
	home := secantus.Start(t, secantus.Options{})
	front := proxy.Start(t, config("mixed", home))
	const coll = "stock"
	docs := func(from, to, n int) (all []bson.D) {
		for i := from; i < to; i++ {
			all = append(all, bson.D{{Key: "_id", Value: int32(i)}, {Key: "tenantId", Value: []string{isolated, "globex", "initech"}[i%3]}, {Key: "n", Value: int32(n)}})
		}
		return all
	}
	for _, x := range []struct {
		mode string
		by   []string
		drop bool
		docs []bson.D
	}{
		{"insert", nil, true, docs(0, 40, 1)},
		{"insert", nil, false, docs(30, 50, 2)}, // those that are there are left out
		{"upsert", []string{"_id"}, false, docs(45, 60, 3)},
		{"merge", []string{"tenantId", "_id"}, false, docs(55, 70, 4)},
		{"delete", []string{"_id"}, false, docs(5, 12, 0)},
	} {
		var results [2]string
		for i, uri := range []string{plain, front.URI} {
			if err := mongoimport(t.Context(), uri, shared, coll, x.mode, x.by, x.drop, x.docs); err != nil {
				t.Fatalf("mongoimport %s at %s: %v", x.mode, uri, err)
			}
			for _, e := range []struct {
				query, sort bson.D
			}{
				{nil, nil},
				{bson.D{{Key: "tenantId", Value: isolated}}, nil},
				{bson.D{{Key: "n", Value: bson.D{{Key: "$gt", Value: 1}}}}, bson.D{{Key: "_id", Value: -1}}},
			} {
				found, err := mongoexport(t.Context(), uri, shared, coll, e.query, e.sort)
				if err != nil {
					t.Fatalf("mongoexport %v: %v", e, err)
				}
				lines := make([]string, len(found))
				for i, d := range found {
					lines[i] = lineOf(d)
				}
				if e.sort == nil {
					slices.Sort(lines)
				}
				results[i] += strings.Join(lines, "\n") + "\n\n"
			}
		}
		compare(t, "direct", results[0], "proxied", results[1])
	}
}
