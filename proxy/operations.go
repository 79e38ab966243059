package proxy

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// operations answers currentOp, and an aggregate that begins with $currentOp: what every cluster says of
// its operations, under names that clients know, each with its cluster's name before its number. What is
// asked of them beside is about those names, so that the home cluster is shown the rows and asked.
func (c *clientConn) operations(t *routing.Table) *wire.Buf {
	if string(c.req.DB) != "admin" {
		return c.refuse(onAdmin(c.req.Cmd.Name))
	}
	rows, err := c.operationRows(t)
	stages, filters := c.afterOperations()
	if err == nil && filters && len(rows) > 0 {
		rows, err = c.staged(t, rows, stages)
	}
	if err != nil {
		return c.refuse(err)
	}
	if c.req.Operations() {
		cur := c.ownCursor()
		cur.coll = "$cmd.aggregate"
		cur.merged = &merged{streams: []*stream{{docs: rows}}, left: -1}
		reply, err := c.firstOfMerged(cur, c.cursorSize(), nil)
		if err != nil {
			return c.refuse(err)
		}
		return reply
	}
	if sizeOf(rows) > whole {
		return c.refuse(wire.Errorf(wire.BSONObjectTooLarge, "the operations are more than 16 MB; ask for some of them by a filter, or by an aggregate with $currentOp"))
	}
	return replyOf(func(d []byte) []byte { return appendBatch(d, "inprog", rows) })
}

func onAdmin(name string) *wire.Error {
	return wire.Errorf(wire.Unauthorized, "%s may only be run against the admin database", name)
}

// operationRows asks every cluster.
func (c *clientConn) operationRows(t *routing.Table) (rows []wire.Doc, err *wire.Error) {
	body := c.askOperations()
	trips := make([]*trip, len(t.Clusters))
	for i, name := range t.Clusters {
		trips[i] = ownTrip(&routing.Target{Cluster: name}, func() wire.Doc { return body })
		if trips[i].sel = c.selectServer(nil); trips[i].sel.Pref == nil {
			trips[i].sel = backend.Select{Write: true}
		}
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		c.killOpened(parts)
		return nil, err
	}
	for i := range parts {
		p := &parts[i]
		list, _ := p.tr.msg.Body.Lookup("inprog")
		a, _ := list.Array()
		for it := a.Iter(); it.Next(); {
			row, _ := it.Value.Doc()
			if shown := operation(t, row, p.tr.target.Cluster); shown != nil {
				rows = append(rows, shown)
			}
		}
	}
	return rows, nil
}

// askOperations is a currentOp without a filter; what an aggregate's $currentOp asks for in its words.
func (c *clientConn) askOperations() wire.Doc {
	options := c.msg.Body
	names := map[string]string{"$all": "$all", "$ownOps": "$ownOps", "$truncateOps": "$truncateOps"}
	if c.req.Operations() {
		options = nil
		names = map[string]string{"idleConnections": "$all", "truncateOps": "$truncateOps"}
		if stages := c.pipeline(); len(stages) > 0 {
			v, _ := stages[0].Lookup("$currentOp")
			options, _ = v.Doc()
		}
	}
	return build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "currentOp", 1)
		for it := options.Iter(); it.Next(); {
			if name := names[string(it.Key)]; name != "" {
				d = it.Value.AppendTo(d, name)
			}
		}
		for _, name := range []string{"maxTimeMS", "$readPreference"} {
			if f, ok := c.req.Field(name); ok {
				d = f.Value.AppendTo(d, name)
			}
		}
		return bsoncore.AppendStringElement(d, "$db", "admin")
	})
}

// pipeline is the command's.
func (c *clientConn) pipeline() (stages []wire.Doc) {
	f, _ := c.req.Field("pipeline")
	a, _ := f.Value.Array()
	for it := a.Iter(); it.Next(); {
		d, _ := it.Value.Doc()
		stages = append(stages, d)
	}
	return stages
}

