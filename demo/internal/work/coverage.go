package work

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Coverage counts how often each kind of command was served and refused while tenants of its
// collection had databases of their own.
type Coverage map[string]*Count

// Count is one kind's.
type Count struct{ Served, Refused int }

func (c Coverage) note(r *Routing, l Line, refused bool) {
	k := kind(r, l)
	if k == "" {
		return
	}
	if c[k] == nil {
		c[k] = &Count{}
	}
	if refused {
		c[k].Refused++
	} else {
		c[k].Served++
	}
}

// String is a table, a kind a line.
func (c Coverage) String() string {
	var b strings.Builder
	kinds := make([]string, 0, len(c))
	for k := range c {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		fmt.Fprintf(&b, "%-48s %6d served %6d refused\n", k, c[k].Served, c[k].Refused)
	}
	return b.String()
}

// kind says what a command is as far as routing is concerned; "" for one that no route touches.
func kind(r *Routing, l Line) string {
	n := name(l.Command)
	switch n {
	case "getMore", "killCursors", "commitTransaction", "abortTransaction", "listCollections":
		return n
	}
	if !r.moved(coll(l.Command)) {
		if n == "aggregate" && slices.ContainsFunc(array(get(l.Command, "pipeline")), func(s any) bool { return joins(r, doc(s)) }) {
			return "aggregate of platform data joined with tenants'"
		}
		return ""
	}
	k := n + subject(r, l.Command)
	if l.Txn {
		k += ", in a transaction"
	}
	return k
}

func joins(r *Routing, stage bson.D) bool {
	if len(stage) != 1 || stage[0].Key != "$lookup" && stage[0].Key != "$unionWith" {
		return false
	}
	from, _ := get(doc(stage[0].Value), "from").(string)
	if from == "" {
		from, _ = get(doc(stage[0].Value), "coll").(string)
	}
	return r.moved(from)
}

// subject says whose documents a command is about, read from its first filters alone.
func subject(r *Routing, command bson.D) string {
	c := coll(command)
	var s subjects
	switch name(command) {
	case "find":
		s.filter(c, doc(get(command, "filter")))
	case "count", "distinct":
		s.filter(c, doc(get(command, "query")))
	case "findAndModify":
		s.filter(c, doc(get(command, "query")))
		s.update(get(command, "update"))
		s.many = false
	case "aggregate":
		stages := array(get(command, "pipeline"))
		var match bson.D
		if len(stages) > 0 {
			match = doc(get(doc(stages[0]), "$match"))
		}
		s.filter(c, match)
		for _, st := range stages {
			if d := doc(st); len(d) == 1 && slices.Contains([]string{"$lookup", "$unionWith", "$facet", "$group"}, d[0].Key) {
				s.extra = " with " + d[0].Key
			}
		}
	case "insert":
		for _, d := range array(get(command, "documents")) {
			s.owners = append(s.owners, dig(doc(d), tenantField(c)))
		}
		s.parts = len(s.owners)
	case "update", "delete":
		for _, e := range array(get(command, name(command)+"s")) {
			s.filter(c, doc(get(doc(e), "q")))
			s.update(get(doc(e), "u"))
			s.many = s.many || get(doc(e), "multi") == true || get(doc(e), "limit") == int32(0)
			if get(doc(e), "upsert") == true {
				s.extra += " (upsert)"
			}
		}
	default:
		return ""
	}
	return s.String(r, c)
}

// subjects collects what the parts of a command name.
type subjects struct {
	owners []any
	parts  int
	open   int // parts that name no tenant
	byID   int // of these, those that name documents by _id
	many   bool
	extra  string
}

func (s *subjects) filter(c string, f bson.D) {
	s.parts++
	v := get(f, tenantField(c))
	if d, ok := v.(bson.D); ok {
		if in, isIn := get(d, "$in").(bson.A); isIn {
			s.owners = append(s.owners, in...)
			return
		}
		v = get(d, "$eq")
	}
	if v != nil {
		s.owners = append(s.owners, v)
		return
	}
	s.open++
	if get(f, "_id") != nil {
		s.byID++
	}
}

func (s *subjects) update(u any) {
	switch u := u.(type) {
	case bson.A:
		s.extra += " (pipeline)"
	case bson.D:
		if len(u) > 0 && !strings.HasPrefix(u[0].Key, "$") {
			s.extra += " (replacement)"
		}
	}
}

func (s *subjects) String(r *Routing, c string) string {
	homes := map[string]bool{}
	for _, o := range s.owners {
		home := "shared"
		if t := r.tenant(o); t != nil && r.separate(t, c) {
			home = t.Key
		}
		homes[home] = true
	}
	whose := ""
	switch {
	case s.parts == 0:
		whose = ""
	case s.open > 0 && s.open == s.byID && len(s.owners) == 0:
		whose = " by _id"
	case s.open == s.parts:
		whose = " without a tenant"
	case s.open > 0:
		whose = " partly without a tenant"
	case len(homes) > 1:
		whose = " of several homes"
	default:
		whose = " of one home"
	}
	if s.many {
		whose += ", many"
	}
	return whose + firstOnly(s.extra)
}

// firstOnly keeps the kinds few: of a batch's extras the first.
func firstOnly(extra string) string {
	if before, _, cut := strings.Cut(extra, ") "); cut {
		return before + ")"
	}
	return extra
}
