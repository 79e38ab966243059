package proxy

import (
	"bytes"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// feed is one cluster's part of a change stream.
type feed struct {
	cursorPart
	as     *cursor    // the cursor as its server names it
	stages []wire.Doc // what it sees
	side   *clientConn
	docs   []wire.Doc  // brought, and not given to the client
	came   []time.Time // when each of them was brought
	token  wire.Doc    // the client's place
	after  wire.Doc    // the place behind docs
	at     uint32      // the time of that, in seconds; 0 where it is not known

	held      bool      // its next event waits for other feeds
	quietFrom time.Time // asked then,
	quietTo   time.Time // it had nothing up to then

	busy    bool      // its goroutine asks; the watch's mutex guards this and the following
	brought *delivery // by the goroutine, and not looked at
	asked   time.Time // when the goroutine began
}

// delivery is a feed's answer.
type delivery struct {
	docs  []wire.Doc
	id    int64
	token wire.Doc
	asked time.Time
	facts replyFacts
	err   *wire.Error
}

func (f *feed) sees(s *routing.Stream) bool {
	return slices.EqualFunc(f.stages, s.Stages, func(a, b wire.Doc) bool { return bytes.Equal(a, b) })
}

// openFeeds opens a cursor for each of the streams, all or none.
func (c *clientConn) openFeeds(w *watch, streams []routing.Stream, s *start) ([]*feed, *wire.Error) {
	trips := make([]*trip, len(streams))
	for i := range streams {
		x := &streams[i]
		if s.by != "" && s.of(x.Target.Cluster) == nil && s.since == 0 {
			return nil, wire.Errorf(wire.InvalidResumeToken,
				"the resume token tells neither a place on the cluster %q nor a time; begin the change stream without it", x.Target.Cluster)
		}
		tr := c.sideTrip(w.table, x.Target, nil)
		tr.sub, tr.sel, tr.tenant = w.open, c.serverFor(&w.open.req, nil), tenantOf(x.Target)
		tr.edit = func(p *wire.Patch) { w.edit(p, x, s) }
		trips[i] = tr
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		c.killOpened(parts)
		return nil, err
	}
	feeds := make([]*feed, len(parts))
	for i := range parts {
		tr := parts[i].tr
		b := deliveryOf(tr)
		_, id, ns := firstBatch(tr.facts.cursor)
		f := &feed{
			cursorPart: partOf(tr, id, ns), as: c.newCursor(ns, tr.target), stages: streams[i].Stages,
			token: s.of(tr.target.Cluster), side: c.beside(),
		}
		feeds[i] = f
		f.bring(b)
		f.after, f.at = b.token, uint32(b.facts.operation>>32)
	}
	return feeds, nil
}

// tenantOf is the tenant whose connections to the server a target's commands use; 0 for nobody's.
func tenantOf(x *routing.Target) uint32 {
	if x.Tenant == nil {
		return 0
	}
	return x.Tenant.Num
}

// beside is a connection without a client: it asks for a feed's batches while the client's own goes
// on. One goroutine uses it at a time.
func (c *clientConn) beside() *clientConn {
	side := &clientConn{srv: c.srv, id: c.id, principal: c.principal, bound: c.bound, log: c.log, work: &work{mayWait: true}}
	side.lsid, side.hasLSID, side.api = c.lsid, c.hasLSID, c.appendAPI(nil)
	return side
}

// edit makes the client's command the one that opens the stream.
func (w *watch) edit(p *wire.Patch, x *routing.Stream, s *start) {
	r := &w.open.req
	f, _ := r.Field("pipeline")
	body := r.Msg.BodyAt
	p.Replace(f.At, len(f.Value.Data), w.pipeline(x, s), body)
	if x.Target.Logical != "" {
		return
	}
	at := body + 4
	p.Replace(at, r.ValueAt+len(r.Value.Data)-at, bsoncore.AppendInt32Element(nil, string(r.Name), 1), body)
	p.Replace(r.DBAt, 4+len(r.DB)+1, wire.StringValue(x.Target.DB).Data, body)
}

// pipeline is the client's, with the options and the stages of the stream.
func (w *watch) pipeline(x *routing.Stream, s *start) wire.Doc {
	theirs, options := w.open.req.ChangeStream()
	first := build(func(d []byte) []byte {
		return bsoncore.AppendDocumentElement(d, "$changeStream", bsoncore.Document(w.options(options, x, s)))
	})
	return build(func(d []byte) []byte {
		n := 0
		add := func(stage wire.Doc) {
			d = bsoncore.AppendDocumentElement(d, itoa(n), bsoncore.Document(stage))
			n++
		}
		add(first)
		for _, stage := range x.Stages {
			add(stage)
		}
		it := theirs.Iter()
		for it.Next(); it.Next(); n++ {
			d = it.Value.AppendTo(d, itoa(n))
		}
		return d
	})
}

// skew is by how much clusters' clocks may differ. A database that has become a home is new on its
// cluster, so that looking too far back shows nothing twice.
const skew = 60

// options are the client's, with where to begin said for the cluster.
func (w *watch) options(theirs wire.Doc, x *routing.Stream, s *start) wire.Doc {
	place := s.of(x.Target.Cluster)
	return build(func(d []byte) []byte {
		for it := theirs.Iter(); it.Next(); {
			switch key := string(it.Key); {
			case key == "allChangesForCluster" && x.Target.Logical == "" && x.Target.DB != "":
			case s.by != "" && (key == s.by || s.again && (key == "resumeAfter" || key == "startAfter")):
			case s.by != "" && (s.again || place == nil) && key == "startAtOperationTime":
			default:
				d = append(d, theirs[it.Start:it.End()]...)
			}
		}
		if x.Target.Logical == "" && x.Target.DB != "" {
			d = bsoncore.AppendBooleanElement(d, "allChangesForCluster", true)
		}
		switch {
		case s.by == "":
		case place != nil:
			d = bsoncore.AppendDocumentElement(d, s.by, bsoncore.Document(place))
		default:
			d = bsoncore.AppendTimestampElement(d, "startAtOperationTime", max(s.since, skew+1)-skew, 0)
		}
		return d
	})
}

// deliveryOf is a copy of what a reply has brought.
func deliveryOf(tr *trip) *delivery {
	b := &delivery{facts: tr.facts}
	docs, id, _ := firstBatch(tr.facts.cursor)
	b.id = id
	for _, d := range docs {
		b.docs = append(b.docs, bytes.Clone(d))
	}
	v, _ := tr.facts.cursor.Lookup("postBatchResumeToken")
	if d, ok := v.Doc(); ok {
		b.token = bytes.Clone(d)
	}
	b.facts.clusterTime = clone(tr.facts.clusterTime)
	return b
}

// receive takes in what a feed has brought; the watch's mutex is held.
func (c *clientConn) receive(f *feed, b *delivery) *wire.Error {
	if b.err != nil {
		f.id = 0 // what failed is closed on its server, or out of reach
		return b.err
	}
	c.times.note(&b.facts)
	f.id = b.id
	f.bring(b)
	if len(b.docs) == 0 {
		f.quietFrom, f.quietTo = b.asked, time.Now()
	}
	if b.token != nil {
		f.after, f.at = b.token, uint32(b.facts.operation>>32)
	}
	return nil
}

func (f *feed) bring(b *delivery) {
	for _, d := range b.docs {
		f.docs, f.came = append(f.docs, d), append(f.came, time.Now())
	}
}

// question is what a client's getMore asks of each feed.
type question struct {
	size    int // of the batch; < 0 for none said
	wait    int64
	says    bool      // how long to wait
	until   time.Time // when the client's time is over
	comment wire.Value
}

// usualWait is how long servers wait for the first event where the client does not say.
const usualWait = 1000

func (c *clientConn) question(several bool) question {
	q := question{size: c.nextSize(), wait: usualWait, says: several}
	if f, ok := c.req.Field("maxTimeMS"); ok {
		if n, _ := f.Value.Int(); n > 0 {
			q.wait, q.says = n, true
		}
	}
	if f, ok := c.req.Field("comment"); ok {
		q.comment = clone(f.Value)
	}
	q.until = time.Now().Add(time.Duration(q.wait) * time.Millisecond)
	return q
}

// left is for how many milliseconds the client still waits.
func (q *question) left() int64 { return time.Until(q.until).Milliseconds() }

// atMost asks to wait no longer.
func (q *question) atMost(d time.Duration) {
	if until := time.Now().Add(d); until.Before(q.until) {
		q.until, q.says = until, true
	}
}

// ask asks a feed for its next batch, for which its server waits as long as the client does.
func (c *clientConn) ask(f *feed, q *question) *delivery {
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt64Element(d, "getMore", f.id)
		d = bsoncore.AppendStringElement(d, "collection", f.as.coll)
		if q.size >= 0 {
			d = bsoncore.AppendInt32Element(d, "batchSize", int32(q.size))
		}
		if q.says {
			d = bsoncore.AppendInt64Element(d, "maxTimeMS", max(q.left(), 1))
		}
		if q.comment.Type != 0 {
			d = q.comment.AppendTo(d, "comment")
		}
		d = c.appendSession(d, f.target.Cluster, nil)
		return bsoncore.AppendStringElement(d, "$db", f.as.physical(f.target))
	})
	tr := &trip{
		target: f.target, patch: &wire.Patch{}, msg: &wire.Message{}, make: func() wire.Doc { return body }, cursor: f.as,
		sel: backend.Select{Address: f.address}, tenant: tenantOf(f.target),
	}
	asked := time.Now()
	reply, err := c.send(tr)
	if err != nil {
		return &delivery{err: err}
	}
	defer reply.Free()
	if !tr.facts.ok {
		return &delivery{err: c.replied(tr)}
	}
	b := deliveryOf(tr)
	b.asked = asked
	return b
}

