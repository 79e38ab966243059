package proxy

import (
	"bytes"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// watch is a change stream that a client follows: one server's that is passed on while that sees
// everything, else a feed from each cluster that has homes.
//
// A stream outlives tables. What a table adds to it is there from the table's first command on, so
// that nothing is given to the client before it was looked once more which table is the current
// one, after it came: else it might be later than something that the stream does not see yet, and
// the client's place in the stream would be behind that. A feed that is to see more is opened anew
// where the client is.
type watch struct {
	open  *subRequest // the client's command
	home  string      // the cluster of a server's own resume token
	seal  *sealer
	table *routing.Table // the last that it was looked at under

	plan    *routing.Watch // nil while it is passed on
	since   uint32         // seconds: at this time the client was where it is
	token   wire.Doc       // where it is, while passed on
	over    bool           // the client has been given the event that ends it
	grounds grounds

	closed atomic.Bool   // by killCursors, also while a batch is waited for
	bell   chan struct{} // holds one: a feed has brought something

	mu    sync.Mutex // guards the following, and what of a feed its goroutine shares
	feeds []*feed    // in the order of the plan's streams
}

// start is where a stream is to begin.
type start struct {
	position
	by    string // the option that says it; "" for none
	again bool   // the client has been given a part of the stream already
	ours  bool   // a token of ours says it
}

// newWatch is the change stream that the client's command opens. It is taken before anything of
// the frame is changed.
func (c *clientConn) newWatch(t *routing.Table, home string) (*watch, *wire.Error) {
	w := &watch{open: &subRequest{}, home: home, table: t, bell: make(chan struct{}, 1), grounds: newGrounds()}
	w.open.buf.B = bytes.Clone(c.frame.B)
	if err := w.open.parse(c.bound); err != nil {
		return nil, err
	}
	w.seal = newSealer(c.srv.fleetKey(), c.principal)
	return w, nil
}

func (s *Server) fleetKey() []byte {
	if s.opts.FleetKey == nil {
		return nil
	}
	return s.opts.FleetKey()
}

func (x *subRequest) parse(bound *routing.Binding) *wire.Error {
	if err := x.msg.Parse(x.buf.B); err != nil {
		return wire.Errorf(wire.FailedToParse, "%v", err)
	}
	err := x.req.Parse(&x.msg)
	x.req.Bound = bound
	return err
}

// start reads where the client wants the stream to begin. A server's own token is one of the home
// cluster: it was taken when nobody was elsewhere.
func (w *watch) start() (s start, err *wire.Error) {
	_, options := w.open.req.ChangeStream()
	for it := options.Iter(); it.Next(); {
		d, ok := it.Value.Doc()
		if key := string(it.Key); !ok || key != "resumeAfter" && key != "startAfter" {
			continue
		} else if s.by != "" {
			return s, wire.Errorf(wire.InvalidOptions, "a change stream begins at one place: resumeAfter and startAfter exclude each other")
		} else {
			s.by = key
		}
		if s.position, s.ours, err = w.seal.open(d); err != nil {
			return s, err
		}
		if !s.ours {
			s.position = position{tokens: []token{{w.home, d}}, since: madeAt(d)}
		}
		if s.over && s.by == "resumeAfter" {
			return s, wire.Errorf(wire.InvalidResumeToken,
				"Attempting to resume a change stream using 'resumeAfter' is not allowed from an invalidate notification; use 'startAfter' instead")
		}
	}
	return s, nil
}

// passOn prepares the trip of a command that opens one server's own stream. A token of ours, taken
// while somebody was elsewhere, is replaced by that server's.
func (c *clientConn) passOn(t *routing.Table, tr *trip) *wire.Error {
	w, err := c.newWatch(t, tr.target.Cluster)
	if err != nil {
		return err
	}
	tr.watch = w
	s, err := w.start()
	if err != nil || !s.ours {
		if s.ours || s.by == "" {
			return err
		}
		return nil // what is wrong with it the server says
	}
	if s.of(w.home) == nil {
		return wire.Errorf(wire.InvalidResumeToken, "the resume token tells no place on the cluster %q", w.home)
	}
	x := &subRequest{}
	x.buf.B = wire.AppendMessage(nil, 0, 0, 0, build(func(d []byte) []byte {
		for it := w.open.msg.Body.Iter(); it.Next(); {
			if string(it.Key) != "pipeline" {
				d = append(d, w.open.msg.Body[it.Start:it.End()]...)
				continue
			}
			d = bsoncore.AppendArrayElement(d, "pipeline", bsoncore.Array(w.pipeline(&routing.Stream{Target: tr.target}, &s)))
		}
		return d
	}))
	w.open = x
	tr.sub, tr.aside = x, true
	return x.parse(c.bound)
}

// follow opens a change stream that is made of feeds. Under another table than it was decided by it
// would begin without a home that is new: then it is decided again.
func (c *clientConn) follow(t *routing.Table, d *routing.Decision) (reply *wire.Buf, again bool) {
	c.outcome.target = d.Watch.Streams[0].Target
	w, err := c.openWatch(t, d)
	if err != nil {
		return c.refuse(err), false
	}
	cur := &cursor{
		principal: c.principal, lsid: c.lsid, hasLSID: c.hasLSID, db: string(c.req.DB), coll: "$cmd.aggregate", watch: w,
	}
	if w.plan.Coll != "" {
		cur.coll = w.plan.Coll
	}
	if c.srv.opts.Router.Current() != t {
		c.endWatch(cur)
		return nil, true
	}
	events, over := c.give(w, firstSize(c.cursorSize()))
	if over {
		c.endWatch(cur)
	} else {
		cur.id = c.keep(cur)
	}
	return c.eventsReply(cur, "firstBatch", events), false
}

func (c *clientConn) openWatch(t *routing.Table, d *routing.Decision) (*watch, *wire.Error) {
	w, err := c.newWatch(t, homeOf(t, d))
	if err != nil {
		return nil, err
	}
	if len(c.srv.fleetKey()) == 0 {
		return nil, c.label(wire.Errorf(wire.HostUnreachable, "the fleet key has not been read yet; the home cluster is not reachable"), true)
	}
	s, err := w.start()
	if err != nil {
		return nil, err
	}
	_, options := c.req.ChangeStream()
	if v, ok := options.Lookup("startAtOperationTime"); ok && v.Type == bsoncore.TypeTimestamp && len(d.Watch.Streams) > 1 {
		return nil, wire.Errorf(wire.InvalidOptions,
			"startAtOperationTime is one cluster's time, and this change stream has several; begin without it, or with a resume token")
	}
	w.plan, w.since = d.Watch, s.since
	if w.feeds, err = c.openFeeds(w, d.Watch.Streams, &s); err != nil {
		return nil, w.told(err)
	}
	for _, p := range s.lost {
		w.grounds.lose(p, 0)
	}
	if err = c.survey(w, w.plan); err != nil {
		w.closed.Store(true)
		for _, f := range w.feeds {
			c.killPart(f.cursorPart, f.as)
		}
		return nil, w.told(err)
	}
	return w, nil
}

// homeOf is the cluster that a server's own token is of.
func homeOf(t *routing.Table, d *routing.Decision) string {
	if d.Watch.Own {
		return d.Watch.Streams[0].Target.Cluster
	}
	return t.HomeAny.Cluster
}

// replan looks whether the current table makes the stream see more than it does, and opens what it
// has to see anew, where the client is; opened says so. What the table takes away the stream keeps:
// its last events may not have been read yet.
func (c *clientConn) replan(cur *cursor) (opened bool, err *wire.Error) {
	w := cur.watch
	t := c.srv.opts.Router.Current()
	if t == w.table {
		return false, nil
	}
	w.table = t
	w.open.req.Looked = true // when it was opened: what it reads is no view
	d := t.Route(&w.open.req)
	if d.Action != routing.Follow || d.Watch.Own || w.plan != nil && w.plan.Own {
		return false, nil
	}
	if w.plan != nil {
		d.Watch.Keep(w.plan)
	}
	feeds := make([]*feed, len(d.Watch.Streams))
	var anew []routing.Stream
	for i, s := range d.Watch.Streams {
		if feeds[i] = w.feedOf(s.Target.Cluster); feeds[i] == nil || !feeds[i].sees(&s) {
			feeds[i] = nil
			anew = append(anew, s)
		}
	}
	if len(anew) == 0 {
		w.mu.Lock()
		w.plan = d.Watch
		w.mu.Unlock()
		return false, c.survey(w, d.Watch)
	}
	if err := c.survey(w, d.Watch); err != nil {
		return false, err
	}
	made, err := c.openFeeds(w, anew, &start{position: w.position(), by: "resumeAfter", again: true})
	if err != nil {
		return false, err
	}
	for i := range feeds {
		if feeds[i] == nil {
			feeds[i], made = made[0], made[1:]
		}
	}
	c.change(cur, d.Watch, feeds)
	return true, nil
}

// change puts the feeds in the place of those that there were, and ends these.
func (c *clientConn) change(cur *cursor, plan *routing.Watch, feeds []*feed) {
	w := cur.watch
	w.mu.Lock()
	old, passed := w.feeds, w.plan == nil
	w.plan, w.feeds = plan, feeds
	w.mu.Unlock()
	if passed {
		c.killPart(cur.part, cur)
	}
	for _, f := range old {
		if w.feedOf(f.target.Cluster) != f && f.id != 0 {
			c.killPart(f.cursorPart, f.as)
		}
	}
	if w.closed.Load() {
		c.endWatch(cur)
	}
}

func (w *watch) feedOf(cluster string) *feed {
	for _, f := range w.feeds {
		if f.target.Cluster == cluster {
			return f
		}
	}
	return nil
}

// position is where the client is.
func (w *watch) position() position {
	p := position{since: w.since, over: w.over}
	if w.plan == nil {
		p.tokens = []token{{w.home, w.token}}
	}
	for _, f := range w.feeds {
		if f.token != nil {
			p.tokens = append(p.tokens, token{f.target.Cluster, f.token})
		}
	}
	p.lost = w.grounds.told(len(w.feeds) > 1)
	return p
}

// nextEvents gives the next batch of a stream that is made of feeds.
func (c *clientConn) nextEvents(cur *cursor) *wire.Buf {
	if err := c.countable("batchSize", "getMore"); err != nil {
		return c.refuse(err)
	}
	w := cur.watch
	q := c.question(len(w.feeds) > 1)
	c.outcome.target = w.feeds[0].target
	var events []wire.Doc
	for asked := false; ; {
		opened, err := c.replan(cur)
		over := false
		if err == nil {
			events, over = c.give(w, q.size)
		}
		if err == nil && len(events) == 0 && !over && (!asked || (opened || w.holding()) && q.left() > 0) {
			asked = true
			if err = c.collect(w, &q); err == nil {
				continue
			}
		}
		switch {
		case w.closed.Load():
			err = wire.Errorf(wire.CursorNotFound, "cursor id %d not found", cur.id)
		case err == nil && !over:
			return c.eventsReply(cur, "nextBatch", events)
		}
		if err != nil {
			return c.failWatch(cur, err)
		}
		c.srv.cursors.remove(cur.id)
		c.endWatch(cur)
		cur.id = 0
		return c.eventsReply(cur, "nextBatch", events)
	}
}

// failWatch ends a change stream by an error.
func (c *clientConn) failWatch(cur *cursor, err *wire.Error) *wire.Buf {
	c.srv.cursors.remove(cur.id)
	c.endWatch(cur)
	return c.refuse(cur.watch.told(err))
}

// give takes the next events off what the feeds have brought; over says that the last of them ends
// the stream.
func (c *clientConn) give(w *watch, size int) (events []wire.Doc, over bool) {
	room := maxBatch
	for again := true; again; {
		again = false
		for _, f := range w.feeds {
			for len(f.docs) > 0 && (size < 0 || len(events) < size) {
				if room < len(f.docs[0])+1024 && len(events) > 0 {
					return events, false
				}
				h := w.next(f)
				v, last, with := c.judge(w, f, &h)
				if v == wait {
					break
				}
				again = again || h.ends()
				doc := w.settle(f, with)
				if v == hide {
					continue
				}
				room -= len(doc) + 1024
				events = append(events, w.sealed(doc))
				if last {
					return append(events, w.ending(doc)), true
				}
			}
			if len(f.docs) == 0 && f.after != nil {
				w.rest(f)
			}
		}
	}
	for _, f := range w.feeds {
		over = over || f.id == 0 && len(f.docs) == 0
	}
	return events, over
}

// settle passes the next event of the feed, and of those that have the same end; it returns the latest of
// them.
func (w *watch) settle(f *feed, with []*feed) wire.Doc {
	told := f
	if len(with) > 0 {
		told = latest(append(with, f))
	}
	doc := told.docs[0]
	for _, g := range append(with, f) {
		h := w.next(g)
		w.grounds.note(g.target.Cluster, &h)
		g.held = false
		w.pass(g, g.docs[0])
	}
	return doc
}

// holding reports whether a feed is held at an event.
func (w *watch) holding() bool {
	return slices.ContainsFunc(w.feeds, func(f *feed) bool { return f.held })
}

// pass moves the client's place behind an event.
func (w *watch) pass(f *feed, doc wire.Doc) {
	f.docs, f.came = f.docs[1:], f.came[1:]
	if id, ok := doc.Lookup("_id"); ok {
		if d, ok := id.Doc(); ok {
			f.token = d
		}
	}
	if v, _ := doc.Lookup("clusterTime"); timestamp(v) != 0 {
		w.at(uint32(timestamp(v) >> 32))
	}
}

// rest moves the client's place to behind all that the feed has brought. An empty batch that brings
// no other place leaves it as it is.
func (w *watch) rest(f *feed) {
	moved := !bytes.Equal(f.after, f.token)
	if f.token, f.after = f.after, nil; moved && f.at != 0 {
		w.at(f.at)
	}
}

// at notes a time at which the client was where it is. It is for clusters that have no token yet:
// while there is one of them it stays.
func (w *watch) at(seconds uint32) {
	for _, f := range w.feeds {
		if f.token == nil {
			return
		}
	}
	w.since = seconds
}

// sealed is an event with a token of ours.
func (w *watch) sealed(doc wire.Doc) wire.Doc {
	p := w.position()
	return build(func(d []byte) []byte {
		for it := doc.Iter(); it.Next(); {
			if _, ok := it.Value.Doc(); ok && string(it.Key) == "_id" {
				d = bsoncore.AppendDocumentElement(d, "_id", bsoncore.Document(w.seal.seal(&p)))
				continue
			}
			if string(it.Key) == routing.HomeField {
				continue
			}
			d = append(d, doc[it.Start:it.End()]...)
		}
		return d
	})
}

// ending is the event behind the one that ends the stream.
func (w *watch) ending(doc wire.Doc) wire.Doc {
	w.over = true
	p := w.position()
	return build(func(d []byte) []byte {
		d = bsoncore.AppendDocumentElement(d, "_id", bsoncore.Document(w.seal.seal(&p)))
		d = bsoncore.AppendStringElement(d, "operationType", "invalidate")
		for it := doc.Iter(); it.Next(); {
			if key := string(it.Key); key == "clusterTime" || key == "wallTime" {
				d = append(d, doc[it.Start:it.End()]...)
			}
		}
		return d
	})
}

func (c *clientConn) eventsReply(cur *cursor, batch string, events []wire.Doc) *wire.Buf {
	p := cur.watch.position()
	return c.answerOf(nil, func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
		d = appendBatch(d, batch, events)
		if len(p.tokens) > 0 {
			d = bsoncore.AppendDocumentElement(d, "postBatchResumeToken", bsoncore.Document(cur.watch.seal.seal(&p)))
		}
		d = bsoncore.AppendInt64Element(d, "id", cur.id)
		d = bsoncore.AppendStringElement(d, "ns", cur.db+"."+cur.coll)
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return d
	})
}

