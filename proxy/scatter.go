package proxy

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// part is one home's answer.
type part struct {
	tr    *trip
	reply *wire.Buf
	err   *wire.Error
}

// ends reports whether the part's failure ends the transaction that it is of.
func (p *part) ends() bool {
	f := &p.tr.facts
	return p.err != nil || f.errors || !f.ok && !settled(f.code)
}

func free(parts []part) {
	for i := range parts {
		parts[i].reply.Free()
		parts[i].reply = nil
	}
}

// overHomes serves a command that concerns several homes.
func (c *clientConn) overHomes(t *routing.Table, d *routing.Decision, serve func(*txn) (*wire.Buf, bool, *wire.Error)) (reply *wire.Buf, again bool) {
	e, stale, err := c.enter(t, d)
	if stale {
		return nil, true
	}
	defer c.leave(e)
	if err == nil {
		c.outcome.target = d.Targets[0]
		reply, again, err = serve(e.tx)
	}
	if err != nil {
		if e.tx != nil {
			c.failTxn(e.tx)
		}
		return c.refuse(err), false
	}
	return reply, again
}

// pinAll pins the transaction to the one cluster of all the trips.
func (c *clientConn) pinAll(tx *txn, trips []*trip) *wire.Error {
	for _, tr := range trips {
		if tr.target.Cluster != trips[0].target.Cluster {
			return wire.Errorf(wire.OperationNotSupportedTxn,
				"in a transaction a command can not look on several clusters; add the tenant field to its filter")
		}
	}
	return tx.pin(trips[0].target.Cluster)
}

// scatter sends every trip's command, at once within the width, one after the other in a
// transaction, and returns when all are back. In a transaction the first failure ends it on the server:
// what would come behind it is not sent, and has no part.
func (c *clientConn) scatter(trips []*trip, tx *txn) []part { return c.scatterUntil(nil, trips, tx) }

// scatterUntil is scatter where one part may be enough: then it does not wait for the others for long.
func (c *clientConn) scatterUntil(enough func(*part) bool, trips []*trip, tx *txn) []part {
	parts := make([]part, len(trips))
	var first []part
	var err *wire.Error
	if tx != nil && len(trips) > 0 {
		err = c.pinAll(tx, trips)
	} else {
		first, err = c.agree(trips)
	}
	switch {
	case err != nil:
		for i, tr := range trips {
			parts[i] = part{tr: tr, err: err}
		}
		return parts
	case first != nil:
		return append(first, c.scatterUntil(enough, trips[1:], nil)...)
	}
	if tx != nil || len(trips) == 1 {
		for i, tr := range trips {
			parts[i].tr = tr
			parts[i].reply, parts[i].err = c.send(tr)
			if tx != nil && parts[i].ends() {
				parts = parts[:i+1]
				break
			}
		}
	} else {
		c.atOnce(enough, trips, parts)
	}
	if tx == nil && len(trips) == 1 {
		c.noteSnapshot(&parts[0])
	}
	for i := range parts {
		if parts[i].err == nil {
			c.times.note(&parts[i].tr.facts)
			c.noteTime(parts[i].tr)
		}
	}
	return parts
}

// until is how long one of several parts is waited for, where one may be enough.
type until struct {
	lent    context.Context // as long as it waits for a connection
	replied context.Context // as long as it waits for a reply
}

// lateReply is how long a reply may take longer than the one that is enough. Its connection is lost then, so that
// it is more than a far cluster takes.
const lateReply = time.Second

func (c *clientConn) atOnce(enough func(*part) bool, trips []*trip, parts []part) {
	room := make(chan struct{}, c.srv.settings.Load().width)
	var wg sync.WaitGroup
	var u *until
	end := func() {}
	if enough != nil {
		lent, unwait := context.WithCancel(c.srv.ctx)
		replied, cut := context.WithCancel(c.srv.ctx)
		u, end = &until{lent, replied}, sync.OnceFunc(func() { unwait(); time.AfterFunc(lateReply, cut) })
		defer unwait()
		defer cut()
	}
	for i, tr := range trips {
		parts[i].tr, tr.until = tr, u
		if tr.frame, parts[i].err = c.request(tr); parts[i].err != nil {
			continue
		}
		room <- struct{}{}
		wg.Add(1)
		go func(p *part) {
			defer wg.Done()
			defer func() { <-room }()
			defer c.caught(&p.err)
			if p.reply, p.err = c.send(p.tr); enough != nil && enough(p) {
				end()
			}
		}(&parts[i])
	}
	wg.Wait()
}

