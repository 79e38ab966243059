package demo

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"pgregory.net/rapid"
)

// Hostile commands, drawn without sense, against a server with victims' documents and against one
// without: what comes back may not differ by a byte, in documents, counts, errors or texts, and victims
// keep what they have. Left out is what is known to tell: that an _id or unique value is taken.
func TestHostile(t *testing.T) {
	skipShort(t)
	full, bare := newAttackGround(t, false), newAttackGround(t, true)
	before := full.victimsDocs(t)
	setDefault(t, "rapid.checks", map[bool]string{false: "400", true: "1500"}[long()])
	if !long() {
		setDefault(t, "rapid.seed", "1")
	}
	setDefault(t, "rapid.nofailfile", "true")
	setDefault(t, "rapid.shrinktime", "10s")
	served, refused := map[string]int{}, map[int]int{}
	rapid.Check(t, func(r *rapid.T) {
		h := hostile{T: r}
		tenant := rapid.SampledFrom(attackers).Draw(r, "attacker")
		var cmds []doc
		for range rapid.IntRange(1, 12).Draw(r, "commands") {
			cmds = append(cmds, h.command())
		}
		for _, cmd := range cmds {
			got, code := run(t.Context(), full.as[tenant], cmd)
			want, _ := run(t.Context(), bare.as[tenant], cmd)
			if g, w := plainReply(got), plainReply(want); g != w {
				r.Fatalf("%s can tell that there are victims\n%s\n%s\n%s", tenant, lineOf(cmd), g, w)
			}
			if code < 0 {
				r.Fatalf("no server's answer to\n%s\n%s", lineOf(cmd), got)
			}
			if code == 0 {
				served[cmd[0].Key]++
			}
			refused[code]++
		}
		if !slices.ContainsFunc(cmds, writes) {
			return
		}
		for _, g := range []*attackGround{full, bare} {
			g.restore(t.Context(), r, tenant)
		}
	})
	if after := full.victimsDocs(t); after != before {
		t.Errorf("victims had\n%s\nand have\n%s", before, after)
	}
	t.Logf("served: %v; by code: %v", served, refused)
	for _, kind := range []string{"find", "aggregate", "count", "distinct", "insert", "update", "delete", "findAndModify", "bulkWrite"} {
		if served[kind] == 0 {
			t.Errorf("no %s was served, so nothing is proved of it", kind)
		}
	}
}

func writes(cmd doc) bool {
	switch cmd[0].Key {
	case "insert", "update", "delete", "findAndModify", "bulkWrite":
		return true
	case "aggregate":
		return strings.Contains(lineOf(cmd), "$merge")
	}
	return false
}

// restore gives an attacker the documents back that it began with.
func (g *attackGround) restore(ctx context.Context, r *rapid.T, tenant string) {
	for _, db := range []*mongo.Database{g.server, g.server.Client().Database(own)} {
		for _, coll := range attackCollections {
			if _, err := db.Collection(coll).DeleteMany(ctx, bson.D{{Key: "tenantId", Value: tenant}}); err != nil {
				r.Fatal(err)
			}
		}
	}
	for _, coll := range attackCollections {
		if err := g.insert(ctx, coll, tenant, "own"); err != nil {
			r.Fatal(err)
		}
	}
}

// changing is what differs between two servers whatever anybody does.
var changing = []*regexp.Regexp{
	regexp.MustCompile(`,?"(\$clusterTime|operationTime|topologyVersion)": \{.*$`),
	regexp.MustCompile(`"localTime": \{"\$date":\{[^}]*\}\}`),
	regexp.MustCompile(`\{"\$oid":"[0-9a-f]*"\}`), regexp.MustCompile(`ObjectId\('[0-9a-f]*'\)`),
	regexp.MustCompile(`"id": \{"\$numberLong":"\d+"\}`),
}

// plainReply is a reply as text, without what changes, and its rows in an order of their own.
func plainReply(reply bson.Raw) string {
	text := string(reply)
	if reply.Validate() == nil {
		text = reply.String()
		if batch, ok := reply.Lookup("cursor", "firstBatch").ArrayOK(); ok {
			values, _ := batch.Values()
			var rows []string
			for _, v := range values {
				rows = append(rows, v.String())
			}
			slices.Sort(rows)
			text = strings.Join(rows, "\n") + text[strings.LastIndex(text, "]"):]
		}
	} else if d, _, ok := readRaw(reply); ok { // an error's reply and its message
		text = plainReply(d) + string(reply[len(d):])
	}
	for _, x := range changing {
		text = x.ReplaceAllString(text, "")
	}
	return text
}

