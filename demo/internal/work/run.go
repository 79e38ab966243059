package work

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// Ground is the servers that programs run on, one after the other, each in databases of its own.
type Ground struct {
	Coverage *Coverage

	t                 testing.TB
	direct, home, big *client
	addresses         [2]string // of home and big
	front             *proxy.Proxy
	through           *client
	played            int
}

// NewGround starts the servers; they end with the test.
func NewGround(t testing.TB) *Ground {
	t.Helper()
	g := &Ground{t: t, Coverage: newCoverage()}
	start := func() (*client, string) {
		address := host(secantus.Start(t, secantus.Options{}))
		return g.dial(address), address
	}
	g.direct, _ = start()
	g.home, g.addresses[0] = start()
	g.big, g.addresses[1] = start()
	return g
}

func host(uri string) string { return strings.Trim(strings.TrimPrefix(uri, "mongodb://"), "/") }

func (g *Ground) dial(address string) *client {
	g.t.Helper()
	c, err := dial(address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.nc.Close() })
	return c
}

// route has the proxy follow the program's routing.
func (g *Ground) route(r *Routing, database string) {
	g.t.Helper()
	config := r.config(database, "enabled = false", g.addresses)
	if g.front == nil {
		g.front = proxy.Start(g.t, config)
	} else {
		g.front.Reload(g.t, config)
	}
	if g.through == nil {
		g.through = g.dial(host(g.front.URI))
	}
}

// run is one program under way.
type run struct {
	g         *Ground
	p         *Program
	database  string
	want, got side
	cursors   map[string]*pair
	ids       map[bson.ObjectID]bson.ObjectID // that both sides have made for one document: here, directly
	left      map[string]map[string]string    // what was left in shared, by collection and _id
	views     map[string]definition           // as they are directly
}

// side is one of the two servers as a client sees it.
type side struct {
	*client
	sessions map[int]*session
}

type session struct {
	lsid   bson.D
	number int64
	open   bool // a transaction has been begun
}

// Run plays the program on both sides and returns the first difference.
func (g *Ground) Run(t *testing.T, p *Program) error {
	t.Helper()
	g.played++
	r := &run{g: g, p: p, database: fmt.Sprintf("app%d", g.played), cursors: map[string]*pair{}, ids: map[bson.ObjectID]bson.ObjectID{}, left: map[string]map[string]string{}, views: map[string]definition{}}
	if !p.Routing.Control {
		g.route(&p.Routing, r.database)
		return r.run(g.through)
	}
	// Routes that are kept stay for as long as the database of them: a proxy of its own.
	err := errors.New("it did not come to it")
	t.Run("control", func(t *testing.T) {
		front := proxy.Start(t, p.Routing.config(r.database, fmt.Sprintf("database = %q", r.controlDB()), g.addresses))
		through, failed := dial(host(front.URI))
		if failed != nil {
			t.Fatal(failed)
		}
		defer func() { through.nc.Close() }()
		err = r.run(through)
	})
	return err
}

func (r *run) controlDB() string { return r.database + "_control" }

func (r *run) run(through *client) error {
	g := r.g
	r.want, r.got = side{g.direct, map[int]*session{}}, side{through, map[int]*session{}}
	err := r.play()
	if err != nil {
		// What was left unread on a connection, and open at a server, is not the next program's.
		for _, c := range []*client{g.direct, g.home, g.big, through} {
			g.again(c)
		}
	}
	return errors.Join(err, r.abortAll(), r.drop())
}

// again connects a client anew.
func (g *Ground) again(c *client) {
	g.t.Helper()
	address := c.nc.RemoteAddr().String()
	c.nc.Close()
	*c = *g.dial(address)
}

func (r *run) play() error {
	for i, l := range r.p.Lines {
		err := r.line(l)
		if errors.Is(err, errBrokenOff) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("command %d, %s\n%w", i+1, l, err)
		}
	}
	if err := r.finish(); err != nil {
		return err
	}
	if err := r.contents(); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

