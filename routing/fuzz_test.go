package routing

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// commandsOf calls yield for each command of the scripts that is well formed.
func commandsOf(f *testing.F, yield func(r *Request)) {
	for _, name := range scripts(f) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "{") {
				continue
			}
			if r, err := request(f, line); err == nil {
				yield(r)
			}
		}
	}
}

// FuzzRoute: whatever the bytes, a decision or an error, and what is renamed is still a message.
func FuzzRoute(f *testing.F) {
	commandsOf(f, func(r *Request) { f.Add([]byte(r.Msg.Body)) })
	table := opened(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		checkBytes(t, table, wire.AppendMessage(nil, 1, 0, 0, body))
	})
}

// FuzzPipeline is FuzzRoute for what is most intricate, the pipeline of an aggregate.
func FuzzPipeline(f *testing.F) {
	commandsOf(f, func(r *Request) {
		if p, ok := r.field(fPipeline); ok {
			f.Add(p.Value.Data)
		}
	})
	table := opened(f)
	f.Fuzz(func(t *testing.T, pipeline []byte) {
		i, body := bsoncore.AppendDocumentStart(nil)
		body = bsoncore.AppendStringElement(body, "aggregate", "orders")
		body = wire.Value{Type: bsoncore.TypeArray, Data: pipeline}.AppendTo(body, "pipeline")
		body = bsoncore.AppendStringElement(body, "$db", "app")
		body, _ = bsoncore.AppendDocumentEnd(body, i)
		checkBytes(t, table, wire.AppendMessage(nil, 1, 0, 0, body))
	})
}

// withViews gives a table the views that the scripts name.
func withViews(s *Spec) {
	match := build(func(d []byte) []byte {
		return appendDoc(d, "0", func(d []byte) []byte {
			return appendDoc(d, "$match", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "state", "open") })
		})
	})
	s.Views = []ViewSpec{
		{Name: "app.bare", On: "orders", Pipeline: wire.Doc{5, 0, 0, 0, 0}},
		{Name: "app.big", On: "open_orders", Pipeline: match},
		{Name: "app.open_orders", On: "orders", Pipeline: match},
	}
}

// FuzzView: whatever a view is, a read of it is refused or comes to a command that is none of a view.
func FuzzView(f *testing.F) {
	commandsOf(f, func(r *Request) {
		if p, ok := r.field(fPipeline); ok {
			f.Add(p.Value.Data)
		}
	})
	f.Fuzz(func(t *testing.T, pipeline []byte) {
		if wire.Doc(pipeline).Check() != nil {
			return
		}
		table := world(t, func(s *Spec) {
			withViews(s)
			s.Views = append(s.Views, ViewSpec{Name: "app.v", On: "big", Pipeline: pipeline}, ViewSpec{Name: "app.w", On: "v", Pipeline: pipeline})
		})
		for _, text := range []string{
			`{"find":"w","filter":{"tenantId":"acme"},"sort":{"a":1},"limit":3}`, `{"count":"v"}`, `{"distinct":"v","key":"a.b"}`,
			`{"explain":{"find":"v"}}`, `{"aggregate":"users","pipeline":[{"$lookup":{"from":"w","localField":"a","foreignField":"b","as":"x"}}],"cursor":{}}`,
			`{"aggregate":"orders","pipeline":[{"$unionWith":{"coll":"v","pipeline":[]}},{"$graphLookup":{"from":"w","as":"g"}}],"cursor":{}}`,
		} {
			r, err := request(t, text)
			if err != nil {
				t.Fatal(err)
			}
			checkExpanded(t, table, table.Route(r))
		}
	})
}

// checkExpanded follows a read of a view to what it stands for.
func checkExpanded(t *testing.T, table *Table, d Decision) Decision {
	if d.Action != Expand {
		return d
	}
	var r Request
	if err := d.Expanded.Command.Check(); err != nil {
		t.Fatalf("what a view stands for is malformed: %v", err)
	}
	if err := r.parse(&wire.Message{Frame: d.Expanded.Command, Body: d.Expanded.Command}, []byte("app")); err != nil {
		t.Fatalf("what a view stands for is no command: %v", err)
	}
	if d = table.Route(&r); d.Action == Expand {
		t.Fatal("what a view stands for reads a view")
	}
	checkSegments(t, table, d.Segments)
	return d
}

func checkBytes(t *testing.T, table *Table, frame []byte) {
	var m wire.Message
	if m.Parse(frame) != nil {
		return
	}
	for _, b := range []*Binding{nil, {Key: "acme", Database: true, Access: DDL}, {Key: "acme", Access: DDL}, {Key: "globex", Access: Write}} {
		r := Request{Bound: b}
		if r.Parse(&m) != nil {
			return
		}
		d := table.Route(&r)
		if d.Action == Refuse && d.Err.Code == 0 {
			t.Fatal("refused without a code")
		}
		checkSegments(t, table, d.Segments)
		if b != nil {
			checkCut(t, b, &r, d.Segments)
		}
		if d.Action == Expand && m.Body.Check() == nil {
			checkExpanded(t, table, d)
		}
		if d.Action != Forward {
			continue
		}
		if b != nil && d.Target.Logical != "" && (d.Target.Tenant == nil && b.Database || d.Target.Tenant != nil && d.Target.Tenant.Key != b.Key) {
			t.Fatalf("bound to %s, sent to %s", b.Key, d.Target.DB)
		}
		var p wire.Patch
		if table.Rename(&r, d.Target, &p) != nil || b.Rows() && d.Fit && table.Fit(&r, &d, d.Target, &p) != nil {
			continue
		}
		out := p.ApplyTo(&wire.Buf{B: frame})
		var again wire.Message
		if err := again.Parse(out.B); err != nil {
			t.Fatalf("renamed: %v", err)
		}
		if m.Body.Check() == nil && again.Body.Check() != nil {
			t.Fatal("renamed, it is malformed")
		}
		if k := r.Cmd.kind(); b.Rows() && (k == InFilter || k == InStages && r.Value.Type == bsoncore.TypeString) &&
			!bytes.Contains(out.B, []byte(`\A`+b.Key+`\z`)) && !tellsFigures(&r) {
			t.Fatal("it is sent without the tenant's predicate")
		}
	}
}

