package demo

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// pipelineTenants are in shared, in databases of their own on its cluster, and on another one. nil
// stands for documents without a tenant.
var pipelineTenants = []any{"acme", "beta", "big", int32(42), "globex", "initech", nil}

// pipelineConfig is two clusters with tenants of each kind.
func pipelineConfig(home, big string) string {
	text := config("mixed", home) + fmt.Sprintf("\n[clusters.big]\nuri = %q\n", big)
	for _, x := range [][3]string{{`"beta"`, "beta", "home"}, {`"big"`, "big", "big"}, {`{ int = 42 }`, "n42", "big"}} {
		text += fmt.Sprintf("\n[[tenants]]\nid = %s\nkey = %q\nmode = \"per-tenant\"\ncluster = %q\n", x[0], x[1], x[2])
	}
	return text
}

// pipelineGround is one set of documents twice: in one database, and behind a proxy.
type pipelineGround struct {
	direct, proxied *mongo.Database
	home, config    string
}

func newPipelineGround(t *testing.T) *pipelineGround {
	t.Helper()
	skipShort(t)
	proxy.Binary(t)
	home, big := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
	g := &pipelineGround{home: home, config: pipelineConfig(home, big)}
	g.direct, g.proxied = open(t, home).Database("reference"), open(t, proxy.Start(t, g.config).URI).Database(shared)
	for _, db := range []*mongo.Database{g.direct, g.proxied} {
		for coll, docs := range pipelineDocuments() {
			if _, err := db.Collection(coll).InsertMany(t.Context(), docs); err != nil {
				t.Fatalf("fill %s: %v", coll, err)
			}
		}
	}
	// What a move has left in shared, changed since: nobody may see it.
	left := open(t, home).Database(shared)
	for _, coll := range []string{"orders", "order_items"} {
		if _, err := left.Collection(coll).InsertMany(t.Context(), leftovers(coll)); err != nil {
			t.Fatalf("leave documents in shared: %v", err)
		}
	}
	return g
}

// leftovers are changed copies of the isolated tenants' documents.
func leftovers(coll string) []any {
	var left []any
	for _, doc := range pipelineDocuments()[coll] {
		switch d := slices.Clone(doc.(bson.D)); lookup(d, "tenantId") {
		case "acme", "beta", "big", int32(42):
			for i := range d {
				if d[i].Key == "n" || d[i].Key == "qty" {
					d[i].Value = int32(1000)
				}
			}
			left = append(left, d)
		}
	}
	return left
}

func lookup(d bson.D, key string) any {
	for _, e := range d {
		if e.Key == key {
			return e.Value
		}
	}
	return nil
}

// pipelineDocuments have values of many types, none, and numbers whose sums are exact.
func pipelineDocuments() map[string][]any {
	all := map[string][]any{}
	states := []any{"open", "paid", "sent", nil, "$tenantId"}
	values := []any{int32(3), int64(5), 2.25, nil, "x", int32(-1), bson.D{{Key: "a", Value: 1}}, int64(5)}
	for i := range 63 {
		d := bson.D{{Key: "_id", Value: int32(i)}}
		if tenant := pipelineTenants[(i*5)%7]; tenant != nil {
			d = append(d, bson.E{Key: "tenantId", Value: tenant})
		}
		d = append(d, bson.E{Key: "n", Value: int32((i * 37) % 17)}, bson.E{Key: "user", Value: int32(i % 4)}, bson.E{Key: "place", Value: bson.A{float64(i * 25 % 63), 0.5}})
		if state := states[(i*3)%5]; state != nil {
			d = append(d, bson.E{Key: "state", Value: state})
		}
		if i%5 != 1 {
			d = append(d, bson.E{Key: "v", Value: values[(i/2)%8]})
		}
		d = append(d, bson.E{Key: "tags", Value: bson.A{"a", "b", "c", "d"}[i%3 : i%3+i%2+1]})
		all["orders"] = append(all["orders"], d)
		for k := range i % 3 {
			item := bson.D{{Key: "_id", Value: int32(1000 + 3*i + k)}, {Key: "order", Value: int32(i)}, {Key: "qty", Value: int32(k + i%7)}}
			if tenant := lookup(d, "tenantId"); tenant != nil {
				item = append(item, bson.E{Key: "tenantId", Value: tenant})
			}
			all["order_items"] = append(all["order_items"], item)
		}
	}
	for i := range 4 {
		all["users"] = append(all["users"], bson.D{{Key: "_id", Value: int32(i)}, {Key: "name", Value: fmt.Sprint("user", i)}, {Key: "boss", Value: int32(i - 1)}})
	}
	return all
}