// afterOperations is what is asked of the rows beside: the stages behind $currentOp, or a currentOp's
// filter.
func (c *clientConn) afterOperations() (stages []wire.Doc, any bool) {
	if c.req.Operations() {
		stages = c.pipeline()[1:]
		return stages, len(stages) > 0
	}
	filter := build(func(d []byte) []byte {
		it := c.msg.Body.Iter()
		it.Next()
		for it.Next() {
			if !routing.Generic(it.Key) && !c.req.Cmd.Takes(it.Key) {
				d = it.Value.AppendTo(d, string(it.Key))
			}
		}
		return d
	})
	match := build(func(d []byte) []byte { return bsoncore.AppendDocumentElement(d, "$match", bsoncore.Document(filter)) })
	return []wire.Doc{match}, len(filter) > 5
}

// staged is what the stages make of the rows, on the home cluster.
func (c *clientConn) staged(t *routing.Table, rows, stages []wire.Doc) (docs []wire.Doc, err *wire.Error) {
	if sizeOf(rows) > whole {
		return nil, tooMany(whole)
	}
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "aggregate", 1)
		d = routing.AppendStages(d, "pipeline", append([]wire.Doc{documents(rows)}, stages...))
		d = appendAllAtOnce(d)
		return bsoncore.AppendStringElement(d, "$db", "admin")
	})
	tr := ownTrip(t.HomeAny, func() wire.Doc { return body })
	tr.sel = backend.Select{Write: true}
	part := &c.scatter([]*trip{tr}, nil)[0]
	defer part.reply.Free()
	if part.err != nil {
		return nil, part.err
	}
	if !tr.facts.ok {
		return nil, noDocuments(c.replied(tr))
	}
	all, err := c.drain(part, nil)
	for _, d := range all {
		docs = append(docs, slices.Clone(d))
	}
	return docs, err
}

// operation is a row as clients see it; nil for one that they may not.
func operation(t *routing.Table, row wire.Doc, cluster string) wire.Doc {
	r := renamer{rule: everywhere, target: &routing.Target{}}
	for _, physical := range databasesOf(row) {
		name, hidden := t.Logical(physical)
		if hidden {
			return nil
		}
		if name != physical {
			r.target = &routing.Target{DB: physical, Logical: name}
		}
	}
	return build(func(d []byte) []byte {
		for it := row.Iter(); it.Next(); {
			switch key := string(it.Key); key {
			case "host", "shard", "client", "client_s", "clientMetadata", "appName", "effectiveUsers", "runBy", "lsid":
				// of the servers, or of the proxy as their client
			case "opid":
				text, ok := it.Value.Str()
				if n, isNumber := it.Value.Int(); isNumber && !ok {
					text = strconv.AppendInt(nil, n, 10)
				}
				d = bsoncore.AppendStringElement(d, key, cluster+":"+string(text))
			default:
				d = r.element(d, key, it.Value, "", 0)
			}
		}
		return d
	})
}

// databasesOf are the databases that an operation is on: of its namespace, and of its command.
func databasesOf(row wire.Doc) (names []string) {
	v, _ := row.Lookup("ns")
	ns, _ := v.Str()
	db, _, _ := bytes.Cut(ns, []byte("."))
	v, _ = row.Lookup("command")
	command, _ := v.Doc()
	v, _ = command.Lookup("$db")
	of, _ := v.Str()
	for _, name := range [][]byte{of, db} {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names
}

// killOp ends an operation that currentOp has told of.
func (c *clientConn) killOp(t *routing.Table) *wire.Buf {
	if string(c.req.DB) != "admin" {
		return c.refuse(onAdmin(c.req.Cmd.Name))
	}
	f, _ := c.req.Field("op")
	text, _ := f.Value.Str()
	cluster, id, ok := strings.Cut(string(text), ":")
	if !ok || !slices.Contains(t.Clusters, cluster) {
		return c.refuse(wire.Errorf(wire.BadValue, `killOp needs "op" as currentOp tells it here: "cluster:number"`))
	}
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "killOp", 1)
		if n, err := strconv.ParseInt(id, 10, 64); err == nil {
			d = appendNumber(d, "op", n)
		} else {
			d = bsoncore.AppendStringElement(d, "op", id) // of a mongos: "shard:number"
		}
		return bsoncore.AppendStringElement(d, "$db", "admin")
	})
	tr := ownTrip(&routing.Target{Cluster: cluster}, func() wire.Doc { return body })
	tr.sel = backend.Select{Write: true}
	reply, err := c.roundTrip(tr)
	if err != nil {
		return c.refuse(err)
	}
	return reply
}