// serverToken is a server's own resume token in a text.
var serverToken = regexp.MustCompile(`_data"?: ?"[^"]*"`)

// told is an error of a feed as the client is to see it. Without the label a driver would not begin
// anew where a cluster could not be reached.
func (w *watch) told(err *wire.Error) *wire.Error {
	told := *err
	told.Reply = nil // it has the text as the server wrote it
	told.Text = serverToken.ReplaceAllString(err.Text, `_data: "..."`)
	if w.plan != nil {
		for x := range w.plan.Homes {
			told.Text = renameText(told.Text, x)
		}
	}
	return resumable(&told)
}

// resumable adds the label that makes drivers begin a change stream anew, where that may help.
func resumable(err *wire.Error) *wire.Error {
	if err.Code != wire.HostUnreachable {
		return err
	}
	return err.WithLabels(wire.LabelResumable)
}

// endWatch ends the stream's cursors on their servers, also while a batch is waited for.
func (c *clientConn) endWatch(cur *cursor) {
	w := cur.watch
	w.closed.Store(true)
	w.mu.Lock()
	passed := w.plan == nil
	feeds := w.feeds
	parts := make([]cursorPart, len(feeds))
	for i, f := range feeds {
		parts[i] = f.cursorPart
	}
	w.mu.Unlock()
	if passed {
		c.killPart(cur.part, cur)
	}
	for i, f := range feeds {
		if parts[i].id != 0 {
			c.killPart(parts[i], f.as)
		}
	}
}

