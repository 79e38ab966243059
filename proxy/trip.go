package proxy

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// trip is one command's way to one server and back. The zero values of its last part are those of
// a command that is forwarded as it came.
type trip struct {
	target *routing.Target
	table  *routing.Table
	sel    backend.Select
	tenant uint32
	txn    *txn
	patch  *wire.Patch   // reused by the connection, or the trip's own beside others
	msg    *wire.Message // likewise

	frame   *wire.Buf         // made beforehand, for a trip on a goroutine of its own
	make    func() wire.Doc   // what is sent instead of the client's command; nil for that
	sub     *subRequest       // sent as if the client had; nil for the client's command
	fit     *routing.Decision // what to change for the target beside names; nil for nothing
	aside   bool              // the client's frame stays as it is: others need it too
	until   *until            // how long it is waited for; nil for as long as it takes
	edit    func(*wire.Patch) // further changes of the client's frame
	names   routing.ReplyKind // where the reply names namespaces
	cursor  *cursor           // whose next batch this is
	watch   *watch            // the change stream that this opens, or goes on with
	rest    backend.Rest      // what is sent behind the frame
	passes  bool              // a large reply's documents may go to the client as they come
	address string            // of the server that answered
	facts   replyFacts

	remembers bool // where the document is that the reply brings is noted
	crowd     int  // how many used the same server when the reply came; 0 where loops do not wait for it
}

// replyFacts is what one look at a reply's top level tells.
type replyFacts struct {
	ok       bool
	errors   bool // writeErrors or writeConcernError stand in it
	code     wire.Code
	cursorAt int // offset of the cursor document in the frame; 0 for none
	cursor   wire.Doc
	n        int64
	value    wire.Value // of findAndModify
	updated  bool       // a findAndModify found or made a document
	end      int        // offset of the body's closing byte
	token    bool       // a recoveryToken stands in it

	operation   uint64     // operationTime; 0 for none
	clusterTime wire.Value // $clusterTime, where clients may see it
}

// newTrip is a trip of the client's command that uses the connection's memory.
func (c *clientConn) newTrip(t *routing.Table, target *routing.Target, tx *txn) trip {
	return trip{table: t, target: target, txn: tx, patch: &c.patch, msg: &c.replyMsg, sel: c.selectServer(tx)}
}

// sideTrip is a trip beside others of the same command, with memory of its own.
func (c *clientConn) sideTrip(t *routing.Table, target *routing.Target, tx *txn) *trip {
	return &trip{
		table: t, target: target, txn: tx, patch: &wire.Patch{}, msg: &wire.Message{}, sel: c.selectServer(tx), aside: true,
	}
}

// ownTrip is a trip of a command made here, beside the client's; its caller says which server it wants.
func ownTrip(target *routing.Target, body func() wire.Doc) *trip {
	return &trip{target: target, patch: &wire.Patch{}, msg: &wire.Message{}, aside: true, make: body}
}

// selectServer says which server the command wants.
func (c *clientConn) selectServer(tx *txn) backend.Select { return c.serverFor(&c.req, tx) }

func (c *clientConn) serverFor(r *routing.Request, tx *txn) backend.Select {
	if tx != nil {
		tx.mu.Lock()
		defer tx.mu.Unlock()
		return backend.Select{Write: tx.address == "", Address: tx.address}
	}
	if r.Writes() {
		return backend.Select{Write: true}
	}
	f, ok := r.Field("$readPreference")
	if !ok {
		return backend.Select{}
	}
	d, _ := f.Value.Doc()
	pref, err := backend.ParseReadPref(d)
	if err != nil {
		return backend.Select{} // the server says what is wrong with it
	}
	return backend.Select{Pref: pref}
}

// roundTrip sends the command and returns the reply as the client is to see it.
func (c *clientConn) roundTrip(tr *trip) (*wire.Buf, *wire.Error) {
	reply, err := c.send(tr)
	if err != nil {
		return nil, err
	}
	return c.finish(tr, reply)
}

