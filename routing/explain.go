package routing

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Explain tells where a command of an open connection would go: { action, tenant, targets, why },
// for a pipeline that no one database can run its segments, or the refusal's code and text. Of a read of
// a view it tells where the pipeline goes that it stands for. The command may leave $db to the default.
func Explain(t *Table, cmd wire.Doc, db string) (wire.Doc, *wire.Error) {
	msg := &wire.Message{Frame: cmd, Body: cmd}
	var r Request
	if err := r.parse(msg, []byte(db)); err != nil {
		return nil, err
	}
	r.Looked = true
	d := t.Route(&r)
	view := ""
	if d.Action == Expand {
		view = string(r.Coll())
		if err := r.parse(&wire.Message{Frame: d.Expanded.Command, Body: d.Expanded.Command}, []byte(db)); err != nil {
			return nil, err
		}
		if view == string(r.Coll()) { // which is joined with one
			view = ""
		}
		r.Looked = true
		d = t.Route(&r)
	}
	i, out := bsoncore.AppendDocumentStart(nil)
	out = bsoncore.AppendStringElement(out, "command", string(r.Name))
	out = bsoncore.AppendStringElement(out, "namespace", string(r.DB)+"."+string(r.Coll()))
	if view != "" {
		out = bsoncore.AppendStringElement(out, "view", view)
	}
	out = bsoncore.AppendStringElement(out, "mode", t.Mode.String())
	out = bsoncore.AppendInt64Element(out, "table", int64(t.Version))
	out = bsoncore.AppendStringElement(out, "action", d.Action.String())
	if d.Tenant != nil {
		out = bsoncore.AppendStringElement(out, "tenant", d.Tenant.Key)
	}
	out = appendTargets(out, targetsOf(&d), &r)
	if d.Sorted != nil {
		out = appendSegments(out, "sorted", []Segment{*d.Sorted}, &r)
	}
	out = appendSegments(out, "segments", d.Segments, &r)
	why := d.Why
	if d.Err != nil {
		out = bsoncore.AppendInt32Element(out, "code", int32(d.Err.Code))
		out = bsoncore.AppendStringElement(out, "codeName", d.Err.Code.Name())
		why = d.Err.Text
	}
	if why != "" {
		out = bsoncore.AppendStringElement(out, "why", why)
	}
	out, _ = bsoncore.AppendDocumentEnd(out, i)
	return out, nil
}

func targetsOf(d *Decision) []*Target {
	if d.Target != nil {
		return []*Target{d.Target}
	}
	return d.Targets
}

// appendSegments appends the parts of a pipeline: { targets, stages, joins, follows } each.
func appendSegments(out []byte, name string, segs []Segment, r *Request) []byte {
	if len(segs) == 0 {
		return out
	}
	return appendArray(out, name, func(d []byte) []byte {
		for n := range segs {
			s := &segs[n]
			d = appendDoc(d, fmt.Sprint(n), func(d []byte) []byte {
				d = appendSegments(d, "follows", s.Also, r)
				d = appendTargets(d, s.Targets, r)
				d = AppendStages(d, "stages", s.Stages)
				if s.Counts {
					d = bsoncore.AppendBooleanElement(d, "summed", true)
				}
				if s.Joined != "" {
					d = bsoncore.AppendStringElement(d, "joins", s.Joined)
				}
				return d
			})
		}
		return d
	})
}

func appendTargets(out []byte, targets []*Target, r *Request) []byte {
	if len(targets) == 0 {
		return out
	}
	i, out := bsoncore.AppendArrayElementStart(out, "targets")
	for n, x := range targets {
		j, e := bsoncore.AppendDocumentElementStart(out, fmt.Sprint(n))
		e = bsoncore.AppendStringElement(e, "cluster", x.Cluster)
		db := x.DB
		if db == "" {
			db = string(r.DB)
		}
		e = bsoncore.AppendStringElement(e, "database", db)
		out, _ = bsoncore.AppendDocumentEnd(e, j)
	}
	out, _ = bsoncore.AppendArrayEnd(out, i)
	return out
}

// Databases calls yield for each logical database's name.
func (t *Table) Databases(yield func(string) bool) {
	for _, db := range t.databases {
		if !yield(db.Name) {
			return
		}
	}
}
