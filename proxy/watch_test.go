package proxy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// journal is what change streams of one scripted server are made of: it knows the names that the
// proxy's first $match lets through, and gives events as they are stored.
type journal struct {
	server *wiretest.Server

	mu      sync.Mutex // guards the following
	events  []bson.D
	news    chan struct{} // closed when something happens
	readers map[int64]*reader
	opened  []bson.D        // the options of each $changeStream
	has     map[string]bool // namespaces that listCollections tells of
	gate    chan struct{}   // holds back answers to getMore
	opening func()          // is run once, before a stream is opened
	waiting int
}

// reader is a cursor.
type reader struct {
	at    int
	sees  func(ns string) bool
	names bool // are made logical
	ended bool
}

// journalStart is the time of a journal's first event, in seconds.
const journalStart = 1795590000

func newJournal(t *testing.T, set string) *journal {
	j := &journal{news: make(chan struct{}), readers: map[int64]*reader{}, has: map[string]bool{}}
	j.server = wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member(set), wiretest.Stored(), wiretest.Enforce())
	j.server.Handle(j.handle)
	return j
}

func tokenAt(n int) bson.D { return d("_data", fmt.Sprintf("82%08X%08X", journalStart+n, n)) }

func placeOf(token any) int {
	text, _ := wiretest.Get(token.(bson.D), "_data").(string)
	if len(text) < 18 {
		return -1
	}
	n, _ := strconv.ParseInt(text[10:18], 16, 64)
	return int(n)
}

// add writes an event.
func (j *journal) add(op, db, coll string, id any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := len(j.events) + 1
	j.events = append(j.events, d("_id", tokenAt(n), "operationType", op, "clusterTime", bson.Timestamp{T: uint32(journalStart + n)},
		"ns", d("db", db, "coll", coll), "documentKey", d("_id", id)))
	j.tell()
}

func (j *journal) tell() {
	close(j.news)
	j.news = make(chan struct{})
}

func (j *journal) handle(c wiretest.Command) wiretest.Reply {
	switch c.Name {
	case "aggregate":
		return j.open(c)
	case "getMore":
		return j.more(c)
	case "killCursors":
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, id := range c.Value("cursors").(bson.A) {
			if r := j.readers[id.(int64)]; r != nil {
				r.ended = true
			}
		}
		j.tell()
		return wiretest.OK()
	case "listCollections":
		j.mu.Lock()
		defer j.mu.Unlock()
		name, _ := c.Value("filter", "name").(string)
		if j.has[c.DB+"."+name] {
			return wiretest.Cursor(c.DB+".$cmd.listCollections", 0, true, d("name", name))
		}
		return wiretest.Cursor(c.DB+".$cmd.listCollections", 0, true)
	}
	return wiretest.Pass()
}