// send sends the command and returns the reply as the server wrote it, with its facts noted and
// its fields that no client may see marked for removal in tr.patch.
func (c *clientConn) send(tr *trip) (*wire.Buf, *wire.Error) {
	cluster := c.srv.opts.Clusters.Get(tr.target.Cluster)
	if cluster == nil {
		return nil, c.label(wire.Errorf(wire.HostUnreachable, "the cluster %q is not configured any more", tr.target.Cluster), true)
	}
	frame, werr := tr.frame, (*wire.Error)(nil)
	if frame == nil {
		frame, werr = c.request(tr)
	}
	if werr != nil {
		return nil, werr
	}
	if frame != c.frame {
		defer frame.Free()
	}
	return c.attempts(cluster, tr, frame)
}

// attempt is one try to have a command done.
type attempt struct {
	reply      *wire.Buf
	notPrimary bool // the server says that it did nothing, since it is no primary
	err        error
}

// attempts sends a command, once more where that is harmless.
func (c *clientConn) attempts(cluster *backend.Cluster, tr *trip, frame *wire.Buf) (*wire.Buf, *wire.Error) {
	return c.retried(cluster, tr, frame, c.exchange(cluster, tr, frame))
}

// retried is what a first attempt means, or a second one where that is harmless.
func (c *clientConn) retried(cluster *backend.Cluster, tr *trip, frame *wire.Buf, a attempt) (*wire.Buf, *wire.Error) {
	if c.repeats(tr, &a) {
		a = c.exchange(cluster, tr, frame)
	}
	return c.judged(cluster, tr, &a)
}

// repeats reports whether what was tried first is tried once more.
func (c *clientConn) repeats(tr *trip, a *attempt) bool {
	if tr.passes && c.passing.begun || tr.rest.From != nil && (a.err == nil || errors.Is(a.err, backend.ErrHalfSent)) {
		return false // the client has got some of this reply, or its request can't be sent again
	}
	if a.err == nil {
		if !a.notPrimary || tr.txn != nil {
			return false
		}
		a.reply.Free()
		return true
	}
	return tr.sel.Address == "" && c.harmless(tr, a.sent(), a.err)
}

// patience is how long the trip is waited for: where nothing else is said, as long as the server runs.
func (tr *trip) patience(s *Server) until {
	if tr.until == nil {
		return until{lent: s.ctx, replied: s.ctx}
	}
	return *tr.until
}

// late reports whether the trip is waited for no more.
func (tr *trip) late() bool { return tr.until != nil && tr.until.lent.Err() != nil }

// sent reports whether a server may have got the command.
func (a *attempt) sent() bool {
	var be *backend.Error
	return errors.As(a.err, &be) && be.Sent
}

// judged is what the last attempt means.
func (c *clientConn) judged(cluster *backend.Cluster, tr *trip, a *attempt) (*wire.Buf, *wire.Error) {
	if a.err == nil {
		return a.reply, nil
	}
	sent := a.sent()
	if tr.late() {
		return nil, wire.Errorf(wire.HostUnreachable, "another part of the command was enough")
	}
	if cluster.Ready() && tr.sel.Pref != nil && errors.Is(a.err, backend.ErrNoServer) {
		return nil, wire.Errorf(wire.FailedToSatisfyReadPref, "the cluster %q has no server for %s", tr.target.Cluster, tr.sel)
	}
	if !c.atFault(tr, sent, a.err) {
		c.srv.unreachable(c, tr.target.Cluster, a.err)
	}
	if tr.passes && c.passing.lost != nil { // nobody is told any more, but it is counted
		return nil, wire.Errorf(wire.ClientDisconnect, "the client has not taken the reply")
	}
	return nil, c.label(wire.Errorf(wire.HostUnreachable, "the cluster %q is not reachable", tr.target.Cluster), !sent)
}