// outcome is what a pipeline comes to, as text: a line for each document, in the order in which
// they come or sorted.
func outcome(ctx context.Context, db *mongo.Database, coll string, pipeline bson.A, ordered bool, o ...options.Lister[options.AggregateOptions]) (string, error) {
	cursor, err := db.Collection(coll).Aggregate(ctx, pipeline, o...)
	if err != nil {
		return "", err
	}
	var docs []bson.D
	if err := cursor.All(ctx, &docs); err != nil {
		return "", err
	}
	lines := make([]string, len(docs))
	for i, d := range docs {
		lines[i] = lineOf(d)
	}
	if !ordered {
		slices.Sort(lines)
	}
	return strings.Join(lines, "\n"), nil
}

// lineOf is a document as text. Arrays whose order nothing tells (joined and collected ones) have
// names that begin with "any", and are sorted.
func lineOf(d bson.D) string {
	for i, e := range d {
		if a, ok := e.Value.(bson.A); ok && strings.HasPrefix(e.Key, "any") {
			slices.SortFunc(a, func(x, y any) int { return strings.Compare(extended(x), extended(y)) })
			d[i].Value = a
		}
	}
	return extended(d)
}

func extended(v any) string {
	text, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: v}}, true, false)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// same compares a pipeline's outcome on both sides.
func (g *pipelineGround) same(ctx context.Context, coll string, pipeline bson.A, ordered bool, o ...options.Lister[options.AggregateOptions]) error {
	want, err := outcome(ctx, g.direct, coll, pipeline, ordered, o...)
	if err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	got, err := outcome(ctx, g.proxied, coll, pipeline, ordered, o...)
	if err != nil {
		return fmt.Errorf("through the proxy: %w", err)
	}
	if got != want {
		return fmt.Errorf("directly:\n%s\nthrough the proxy:\n%s", want, got)
	}
	return nil
}