func (c *Command) kind() TenantKind {
	if c == nil {
		return NoTenant
	}
	return c.Tenant.Kind
}

// tellsFigures reports whether a pipeline begins with a stage that shows no documents.
func tellsFigures(r *Request) bool {
	row := stages[string(r.firstStage())]
	return row != nil && row.Rows == RowsFigures
}

// opened is the table of worldText with the rows of a platform collection open to those they are of.
func opened(t testing.TB) *Table {
	return world(t, func(s *Spec) {
		withViews(s)
		s.Grants = map[string]Grant{"users": OwnRows}
	})
}

// checkCut: no part of a bound connection's pipeline is without the tenant's predicate, and each is in shared
// or in the tenant's own database.
func checkCut(t *testing.T, b *Binding, r *Request, segs []Segment) {
	for i := range segs {
		s := &segs[i]
		if x := s.Targets[0]; len(s.Targets) != 1 || x.Tenant != nil && x.Tenant.Key != b.Key || len(s.Also) > 0 || b.Database {
			t.Fatalf("a part of %s's pipeline is sent to %v", b.Key, s.Targets)
		}
		if i == 0 && tellsFigures(r) && s.Targets[0].Tenant != nil {
			continue
		}
		if !bytes.Contains(bytes.Join(asBytes(s.Stages), nil), []byte(`\A`+b.Key+`\z`)) {
			t.Fatalf("part %d of %s's pipeline is without its predicate: %v", i, b.Key, r.value(fPipeline))
		}
	}
}

func asBytes(docs []wire.Doc) (all [][]byte) {
	for _, d := range docs {
		all = append(all, d)
	}
	return all
}

// checkSegments: every part of a pipeline has a place, and its stages there are documents still.
func checkSegments(t *testing.T, table *Table, segs []Segment) {
	for i := range segs {
		s := &segs[i]
		if len(s.Targets) == 0 || (i == 0) != (s.Coll != nil) {
			t.Fatalf("segment %d: %d targets, of %q", i, len(s.Targets), s.Coll)
		}
		checkSegments(t, table, s.Also)
		for _, x := range s.Targets {
			for k, stage := range table.StagesAt(s, x) {
				if it := stage.Iter(); !it.Next() {
					t.Fatalf("segment %d: stage %d is empty", i, k)
				}
			}
		}
	}
}

// FuzzFilter: what a filter tells does not depend on how deep in $and it stands, and a branch of
// $or that anything matches takes it away.
func FuzzFilter(f *testing.F) {
	commandsOf(f, func(r *Request) {
		for _, id := range []fieldID{fFilter, fQuery} {
			if q, ok := r.value(id).Doc(); ok {
				f.Add([]byte(q))
			}
		}
	})
	field := newFieldPath("tenantId")
	f.Fuzz(func(t *testing.T, filter []byte) {
		d := wire.Doc(filter)
		if d.Check() != nil || bytes.Count(filter, []byte("$")) > 60 {
			return // an extractor ends at 64 levels
		}
		x := extractor{field: &field}
		var plain, nested, twice, open tenantSet
		x.filter(&plain, d, 0)
		x.filter(&nested, branch("$and", d), 0)
		x.filter(&twice, branch("$or", d, d), 0)
		x.filter(&open, branch("$or", d, emptyDoc), 0)
		if !same(&plain, &nested) || !same(&plain, &twice) {
			t.Fatalf("%v, in $and %v, in $or %v", plain, nested, twice)
		}
		if open.known {
			t.Fatal("a branch that everything matches tells a tenant")
		}
	})
}

var emptyDoc = wire.Doc{5, 0, 0, 0, 0}

func branch(op string, branches ...wire.Doc) wire.Doc {
	i, d := bsoncore.AppendDocumentStart(nil)
	a, d := bsoncore.AppendArrayElementStart(d, op)
	for _, b := range branches {
		d = bsoncore.AppendDocumentElement(d, "0", b)
	}
	d, _ = bsoncore.AppendArrayEnd(d, a)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// same reports whether two sets have the same values.
func same(a, b *tenantSet) bool {
	if !a.known || !b.known {
		return a.known == b.known
	}
	for i := range a.n {
		if !b.has(a.at(i)) {
			return false
		}
	}
	for i := range b.n {
		if !a.has(b.at(i)) {
			return false
		}
	}
	return true
}
