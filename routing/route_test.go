package routing

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/wire"
)

// world is a table with acme and the tenant 42 in databases of their own (42's on another cluster,
// orders only), globex in shared, and late not looked at yet.
func world(t testing.TB, change func(*Spec)) *Table {
	t.Helper()
	value := func(v any) wire.Value {
		typ, data, err := bson.MarshalValue(v)
		if err != nil {
			t.Fatal(err)
		}
		return wire.Value{Type: bsoncore.Type(typ), Data: data}
	}
	s := &Spec{
		Version: 1, Epoch: 1, Mode: Mixed, Home: "home", ControlDB: "tenantry", Field: "tenantId",
		Databases:   []DatabaseSpec{{Name: "app", Prefix: "app_t_"}},
		Collections: []string{"orders", "items", "tasks"}, Platform: []string{"users"},
		Tenants: []TenantSpec{
			{ID: value("acme"), Key: "acme", Num: 1, Route: &RouteSpec{Cluster: "home", Except: []string{"users"}}},
			{ID: value(int32(42)), Key: "n42", Num: 2, Route: &RouteSpec{Cluster: "big", Collections: []string{"orders"}}},
			{ID: value("globex"), Key: "globex", Num: 3},
			{ID: value("late"), Key: "late", Num: 4, Look: true},
		},
	}
	if change != nil {
		change(s)
	}
	table, err := NewTable(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// request parses a command written as extended JSON; $db is app where it is left out.
func request(t testing.TB, text string) (*Request, *wire.Error) {
	t.Helper()
	var d bson.D
	if err := bson.UnmarshalExtJSON([]byte(text), false, &d); err != nil {
		t.Fatal(err)
	}
	return requestOf(t, d)
}

func requestOf(t testing.TB, d bson.D) (*Request, *wire.Error) {
	t.Helper()
	named := false
	for _, e := range d {
		named = named || e.Key == "$db"
	}
	if !named {
		d = append(d, bson.E{Key: "$db", Value: "app"})
	}
	body, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	m := &wire.Message{}
	if err := m.Parse(wire.AppendMessage(nil, 1, 0, 0, body)); err != nil {
		t.Fatal(err)
	}
	r := &Request{}
	return r, r.Parse(m)
}

// told is a decision in one line.
func told(d Decision) string {
	switch d.Action {
	case Refuse:
		return strings.TrimSpace("refuse " + d.Err.Code.Name())
	case Forward:
		return "forward " + d.Target.Cluster + "/" + d.Target.DB
	case ByID, EachOf, FirstOf:
		var names []string
		for _, x := range d.Targets {
			names = append(names, x.Cluster+"/"+x.DB)
		}
		return d.Action.String() + " " + strings.Join(names, " ")
	}
	return d.Action.String()
}

func TestRoute(t *testing.T) {
	const all = " home/app home/app_t_acme big/app_t_n42"
	for _, c := range []struct{ command, want string }{
		{`{"find":"orders","filter":{"tenantId":"acme"}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"tenantId":{"$eq":"acme"},"x":1}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"tenantId":"globex"}}`, "forward home/app"},
		{`{"find":"orders","filter":{"tenantId":"nobody"}}`, "forward home/app"},
		{`{"find":"orders","filter":{"tenantId":42}}`, "forward big/app_t_n42"},
		{`{"find":"orders","filter":{"tenantId":{"$numberDouble":"42"}}}`, "forward big/app_t_n42"},
		{`{"find":"orders","filter":{"tenantId":{"$numberDecimal":"42.0"}}}`, "forward big/app_t_n42"},
		{`{"find":"items","filter":{"tenantId":42}}`, "forward home/app"},
		{`{"find":"orders","filter":{"tenantId":"late"}}`, "hold"},
		{`{"find":"orders","filter":{"tenantId":null}}`, "forward home/app"},
		{`{"find":"users","filter":{"tenantId":"acme"}}`, "forward home/app"},
		{`{"find":"orders","filter":{}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"tenantId":{"$ne":"acme"}}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"tenantId":{"$in":["acme","globex"]}}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"tenantId":{"$in":["globex","nobody"]}}}`, "forward home/app"},
		{`{"find":"orders","filter":{"$and":[{"tenantId":{"$in":["acme","globex"]}},{"tenantId":"acme"}]}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"$or":[{"tenantId":"acme"},{"x":1}]}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"$or":[{"tenantId":"acme"},{"tenantId":"acme","x":1}]}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"$expr":{"$eq":["$tenantId","acme"]}}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"$expr":{"$eq":["$tenantId","$$t"]}},"let":{"t":"acme"}}`, "forward home/app_t_acme"},
		{`{"find":"orders","filter":{"$expr":{"$eq":["$tenantId","$owner"]}}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"tenantId":"acme"},"collation":{"locale":"en","strength":2}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"_id":7}}`, "by-id" + all},
		{`{"find":"orders","filter":{"_id":{"$in":[7,8]}},"sort":{"x":1}}`, "by-id" + all},
		{`{"find":"tasks","filter":{"_id":7}}`, "by-id home/app home/app_t_acme"},
		{`{"find":"orders","filter":{"_id":{"$gt":7}}}`, "refuse IllegalOperation"},
		{`{"find":"orders","filter":{"tenantId":"acme"},"shiny":1}`, "refuse IDLUnknownField"},
		{`{"find":"orders","filter":{"tenantId":"acme"},"$audit":1}`, "refuse Unauthorized"},
		{`{"count":"orders","query":{"tenantId":"acme"}}`, "forward home/app_t_acme"},
		{`{"count":"orders"}`, "refuse IllegalOperation"},
		{`{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"acme"}},{"$group":{"_id":"$x"}}],"cursor":{}}`, "forward home/app_t_acme"},
		{`{"aggregate":"orders","pipeline":[{"$limit":1},{"$match":{"tenantId":"acme"}}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":"orders","pipeline":[{"$set":{"tenantId":"acme"}},{"$match":{"tenantId":"acme"}}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"acme"}},{"$lookup":{"from":"items","as":"i"}}],"cursor":{}}`, "forward home/app_t_acme"},
		{`{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"acme"}},{"$lookup":{"from":"users","as":"u"}}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"acme"}},{"$out":"report"}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":"users","pipeline":[{"$lookup":{"from":"orders","as":"o"}}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":"users","pipeline":[{"$out":{"db":"tenantry","coll":"routes"}}],"cursor":{}}`, "refuse InvalidNamespace"},
		{`{"aggregate":"users","pipeline":[{"$unionWith":"orders"}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"aggregate":1,"pipeline":[{"$changeStream":{}}],"cursor":{}}`, "refuse IllegalOperation"},
		{`{"insert":"orders","documents":[{"tenantId":"acme"},{"tenantId":"acme"}]}`, "forward home/app_t_acme"},
		{`{"insert":"orders","documents":[{"tenantId":"acme"},{"tenantId":"globex"}]}`, "refuse IllegalOperation"},
		{`{"insert":"orders","documents":[{"x":1}]}`, "forward home/app"},
		{`{"insert":"orders","documents":[{"tenantId":["acme"]}]}`, "refuse BadValue"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"$set":{"x":1}},"multi":true}]}`, "forward home/app_t_acme"},
		{`{"update":"orders","updates":[{"q":{"_id":7},"u":{"$set":{"x":1}}}]}`, "by-id" + all},
		{`{"update":"orders","updates":[{"q":{"_id":7},"u":{"$set":{"x":1}},"multi":true}]}`, "refuse IllegalOperation"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"$set":{"tenantId":"globex"}}}]}`, "refuse ImmutableField"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"$unset":{"tenantId":1}}}]}`, "refuse ImmutableField"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"$rename":{"x":"tenantId"}}}]}`, "refuse ImmutableField"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"x":1}}]}`, "refuse ImmutableField"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":{"x":1,"tenantId":"acme"}}]}`, "forward home/app_t_acme"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"globex"},"u":{"$set":{"tenantId":"late"}}}]}`, "hold"},
		{`{"update":"orders","updates":[{"q":{"tenantId":"acme"},"u":[{"$set":{"x":1}}]}]}`, "refuse IllegalOperation"},
		{`{"update":"orders","updates":[{"q":{"n":1},"u":{"$set":{"tenantId":"acme"}},"upsert":true}]}`, "forward home/app_t_acme"},
		{`{"delete":"orders","deletes":[{"q":{"_id":7},"limit":1}]}`, "by-id" + all},
		{`{"delete":"orders","deletes":[{"q":{"_id":7},"limit":0}]}`, "refuse IllegalOperation"},
		{`{"findAndModify":"orders","query":{"_id":7},"update":{"$set":{"x":1}}}`, "by-id" + all},
		{`{"createIndexes":"orders","indexes":[]}`, "each" + all},
		{`{"createIndexes":"users","indexes":[]}`, "forward home/app"},
		{`{"listIndexes":"orders"}`, "first" + all},
		{`{"drop":"orders"}`, "refuse IllegalOperation"},
		{`{"drop":"users"}`, "forward home/app"},
		{`{"dropDatabase":1}`, "refuse IllegalOperation"},
		{`{"explain":{"find":"orders","filter":{"tenantId":"acme"}}}`, "forward home/app_t_acme"},
		{`{"explain":{"find":"orders","filter":{}}}`, "refuse IllegalOperation"},
		{`{"shiny":"orders"}`, "refuse CommandNotFound"},
		{`{"_shardsvrMove":"orders"}`, "refuse CommandNotFound"},
		{`{"find":"orders","filter":{},"$db":"app_t_acme"}`, "empty"},
		{`{"find":"orders","filter":{},"$db":"APP_T_Acme"}`, "empty"},
		{`{"insert":"orders","documents":[{"x":1}],"$db":"app_t_acme"}`, "refuse InvalidNamespace"},
		{`{"find":"routes","$db":"tenantry"}`, "empty"},
		{`{"insert":"routes","documents":[{"x":1}],"$db":"Tenantry"}`, "refuse InvalidNamespace"},
		{`{"renameCollection":"other.a","to":"tenantry.b","$db":"admin"}`, "refuse InvalidNamespace"},
		{`{"find":"x","$db":"other"}`, "forward home/"},
		{`{"currentOp":1,"$db":"admin"}`, "refuse CommandNotSupported"},
		{`{"createUser":"x","$db":"app"}`, "refuse CommandNotSupported"},
		{`{"bulkWrite":1,"ops":[],"nsInfo":[{"ns":"app.orders"}],"$db":"admin"}`, "refuse IllegalOperation"},
		{`{"find":{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}}}`, "refuse InvalidNamespace"},
		{`{"hello":1,"$db":"admin"}`, "answer"},
	} {
		table := world(t, nil)
		r, err := request(t, c.command)
		if err != nil {
			t.Errorf("%s: %v", c.command, err)
			continue
		}
		if got := told(table.Route(r)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.command, got, c.want)
		}
	}
}

// TestPlain: without a tenant outside shared an open connection is served as by a plain proxy.
func TestPlain(t *testing.T) {
	table := world(t, func(s *Spec) { s.Tenants, s.Mode = nil, Disabled })
	for _, text := range []string{
		`{"find":"orders","filter":{},"shiny":1}`, `{"shiny":1}`, `{"drop":"orders"}`, `{"currentOp":1,"$db":"admin"}`,
		`{"aggregate":1,"pipeline":[{"$changeStream":{}}],"cursor":{}}`, `{"find":"x","$db":"app_t_acme"}`,
	} {
		r, err := request(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if d := table.Route(r); d.Action != Forward || d.Target.Cluster != "home" {
			t.Errorf("%s: %s", text, told(d))
		}
	}
	r, _ := request(t, `{"find":"routes","$db":"tenantry"}`)
	if d := table.Route(r); d.Action != Empty {
		t.Errorf("the control database: %s", told(d))
	}
}

func TestBound(t *testing.T) {
	table := world(t, nil)
	for _, c := range []struct {
		key, command, want string
		access             Access
	}{
		{"acme", `{"find":"orders","filter":{}}`, "forward home/app_t_acme", Read},
		{"acme", `{"find":"users","filter":{}}`, "forward home/app_t_acme", Read},
		{"acme", `{"insert":"orders","documents":[{"x":1}]}`, "refuse Unauthorized", Read},
		{"acme", `{"insert":"orders","documents":[{"x":1}]}`, "forward home/app_t_acme", Write},
		{"acme", `{"drop":"orders"}`, "refuse Unauthorized", Write},
		{"acme", `{"drop":"orders"}`, "forward home/app_t_acme", DDL},
		{"acme", `{"find":"orders","$db":"other"}`, "forward home/", 99},
		{"acme", `{"aggregate":"orders","pipeline":[{"$out":{"db":"other","coll":"x"}}],"cursor":{}}`, "refuse Unauthorized", DDL},
		{"acme", `{"aggregate":"orders","pipeline":[{"$out":"x"}],"cursor":{}}`, "refuse Unauthorized", Read},
		{"acme", `{"aggregate":1,"pipeline":[{"$currentOp":{}}],"cursor":{}}`, "refuse Unauthorized", DDL},
		{"acme", `{"find":"system.users","$db":"admin"}`, "refuse Unauthorized", DDL},
		{"acme", `{"shiny":1}`, "refuse CommandNotFound", DDL},
		{"n42", `{"find":"orders"}`, "refuse Unauthorized", DDL},
		{"globex", `{"find":"orders"}`, "refuse Unauthorized", DDL},
		{"late", `{"find":"orders"}`, "hold", DDL},
	} {
		if c.access == 99 {
			continue
		}
		r, err := request(t, c.command)
		if err != nil {
			t.Fatal(err)
		}
		r.Bound = &Binding{Key: c.key, Database: true, Access: c.access}
		if got := told(table.Route(r)); got != c.want {
			t.Errorf("%s as %s: got %s, want %s", c.command, c.key, got, c.want)
		}
		r.Bound = &Binding{Key: c.key, Access: c.access}
		if d := table.Route(r); d.Action != Refuse || d.Err.Code != wire.Unauthorized {
			t.Errorf("%s with row isolation: %s", c.command, told(d))
		}
	}
}

// TestRename: only the database's name changes.
func TestRename(t *testing.T) {
	table := world(t, nil)
	r, err := request(t, `{"find":"orders","filter":{"tenantId":"acme","note":"app"}}`)
	if err != nil {
		t.Fatal(err)
	}
	d := table.Route(r)
	var p wire.Patch
	if err := table.Rename(r, d.Target, &p); err != nil {
		t.Fatal(err)
	}
	b := wire.NewBuf(len(r.Msg.Frame))
	copy(b.B, r.Msg.Frame)
	var m wire.Message
	if err := m.Parse(p.Apply(b).B); err != nil {
		t.Fatal(err)
	}
	got := bson.Raw(m.Body).String()
	want := `{"find": "orders","filter": {"tenantId": "acme","note": "app"},"$db": "app_t_acme"}`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRows: no command can write without the table saying where its tenant is.
func TestRows(t *testing.T) {
	for c := range Commands {
		if c.Access == Write && c.Route == ByTenant && c.Tenant.Kind == NoTenant {
			t.Errorf("%s writes and says not where its tenant is", c.Name)
		}
		if c.Route == Refused && c.Refuse.Text == "" {
			t.Errorf("%s is refused without a text", c.Name)
		}
		if c.Bound == BoundAllow && c.Access == Server {
			t.Errorf("%s is the server's and allowed to bound connections", c.Name)
		}
	}
}

// filterOf draws a filter over the tenant field and one other.
func filterOf(r *rapid.T, depth int) bson.D {
	var d bson.D
	for range rapid.IntRange(0, 2).Draw(r, "clauses") {
		tenant := rapid.SampledFrom([]any{"acme", "globex", 42, "nobody", nil})
		switch kind := rapid.IntRange(0, 7).Draw(r, "kind"); {
		case kind == 0:
			d = append(d, bson.E{Key: "tenantId", Value: tenant.Draw(r, "t")})
		case kind == 1:
			d = append(d, bson.E{Key: "tenantId", Value: bson.D{{Key: "$in", Value: bson.A{tenant.Draw(r, "t"), tenant.Draw(r, "t")}}}})
		case kind == 2:
			d = append(d, bson.E{Key: "tenantId", Value: bson.D{{Key: "$ne", Value: tenant.Draw(r, "t")}}})
		case kind == 3:
			d = append(d, bson.E{Key: "x", Value: rapid.IntRange(0, 2).Draw(r, "x")})
		case depth < 3:
			op := rapid.SampledFrom([]string{"$and", "$or", "$nor"}).Draw(r, "op")
			d = append(d, bson.E{Key: op, Value: bson.A{filterOf(r, depth+1), filterOf(r, depth+1)}})
		}
	}
	return d
}

// matches evaluates such a filter for a document.
func matches(f bson.D, tenant any, x int) bool {
	for _, e := range f {
		ok := true
		switch e.Key {
		case "x":
			ok = e.Value == x
		case "tenantId":
			ok = tenantMatches(e.Value, tenant)
		default:
			n := 0
			for _, sub := range e.Value.(bson.A) {
				if matches(sub.(bson.D), tenant, x) {
					n++
				}
			}
			ok = e.Key == "$and" && n == 2 || e.Key == "$or" && n > 0 || e.Key == "$nor" && n == 0
		}
		if !ok {
			return false
		}
	}
	return true
}

func tenantMatches(want, tenant any) bool {
	op, isOp := want.(bson.D)
	switch {
	case !isOp:
		return want == tenant
	case op[0].Key == "$ne":
		return op[0].Value != tenant
	}
	for _, v := range op[0].Value.(bson.A) {
		if v == tenant {
			return true
		}
	}
	return false
}

// TestExtractionIsSound: where a find goes to one database, no document that it matches can be in
// another one.
func TestExtractionIsSound(t *testing.T) {
	table := world(t, nil)
	home := map[any]string{"acme": "app_t_acme", "globex": "app", 42: "app_t_n42", "nobody": "app", nil: "app"}
	rapid.Check(t, func(r *rapid.T) {
		f := filterOf(r, 0)
		req, err := requestOf(t, bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: f}})
		if err != nil {
			r.Skip()
		}
		d := table.Route(req)
		if d.Action != Forward {
			return
		}
		for tenant, db := range home {
			for x := range 3 {
				if matches(f, tenant, x) && db != d.Target.DB {
					r.Fatalf("%v goes to %s and matches a document of %v in %s", f, d.Target.DB, tenant, db)
				}
			}
		}
	})
}

// FuzzRoute: whatever the bytes, a decision or an error, and what is renamed is still a message.
func FuzzRoute(f *testing.F) {
	for _, text := range []string{
		`{"find":"orders","filter":{"tenantId":"acme"}}`, `{"explain":{"find":"orders"}}`,
		`{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"acme"}},{"$facet":{"a":[{"$lookup":{"from":"items"}}]}}]}`,
		`{"update":"orders","updates":[{"q":{"_id":1},"u":{"$set":{"a.b":1}}}]}`,
		`{"bulkWrite":1,"nsInfo":[{"ns":"app.orders"}],"$db":"admin"}`,
	} {
		r, _ := request(f, text)
		f.Add([]byte(r.Msg.Body))
	}
	table := world(f, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		var m wire.Message
		if m.Parse(wire.AppendMessage(nil, 1, 0, 0, body)) != nil {
			return
		}
		for _, b := range []*Binding{nil, {Key: "acme", Database: true, Access: DDL}} {
			r := Request{Bound: b}
			if r.Parse(&m) != nil {
				return
			}
			d := table.Route(&r)
			if d.Action != Forward {
				continue
			}
			if b != nil && d.Target.Logical != "" && (d.Target.Tenant == nil || d.Target.Tenant.Key != "acme") {
				t.Fatalf("bound to acme, sent to %s", d.Target.DB)
			}
			var p wire.Patch
			if table.Rename(&r, d.Target, &p) != nil {
				continue
			}
			out := p.ApplyTo(&wire.Buf{B: m.Frame})
			var again wire.Message
			if err := again.Parse(out.B); err != nil {
				t.Fatalf("renamed: %v", err)
			}
		}
	})
}
