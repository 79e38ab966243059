package demo

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

type (
	doc = bson.D
	arr = bson.A
)

// of is a document with the given keys and values in turn.
func of(pairs ...any) doc {
	d := doc{}
	for i := 0; i < len(pairs); i += 2 {
		d = append(d, bson.E{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return d
}

// attack is one way to another tenant's documents. Naive is what a proxy would send that does not close
// it: sent to the server itself it must reach a victim's document, or the test proves nothing.
type attack struct {
	name  string
	cmd   doc
	naive doc // nil where that is the same
	// What the naive one does: shows a victim's mark, or changes what victims have. Of what is left
	// the server that stands in can show nothing, and the refusal's code is all that is looked at.
	shows, changes bool
	code           int // that the refusal has; 0 where the attack is answered, with nothing of others
}

func findIn(coll string, filter doc, more ...any) doc {
	return append(of("find", coll, "filter", filter), of(more...)...)
}

func pipe(coll any, stages ...any) doc {
	return of("aggregate", coll, "pipeline", append(arr{}, stages...), "cursor", doc{})
}

func updateOne(q doc, u any, more ...any) doc {
	return of("update", "orders", "updates", arr{append(of("q", q, "u", u), of(more...)...)})
}

var (
	anybody = doc{}
	mine    = of("_id", "globex-1")
	oracle  = of("$expr", of("$eq", arr{of("$toInt", of("$cond", arr{of("$eq", arr{"$tenantId", "umbrella"}), "$secret", 1})), 1}))
	nobody  = of("tenantId", "nobody")
)

var attacks = []attack{
	// Reading.
	{name: "no filter", cmd: findIn("orders", anybody), shows: true},
	{name: "another tenant", cmd: findIn("orders", of("tenantId", "umbrella")), shows: true, code: 13},
	{name: "several tenants", cmd: findIn("orders", of("tenantId", of("$in", arr{"globex", "umbrella"}))), shows: true},
	{name: "everybody but", cmd: findIn("orders", of("tenantId", of("$ne", "globex"))), shows: true},
	{name: "or", cmd: findIn("orders", of("$or", arr{of("tenantId", "globex"), of("n", 1)})), shows: true},
	{name: "the field twice", cmd: findIn("orders", of("tenantId", "globex", "tenantId", of("$exists", true))), shows: true},
	{name: "an _id", cmd: findIn("orders", of("_id", "umbrella-1")), shows: true},
	{name: "a collation", cmd: findIn("orders", of("tenantId", "globex"), "collation", of("locale", "en", "strength", 2)), shows: true},
	{name: "a collation in a pipeline", cmd: append(pipe("orders", of("$match", of("tenantId", "globex"))), of("collation", of("locale", "en", "strength", 1))...), shows: true},
	{name: "an index's keys", cmd: findIn("orders", anybody, "hint", of("_id", 1), "returnKey", true, "projection", of("secret", 1)), naive: findIn("orders", anybody), shows: true},
	{name: "distinct", cmd: of("distinct", "orders", "key", "secret"), shows: true},
	{name: "distinct of tenants", cmd: of("distinct", "orders", "key", "tenantId", "query", of("secret", mark)), naive: of("distinct", "orders", "key", "secret"), shows: true},
	{name: "another database", cmd: append(findIn("orders", anybody), of("$db", "smetasc_tenant_wayne")...), shows: true},
	{name: "another database of platform data", cmd: findIn("roles", anybody), shows: true, code: 13},
	{name: "own rows of platform data", cmd: findIn("users", anybody), shows: true},
	{name: "the control database", cmd: append(findIn("routes", anybody), of("$db", "tenantry")...)},
	{name: "a system collection", cmd: findIn("system.views", anybody), code: 13},
	{name: "a UUID", cmd: of("find", bson.Binary{Subtype: 4, Data: make([]byte, 16)}), code: 73},
	{name: "a tenant in the comment", cmd: findIn("orders", anybody, "comment", of("tenantry", of("tenant", "umbrella"))), shows: true, code: 13},
	{name: "a field between servers", cmd: findIn("orders", anybody, "$audit", of("x", 1)), code: 13},

	// Pipelines.
	{name: "no match", cmd: pipe("orders"), shows: true},
	{name: "a match too late", cmd: pipe("orders", of("$limit", 100), of("$match", of("n", 1))), shows: true},
	{name: "lookup", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "orders", "localField", "n", "foreignField", "n", "as", "x"))), shows: true},
	{name: "lookup by pipeline", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "tasks", "pipeline", arr{}, "as", "x"))), shows: true},
	{name: "lookup in a lookup", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "tasks", "pipeline", arr{of("$lookup", of("from", "orders", "pipeline", arr{}, "as", "y"))}, "as", "x"))), shows: true},
	{name: "lookup of platform data", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "roles", "pipeline", arr{}, "as", "x"))), shows: true, code: 13},
	{name: "union", cmd: pipe("orders", of("$match", of("tenantId", "globex")), of("$unionWith", "tasks")), shows: true},
	{name: "union by pipeline", cmd: pipe("orders", of("$match", of("tenantId", "globex")), of("$unionWith", of("coll", "tasks", "pipeline", arr{of("$match", of("n", 1))}))), shows: true},
	{name: "union in a facet", cmd: pipe("orders", of("$facet", of("a", arr{of("$unionWith", "tasks")}))), naive: pipe("orders", of("$match", of("tenantId", "globex")), of("$unionWith", "tasks")), shows: true},
	{name: "lookup of rows in another database", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "users", "pipeline", arr{}, "as", "x"))), shows: true},
	{name: "lookup there by a field", cmd: pipe("orders", of("$lookup", of("from", "users", "localField", "none", "foreignField", "none", "as", "x"))), shows: true},
	{name: "union of rows in another database", cmd: pipe("orders", of("$match", of("tenantId", "globex")), of("$unionWith", "users"), of("$match", of("secret", mark))), shows: true},
	{name: "lookup back and forth", cmd: pipe("users", of("$limit", 1), of("$lookup", of("from", "orders", "pipeline", arr{}, "as", "x")), of("$lookup", of("from", "users", "pipeline", arr{}, "as", "y"))), shows: true},
	{name: "group", cmd: pipe("orders", of("$group", of("_id", nil, "all", of("$push", "$secret")))), shows: true},
	{name: "sample", cmd: pipe("orders", of("$sample", of("size", 50))), shows: true},
	{name: "collection figures", cmd: pipe("orders", of("$collStats", of("count", doc{})))},
	{name: "index figures", cmd: pipe("orders", of("$indexStats", doc{}))},
	{name: "current operations", cmd: append(pipe(1, of("$currentOp", of("allUsers", true))), of("$db", "admin")...), code: 13},
	{name: "sessions", cmd: pipe("system.sessions", of("$listSessions", doc{})), code: 13},
	{name: "an internal stage", cmd: pipe("orders", of("$_internalInhibitOptimization", doc{})), code: 13},
	{name: "roles of the proxy's own user", cmd: pipe("orders", of("$project", of("r", "$$USER_ROLES"))), code: 13},
	{name: "a change stream", cmd: pipe(1, of("$changeStream", doc{})), code: 13},
	{name: "a change stream of all", cmd: append(pipe(1, of("$changeStream", of("allChangesForCluster", true))), of("$db", "admin")...), code: 13},

	// Errors that tell, and code.
	{name: "an error in a filter", cmd: findIn("orders", oracle), naive: findIn("orders", of("$and", arr{oracle, nobody})), shows: true, code: 13},
	{name: "an error in a match", cmd: pipe("orders", of("$match", oracle)), naive: pipe("orders", of("$match", oracle), of("$match", nobody)), shows: true, code: -2},
	{name: "an error in a count", cmd: of("count", "orders", "query", oracle), naive: of("count", "orders", "query", of("$and", arr{oracle, nobody})), shows: true, code: 13},
	{name: "an error in an update", cmd: updateOne(oracle, of("$set", of("x", 1))), naive: updateOne(of("$and", arr{oracle, nobody}), of("$set", of("x", 1))), shows: true, code: 13},
	{name: "an error in a graph lookup", cmd: pipe("orders", of("$match", mine), of("$graphLookup", of("from", "orders", "startWith", "$n", "connectFromField", "n", "connectToField", "n", "as", "x", "restrictSearchWithMatch", oracle))), shows: true, code: 13},
	{name: "an error in a lookup", cmd: pipe("orders", of("$match", mine), of("$lookup", of("from", "orders", "pipeline", arr{of("$match", oracle)}, "as", "x"))), shows: true, code: -2},
	{name: "an error in a lookup of rows in another database", cmd: pipe("orders", of("$limit", 1), of("$lookup", of("from", "users", "pipeline", arr{of("$match", oracle)}, "as", "x"))), shows: true, code: -2},
	{name: "where", cmd: findIn("orders", of("$where", "true")), code: 13},
	{name: "a function", cmd: pipe("orders", of("$set", of("x", of("$function", of("body", "function(){}", "args", arr{}, "lang", "js"))))), code: 13},
	{name: "map and reduce", cmd: of("mapReduce", "orders", "map", "f", "reduce", "f", "out", of("inline", 1)), code: 13},

	// Figures and lists.
	{name: "explain", cmd: of("explain", findIn("orders", of("n", 1))), code: 13},
	{name: "explain of a pipeline", cmd: append(pipe("orders"), of("explain", true)...), code: 13},
	{name: "indexes", cmd: of("listIndexes", "orders")},
	{name: "collections", cmd: of("listCollections", 1)},
	{name: "collections by their options", cmd: of("listCollections", 1, "filter", of("options.validator", of("$exists", true))), code: 13},
	{name: "databases", cmd: of("listDatabases", 1, "$db", "admin")},
	{name: "size of a database", cmd: of("dbStats", 1), code: 13},
	{name: "operations", cmd: of("currentOp", 1, "$db", "admin"), code: 13},
	{name: "users", cmd: of("usersInfo", 1, "$db", "admin"), code: 13},
	{name: "top", cmd: of("top", 1, "$db", "admin"), code: 13},
	{name: "log", cmd: of("getLog", "global", "$db", "admin"), code: 96},
	{name: "all sessions", cmd: of("killAllSessions", arr{}, "$db", "admin"), code: 13},
	{name: "an unknown command", cmd: of("shinyNewCommand", 1), code: 59},

	// Writing.
	{name: "insert for another", cmd: of("insert", "orders", "documents", arr{of("_id", "new", "tenantId", "umbrella")}), changes: true, code: 66},
	{name: "insert with the field twice", cmd: of("insert", "orders", "documents", arr{of("_id", "new", "tenantId", "globex", "tenantId", "umbrella")}), changes: true, code: 2},
	{name: "insert for several", cmd: of("insert", "orders", "documents", arr{of("_id", "new", "tenantId", arr{"globex", "umbrella"})}), naive: of("insert", "orders", "documents", arr{of("_id", "new", "tenantId", "umbrella")}), changes: true, code: 2},
	{name: "insert for nobody", cmd: of("insert", "orders", "documents", arr{of("_id", "new")}), changes: true},
	{name: "insert past the validation", cmd: of("insert", "orders", "documents", arr{of("_id", "new", "tenantId", "globex")}, "bypassDocumentValidation", true), code: 13},
	{name: "update all", cmd: updateOne(anybody, of("$set", of("secret", "gone")), "multi", true), changes: true},
	{name: "update another's", cmd: updateOne(of("_id", "umbrella-1"), of("$set", of("secret", "gone"))), changes: true},
	{name: "give away", cmd: updateOne(mine, of("$set", of("tenantId", "umbrella"))), changes: true, code: 66},
	{name: "give away by a pipeline", cmd: updateOne(mine, arr{of("$set", of("tenantId", "umbrella"))}), changes: true},
	{name: "give away by a new root", cmd: updateOne(mine, arr{of("$replaceWith", of("_id", "$_id", "tenantId", "umbrella"))}), changes: true},
	{name: "unset", cmd: updateOne(mine, of("$unset", of("tenantId", ""))), changes: true, code: 66},
	{name: "rename from", cmd: updateOne(mine, of("$rename", of("tenantId", "x"))), changes: true, code: 66},
	{name: "rename to", cmd: updateOne(mine, of("$rename", of("secret", "tenantId"))), changes: true, code: 66},
	{name: "replace without", cmd: updateOne(mine, of("x", 1)), changes: true},
	{name: "replace for another", cmd: updateOne(mine, of("tenantId", "umbrella")), changes: true, code: 66},
	{name: "upsert without", cmd: updateOne(of("_id", "new"), of("$set", of("x", 1)), "upsert", true), changes: true},
	{name: "upsert for another", cmd: updateOne(of("_id", "new", "tenantId", "umbrella"), of("$set", of("x", 1)), "upsert", true), changes: true, code: 13},
	{name: "upsert for another on insert", cmd: updateOne(of("_id", "new"), of("$setOnInsert", of("tenantId", "umbrella")), "upsert", true), changes: true, code: 66},
	{name: "upsert a replacement", cmd: updateOne(of("_id", "new"), of("x", 1), "upsert", true), changes: true},
	{name: "delete all", cmd: of("delete", "orders", "deletes", arr{of("q", doc{}, "limit", 0)}), changes: true},
	{name: "delete another's", cmd: of("delete", "orders", "deletes", arr{of("q", of("_id", "umbrella-1"), "limit", 1)}), changes: true},
	{name: "delete under a collation", cmd: of("delete", "orders", "deletes", arr{of("q", of("tenantId", "globex"), "limit", 0, "collation", of("locale", "en", "strength", 2))}), changes: true},
	{name: "find and modify another's", cmd: of("findAndModify", "orders", "query", of("_id", "umbrella-1"), "update", of("$set", of("x", 1))), shows: true, changes: true},
	{name: "find and remove", cmd: of("findAndModify", "orders", "query", of("secret", mark), "remove", true), shows: true, changes: true},
	{name: "find and upsert", cmd: of("findAndModify", "orders", "query", of("_id", "new"), "update", of("x", 1), "upsert", true), changes: true},
	{name: "bulk write", cmd: of("bulkWrite", 1, "ops", arr{of("update", 0, "filter", doc{}, "updateMods", of("$set", of("x", 1)), "multi", true), of("delete", 0, "filter", of("_id", "umbrella-1"))},
		"nsInfo", arr{of("ns", "smetasc_shared.orders")}, "$db", "admin"), changes: true},
	{name: "bulk write elsewhere", cmd: of("bulkWrite", 1, "ops", arr{of("delete", 0, "filter", doc{}, "multi", true)}, "nsInfo", arr{of("ns", "smetasc_tenant_wayne.orders")}, "$db", "admin"), changes: true, code: 13},
	{name: "out", cmd: pipe("orders", of("$out", "tasks")), changes: true, code: 13},
	{name: "merge", cmd: pipe("orders", of("$set", of("_id", of("$concat", arr{"umbrella-", of("$toString", "$n")}), "tenantId", "umbrella")), of("$merge", of("into", "tasks"))), changes: true, code: -2},
	{name: "merge elsewhere", cmd: pipe("orders", of("$merge", of("into", of("db", "smetasc_tenant_wayne", "coll", "tasks"), "whenMatched", "replace"))), changes: true, code: 13},
	{name: "read and merge a platform collection", cmd: pipe("roles", of("$merge", "stolen")), changes: true, code: 13},
	{name: "write what may be read", cmd: of("insert", "packages", "documents", arr{of("_id", "new", "tenantId", "globex")}), code: 13},
	{name: "drop", cmd: of("drop", "orders"), code: 13},
	{name: "drop the database", cmd: of("dropDatabase", 1), code: 13},
	{name: "a view", cmd: of("create", "v", "viewOn", "roles", "pipeline", arr{}), code: 13},
	{name: "a view by a change", cmd: of("collMod", "orders", "viewOn", "roles", "pipeline", arr{}), code: 13},
	{name: "rename", cmd: of("renameCollection", "smetasc_shared.roles", "to", "smetasc_shared.tasks", "dropTarget", true, "$db", "admin"), code: 13},
	{name: "an index", cmd: of("createIndexes", "orders", "indexes", arr{of("key", of("secret", 1), "name", "x", "unique", true)}), code: 13},
}