// pipelines that applications send, by what of them has to be put together.
var pipelines = []struct {
	name, coll string
	ordered    bool
	text       string
}{
	{"nothing", "orders", false, `[]`},
	{"$match of an _id", "orders", false, `[{"$match":{"_id":7}}]`},
	{"$match of two tenants", "orders", false, `[{"$match":{"tenantId":{"$in":["acme",42,"globex"]}}}]`},
	{"$match of none", "orders", false, `[{"$match":{"tenantId":null}}]`},
	{"$skip and $limit at the end", "orders", true, `[{"$match":{"_id":{"$in":[3,4]}}},{"$project":{"_id":0,"x":{"$literal":1}}},{"$limit":5},{"$skip":1}]`},
	{"$limit at the end", "orders", true, `[{"$project":{"_id":0,"x":{"$literal":1}}},{"$limit":7}]`},
	{"$limit behind $skip, of more", "orders", true, `[{"$project":{"_id":0,"x":{"$literal":1}}},{"$skip":3},{"$limit":4}]`},
	{"$skip at the end", "orders", true, `[{"$project":{"_id":0,"x":{"$literal":1}}},{"$skip":59}]`},
	{"$skip and $limit at the end, of all", "orders", true, `[{"$project":{"_id":0,"x":{"$literal":1}}},{"$skip":57},{"$limit":50}]`},
	{"page", "orders", true, `[{"$sort":{"n":-1,"_id":1}},{"$skip":11},{"$limit":17}]`},
	{"page of joined", "orders", true, `[{"$sort":{"_id":1}},{"$skip":5},{"$limit":9},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$unwind":"$u"},{"$project":{"name":"$u.name"}}]`},
	{"one tenant's with users", "orders", false, `[{"$match":{"tenantId":"acme"}},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}}]`},
	{"another cluster's with users and items", "orders", true, `[{"$match":{"tenantId":42}},{"$sort":{"_id":1}},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}}]`},
	{"everybody's items", "orders", false, `[{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}},{"$match":{"any.qty":{"$gt":3}}}]`},
	{"items by a pipeline", "orders", false, `[{"$lookup":{"from":"order_items","let":{"o":"$_id"},"pipeline":[{"$match":{"$expr":{"$eq":["$order","$$o"]}}},{"$project":{"qty":1}}],"as":"any"}}]`},
	{"users with orders", "users", false, `[{"$lookup":{"from":"orders","localField":"_id","foreignField":"user","as":"any"}},{"$project":{"name":1,"orders":{"$size":"$any"}}}]`},
	{"users' bosses", "orders", false, `[{"$match":{"n":{"$lt":5}}},{"$graphLookup":{"from":"users","startWith":"$user","connectFromField":"boss","connectToField":"_id","as":"any"}}]`},
	{"orders and items", "orders", false, `[{"$project":{"n":1}},{"$unionWith":{"coll":"order_items","pipeline":[{"$project":{"qty":1}}]}}]`},
	{"items of one among orders of another", "orders", false, `[{"$match":{"tenantId":"beta"}},{"$unionWith":{"coll":"order_items","pipeline":[{"$match":{"tenantId":"big"}},{"$limit":100}]}},{"$count":"n"}]`},
	{"some items behind orders", "orders", false, `[{"$match":{"n":{"$lt":4}}},{"$project":{"_id":{"$literal":1}}},{"$unionWith":{"coll":"order_items","pipeline":[{"$match":{"order":{"$in":[5,8]}}},{"$project":{"_id":{"$literal":2}}},{"$skip":1},{"$limit":2}]}}]`},
	{"items behind orders, joined", "orders", false, `[{"$unionWith":{"coll":"order_items","pipeline":[{"$project":{"user":"$qty"}}]}},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$match":{"u.name":{"$ne":"user2"}}},{"$lookup":{"from":"orders","localField":"_id","foreignField":"_id","as":"any"}}]`},
	{"items joined behind users", "orders", false, `[{"$match":{"tenantId":"acme"}},{"$unionWith":"users"},{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}}]`},
	{"items joined behind users, from shared", "orders", false, `[{"$match":{"tenantId":"globex"}},{"$unionWith":"users"},{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}}]`},
	{"users behind orders", "orders", false, `[{"$match":{"state":"open"}},{"$unionWith":"users"},{"$group":{"_id":{"$type":"$name"},"n":{"$sum":1}}}]`},
	{"countDocuments", "orders", false, `[{"$match":{"state":"open"}},{"$group":{"_id":1,"n":{"$sum":1}}}]`},
	{"countDocuments of none", "orders", false, `[{"$match":{"state":"none"}},{"$group":{"_id":1,"n":{"$sum":1}}}]`},
	{"$count", "orders", false, `[{"$count":"all"}]`},
	{"$count of none", "orders", false, `[{"$match":{"state":"none"}},{"$count":"all"}]`},
	{"$sortByCount", "orders", false, `[{"$sortByCount":"$state"}]`},
	{"$bucket", "orders", true, `[{"$bucket":{"groupBy":"$n","boundaries":[0,4,9,12],"default":"rest","output":{"n":{"$sum":1},"mean":{"$avg":"$n"}}}}]`},
	{"$bucket that the first home lacks", "orders", true, `[{"$match":{"$or":[{"tenantId":"globex","n":{"$gte":9}},{"tenantId":"acme"}]}},{"$bucket":{"groupBy":"$n","boundaries":[0,4,9,20]}}]`},
	{"$bucketAuto", "orders", true, `[{"$bucketAuto":{"groupBy":"$_id","buckets":4}}]`},
	{"every accumulator", "orders", false, `[{"$group":{"_id":"$state","sum":{"$sum":"$v"},"n":{"$count":{}},"min":{"$min":"$v"},"max":{"$max":"$v"},"mean":{"$avg":"$v"},"any":{"$push":"$n"},"anySet":{"$addToSet":"$v"}}}]`},
	{"means of nothing", "orders", false, `[{"$match":{"v":"x"}},{"$group":{"_id":null,"mean":{"$avg":"$v"},"min":{"$min":"$none"},"any":{"$push":"$none"}}}]`},
	{"groups by tenant", "orders", false, `[{"$group":{"_id":"$tenantId","first":{"$min":"$_id"},"n":{"$sum":"$n"}}},{"$match":{"n":{"$gt":60}}}]`},
	{"groups by tenant and state", "orders", true, `[{"$sort":{"_id":1}},{"$group":{"_id":{"t":"$tenantId","s":"$state"},"last":{"$last":"$_id"}}},{"$sort":{"last":1}}]`},
	{"groups by what tenants share", "orders", false, `[{"$group":{"_id":{"$type":"$tenantId"},"n":{"$sum":1},"any":{"$addToSet":"$tenantId"}}}]`},
	{"the latest of each", "orders", false, `[{"$sort":{"_id":1}},{"$group":{"_id":"$user","last":{"$last":"$$ROOT"}}}]`},
	{"order told by $push", "orders", false, `[{"$sort":{"n":1,"_id":1}},{"$group":{"_id":"$user","list":{"$push":"$_id"}}}]`},
	{"sorted and summed", "orders", true, `[{"$sort":{"n":1}},{"$group":{"_id":"$user","n":{"$sum":"$n"}}},{"$sort":{"_id":1}},{"$limit":3}]`},
	{"by case-blind state", "orders", false, `[{"$group":{"_id":{"$toUpper":"$state"},"n":{"$sum":1}}}]`},
	{"$facet", "orders", true, `[{"$match":{"n":{"$gt":3}}},{"$facet":{"page":[{"$sort":{"_id":1}},{"$limit":4}],"total":[{"$count":"n"}]}}]`},
	{"$facet in parts", "orders", true, `[{"$facet":{"page":[{"$sort":{"n":-1,"_id":1}},{"$skip":3},{"$limit":9},{"$project":{"n":1}}],"total":[{"$count":"n"}],"states":[{"$group":{"_id":"$state","mean":{"$avg":"$n"}}},{"$sort":{"_id":1}}],"tenants":[{"$group":{"_id":"$tenantId","n":{"$sum":1}}},{"$sort":{"n":1,"_id":1}},{"$skip":1}],"none":[{"$match":{"state":"none"}},{"$count":"n"}],"anyTags":[{"$unwind":"$tags"},{"$match":{"n":{"$lt":2}}},{"$project":{"tags":1}}]}},{"$set":{"pages":{"$size":"$page"}}}]`},
	{"$facet in parts of nothing", "orders", true, `[{"$match":{"state":"none"}},{"$facet":{"page":[{"$sort":{"_id":1}},{"$limit":4}],"total":[{"$count":"n"}]}}]`},
	{"$setWindowFields", "orders", true, `[{"$setWindowFields":{"sortBy":{"_id":1},"output":{"run":{"$sum":"$n","window":{"documents":["unbounded","current"]}}}}},{"$sort":{"_id":1}}]`},
	{"$geoNear", "orders", true, `[{"$geoNear":{"near":[0,0],"key":"place","distanceField":"far.off"}}]`},
	{"$geoNear, some of it", "orders", true, `[{"$geoNear":{"near":[0,0],"key":"place","distanceField":"far.off","query":{"n":{"$gt":3}}}},{"$match":{"state":"open"}},{"$skip":2},{"$limit":4}]`},
	{"$geoNear without its distance", "orders", true, `[{"$geoNear":{"near":[0,0],"key":"place","distanceField":"far.off"}},{"$limit":9},{"$project":{"n":1}},{"$limit":7}]`},
	{"$geoNear, grouped", "orders", false, `[{"$geoNear":{"near":[0,0],"key":"place","distanceField":"far.off","maxDistance":30}},{"$group":{"_id":"$state","n":{"$sum":1},"nearest":{"$min":"$far.off"}}}]`},
	{"$geoNear, the nearest of each", "orders", false, `[{"$geoNear":{"near":[0,0],"key":"place","distanceField":"far.off"}},{"$group":{"_id":"$user","nearest":{"$first":"$_id"}}}]`},
	{"$setWindowFields of each tenant", "orders", false, `[{"$setWindowFields":{"partitionBy":"$tenantId","sortBy":{"_id":-1},"output":{"run":{"$sum":"$n","window":{"documents":[-2,"current"]}},"at":{"$documentNumber":{}}}}}]`},
	{"the best of each tenant", "orders", true, `[{"$setWindowFields":{"partitionBy":{"t":"$tenantId","s":"$state"},"sortBy":{"n":-1,"_id":1},"output":{"at":{"$rank":{}}}}},{"$match":{"at":{"$lte":2}}},{"$sort":{"n":1,"_id":1}},{"$limit":11}]`},
	{"$densify of each tenant", "orders", false, `[{"$match":{"n":{"$gt":2}}},{"$densify":{"field":"n","partitionByFields":["tenantId"],"range":{"step":2,"bounds":"partition"}}}]`},
	{"$densify of all", "orders", false, `[{"$match":{"n":{"$gt":2}}},{"$densify":{"field":"n","partitionByFields":["tenantId"],"range":{"step":2,"bounds":"full"}}}]`},
	{"$fill of each tenant", "orders", false, `[{"$fill":{"partitionByFields":["tenantId"],"sortBy":{"_id":1},"output":{"v":{"method":"locf"}}}}]`},
	{"the first and last of each", "orders", false, `[{"$sort":{"n":-1,"_id":1}},{"$group":{"_id":"$user","first":{"$first":"$v.a"},"last":{"$last":"$state"},"some":{"$firstN":{"n":3,"input":"$tags"}},"merged":{"$mergeObjects":{"$cond":[{"$eq":[{"$type":"$v"},"object"]},"$v",{"s":"$state"}]}}}}]`},
	{"the first of a page", "orders", false, `[{"$sort":{"n":-1,"_id":1}},{"$skip":4},{"$limit":20},{"$group":{"_id":"$state","first":{"$first":"$_id"},"list":{"$push":{"t":"$tenantId","v":"$v"}}}}]`},
	{"the best of each user", "orders", false, `[{"$group":{"_id":"$user","best":{"$top":{"sortBy":{"n":-1,"_id":1},"output":["$_id","$v","$none"]}},"few":{"$bottomN":{"n":2,"sortBy":{"place":1},"output":"$tags"}},"least":{"$minN":{"n":2,"input":"$n"}}}}]`},
	{"deviations", "orders", false, `[{"$group":{"_id":null,"d":{"$stdDevPop":{"$literal":2}}}}]`},
	{"$bucketAuto with output", "orders", true, `[{"$bucketAuto":{"groupBy":"$_id","buckets":3,"output":{"first":{"$first":"$state"},"n":{"$sum":"$n"}}}}]`},
	{"$unwind and group", "orders", false, `[{"$unwind":"$tags"},{"$group":{"_id":"$tags","n":{"$sum":1},"any":{"$addToSet":"$tenantId"}}}]`},
	{"strings that look like paths", "orders", false, `[{"$sort":{"_id":1}},{"$limit":40},{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"u"}},{"$group":{"_id":"$state","n":{"$sum":1}}}]`},
}