func (j *journal) open(c wiretest.Command) wiretest.Reply {
	j.mu.Lock()
	opening := j.opening
	j.opening = nil
	j.mu.Unlock()
	if opening != nil {
		opening()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	pipeline := c.Value("pipeline").(bson.A)
	options := wiretest.Get(pipeline[0].(bson.D), "$changeStream").(bson.D)
	j.opened = append(j.opened, options)
	r := &reader{at: len(j.events), sees: func(ns string) bool { return ns == c.DB+"."+c.Collection() }}
	resumed := false
	for _, e := range options {
		switch e.Key {
		case "resumeAfter", "startAfter":
			if r.at, resumed = placeOf(e.Value), true; r.at < 0 {
				return wiretest.Fail(260, "no token: "+bson.Raw(wiretest.D(options)).String())
			}
		case "startAtOperationTime":
			r.at, resumed = max(0, int(e.Value.(bson.Timestamp).T)-journalStart), true
		case "allChangesForCluster":
			r.sees, r.names = seenBy(pipeline[1].(bson.D)), true
		}
	}
	id := int64(len(j.readers) + 1)
	j.readers[id] = r
	var docs bson.A
	if resumed {
		docs = j.read(r)
	}
	ns := c.DB + ".$cmd.aggregate"
	if c.Collection() != "" {
		ns = c.DB + "." + c.Collection()
	}
	return j.reply("firstBatch", id, ns, docs, r)
}

// seenBy reads the condition of the proxy's $match.
func seenBy(match bson.D) func(ns string) bool {
	text := bson.Raw(wiretest.D(match)).String()
	names, _, _ := strings.Cut(text, `"to.db"`)
	return func(ns string) bool {
		db, coll, _ := strings.Cut(ns, ".")
		return strings.Contains(names, strconv.Quote(db)) && strings.Contains(names, strconv.Quote(coll))
	}
}

func (j *journal) read(r *reader) (docs bson.A) {
	for ; r.at < len(j.events); r.at++ {
		e := j.events[r.at]
		db, _ := wiretest.Get(e, "ns", "db").(string)
		coll, _ := wiretest.Get(e, "ns", "coll").(string)
		if r.sees(db + "." + coll) {
			if r.names {
				e = append(slices.Clone(e), bson.E{Key: routing.HomeField, Value: db})
				if strings.HasPrefix(db, "app_t_") {
					e[3].Value = d("db", "app", "coll", coll)
				}
			}
			docs = append(docs, e)
		}
	}
	return docs
}

func (j *journal) reply(batch string, id int64, ns string, docs bson.A, r *reader) wiretest.Reply {
	return wiretest.OK(bson.E{Key: "cursor", Value: d(batch, append(bson.A{}, docs...), "postBatchResumeToken", tokenAt(r.at), "id", id, "ns", ns)})
}

func (j *journal) more(c wiretest.Command) wiretest.Reply {
	id, _ := c.Int("getMore")
	wait := int64(1000)
	if n, ok := c.Int("maxTimeMS"); ok {
		wait = n
	}
	late := time.After(time.Duration(wait) * time.Millisecond)
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.readers[id]
	if r == nil {
		return wiretest.Fail(wire.CursorNotFound, "cursor not found")
	}
	j.waiting++
	defer func() { j.waiting-- }()
	j.tell()
	for over := false; ; {
		docs := j.read(r)
		if gate := j.gate; gate != nil && (len(docs) > 0 || over) {
			j.mu.Unlock()
			<-gate
			j.mu.Lock()
			docs = append(docs, j.read(r)...)
		}
		if r.ended {
			return wiretest.Fail(237, "cursor killed")
		}
		if len(docs) > 0 || over {
			return j.reply("nextBatch", id, c.DB+"."+c.Value("collection").(string), docs, r)
		}
		news := j.news
		j.mu.Unlock()
		select {
		case <-news:
		case <-late:
			over = true
		}
		j.mu.Lock()
	}
}

// end lets the getMores that wait go.
func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.readers {
		r.ended = true
	}
	j.tell()
}

// waits returns when so many getMores wait.
func (j *journal) waits(t *testing.T, n int) {
	t.Helper()
	for end := time.After(wiretest.Patience); ; {
		j.mu.Lock()
		now, news := j.waiting, j.news
		j.mu.Unlock()
		if now >= n {
			return
		}
		select {
		case <-news:
		case <-end:
			t.Fatalf("%d getMores wait, want %d", now, n)
		}
	}
}

// banks are two clusters, the proxy before them, and a client. acme is isolated on home, far on big.
type banks struct {
	loops     *wire.Loops
	home, big *journal
	router    *routing.Router
	clusters  *backend.Clusters
	proxy     *Server
	client    *wiretest.Client
	addr      string
}

func banksTable(t *testing.T, epoch uint64, isolated ...string) *routing.Table {
	return banksTableOf(t, epoch, func(*routing.Spec) {}, isolated...)
}

func banksTableOf(t *testing.T, epoch uint64, change func(*routing.Spec), isolated ...string) *routing.Table {
	return tableOf(t, epoch, func(s *routing.Spec) {
		change(s)
		s.Tenants = nil
		for i, key := range []string{"acme", "far", "globex"} {
			x := routing.TenantSpec{ID: wire.StringValue(key), Key: key, Num: uint32(i + 1)}
			if slices.Contains(isolated, key) {
				x.Route = &routing.RouteSpec{Cluster: "home", Collections: []string{"orders"}}
				if key == "far" {
					x.Route.Cluster = "big"
				}
			}
			s.Tenants = append(s.Tenants, x)
		}
	})
}

