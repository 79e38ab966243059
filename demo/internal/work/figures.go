package work

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// explained asks for a command's plan, of which no more is compared than that there is one: each
// server tells its own. What is explained may not be done.
func (w *world) explained(c string) bson.D {
	of := draw(w, "explained", w.find, w.aggregate, w.count, w.distinct, w.explainedUpdate, w.explainedDelete, w.findAndModify)(c)
	if get(of, "let") != nil { // of which the test server's plans know nothing
		of = bson.D{{Key: "find", Value: c}, {Key: "filter", Value: w.filter(c)}}
	}
	if name(of) == "aggregate" && w.often("as an option", 4) && !strings.Contains(text(of), `"$count"`) { // which the test server then takes for an expression
		return append(of, bson.E{Key: "explain", Value: true})
	}
	out := is("explain", of)
	if w.often("verbosity", 5) {
		out = append(out, bson.E{Key: "verbosity", Value: draw(w, "verbosity", "queryPlanner", "executionStats", "allPlansExecution")})
	}
	return out
}

func (w *world) explainedUpdate(c string) bson.D {
	return bson.D{{Key: "update", Value: c}, {Key: "updates", Value: bson.A{w.updateEntry(c, w.often("many", 5))}}}
}

func (w *world) explainedDelete(c string) bson.D {
	return bson.D{{Key: "delete", Value: c}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: w.filter(c)}, {Key: "limit", Value: int32(0)}}}}}
}

// explains reports whether a command asks for a plan.
func explains(command bson.D) bool {
	return name(command) == "explain" || get(command, "explain") == true
}

// inner is the command that is explained, or the command itself.
func inner(command bson.D) bson.D {
	if name(command) == "explain" {
		return doc(command[0].Value)
	}
	return command
}

// figures asks how much there is.
func (w *world) figures(c string) bson.D {
	return draw(w, "figures",
		is("collStats", c), is("validate", c), is("dbStats", int32(1)),
		bson.D{{Key: "count", Value: c}}, bson.D{{Key: "count", Value: c}, {Key: "query", Value: bson.D{}}})
}

// sums are the figures that are those of all databases together; others, as of indexes and what they
// take, are those of each.
var sums = map[string][]string{
	"collStats": {"ns", "count", "size"},
	"validate":  {"ns", "nrecords", "valid"},
	"dbStats":   {"db", "objects", "dataSize"},
}

// shortened is a reply with what is compared of a command that tells figures, or plans.
func shortened(command, reply bson.D) bson.D {
	keep := sums[name(command)]
	if keep == nil && !explains(command) {
		return reply
	}
	return slices.DeleteFunc(slices.Clone(reply), func(e bson.E) bool {
		return !slices.Contains(append([]string{"ok", "code", "errmsg"}, keep...), e.Key)
	})
}

// counts reports whether a command tells figures that what was left in shared is part of.
func (r *run) counts(command bson.D) bool {
	n := name(command)
	return sums[n] != nil && (len(r.left[coll(command)]) > 0 || n == "dbStats" && len(r.left) > 0)
}