func TestPipelines(t *testing.T) {
	g := newPipelineGround(t)
	for _, p := range pipelines {
		t.Run(p.name, func(t *testing.T) {
			var pipeline bson.A
			if err := bson.UnmarshalExtJSON([]byte(p.text), false, &pipeline); err != nil {
				t.Fatal(err)
			}
			if err := g.same(t.Context(), p.coll, pipeline, p.ordered); err != nil {
				t.Error(err)
			}
			if err := g.same(t.Context(), p.coll, pipeline, p.ordered, options.Aggregate().SetBatchSize(2)); err != nil {
				t.Error("in small batches:", err)
			}
		})
	}
	t.Run("drivers' counts", func(t *testing.T) {
		for _, filter := range []bson.D{{}, {{Key: "tenantId", Value: bson.D{{Key: "$in", Value: bson.A{"acme", "big"}}}}}, {{Key: "state", Value: "paid"}}, {{Key: "state", Value: "no"}}} {
			want, err := g.direct.Collection("orders").CountDocuments(t.Context(), filter)
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.proxied.Collection("orders").CountDocuments(t.Context(), filter)
			if err != nil || got != want {
				t.Errorf("%v: %d %v, want %d", filter, got, err, want)
			}
		}
	})
	t.Run("explain", func(t *testing.T) { g.explained(t) })
	t.Run("$sample", func(t *testing.T) { g.samples(t) })
	t.Run("transactions", func(t *testing.T) { g.inTransaction(t) })
	t.Run("merged", func(t *testing.T) { g.merged(t) })
	t.Run("generated", func(t *testing.T) { g.generated(t) })
}