// atFault notes what a failed round trip means for the client's own message and reply, which no trip
// beside it has to do with, and reports whether the client may be the reason.
func (c *clientConn) atFault(tr *trip, sent bool, err error) bool {
	if tr.rest.From != nil && errors.Is(err, backend.ErrHalfSent) {
		c.halfSent = err
		return true
	}
	if tr.rest.From != nil && sent {
		c.unread = 0
	}
	return tr.passes && c.passing.lost != nil
}

// harmless reports whether a failed command may be sent once more: nothing of it has reached a
// server, or it changes nothing.
func (c *clientConn) harmless(tr *trip, sent bool, err error) bool {
	if errors.Is(err, backend.ErrNoServer) || errors.Is(err, backend.ErrBusy) || errors.Is(err, backend.ErrClosed) || c.srv.ctx.Err() != nil || tr.late() {
		return false
	}
	return !sent || tr.txn == nil && tr.cursor == nil && !c.req.Writes() && c.req.Cmd != nil && c.req.Cmd.Access == routing.Read
}

// exchange is one round trip on one connection.
func (c *clientConn) exchange(cluster *backend.Cluster, tr *trip, frame *wire.Buf) attempt {
	conn, err := cluster.Acquire(tr.patience(c.srv).lent, tr.sel, tr.tenant)
	if err != nil {
		return attempt{err: err}
	}
	return c.exchangeOn(conn, tr, frame)
}

// exchangeOn is an exchange on a connection that has been acquired, which it releases.
func (c *clientConn) exchangeOn(conn *backend.Conn, tr *trip, frame *wire.Buf) attempt {
	defer conn.Release()
	if tr.aside {
		cut := make(chan struct{})
		stop := context.AfterFunc(tr.patience(c.srv).replied, func() {
			conn.Interrupt()
			close(cut)
		})
		defer func() {
			if !stop() {
				<-cut // before another command gets the connection
			}
		}()
	} else {
		c.uses(conn)
	}
	if tr.rest.From != nil {
		wire.SetLength(frame.B, len(frame.B)+tr.rest.Len)
	}
	_, err := conn.Send(frame, tr.rest, c.compressible())
	if err != nil {
		return c.missed(tr, err)
	}
	return c.awaitReply(tr, conn)
}

// awaitReply waits for the reply.
func (c *clientConn) awaitReply(tr *trip, conn *backend.Conn) attempt {
	reply, err := c.replyTo(tr, conn)
	if err != nil {
		return c.missed(tr, err)
	}
	return c.received(tr, conn, reply)
}

// compressible reports whether the command may be sent compressed.
func (c *clientConn) compressible() bool {
	return c.req.Cmd == nil || wire.Compressible(c.req.Cmd.Name)
}

// uses notes the connection that the command waits for, for who ends it from elsewhere.
func (c *clientConn) uses(conn *backend.Conn) {
	c.inUse.Store(conn)
	if c.srv.ending.Load() { // whoever ends it may have looked just before
		conn.Interrupt()
	}
}

// missed is the attempt of a round trip that has failed.
func (c *clientConn) missed(tr *trip, err error) attempt {
	if !tr.aside {
		c.inUse.Store(nil)
	}
	return attempt{err: err}
}

// received is the attempt that has brought a reply.
func (c *clientConn) received(tr *trip, conn *backend.Conn, reply *wire.Buf) attempt {
	if !tr.aside {
		c.inUse.Store(nil)
	}
	tr.address = conn.Address()
	if tr.crowd = 0; conn.Loopable() {
		tr.crowd = conn.Crowd()
	}
	if tr.txn != nil {
		tr.txn.hasReached(tr.address, conn.Mongos())
	}
	if err := tr.look(reply, !c.srv.settings.Load().oneCluster); err != nil {
		reply.Free()
		return attempt{err: &backend.Error{Cluster: tr.target.Cluster, Sent: true, Err: err}}
	}
	if c.bound != nil {
		c.srv.gossip.note(tr.facts.clusterTime)
	}
	if stateChange(tr.facts.code) || tr.facts.errors {
		conn.Observe(tr.msg.Body)
	}
	// Servers say these two before they begin with a command, never in the middle of one.
	return attempt{reply: reply, notPrimary: !tr.facts.ok && (tr.facts.code == 10107 || tr.facts.code == 13435)}
}