func newBanks(t *testing.T, isolated ...string) *banks {
	t.Helper()
	b := &banks{loops: newLoops(t), home: newJournal(t, "rs0"), big: newJournal(t, "rs1"), router: &routing.Router{}}
	b.clusters = backend.New(backend.Options{Log: zerolog.Nop()})
	if err := b.clusters.Apply([]backend.Spec{
		{Name: "home", URI: "mongodb://" + b.home.server.Addr() + "/?replicaSet=rs0&serverSelectionTimeoutMS=2000"},
		{Name: "big", URI: "mongodb://" + b.big.server.Addr() + "/?replicaSet=rs1&serverSelectionTimeoutMS=2000"},
	}, backend.Limits{}); err != nil {
		t.Fatal(err)
	}
	b.router.Publish(banksTable(t, 1, isolated...))
	b.restart(t)
	t.Cleanup(func() {
		began := time.Now()
		if b.stop(); time.Since(began) > 5*time.Second {
			t.Errorf("the proxy has stopped after %v", time.Since(began))
		}
		b.home.end()
		b.big.end()
		b.clusters.Close()
		b.home.server.Close()
		b.big.server.Close()
	})
	return b
}

// restart puts a new proxy in the place of the one there was.
func (b *banks) restart(t *testing.T) {
	t.Helper()
	b.stop()
	key := []byte(strings.Repeat("k", 32))
	b.proxy = New(Options{Log: zerolog.Nop(), Router: b.router, Clusters: b.clusters, Loops: b.loops, FleetKey: func() []byte { return key }})
	addr, err := b.proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = addr.String()
	b.client = wiretest.Dial(t, b.addr)
}

func (b *banks) stop() {
	if b.proxy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b.proxy.Shutdown(ctx)
	}
}

// tail is a stream as its client sees it.
type tail struct {
	t      *testing.T
	client *wiretest.Client
	id     int64
	token  bson.D
	events []bson.D
}

func (b *banks) watch(t *testing.T, options bson.D) *tail {
	t.Helper()
	s := &tail{t: t, client: b.client}
	s.take(s.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", append(bson.D{}, options...))}, "cursor", bson.D{}, "lsid", session(1))))
	return s
}

func (s *tail) take(r bson.D) {
	s.t.Helper()
	if wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "cursor", "ns") != "app.orders" {
		s.t.Fatalf("no batch: %v", r)
	}
	s.id, _ = wiretest.Get(r, "cursor", "id").(int64)
	s.token, _ = wiretest.Get(r, "cursor", "postBatchResumeToken").(bson.D)
	for _, name := range []string{"firstBatch", "nextBatch"} {
		docs, _ := wiretest.Get(r, "cursor", name).(bson.A)
		for _, e := range docs {
			s.events = append(s.events, e.(bson.D))
		}
	}
}

func (s *tail) getMore(wait int) bson.D {
	return d("getMore", s.id, "collection", "orders", "maxTimeMS", wait, "lsid", session(1))
}

func (s *tail) more(wait int) {
	s.t.Helper()
	s.take(s.client.Run("app", s.getMore(wait)))
}

// until asks for batches until there are so many events.
func (s *tail) until(n int) {
	s.t.Helper()
	for range 20 {
		if len(s.events) >= n {
			break
		}
		s.more(500)
	}
	if len(s.events) != n {
		s.t.Fatalf("%d events, want %d: %v", len(s.events), n, s.events)
	}
}

func (s *tail) ids() (ids []any) {
	for _, e := range s.events {
		ids = append(ids, wiretest.Get(e, "documentKey", "_id"))
	}
	return ids
}

