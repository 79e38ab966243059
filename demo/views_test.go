package demo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// views of the ground: what each reads, and by what.
var views = []struct{ name, on, pipeline string }{
	{"bare", "orders", `[]`},
	{"open", "orders", `[{"$match":{"state":"open"}},{"$project":{"tenantId":1,"n":1,"user":1,"tags":1}}]`},
	{"open_few", "open", `[{"$match":{"n":{"$lt":9}}}]`},
	{"by_tenant", "orders", `[{"$group":{"_id":"$tenantId","n":{"$sum":"$n"}}}]`},
	{"by_user", "orders", `[{"$group":{"_id":"$user","n":{"$sum":1},"mean":{"$avg":"$n"}}}]`},
	{"with_users", "orders", `[{"$lookup":{"from":"users","localField":"user","foreignField":"_id","as":"who"}},{"$unwind":"$who"},{"$set":{"name":"$who.name"}},{"$unset":"who"}]`},
	{"with_items", "orders", `[{"$lookup":{"from":"order_items","localField":"_id","foreignField":"order","as":"any"}}]`},
	{"few", "orders", `[{"$sort":{"_id":1}},{"$limit":20}]`},
	{"unwound", "orders", `[{"$unwind":"$tags"},{"$project":{"_id":0,"order":"$_id","tag":"$tags","tenantId":1}}]`},
	{"named", "users", `[{"$match":{"name":{"$ne":"user3"}}}]`},
	{"named_orders", "named", `[{"$lookup":{"from":"open","localField":"_id","foreignField":"user","as":"any"}},{"$project":{"name":1,"orders":{"$size":"$any"}}}]`},
}

func stagesOf(t *testing.T, text string) (stages bson.A) {
	t.Helper()
	if err := bson.UnmarshalExtJSON([]byte(text), false, &stages); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return stages
}