func readRaw(b []byte) (d bson.Raw, rest []byte, ok bool) {
	if len(b) < 5 {
		return nil, b, false
	}
	n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	if n < 5 || n >= len(b) || bson.Raw(b[:n]).Validate() != nil {
		return nil, b, false
	}
	return b[:n], b[n:], true
}

// hostile draws commands.
type hostile struct{ *rapid.T }

func (h hostile) n(label string, most int) int { return rapid.IntRange(0, most).Draw(h.T, label) }

func choose[T any](h hostile, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(h.T, label)
}

func (h hostile) coll() string {
	return choose(h, "collection", "orders", "orders", "orders", "tasks", "users", "packages", "roles", "system.views", "stolen")
}

func (h hostile) field() string {
	return choose(h, "field", "n", "secret", "state", "tenantId", "tags", "deep.secret", "deep", "ref", "_id", "in", "x", "a.b")
}

func (h hostile) tenant() any {
	return choose[any](h, "tenant", "globex", "acme", "umbrella", "GLOBEX", "wayne", nil, 1, arr{"globex", "umbrella"})
}

func (h hostile) value() any {
	return choose[any](h, "value", 0, 1, 2, 1.5, "own", mark, "globex-1", "globex-2", true, nil, int64(7), arr{1, "own"}, of("secret", mark),
		bson.Regex{Pattern: "^V", Options: ""}, bson.Regex{Pattern: "o"}, bson.DateTime(0), bson.MinKey{}, bson.MaxKey{})
}

func (h hostile) filter(depth int) doc {
	d := doc{}
	for range h.n("clauses", 2) {
		kind := choose(h, "clause", "field", "field", "field", "tenant", "ops", "logic", "expr", "odd")
		if depth > 2 && kind == "logic" {
			kind = "field"
		}
		switch kind {
		case "field":
			d = append(d, bson.E{Key: h.field(), Value: h.value()})
		case "tenant":
			d = append(d, bson.E{Key: "tenantId", Value: h.tenant()})
		case "ops":
			d = append(d, bson.E{Key: h.field(), Value: h.ops(depth)})
		case "logic":
			var subs arr
			for range 1 + h.n("branches", 2) {
				subs = append(subs, h.filter(depth+1))
			}
			d = append(d, bson.E{Key: choose(h, "logic", "$and", "$or", "$nor"), Value: subs})
		case "expr":
			d = append(d, bson.E{Key: "$expr", Value: h.expr(depth)})
		case "odd":
			d = append(d, choose(h, "odd", bson.E{Key: "$where", Value: "1"}, bson.E{Key: "$comment", Value: "x"}, bson.E{Key: "$alwaysTrue", Value: 1},
				bson.E{Key: "tenantId", Value: of("$exists", true)}, bson.E{Key: "$jsonSchema", Value: of("required", arr{"secret"})}, bson.E{Key: "$no", Value: 1}))
		}
	}
	return d
}

func (h hostile) ops(depth int) doc {
	switch op := choose(h, "operator", "$eq", "$ne", "$gt", "$lte", "$in", "$nin", "$exists", "$type", "$size", "$all", "$elemMatch", "$not", "$mod", "$regex", "$no"); op {
	case "$in", "$nin", "$all":
		return of(op, arr{h.value(), h.tenant()})
	case "$exists":
		return of(op, true)
	case "$type":
		return of(op, choose[any](h, "type", "string", 2, "array"))
	case "$size":
		return of(op, h.n("size", 3))
	case "$elemMatch":
		return of(op, h.filter(depth+1))
	case "$not":
		if depth > 2 {
			return of(op, of("$eq", h.value()))
		}
		return of(op, h.ops(depth+1))
	case "$mod":
		return of(op, arr{2, 0})
	case "$regex":
		return of(op, choose(h, "pattern", "V", "^VICTIM", "own"))
	default:
		return of(op, h.value())
	}
}