func (s *tail) want(ids ...any) {
	s.t.Helper()
	if got := s.ids(); !slices.Equal(got, ids) {
		s.t.Errorf("events of %v, want %v", got, ids)
	}
	for _, e := range append(s.events, d("_id", s.token)) {
		if db := wiretest.Get(e, "ns", "db"); db != nil && db != "app" {
			s.t.Errorf("the client sees the database %v", db)
		}
		if text, _ := wiretest.Get(e, "_id", "_data").(string); !strings.HasPrefix(text, tokenMark) {
			s.t.Errorf("the client sees the token %q", text)
		}
	}
}

// TestWatchMerged: events come from every home and no other, whichever cluster has them first.
func TestWatchMerged(t *testing.T) {
	b := newBanks(t, "acme", "far")
	s := b.watch(t, d("fullDocument", "updateLookup"))
	b.home.add("insert", "app", "orders", int32(1))
	b.home.add("insert", "app_t_acme", "orders", int32(2))
	b.home.add("insert", "app_t_acme", "users", int32(3))
	b.home.add("insert", "app_t_gone", "orders", int32(4))
	s.until(2)
	began := time.Now()
	go func() {
		b.big.waits(t, 1)
		b.big.add("insert", "app_t_far", "orders", int32(5))
	}()
	s.more(60_000)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("an event waited %v for the other cluster", took)
	}
	b.home.add("insert", "app", "orders", int32(6)) // where a getMore still waits
	s.more(60_000)
	s.want(int32(1), int32(2), int32(5), int32(6))
	if options := b.home.opened[0]; wiretest.Get(options, "allChangesForCluster") != true || wiretest.Get(options, "fullDocument") != "updateLookup" {
		t.Errorf("opened with %v", options)
	}
	began = time.Now()
	s.more(100)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("an empty batch came after %v", took)
	}
}

// TestWatchResumes: a token tells the place on every cluster, whichever proxy gave it.
func TestWatchResumes(t *testing.T) {
	b := newBanks(t, "acme", "far")
	s := b.watch(t, nil)
	b.home.add("insert", "app", "orders", int32(1))
	s.until(1)
	b.big.add("insert", "app_t_far", "orders", int32(2))
	s.until(2)
	b.home.add("insert", "app_t_acme", "orders", int32(3))
	s.until(3)
	b.restart(t)
	r := b.client.Run("app", s.getMore(100))
	if wiretest.Get(r, "code") != int32(wire.CursorNotFound) {
		t.Errorf("getMore after the restart: %v", r)
	}
	for i, want := range [][]any{{int32(2), int32(3)}, {int32(3)}, nil} {
		token := wiretest.Get(s.events[i], "_id")
		for _, by := range []string{"resumeAfter", "startAfter"} {
			again := b.watch(t, d(by, token))
			again.more(50)
			if got := again.ids(); !sameSet(got, want) {
				t.Errorf("%s event %d brings %v, want %v", by, i, got, want)
			}
		}
	}
	if again := b.watch(t, d("resumeAfter", s.token)); len(again.events) != 0 {
		t.Errorf("at the end: %v", again.ids())
	}
	r = b.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", d("startAtOperationTime", bson.Timestamp{T: 1}))}, "cursor", bson.D{}))
	if wiretest.Get(r, "code") != int32(wire.InvalidOptions) {
		t.Errorf("a time of several clusters: %v", r)
	}
	forged := d("_data", wiretest.Get(s.token, "_data").(string)[:60])
	r = b.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", d("resumeAfter", forged))}, "cursor", bson.D{}))
	if wiretest.Get(r, "code") != int32(wire.InvalidResumeToken) {
		t.Errorf("a forged token: %v", r)
	}
}

func sameSet(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}