func docOf(t *testing.T, text string) (d bson.D) {
	t.Helper()
	if err := bson.UnmarshalExtJSON([]byte(text), false, &d); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

// expandedOn is what the view is of, for the test server, which does not resolve a view of a view in
// every command, nor one that is joined.
func expandedOn(t *testing.T, name string) (on string, stages bson.A) {
	t.Helper()
	on = name
	for i := 0; i < len(views); i++ {
		if views[i].name == on {
			stages = append(stagesOf(t, views[i].pipeline), stages...)
			on, i = views[i].on, -1
		}
	}
	for i, s := range stages {
		if join, ok := lookup(s.(bson.D), "$lookup").(bson.D); ok && lookup(join, "from") == "open" {
			from, inner := expandedOn(t, "open")
			join = append(slices.DeleteFunc(slices.Clone(join), func(e bson.E) bool { return e.Key == "from" }),
				bson.E{Key: "from", Value: from}, bson.E{Key: "pipeline", Value: inner})
			stages[i] = bson.D{{Key: "$lookup", Value: join}}
		}
	}
	return on, stages
}

// rows are the documents of a cursor as text.
func rows(t *testing.T, ordered bool, cursor *mongo.Cursor, err error) string {
	t.Helper()
	if err != nil {
		t.Error(err)
		return ""
	}
	var docs []bson.D
	if err := cursor.All(t.Context(), &docs); err != nil {
		t.Error(err)
	}
	lines := make([]string, len(docs))
	for i, d := range docs {
		lines[i] = lineOf(d)
	}
	if !ordered {
		slices.Sort(lines)
	}
	return strings.Join(lines, "\n")
}

// TestViews: views that were there before, and those that are made through the proxy, show what they
// would show of one database.
func TestViews(t *testing.T) {
	g := newPipelineGround(t)
	for i, v := range views {
		made := g.proxied
		if i%3 == 0 {
			made = open(t, g.home).Database(shared) // behind the proxy's back
		}
		for _, db := range []*mongo.Database{g.direct, made} {
			if err := db.CreateView(t.Context(), v.name, v.on, stagesOf(t, v.pipeline)); err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
		}
	}
	filters := []string{`{}`, `{"tenantId":"acme"}`, `{"tenantId":42,"n":{"$gt":3}}`, `{"tenantId":{"$in":["beta","globex"]}}`, `{"_id":{"$in":[3,4,"acme"]}}`, `{"n":{"$lt":6}}`}
	for _, v := range views {
		t.Run(v.name, func(t *testing.T) {
			on, stages := expandedOn(t, v.name)
			for _, text := range filters {
				filter := docOf(t, text)
				g.sameFind(t, v.name, on, stages, filter)
				g.sameNumbers(t, v.name, on, append(slices.Clone(stages), bson.D{{Key: "$match", Value: filter}}), filter)
			}
			if err := g.same(t.Context(), v.name, bson.A{bson.D{{Key: "$count", Value: "n"}}}, true); err != nil {
				t.Error(err)
			}
			if err := g.same(t.Context(), v.name, stagesOf(t, `[{"$match":{"tenantId":"big"}},{"$sort":{"_id":-1}}]`), true, options.Aggregate().SetBatchSize(1)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("joined", func(t *testing.T) { g.joinedViews(t) })
	t.Run("definitions", func(t *testing.T) { g.viewDefinitions(t) })
}

// sameFind compares finds on the view with the pipelines that they are.
func (g *pipelineGround) sameFind(t *testing.T, view, on string, stages bson.A, filter bson.D) {
	t.Helper()
	match := bson.D{{Key: "$match", Value: filter}}
	by := bson.D{{Key: "_id", Value: 1}, {Key: "order", Value: 1}, {Key: "tag", Value: 1}}
	for _, x := range []struct {
		ordered bool
		more    bson.A
		o       *options.FindOptionsBuilder
	}{
		{false, nil, options.Find()},
		{false, nil, options.Find().SetBatchSize(2)},
		{
			true,
			bson.A{bson.D{{Key: "$sort", Value: by}}, bson.D{{Key: "$skip", Value: 2}}, bson.D{{Key: "$limit", Value: 7}}, bson.D{{Key: "$project", Value: bson.D{{Key: "n", Value: 1}}}}},
			options.Find().SetSort(by).SetSkip(2).SetLimit(7).SetBatchSize(3).SetProjection(bson.D{{Key: "n", Value: 1}}),
		},
		{true, bson.A{bson.D{{Key: "$sort", Value: by}}, bson.D{{Key: "$limit", Value: 1}}}, options.Find().SetSort(by).SetLimit(-1)},
	} {
		cursor, err := g.direct.Collection(on).Aggregate(t.Context(), append(append(slices.Clone(stages), match), x.more...))
		want := rows(t, x.ordered, cursor, err)
		cursor, err = g.proxied.Collection(view).Find(t.Context(), filter, x.o)
		if got := rows(t, x.ordered, cursor, err); got != want {
			t.Errorf("find %v:\n%s\nthrough the proxy:\n%s", filter, want, got)
		}
	}
}

// sameNumbers compares counts and values with what the pipeline's documents have.
func (g *pipelineGround) sameNumbers(t *testing.T, view, on string, stages bson.A, filter bson.D) {
	t.Helper()
	cursor, err := g.direct.Collection(on).Aggregate(t.Context(), stages)
	if err != nil {
		t.Fatal(err)
	}
	var docs []bson.D
	if err := cursor.All(t.Context(), &docs); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ skip, limit int }{{0, 0}, {3, 0}, {2, 4}} {
		cmd := bson.D{{Key: "count", Value: view}, {Key: "query", Value: filter}}
		want := max(len(docs)-x.skip, 0)
		if x.skip > 0 {
			cmd = append(cmd, bson.E{Key: "skip", Value: x.skip})
		}
		if x.limit > 0 {
			cmd, want = append(cmd, bson.E{Key: "limit", Value: x.limit}), min(want, x.limit)
		}
		var reply bson.D
		if err := g.proxied.RunCommand(t.Context(), cmd).Decode(&reply); err != nil || lookup(reply, "n") != int32(want) {
			t.Errorf("%v: %v %v, want %d", cmd, reply, err, want)
		}
	}
	if view == "named" {
		return // shared answers, and the test server knows no distinct of a view
	}
	for _, key := range []string{"user", "tags", "name", "v", "any.qty"} {
		want := map[string]bool{}
		for _, d := range docs {
			for _, v := range valuesAt(d, strings.Split(key, ".")) {
				want[number(v)] = true
			}
		}
		var values []any
		if err := g.proxied.Collection(view).Distinct(t.Context(), key, filter).Decode(&values); err != nil {
			t.Errorf("distinct %s %v: %v", key, filter, err)
			continue
		}
		got := map[string]bool{}
		for _, v := range values {
			got[number(v)] = true
		}
		if len(got) != len(values) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("distinct %s %v: %v, want %v", key, filter, got, want)
		}
	}
}

// valuesAt are the values that a distinct finds at a path.
func valuesAt(d bson.D, path []string) (all []any) {
	for _, e := range d {
		if e.Key != path[0] {
			continue
		}
		values := []any{e.Value}
		if a, ok := e.Value.(bson.A); ok {
			values = a
		}
		for _, v := range values {
			if sub, ok := v.(bson.D); len(path) > 1 && ok {
				all = append(all, valuesAt(sub, path[1:])...)
			} else if len(path) == 1 {
				all = append(all, v)
			}
		}
	}
	return all
}

// number is a value as text, numbers by their value.
func number(v any) string {
	switch n := v.(type) {
	case int32:
		return fmt.Sprint(float64(n))
	case int64:
		return fmt.Sprint(float64(n))
	case float64:
		return fmt.Sprint(n)
	}
	return extended(v)
}

// joinedViews: a view is joined where its documents are.
func (g *pipelineGround) joinedViews(t *testing.T) {
	for _, x := range []struct{ coll, viewed, plain string }{
		{
			"users", `[{"$lookup":{"from":"bare","localField":"_id","foreignField":"user","as":"any"}}]`,
			`[{"$lookup":{"from":"orders","localField":"_id","foreignField":"user","as":"any"}}]`,
		},
		{
			"users", `[{"$lookup":{"from":"open","localField":"_id","foreignField":"user","as":"any"}}]`,
			`[{"$lookup":{"from":"orders","localField":"_id","foreignField":"user","as":"any","pipeline":[{"$match":{"state":"open"}},{"$project":{"tenantId":1,"n":1,"user":1,"tags":1}}]}}]`,
		},
		{
			"order_items", `[{"$match":{"tenantId":"big"}},{"$lookup":{"from":"open_few","localField":"order","foreignField":"_id","as":"any"}}]`,
			`[{"$match":{"tenantId":"big"}},{"$lookup":{"from":"orders","localField":"order","foreignField":"_id","as":"any","pipeline":[{"$match":{"state":"open"}},{"$project":{"tenantId":1,"n":1,"user":1,"tags":1}},{"$match":{"n":{"$lt":9}}}]}}]`,
		},
		{
			"users", `[{"$unionWith":"by_user"},{"$sort":{"_id":1,"n":1}}]`,
			`[{"$unionWith":{"coll":"orders","pipeline":[{"$group":{"_id":"$user","n":{"$sum":1},"mean":{"$avg":"$n"}}}]}},{"$sort":{"_id":1,"n":1}}]`,
		},
	} {
		want, err := outcome(t.Context(), g.direct, x.coll, stagesOf(t, x.plain), false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := outcome(t.Context(), g.proxied, x.coll, stagesOf(t, x.viewed), false)
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", x.viewed, err, got, want)
		}
	}
}

// viewDefinitions: a view is listed, made and dropped as on one database, and takes no write.
func (g *pipelineGround) viewDefinitions(t *testing.T) {
	db := g.proxied
	run := func(text string) error { return db.RunCommand(t.Context(), docOf(t, text)).Err() }
	code := func(err error) int32 {
		var failed mongo.CommandError
		var wrote mongo.WriteException
		if errors.As(err, &failed) {
			return failed.Code
		}
		if errors.As(err, &wrote) && len(wrote.WriteErrors) > 0 {
			return int32(wrote.WriteErrors[0].Code)
		}
		return 0
	}
	list := func(name string) string {
		cursor, err := db.ListCollections(t.Context(), bson.D{{Key: "name", Value: name}})
		text := rows(t, true, cursor, err)
		if strings.Contains(text, "_tenant_") {
			t.Errorf("it names a tenant's database: %s", text)
		}
		return text
	}
	if text := list("open"); !strings.Contains(text, `"viewOn":"orders"`) || !strings.Contains(text, `"type":"view"`) {
		t.Errorf("listCollections: %s", text)
	}
	_, err := db.Collection("open").InsertOne(t.Context(), bson.D{{Key: "tenantId", Value: "acme"}})
	if code(err) != 166 {
		t.Errorf("an insert into a view: %v", err)
	}
	if _, err := db.Collection("open").UpdateMany(t.Context(), bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "a", Value: 1}}}}); code(err) != 166 {
		t.Errorf("an update of a view: %v", err)
	}
	if err := run(`{"find":"open","showRecordId":true}`); code(err) != 168 {
		t.Errorf("showRecordId: %v", err)
	}
	if err := db.CreateView(t.Context(), "open", "orders", bson.A{}); code(err) != 48 {
		t.Errorf("made twice: %v", err)
	}
	if err := db.CreateView(t.Context(), "order_items", "orders", bson.A{}); code(err) != 48 {
		t.Errorf("made over a collection: %v", err)
	}
	count := func() int64 {
		n, err := db.Collection("open").CountDocuments(t.Context(), bson.D{})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if err := run(`{"drop":"open"}`); err != nil || count() != 0 || list("open") != "" {
		t.Errorf("dropped: %v, it shows %d documents, listed %q", err, count(), list("open"))
	}
	// Another proxy of the fleet knows nothing of it yet.
	other := open(t, proxy.Start(t, g.config).URI).Database(shared)
	if n, err := other.Collection("open").CountDocuments(t.Context(), bson.D{}); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	want, _ := g.direct.Collection("orders").CountDocuments(t.Context(), bson.D{{Key: "state", Value: "paid"}})
	time.Sleep(300 * time.Millisecond) // in which a name that is not there is not looked for again
	if err := db.CreateView(t.Context(), "open", "orders", stagesOf(t, `[{"$match":{"state":"paid"}}]`)); err != nil {
		t.Fatal(err)
	}
	if n, err := other.Collection("open").CountDocuments(t.Context(), bson.D{}); n != want || err != nil {
		t.Errorf("through another proxy: %d %v, want %d", n, err, want)
	}
}