// finish ends what the program has left open.
func (r *run) finish() error {
	for name, c := range r.cursors {
		if err := r.drain(c); err != nil {
			return fmt.Errorf("cursor %s, %w", name, err)
		}
	}
	return r.abortAll()
}

func (r *run) abortAll() error {
	for _, s := range []*side{&r.want, &r.got} {
		for n := range s.sessions {
			if err := r.abort(s, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// abort ends a session's transaction where one is open.
func (r *run) abort(s *side, n int) error {
	if x := s.sessions[n]; x == nil || !x.open {
		return nil
	}
	_, err := s.send(r, Line{Session: n, Txn: true, Command: bson.D{{Key: "abortTransaction", Value: int32(1)}}}, false)
	return err
}

// line plays a line: first through the proxy, then, if that was not refused, directly.
func (r *run) line(l Line) error {
	if l.Left {
		return r.leave(l)
	}
	if l.Unheard {
		return r.tell(l)
	}
	if r.unsure(l.Command) || r.counts(l.Command) {
		return nil
	}
	times := 1
	if l.Again && l.Number {
		times = 2
	}
	for _, s := range []*side{&r.want, &r.got} {
		s.prepare(l)
	}
	if done, err := r.cursorLine(l); done {
		return err
	}
	if slices.Contains(ofSessions[1:], name(l.Command)) {
		r.forget(l.Session) // cursors of a transaction that is over
	}
	if ends(l) {
		if x := r.got.sessions[l.Session]; x == nil || !x.open {
			return nil // drivers send nothing then
		}
		if err := r.drainSession(l.Session); err != nil {
			return err
		}
	}
	for n := range times {
		if err := r.both(l, n > 0); err != nil {
			return err
		}
	}
	return nil
}

// tell sends a line's command on both sides, to which nobody replies. What it has done is seen by all that
// comes behind it on the same connection.
func (r *run) tell(l Line) error {
	r.note(l, &refusals{})
	l.Command = append(named(l.Command, r.database).(bson.D), bson.E{Key: "$db", Value: r.database})
	for _, s := range []*side{&r.got, &r.want} {
		if err := s.tell(l.Command, r.p.Routing.Sections); err != nil {
			return err
		}
	}
	return nil
}

// both sends a line's command on both sides, for the first time or again.
func (r *run) both(l Line, again bool) error {
	got, err := r.got.send(r, l, again)
	if err != nil {
		return fmt.Errorf("proxied: %w", err)
	}
	no := r.p.Routing.refused(l.Command, got)
	r.note(l, &no)
	if err := r.rejection(l, &no, got); err != nil {
		return err
	}
	if no.whole != nil || l.Txn && no.any() {
		return r.refusal(l)
	}
	want, err := r.directly(l, again, &no)
	if err != nil {
		return fmt.Errorf("direct: %w", err)
	}
	if no.any() {
		got = no.rest(got)
	}
	switch {
	case name(l.Command) == "abortTransaction":
		return nil // drivers look at no answer; one that had to end it is satisfied either way
	case l.Txn && conflict(want) != conflict(got):
		return r.lost(l)
	case again && writes(l.Command) > 1:
		// The test server knows a command again by all of its bytes, and keeps a session's last: of
		// several parts of one it does the others anew. What there is afterwards must be equal.
		return nil
	}
	if name(l.Command) == "drop" {
		delete(r.left, coll(l.Command))
		r.dropped(coll(l.Command), want)
	}
	r.learn(want, got)
	got = r.same(got).(bson.D)
	want, got = shortened(l.Command, want), shortened(l.Command, got)
	if err := r.outcome(l, want, got); err != nil || !l.Txn || name(l.Command) != "bulkWrite" || len(failures(want)) == 0 {
		return err
	}
	return r.lost(l) // a server ends the transaction, as of every write that fails; the test server goes on with it
}

// outcome compares the replies to a command that the proxy has not refused as a whole.
func (r *run) outcome(l Line, want, got bson.D) error {
	if brokenOff(l.Command, want) || brokenOff(l.Command, got) {
		if err := r.compare(l, uncounted(l.Command, want), uncounted(l.Command, got)); err != nil || l.Txn {
			return err
		}
		return errBrokenOff
	}
	return r.compare(l, want, got)
}

// rejection checks that "reject" has refused what it is about, and nothing else.
func (r *run) rejection(l Line, no *refusals, got bson.D) error {
	if r.p.Routing.Without != "reject" || r.p.Routing.Mode == "disabled" {
		return nil
	}
	rejected := no.whole != nil && no.whole.phrase == rejection
	should, sure := r.p.Routing.rejects(l.Command)
	switch {
	case rejected && sure && !should:
		return fmt.Errorf("it is refused, and names its tenants: %s", text(got))
	case !rejected && should && get(got, "ok") == 1.0:
		return fmt.Errorf("it names no tenant, and is not refused: %s", text(got))
	}
	return nil
}

// errBrokenOff ends a program: a write of many documents has failed, and how many of them were
// changed before is nobody's promise.
var errBrokenOff = errors.New("a write of many documents has failed")

func brokenOff(command, reply bson.D) bool {
	entries := array(get(command, batches[name(command)]))
	return slices.ContainsFunc(failures(reply), func(f failure) bool {
		if name(command) == "insert" && len(entries) > 1 {
			return get(f.doc, "code") == int32(121) // the test server inserts none of a batch of which a validator refuses one
		}
		return f.at < len(entries) && get(doc(entries[f.at]), "multi") == true
	})
}

// uncounted is a reply without how many documents were changed, and without which of them failed. Of an
// insert it says that some failed and no more: the test server looks at all documents of a batch for
// what a validator refuses before it meets an _id that is taken.
func uncounted(command, reply bson.D) bson.D {
	out := slices.DeleteFunc(slices.Clone(reply), func(e bson.E) bool {
		return slices.Contains([]string{"n", "nModified", "nMatched"}, e.Key)
	})
	if name(command) == "insert" && len(failures(reply)) > 0 {
		return slices.DeleteFunc(out, func(e bson.E) bool { return e.Key == "writeErrors" })
	}
	return eachRow(out, func(row bson.D, _ int) bson.D {
		if get(row, "code") == nil {
			return row
		}
		return slices.DeleteFunc(slices.Clone(row), func(e bson.E) bool {
			return slices.Contains([]string{"code", "keyPattern", "keyValue", "errInfo", "n", "nModified"}, e.Key)
		})
	})
}

// directly does what the proxy has not refused of a command.
func (r *run) directly(l Line, again bool, no *refusals) (bson.D, error) {
	l.Command = r.narrowed(l.Command)
	if !no.any() {
		l, told := r.plainly(l)
		reply, err := r.want.send(r, l, again)
		if err == nil && told != nil {
			reply = told(reply)
		}
		r.defines(l.Command, reply)
		return reply, err
	}
	var places []int
	if l.Command, places = no.done(l.Command); len(places) == 0 {
		return nothing(l.Command), nil
	}
	reply, err := r.want.send(r, l, again)
	return placed(reply, places), err
}

// narrowed is the command as it is sent directly: the tenant that its comment names, which no server
// knows of, is asked for by its filters; and where the proxy looks in shared alone, what is there.
func (r *run) narrowed(command bson.D) bson.D {
	if r.p.Routing.Mode == "disabled" {
		return command
	}
	if v := commentTenant(command); v != nil && moduleOf(coll(command)) != "" {
		return narrow(command, func(c string, _, _ bson.D) bson.D { return is(tenantField(c), v) })
	}
	if r.p.Routing.Without == "shared" {
		return r.p.Routing.ofShared(command)
	}
	return command
}

func commentTenant(command bson.D) any {
	return get(doc(get(doc(get(command, "comment")), "tenantry")), "tenant")
}

// writes is how many writes a command has.
func writes(command bson.D) int { return len(array(get(command, batches[name(command)]))) }

// learn notes the _ids that the servers have made for upserts.
func (r *run) learn(want, got bson.D) {
	pair := func(want, got any) {
		a, okA := want.(bson.ObjectID)
		b, okB := got.(bson.ObjectID)
		if okA && okB && a != b {
			r.ids[b] = a
		}
	}
	rows := func(want, got bson.A) {
		for i := range min(len(want), len(got)) {
			a, b := doc(want[i]), doc(got[i])
			pair(get(a, "_id"), get(b, "_id"))
			pair(get(doc(get(a, "upserted")), "_id"), get(doc(get(b, "upserted")), "_id"))
		}
	}
	rows(array(get(want, "upserted")), array(get(got, "upserted")))
	failed := func(reply bson.D) (out bson.A) {
		for _, f := range failures(reply) {
			out = append(out, is("_id", get(doc(get(f.doc, "errInfo")), "failingDocumentId")))
		}
		return append(out, is("_id", get(doc(get(reply, "errInfo")), "failingDocumentId")))
	}
	rows(failed(want), failed(got))
	pair(get(doc(get(want, "lastErrorObject")), "upserted"), get(doc(get(got, "lastErrorObject")), "upserted"))
	if cursor := doc(get(want, "cursor")); get(cursor, "ns") == "admin.$cmd.bulkWrite" {
		rows(array(get(cursor, "firstBatch")), array(get(doc(get(got, "cursor")), "firstBatch")))
	}
}

// same puts the _ids that were made directly for those that were made behind the proxy.
func (r *run) same(v any) any {
	switch v := v.(type) {
	case bson.D:
		out := slices.Clone(v)
		for i := range out {
			out[i].Value = r.same(out[i].Value)
		}
		return out
	case bson.A:
		out := slices.Clone(v)
		for i := range out {
			out[i] = r.same(out[i])
		}
		return out
	case bson.ObjectID:
		if id, ok := r.ids[v]; ok {
			return id
		}
	}
	return v
}

// leave puts documents into shared that have their home elsewhere. Where shared lacks the collection
// or knows another document by the _id, no move could have left them.
func (r *run) leave(l Line) error {
	c := coll(l.Command)
	there, err := read(r.g.home, r.database)
	if err != nil || there[c] == nil {
		return err
	}
	for _, v := range array(get(l.Command, "documents")) {
		d := doc(v)
		t := r.p.Routing.tenant(dig(d, tenantField(c)))
		id := text(get(d, "_id"))
		if t == nil || !r.p.Routing.separate(t, c) || there[c].docs[id] != nil {
			continue
		}
		reply, err := r.g.home.do(append(insert(c, bson.A{d}), bson.E{Key: "$db", Value: r.database}), false)
		if err != nil || get(reply, "n") != int32(1) {
			return fmt.Errorf("it is not left in shared: %s, %w", text(reply), err)
		}
		if r.left[c] == nil {
			r.left[c] = map[string]string{}
		}
		r.left[c][id] = text(d)
	}
	return nil
}

// conflict reports a transient error of a transaction that has met another one's write. Since each
// database has its own catalogue, the first write into a collection may meet one where others do
// not; applications begin anew.
func conflict(reply bson.D) bool { return get(reply, "code") == int32(112) }

// lost ends a transaction on the side that has met no conflict as well.
func (r *run) lost(l Line) error {
	r.forget(l.Session)
	for _, s := range []*side{&r.want, &r.got} {
		if err := r.abort(s, l.Session); err != nil {
			return err
		}
		s.sessions[l.Session].open = true // so that its further commands meet no transaction
	}
	return nil
}

// refusal follows a command that the proxy has refused: it is not run directly, and where it has
// ended a transaction there, this one ends too.
func (r *run) refusal(l Line) error {
	if !l.Txn {
		return nil
	}
	r.forget(l.Session)
	if x := r.want.sessions[l.Session]; x.number == 0 || !x.open {
		x.number, x.open = x.number+1, true // as begun there, and over
		return nil
	}
	err := r.abort(&r.want, l.Session)
	r.want.sessions[l.Session].open = true
	return err
}

// ends reports whether the line ends a transaction.
func ends(l Line) bool {
	n := name(l.Command)
	return n == "commitTransaction" || n == "abortTransaction"
}

// ofSessions are commands about the line's session, which they name in the place of "$lsid": all
// but the first end it.
var ofSessions = []string{"refreshSessions", "endSessions", "killSessions"}

// ofAdmin are commands of the database "admin". They name the program's own as "$db".
var ofAdmin = []string{"commitTransaction", "abortTransaction", "bulkWrite", "listDatabases"}

// named puts the database's name where a program's text has "$db" or "$db.…".
func named(v any, database string) any {
	switch v := v.(type) {
	case bson.D:
		out := slices.Clone(v)
		for i := range out {
			out[i].Value = named(out[i].Value, database)
		}
		return out
	case bson.A:
		out := slices.Clone(v)
		for i := range out {
			out[i] = named(out[i], database)
		}
		return out
	case string:
		if rest, ok := strings.CutPrefix(v, "$db"); ok && (rest == "" || rest[0] == '.') {
			return database + rest
		}
	}
	return v
}

// prepare gives a session that the line names its id.
func (s *side) prepare(l Line) {
	if l.Session == 0 || s.sessions[l.Session] != nil {
		return
	}
	id := bson.NewObjectID()
	uuid := append(slices.Clone(id[:]), byte(l.Session), 0, 0, 0)
	s.sessions[l.Session] = &session{lsid: bson.D{{Key: "id", Value: bson.Binary{Subtype: bson.TypeBinaryUUID, Data: uuid}}}}
}

// send sends the line's command with its session and transaction and returns the reply.
func (s *side) send(r *run, l Line, again bool) (bson.D, error) {
	command, _ := named(l.Command, r.database).(bson.D)
	database := r.database
	if slices.Contains(ofAdmin, name(command)) {
		database = "admin"
	}
	command = append(command, bson.E{Key: "$db", Value: database})
	command = s.sign(command, l, again)
	reply, err := s.do(command, r.p.Routing.Sections)
	if err != nil {
		return nil, err
	}
	if x := s.sessions[l.Session]; l.Txn && ends(l) {
		x.open = false
	}
	return reply, nil
}

// sign appends the session's fields; again keeps the number of the write before.
func (s *side) sign(command bson.D, l Line, again bool) bson.D {
	x := s.sessions[l.Session]
	if x == nil {
		return command
	}
	if slices.Contains(ofSessions, name(command)) {
		command[0].Value = bson.A{x.lsid}
		return command
	}
	add := func(key string, v any) { command = append(command, bson.E{Key: key, Value: v}) }
	add("lsid", x.lsid)
	switch {
	case l.Txn:
		if !x.open && !ends(l) {
			x.number++
			add("startTransaction", true)
			x.open = true
		}
		add("txnNumber", x.number)
		add("autocommit", false)
	case l.Number:
		if !again {
			x.number++
		}
		add("txnNumber", x.number)
	}
	return command
}

var errPhysical = errors.New("a reply names a tenant's own database")

// compare holds the two replies to a line against each other.
func (r *run) compare(l Line, want, got bson.D) error {
	if strings.Contains(text(got), ownName(r.database, "")) {
		return fmt.Errorf("%w: %s", errPhysical, text(got))
	}
	differ := func() error {
		return fmt.Errorf(" direct: %s\nproxied: %s", text(want), text(got))
	}
	if !slices.Equal(outline(l.Command, want), outline(l.Command, got)) {
		return differ()
	}
	if get(want, "cursor") == nil {
		return nil
	}
	c := newPair(l, want, got)
	if l.Cursor != "" {
		r.cursors[l.Cursor] = c
		return nil
	}
	return r.drain(c)
}
