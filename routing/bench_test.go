package routing

import (
	"fmt"
	"runtime/debug"
	"testing"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// crowd is a table with 1,000 tenants, each in a database of its own.
func crowd(t testing.TB) *Table {
	return world(t, func(s *Spec) {
		for i := range 1000 {
			name := fmt.Sprintf("tenant%03d", i)
			s.Tenants = append(s.Tenants, TenantSpec{
				ID: wire.StringValue(name), Key: name, Num: uint32(100 + i), Route: &RouteSpec{Cluster: "home", Except: []string{"users"}},
			})
		}
	})
}

// plainPaths are the commands that an application sends all day: one tenant, one home, nothing
// to change but the database's name.
var plainPaths = []struct{ name, command string }{
	{"find", `{"find":"orders","filter":{"tenantId":"tenant500"},"limit":1,"singleBatch":true,"lsid":{"id":{"$uuid":"01234567-89ab-cdef-0123-456789abcdef"}}}`},
	{"find by _id", `{"find":"orders","filter":{"tenantId":"tenant500","_id":{"$oid":"0123456789abcdef01234567"}},"limit":1,"singleBatch":true}`},
	{"find $in", `{"find":"orders","filter":{"$and":[{"tenantId":{"$in":["tenant500"]}},{"state":"open"}]}}`},
	{"count", `{"count":"orders","query":{"tenantId":"tenant500"}}`},
	{"insert", `{"insert":"orders","ordered":true,"documents":[{"_id":{"$oid":"0123456789abcdef01234567"},"tenantId":"tenant500","number":1,"note":"twelve"}]}`},
	{"update", `{"update":"orders","ordered":true,"updates":[{"q":{"tenantId":"tenant500","number":1},"u":{"$set":{"note":"twelve"},"$inc":{"version":1}}}]}`},
	{"replace", `{"update":"orders","ordered":true,"updates":[{"q":{"tenantId":"tenant500","number":1},"u":{"tenantId":"tenant500","note":"twelve"}}]}`},
	{"delete", `{"delete":"orders","ordered":true,"deletes":[{"q":{"tenantId":"tenant500","number":1},"limit":1}]}`},
	{"findAndModify", `{"findAndModify":"orders","query":{"tenantId":"tenant500","number":1},"update":{"$set":{"note":"twelve"}},"new":true}`},
	{"aggregate", `{"aggregate":"orders","pipeline":[{"$match":{"tenantId":"tenant500"}},{"$group":{"_id":"$state","n":{"$sum":1}}}],"cursor":{}}`},
}

// decide does what the proxy does with a command before it is sent: parse, route, rename.
func decide(t testing.TB, table *Table, r *Request, m *wire.Message, p *wire.Patch) {
	if err := r.Parse(m); err != nil {
		t.Fatal(err)
	}
	d := table.Route(r)
	if d.Action != Forward || d.Target.DB != "app_t_tenant500" {
		t.Fatal(told(d))
	}
	p.Reset()
	if err := table.Rename(r, d.Target, p); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkRoute: parse, decision and rename of one command, 1,000 tenants in the table.
func BenchmarkRoute(b *testing.B) {
	table := crowd(b)
	for _, c := range plainPaths {
		b.Run(c.name, func(b *testing.B) {
			r, _ := request(b, c.command)
			var p wire.Patch
			m := r.Msg
			b.ReportAllocs()
			for b.Loop() {
				decide(b, table, r, m, &p)
			}
		})
	}
}

// BenchmarkBound is BenchmarkRoute for a connection that belongs to the tenant.
func BenchmarkBound(b *testing.B) {
	table := crowd(b)
	for _, c := range plainPaths {
		b.Run(c.name, func(b *testing.B) {
			r, _ := request(b, c.command)
			r.Bound = &Binding{Key: "tenant500", Database: true, Access: Write}
			var p wire.Patch
			m := r.Msg
			b.ReportAllocs()
			for b.Loop() {
				decide(b, table, r, m, &p)
			}
		})
	}
}

// BenchmarkRows is BenchmarkBound for a connection that is kept within the tenant's rows, whose filters
// and pipelines are made anew.
func BenchmarkRows(b *testing.B) {
	table := crowd(b)
	for _, c := range plainPaths {
		b.Run(c.name, func(b *testing.B) {
			r, _ := request(b, c.command)
			r.Bound = &Binding{Key: "tenant500", Access: Write}
			var p wire.Patch
			m := r.Msg
			b.ReportAllocs()
			for b.Loop() {
				decide(b, table, r, m, &p)
				d := table.Route(r)
				if err := table.Fit(r, &d, d.Target, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkForeign: the look for leaks of one document, of a dozen fields with the tenant's the last.
func BenchmarkForeign(b *testing.B) {
	table, binding := crowd(b), &Binding{Key: "tenant500", Access: Write}
	d := build(func(d []byte) []byte {
		for i := range 11 {
			d = bsoncore.AppendStringElement(d, fmt.Sprintf("field%02d", i), "twelve bytes")
		}
		return bsoncore.AppendStringElement(d, "tenantId", "tenant500")
	})
	b.ReportAllocs()
	b.SetBytes(int64(len(d)))
	for b.Loop() {
		if table.Foreign(binding, []byte("app"), []byte("orders"), d) {
			b.Fatal("it is the tenant's own")
		}
	}
}

// TestAllocs: the plain paths allocate nothing.
func TestAllocs(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	table := crowd(t)
	for _, c := range plainPaths {
		for _, bound := range []*Binding{nil, {Key: "tenant500", Database: true, Access: Write}} {
			r, _ := request(t, c.command)
			r.Bound = bound
			m, p := r.Msg, wire.Patch{}
			if n := testing.AllocsPerRun(100, func() { decide(t, table, r, m, &p) }); n != 0 {
				t.Errorf("%s, bound %v: %v allocations", c.name, bound != nil, n)
			}
		}
	}
}

// TestUnreadIsRead: what is decided without an insert's documents is what is decided with them, and
// nothing is where some tenant's documents lie elsewhere.
func TestUnreadIsRead(t *testing.T) {
	table := crowd(t)
	for command, unread := range map[string]bool{
		`{"insert":"users","$db":"app"}`: true,
		`{"insert":"users","$db":"app","writeConcern":{"w":"majority"},"lsid":{"id":{"$uuid":"01234567-89ab-cdef-0123-456789abcdef"}}}`: true,
		`{"insert":"things","$db":"elsewhere"}`:         true,
		`{"insert":"orders","$db":"app"}`:               false,
		`{"insert":"x","$db":"app_t_tenant500"}`:        false,
		`{"insert":"users","$db":"app","of":1}`:         false,
		`{"insert":"users","$db":"app","documents":[]}`: false,
	} {
		r, _ := request(t, command)
		d, ok := table.Unread(r)
		if ok != unread {
			t.Errorf("%s: decided unread: %v", command, ok)
		}
		if whole := table.Route(r); ok && (whole.Action != d.Action || whole.Target != d.Target || whole.Fit || d.Action != Forward) {
			t.Errorf("%s: %s, read %s", command, told(d), told(whole))
		}
		r.Bound = &Binding{Key: "tenant500", Database: true, Access: Write}
		if _, ok := table.Unread(r); ok {
			t.Errorf("%s: decided for a bound connection", command)
		}
	}
}
