package proxy

import (
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// split is a command whose writes do not all go to one home as they came: an insert, update or
// delete, each of whose writes goes to where its documents are.
//
// A server numbers the writes of a command with a txnNumber by their place in it. Two commands to
// one cluster under one number would take each other's writes for retries, so that each carries the
// places that its writes had in the client's (stmtIds). Then a retry that is split otherwise, since
// a route or a guess has changed, still finds what has been done.
type split struct {
	c        *clientConn
	t        *routing.Table
	d        *routing.Decision
	tx       *txn
	ops      []routing.Op
	plans    []routing.Plan
	homes    []*routing.Target // of the writes whose one home is known
	absent   []bool            // of those by _id that was looked for and is nowhere
	makes    bool              // some write may make a document
	ordered  bool
	numbered bool // retryable
	stmts    []int32
	guessed  bool   // the only write's home is where its document was seen last
	sent     bool   // some write may have come to a server
	whole    bool   // the decision has one home for all writes
	cluster  string // that of the transaction, as far as it is known
	tenant   uint32 // whose share of connections is taken; 0 for nobody's
	try      uint64 // the number of this try, where it is told
	race     race
	held     wire.Value // the tenant that the command has to wait for when it is in flight no more
	result   writeResult
}

// race is how the write at work, one of one document, fares among others.
type race struct {
	recalled bool      // it was looked whether there was a first try
	lost     int       // how often another write was faster
	since    time.Time // the first of these times
	last     place     // found, and in vain
	same     int       // so often in a row
}

// split serves writes that routing could not send to one home whole.
func (c *clientConn) split(t *routing.Table, d *routing.Decision) (*wire.Buf, bool) {
	var held wire.Value
	reply, again := c.overHomes(t, d, func(tx *txn) (*wire.Buf, bool, *wire.Error) {
		s := &split{c: c, t: t, d: d, tx: tx}
		reply, again, err := s.run()
		held = s.held
		return reply, again, s.partial(err)
	})
	if !again || held.Type == 0 {
		return reply, again
	}
	if err := c.hold(&routing.Decision{Held: held}); err != nil {
		return c.refuse(err), false
	}
	return nil, true
}

// partial is what the command has failed with, of which some writes may have been made: the last part to fail
// says nothing of the others.
func (s *split) partial(err *wire.Error) *wire.Error {
	if s.sent && err != nil {
		err = err.WithoutLabel(wire.LabelNoWrites)
	}
	return err
}

// read takes the command apart; false where a server is to say what is wrong with it.
func (s *split) read() (ok bool, err *wire.Error) {
	s.ordered = true
	if f, ok := s.c.req.Field("ordered"); ok {
		s.ordered = f.Value.True()
	}
	_, s.numbered = s.c.req.TxnNumber()
	s.numbered = s.numbered && s.tx == nil
	s.result.bulk = s.c.req.Cmd.Merge == routing.MergeBulk
	if s.ops, ok = s.t.Ops(&s.c.req, s.d.Coll); !ok || len(s.ops) == 0 {
		return false, nil
	}
	s.stmts, err = s.c.statements(len(s.ops))
	return true, err
}

func (s *split) run() (reply *wire.Buf, again bool, err *wire.Error) {
	switch ok, err := s.read(); {
	case err != nil:
		return nil, false, err
	case !ok:
		reply, err = s.c.roundTrip(s.c.sideTrip(s.t, s.d.Targets[0], s.tx))
		return reply, false, err
	}
	s.plans, s.homes, s.absent = make([]routing.Plan, len(s.ops)), make([]*routing.Target, len(s.ops)), make([]bool, len(s.ops))
	for i := range s.ops {
		s.makes = s.makes || s.ops[i].Makes()
		s.plans[i] = s.t.Plan(&s.c.req, &s.ops[i])
		p := &s.plans[i]
		if p.Err == nil && !p.Several() {
			s.homes[i] = p.Targets[0]
		}
		if s.numbered && s.ops[i].Many && p.Several() {
			return nil, false, wire.Errorf(wire.InvalidOptions, "a write of many documents can not be retryable; send it without txnNumber")
		}
	}
	if s.tx != nil {
		s.cluster = s.tx.pinned()
		defer s.recount()
	}
	if s.c.req.Cmd.Merge == routing.MergeOne {
		return s.one()
	}
	if held, err := s.locateByID(); held.Type != 0 || err != nil {
		return nil, true, s.wait(held, err)
	}
	if s.tx != nil {
		if err := s.inOneCluster(); err != nil {
			return nil, false, err
		}
	}
	if s.ordered || s.tx != nil || len(s.ops) == 1 { // one alone may be a guess
		again, err = s.inOrder()
	} else {
		again, err = s.anyOrder()
	}
	if again || err != nil {
		return nil, again, err
	}
	return s.answer(s.d.Targets[0]), false, nil
}

// inOneCluster has writes of many documents by _ids made in the transaction's cluster alone: be it that of a write
// whose home is known, or of a document of theirs.
func (s *split) inOneCluster() *wire.Error {
	for i := 0; i < len(s.homes) && s.cluster == ""; i++ {
		if s.homes[i] != nil {
			s.cluster = s.homes[i].Cluster
		}
	}
	var nowhere []int // whose documents are on no cluster, so that the others' is theirs
	for i := range s.ops {
		p, op := &s.plans[i], &s.ops[i]
		ids, ok := op.SelectedIDs()
		if !ok || !op.Many || op.Upsert || p.Err != nil || !p.Several() {
			continue
		}
		in, none, err := s.c.where(s.t, s.d, s.cluster, op, p.Targets, ids)
		switch {
		case err != nil:
			return err
		case none && s.cluster == "":
			nowhere = append(nowhere, i)
			continue
		case s.cluster == "":
			s.cluster = in[0].Cluster
		}
		s.narrow(i, in)
	}
	for _, i := range nowhere {
		s.narrow(i, within(s.plans[i].Targets, s.cluster))
	}
	return nil
}

// narrow leaves the i-th write these targets.
func (s *split) narrow(i int, to []*routing.Target) {
	p := &s.plans[i]
	if p.Targets = to; !p.Several() {
		s.homes[i] = to[0]
	}
}

// answer is the reply to a batch. The target is the one that a cursor over its rows is said to be of.
func (s *split) answer(target *routing.Target) *wire.Buf {
	s.c.outcome.code = s.result.code()
	if s.tx != nil && len(s.result.errors) > 0 {
		s.c.failTxn(s.tx) // as a server's write error would
	}
	if s.result.bulk {
		return s.result.bulkReply(s.c, target, s.tx)
	}
	return s.result.reply(s.c, s.tx)
}

// wait has the command begin anew when the tenant's commands are held no more. None of its writes has been
// made, and it is not counted as one in flight meanwhile: the change of the route waits until none is.
func (s *split) wait(held wire.Value, err *wire.Error) *wire.Error {
	if err != nil {
		return err
	}
	if s.tx == nil {
		s.held = held
		return nil
	}
	s.tx.discount(s.c.srv.flights)
	return s.c.hold(&routing.Decision{Held: held})
}

// waits reports whether the command waits for the tenant with that value of the tenant field.
func (s *split) waits(v wire.Value) bool { return s.c.req.Waits(s.t.Find(v)) }

// recount counts the command in its transaction for the tenants whose documents its writes have turned out
// to be for, where that is so of each of them: changes of other tenants' routes need not wait for it.
func (s *split) recount() {
	var tenants []uint32
	for i := range s.ops {
		tn := s.whose(i)
		if tn == nil {
			return
		}
		if !slices.Contains(tenants, tn.Num) {
			tenants = append(tenants, tn.Num)
		}
	}
	s.tx.recount(tenants, s.c.srv.flights)
}

// whose is the tenant whose documents alone the i-th write can have touched; nil where that is not known,
// or may be another one's by now.
func (s *split) whose(i int) *routing.Tenant {
	op := &s.ops[i]
	switch home := s.homes[i]; {
	case home != nil && home.Tenant != nil:
		return home.Tenant
	case op.Tenant.Type == 0 || op.Many || op.Update.Type != 0 && op.Unsettles():
		return nil
	}
	return s.t.Find(op.Tenant)
}

// inOrder makes the writes one after the other, as many at once as follow each other to one home,
// and ends with the first that fails. A tenant that is held ends the command's first try, before
// anything is written; later it is waited for.
func (s *split) inOrder() (again bool, err *wire.Error) {
	for i := 0; i < len(s.ops); {
		if len(s.result.errors) > 0 && (s.ordered || s.tx != nil) {
			return false, nil
		}
		n := 1
		for i+n < len(s.ops) && s.together(i, i+n) {
			n++
		}
		if again, err = s.tried(i, n); again || err != nil {
			return again, err
		}
		i += n
	}
	return false, nil
}

// together reports whether two writes can be sent at once.
func (s *split) together(i, k int) bool {
	if s.gone(i) {
		return s.gone(k)
	}
	return s.homes[i] != nil && s.homes[k] == s.homes[i] && !s.strips(i) && !s.strips(k)
}

// gone reports whether a write finds no document, and makes none: there was none in any home, and no other
// write of the batch may have made one.
func (s *split) gone(i int) bool {
	return s.absent[i] && !s.makes && s.homes[i] == nil && s.plans[i].Err == nil
}

// tried is some, for which writes before it may have been made: then what can not be found out of
// these is their failure, and no longer the command's.
func (s *split) tried(i, n int) (again bool, err *wire.Error) {
	s.race = race{}
	if again, err = s.some(i, n); err != nil {
		return false, s.broken(span(i, n), err)
	}
	return again, nil
}

// some makes the n writes from the i-th on, which have one home, or none at all, or the one of which that is
// not known.
func (s *split) some(i, n int) (again bool, err *wire.Error) {
	switch {
	case s.refused(i):
		return false, nil
	case s.guessed:
		return s.guess(i)
	case s.strips(i):
		return s.upsertThere(i)
	case s.homes[i] != nil:
		return false, s.sendAll([]batch{{s.homes[i], span(i, n)}})
	case s.gone(i):
		return false, s.nothing(span(i, n))
	case s.ops[i].Many:
		return false, s.everywhere(i)
	}
	if _, ok := s.byID(i); ok {
		return s.lookAgain(i)
	}
	return s.single(i)
}

// refused notes a write that can not be made.
func (s *split) refused(i int) bool {
	why := s.plans[i].Err
	if why != nil {
		s.fail(i, why)
	}
	return why != nil
}

// fail notes a write that is refused here.
func (s *split) fail(i int, e *wire.Error) {
	s.c.auditRefusal(e)
	s.result.fail(i, s.c.req.Refusal(e))
}

// lookAgain makes a write by _id whose document was in no home before the batch began; another write
// of the batch may have made it.
func (s *split) lookAgain(i int) (again bool, err *wire.Error) {
	if len(s.ops) == 1 {
		return false, s.nowhere(i)
	}
	return s.found(i)
}

// found looks for the document of a write by _id, and makes the write where it is.
func (s *split) found(i int) (again bool, err *wire.Error) {
	held, err := s.locateAsking(i)
	switch {
	case err != nil:
		return false, err
	case held.Type != 0:
		return false, s.broken([]int{i}, s.c.moving())
	case s.homes[i] == nil && s.plans[i].Err == nil:
		return false, s.nowhere(i)
	}
	return s.some(i, 1)
}

// strips reports whether the i-th write is an upsert that is sent as none, since its document was found in a
// home that is not the one of what it would make.
func (s *split) strips(i int) bool {
	op := &s.ops[i]
	return s.homes[i] != nil && op.Upsert && op.Exists
}

// upsertThere makes an upsert by _id whose document was found. Where it is gone by then the upsert looks
// once more, and makes one when there is none.
func (s *split) upsertThere(i int) (again bool, err *wire.Error) {
	if done, err := s.hits(batch{s.homes[i], []int{i}}); done || err != nil {
		return false, err
	}
	if err := s.outrun(); err != nil {
		return false, err
	}
	s.homes[i], s.ops[i].Located = nil, routing.Located{}
	return s.found(i)
}

// guess makes the write where its document was seen last, and looks for it where that does nothing.
func (s *split) guess(i int) (again bool, err *wire.Error) {
	s.guessed = false
	if done, err := s.hits(batch{s.homes[i], []int{i}}); done || err != nil {
		return false, err
	}
	tried, whose := s.homes[i], s.ops[i].Tenant
	s.homes[i] = nil
	held, err := s.locateAsking(i)
	switch {
	case err != nil || held.Type != 0:
		return true, s.wait(held, err)
	case s.homes[i] == tried && !s.strips(i) && (tried.Tenant != nil || routing.SameValue(s.ops[i].Tenant, whose)):
		return false, nil // it is there, and is none that the write is for
	case s.homes[i] == nil && s.plans[i].Err == nil:
		return false, s.nowhere(i)
	}
	return s.some(i, 1)
}

func span(i, n int) []int {
	all := make([]int, n)
	for k := range all {
		all[k] = i + k
	}
	return all
}

// anyOrder makes the writes whose homes are known at once, then each of the others.
func (s *split) anyOrder() (again bool, err *wire.Error) {
	var batches []batch
	var gone []int
	for i, home := range s.homes {
		switch {
		case s.gone(i):
			gone = append(gone, i)
		case home != nil && !s.strips(i):
			batches = into(batches, home, i)
		}
	}
	if err := s.sendAll(batches); err != nil {
		return false, err
	}
	if err := s.nothing(gone); err != nil {
		return false, err
	}
	for i, home := range s.homes {
		if home != nil && !s.strips(i) || s.gone(i) {
			continue
		}
		if again, err := s.tried(i, 1); again || err != nil {
			return again, err
		}
	}
	return false, nil
}

// batch is some of the command's writes for one home.
type batch struct {
	home *routing.Target
	ops  []int
}

// into adds a write to its home's batch.
func into(batches []batch, home *routing.Target, i int) []batch {
	at := slices.IndexFunc(batches, func(b batch) bool { return b.home == home })
	if at < 0 {
		at = len(batches)
		batches = append(batches, batch{home: home})
	}
	batches[at].ops = append(batches[at].ops, i)
	return batches
}

// sendAll sends batches and takes in what became of them. One that is larger than its home takes as one command
// goes in pieces, each behind the one before.
func (s *split) sendAll(batches []batch) (err *wire.Error) {
	for len(batches) > 0 && err == nil {
		batches, err = s.sendFirst(batches)
	}
	return err
}

// sendFirst sends of each batch as many of its first writes as its home takes at once; rest is what is left to
// be sent. Nothing is left of a batch that has ended with an error.
func (s *split) sendFirst(batches []batch) (rest []batch, err *wire.Error) {
	var trips []*trip
	var sent, behind []batch
	for _, b := range batches {
		tr, n, err := s.tripOf(b)
		if err != nil {
			if err = s.broken(b.ops, err); err != nil {
				return nil, err
			}
			continue
		}
		trips, sent, behind = append(trips, tr), append(sent, b), append(behind, batch{b.home, b.ops[n:]})
	}
	parts := s.c.scatter(trips, s.tx)
	defer free(parts)
	for i := range parts {
		p, failed := &parts[i], len(s.result.errors)
		s.sent = s.sent || p.err == nil || !slices.Contains(p.err.Labels, wire.LabelNoWrites)
		switch {
		case p.err != nil || !p.tr.facts.ok:
		case s.result.bulk:
			p.err = s.result.addBulk(s.c, p, sent[i].ops)
		default:
			s.result.add(s.c, p.tr, sent[i].ops)
		}
		if len(s.result.errors) > failed && s.ordered {
			behind[i].ops = nil
		}
	}
	for i := range parts {
		p := &parts[i]
		if p.err == nil && !p.tr.facts.ok {
			p.err = s.c.replied(p.tr)
		}
		if p.err != nil {
			behind[i].ops = nil
			if err := s.broken(sent[i].ops, p.err); err != nil {
				return nil, err
			}
		}
	}
	if s.tx != nil && len(s.result.errors) > 0 {
		return nil, nil // it has ended
	}
	return slices.DeleteFunc(behind, func(b batch) bool { return len(b.ops) == 0 }), nil
}

// broken takes in that a part has failed as a whole. Where nothing else is known to be done, or the
// client can find that out by a retry, it is the whole command that has failed.
func (s *split) broken(ops []int, err *wire.Error) *wire.Error {
	if s.tx != nil || !s.result.any || s.numbered && slices.Contains(err.Labels, wire.LabelRetryableWrite) {
		return err
	}
	s.result.failAll(ops, s.c.req.Refusal(err), s.ordered)
	return nil
}

// tripOf is the trip of a batch, or of the first n of its writes where the home's servers take no more as one
// command: a command of the client's kind with these writes only.
func (s *split) tripOf(b batch) (tr *trip, n int, err *wire.Error) {
	room, names := s.room(b.home), map[int]int{}
	var docs []wire.Doc
	for _, i := range b.ops {
		doc, err := s.entry(i, b.home)
		if err != nil {
			return nil, 0, err
		}
		if !room.take(len(doc), s.numbered) && len(docs) > 0 {
			break
		}
		if s.result.bulk {
			doc = s.ops[i].FitNames(doc, names)
		}
		docs = append(docs, doc)
	}
	parts := []sequence{{s.c.req.Cmd.Batch(), docs}}
	if s.result.bulk {
		listed, all := make([]wire.Doc, len(names)), s.c.req.Docs("nsInfo")
		for from, to := range names {
			listed[to] = all[from]
		}
		parts = append(parts, sequence{"nsInfo", listed})
	}
	tr = s.c.sideTrip(s.t, b.home, s.tx)
	tr.tenant = s.tenant
	tr.sub, err = s.c.derived(parts, func(d []byte) []byte {
		if !s.numbered {
			return d
		}
		i, d := bsoncore.AppendArrayElementStart(d, "stmtIds")
		for k, op := range b.ops[:len(docs)] {
			d = bsoncore.AppendInt32Element(d, itoa(k), s.stmt(op))
		}
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return d
	})
	return tr, len(docs), err
}

// entry is the i-th write as its home gets it.
func (s *split) entry(i int, home *routing.Target) (doc wire.Doc, err *wire.Error) {
	op := &s.ops[i]
	if s.whole {
		doc, err = s.t.FitEntry(&s.c.req, s.d, op, home)
	} else {
		doc = s.t.FitWrite(op, home)
	}
	if doc == nil {
		doc = op.Entry
	}
	return doc, err
}

// stmt is the number of a write among those of the client's txnNumber.
func (s *split) stmt(i int) int32 {
	if s.stmts != nil {
		return s.stmts[i]
	}
	return int32(s.c.number("stmtId")) + int32(i)
}

// statements are the numbers that the client itself has given its writes; nil where they are counted. What
// servers refuse is refused (checkOpCountForCommand): a part would have a number too few, or one of another's.
func (c *clientConn) statements(writes int) (all []int32, err *wire.Error) {
	f, ok := c.req.Field("stmtIds")
	if !ok {
		return nil, nil
	}
	a, ok := f.Value.Array()
	for it := a.Iter(); ok && it.Next(); {
		n, _ := it.Value.Int()
		all, ok = append(all, int32(n)), it.Value.Type == bsoncore.TypeInt32
	}
	_, both := c.req.Field("stmtId")
	switch {
	case !ok:
		return nil, wire.Errorf(wire.TypeMismatch, "stmtIds of %s must be an array of 32-bit integers", c.req.Cmd.Name)
	case len(all) != writes:
		return nil, wire.Errorf(wire.InvalidLength,
			"Number of statement ids must match the number of batch entries. Got %d statement ids but %d operations", len(all), writes)
	case both:
		return nil, wire.Errorf(wire.InvalidOptions, "May not specify both stmtId and stmtIds in write command")
	}
	return all, nil
}

// subRequest is a command made of the client's, as if the client had sent it.
type subRequest struct {
	req routing.Request
	msg wire.Message
	buf wire.Buf
}

// sequence is a document sequence of a command.
type sequence struct {
	name string
	docs []wire.Doc
}

// derived is the client's command with other document sequences, and further fields.
func (c *clientConn) derived(parts []sequence, more func([]byte) []byte) (*subRequest, *wire.Error) {
	body := build(func(d []byte) []byte {
		for it := c.msg.Body.Iter(); it.Next(); {
			key := string(it.Key)
			if key == "stmtId" || key == "stmtIds" || slices.ContainsFunc(parts, func(p sequence) bool { return p.name == key }) {
				continue
			}
			if key == "writeConcern" && !c.req.Acknowledged() {
				d = appendAcknowledged(d, it.Value)
				continue
			}
			d = append(d, c.msg.Body[it.Start:it.End()]...)
		}
		return more(d)
	})
	return subRequestOf(body, parts...)
}

// subRequestOf is the command of the body and the sequences.
func subRequestOf(body wire.Doc, parts ...sequence) (*subRequest, *wire.Error) {
	x := &subRequest{}
	x.buf.B = wire.AppendMessage(nil, 0, 0, 0, body)
	for _, p := range parts {
		x.buf.B = wire.AppendSection(x.buf.B, p.name, p.docs...)
	}
	if err := x.msg.Parse(x.buf.B); err != nil {
		return nil, wire.Errorf(wire.BSONObjectTooLarge, "a part of the command is too large: %v", err)
	}
	return x, x.req.Parse(&x.msg)
}

// appendAcknowledged appends the client's write concern of w: 0 as one of w: 1. Servers do not tell
// what became of an unacknowledged write, and here it is asked whether a document was there.
func appendAcknowledged(d []byte, concern wire.Value) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, "writeConcern")
	theirs, _ := concern.Doc()
	for it := theirs.Iter(); it.Next(); {
		if string(it.Key) != "w" {
			d = append(d, theirs[it.Start:it.End()]...)
		}
	}
	d, _ = bsoncore.AppendDocumentEnd(bsoncore.AppendInt32Element(d, "w", 1), i)
	return d
}

