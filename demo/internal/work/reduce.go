package work

import (
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const reduceLimit = 30 * time.Second

// Reduce takes off a failing program what it fails without: tenants' homes, lines, and elements of
// their commands' arrays.
func (g *Ground) Reduce(t *testing.T, p *Program) (*Program, error) {
	why := g.Run(t, p)
	deadline := time.Now().Add(reduceLimit)
	for shrunk := true; shrunk && why != nil; {
		shrunk = false
		for smaller := range p.smaller {
			if time.Now().After(deadline) {
				return p, why
			}
			if err := g.Run(t, smaller); err != nil {
				p, why, shrunk = smaller, err, true
				break
			}
		}
	}
	return p, why
}

// smaller yields the programs that are one step less than this one.
func (p *Program) smaller(yield func(*Program) bool) {
	for n := len(p.Lines) / 2; n > 0; n /= 2 {
		for at := 0; at+n <= len(p.Lines); at += n {
			q := *p
			q.Lines = slices.Delete(slices.Clone(p.Lines), at, at+n)
			if !yield(&q) {
				return
			}
		}
	}
	if p.Routing.Control {
		q := *p
		q.Routing.Control = false
		if !yield(&q) {
			return
		}
	}
	for i := range p.Routing.Tenants {
		for _, t := range p.Routing.Tenants[i].smaller() {
			q := *p
			q.Routing.Tenants = slices.Clone(p.Routing.Tenants)
			q.Routing.Tenants[i] = t
			if !yield(&q) {
				return
			}
		}
	}
	for i, l := range p.Lines {
		for _, command := range smallerDoc(l.Command) {
			q := *p
			q.Lines = slices.Clone(p.Lines)
			q.Lines[i].Command = command
			if !yield(&q) {
				return
			}
		}
	}
}

func (t Tenant) smaller() []Tenant {
	var out []Tenant
	if t.Home != "shared" {
		shared := t
		shared.Home, shared.Modules = "shared", nil
		out = append(out, shared)
	}
	if t.Home == "big" {
		home := t
		home.Home = "home"
		out = append(out, home)
	}
	return out
}

// needed are fields without which a write is another mistake than the one that is looked for.
var needed = []string{"q", "u", "filter", "updateMods", "update", "query", "nsInfo", "cursor", "limit", "multi", "sort", "_id", "$sort"}

// smallerDoc is the document with one element less in one of its arrays, or one field less.
func smallerDoc(d bson.D) []bson.D {
	var out []bson.D
	for i, e := range d {
		if i > 0 && !slices.Contains(needed, e.Key) {
			out = append(out, slices.Delete(slices.Clone(d), i, i+1))
		}
		for _, v := range smallerValues(e.Value) {
			with := slices.Clone(d)
			with[i].Value = v
			out = append(out, with)
		}
	}
	return out
}

func smallerValues(v any) []any {
	var out []any
	switch v := v.(type) {
	case bson.D:
		for _, d := range smallerDoc(v) {
			out = append(out, d)
		}
	case bson.A:
		for i := range v {
			out = append(out, slices.Delete(slices.Clone(v), i, i+1))
		}
		for i, e := range v {
			for _, x := range smallerValues(e) {
				with := slices.Clone(v)
				with[i] = x
				out = append(out, with)
			}
		}
	}
	return out
}
