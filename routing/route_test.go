package routing

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/wire"
)

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
		body, _ := bson.Marshal(bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: f}})
		req, err := requestOf(t, body)
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