// spread are the command's trips to all of the decision's targets.
func (c *clientConn) spread(t *routing.Table, d *routing.Decision, tx *txn) []*trip {
	trips := make([]*trip, len(d.Targets))
	for i, x := range d.Targets {
		trips[i] = c.sideTrip(t, x, tx)
		trips[i].fit = d
	}
	return trips
}

// gather serves a read over several homes.
func (c *clientConn) gather(t *routing.Table, d *routing.Decision) (*wire.Buf, bool) {
	switch again, err := c.asPipeline(t, d); {
	case err != nil:
		return c.refuse(err), false
	case again:
		return nil, true
	}
	return c.overHomes(t, d, func(tx *txn) (reply *wire.Buf, again bool, err *wire.Error) {
		explained, _ := c.req.Explained()
		if explained == nil {
			err = c.wellFormed()
		}
		none := false
		if tx != nil && err == nil {
			d, none, err = c.inOneCluster(t, d, tx)
		}
		switch merge := c.req.Cmd.Merge; {
		case err != nil:
		case none && d.Segments == nil && explained == nil:
			reply, err = c.empty(), c.beginHere(tx)
		case explained != nil && d.Segments != nil:
			reply, err = c.pipelinePlans(t, d, tx)
		case merge == routing.MergeCursor && d.Segments != nil:
			reply, err = c.aggregate(t, d, tx)
		case merge == routing.MergeCursor:
			reply, err = c.find(t, d, tx)
		case merge == routing.MergeCount:
			reply, err = c.count(t, d, tx)
		case merge == routing.MergeDistinct:
			reply, err = c.distinct(t, d, tx)
		case merge == routing.MergePlans:
			reply, err = c.plans(t, d, tx)
		default:
			err = wire.Errorf(wire.IllegalOperation, "%s over the databases of several tenants is not offered; add the tenant field to the filter", c.req.Cmd.Name)
		}
		return reply, false, err
	})
}

// wellFormed refuses, as a server would, what no server is sent as the client has written it.
func (c *clientConn) wellFormed() *wire.Error {
	switch c.req.Cmd.Name {
	case "find":
		return c.countable("skip", "FindCommandRequest")
	case "count":
		return c.countable("skip", "count")
	case "aggregate":
		f, ok := c.req.Field("cursor")
		if !ok {
			return wire.Errorf(wire.ParseFailed, "The 'cursor' option is required, except for aggregate with the explain argument")
		}
		options, _ := f.Value.Doc()
		for it := options.Iter(); it.Next(); {
			if string(it.Key) != "batchSize" {
				return wire.Errorf(wire.UnknownField, "BSON field 'cursor.%s' is an unknown field.", it.Key)
			}
		}
	}
	return nil
}

// countable refuses a field of the command that is there and no number of documents.
func (c *clientConn) countable(name, of string) *wire.Error {
	f, ok := c.req.Field(name)
	switch n := f.Value.Whole(); {
	case !ok || f.Value.Type == bsoncore.TypeNull:
		return nil
	case !f.Value.IsNumber():
		return wire.Errorf(wire.TypeMismatch, "BSON field '%s.%s' is the wrong type '%s', expected types '[decimal, int, double, long]'",
			of, name, f.Value.Type)
	case n < 0:
		return wire.Errorf(wire.BadValue, "BSON field '%s' value must be >= 0, actual value '%d'", name, n)
	}
	return nil
}

// find answers a find over several homes. Of one that names its document by _id the hint's home is
// asked first, and the first to have it answers, so that one dead cluster does not fail them all.
func (c *clientConn) find(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	_, sized := c.req.Field("batchSize")
	none := sized && c.number("batchSize") == 0 // a first batch of none tells nothing of who has the document
	if ids, _, ok := t.SelectedIDs(&c.req); ok && len(ids) == 1 && !none {
		return c.findOne(t, d, tx, ids[0])
	}
	return c.findMany(t, d, tx)
}

