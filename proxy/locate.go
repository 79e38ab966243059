package proxy

import (
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// place is where a document was found: the home of its tenant, and the value of the tenant field.
type place struct {
	home   *routing.Target
	id     wire.Value
	tenant wire.Value
	key    wire.Value // by which it is sorted, where that was asked for
	twice  bool       // so was another one, with the same _id
}

// made reports whether it is where a first try has made a document: its retry is sent as that was.
func (p *place) made() bool { return p.id.Type == 0 }

// locateByID finds the homes of those writes of a batch that name their documents by _id, and no
// tenant: a single one's where its document was seen last, else all of them by one question to each
// home. What none has stays without a home, and so does a write whose document an earlier one of the
// batch may delete or give away: it is looked for when its turn comes. held is the tenant of one that
// waits.
func (s *split) locateByID() (held wire.Value, err *wire.Error) {
	if len(s.ops) == 1 {
		if held = s.guessHome(); s.guessed {
			return held, nil
		}
	}
	return s.locateAsking(s.settled()...)
}

// settled are the writes before which no other of the batch may change whose their documents are.
func (s *split) settled() (which []int) {
	type collection struct {
		of   *routing.Collection
		name string
	}
	changed := map[collection]map[string]bool{} // by _id; "" is any
	for i := range s.ops {
		op := &s.ops[i]
		in := collection{op.Coll, string(op.Name)}
		earlier := changed[in]
		if id, ok := s.byID(i); !ok || len(earlier) == 0 || !earlier[""] && !earlier[keyOf(id)] {
			which = append(which, i)
		}
		if i+1 == len(s.ops) || !op.Unsettles() {
			continue
		}
		if earlier == nil {
			earlier = map[string]bool{}
			changed[in] = earlier
		}
		ids, named := op.IDs()
		for _, id := range ids {
			earlier[keyOf(id)] = true
		}
		if !named {
			earlier[""] = true
		}
	}
	return which
}

// guessHome gives a single write the home where its document was seen last. A guess may be wrong: it
// refuses nothing, and what would make a document there is not sent by it.
func (s *split) guessHome() (held wire.Value) {
	op := &s.ops[0]
	id, ok := s.byID(0)
	if !ok || op.Upsert && !s.plain(op) {
		return held
	}
	p, ok := s.hinted(op, id, s.plans[0].Targets)
	if !ok {
		return held
	}
	held, op.Exists = s.settle(0, p), true
	if s.guessed = s.plans[0].Err == nil; !s.guessed {
		s.plans[0].Err, op.Located = nil, routing.Located{}
	}
	return held
}

// locateAsking is locateByID for these writes, without guesses.
func (s *split) locateAsking(which ...int) (held wire.Value, err *wire.Error) {
	for len(which) > 0 && held.Type == 0 {
		var ids []wire.Value
		var same, others []int // same: those of the first one's collection, in the same homes
		for _, i := range which {
			id, ok := s.byID(i)
			switch {
			case !ok:
			case len(same) > 0 && !(s.ops[i].SameColl(&s.ops[same[0]]) && slices.Equal(s.plans[i].Targets, s.plans[same[0]].Targets)):
				others = append(others, i)
			default:
				same, ids = append(same, i), append(ids, id)
			}
		}
		if len(same) == 0 {
			return held, nil
		}
		if held, err = s.locateThose(same, ids); err != nil {
			return held, err
		}
		which = others
	}
	return held, nil
}

// locateThose asks for the documents of writes to one collection, in the homes that each of them may be in.
func (s *split) locateThose(which []int, ids []wire.Value) (held wire.Value, err *wire.Error) {
	targets := s.plans[which[0]].Targets
	found := map[string]place{}
	for rest := ids; len(rest) > 0; {
		n := fitting(rest)
		if err = s.ask(&s.ops[which[0]], targets, rest[:n], found); err != nil {
			return held, err
		}
		rest = rest[n:]
	}
	for k, i := range which {
		p, ok := found[keyOf(ids[k])]
		if s.absent[i] = !ok; ok && held.Type == 0 {
			held = s.settle(i, p)
		}
	}
	return held, nil
}

// maxAsk is how many bytes of _ids one question has: a command is one document, and so is its answer.
const maxAsk = 4 << 20

// fitting is how many of the _ids one question takes, at least one.
func fitting(ids []wire.Value) (n int) {
	for size := 0; n < len(ids); n++ {
		if size += len(ids[n].Data) + 16; size > maxAsk && n > 0 {
			break
		}
	}
	return n
}

// byID is the one _id by which the i-th write selects its document, where its home is to be found
// out.
func (s *split) byID(i int) (id wire.Value, ok bool) {
	if s.homes[i] != nil || s.plans[i].Err != nil {
		return id, false
	}
	ids, ok := s.ops[i].IDs()
	if !ok || len(ids) != 1 {
		return id, false
	}
	return ids[0], true
}

// keyOf is an _id as a key: two are the same where servers take them for the same.
func keyOf(id wire.Value) string { return string(wire.AppendKey(nil, id)) }

// ambiguous refuses to choose between documents with one _id that are in the databases of two tenants.
func ambiguous() *wire.Error {
	return wire.Errorf(wire.IllegalOperation,
		"a document with this _id is in the databases of several tenants; add the tenant field to the filter")
}

// settle gives the i-th write the home where its document was found; held is its tenant where that
// waits.
func (s *split) settle(i int, p place) (held wire.Value) {
	op := &s.ops[i]
	if p.twice {
		s.plans[i].Err = ambiguous()
		return held
	}
	if s.waits(p.tenant) {
		return p.tenant
	}
	op.Tenant, op.Exists = p.tenant, s.plain(op) && !remakes(op, p.tenant)
	if err := s.t.Guard(&s.c.req, op, p.home); err != nil {
		s.plans[i].Err = err
		return held
	}
	s.homes[i] = p.home
	return held
}

// remakes reports whether an upsert makes a document of the tenant whose one was found: it is sent as
// one, since that may be gone when it comes.
func remakes(op *routing.Op, tenant wire.Value) bool {
	if !op.Upsert {
		return false
	}
	v, err := op.Coll.Upserted(op)
	return err == nil && routing.SameValue(v, tenant)
}

// plain reports whether a write's filter says nothing but the _id: then the document that was found
// is the one it changes. With more in it a server may find that the document does not match, and an
// upsert then fails for the _id being taken.
func (s *split) plain(op *routing.Op) bool {
	it := op.Filter.Iter()
	return it.Next() && string(it.Key) == "_id" && !it.Next()
}

// hinted is where the document was seen last, if that is one of the targets still.
func (s *split) hinted(op *routing.Op, id wire.Value, targets []*routing.Target) (place, bool) {
	v := s.c.srv.hints.get(s.c.hint(op.Coll, op.Name, id))
	if v.Type == 0 || s.tx != nil {
		return place{}, false
	}
	home := s.t.Home(op.Coll, v)
	for _, x := range targets {
		if x == home {
			return place{home: home, id: id, tenant: v}, true
		}
	}
	return place{}, false
}

// ask asks every target which of the documents it has, and whose they are.
func (s *split) ask(op *routing.Op, targets []*routing.Target, ids []wire.Value, found map[string]place) *wire.Error {
	err := s.question(op, targets, false, func(d []byte, _ *routing.Target) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "filter")
		j, d := bsoncore.AppendDocumentElementStart(d, "_id")
		k, d := bsoncore.AppendArrayElementStart(d, "$in")
		for n, id := range ids {
			d = id.AppendTo(d, itoa(n))
		}
		d, _ = bsoncore.AppendArrayEnd(d, k)
		d, _ = bsoncore.AppendDocumentEnd(d, j)
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return bsoncore.AppendInt32Element(d, "batchSize", int32(len(ids)+1))
	}, func(p place) *wire.Error {
		if o, twice := found[keyOf(p.id)]; twice && o.home != p.home {
			o.twice = true
			found[keyOf(p.id)] = o
			return nil
		}
		found[keyOf(p.id)] = p
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if p, ok := found[keyOf(id)]; ok && !p.twice {
			s.c.srv.hints.put(s.c.hint(op.Coll, op.Name, id), p.tenant)
		}
	}
	return nil
}

