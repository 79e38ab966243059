package proxy

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// plans puts together the plans of several homes as a mongos does those of its shards: below one
// stage, each with a name that tells of no server and no database.
func (c *clientConn) plans(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	parts := c.scatter(c.spread(t, d, tx), tx)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return nil, err
	}
	all := make([]wire.Doc, len(parts))
	executed := true
	for i := range parts {
		all[i] = parts[i].tr.msg.Body
		_, has := all[i].Lookup("executionStats")
		executed = executed && has
	}
	const stage = "SHARD_MERGE"
	return c.answerOf(tx, func(out []byte) []byte {
		out = appendSub(out, "queryPlanner", func(out []byte) []byte {
			out = bsoncore.AppendInt32Element(out, "mongosPlannerVersion", 1)
			return appendSub(out, "winningPlan", func(out []byte) []byte {
				out = bsoncore.AppendStringElement(out, "stage", stage)
				return appendShards(out, parts, "queryPlanner", true)
			})
		})
		if executed {
			out = appendSub(out, "executionStats", func(out []byte) []byte {
				out = appendExecuted(out, all)
				return appendSub(out, "executionStages", func(out []byte) []byte {
					out = appendExecuted(bsoncore.AppendStringElement(out, "stage", stage), all)
					return appendShards(out, parts, "executionStats", false)
				})
			})
		}
		return c.req.Value.AppendTo(out, "command")
	}), nil
}

func appendSub(out []byte, key string, fill func([]byte) []byte) []byte {
	i, out := bsoncore.AppendDocumentElementStart(out, key)
	out, _ = bsoncore.AppendDocumentEnd(fill(out), i)
	return out
}

// appendExecuted appends what all homes together have done; they did it at once.
func appendExecuted(out []byte, all []wire.Doc) []byte {
	slowest := int64(0)
	for _, d := range all {
		n, _ := at(d, "executionStats", "executionTimeMillis").Int()
		slowest = max(slowest, n)
	}
	out = appendSum(out, "nReturned", all, "executionStats")
	out = appendNumber(out, "executionTimeMillis", slowest)
	out = appendSum(out, "totalKeysExamined", all, "executionStats")
	return appendSum(out, "totalDocsExamined", all, "executionStats")
}

// appendShards appends what each home's explain has under the key and, with more, beside it.
func appendShards(out []byte, parts []part, section string, more bool) []byte {
	i, out := bsoncore.AppendArrayElementStart(out, "shards")
	for n := range parts {
		target := parts[n].tr.target
		r := renamer{target: target, rule: planNames}
		out = appendSub(out, itoa(n), func(out []byte) []byte {
			out = bsoncore.AppendStringElement(out, "shardName", homeName(target))
			for it := parts[n].tr.msg.Body.Iter(); it.Next(); {
				switch key := string(it.Key); {
				case key == section:
					sub, _ := it.Value.Doc()
					for e := sub.Iter(); e.Next(); {
						out = r.element(out, string(e.Key), e.Value, "."+section, 1)
					}
				case !more || generic(key) || key == "queryPlanner" || key == "executionStats" || key == "command" || ofPlanner(key):
				default:
					out = r.element(out, key, it.Value, "", 0)
				}
			}
			return out
		})
	}
	out, _ = bsoncore.AppendArrayEnd(out, i)
	return out
}

// homeName is a home's name for clients.
func homeName(target *routing.Target) string {
	if target.Tenant != nil {
		return "tenant:" + target.Tenant.Key
	}
	return "shared"
}

// ofPlanner reports whether a field of a plan tells of the server that has made it.
func ofPlanner(key string) bool {
	switch key {
	case "serverInfo", "serverParameters", "connectionString", "host":
		return true
	}
	return false
}
