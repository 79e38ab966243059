package proxy

import (
	"bytes"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// each sends a definition, or a question about definitions, to every target.
func (c *clientConn) each(t *routing.Table, d *routing.Decision) (*wire.Buf, bool) {
	return c.overHomes(t, d, func(tx *txn) (reply *wire.Buf, again bool, err *wire.Error) {
		switch {
		case d.Action == routing.FirstOf:
			reply, err = c.firstOf(t, d, tx)
		case c.req.Cmd.Merge == routing.MergeCollections:
			reply, err = c.collections(t, d)
		case c.req.Cmd.Merge == routing.MergeFigures:
			reply, err = c.figures(t, d, tx)
		case d.Alone:
			reply, err = c.defineView(t, d, tx)
		default:
			reply, err = c.define(t, d, tx)
		}
		return reply, false, err
	})
}

// settled reports whether an error says that a definition is as it is wanted already.
func settled(code wire.Code) bool {
	switch code {
	case wire.NamespaceExists, wire.NamespaceNotFound, wire.IndexNotFound:
		return true
	}
	return false
}

// define runs a definition on shared and then on every other holder, or the other way round. Shared's
// answer is the answer; a holder that lacks what is dropped, or has what is made, is no error.
func (c *clientConn) define(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	waves := [][]*routing.Target{d.Targets[:1], d.Targets[1:]}
	if c.req.Cmd.SharedLast {
		waves[0], waves[1] = waves[1], waves[0]
	}
	var parts []part
	defer func() { free(parts) }()
	var made wire.Doc
	failed := 0
	for _, wave := range waves {
		trips := make([]*trip, len(wave))
		for i, x := range wave {
			trips[i] = c.sideTrip(t, x, tx)
			if made != nil {
				trips[i].make = func() wire.Doc { return c.recreate(x, made) }
			}
		}
		parts = append(parts, c.scatter(trips, tx)...)
		if failed = c.unsettled(parts); failed > 0 {
			break
		}
		if p := &parts[0]; made == nil && !p.tr.facts.ok && p.tr.facts.code == wire.NamespaceExists {
			var err *wire.Error
			if tx == nil { // else this error has ended the transaction
				made, err = c.options(d.Targets[0])
			}
			if _, view := made.Lookup("viewOn"); made == nil || view || err != nil {
				answer, _ := c.pick(parts, 0)
				return answer, err
			}
		}
	}
	switch {
	case failed > 0 && len(parts) == 1: // nothing is done
		return c.pick(parts, 0)
	case failed > 0 && tx == nil:
		refused, gone := c.undone(parts)
		if refused >= 0 {
			return c.pick(parts, refused)
		}
		return nil, c.partly(parts, failed+gone, len(d.Targets))
	case failed > 0:
		return nil, c.partly(parts, failed, len(d.Targets))
	}
	if c.req.Cmd.Name == "collMod" && tx == nil {
		if err := c.modifyMissing(t, parts); err != nil {
			return nil, err
		}
	}
	answer := slices.IndexFunc(parts, func(p part) bool { return p.tr.target == d.Targets[0] })
	better := func(is func(*replyFacts) bool) {
		if f := &parts[answer].tr.facts; f.ok || f.code == wire.NamespaceExists || is(f) {
			return
		}
		if other := slices.IndexFunc(parts, func(p part) bool { return is(&p.tr.facts) }); other >= 0 {
			answer = other
		}
	}
	better(func(f *replyFacts) bool { return f.ok || f.code != wire.NamespaceNotFound }) // it is there, if not in shared
	better(func(f *replyFacts) bool { return f.ok })
	if c.req.Cmd.Name == "drop" {
		// Of what is not there newer servers say ok and no more.
		if i := slices.IndexFunc(parts, dropped); i >= 0 && !dropped(parts[answer]) {
			answer = i
		}
	}
	return c.pick(parts, answer)
}

// dropped reports whether there was something to drop.
func dropped(p part) bool {
	_, ok := p.tr.msg.Body.Lookup("ns")
	return ok && p.tr.facts.ok
}

// modifyMissing makes the collection where a collMod has found none, as another holder has it now: what
// a tenant inserts there later has to meet the same validator.
func (c *clientConn) modifyMissing(t *routing.Table, parts []part) *wire.Error {
	with := slices.IndexFunc(parts, func(p part) bool { return p.tr.facts.ok })
	if with < 0 {
		return nil
	}
	var missing []*routing.Target
	for i := range parts {
		if f := &parts[i].tr.facts; !f.ok && f.code == wire.NamespaceNotFound {
			missing = append(missing, parts[i].tr.target)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	made, err := c.options(parts[with].tr.target)
	if err != nil || made == nil {
		return err
	}
	for _, create := range []bool{true, false} { // then what else it says, such as of indexes
		trips := make([]*trip, len(missing))
		for i, x := range missing {
			trips[i] = c.sideTrip(t, x, nil)
			if create {
				trips[i].make = func() wire.Doc { return c.recreate(x, made) }
			}
		}
		again := c.scatter(trips, nil)
		if failed := c.unsettled(again); failed > 0 {
			err = c.partly(again, failed, len(missing))
		}
		free(again)
		if err != nil {
			return err
		}
	}
	return nil
}

// options asks a holder how it has the collection; nil where it is gone again. A create that shared
// refuses since the collection is there with other options may change no other holder to these; but
// one that an earlier create did not reach gets the collection as shared has it.
func (c *clientConn) options(holder *routing.Target) (wire.Doc, *wire.Error) {
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "listCollections", 1)
		i, d := bsoncore.AppendDocumentElementStart(d, "filter")
		d = bsoncore.AppendStringElement(d, "name", string(c.req.Coll()))
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return bsoncore.AppendStringElement(d, "$db", holder.DB)
	})
	tr := ownTrip(holder, func() wire.Doc { return body })
	tr.sel = backend.Select{Write: true}
	reply, err := c.send(tr)
	if err != nil {
		return nil, err
	}
	defer reply.Free()
	if !tr.facts.ok {
		return nil, c.replied(tr)
	}
	rows, _, _ := firstBatch(tr.facts.cursor)
	if len(rows) != 1 {
		return nil, nil
	}
	v, _ := rows[0].Lookup("options")
	d, _ := v.Doc()
	return slices.Concat(wire.Doc{}, d), nil // the reply's bytes are used again
}