// collect waits until a feed has brought something, or the client's time is over.
func (c *clientConn) collect(w *watch, q *question) *wire.Error {
	if len(w.feeds) == 1 {
		f, own := w.feeds[0], *q
		if w.holding() {
			own.atMost(lull)
		}
		b := c.ask(f, &own)
		w.mu.Lock()
		defer w.mu.Unlock()
		return c.receive(f, b)
	}
	late := time.NewTimer(time.Until(q.until) + lateness)
	defer late.Stop()
	for first := true; ; first = false {
		found, err := c.harvest(w)
		if found || err != nil || !w.dispatch(q, first) {
			return err
		}
		select {
		case <-w.bell:
		case <-late.C: // one that an earlier getMore has asked to wait longer
			return nil
		}
	}
}

// lateness is how much later than the client's time is over a feed may say that it has nothing.
const lateness = 100 * time.Millisecond

// harvest takes in what the feeds have brought; found says that there are events.
func (c *clientConn) harvest(w *watch) (found bool, err *wire.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.feeds {
		if b := f.brought; b != nil {
			f.brought = nil
			if e := c.receive(f, b); err == nil {
				err = e
			}
			found = found || w.holding() // which may be what this decides
		}
		found = found || len(f.docs) > 0 && !f.held
	}
	return found, err
}

// dispatch asks every feed that is not asked yet; none of them when the client's time is over, but
// for the first time. waits says that some feed has not answered.
func (w *watch) dispatch(q *question, first bool) (waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.feeds {
		if !f.busy && (first || q.left() > 0) && len(f.docs) < maxAhead && f.id != 0 {
			f.busy = true
			w.askAside(f, *q)
		}
		waits = waits || f.busy
	}
	return waits
}