// inOneCluster is the decision for a read in a transaction: by _ids it is for the transaction's cluster alone. none says
// that there are no such documents, for a read that asks for nothing else, and no cluster that has to say so.
func (c *clientConn) inOneCluster(t *routing.Table, d *routing.Decision, tx *txn) (own *routing.Decision, none bool, err *wire.Error) {
	ids, alone, ok := t.SelectedIDs(&c.req)
	if !ok {
		return d, false, nil
	}
	in, none, err := c.where(t, d, tx.pinned(), &routing.Op{Coll: d.Coll, Name: c.req.Coll()}, d.Targets, ids)
	if err != nil || len(in) == len(d.Targets) {
		return d, none && alone, err
	}
	own = new(*d)
	own.Targets = in
	if own.Segments = slices.Clone(d.Segments); len(own.Segments) > 0 {
		own.Segments[0].Targets = in
	}
	if d.Sorted != nil {
		own.Sorted = new(*d.Sorted)
		own.Sorted.Targets = in
	}
	return own, none && alone, nil
}

// where is which of the targets may have the documents in a transaction of the cluster. One that has none yet is for
// that where the documents are, which are looked for outside of it. none says that no target of the transaction has any.
func (c *clientConn) where(
	t *routing.Table, d *routing.Decision, cluster string, op *routing.Op, targets []*routing.Target, ids []wire.Value,
) (in []*routing.Target, none bool, err *wire.Error) {
	in, out := byCluster(targets, cluster)
	if len(out) == 0 || cluster == "" && oneCluster(out) {
		return targets, false, nil
	}
	found := map[string]place{}
	s := &split{c: c, t: t, d: d}
	if err := s.ask(op, out, ids, found); err != nil {
		return nil, false, err
	}
	for _, p := range found {
		switch {
		case p.twice:
			return nil, false, ambiguous()
		case cluster != "" && cluster != p.home.Cluster:
			return nil, false, spans()
		}
		cluster = p.home.Cluster
		in, _ = byCluster(targets, cluster)
	}
	if len(in) == 0 {
		return within(targets, cluster), true, nil
	}
	return in, false, nil
}

// within are the targets on the cluster; where there are none, those on the first one's.
func within(targets []*routing.Target, cluster string) []*routing.Target {
	in, _ := byCluster(targets, cluster)
	if len(in) == 0 {
		in, _ = byCluster(targets, targets[0].Cluster)
	}
	return in
}

// byCluster parts the targets on the cluster from the others.
func byCluster(targets []*routing.Target, cluster string) (in, out []*routing.Target) {
	for _, x := range targets {
		if x.Cluster == cluster {
			in = append(in, x)
		} else {
			out = append(out, x)
		}
	}
	return in, out
}

func oneCluster(targets []*routing.Target) bool {
	in, _ := byCluster(targets, targets[0].Cluster)
	return len(in) == len(targets)
}

// spans refuses what would take a transaction to a second cluster.
func spans() *wire.Error {
	return wire.Errorf(wire.OperationNotSupportedTxn,
		"a transaction can not span clusters, and this command's data is on another one than the transaction's first")
}

func (c *clientConn) findOne(t *routing.Table, d *routing.Decision, tx *txn, id wire.Value) (*wire.Buf, *wire.Error) {
	if tenant := c.srv.hints.get(c.hint(d.Coll, c.req.Coll(), id)); tenant.Type != 0 && tx == nil {
		home := t.Home(d.Coll, tenant)
		tr := c.sideTrip(t, home, nil)
		tr.fit = &routing.Decision{Coll: d.Coll, Fit: true, Scope: routing.Scope{Only: []wire.Value{tenant}}}
		parts := c.scatter([]*trip{tr}, nil)
		if found(&parts[0]) {
			return c.finish(tr, parts[0].reply)
		}
		free(parts)
	}
	parts := c.scatterUntil(found, c.spread(t, d, tx), tx)
	pick := pickFound(parts)
	for i := range parts {
		if i != pick {
			parts[i].reply.Free()
		}
	}
	p := &parts[pick]
	if p.err != nil {
		return nil, p.err
	}
	c.remember(d.Coll, nil, p.tr)
	c.outcome.target = p.tr.target
	return c.finish(p.tr, p.reply)
}

