package proxy

import (
	"slices"

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
	return c.plansBelow(parts, tx), nil
}

// plansBelow is the plans of homes below one stage.
func (c *clientConn) plansBelow(parts []part, tx *txn) *wire.Buf {
	all := make([]wire.Doc, len(parts))
	executed := true
	for i := range parts {
		all[i] = parts[i].tr.msg.Body
		_, has := all[i].Lookup("executionStats")
		executed = executed && has
	}
	const stage = "SHARD_MERGE"
	explained, _ := c.req.Explained()
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
		return bsoncore.AppendDocumentElement(out, "command", bsoncore.Document(explained))
	})
}

// planned reports whether servers have told one plan each, as of a find: so they do of a pipeline too, where
// it needs no stage of an aggregate.
func planned(parts []part) bool {
	return !slices.ContainsFunc(parts, func(p part) bool {
		_, ok := p.tr.msg.Body.Lookup("queryPlanner")
		return !ok
	})
}

// pipelinePlans tells how a pipeline runs that no database can run whole, as a mongos does: where it is cut,
// and how each home reads its part; where nothing is cut and it reads as a find does, as of a find. What runs behind the cut reads what is brought to it, and has no plan.
func (c *clientConn) pipelinePlans(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	explained, verbosity := c.req.Explained()
	first := &d.Segments[0]
	trips := make([]*trip, len(first.Targets))
	for i, x := range first.Targets {
		sub, err := subRequestOf(c.explainAt(explained, verbosity, t.StagesAt(first, x)))
		if err != nil {
			return nil, err
		}
		trips[i] = c.sideTrip(t, x, tx)
		trips[i].sub = sub
	}
	parts := c.scatter(trips, tx)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return nil, err
	}
	if len(d.Segments) == 1 && planned(parts) {
		return c.plansBelow(parts, tx), nil
	}
	return c.answerOf(tx, func(out []byte) []byte {
		out = bsoncore.AppendStringElement(out, "mergeType", mergeType(d.Segments))
		out = appendSub(out, "splitPipeline", func(out []byte) []byte {
			out = routing.AppendStages(out, "shardsPart", first.Stages)
			return routing.AppendStages(out, "mergerPart", routing.Behind(d.Segments))
		})
		out = appendSub(out, "shards", func(out []byte) []byte {
			for i := range parts {
				out = appendSub(out, homeName(parts[i].tr.target), func(out []byte) []byte { return appendPlan(out, &parts[i]) })
			}
			return out
		})
		return bsoncore.AppendDocumentElement(out, "command", bsoncore.Document(explained))
	}), nil
}

// explainAt is an explain of the client's aggregate with other stages.
func (c *clientConn) explainAt(explained wire.Doc, verbosity wire.Value, stages []wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		d = appendSub(d, "explain", func(d []byte) []byte {
			for it := explained.Iter(); it.Next(); {
				switch string(it.Key) {
				case "pipeline":
					d = routing.AppendStages(d, "pipeline", stages)
				case "explain":
				default:
					d = append(d, explained[it.Start:it.End()]...)
				}
			}
			return d
		})
		if verbosity.Type != 0 {
			d = verbosity.AppendTo(d, "verbosity")
		}
		body := c.msg.Body
		for it := body.Iter(); it.Next(); {
			if routing.Generic(it.Key) {
				d = append(d, body[it.Start:it.End()]...)
			}
		}
		return d
	})
}

// mergeType says where what the homes bring is put together, in the words of a mongos.
func mergeType(segs []routing.Segment) string {
	last := &segs[len(segs)-1]
	switch {
	case len(segs) == 1 || len(last.Stages) == 0:
		return "mongos"
	case last.Targets[0].Tenant == nil && len(last.Targets) == 1:
		return "primaryShard"
	}
	return "specificShard"
}

// appendPlan appends a home's explain, without what tells of its server.
func appendPlan(out []byte, p *part) []byte {
	r := renamer{target: p.tr.target, rule: planNames}
	for it := p.tr.msg.Body.Iter(); it.Next(); {
		if key := string(it.Key); !generic(key) && key != "command" {
			out = r.element(out, key, it.Value, "", 0)
		}
	}
	return out
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
				case !more || generic(key) || key == "queryPlanner" || key == "executionStats" || key == "command":
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