// request is the frame to send: the client's with what this hop changes.
func (c *clientConn) request(tr *trip) (*wire.Buf, *wire.Error) {
	if tr.make != nil {
		return wire.NewMessage(0, 0, 0, tr.make()), nil
	}
	r, frame := &c.req, c.frame
	if tr.sub != nil {
		r, frame = &tr.sub.req, &tr.sub.buf
	}
	p := tr.patch
	p.Reset()
	if c.hasLSID {
		_, at, _ := r.LSID()
		id := c.derive(tr.target.Cluster)
		if tr.aside {
			own := *id
			id = &own
		}
		p.Replace(at, 16, id[:])
	}
	starts := tr.txn != nil && c.begins(tr.txn)
	goesOn := tr.txn != nil && !starts
	switch {
	case goesOn && r.StartsTxn(): // an earlier part has begun the transaction
		remove(r, p, "startTransaction")
		remove(r, p, "readConcern")
	case starts && !r.StartsTxn(): // what came before was answered here
		r.Set("startTransaction", c.appendStart(nil, tr.txn, tr.target.Cluster), p)
	}
	if !c.srv.settings.Load().oneCluster {
		remove(r, p, "$clusterTime")
		if err := c.ofOther(r, tr.target); err != nil {
			return nil, err
		}
		if !goesOn {
			if err := c.afterTime(r, tr.target, p); err != nil {
				return nil, err
			}
		}
	} else if c.bound != nil {
		c.gossip(r, tr.target.Cluster, p)
	}
	if c.recoveryCluster() != "" {
		remove(r, p, "recoveryToken")
	}
	if err := c.limitTime(r, tr.aside, p); err != nil {
		return nil, err
	}
	if tr.aside {
		if err := c.atSnapshot(r, tr.target, p); err != nil {
			return nil, err
		}
	}
	if tr.table != nil {
		if err := tr.table.Rename(r, tr.target, p); err != nil {
			return nil, err
		}
	}
	if tr.fit != nil {
		if err := tr.table.Fit(r, tr.fit, tr.target, p); err != nil {
			return nil, err
		}
	}
	if tr.edit != nil {
		tr.edit(p)
	}
	if c.exceeds(tr, r, len(frame.B), p) {
		return nil, errTooLarge
	}
	if tr.aside {
		return p.ApplyTo(frame), nil
	}
	if len(frame.B) < divideFloor {
		return p.Amend(frame), nil
	}
	divided, rest := p.Divide(frame)
	tr.rest.Bytes = rest
	return divided, nil
}

// divideFloor is the size from which a request is not copied for what has to be changed in it.
const divideFloor = wire.BudgetFloor

// limitTime gives a part of a command what is left of the whole command's time, and a command of a
// client that is bound to a tenant no more than [guard] max_time.
func (c *clientConn) limitTime(r *routing.Request, part bool, p *wire.Patch) *wire.Error {
	longest := int64(0)
	if c.bound != nil && r.Cmd.Tenant.Kind != routing.NoTenant {
		longest = c.srv.settings.Load().boundTime.Milliseconds()
	}
	if !part && longest == 0 {
		return nil
	}
	f, ok := r.Field("maxTimeMS")
	limit, isNumber := f.Value.Int()
	if ok && (!isNumber || limit < 0) {
		if longest > 0 { // servers take decimals, and some take null for none
			return wire.Errorf(wire.BadValue, "maxTimeMS must be an integer, and not below 0")
		}
		return nil // the server says what is wrong with it
	}
	given := limit
	if longest > 0 && (limit == 0 || limit > longest) {
		limit = longest
	}
	if limit > 0 && part {
		if limit -= time.Since(c.start).Milliseconds(); limit <= 0 {
			return wire.Errorf(wire.MaxTimeMSExpired, "operation exceeded time limit")
		}
	}
	if limit != given {
		r.Set("maxTimeMS", bsoncore.AppendInt64Element(nil, "maxTimeMS", limit), p)
	}
	return nil
}

