package routing

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

var update = flag.Bool("update", false, "rewrite the decisions in testdata/*.txt; read what caused each change")

// TestScripts plays testdata/*.txt. A script's lines are
//
//	# a comment
//	table {...}      what differs from the table of worldText, for the lines below
//	as acme read     the lines below come from a connection bound to acme's own database; with "rows"
//	                 behind it to acme's rows; "as open" ends that
//	renamed          the lines below also tell the message as it is sent
//	{...}            a command in extended JSON; "$sections" are its document sequences
//	= ...            what was decided for the command above
func TestScripts(t *testing.T) {
	for _, name := range scripts(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, strings.Split(got, "\n"), strings.Split(string(text), "\n"))
		})
	}
}

func scripts(t testing.TB) []string {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal("no scripts", err)
	}
	return names
}

func compare(t *testing.T, got, want []string) {
	command := ""
	for i := range got {
		if strings.HasPrefix(got[i], "{") {
			command = got[i]
		}
		if i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d, %s\n got %s\nwant %s", i+1, command, got[i], want[min(i, len(want)-1)])
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
}

// player is the state that a script's lines change.
type player struct {
	table   *Table
	bound   *Binding
	renamed bool
	req     Request // one for all commands, as a connection's
}

// play returns the script with the decisions as they are now.
func play(t testing.TB, text string) string {
	p := player{table: world(t, nil)}
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case word == "=":
			continue
		case word == "table":
			p.table = tableOf(t, rest)
		case word == "as":
			p.bound = bindingOf(t, rest)
		case word == "renamed":
			p.renamed = true
		case strings.HasPrefix(line, "{"):
			line += "\n= " + p.decide(t, line)
		case line != "" && word != "#":
			t.Fatalf("no such line: %s", line)
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

func (p *player) decide(t testing.TB, command string) string {
	r, msg := &p.req, &wire.Message{}
	if err := msg.Parse(frameOf(t, document(t, command))); err != nil {
		t.Fatal(err)
	}
	if err := r.Parse(msg); err != nil {
		return "error " + err.Code.Name() + ": " + err.Text
	}
	r.Bound = p.bound
	d := p.table.Route(r)
	if d.Err != nil {
		return "refuse " + d.Err.Code.Name() + ": " + d.Err.Text
	}
	line := told(d)
	if d.Tenant != nil {
		line += " (" + d.Tenant.Key + ")"
	}
	switch {
	case d.Action == Expand:
		command, _ := bson.MarshalExtJSON(bson.Raw(d.Expanded.Command), false, false)
		line += fmt.Sprintf(" %s\n= %s", map[Shape]string{AsCursor: "as a cursor", AsCount: "as a count", AsValues: "as values"}[d.Expanded.Shape], command)
		inner := player{table: p.table, bound: p.bound}
		line += "\n= " + inner.decide(t, string(command))
	case d.Action == Split:
		line += p.planned(r, &d)
	case p.renamed && d.Action == Forward:
		line += "\n= " + sent(t, p.table, r, &d, d.Target)
	case d.Segments != nil:
		line += p.segments(d.Segments, "")
		if d.Sorted != nil && d.Sorted.By != "" {
			line += "\n= or merged by " + d.Sorted.By + p.segments([]Segment{*d.Sorted}, "")
		}
	case p.renamed && d.Action == Follow:
		for _, s := range d.Watch.Streams {
			line += "\n= " + s.Target.Cluster + "/" + s.Target.DB
			for _, stage := range s.Stages {
				line += " " + bson.Raw(stage).String()
			}
		}
	case p.renamed && d.Action == Scatter:
		for _, x := range d.Targets {
			line += "\n= " + sent(t, p.table, r, &d, x)
		}
	}
	return line
}

// planned is where each write of a batch belongs, and how it is sent there where that differs.
func (p *player) planned(r *Request, d *Decision) string {
	line := ""
	all, _ := p.table.Ops(r, d.Coll)
	for i := range all {
		op := &all[i]
		plan := p.table.Plan(r, op)
		line += fmt.Sprintf("\n= %d", i)
		if plan.Err != nil {
			line += " refuse " + plan.Err.Code.Name() + ": " + plan.Err.Text
			continue
		}
		for _, x := range plan.Targets {
			line += " " + x.Cluster + "/" + x.DB
			if with := p.table.FitWrite(op, x); p.renamed && with != nil && r.Cmd.Tenant.Kind != InFindAndModify {
				line += " " + bson.Raw(with).String()
			}
		}
		for n, x := range plan.Bars {
			line += map[bool]string{true: " if nothing matches at"}[n == 0] + " " + x.Cluster + "/" + x.DB
		}
	}
	return line
}

// segments are the parts of a pipeline: where each runs, and what runs there; once for all of its
// targets where that is the same.
func (p *player) segments(segs []Segment, indent string) string {
	line := ""
	for i := range segs {
		s := &segs[i]
		if len(s.Also) > 0 {
			line += "\n= " + indent + "then the documents of" + p.segments(s.Also, indent+"  ")
		}
		if len(s.Also) > 0 && len(s.Stages) == 0 {
			continue
		}
		line += fmt.Sprintf("\n= %s%d", indent, i)
		for k, x := range s.Targets {
			at := bson.Raw(build(func(d []byte) []byte { return AppendStages(d, "at", p.table.StagesAt(s, x)) })).Lookup("at").String()
			line += " " + x.Cluster + "/" + x.DB
			if k+1 == len(s.Targets) || at != bson.Raw(build(func(d []byte) []byte { return AppendStages(d, "at", p.table.StagesAt(s, s.Targets[k+1])) })).Lookup("at").String() {
				line += " " + at
			}
		}
		if s.Coll != nil {
			line += " of " + string(s.Coll)
		} else if s.Reads {
			line += " reads"
		}
		if s.Joined != "" {
			line += " joined " + s.Joined
		}
		if s.Counts {
			line += " summed"
		}
		if s.Skip > 0 || s.Limit > 0 {
			line += fmt.Sprintf(" skip %d limit %d", s.Skip, s.Limit)
		}
	}
	return line
}

// sent is the request's message as the target gets it.
func sent(t testing.TB, table *Table, r *Request, d *Decision, target *Target) string {
	var patch wire.Patch
	err := table.Rename(r, target, &patch)
	if err == nil && d.Fit {
		err = table.Fit(r, d, target, &patch)
	}
	if err != nil {
		return "refuse " + err.Code.Name() + ": " + err.Text
	}
	var m wire.Message
	if err := m.Parse(patch.ApplyTo(&wire.Buf{B: r.Msg.Frame}).B); err != nil {
		t.Fatal(err)
	}
	if err := m.Body.Check(); err != nil {
		t.Fatal(err)
	}
	line := bson.Raw(m.Body).String()
	for _, s := range m.Sections {
		line += " " + string(s.Identifier)
		for docs := s.Docs; len(docs) > 0; {
			var d wire.Doc
			d, docs, _ = wire.NextDoc(docs)
			line += " " + bson.Raw(d).String()
		}
	}
	return line
}

func bindingOf(t testing.TB, text string) *Binding {
	if text == "open" {
		return nil
	}
	words := strings.Fields(text)
	access, ok := map[string]Access{"read": Read, "write": Write, "owner": DDL}[words[1]]
	if !ok {
		t.Fatalf("no such access: %s", text)
	}
	return &Binding{Key: words[0], Database: len(words) == 2, Access: access}
}

// worldText is the table that tests start from: acme and the tenant 42 in databases of their own
// (42's on another cluster, orders only), globex in shared, late not looked at yet.
const worldText = `{
	"mode": 1, "field": "tenantId", "databases": ["app"], "collections": ["orders", "items", "tasks"], "platform": ["users"],
	"tenants": [
		{"id": "acme", "key": "acme", "cluster": "home", "except": ["users"]},
		{"id": 42, "key": "n42", "cluster": "big", "collections": ["orders"]},
		{"id": "globex", "key": "globex"},
		{"id": "late", "key": "late", "look": true}
	]
}`

// tableText is how scripts write a table.
type tableText struct {
	Mode          Mode                `bson:"mode"`
	Field         string              `bson:"field"`
	Fields        map[string]string   `bson:"fields"`
	Databases     []string            `bson:"databases"`
	Collections   []string            `bson:"collections"`
	Platform      []string            `bson:"platform"`
	Views         map[string]viewText `bson:"views"`
	Names         []string            `bson:"names"`
	Collated      map[string]bson.Raw `bson:"collated"`
	WithoutTenant NoTenantRule        `bson:"withoutTenant"`
	HideOthers    bool                `bson:"hideOthers"`
	LookUp        bool                `bson:"lookUp"`
	RequireTenant bool                `bson:"requireTenant"`
	AllowDrop     bool                `bson:"allowDrop"`
	StrictUnique  bool                `bson:"strictUnique"`
	Unique        []UniqueIndex       `bson:"unique"`
	MaxScatter    int                 `bson:"maxScatter"`
	Grants        map[string]Grant    `bson:"grants"`
	Tenants       []tenantText        `bson:"tenants"`
}

type viewText struct {
	On        string        `bson:"on"`
	Pipeline  bson.RawValue `bson:"pipeline"`
	Collation bson.Raw      `bson:"collation"`
}

type tenantText struct {
	ID          bson.RawValue   `bson:"id"`
	Aliases     []bson.RawValue `bson:"aliases"`
	Key         string          `bson:"key"`
	Cluster     string          `bson:"cluster"` // "" for plain shared
	Collections []string        `bson:"collections"`
	Except      []string        `bson:"except"`
	Look        bool            `bson:"look"`
	Paused      bool            `bson:"paused"`
}

// specOf is worldText with the fields of the text in place of its own.
func specOf(t testing.TB, text string) *Spec {
	t.Helper()
	var x tableText
	for _, layer := range []string{worldText, text} {
		dec := bson.NewDecoder(bson.NewDocumentReader(bytes.NewReader(document(t, layer))))
		dec.ZeroMaps()
		if err := dec.Decode(&x); err != nil {
			t.Fatal(err)
		}
	}
	s := &Spec{
		Version: 1, Epoch: 1, Mode: x.Mode, Home: "home", ControlDB: "tenantry", Field: x.Field, Fields: x.Fields,
		Collections: x.Collections, Platform: x.Platform, Names: x.Names, WithoutTenant: x.WithoutTenant,
		HideOthers: x.HideOthers, LookUp: x.LookUp, RequireTenant: x.RequireTenant, AllowDrop: x.AllowDrop, StrictUnique: x.StrictUnique, Unique: x.Unique, MaxScatter: x.MaxScatter, Grants: x.Grants,
	}
	for _, name := range x.Databases {
		s.Databases = append(s.Databases, DatabaseSpec{Name: name, Prefix: name + "_t_"})
	}
	for _, name := range sortedKeys(x.Views) {
		v := x.Views[name]
		s.Views = append(s.Views, ViewSpec{Name: name, On: v.On, Pipeline: wire.Doc(v.Pipeline.Value), Collation: wire.Doc(v.Collation)})
	}
	for _, name := range sortedKeys(x.Collated) {
		s.Collated = append(s.Collated, Collated{Name: name, Collation: wire.Doc(x.Collated[name])})
	}
	for i := range x.Tenants {
		s.Tenants = append(s.Tenants, x.Tenants[i].spec(uint32(i+1)))
	}
	return s
}

func (x *tenantText) spec(num uint32) TenantSpec {
	value := func(v bson.RawValue) wire.Value { return wire.Value{Type: bsoncore.Type(v.Type), Data: v.Value} }
	s := TenantSpec{ID: value(x.ID), Key: x.Key, Num: num, Look: x.Look, Paused: x.Paused}
	for _, a := range x.Aliases {
		s.Aliases = append(s.Aliases, value(a))
	}
	if x.Cluster != "" {
		s.Route = &RouteSpec{Cluster: x.Cluster, Collections: x.Collections, Except: x.Except}
	}
	return s
}

func tableOf(t testing.TB, text string) *Table {
	t.Helper()
	table, err := NewTable(specOf(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// world is the table of worldText with a change.
func world(t testing.TB, change func(*Spec)) *Table {
	t.Helper()
	s := specOf(t, "{}")
	if change != nil {
		change(s)
	}
	table, err := NewTable(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func document(t testing.TB, text string) []byte {
	t.Helper()
	var d bson.Raw
	if err := bson.UnmarshalExtJSON([]byte(text), false, &d); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

// request parses a command written as extended JSON; $db is app where it is left out.
func request(t testing.TB, text string) (*Request, *wire.Error) {
	t.Helper()
	return requestOf(t, document(t, text))
}

func requestOf(t testing.TB, d bson.Raw) (*Request, *wire.Error) {
	t.Helper()
	msg := &wire.Message{}
	if err := msg.Parse(frameOf(t, d)); err != nil {
		t.Fatal(err)
	}
	r := &Request{}
	return r, r.Parse(msg)
}

// frameOf is the command as a message: with a $db, and "$sections" as sections.
func frameOf(t testing.TB, d bson.Raw) []byte {
	elements, err := d.Elements()
	if err != nil {
		t.Fatal(err)
	}
	named := false
	var sections bson.Raw
	i, body := bsoncore.AppendDocumentStart(nil)
	for _, e := range elements {
		if e.Key() == "$sections" {
			sections = e.Value().Document()
			continue
		}
		named = named || e.Key() == "$db"
		body = append(body, e...)
	}
	if !named {
		body = bsoncore.AppendStringElement(body, "$db", "app")
	}
	body, _ = bsoncore.AppendDocumentEnd(body, i)
	frame := wire.AppendMessage(nil, 1, 0, 0, body)
	elements, _ = sections.Elements()
	for _, e := range elements {
		var docs []wire.Doc
		values, _ := e.Value().Array().Values()
		for _, v := range values {
			docs = append(docs, wire.Doc(v.Value))
		}
		frame = wire.AppendSection(frame, e.Key(), docs...)
	}
	return frame
}

// told is a decision in one line.
func told(d Decision) string {
	place := func(x *Target) string { return " " + x.Cluster + "/" + x.DB }
	line := d.Action.String()
	switch d.Action {
	case Refuse:
		line = fmt.Sprintf("refuse %s", d.Err.Code.Name())
	case Forward:
		line += place(d.Target)
	case Scatter, Split, EachOf, FirstOf, Follow:
		for _, x := range d.Targets {
			line += place(x)
		}
	}
	return line
}

// TestScriptsAreWhole: every name that the table of commands knows stands in some script, for an
// open connection and for a bound one.
func TestScriptsAreWhole(t *testing.T) {
	seen := map[string]map[bool]bool{}
	for _, name := range scripts(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bound := false
		for line := range strings.Lines(string(text)) {
			if who, ok := strings.CutPrefix(line, "as "); ok {
				bound = strings.TrimSpace(who) != "open"
			}
			if command, ok := strings.CutPrefix(line, `{"`); ok {
				command, _, _ = strings.Cut(command, `"`)
				if seen[command] == nil {
					seen[command] = map[bool]bool{}
				}
				seen[command][bound] = true
			}
		}
	}
	for name := range commands {
		if !seen[name][false] || !seen[name][true] {
			t.Errorf("%s: open %v, bound %v", name, seen[name][false], seen[name][true])
		}
	}
}
