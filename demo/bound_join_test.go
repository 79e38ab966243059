package demo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// Pipelines that join a tenant's own database with the platform's collections that are open to it: directly on
// a database that no other tenant has anything in, and on a connection that is bound to the tenant's rows,
// whose orders are on another cluster than the users of all. Each collection is read within its rows.
func TestBoundJoins(t *testing.T) {
	skipShort(t)
	alone, together, big := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
	address, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(config("mixed", together), "mode = \"per-tenant\"\n", "mode = \"per-tenant\"\ncluster = \"big\"\n", 1)
	front := proxy.Start(t, text+fmt.Sprintf(`
[clusters.big]
uri = %q
[platform.bound]
users = "own"
packages = "read"
[guard]
leaks = "full"
[[listeners]]
address = %q
tenant = %q
isolation = "rows"
`, big, address, isolated))
	dial := func(uri string) *mongo.Database {
		client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Disconnect(t.Context()) })
		return client.Database(shared)
	}
	fill := func(db *mongo.Database, tenant string) {
		insert := func(coll string, docs ...any) {
			if _, err := db.Collection(coll).InsertMany(t.Context(), docs); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 12 {
			insert("users", bson.D{{Key: "_id", Value: fmt.Sprint(tenant, i)}, {Key: "tenantId", Value: tenant}, {Key: "n", Value: i % 3}, {Key: "name", Value: "user of " + tenant}})
			insert("orders", bson.D{{Key: "_id", Value: fmt.Sprint(tenant, i)}, {Key: "tenantId", Value: tenant}, {Key: "n", Value: i % 4}, {Key: "user", Value: fmt.Sprint(tenant, i%5)}, {Key: "package", Value: i % 2}})
		}
	}
	open, bound, direct := dial(front.URI), dial("mongodb://"+address+"/"), dial(alone)
	for _, tenant := range goTenants {
		fill(open, tenant)
	}
	fill(direct, isolated)
	for _, db := range []*mongo.Database{open, direct} {
		for i := range 2 {
			if _, err := db.Collection("packages").InsertOne(t.Context(), bson.D{{Key: "_id", Value: i}, {Key: "name", Value: fmt.Sprint("package ", i)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n, tt := range []struct{ coll, pipeline string }{
		{"orders", `[{"$match":{"n":{"$gt":0}}},{"$sort":{"_id":1}},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$unwind":"$u"}]`},
		{"orders", `[{"$sort":{"_id":-1}},{"$lookup":{"from":"users","localField":"n","foreignField":"n","as":"u"}},{"$project":{"names":"$u.name","count":{"$size":"$u"}}}]`},
		{"orders", `[{"$sort":{"_id":1}},{"$lookup":{"from":"packages","localField":"package","foreignField":"_id","as":"p"}},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$limit":7}]`},
		{"orders", `[{"$lookup":{"from":"users","localField":"n","foreignField":"n","as":"u"}},{"$unwind":"$u"},{"$group":{"_id":"$u.tenantId","n":{"$sum":1}}},{"$sort":{"_id":1}}]`},
		{"orders", `[{"$lookup":{"from":"users","pipeline":[{"$match":{"n":1}},{"$sort":{"_id":1}}],"as":"u"}},{"$sort":{"_id":1}},{"$lookup":{"from":"orders","localField":"n","foreignField":"n","as":"same"}},{"$addFields":{"same":{"$size":"$same"}}}]`},
		{"orders", `[{"$unionWith":"users"},{"$sort":{"_id":1,"n":1,"name":1}}]`},
		{"orders", `[{"$project":{"n":1}},{"$unionWith":{"coll":"users","pipeline":[{"$match":{"n":2}}]}},{"$group":{"_id":"$n","c":{"$sum":1}}},{"$sort":{"_id":1}}]`},
		{"users", `[{"$sort":{"_id":1}},{"$lookup":{"from":"orders","localField":"n","foreignField":"n","as":"o"}},{"$addFields":{"o":{"$size":"$o"}}}]`},
		{"packages", `[{"$sort":{"_id":1}},{"$lookup":{"from":"orders","localField":"_id","foreignField":"package","as":"o"}},{"$addFields":{"o":{"$size":"$o"}}}]`},
		{"orders", `[{"$lookup":{"from":"users","localField":"n","foreignField":"n","as":"u"}},{"$unwind":"$u"},{"$count":"all"}]`},
		{"orders", `[{"$match":{"n":99}},{"$lookup":{"from":"users","localField":"n","foreignField":"n","as":"u"}}]`},
	} {
		run := func(db *mongo.Database, size int32) string {
			t.Helper()
			var stages bson.A
			if err := bson.UnmarshalExtJSON([]byte(tt.pipeline), false, &stages); err != nil {
				t.Fatal(err)
			}
			cursor, err := db.Collection(tt.coll).Aggregate(t.Context(), stages, options.Aggregate().SetBatchSize(size))
			if err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			var out strings.Builder
			for cursor.Next(t.Context()) {
				out.WriteString(cursor.Current.String() + "\n")
			}
			if err := cursor.Err(); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			return out.String()
		}
		for _, size := range []int32{3, 1000} {
			want, got := run(direct, size), run(bound, size)
			compare(t, fmt.Sprint(n, " alone"), want, fmt.Sprint(n, " bound"), got)
			if want == "" && n != 10 {
				t.Errorf("%d brings nothing", n)
			}
			for _, other := range goTenants {
				if other != isolated && strings.Contains(got, other) {
					t.Errorf("%d shows what is %s's: %s", n, other, got)
				}
			}
		}
	}
	if stopped := front.Metric(t, "tenantry_leaks_stopped_total"); stopped > 0 {
		t.Errorf("%.0f leaks had to be stopped", stopped)
	}
}