// TestViewsStay: a view that was there before its tenants are moved goes on to show their documents.
func TestViewsStay(t *testing.T) {
	skipShort(t)
	proxy.Binary(t)
	home := secantus.Start(t, secantus.Options{})
	db := open(t, home).Database(shared)
	if err := db.CreateView(t.Context(), "open", "orders", stagesOf(t, `[{"$match":{"state":"open"}}]`)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Collection("orders").InsertOne(t.Context(), bson.D{{Key: "tenantId", Value: "globex"}, {Key: "state", Value: "open"}}); err != nil {
		t.Fatal(err)
	}
	front := proxy.Start(t, config("mixed", home))
	app := open(t, front.URI).Database(shared)
	for _, tenant := range []string{"acme", "globex"} {
		for _, state := range []string{"open", "paid"} {
			if _, err := app.Collection("orders").InsertOne(t.Context(), bson.D{{Key: "tenantId", Value: tenant}, {Key: "state", Value: state}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	shows := func(want int64, filter bson.D) {
		t.Helper()
		if n, err := app.Collection("open").CountDocuments(t.Context(), filter); err != nil || n != want {
			t.Errorf("%v: %d %v, want %d", filter, n, err, want)
		}
	}
	shows(3, bson.D{})
	shows(1, bson.D{{Key: "tenantId", Value: "acme"}})
	if n, _ := db.Collection("orders").CountDocuments(t.Context(), bson.D{{Key: "tenantId", Value: "acme"}}); n != 0 {
		t.Fatal("acme is not isolated")
	}
	names, err := open(t, home).ListDatabaseNames(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name == shared || !strings.HasPrefix(name, "smetasc_") {
			continue
		}
		own, err := open(t, home).Database(name).ListCollectionNames(t.Context(), bson.D{})
		if err != nil || slices.Contains(own, "open") {
			t.Errorf("%s has %v, %v", name, own, err)
		}
	}
}