// recreate is a create with the options that listCollections has told.
func (c *clientConn) recreate(x *routing.Target, options wire.Doc) wire.Doc {
	return build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "create", string(c.req.Coll()))
		for it := options.Iter(); it.Next(); {
			d = it.Value.AppendTo(d, string(it.Key))
		}
		return bsoncore.AppendStringElement(d, "$db", x.DB)
	})
}

// pick makes one part's reply the answer.
func (c *clientConn) pick(parts []part, i int) (*wire.Buf, *wire.Error) {
	p := &parts[i]
	if p.err != nil {
		return nil, p.err
	}
	reply := p.reply
	p.reply = nil // the others are freed
	return c.finish(p.tr, reply)
}

// unsettled is how many parts have failed for another reason than that all is as it is wanted.
func (c *clientConn) unsettled(parts []part) (n int) {
	for i := range parts {
		if p := &parts[i]; p.err != nil || !p.tr.facts.ok && !settled(p.tr.facts.code) {
			n++
		}
	}
	return n
}

// partly says how far a definition got.
func (c *clientConn) partly(parts []part, failed, all int) *wire.Error {
	last := ""
	for i := range parts {
		switch p := &parts[i]; {
		case p.err != nil:
			last = p.err.Text
		case !p.tr.facts.ok && !settled(p.tr.facts.code):
			last = c.replied(p.tr).Text
		}
	}
	return wire.Errorf(wire.OperationFailed, "%s was done in %d of %d databases; run it again to finish; the last failure: %s",
		c.req.Cmd.Name, len(parts)-failed, all, last)
}

// firstOf asks the targets in order until one has the collection.
func (c *clientConn) firstOf(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	var kept *part
	for _, x := range d.Targets {
		parts := c.scatter([]*trip{c.sideTrip(t, x, tx)}, tx)
		p := &parts[0]
		if p.err != nil {
			if kept != nil {
				kept.reply.Free()
			}
			return nil, p.err
		}
		if p.tr.facts.ok || p.tr.facts.code != wire.NamespaceNotFound {
			if kept != nil {
				kept.reply.Free()
			}
			return c.finish(p.tr, p.reply)
		}
		if kept == nil {
			kept = p
		} else {
			p.reply.Free()
		}
	}
	return c.finish(kept.tr, kept.reply)
}