// TestWatchOwnToken: a server's own token, from before anybody was isolated, is home's; on another
// cluster the stream begins at the time that it tells.
func TestWatchOwnToken(t *testing.T) {
	b := newBanks(t)
	b.big.add("insert", "app_t_far", "orders", int32(9))
	s := b.watch(t, nil)
	b.home.add("insert", "app", "orders", int32(1))
	b.home.add("insert", "app", "orders", int32(2))
	s.until(2)
	own, _ := wiretest.Get(s.events[0], "_id").(bson.D)
	if placeOf(own) != 1 || len(b.big.opened) != 0 {
		t.Fatalf("where no route touches: %v", own)
	}
	b.router.Publish(banksTable(t, 2, "acme", "far"))
	again := b.watch(t, d("resumeAfter", own))
	again.want(int32(2), int32(9))
	again = b.watch(t, d("startAfter", tokenAt(2)))
	again.want(int32(9))
	r := b.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", d("resumeAfter", d("_data", "3A00")))}, "cursor", bson.D{}))
	if wiretest.Get(r, "code") != int32(wire.InvalidResumeToken) {
		t.Errorf("a token without a time: %v", r)
	}
	b.router.Publish(banksTable(t, 3))
	back := b.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", d("resumeAfter", again.token))}, "cursor", bson.D{}))
	if wiretest.Get(back, "ok") != 1.0 || placeOf(wiretest.Get(b.home.opened[len(b.home.opened)-1], "resumeAfter")) != 2 {
		t.Errorf("back in shared: %v, opened with %v", back, b.home.opened)
	}
}

// TestWatchReopens: a home that is new since the stream was opened loses no event, and the order
// holds, though a batch of the time before it is under way when it comes.
func TestWatchReopens(t *testing.T) {
	for name, c := range map[string]struct{ before, after []string }{
		"passed on before": {nil, []string{"acme"}},
		"one more":         {[]string{"globex"}, []string{"globex", "acme"}},
		"of two clusters":  {[]string{"far"}, []string{"far", "acme"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBanks(t, c.before...)
			s := b.watch(t, nil)
			b.home.add("insert", "app", "orders", int32(1))
			s.until(1)
			gate := make(chan struct{})
			b.home.mu.Lock()
			b.home.gate = gate
			b.home.mu.Unlock()
			done := make(chan bson.D)
			other := wiretest.Dial(t, b.addr)
			go func() { done <- other.Run("app", s.getMore(60_000)) }()
			b.home.waits(t, 1)
			b.router.Publish(banksTable(t, 2, c.after...))
			b.home.add("insert", "app_t_acme", "orders", int32(2))
			b.home.add("insert", "app", "orders", int32(3))
			close(gate)
			s.take(<-done)
			s.until(3)
			b.home.add("insert", "app_t_acme", "orders", int32(4))
			s.until(4)
			if got := s.ids(); !slices.Equal(got, []any{int32(1), int32(2), int32(3), int32(4)}) {
				t.Errorf("events of %v", got)
			}
		})
	}
}

// TestWatchOpens: a home that comes while a stream is opened is seen from where that begins.
func TestWatchOpens(t *testing.T) {
	for name, before := range map[string][]string{"passed on": nil, "one more": {"globex"}} {
		t.Run(name, func(t *testing.T) {
			b := newBanks(t, before...)
			b.home.add("insert", "app", "orders", int32(1))
			s := b.watch(t, nil)
			b.home.opening = func() {
				b.router.Publish(banksTable(t, 2, append(before, "acme")...))
				b.home.add("insert", "app_t_acme", "orders", int32(2))
				b.home.add("insert", "app", "orders", int32(3))
			}
			again := b.watch(t, d("resumeAfter", s.token))
			again.until(2)
			again.want(int32(2), int32(3))
		})
	}
}

// TestWatchOfNewCollection: a stream of a collection that no table knows of yet sees a home that comes.
func TestWatchOfNewCollection(t *testing.T) {
	b := newBanks(t)
	unknown := func(epoch uint64, isolated ...string) *routing.Table {
		return banksTableOf(t, epoch, func(s *routing.Spec) { s.Names = []string{} }, isolated...)
	}
	b.router.Publish(unknown(2))
	s := b.watch(t, nil)
	b.router.Publish(unknown(3, "acme"))
	b.home.add("insert", "app_t_acme", "orders", int32(1))
	b.home.add("insert", "app", "orders", int32(2))
	s.until(2)
	s.want(int32(1), int32(2))
}