func (h hostile) expr(depth int) any {
	if depth > 3 {
		return choose[any](h, "leaf", "$secret", "$n", "$tenantId", "$$ROOT", 1, "own", mark)
	}
	one := func() any { return h.expr(depth + 1) }
	switch op := choose(h, "expression", "leaf", "leaf", "$eq", "$gt", "$and", "$or", "$not", "$cond", "$ifNull", "$in", "$toInt", "$divide", "$concat", "$toUpper",
		"$arrayElemAt", "$literal", "$function", "$$USER_ROLES", "$strLenCP", "$let", "$objectToArray", "$no", "object"); op {
	case "leaf":
		return h.expr(9)
	case "$and", "$or", "$eq", "$gt", "$divide", "$concat", "$ifNull":
		return of(op, arr{one(), one()})
	case "$in":
		return of(op, arr{one(), choose[any](h, "list", arr{1, "own", mark}, "$tags")})
	case "$cond":
		return of(op, arr{of("$eq", arr{"$tenantId", h.tenant()}), one(), one()})
	case "$arrayElemAt":
		return of(op, arr{"$tags", 0})
	case "$literal":
		return of(op, h.value())
	case "$function":
		return of(op, of("body", "f", "args", arr{}, "lang", "js"))
	case "$$USER_ROLES":
		return op
	case "$let":
		return of(op, of("vars", of("v", one()), "in", "$$v"))
	case "object":
		return of("x", one())
	default:
		return of(op, one())
	}
}

func (h hostile) stages(depth int) arr {
	p := arr{}
	for range h.n("stages", 3) {
		p = append(p, h.stage(depth))
	}
	return p
}

func (h hostile) stage(depth int) doc {
	kind := choose(h, "stage", "$match", "$match", "$match", "$project", "$set", "$unset", "$group", "$sort", "$limit", "$skip", "$count", "$sortByCount", "$unwind",
		"$replaceWith", "$redact", "$lookup", "$lookup", "$unionWith", "$unionWith", "$facet", "$bucketAuto", "$out", "$merge", "$collStats", "$documents", "$no", "two")
	if depth > 1 && (kind == "$lookup" || kind == "$unionWith" || kind == "$facet") {
		kind = "$match"
	}
	switch kind {
	case "$match":
		return of(kind, h.filter(0))
	case "$project", "$set":
		return of(kind, of(choose(h, "new field", "x", "y", "tenantId", "secret"), h.expr(0)))
	case "$unset":
		return of(kind, h.field())
	case "$group":
		return of(kind, of("_id", h.expr(2), "v", of(choose(h, "accumulator", "$sum", "$max", "$min", "$push", "$addToSet", "$first", "$accumulator"), h.expr(2))))
	case "$sort":
		return of(kind, of(h.field(), 1, "_id", 1))
	case "$limit":
		return of(kind, 1+h.n("limit", 5))
	case "$skip":
		return of(kind, h.n("skip", 3))
	case "$count":
		return of(kind, "n")
	case "$sortByCount":
		return of(kind, h.expr(2))
	case "$unwind":
		return of(kind, "$tags")
	case "$replaceWith":
		return of(kind, of("v", h.expr(1)))
	case "$redact":
		return of(kind, of("$cond", arr{of("$eq", arr{"$tenantId", h.tenant()}), "$$KEEP", "$$PRUNE"}))
	case "$lookup":
		d := of("from", h.coll(), "as", choose(h, "as", "j", "secret"))
		if rapid.Bool().Draw(h.T, "by fields") {
			d = append(d, of("localField", h.field(), "foreignField", h.field())...)
		}
		if len(d) == 2 || rapid.Bool().Draw(h.T, "by pipeline") {
			d = append(d, bson.E{Key: "pipeline", Value: h.stages(depth + 1)})
		}
		return of(kind, d)
	case "$unionWith":
		if rapid.Bool().Draw(h.T, "bare") {
			return of(kind, h.coll())
		}
		return of(kind, of("coll", h.coll(), "pipeline", h.stages(depth+1)))
	case "$facet":
		return of(kind, of("a", h.stages(depth+1), "b", h.stages(depth+1)))
	case "$bucketAuto":
		return of(kind, of("groupBy", "$n", "buckets", 2))
	case "$out":
		return of(kind, choose[any](h, "out", "tasks", of("db", "smetasc_tenant_wayne", "coll", "orders")))
	case "$merge":
		return of(kind, of("into", choose[any](h, "into", "tasks", "roles", of("db", "smetasc_tenant_wayne", "coll", "tasks"))))
	case "$collStats":
		return of(kind, of("count", doc{}))
	case "$documents":
		return of(kind, arr{of("n", 1)})
	case "two":
		return of("$match", h.filter(1), "$limit", 1)
	}
	return of(kind, 1)
}