// collections is listCollections over all holders: shared's, and those that only a tenant's
// database has, under its first appearance.
func (c *clientConn) collections(t *routing.Table, d *routing.Decision) (*wire.Buf, *wire.Error) {
	trips := make([]*trip, len(d.Targets))
	for i, x := range d.Targets {
		trips[i] = c.sideTrip(t, x, nil)
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	seen := map[string]bool{}
	var rows []wire.Doc
	for i := range parts {
		p := &parts[i]
		if p.err != nil {
			return nil, p.err
		}
		if !p.tr.facts.ok {
			return nil, c.replied(p.tr)
		}
		all, err := c.drain(p, nil)
		if err != nil {
			return nil, err
		}
		r := renamer{target: p.tr.target, rule: rowNames}
		for _, row := range all {
			v, _ := row.Lookup("name")
			s, _ := v.Str()
			if seen[string(s)] || !t.Shows(&c.req, p.tr.target, s) {
				continue
			}
			seen[string(s)] = true
			if row = r.doc(nil, row, "", 0); c.bound.Rows() {
				row = c.collectionRow(row)
			}
			rows = append(rows, row)
		}
	}
	ns := string(c.req.DB) + ".$cmd.listCollections"
	return c.answerOf(nil, func(d []byte) []byte { return appendCursor(d, 0, ns, "firstBatch", rows) }), nil
}

// drain returns all rows of a part's cursor.
func (c *clientConn) drain(p *part, tx *txn) ([]wire.Doc, *wire.Error) {
	docs, id, ns := firstBatch(p.tr.facts.cursor)
	if id == 0 {
		return docs, nil
	}
	cur := c.newCursor(ns, p.tr.target)
	s := &stream{cursorPart: cursorPart{p.tr.target, p.tr.address, id, cur.coll}, docs: docs}
	for s.id != 0 {
		if err := c.fetch(cur, s, 0, tx); err != nil {
			return nil, err
		}
	}
	return s.docs, nil
}

// clusters serves what goes to every cluster.
func (c *clientConn) clusters(t *routing.Table, d *routing.Decision) *wire.Buf {
	switch {
	case c.req.Cmd.Merge == routing.MergeDatabases:
		return c.listDatabases(t)
	case c.req.Cmd.Name == "killOp":
		return c.killOp(t)
	case c.req.Cmd.Merge == routing.MergeOperations, c.req.Operations():
		return c.operations(t)
	case c.bound != nil && c.req.Cmd.Name == "killSessions" && !c.listsSessions():
		return c.refuse(wire.Errorf(wire.Unauthorized,
			"killSessions is open to this connection for sessions that it lists, as { id: UUID } each; an empty list means everybody's"))
	}
	names := t.Clusters
	if c.bound != nil {
		names = t.Reach(d.Tenant)
		if err := c.noteListed(); err != nil {
			return c.refuse(err)
		}
	}
	edits := []func(p *wire.Patch, cluster string){c.deriveAll}
	if c.req.Cmd.Name == "killSessions" && c.listsNone() {
		edits = c.listOwn()
	}
	for _, name := range names {
		cl := c.srv.opts.Clusters.Get(name)
		if cl == nil || !cl.Ready() {
			continue // its sessions end by their own time
		}
		for _, edit := range edits {
			tr := c.sideTrip(t, &routing.Target{Cluster: name}, nil)
			tr.edit, tr.tenant = func(p *wire.Patch) { edit(p, name) }, c.boundTenant()
			if reply, err := c.send(tr); err == nil {
				reply.Free()
			}
		}
	}
	return okReply()
}

// listsNone reports whether the command's own value is an empty list, which means all sessions of the user. A
// server knows one user: the proxy's, whose are those of all tenants and of moves.
func (c *clientConn) listsNone() bool {
	a, ok := c.req.Value.Array()
	it := a.Iter()
	return ok && !it.Next()
}

// maxListed is how many sessions one command lists (as drivers do to end them).
const maxListed = 10_000

// listOwn puts the client's own sessions in the place of the empty list, in as many commands as they need.
func (c *clientConn) listOwn() (edits []func(p *wire.Patch, cluster string)) {
	for some := range slices.Chunk(c.ownSessions(), maxListed) {
		edits = append(edits, func(p *wire.Patch, cluster string) {
			i, list := bsoncore.AppendArrayStart(nil)
			for n, id := range some {
				list = bsoncore.AppendDocumentElement(list, itoa(n), sessionDoc(deriveID(c.srv.opts.FleetKey(), c.principal, id, cluster)))
			}
			list, _ = bsoncore.AppendArrayEnd(list, i)
			p.Replace(c.req.ValueAt, len(c.req.Value.Data), list, c.msg.BodyAt)
		})
	}
	return edits
}

// ownSessions are the client's sessions in which there is something to end, as far as it is known here.
func (c *clientConn) ownSessions() []sessionID {
	all := append(c.srv.txns.sessions(c.principal), c.srv.cursors.sessions(c.principal)...)
	slices.SortFunc(all, func(a, b sessionID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(all)
}

// listsSessions reports whether the command's own value is a list of sessions, and of nothing that a
// server may take for those of other users: it knows all clients as one.
func (c *clientConn) listsSessions() bool {
	a, ok := c.req.Value.Array()
	n := 0
	for it := a.Iter(); ok && it.Next(); n++ {
		d, _ := it.Value.Doc()
		e := d.Iter()
		ok = e.Next() && string(e.Key) == "id"
		if ok {
			_, ok = e.Value.UUID()
		}
		ok = ok && !e.Next() && e.Err() == nil
	}
	return ok && n > 0
}

// deriveAll replaces every session id that the command's own value lists.
func (c *clientConn) deriveAll(p *wire.Patch, cluster string) {
	a, ok := c.req.Value.Array()
	if !ok {
		return
	}
	for it := a.Iter(); it.Next(); {
		d, ok := it.Value.Doc()
		if !ok {
			continue
		}
		for e := d.Iter(); e.Next(); {
			id, ok := e.Value.UUID()
			if !ok || string(e.Key) != "id" {
				continue
			}
			own := deriveID(c.srv.opts.FleetKey(), c.principal, sessionID(id), cluster)
			p.Replace(c.req.ValueAt+it.At+e.At+5, 16, own[:])
		}
	}
}

// databaseRow is one row of listDatabases.
type databaseRow struct {
	name  string
	size  int64
	empty bool
	doc   wire.Doc // as the server wrote it, where it is the only one of the name
}

// listDatabases shows the logical databases: physical ones folded into theirs, sizes summed, and
// none that no client may know. A filter is about the rows as they are then.
func (c *clientConn) listDatabases(t *routing.Table) *wire.Buf {
	filter, only := c.databaseFilter(t)
	trips := make([]*trip, len(t.Clusters))
	for i, name := range t.Clusters {
		trips[i] = c.sideTrip(t, &routing.Target{Cluster: name}, nil)
		if filter != nil {
			trips[i].edit = func(p *wire.Patch) {
				remove(&c.req, p, "filter")
				if only == "" {
					remove(&c.req, p, "nameOnly") // the filter may be about sizes
				}
			}
		}
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	var rows []*databaseRow
	byName := map[string]*databaseRow{}
	for i := range parts {
		p := &parts[i]
		if p.err != nil {
			return c.refuse(p.err)
		}
		if !p.tr.facts.ok {
			return c.refuse(c.replied(p.tr))
		}
		list, _ := p.tr.msg.Body.Lookup("databases")
		a, _ := list.Array()
		for it := a.Iter(); it.Next(); {
			d, _ := it.Value.Doc()
			row := readRow(d)
			name, hidden := t.Logical(row.name)
			if hidden || only != "" && name != only {
				continue
			}
			if old := byName[name]; old != nil {
				old.size, old.empty, old.doc = old.size+row.size, old.empty && row.empty, nil
				continue
			}
			if name != row.name {
				row.name, row.doc = name, nil
			}
			byName[name] = row
			rows = append(rows, row)
		}
	}
	if filter != nil && only == "" {
		var err *wire.Error
		if rows, err = c.matching(t, filter, rows); err != nil {
			return c.refuse(err)
		}
	}
	return c.databasesReply(rows)
}

// databaseFilter is the filter that is about folded rows; only is the name that it asks for, where
// it asks for nothing else.
func (c *clientConn) databaseFilter(t *routing.Table) (filter wire.Doc, only string) {
	f, ok := c.req.Field("filter")
	if !ok || t.Plain {
		return nil, ""
	}
	d, _ := f.Value.Doc()
	if len(d) <= 5 {
		return nil, ""
	}
	v, _ := d.Lookup("name")
	s, isString := v.Str()
	it := d.Iter()
	it.Next()
	if !isString || it.Next() {
		return d, ""
	}
	return d, string(s)
}

// noFilter refuses a filter that only a server with $documents can evaluate.
func noFilter() *wire.Error {
	return wire.Errorf(wire.IllegalOperation,
		"listDatabases with this filter is not offered while tenants have databases of their own; filter by { name: \"…\" }")
}

// matching are the rows that match the filter. The home cluster says so: no filter is evaluated here.
func (c *clientConn) matching(t *routing.Table, filter wire.Doc, rows []*databaseRow) ([]*databaseRow, *wire.Error) {
	if len(rows) == 0 {
		return nil, nil
	}
	docs := make([]wire.Doc, len(rows))
	for i, r := range rows {
		docs[i] = build(func(d []byte) []byte { return r.fields(d, false) })
	}
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "aggregate", 1)
		match := build(func(d []byte) []byte { return bsoncore.AppendDocumentElement(d, "$match", bsoncore.Document(filter)) })
		d = routing.AppendStages(d, "pipeline", []wire.Doc{documents(docs), match})
		d = appendAllAtOnce(d)
		return bsoncore.AppendStringElement(d, "$db", "admin")
	})
	tr := ownTrip(t.HomeAny, func() wire.Doc { return body })
	tr.sel = backend.Select{Write: true}
	reply, err := c.send(tr)
	if err != nil {
		return nil, err
	}
	defer reply.Free()
	if !tr.facts.ok {
		err := c.replied(tr)
		if strings.Contains(err.Text, "$documents") { // servers older than 5.1 do not know it
			err = noFilter()
		}
		return nil, err
	}
	found := map[string]bool{}
	hits, _, _ := firstBatch(tr.facts.cursor)
	for _, d := range hits {
		found[readRow(d).name] = true
	}
	return slices.DeleteFunc(rows, func(r *databaseRow) bool { return !found[r.name] }), nil
}

func readRow(d wire.Doc) *databaseRow {
	r := &databaseRow{doc: d}
	for it := d.Iter(); it.Next(); {
		switch string(it.Key) {
		case "name":
			s, _ := it.Value.Str()
			r.name = string(s)
		case "sizeOnDisk":
			r.size, _ = it.Value.Int()
		case "empty":
			r.empty = it.Value.True()
		}
	}
	return r
}

// fields appends the row's fields.
func (r *databaseRow) fields(d []byte, nameOnly bool) []byte {
	if r.doc != nil && !nameOnly {
		return append(d, r.doc[4:len(r.doc)-1]...)
	}
	d = bsoncore.AppendStringElement(d, "name", r.name)
	if nameOnly {
		return d
	}
	d = bsoncore.AppendInt64Element(d, "sizeOnDisk", r.size)
	return bsoncore.AppendBooleanElement(d, "empty", r.empty)
}

func (c *clientConn) databasesReply(rows []*databaseRow) *wire.Buf {
	total, nameOnly := int64(0), c.boolean("nameOnly")
	return c.answerOf(nil, func(d []byte) []byte {
		i, d := bsoncore.AppendArrayElementStart(d, "databases")
		for n, r := range rows {
			total += r.size
			j, e := bsoncore.AppendDocumentElementStart(d, itoa(n))
			d, _ = bsoncore.AppendDocumentEnd(r.fields(e, nameOnly), j)
		}
		d, _ = bsoncore.AppendArrayEnd(d, i)
		if !nameOnly {
			d = bsoncore.AppendInt64Element(d, "totalSize", total)
			d = bsoncore.AppendInt64Element(d, "totalSizeMb", total>>20)
		}
		return d
	})
}
