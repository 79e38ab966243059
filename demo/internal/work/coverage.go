package work

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Coverage counts how often each kind of command was served and refused while tenants of its
// collection had databases of their own, and each refusal that is tolerated.
type Coverage struct {
	kinds    map[string]*count
	refusals map[*refusal]int
}

type count struct{ served, refused int }

func newCoverage() *Coverage {
	return &Coverage{kinds: map[string]*count{}, refusals: map[*refusal]int{}}
}

func (c *Coverage) note(r *Routing, l Line, no *refusal) {
	if no != nil {
		c.refusals[no]++
	}
	k := kind(r, l)
	if k == "" {
		return
	}
	n := c.kinds[k]
	if n == nil {
		n = &count{}
		c.kinds[k] = n
	}
	if no != nil {
		n.refused++
	} else {
		n.served++
	}
}

// mustServe are the kinds that no run may leave out; what the proxy learns to serve is added.
var mustServe = []string{
	"abortTransaction",
	"aggregate of one home",
	"aggregate with $group of one home",
	"commitTransaction",
	"count of one home",
	"create",
	"createIndexes",
	"delete by _id",
	"delete of one home",
	"delete of one home, many",
	"distinct of one home",
	"dropIndexes",
	"find by _id",
	"find of one home",
	"findAndModify by _id",
	"findAndModify of one home",
	"getMore",
	"in a transaction: delete by _id",
	"in a transaction: find of one home",
	"in a transaction: insert of one home",
	"in a transaction: update by _id",
	"insert of one home",
	"killCursors",
	"listCollections",
	"listIndexes",
	"update by _id",
	"update by replacement by _id",
	"update of one home",
	"update of one home, many",
}

// Unserved are the kinds that a run has served never, and would have had to.
func (c *Coverage) Unserved() []string {
	return slices.DeleteFunc(slices.Clone(mustServe), func(k string) bool { return c.kinds[k] != nil && c.kinds[k].served > 0 })
}

// Unused are refusals that are tolerated and have not happened: the proxy serves what they are
// about, or says it in other words.
func (c *Coverage) Unused() []string {
	var out []string
	for i := range tolerated {
		if t := &tolerated[i]; c.refusals[t] == 0 {
			out = append(out, t.String())
		}
	}
	return out
}

// String is a table, a kind a line.
func (c *Coverage) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(c.kinds)) {
		fmt.Fprintf(&b, "%-60s %6d served %6d refused\n", k, c.kinds[k].served, c.kinds[k].refused)
	}
	for i := range tolerated {
		fmt.Fprintf(&b, "%6d times %s\n", c.refusals[&tolerated[i]], &tolerated[i])
	}
	return b.String()
}

// kind says what a command is as far as routing is concerned; "" for one that no route touches.
func kind(r *Routing, l Line) string {
	n, c := name(l.Command), coll(l.Command)
	if n == "aggregate" && !r.moved(c) && slices.ContainsFunc(array(get(l.Command, "pipeline")), func(s any) bool { return joins(r, doc(s)) }) {
		return "aggregate of platform data joined with tenants'"
	}
	if !r.moved(c) && !slices.Contains([]string{"getMore", "killCursors", "commitTransaction", "abortTransaction", "listCollections", "bulkWrite", "listDatabases"}, n) {
		return ""
	}
	s := subjectsOf(l.Command)
	k := n + s.extra + s.String(r, c)
	if l.Txn && n != "commitTransaction" && n != "abortTransaction" {
		return "in a transaction: " + k
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

// subjects collects whose documents a command is about, read from the top level of its filters alone.
type subjects struct {
	owners []any
	parts  int
	open   int // parts that name no tenant
	byID   int // of these, those that name documents by _id
	many   bool
	extra  string // what else is remarkable, the last of it
}

func subjectsOf(command bson.D) *subjects {
	s, c := &subjects{}, coll(command)
	switch n := name(command); n {
	case "find":
		s.filter(c, get(command, "filter"))
	case "count", "distinct":
		s.filter(c, get(command, "query"))
	case "findAndModify":
		s.write(c, get(command, "query"), command)
	case "aggregate":
		s.pipeline(c, array(get(command, "pipeline")))
	case "insert":
		for _, d := range array(get(command, "documents")) {
			s.owners = append(s.owners, dig(doc(d), tenantField(c)))
		}
		s.parts = len(s.owners)
	case "update", "delete":
		for _, e := range array(get(command, n+"s")) {
			s.write(c, get(doc(e), "q"), doc(e))
		}
	}
	return s
}

func (s *subjects) pipeline(c string, stages bson.A) {
	for i, st := range stages {
		d := doc(st)
		if i == 0 {
			s.filter(c, get(d, "$match"))
		}
		if len(d) == 1 && slices.Contains([]string{"$lookup", "$unionWith", "$facet", "$group"}, d[0].Key) {
			s.extra = " with " + d[0].Key
		}
	}
}

// write reads an entry of a batch, or a findAndModify.
func (s *subjects) write(c string, filter any, entry bson.D) {
	s.filter(c, filter)
	s.many = s.many || get(entry, "multi") == true || get(entry, "limit") == int32(0)
	u := get(entry, "u")
	if u == nil {
		u = get(entry, "update")
	}
	_, pipeline := u.(bson.A)
	switch {
	case pipeline:
		s.extra = " by a pipeline"
	case get(entry, "upsert") == true:
		s.extra = ", upsert,"
	case s.extra == "" && len(doc(u)) > 0 && !strings.HasPrefix(doc(u)[0].Key, "$"):
		s.extra = " by replacement"
	}
}

func (s *subjects) filter(c string, filter any) {
	f := doc(filter)
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

// String says whose they are.
func (s *subjects) String(r *Routing, c string) string {
	homes := map[*Tenant]bool{}
	for _, o := range s.owners {
		t := r.tenant(o)
		if t != nil && !r.separate(t, c) {
			t = nil
		}
		homes[t] = true
	}
	many := ""
	if s.many {
		many = ", many"
	}
	switch {
	case s.parts == 0:
		return ""
	case len(homes) > 1:
		return " of several homes" + many
	case s.open == 0:
		return " of one home" + many
	case s.open == s.byID:
		return " by _id" + many
	}
	return " without a tenant" + many
}