func (h hostile) update() any {
	switch choose(h, "update", "operators", "operators", "replacement", "pipeline") {
	case "replacement":
		return of(choose(h, "first", "n", "secret", "tenantId"), h.value(), "x", h.value())
	case "pipeline":
		return arr{choose(h, "update stage", of("$set", of(h.field(), h.expr(1))), of("$unset", h.field()), of("$replaceWith", of("v", h.expr(1))), of("$lookup", doc{}))}
	}
	d := doc{}
	for range 1 + h.n("operators", 1) {
		op := choose(h, "update operator", "$set", "$set", "$setOnInsert", "$unset", "$inc", "$rename", "$push", "$addToSet", "$pull", "$min", "$no")
		v := h.value()
		switch op {
		case "$rename":
			v = h.field()
		case "$pull":
			v = choose[any](h, "pulled", "own", of("$in", arr{"own"}), of("$where", "1"))
		}
		d = append(d, bson.E{Key: op, Value: of(h.field(), v)})
	}
	return d
}

// upserted is a filter of an upsert: of no _id that a victim has.
func (h hostile) upserted() doc {
	return of("_id", choose(h, "new _id", "globex-1", "acme-1", "new-1", "new-2"))
}

func (h hostile) document() doc {
	d := of("_id", choose[any](h, "_id", "new-1", "new-2", "new-3"))
	if rapid.Bool().Draw(h.T, "tenant") {
		d = append(d, bson.E{Key: "tenantId", Value: h.tenant()})
	}
	return append(d, bson.E{Key: "n", Value: h.value()})
}

func (h hostile) command() doc {
	cmd := h.bare()
	if h.n("extra", 4) == 0 {
		cmd = append(cmd, choose(h, "extra",
			bson.E{Key: "collation", Value: of("locale", "en", "strength", 1)}, bson.E{Key: "let", Value: of("v", h.expr(2))}, bson.E{Key: "comment", Value: of("tenantry", of("tenant", h.tenant()))},
			bson.E{Key: "maxTimeMS", Value: 5000}, bson.E{Key: "$audit", Value: 1}, bson.E{Key: "bypassDocumentValidation", Value: true}, bson.E{Key: "shiny", Value: 1},
			bson.E{Key: "hint", Value: of("_id", 1)}))
	}
	return cmd
}

func (h hostile) bare() doc {
	c := h.coll()
	switch choose(h, "command", "find", "find", "aggregate", "aggregate", "aggregate", "count", "distinct", "insert", "update", "update", "delete", "findAndModify", "bulkWrite", "list") {
	case "find":
		d := findIn(c, h.filter(0))
		if rapid.Bool().Draw(h.T, "more") {
			d = append(d, of("sort", of("n", 1, "_id", 1), "projection", of("x", h.expr(1)), "skip", h.n("skip", 2), "limit", 1+h.n("limit", 3))...)
		}
		return d
	case "aggregate":
		return pipe(c, h.stages(0)...)
	case "count":
		return of("count", c, "query", h.filter(0))
	case "distinct":
		return of("distinct", c, "key", h.field(), "query", h.filter(0))
	case "insert":
		return of("insert", c, "documents", arr{h.document(), h.document()}, "ordered", rapid.Bool().Draw(h.T, "ordered"))
	case "update":
		up := rapid.Bool().Draw(h.T, "upsert")
		q := h.filter(0)
		if up {
			q = h.upserted()
		}
		u := h.update()
		_, operators := u.(doc)
		return of("update", c, "updates", arr{of("q", q, "u", u, "upsert", up, "multi", operators && rapid.Bool().Draw(h.T, "multi"))})
	case "delete":
		return of("delete", c, "deletes", arr{of("q", h.filter(0), "limit", h.n("limit", 1))})
	case "findAndModify":
		if rapid.Bool().Draw(h.T, "remove") {
			return of("findAndModify", c, "query", h.filter(0), "remove", true, "sort", of("_id", 1))
		}
		return of("findAndModify", c, "query", h.upserted(), "update", h.update(), "upsert", rapid.Bool().Draw(h.T, "upsert"), "new", true)
	case "bulkWrite":
		return of("bulkWrite", 1, "ops", arr{
			of("insert", 0, "document", h.document()), of("update", h.n("ns", 1), "filter", h.filter(0), "updateMods", h.update(), "multi", false),
			of("delete", 1, "filter", h.filter(1), "multi", true),
		}, "nsInfo", arr{of("ns", "smetasc_shared.orders"), of("ns", "smetasc_shared."+c)}, "$db", "admin")
	}
	return choose(h, "list", of("listCollections", 1), of("listIndexes", c), of("listDatabases", 1, "$db", "admin"), of("collStats", c), of("dbStats", 1))
}