// TestWatchNewCluster: a home on a cluster that the stream did not look at.
func TestWatchNewCluster(t *testing.T) {
	b := newBanks(t, "acme")
	s := b.watch(t, nil)
	b.home.add("insert", "app", "orders", int32(1))
	s.until(1)
	kept := s.token
	b.router.Publish(banksTable(t, 2, "acme", "far"))
	b.big.add("insert", "app_t_far", "orders", int32(2))
	s.until(2)
	s.want(int32(1), int32(2))
	b.router.Publish(banksTable(t, 3, "acme"))
	b.big.add("delete", "app_t_far", "orders", int32(3)) // before the tenant went back
	s.until(3)
	b.router.Publish(banksTable(t, 4, "acme", "far"))
	again := b.watch(t, d("resumeAfter", kept))
	if got := again.ids(); !sameSet(got, []any{int32(2), int32(3)}) {
		t.Errorf("a token from before brings %v", got)
	}
}

// TestWatchGone: a drop in one home is told when no other has the collection, and ends the stream.
func TestWatchGone(t *testing.T) {
	b := newBanks(t, "acme", "far")
	b.home.has["app.orders"] = true
	s := b.watch(t, nil)
	b.home.add("drop", "app_t_acme", "orders", nil)
	b.home.add("insert", "app", "orders", int32(1))
	s.until(1)
	b.home.mu.Lock()
	b.home.has = map[string]bool{}
	b.home.mu.Unlock()
	b.home.add("drop", "app", "orders", nil)
	s.more(5000)
	if ops := s.ops(); !slices.Equal(ops, []any{"insert", "drop", "invalidate"}) || s.id != 0 {
		t.Fatalf("%v, cursor %d", ops, s.id)
	}
	if wiretest.Get(s.events[2], "ns") != nil || wiretest.Get(s.events[2], "clusterTime") == nil {
		t.Errorf("invalidate: %v", s.events[2])
	}
	over := wiretest.Get(s.events[2], "_id")
	r := b.client.Run("app", d("aggregate", "orders", "pipeline", bson.A{d("$changeStream", d("resumeAfter", over))}, "cursor", bson.D{}))
	if wiretest.Get(r, "code") != int32(wire.InvalidResumeToken) {
		t.Errorf("resumeAfter an invalidate event: %v", r)
	}
	if behind := s.token; fmt.Sprint(behind) != fmt.Sprint(over) {
		t.Errorf("the place behind the stream is %v, not that of its end", behind)
	}
	b.home.add("insert", "app", "orders", int32(2))
	again := b.watch(t, d("startAfter", over))
	again.want(int32(2))
}

func (s *tail) ops() (ops []any) {
	for _, e := range s.events {
		ops = append(ops, wiretest.Get(e, "operationType"))
	}
	return ops
}

// TestWatchDrained: the end of a stream comes behind all that was before it in any home, once, though
// nothing is there any more, or something is again, when the events are read.
func TestWatchDrained(t *testing.T) {
	own := map[string]string{"acme": "app_t_acme", "far": "app_t_far"}
	for name, isolated := range map[string][]string{"one cluster": {"acme"}, "two": {"acme", "far"}} {
		t.Run(name, func(t *testing.T) {
			b := newBanks(t, isolated...)
			at := func(key string) *journal {
				if key == "far" {
					return b.big
				}
				return b.home
			}
			for _, key := range isolated {
				at(key).has[own[key]+".orders"] = true
			}
			s := b.watch(t, nil)
			want := []any{}
			for range 20 {
				for _, key := range isolated {
					at(key).add("insert", own[key], "orders", int32(1))
					want = append(want, "insert")
				}
			}
			b.home.add("drop", "app_t_acme", "orders", nil)
			b.home.add("insert", "app_t_acme", "orders", int32(2))
			if len(isolated) > 1 {
				s.more(100) // home's events are here, big's may be
				b.big.add("drop", "app_t_far", "orders", nil)
			}
			for range 20 {
				if s.id == 0 {
					break
				}
				s.more(500)
			}
			if got := s.ops(); !slices.Equal(got, append(want, "drop", "invalidate")) || s.id != 0 {
				t.Fatalf("%v, cursor %d", got, s.id)
			}
		})
	}
}