// remember notes whose the one document is that a find has brought: the tenant's that the find named,
// else of whom the document says.
func (c *clientConn) remember(coll *routing.Collection, named *routing.Tenant, tr *trip) {
	doc, ok := onlyDoc(tr.facts.cursor)
	if !ok {
		return
	}
	id, ok := doc.Lookup("_id")
	if named == nil {
		named = tr.target.Tenant
	}
	switch {
	case !ok:
	case named != nil:
		c.srv.hints.put(c.hint(coll, c.req.Coll(), id), named.ID)
	default:
		if tenant := coll.TenantOf(doc); tenant.Type != bsoncore.TypeNull { // which a projection may have left out
			c.srv.hints.put(c.hint(coll, c.req.Coll(), id), tenant)
		}
	}
}

// onlyDoc is the document of a first batch of one.
func onlyDoc(cursor wire.Doc) (doc wire.Doc, ok bool) {
	v, _ := cursor.Lookup("firstBatch")
	a, _ := v.Array()
	it := a.Iter()
	if !it.Next() {
		return nil, false
	}
	doc, ok = it.Value.Doc()
	return doc, ok && !it.Next()
}

// pickFound is the part that answers: the first with a document, else the first that failed (a
// document there can not be ruled out), else the first.
func pickFound(parts []part) int {
	pick := 0
	for i := range parts {
		p := &parts[i]
		if found(p) {
			return i
		}
		if bad := p.err != nil || !p.tr.facts.ok; bad && (parts[pick].err == nil && parts[pick].tr.facts.ok) {
			pick = i
		}
	}
	return pick
}

// found reports whether a find has brought a document.
func found(p *part) bool {
	if p.err != nil || p.reply == nil || p.tr.facts.cursor == nil {
		return false
	}
	docs, _, _ := firstBatch(p.tr.facts.cursor)
	return len(docs) > 0
}

// firstBatch takes a cursor's document apart.
func firstBatch(cursor wire.Doc) (docs []wire.Doc, id int64, ns []byte) {
	for it := cursor.Iter(); it.Next(); {
		switch string(it.Key) {
		case "firstBatch", "nextBatch":
			a, _ := it.Value.Array()
			for e := a.Iter(); e.Next(); {
				if d, ok := e.Value.Doc(); ok {
					docs = append(docs, d)
				}
			}
		case "id":
			id, _ = it.Value.Int()
		case "ns":
			ns, _ = it.Value.Str()
		}
	}
	return docs, id, ns
}

// failed is the first error among the parts, in the order of the targets.
func (c *clientConn) failed(parts []part) *wire.Error {
	for i := range parts {
		p := &parts[i]
		if p.err != nil {
			return p.err
		}
		if !p.tr.facts.ok {
			return c.replied(p.tr)
		}
	}
	return nil
}

// count is the sum of what the homes count; skip and limit are applied to it.
func (c *clientConn) count(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	skip := c.number("skip")
	f, _ := c.req.Field("limit")
	limit := f.Value.Whole()
	limit = max(limit, -limit) // a negative one means the same to servers
	trips := c.spread(t, d, tx)
	for _, tr := range trips {
		tr.edit = func(p *wire.Patch) { c.widen(p, limit, skip) }
	}
	parts := c.scatter(trips, tx)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return nil, err
	}
	n := -skip
	for i := range parts {
		n += parts[i].tr.facts.n
	}
	n = max(n, 0)
	if limit > 0 {
		n = min(n, limit)
	}
	return c.answerOf(tx, func(d []byte) []byte { return appendNumber(d, "n", n) }), nil
}

// appendNumber appends a count as servers do: as 32 bits while it fits.
func appendNumber(d []byte, key string, n int64) []byte {
	if int64(int32(n)) == n {
		return bsoncore.AppendInt32Element(d, key, int32(n))
	}
	return bsoncore.AppendInt64Element(d, key, n)
}