// remove takes a field off the request.
func remove(r *routing.Request, p *wire.Patch, name string) {
	if f, ok := r.Field(name); ok {
		p.Replace(f.Start, f.End-f.Start, nil, r.Msg.BodyAt)
	}
}

// look goes once over the reply's top level.
func (tr *trip) look(reply *wire.Buf, severalClusters bool) error {
	m, p := tr.msg, tr.patch
	if err := m.Parse(reply.B); err != nil {
		return err
	}
	p.Reset()
	f := &tr.facts
	*f = replyFacts{end: m.BodyAt + len(m.Body) - 1}
	it := m.Body.Iter()
	for it.Next() {
		switch string(it.Key) {
		case "ok":
			f.ok = it.Value.True()
		case "code":
			n, _ := it.Value.Int()
			f.code = wire.Code(n)
		case "n":
			f.n, _ = it.Value.Int()
		case "value":
			f.value = it.Value
		case "lastErrorObject":
			d, _ := it.Value.Doc()
			n, _ := d.Lookup("n")
			f.updated = n.True()
		case "operationTime":
			f.operation = timestamp(it.Value)
		case "cursor":
			if d, ok := it.Value.Doc(); ok {
				f.cursor, f.cursorAt = d, m.BodyAt+it.At
			}
		case "writeErrors", "writeConcernError":
			f.errors = true
		case "recoveryToken":
			f.token = true
		case "$clusterTime":
			if f.clusterTime = it.Value; severalClusters {
				f.clusterTime = wire.Value{}
				p.Replace(m.BodyAt+it.Start, it.End()-it.Start, nil, m.BodyAt)
			}
		default:
			if ofServers(it.Key) {
				p.Replace(m.BodyAt+it.Start, it.End()-it.Start, nil, m.BodyAt)
			}
		}
	}
	return it.Err()
}

// ofServers reports whether a field of a reply is about the servers behind and not for the client.
func ofServers(key []byte) bool {
	switch string(key) {
	case "topologyVersion", "electionId", "opTime", "$gleStats", "$configTime", "$topologyTime", "$replData",
		"$oplogQueryData", "lastCommittedOpTime", "additionalParticipants", "readOnly":
		return true
	}
	return false
}

// finish turns the reply into what the client is to see: own cursor ids, logical names, no words
// about servers.
func (c *clientConn) finish(tr *trip, reply *wire.Buf) (*wire.Buf, *wire.Error) {
	f := &tr.facts
	c.outcome.code = 0
	if !f.ok {
		c.outcome.code = f.code
	}
	if !f.ok || f.errors {
		return c.failure(tr, reply), nil
	}
	if (tr.renamed() || c.bound.Rows()) && tr.cursor == nil {
		tr.names = c.req.ReplyNames()
	}
	if c.leaks(tr) {
		c.dropCursor(tr)
		reply.Free()
		return nil, leaked()
	}
	if f.cursor != nil {
		if err := c.noteCursor(tr, reply); err != nil {
			reply.Free()
			return nil, err
		}
	}
	c.noteTime(tr)
	if tr.txn != nil && !f.token {
		tr.patch.Replace(f.end, 0, c.recoveryToken(tr.target.Cluster), tr.msg.BodyAt)
	}
	rule := c.sealedRows(tr)
	if tr.renamed() {
		if full := c.renameReply(tr, reply); full != nil {
			reply = full
			tr.patch.Reset() // it is in the new one
		}
	}
	if rule != nil {
		return c.remade(tr, reply, func(d wire.Doc) wire.Doc { return overRows(d, rule) }), nil
	}
	if tr.patch.Empty() {
		return reply, nil
	}
	return tr.patch.Apply(reply), nil
}

func (tr *trip) renamed() bool {
	return tr.target.Logical != "" && tr.target.DB != tr.target.Logical
}