// explained: plans of a pipeline in parts are told in both ways, and no database of a tenant's is named.
func (g *pipelineGround) explained(t *testing.T) {
	aggregate := bson.D{{Key: "aggregate", Value: "orders"}, {Key: "pipeline", Value: bson.A{
		bson.D{{Key: "$match", Value: bson.D{{Key: "n", Value: bson.D{{Key: "$gt", Value: 3}}}}}}, bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$user"}}}},
	}}, {Key: "cursor", Value: bson.D{}}}
	for _, cmd := range []bson.D{
		append(slices.Clone(aggregate), bson.E{Key: "explain", Value: true}),
		{{Key: "explain", Value: aggregate}, {Key: "verbosity", Value: "executionStats"}},
	} {
		var reply bson.D
		if err := g.proxied.RunCommand(t.Context(), cmd).Decode(&reply); err != nil {
			t.Errorf("%v: %v", cmd, err)
			continue
		}
		shards, _ := lookup(reply, "shards").(bson.D)
		if len(shards) != 5 || lookup(shards, "tenant:big") == nil || lookup(reply, "splitPipeline") == nil || strings.Contains(extended(reply), "_tenant_") {
			t.Errorf("%v: %s", cmd, extended(reply))
		}
	}
}

// TestPipelinesEmbedded: servers that can not be given documents answer what needs none, and the rest
// is refused in words.
func TestPipelinesEmbedded(t *testing.T) {
	skipShort(t)
	front := proxy.Start(t, config("mixed", startFerret(t)))
	orders := open(t, front.URI).Database(shared).Collection("orders")
	if _, err := orders.InsertMany(t.Context(), []any{
		bson.D{{Key: "_id", Value: 1}, {Key: "tenantId", Value: "acme"}, {Key: "n", Value: 1}},
		bson.D{{Key: "_id", Value: 2}, {Key: "tenantId", Value: "globex"}, {Key: "n", Value: 2}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		text string
		code int32
	}{
		{`[{"$match":{"n":{"$gt":0}}},{"$set":{"m":1}}]`, 0},
		{`[{"$limit":2}]`, 0},
		{`[{"$match":{"tenantId":"acme"}},{"$sort":{"n":1}}]`, 0},
		{`[{"$sort":{"n":1}}]`, 115},
		{`[{"$match":{}},{"$group":{"_id":1,"n":{"$sum":1}}}]`, 0},
		{`[{"$group":{"_id":"$n","n":{"$sum":1}}}]`, 115},
	} {
		var pipeline bson.A
		if err := bson.UnmarshalExtJSON([]byte(tt.text), false, &pipeline); err != nil {
			t.Fatal(err)
		}
		_, err := orders.Aggregate(t.Context(), pipeline)
		var failed mongo.CommandError
		if errors.As(err, &failed); failed.Code != tt.code || (err != nil) != (tt.code != 0) {
			t.Errorf("%s: %v, want code %d", tt.text, err, tt.code)
		}
	}
}

// samples: as many as were asked for, each once, and of every home in the long run.
func (g *pipelineGround) samples(t *testing.T) {
	seen := map[any]bool{}
	for range 40 {
		cursor, err := g.proxied.Collection("orders").Aggregate(t.Context(), bson.A{bson.D{{Key: "$sample", Value: bson.D{{Key: "size", Value: 10}}}}})
		if err != nil {
			t.Fatal(err)
		}
		var docs []bson.M
		if err := cursor.All(t.Context(), &docs); err != nil {
			t.Fatal(err)
		}
		once := map[any]bool{}
		for _, d := range docs {
			once[d["_id"]], seen[d["tenantId"]] = true, true
			if len(d) > 8 || d["n"] == int32(1000) {
				t.Fatalf("a document with something added: %v", d)
			}
		}
		if len(once) != 10 {
			t.Fatalf("%d documents, want 10: %v", len(once), docs)
		}
	}
	if len(seen) != len(pipelineTenants) {
		t.Errorf("40 samples of 10 are of the tenants %v only", seen)
	}
}

// merged: what is made of one tenant's documents, and is the tenant's, is put where the tenant's are.
func (g *pipelineGround) merged(t *testing.T) {
	for _, tenant := range []any{"acme", "beta", "globex", "big", int32(42)} {
		of := bson.D{{Key: "$match", Value: bson.D{{Key: "tenantId", Value: tenant}}}}
		sum := bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: fmt.Sprint("sum-", tenant)}, {Key: "n", Value: bson.D{{Key: "$sum", Value: "$n"}}}}}}
		named := bson.D{{Key: "$set", Value: bson.D{{Key: "tenantId", Value: tenant}}}}
		more := bson.A{bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: bson.D{{Key: "$add", Value: bson.A{"$n", "$$new.n"}}}}}}}}
		for _, pipeline := range []bson.A{
			{of, sum, named, bson.D{{Key: "$merge", Value: "order_items"}}},
			{of, sum, named, bson.D{{Key: "$merge", Value: bson.D{{Key: "into", Value: "order_items"}, {Key: "whenMatched", Value: more}}}}},
			{
				of,
				bson.D{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
				bson.D{{Key: "$limit", Value: 3}},
				bson.D{{Key: "$set", Value: bson.D{{Key: "_id", Value: bson.D{{Key: "$concat", Value: bson.A{"copy-", bson.D{{Key: "$toString", Value: "$_id"}}}}}}}}},
				bson.D{{Key: "$merge", Value: "orders"}},
			},
		} {
			if err := g.same(t.Context(), "orders", pipeline, true); err != nil {
				t.Errorf("%v: %v", pipeline, err)
			}
		}
	}
	made := bson.D{{Key: "_id", Value: bson.D{{Key: "$regex", Value: "^(sum|copy)-"}}}}
	left := open(t, g.home).Database(shared)
	for _, coll := range []string{"orders", "order_items"} {
		if err := g.same(t.Context(), coll, bson.A{bson.D{{Key: "$match", Value: made}}, bson.D{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}}}, true); err != nil {
			t.Errorf("%s: %v", coll, err)
		}
		n, err := left.Collection(coll).CountDocuments(t.Context(), made)
		if want := map[string]int64{"orders": 3, "order_items": 1}[coll]; err != nil || n != want { // globex's
			t.Errorf("shared has %d of %s, want %d (%v)", n, coll, want, err)
		}
		for _, db := range []*mongo.Database{g.direct, g.proxied} { // other tests count what is there
			if _, err := db.Collection(coll).DeleteMany(t.Context(), made); err != nil {
				t.Error(err)
			}
		}
	}
}