// TestWatchDropHalfRead: a stream that goes on between two homes' drops knows of the first, though the
// collection has been made anew there.
func TestWatchDropHalfRead(t *testing.T) {
	b := newBanks(t, "acme", "far")
	b.home.has["app_t_acme.orders"], b.big.has["app_t_far.orders"] = true, true
	s := b.watch(t, nil)
	b.big.add("insert", "app_t_far", "orders", int32(1))
	s.until(1)
	b.home.add("drop", "app_t_acme", "orders", nil)
	for range 5 {
		s.more(500)
	}
	b.big.add("drop", "app_t_far", "orders", nil)
	b.big.has["app_t_far.orders"] = false
	again := b.watch(t, d("resumeAfter", s.token))
	for range 10 {
		if again.id != 0 {
			again.more(300)
		}
	}
	if n := len(s.events); n != 1 || !slices.Contains(again.ops(), any("drop")) || again.id != 0 {
		t.Fatalf("%d events, then %v, cursor %d", n, again.ops(), again.id)
	}
}

// TestWatchKilled: killCursors ends a getMore that waits.
func TestWatchKilled(t *testing.T) {
	for name, isolated := range map[string][]string{"one cluster": {"acme"}, "two": {"acme", "far"}} {
		t.Run(name, func(t *testing.T) {
			b := newBanks(t, isolated...)
			s := b.watch(t, nil)
			done := make(chan bson.D)
			go func() { done <- s.client.Run("app", s.getMore(60_000)) }()
			b.home.waits(t, 1)
			r := wiretest.Dial(t, b.addr).Run("app", d("killCursors", "orders", "cursors", bson.A{s.id}))
			if killed, _ := wiretest.Get(r, "cursorsKilled").(bson.A); len(killed) != 1 {
				t.Fatalf("killCursors: %v", r)
			}
			if r := <-done; wiretest.Get(r, "code") != int32(wire.CursorNotFound) {
				t.Errorf("getMore: %v", r)
			}
		})
	}
}

// TestWatchFails: what a server says leaves without its token, and a lost cluster with the label
// that makes drivers begin anew.
func TestWatchFails(t *testing.T) {
	b := newBanks(t, "acme", "far")
	s := b.watch(t, nil)
	b.big.server.Once("getMore", wiretest.Fail(280, `cannot find { _data: "8262AB" } in app_t_far.orders`, "NonResumableChangeStreamError"))
	r := s.client.Run("app", s.getMore(200))
	text, _ := wiretest.Get(r, "errmsg").(string)
	labels, _ := wiretest.Get(r, "errorLabels").(bson.A)
	if wiretest.Get(r, "code") != int32(280) || strings.Contains(text, "8262AB") || !strings.Contains(text, "app.orders") || len(labels) != 1 {
		t.Errorf("a server's error: %v", r)
	}
	for _, isolated := range [][]string{nil, {"acme"}, {"acme", "far"}} {
		b = newBanks(t, "acme", "far") // no question of another stream is under way there
		b.router.Publish(banksTable(t, 2, isolated...))
		s = b.watch(t, nil)
		b.home.server.Once("getMore", wiretest.HangUp())
		r = s.client.Run("app", s.getMore(200))
		labels, _ = wiretest.Get(r, "errorLabels").(bson.A)
		if wiretest.Get(r, "code") != int32(wire.HostUnreachable) || !slices.Contains(labels, any(wire.LabelResumable)) {
			t.Errorf("isolated %v, a lost connection: %v", isolated, r)
		}
	}
}

// A fault of one feed's goroutine is the end of its stream, and of nothing else.
func TestWatchPanics(t *testing.T) {
	b := newBanks(t, "acme", "far")
	s := b.watch(t, nil)
	w := b.proxy.cursors.get(s.id).watch
	w.mu.Lock()
	w.feeds[1].as = nil
	w.mu.Unlock()
	if r := s.client.Run("app", s.getMore(200)); wiretest.Get(r, "code") != int32(wire.InternalError) {
		t.Errorf("%v, want InternalError", r)
	}
	b.home.add("insert", "app", "orders", int32(1))
	again := b.watch(t, nil)
	b.home.add("insert", "app", "orders", int32(2))
	again.until(1)
}
