package work

import (
	"cmp"
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

// note counts a command, and what the proxy has refused of it.
func (r *run) note(l Line, no *refusals) {
	c := r.g.Coverage
	if no.whole != nil {
		c.refusals[no.whole]++
	}
	for _, t := range no.writes {
		c.refusals[t]++
	}
	served := no.whole == nil
	if n := len(no.writes); n > 0 {
		_, places := no.done(l.Command)
		served = len(places) > 0
	}
	kinds := append(kindsOf(&r.p.Routing, l), r.viewKinds(l.Command)...)
	if no.any() && served {
		kinds = append(kinds, name(l.Command)+" but for writes that are refused")
	}
	if len(r.left[coll(l.Command)]) > 0 && len(kinds) > 0 {
		kinds = append(kinds, kinds[0]+", beside what was left in shared")
	}
	for _, k := range kinds {
		n := c.kinds[k]
		if n == nil {
			n = &count{}
			c.kinds[k] = n
		}
		if served {
			n.served++
		} else {
			n.refused++
		}
	}
}

// mustServe are the kinds that no run may leave out; what the proxy learns to serve is added.
var mustServe = []string{
	"abortTransaction",
	"aggregate filtered by $not over homes",
	"aggregate for the comment's tenant",
	"aggregate joined with a view",
	"aggregate of a view",
	"aggregate of one home",
	"aggregate of platform data joined with tenants'",
	"aggregate of several homes",
	"aggregate with $bucket over homes",
	"aggregate with $bucketAuto over homes",
	"aggregate with $count over homes",
	"aggregate with $facet over homes",
	"aggregate with $fill over homes",
	"aggregate with $graphLookup over homes",
	"aggregate with $group of $addToSet over homes",
	"aggregate with $group of $avg over homes",
	"aggregate with $group of $count over homes",
	"aggregate with $group of $max over homes",
	"aggregate with $group of $min over homes",
	"aggregate with $group of $push over homes",
	"aggregate with $group of $stdDevPop over homes",
	"aggregate with $group of $sum over homes",
	"aggregate with $group of one home",
	"aggregate with $limit over homes",
	"aggregate with $lookup of platform data over homes",
	"aggregate with $lookup of tenant data of one home",
	"aggregate with $lookup of tenant data over homes",
	"aggregate with $redact over homes",
	"aggregate with $replaceRoot over homes",
	"aggregate with $replaceWith over homes",
	"aggregate with $sample over homes",
	"aggregate with $set over homes",
	"aggregate with $setWindowFields over homes",
	"aggregate with $skip and $limit over homes",
	"aggregate with $skip over homes",
	"aggregate with $sort and $limit over homes",
	"aggregate with $sort over homes",
	"aggregate with $sortByCount over homes",
	"aggregate with $unionWith of one home",
	"aggregate with $unionWith over homes",
	"aggregate with $unset over homes",
	"aggregate with $unwind over homes",
	"aggregate with let over homes",
	"aggregate without a tenant",
	"aggregate without a tenant, beside what was left in shared",
	"bulkWrite but for writes that are refused",
	"bulkWrite of many documents",
	"bulkWrite of two collections",
	"bulkWrite with an upsert",
	"collMod",
	"collStats",
	"commitTransaction",
	"count for the comment's tenant",
	"count of a view",
	"count of one home",
	"count of several homes",
	"count with hint over homes",
	"count with limit over homes",
	"count with skip over homes",
	"count without a tenant",
	"count without a tenant, beside what was left in shared",
	"count without a tenant, in shared alone",
	"create",
	"create of a view",
	"createIndexes",
	"dbStats",
	"delete by _id",
	"delete by _id, beside what was left in shared",
	"delete by _id, in shared alone",
	"delete by _id, unheard",
	"delete for the comment's tenant",
	"delete of one home",
	"delete of one home, many",
	"delete without a tenant, many",
	"delete without a tenant, many, beside what was left in shared",
	"distinct of a view",
	"distinct of one home",
	"distinct of several homes",
	"distinct without a tenant",
	"drop",
	"drop of a view",
	"dropIndexes",
	"endSessions",
	"explain of aggregate, as its option",
	"explain of count without a tenant",
	"explain of find without a tenant",
	"explain of findAndModify by _id",
	"explain of update by _id",
	"find by _id",
	"find by _id, beside what was left in shared",
	"find by _id, in shared alone",
	"find filtered by $expr over homes",
	"find filtered by $nor over homes",
	"find filtered by $not over homes",
	"find filtered by $regex over homes",
	"find filtered by $type over homes",
	"find for the comment's tenant",
	"find of a view",
	"find of one home",
	"find of several homes",
	"distinct with collation over homes",
	"find with collation over homes",
	"find with hint over homes",
	"find with let over homes",
	"find with limit over homes",
	"find with max over homes",
	"find with min over homes",
	"find with projection over homes",
	"find with skip over homes",
	"find with sort over homes",
	"find without a tenant",
	"find without a tenant, beside what was left in shared",
	"find without a tenant, in shared alone",
	"findAndModify by _id",
	"findAndModify of one home",
	"findAndModify with arrayFilters over homes",
	"findAndModify with let over homes",
	"findAndModify with sort over homes",
	"getMore",
	"in a transaction, on two clusters: find by _id",
	"in a transaction, on two clusters: insert of one home",
	"in a transaction, on two clusters: update by _id",
	"in a transaction: delete by _id",
	"in a transaction: distinct without a tenant",
	"in a transaction: find by _id",
	"in a transaction: find of one home",
	"in a transaction: find without a tenant",
	"in a transaction: findAndModify by _id",
	"in a transaction: getMore",
	"in a transaction: insert of one home",
	"in a transaction: update by _id",
	"in a transaction: update without a tenant, many",
	"insert of one home",
	"insert of one home, unheard",
	"insert of several homes",
	"insert twice with one number",
	"killCursors",
	"killSessions",
	"listCollections",
	"listIndexes",
	"update but for writes that are refused",
	"update by $addToSet over homes",
	"update by $mul over homes",
	"update by $rename over homes",
	"update by _id",
	"update by _id, beside what was left in shared",
	"update by _id, in shared alone",
	"update by _id, unheard",
	"update by a pipeline over homes",
	"update by replacement over homes",
	"update for the comment's tenant",
	"update of one home",
	"update of one home, many",
	"update of several homes",
	"update twice with one number",
	"update with arrayFilters over homes",
	"update with let over homes",
	"update with sort over homes",
	"update without a tenant, many",
	"update without a tenant, many, beside what was left in shared",
	"update, upsert of many, of one home",
	"update, upsert of many, over homes",
	"update, upsert, over homes",
	"validate",
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

// kindsOf says what a command is as far as routing is concerned, by all that is remarkable of it;
// none for one that no route touches.
func kindsOf(r *Routing, l Line) []string {
	n, c := name(l.Command), coll(l.Command)
	if explains(l.Command) {
		if n != "explain" {
			return []string{"explain of aggregate, as its option"}
		}
		for _, kind := range kindsOf(r, Line{Command: inner(l.Command)}) {
			return []string{"explain of " + kind}
		}
		return nil
	}
	if n == "aggregate" && !r.moved(c) && slices.ContainsFunc(array(get(l.Command, "pipeline")), func(s any) bool { return joins(r, doc(s)) }) {
		return []string{"aggregate of platform data joined with tenants'"}
	}
	if n == "bulkWrite" {
		return bulkKinds(r, l)
	}
	if !r.moved(c) && !slices.Contains([]string{"getMore", "killCursors", "commitTransaction", "abortTransaction", "listCollections", "listDatabases", "dbStats", "endSessions", "killSessions", "refreshSessions"}, n) {
		return nil
	}
	s := subjectsOf(l.Command)
	where := s.String(r, c)
	if s.open > 0 && r.Without == "shared" && commentTenant(l.Command) == nil {
		where += ", in shared alone"
	}
	kinds := []string{n + where}
	of := " over homes" // all of them, or some
	if where == "" || strings.HasPrefix(where, " of one home") {
		of = " of one home"
	}
	for extra := range s.extras {
		kinds = append(kinds, n+extra+of)
	}
	switch {
	case l.Unheard:
		return []string{n + where + ", unheard"}
	case l.Again:
		kinds = append(kinds, n+" twice with one number")
	case commentTenant(l.Command) != nil:
		kinds = append(kinds, n+" for the comment's tenant")
	case l.Txn && !ends(l):
		on := "in a transaction: "
		if r.spans(c) {
			on = "in a transaction, on two clusters: "
		}
		return []string{on + n + where}
	}
	return kinds
}

// bulkKinds are those of a bulkWrite, which names its collections apart.
func bulkKinds(r *Routing, l Line) []string {
	touched := 0
	for _, info := range array(get(l.Command, "nsInfo")) {
		ns, _ := get(doc(info), "ns").(string)
		if _, c, _ := strings.Cut(ns, "."); r.moved(c) {
			touched++
		}
	}
	if touched == 0 {
		return nil
	}
	kinds := []string{"bulkWrite"}
	if touched > 1 {
		kinds = append(kinds, "bulkWrite of two collections")
	}
	for _, op := range array(get(l.Command, "ops")) {
		switch d := doc(op); {
		case get(d, "upsert") == true:
			kinds = append(kinds, "bulkWrite with an upsert")
		case get(d, "multi") == true:
			kinds = append(kinds, "bulkWrite of many documents")
		}
	}
	return kinds
}

// spans reports whether documents of the collection are on several clusters.
func (r *Routing) spans(c string) bool {
	return slices.ContainsFunc(r.Tenants, func(t Tenant) bool { return t.Home == "big" && r.separate(&t, c) })
}

// joins reports whether a stage reads a collection that some tenant has elsewhere, also within.
func joins(r *Routing, stage bson.D) bool {
	if len(stage) != 1 {
		return false
	}
	spec := doc(stage[0].Value)
	within := bson.A{get(spec, "pipeline")}
	switch stage[0].Key {
	case "$facet":
		for _, e := range spec {
			within = append(within, e.Value)
		}
	case "$lookup", "$graphLookup", "$unionWith":
		from, _ := cmp.Or(get(spec, "from"), get(spec, "coll")).(string)
		if r.moved(from) {
			return true
		}
	default:
		return false
	}
	return slices.ContainsFunc(within, func(stages any) bool {
		return slices.ContainsFunc(array(stages), func(s any) bool { return joins(r, doc(s)) })
	})
}

// subjects collects whose documents a command is about, read from the top level of its filters alone.
type subjects struct {
	owners []any
	parts  int
	open   int // parts that name no tenant
	byID   int // of these, those that name documents by _id
	many   bool
	extras map[string]bool // what else is remarkable
}

func subjectsOf(command bson.D) *subjects {
	s, c := &subjects{extras: map[string]bool{}}, coll(command)
	for _, key := range []string{"sort", "skip", "limit", "collation", "projection", "hint", "min", "max", "let", "arrayFilters"} {
		if get(command, key) != nil {
			s.extras[" with "+key] = true
		}
	}
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
	before := ""
	for i, st := range stages {
		d := doc(st)
		if i == 0 {
			s.filter(c, get(d, "$match"))
		}
		if len(d) != 1 {
			continue
		}
		what := d[0].Key
		if slices.Contains([]string{"$sort", "$skip"}, before) && what == "$limit" {
			s.extras[" with "+before+" and $limit"] = true
		}
		before = what
		switch what {
		case "$lookup":
			from, _ := get(doc(d[0].Value), "from").(string)
			what += " of " + map[bool]string{true: "platform", false: "tenant"}[moduleOf(from) == ""] + " data"
		case "$group":
			for _, e := range doc(d[0].Value) {
				if acc := doc(e.Value); len(acc) == 1 && strings.HasPrefix(acc[0].Key, "$") {
					s.extras[" with $group of "+acc[0].Key] = true
				}
			}
		case "$match", "$addFields", "$project":
			continue
		}
		s.extras[" with "+what] = true
	}
	if len(stages) == 0 {
		s.filter(c, nil)
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
	for _, e := range doc(u) {
		if strings.HasPrefix(e.Key, "$") {
			s.extras[" by "+e.Key] = true
		}
	}
	for _, key := range []string{"sort", "arrayFilters"} {
		if get(entry, key) != nil {
			s.extras[" with "+key] = true
		}
	}
	_, pipeline := u.(bson.A)
	switch {
	case pipeline:
		s.extras[" by a pipeline"] = true
	case get(entry, "upsert") == true && get(entry, "multi") == true:
		s.extras[", upsert of many,"] = true
	case get(entry, "upsert") == true:
		s.extras[", upsert,"] = true
	case len(doc(u)) > 0 && !strings.HasPrefix(doc(u)[0].Key, "$"):
		s.extras[" by replacement"] = true
	}
}

// operators are those of a filter, wherever they stand in it.
func (s *subjects) operators(v any) {
	switch v := v.(type) {
	case bson.D:
		for _, e := range v {
			if strings.HasPrefix(e.Key, "$") {
				s.extras[" filtered by "+e.Key] = true
			}
			if e.Key != "$expr" {
				s.operators(e.Value)
			}
		}
	case bson.A:
		for _, e := range v {
			s.operators(e)
		}
	}
}

func (s *subjects) filter(c string, filter any) {
	f := doc(filter)
	s.parts++
	s.operators(f)
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