// everywhere makes a write of many documents on each home that may have some.
func (s *split) everywhere(i int) *wire.Error {
	op, targets := &s.ops[i], s.plans[i].Targets
	if err := s.barred(i); err != nil || s.result.failed(i) {
		return err
	}
	upsert := op.Upsert
	op.Exists = true
	batches := make([]batch, len(targets))
	for k, x := range targets {
		batches[k] = batch{x, []int{i}}
	}
	before := s.result.n
	if err := s.sendAll(batches); err != nil {
		return err
	}
	s.result.join(i)
	op.Exists = false
	if !upsert || s.result.n > before || s.result.failed(i) {
		return nil
	}
	return s.upsert(i)
}

// barred fails a write of many documents where one of those that match is in a home at which the write can not
// be made. What comes there behind the look is written to by none of its parts, as if it came behind them all.
func (s *split) barred(i int) *wire.Error {
	op, p := &s.ops[i], &s.plans[i]
	if len(p.Bars) == 0 {
		return nil
	}
	in, out := p.Bars, []*routing.Target(nil)
	if s.tx != nil { // which is of the cluster that is written to
		in, out = byCluster(p.Bars, p.Targets[0].Cluster)
	}
	matches := false
	for _, at := range []struct {
		tx    *txn
		homes []*routing.Target
	}{{s.tx, in}, {nil, out}} {
		if matches || len(at.homes) == 0 {
			continue
		}
		if err := s.questionIn(at.tx, op, at.homes, false, s.firstOf(op), func(place) *wire.Error { matches = true; return nil }); err != nil {
			return s.unlooked(i, err)
		}
	}
	if matches {
		s.fail(i, p.Barred)
	}
	return nil
}

// upsert makes the document of an upsert that has found none, in its tenant's home.
func (s *split) upsert(i int) *wire.Error {
	home, held, err := s.making(i)
	switch {
	case held:
		return s.broken([]int{i}, err)
	case err != nil:
		s.fail(i, err)
		return nil
	}
	return s.sendAll([]batch{{home, []int{i}}})
}

// making prepares the i-th write, an upsert, to make its document, and says in which home; held says
// that the error is of the moment, since that tenant's route is being changed.
func (s *split) making(i int) (home *routing.Target, held bool, err *wire.Error) {
	op := &s.ops[i]
	v, err := op.Coll.Upserted(op)
	if err != nil {
		return nil, false, err
	}
	if home = s.t.Home(op.Coll, v); s.waits(v) {
		return nil, true, s.c.moving()
	}
	if err = s.t.Guard(&s.c.req, op, home); err == nil {
		op.Tenant, op.Made = v, true
		if _, byID := op.IDs(); s.numbered && !op.Many && !byID {
			err = s.recall(i, place{home: home, tenant: clone(v)}) // it outlives the message
		}
	}
	return home, false, err
}