// Each attack reaches a victim where nothing closes it, and nothing of a victim where the connection is
// bound to rows: not in a reply, not in an error's text, not in what is stored.
func TestAttacks(t *testing.T) {
	skipShort(t)
	ground := newAttackGround(t, false)
	before := ground.victimsDocs(t)
	for i := range attacks {
		x := &attacks[i]
		t.Run(x.name, func(t *testing.T) {
			if x.shows || x.changes {
				naive := x.naive
				if naive == nil {
					naive = x.cmd
				}
				reply, _ := run(t.Context(), ground.server, naive)
				changed := x.changes && ground.victimsDocs(t) != before
				if x.shows && !tells(reply) {
					t.Errorf("sent as it is it shows nothing, so nothing is proved: %s", reply)
				}
				if x.changes && !changed {
					t.Errorf("sent as it is it changes nothing, so nothing is proved: %s", reply)
				}
				if changed {
					ground.refill(t)
				}
			}
			for _, tenant := range attackers {
				reply, code := run(t.Context(), ground.as[tenant], x.cmd)
				if tells(reply) {
					t.Errorf("%s sees a victim's: %s", tenant, reply)
				}
				if x.code > 0 && code != x.code && tenant == "globex" { // in a database of its own a tenant may do more
					t.Errorf("%s is answered with %d: %s", tenant, code, reply)
				}
				if !x.changes {
					continue
				}
				if ground.victimsDocs(t) != before {
					t.Errorf("%s has changed what victims have, or made what is nobody's", tenant)
				}
				ground.refill(t)
			}
		})
	}
	if after := ground.victimsDocs(t); after != before {
		t.Error("after all of them victims have other documents than before")
	}
}