// forward sends the command to the one target of the decision, or makes it ready for who can't wait.
func (c *clientConn) forward(t *routing.Table, d *routing.Decision) (*wire.Buf, fate) {
	reply, f := c.prepare(t, d)
	if f != ready || !c.mayWait {
		return reply, f
	}
	return c.returned(c.send(&c.trip))
}

// prepare makes the trip to the decision's target, ready to be sent.
func (c *clientConn) prepare(t *routing.Table, d *routing.Decision) (*wire.Buf, fate) {
	e, stale, werr := c.enter(t, d)
	if stale {
		return nil, again
	}
	if werr != nil {
		return c.refuse(werr), answered
	}
	c.entry = e
	if e.tx != nil {
		if err := e.tx.pin(d.Target.Cluster); err != nil {
			c.failTxn(e.tx)
			return c.refuse(err), answered
		}
	}
	tr := &c.trip
	*tr = c.newTrip(t, d.Target, e.tx)
	if d.Fit {
		tr.fit = d
	}
	if c.req.Watches() {
		if werr = c.passOn(t, tr); werr != nil {
			return c.refuse(werr), answered
		}
	}
	c.outcome.target, c.outcome.tenant = d.Target, d.Tenant
	if d.Tenant != nil {
		tr.tenant = d.Tenant.Num
	}
	if c.unread > 0 {
		tr.rest = backend.Rest{From: c.wc, Len: c.unread}
	}
	tr.remembers = d.Coll != nil && d.Tenant != nil && c.findsOne()
	tr.passes = !tr.remembers && c.req.Cmd != nil && c.passes(tr, c.req.ReplyNames())
	return nil, ready
}

// returned makes what was sent the client's answer.
func (c *clientConn) returned(reply *wire.Buf, werr *wire.Error) (*wire.Buf, fate) {
	defer c.letGo()
	tr, d := &c.trip, &c.decision
	if werr == nil {
		c.unread = 0
	}
	if werr == nil && tr.watch != nil && c.srv.opts.Router.Current() != tr.table {
		c.killOpened([]part{{tr: tr, reply: reply}})
		reply.Free()
		return nil, again // it may have begun without a home that is new
	}
	if werr == nil {
		if tr.remembers {
			c.remember(d.Coll, d.Tenant, tr)
		}
		reply, werr = c.finish(tr, reply)
	}
	if werr == errTooLarge {
		reply, werr = c.inPieces(tr, d)
	}
	if werr != nil {
		if tr.txn != nil {
			c.failTxn(tr.txn)
		}
		return c.refuse(werr), answered
	}
	c.light = c.mayWait && tr.crowd >= crowded && c.wc.Watched() && c.isLight(tr.table, d) && !c.passing.begun && len(reply.B) < wire.TakeSize
	return reply, answered
}

// findsOne reports whether the command is a find of one document: what is loaded so is often saved
// by its _id.
func (c *clientConn) findsOne() bool {
	return c.req.Cmd.Tenant.Kind == routing.InFilter && c.req.Cmd.Merge == routing.MergeCursor && c.number("limit") == 1
}

// abortAt ends a transaction at its cluster after an error that the client gets from us. It is a
// courtesy: what it can't reach, the server's own time limit ends.
func (c *clientConn) abortAt(cluster, address string, number int64, api []byte) {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendInt32Element(d, "abortTransaction", 1)
	d = bsoncore.AppendDocumentElement(d, "lsid", sessionDoc(*c.derive(cluster)))
	d = bsoncore.AppendInt64Element(d, "txnNumber", number)
	d = append(bsoncore.AppendBooleanElement(d, "autocommit", false), api...)
	d = bsoncore.AppendStringElement(d, "$db", "admin")
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	tr := ownTrip(&routing.Target{Cluster: cluster}, func() wire.Doc { return d })
	tr.sel = backend.Select{Write: address == "", Address: address}
	if reply, err := c.send(tr); err == nil {
		reply.Free()
	}
}

func sessionDoc(id sessionID) []byte {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendBinaryElement(d, "id", 4, id[:])
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}