// inTransaction: what one cluster holds can be put together in a transaction, the rest is refused.
func (g *pipelineGround) inTransaction(t *testing.T) {
	ctx := t.Context()
	session, err := g.proxied.Client().StartSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.EndSession(context.WithoutCancel(ctx))
	of := func(tenants ...any) bson.D {
		return bson.D{{Key: "$match", Value: bson.D{{Key: "tenantId", Value: bson.D{{Key: "$in", Value: bson.A(tenants)}}}}}}
	}
	users := bson.D{{Key: "$lookup", Value: bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "u"}}}}
	group := bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$state"}, {Key: "n", Value: bson.D{{Key: "$sum", Value: 1}}}}}}
	for _, tt := range []struct {
		name     string
		pipeline bson.A
		code     int32
	}{
		{"groups of one cluster", bson.A{of("acme", "beta", "globex"), group}, 0},
		{"a join within one cluster", bson.A{of("acme"), users}, 0},
		{"groups of two clusters", bson.A{of("acme", "big"), group}, 263},
		{"a join over two clusters", bson.A{of("big"), users}, 263},
	} {
		want, err := outcome(ctx, g.direct, "orders", tt.pipeline, false)
		if err != nil {
			t.Fatal(err)
		}
		_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
			got, err := outcome(ctx, g.proxied, "orders", tt.pipeline, false, options.Aggregate().SetBatchSize(1))
			if err == nil && got != want {
				t.Errorf("%s: in a transaction\n%s\nwant\n%s", tt.name, got, want)
			}
			return nil, err
		})
		var failed mongo.CommandError
		if errors.As(err, &failed); failed.Code != tt.code || (err != nil) != (tt.code != 0) {
			t.Errorf("%s: %v, want code %d", tt.name, err, tt.code)
		}
	}
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		own := bson.D{{Key: "_id", Value: 900}, {Key: "tenantId", Value: "acme"}, {Key: "state", Value: "own"}}
		if _, err := g.proxied.Collection("orders").InsertOne(ctx, own); err != nil {
			return nil, err
		}
		got, err := outcome(ctx, g.proxied, "orders", bson.A{of("acme", "globex"), group, bson.D{{Key: "$match", Value: bson.D{{Key: "_id", Value: "own"}}}}}, false)
		if err == nil && !strings.Contains(got, `"own"`) {
			t.Errorf("the transaction does not see its own write: %q", got)
		}
		return nil, cmp.Or(err, errAbort)
	})
	if !errors.Is(err, errAbort) {
		t.Error(err)
	}
}