// distinct is every value that some home has, once.
func (c *clientConn) distinct(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	parts := c.scatter(c.spread(t, d, tx), tx)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return nil, err
	}
	var all valueSet
	for i := range parts {
		v, _ := parts[i].tr.msg.Body.Lookup("values")
		a, _ := v.Array()
		for it := a.Iter(); it.Next(); {
			all = append(all, it.Value)
		}
	}
	all = all.union()
	size := 0
	for _, v := range all {
		size += len(v.Data) + 8
	}
	if size > wire.MaxDocument {
		return nil, wire.Errorf(wire.BSONObjectTooLarge, "the distinct values are more than 16 MB; add a filter")
	}
	return c.answerOf(tx, func(d []byte) []byte {
		i, d := bsoncore.AppendArrayElementStart(d, "values")
		for n, v := range all {
			d = v.AppendTo(d, itoa(n))
		}
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return c.appendSnapshot(d)
	}), nil
}

// answerOf is a reply made here of what several homes have said.
func (c *clientConn) answerOf(tx *txn, fill func([]byte) []byte) *wire.Buf {
	return replyOf(func(d []byte) []byte {
		d = fill(d)
		if tx != nil {
			d = append(d, c.recoveryToken(tx.cluster)...)
		}
		return c.times.append(d)
	})
}

// replied is a part's error reply as an error of the whole command: what the server said, labels
// and all. Only for a change of state are the labels ours, since the part may be a question to which
// no server would give those of the write that it is asked for.
func (c *clientConn) replied(tr *trip) *wire.Error { return c.sealedSaid(tr, c.said(tr)) }

// said is replied with the server's own words in any case.
func (c *clientConn) said(tr *trip) *wire.Error {
	msg, _ := tr.msg.Body.Lookup("errmsg")
	s, _ := msg.Str()
	e := wire.Errorf(tr.facts.code, "%s", renameText(string(s), tr.target))
	if stateChange(e.Code) {
		e.Code = wire.HostUnreachable
		return c.label(e, false)
	}
	v, _ := tr.msg.Body.Lookup("errorLabels")
	e.Labels = append(e.Labels, readLabels(v)...)
	r := renamer{target: tr.target, rule: errorTexts}
	e.Reply = build(func(d []byte) []byte {
		for it := tr.msg.Body.Iter(); it.Next(); {
			if !ofServers(it.Key) && string(it.Key) != "$clusterTime" {
				d = r.element(d, string(it.Key), it.Value, "", 0)
			}
		}
		return d
	})
	return e
}

// moving is what a command fails with that meets a tenant in mid-change when it can not begin anew.
func (c *clientConn) moving() *wire.Error {
	return c.label(wire.Errorf(wire.HostUnreachable, "the tenant's route is being changed; try again"), false)
}

func (c *clientConn) number(name string) int64 {
	f, ok := c.req.Field(name)
	if !ok {
		return 0
	}
	return max(f.Value.Whole(), 0)
}

func (c *clientConn) boolean(name string) bool {
	f, _ := c.req.Field(name)
	return f.Value.True()
}

// stableAPI is by which version of the API a client's commands are to be understood. A getMore has to say the same
// as the command that opened its cursor, and what belongs to a transaction the same as its first command:
// https://www.mongodb.com/docs/manual/reference/stable-api/
var stableAPI = [...]string{"apiVersion", "apiStrict", "apiDeprecationErrors"}

// appendAPI appends the version of the API that the command at work names.
func (c *clientConn) appendAPI(d []byte) []byte {
	for _, name := range stableAPI {
		if f, ok := c.req.Field(name); ok {
			d = f.Value.AppendTo(d, name)
		}
	}
	return append(d, c.api...)
}

// appendSession appends the fields of the client's session, and of its transaction, to a command
// made here, and what else has to be the same in both.
func (c *clientConn) appendSession(d []byte, cluster string, tx *txn) []byte {
	d = c.appendAPI(d)
	if !c.hasLSID {
		return d
	}
	d = bsoncore.AppendDocumentElement(d, "lsid", sessionDoc(*c.derive(cluster)))
	if tx == nil {
		return d
	}
	d = bsoncore.AppendInt64Element(d, "txnNumber", tx.number)
	d = bsoncore.AppendBooleanElement(d, "autocommit", false)
	if !c.begins(tx) {
		return d
	}
	return c.appendStart(d, tx, cluster)
}