// question asks the targets for documents by a find that fill completes, and tells where each of
// them lives. In a transaction the other clusters than its own are asked outside of it: what begins it
// may be on any; later, what is on another can't be part of it.
func (s *split) question(op *routing.Op, targets []*routing.Target, sorted bool, fill func([]byte, *routing.Target) []byte, tell func(place) *wire.Error) *wire.Error {
	if s.tx == nil || oneCluster(targets) {
		return s.questionIn(s.tx, op, targets, sorted, fill, tell)
	}
	cluster := s.tx.pinned()
	in, out := byCluster(targets, cluster)
	told := 0
	err := s.questionIn(s.tx, op, in, sorted, fill, func(p place) *wire.Error { told++; return tell(p) })
	if err != nil || told > 0 && !sorted {
		return err
	}
	return s.questionIn(nil, op, out, sorted, fill, func(p place) *wire.Error {
		if cluster != "" && !sorted {
			return spans()
		}
		return tell(p)
	})
}

// questionIn is question in one transaction, or in none. What is left over in shared is nobody's.
func (s *split) questionIn(tx *txn, op *routing.Op, targets []*routing.Target, sorted bool, fill func([]byte, *routing.Target) []byte, tell func(place) *wire.Error) *wire.Error {
	c := s.c
	trips := make([]*trip, len(targets))
	for i, x := range targets {
		// It is made when it is sent: in a transaction only the first begins it.
		tr := ownTrip(x, func() wire.Doc { return s.find(tx, op, x, sorted, fill) })
		tr.txn, tr.sel = tx, c.selectServer(tx)
		trips[i] = tr
	}
	parts := c.scatter(trips, tx)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		if sorted {
			err = sortable(err)
		}
		return err
	}
	for i := range parts {
		x := parts[i].tr.target
		docs, _, _ := firstBatch(parts[i].tr.facts.cursor)
		for _, doc := range docs {
			v := op.Coll.TenantOf(doc)
			if x.Tenant == nil && s.t.Home(op.Coll, v) != x {
				continue
			}
			if x.Tenant != nil && v.Type == bsoncore.TypeNull {
				v = x.Tenant.ID
			}
			id, _ := doc.Lookup("_id")
			key, _ := doc.Lookup(sortKey)
			if err := tell(place{home: x, id: clone(id), tenant: clone(v), key: clone(key)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func clone(v wire.Value) wire.Value {
	return wire.Value{Type: v.Type, Data: append([]byte(nil), v.Data...)}
}

// find is the find that asks a target for documents' ids and tenants.
func (s *split) find(tx *txn, op *routing.Op, x *routing.Target, sorted bool, fill func([]byte, *routing.Target) []byte) wire.Doc {
	return build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "find", string(op.Name))
		d = fill(d, x)
		i, d := bsoncore.AppendDocumentElementStart(d, "projection")
		d = bsoncore.AppendInt32Element(d, "_id", 1)
		d = bsoncore.AppendInt32Element(d, op.Coll.Field(), 1)
		if sorted {
			d = appendSortKey(d)
		}
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		d = bsoncore.AppendBooleanElement(d, "singleBatch", true)
		d = s.c.appendSession(d, x.Cluster, tx)
		return bsoncore.AppendStringElement(d, "$db", x.DB)
	})
}

// single makes one write of one document whose home is not known yet. Another write may change the document
// between the look and the write, which then does nothing: it goes on until nothing is found any more.
func (s *split) single(i int) (again bool, err *wire.Error) {
	op := &s.ops[i]
	for {
		p, ok, err := s.locate(i)
		if err != nil {
			return false, s.unlooked(i, err)
		}
		if !ok {
			return false, s.nowhere(i)
		}
		if s.waits(p.tenant) {
			if s.result.any {
				return false, s.broken([]int{i}, s.c.moving())
			}
			return true, s.wait(p.tenant, nil)
		}
		if p.made() {
			op.Tenant, op.Made = p.tenant, true
			return false, s.sendAll([]batch{{p.home, []int{i}}})
		}
		op.Located = routing.Located{ID: p.id, Tenant: p.tenant, Exists: true}
		if err := s.t.Guard(&s.c.req, op, p.home); err != nil {
			s.fail(i, err)
			return false, nil
		}
		for more := true; more; more = s.choose(i, p) {
			if done, err := s.hits(batch{p.home, []int{i}}); done || err != nil {
				return false, err
			}
			if err := s.outrun(); err != nil {
				return false, err
			}
		}
		if s.stuck(i, p) {
			return false, s.nowhere(i)
		}
	}
}

// unlooked takes in that the look before a write has failed: where a server says so of the write itself, of its
// filter for example, or it is refused here for what it asks, it is that write's error. Who asks, how long it takes
// and what happens to a server is of the whole command, as where servers write (write_ops_exec.cpp, handleError).
func (s *split) unlooked(i int, e *wire.Error) *wire.Error {
	switch e.Code {
	case wire.Unauthorized, wire.MaxTimeMSExpired, wire.ExceededTimeLimit, wire.Interrupted, wire.ClientDisconnect:
		return e
	case wire.IllegalOperation:
		s.fail(i, e)
		return nil
	}
	if e.Reply == nil || len(e.Labels) > 0 {
		return e
	}
	s.result.fail(i, e)
	return nil
}

// hits makes writes that may be for no document where they are sent to; done says that one was for one, or has
// failed. Those that were for none have done nothing, and the command may still begin anew.
func (s *split) hits(batches ...batch) (done bool, err *wire.Error) {
	n, any := s.result.n, s.result.any
	err = s.sendAll(batches)
	done = s.result.n > n
	for _, b := range batches {
		done = done || slices.ContainsFunc(b.ops, s.result.failed)
	}
	if !done && err == nil {
		s.result.any = any
	}
	return done, err
}

// maxOutrun is how often a sorted write that comes too late looks again for the first document of all. Then
// it takes the first that the home has, which always makes progress.
const maxOutrun = 16

// choose prepares a write that has come too late to be sent once more to where its document was found, for
// whichever of that home's documents it is now: a server finds and writes at once. In a home that the
// present table does not have for it there is nothing to choose from.
func (s *split) choose(i int, p place) bool {
	op := &s.ops[i]
	if op.Any || op.Sort.Type != 0 && s.race.lost < maxOutrun || !slices.Contains(s.plans[i].Targets, p.home) {
		return false
	}
	op.Located = routing.Located{Exists: true, Any: true}
	return true
}

// outrun takes in that a write's document was changed by another before the write came; it is an error where
// that has gone on for too long.
func (s *split) outrun() *wire.Error {
	limit := s.c.srv.settings.Load().queueTimeout
	if s.race.lost++; s.race.lost == 1 {
		s.race.since = time.Now()
	}
	if time.Since(s.race.since) < limit {
		return nil
	}
	return s.c.label(wire.Errorf(wire.WriteConflict, "each document that was found was changed by others before this write came to it, for %v; try again", limit), false)
}

// maxSame is how often in a row one document may be found and not be written to by whatever filter. It is none
// that the write is for, such as by a hint.
const maxSame = 3

// stuck reports whether what was found, in vain, is always the same.
func (s *split) stuck(i int, p place) bool {
	switch r := &s.race; {
	case !s.ops[i].Any:
	case r.same > 0 && r.last.home == p.home && routing.SameValue(r.last.id, p.id):
		r.same++
	default:
		r.last, r.same = p, 1
	}
	return s.race.same >= maxSame
}

// locate finds the document that a write of one document is for: that of the first try where this is
// a retry, else the first by its sort, else the first in the order of the targets.
func (s *split) locate(i int) (p place, ok bool, err *wire.Error) {
	if !s.numbered {
		return s.look(i)
	}
	first := !s.race.recalled
	s.race.recalled = true // what is not there is looked for
	if s.try == 0 {
		s.try = s.c.srv.recalls.begin()
	}
	if p, ok = s.c.srv.recalls.get(s.recallKey(i), s.try); ok && first {
		return p, ok, nil
	}
	if p, ok, err = s.look(i); ok {
		err = s.recall(i, p)
	}
	return p, ok, err
}

func (s *split) recallKey(i int) recallKey {
	number, _ := s.c.req.TxnNumber()
	return recallKey{s.c.sessionKey(), number, s.stmt(i)}
}

// recall remembers where a retryable write is sent next. Where its retry is at work already, since the client
// has not waited, it is for that to go on.
func (s *split) recall(i int, p place) *wire.Error {
	if s.c.srv.recalls.put(s.recallKey(i), p, s.try) {
		return nil
	}
	return s.c.label(wire.Errorf(wire.WriteConflict, "the write has been sent again meanwhile, and is done by that"), false)
}

func (s *split) look(i int) (p place, ok bool, err *wire.Error) {
	op := &s.ops[i]
	op.Located = routing.Located{}
	sort, _ := op.Sort.Doc()
	down := directions(sort)
	if _, byID := s.byID(i); down == nil && !byID && len(s.plans[i].Targets) > 1 && op.Near() {
		return p, false, wire.Errorf(wire.IllegalOperation,
			"$near chooses by a distance that nobody can ask for, so the nearest of several databases' documents can not be found; add the tenant field to the filter")
	}
	if err := s.orderTold(op, down, s.plans[i].Targets); err != nil {
		return p, false, err
	}
	err = s.question(op, s.plans[i].Targets, down != nil, s.firstOf(op), func(at place) *wire.Error {
		if !ok || keyLess(at.key, p.key, down) {
			p, ok = at, true
		}
		return nil
	})
	if ok && err == nil && s.tx != nil && s.tx.pinned() != "" && p.home.Cluster != s.tx.pinned() {
		return p, false, spans() // the first of all is on another cluster
	}
	return p, ok, err
}

// orderTold refuses to choose by keys that say nothing of the order: see keyAt.
func (s *split) orderTold(op *routing.Op, down []bool, targets []*routing.Target) *wire.Error {
	if down == nil || !op.Collated() {
		return nil
	}
	told, err := s.c.tell(targets, true)
	if err == nil && !told {
		err = wire.Errorf(wire.IllegalOperation,
			"servers tell no collation keys, or different ones, so that the first of several databases' documents can not be found; add the tenant field to the filter")
	}
	return err
}

// firstOf asks a home for the first document that the write would be for there.
func (s *split) firstOf(op *routing.Op) func([]byte, *routing.Target) []byte {
	return func(d []byte, x *routing.Target) []byte {
		d = bsoncore.AppendDocumentElement(d, "filter", bsoncore.Document(s.t.Filter(op, x)))
		d = bsoncore.AppendInt64Element(d, "limit", 1)
		if op.Sort.Type != 0 {
			d = op.Sort.AppendTo(d, "sort")
		}
		if op.Collation.Type != 0 {
			d = op.Collation.AppendTo(d, "collation")
		}
		if f, ok := s.c.req.Field("let"); ok {
			d = f.Value.AppendTo(d, "let")
		}
		return d
	}
}

// nowhere makes a write whose document no home has: an upsert makes it.
func (s *split) nowhere(i int) *wire.Error {
	if s.ops[i].Upsert {
		s.ops[i].Located = routing.Located{}
		return s.upsert(i)
	}
	return s.nothing([]int{i})
}

// nothing makes writes whose documents no home has, and which make none. A retried write is offered to every
// home, since the one that has made it before its reply was lost answers from its history. None writes to a
// document that has come since: which home that may be written to in nobody has looked at.
func (s *split) nothing(ops []int) *wire.Error {
	var batches []batch
	for _, i := range ops {
		s.ops[i].Located, s.ops[i].None = routing.Located{}, true
		targets := s.plans[i].Targets
		if !s.numbered {
			targets = within(targets, s.cluster)[:1] // for what the server has to say of the write itself
		}
		for _, x := range targets {
			batches = into(batches, x, i)
		}
	}
	if _, err := s.hits(batches...); err != nil {
		return err
	}
	for _, i := range ops {
		s.result.join(i)
	}
	if s.ordered {
		s.result.endWithFirst() // the homes know nothing of each other
	}
	return nil
}