var errAbort = errors.New("no more of this")

// draft is a pipeline that is being drawn, with what is known of its documents.
type draft struct {
	r      *rapid.T
	stages bson.A
	key    bson.D // sorts the documents totally; nil where nothing is known to
	groups bool   // they are groups, with the fields _id, c and s
	joined bool   // they may hold arrays whose order nothing tells
}

func (d *draft) add(text string) {
	var stage bson.D
	if err := bson.UnmarshalExtJSON([]byte(text), false, &stage); err != nil {
		d.r.Fatalf("%s: %v", text, err)
	}
	d.stages = append(d.stages, stage)
}

func pick[T any](d *draft, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(d.r, label)
}

// row draws a stage that works on one document after the other.
func (d *draft) row() {
	if d.groups {
		d.add(pick(d, "row of groups", `{"$match":{"c":{"$gt":1}}}`, `{"$addFields":{"d":{"$add":["$c",1]}}}`, `{"$project":{"c":1,"s":1}}`))
		return
	}
	switch pick(d, "row", "match", "tenants", "fields", "fields", "unwind", "lookup", "lookup") {
	case "match":
		d.add(fmt.Sprintf(`{"$match":{"$expr":{%q:["$n",%d]}}}`, pick(d, "match", "$gte", "$ne", "$lt"), rapid.IntRange(0, 9).Draw(d.r, "n")))
	case "tenants":
		d.add(pick(d, "tenants", `{"$match":{"tenantId":"acme"}}`, `{"$match":{"tenantId":"globex"}}`, `{"$match":{"tenantId":42}}`,
			`{"$match":{"tenantId":null}}`, `{"$match":{"tenantId":{"$in":["acme","globex","nobody"]}}}`, `{"$match":{"tenantId":{"$in":["beta","big",null]}}}`,
			`{"$match":{"tenantId":{"$in":["globex","initech"]}}}`, `{"$match":{"tenantId":{"$ne":"acme"}}}`))
	case "fields":
		d.add(pick(d, "fields", `{"$addFields":{"n2":{"$multiply":["$n",2]}}}`, `{"$unset":"v"}`, `{"$set":{"who":{"$concat":["$state","-",{"$toString":"$user"}]}}}`,
			`{"$project":{"v":0}}`, `{"$addFields":{"tenantId":"$state"}}`))
	case "unwind":
		d.add(`{"$unwind":{"path":"$tags","includeArrayIndex":"at"}}`)
		d.key = nil
	case "lookup":
		d.add(pick(d, "lookup", `{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"anyUser"}}`,
			`{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}}`,
			`{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any","pipeline":[{"$match":{"qty":{"$gt":2}}}]}}`))
		d.joined = true
	}
}