// askCaught is ask for a goroutine of its own.
func (c *clientConn) askCaught(f *feed, q *question) (b *delivery) {
	b = &delivery{}
	defer c.caught(&b.err)
	return c.ask(f, q)
}

// soonest is after how long a feed that has brought nothing is asked again.
const soonest = 10 * time.Millisecond

// askAside asks a feed on a goroutine of its own, which may still wait when another feed has given
// the client its batch; the next getMore finds what it brings. It ends by the time that its server
// is told, or with the server's process here.
func (w *watch) askAside(f *feed, q question) {
	s := f.side.srv
	s.joinSide(f.side)
	q.atMost(usualWait * time.Millisecond) // so that a feed that is held learns soon of the others
	pause := soonest - time.Since(f.asked)
	f.asked = time.Now().Add(max(pause, 0))
	go func() {
		defer s.leaveSide(f.side)
		if pause > 0 {
			time.Sleep(pause)
		}
		b := f.side.askCaught(f, &q)
		w.mu.Lock()
		f.busy, f.brought = false, b
		w.mu.Unlock()
		select {
		case w.bell <- struct{}{}:
		default:
		}
	}()
}

// joinSide counts a connection without a client among what Shutdown waits for, and may interrupt.
func (s *Server) joinSide(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sides[c] = struct{}{}
	s.wg.Add(1)
}

func (s *Server) leaveSide(c *clientConn) {
	s.mu.Lock()
	delete(s.sides, c)
	s.mu.Unlock()
	s.wg.Done()
}