// whole draws a stage that needs all documents, or stages of which the last one does.
func (d *draft) whole() {
	if d.groups {
		switch pick(d, "whole of groups", "page", "total", "count") {
		case "page":
			d.page()
		case "total":
			d.add(`{"$group":{"_id":null,"c":{"$sum":"$c"},"s":{"$max":"$s"},"anyIds":{"$push":"$_id"}}}`)
		case "count":
			d.add(`{"$group":{"_id":"$c","c":{"$sum":1},"s":{"$min":"$s"}}}`)
		}
		return
	}
	switch pick(d, "whole", "page", "page", "group", "group", "group", "union", "facet", "window") {
	case "page":
		d.page()
	case "group":
		d.group()
	case "union":
		d.add(pick(d, "union", `{"$unionWith":{"coll":"orders","pipeline":[{"$match":{"tenantId":"beta"}},{"$addFields":{"_id":{"$add":["$_id",5000]}}}]}}`,
			`{"$unionWith":{"coll":"orders","pipeline":[{"$sort":{"_id":1}},{"$limit":7},{"$addFields":{"_id":{"$add":["$_id",6000]}}}]}}`,
			`{"$unionWith":"users"}`))
		d.key = nil
	case "facet":
		d.add(`{"$facet":{"c":[{"$count":"c"}],"anyStates":[{"$group":{"_id":"$state","n":{"$sum":"$n"}}}]}}`)
		d.add(`{"$project":{"c":{"$ifNull":[{"$first":"$c.c"},0]},"anyStates":1,"_id":{"$literal":1},"s":{"$literal":0}}}`)
		d.key, d.groups = bson.D{{Key: "_id", Value: 1}}, true
	case "window":
		if d.key == nil {
			d.page()
			return
		}
		d.add(`{"$setWindowFields":{"partitionBy":"$user","sortBy":{"_id":1},"output":{"rank":{"$sum":1,"window":{"documents":["unbounded","current"]}}}}}`)
	}
}

// page draws a part of the documents in an order; all of them where no order is known to be total.
func (d *draft) page() {
	if d.key == nil {
		d.add(`{"$sort":{"n":1}}`)
		return
	}
	by := d.key
	if first := pick(d, "first by", "", "n", "state", "c"); first != "" {
		by = append(bson.D{{Key: first, Value: pick(d, "direction", 1, -1)}}, by...)
	}
	d.stages = append(d.stages, bson.D{{Key: "$sort", Value: by}})
	if rapid.Bool().Draw(d.r, "skips") {
		d.add(fmt.Sprintf(`{"$skip":%d}`, rapid.IntRange(0, 12).Draw(d.r, "skip")))
	}
	if rapid.Bool().Draw(d.r, "limits") {
		d.add(fmt.Sprintf(`{"$limit":%d}`, rapid.IntRange(1, 20).Draw(d.r, "limit")))
	}
}

func (d *draft) group() {
	id := pick(d, "by", `null`, `"$state"`, `"$user"`, `"$tenantId"`, `{"t":"$tenantId","u":"$user"}`, `{"s":"$state","u":"$user"}`, `{"$mod":["$n",3]}`)
	more := ""
	for i := range rapid.IntRange(0, 3).Draw(d.r, "outputs") {
		arg := pick(d, "of", `"$n"`, `"$v"`, `{"$multiply":["$n",0.5]}`, `{"$add":["$n",1]}`)
		op := pick(d, "op", "$sum", "$avg", "$min", "$max", "$push", "$addToSet")
		more += fmt.Sprintf(`,"any%d":{%q:%s}`, i, op, arg)
	}
	s := pick(d, "s", `{"$max":"$n"}`, `{"$min":"$n"}`, `{"$avg":"$n"}`)
	if d.key != nil && rapid.Bool().Draw(d.r, "first") {
		d.stages = append(d.stages, bson.D{{Key: "$sort", Value: d.key}})
		s = pick(d, "firsts", `{"$first":"$n"}`, `{"$last":"$n"}`)
	}
	d.add(fmt.Sprintf(`{"$group":{"_id":%s,"c":{"$sum":1},"s":%s%s}}`, id, s, more))
	d.key, d.groups = bson.D{{Key: "_id", Value: 1}}, true
}

// generated compares what drawn pipelines come to.
func (g *pipelineGround) generated(t *testing.T) {
	checks := "300"
	if long() {
		checks = "3000"
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true", "rapid.shrinktime": "20s"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		d := &draft{r: r, key: bson.D{{Key: "_id", Value: 1}}}
		for range rapid.IntRange(0, 2).Draw(r, "rows") {
			d.row()
		}
		for range rapid.IntRange(0, 3).Draw(r, "parts") {
			d.whole()
			for range rapid.IntRange(0, 2).Draw(r, "more rows") {
				d.row()
			}
		}
		if d.key != nil {
			d.stages = append(d.stages, bson.D{{Key: "$sort", Value: d.key}})
		}
		var size options.Lister[options.AggregateOptions] = options.Aggregate().SetBatchSize(int32(pick(d, "batch", 3, 100)))
		if err := g.same(t.Context(), "orders", d.stages, d.key != nil, size); err != nil {
			r.Fatalf("%s\n%v", extended(d.stages), err)
		}
	})
}
