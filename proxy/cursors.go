package proxy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

// cursor is one open cursor of a client under an id of our own: two clusters may give the same id,
// and a cursor lives on one node.
type cursor struct {
	id        int64
	principal string
	lsid      sessionID
	hasLSID   bool
	db, coll  string // as the client names them
	tenant    uint32
	names     routing.ReplyKind // where its batches name namespaces
	watch     *watch            // of a change stream
	used      time.Time         // guarded by the shard's mutex
	bound     bool              // the principal's are counted
	holds     int               // bytes of documents of a merged one of those; guarded by mu of cursors

	mu     sync.Mutex // guards the following; held while a batch is fetched
	part   cursorPart // of an ordinary cursor
	merged *merged    // of one over several homes
}

// cursorPart is a cursor on a server.
type cursorPart struct {
	target  *routing.Target
	address string
	id      int64
	coll    string // as the server named it
}

// cursors are the open ones of all clients. A cursor may be read on another connection than the
// one that opened it, and after its tenant's route has changed.
type cursors struct {
	shards [16]cursorShard

	mu    sync.Mutex // guards the following
	bound shelves[int64, *cursor]
}

type cursorShard struct {
	mu sync.Mutex // guards the following
	m  map[int64]*cursor
}

func newCursors() *cursors {
	c := &cursors{bound: shelves[int64, *cursor]{}}
	for i := range c.shards {
		c.shards[i].m = map[int64]*cursor{}
	}
	return c
}

func (x *cursors) shard(id int64) *cursorShard { return &x.shards[uint64(id)%uint64(len(x.shards))] }

// add enters a cursor under a new id.
func (x *cursors) add(cur *cursor) {
	cur.used = time.Now()
	for entered := false; !entered; {
		cur.id = rand.Int64N(1<<62) + 1
		s := x.shard(cur.id)
		s.mu.Lock()
		if _, taken := s.m[cur.id]; !taken {
			s.m[cur.id], entered = cur, true
		}
		s.mu.Unlock()
	}
}

// maxHeld is how many bytes of documents the merged cursors of a principal who is bound to a tenant may hold
// together, beside those of the one that is used last.
const maxHeld = 64 << 20

// weigh notes what a merged cursor holds now, and gives back those of its principal that are used least
// recently and hold too much with it.
func (x *cursors) weigh(cur *cursor, holds int) (over []*cursor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.bound.of(cur.principal)
	cur.holds = holds
	sum := 0
	for e := s.used.Front(); e != nil; e = e.Next() {
		old := e.Value.(*shelved[int64, *cursor]).value
		if sum += old.holds; sum > maxHeld && old != cur && old.holds > 0 {
			over = append(over, old)
		}
	}
	return over
}

// count enters a cursor among those of its principal, who is bound to a tenant, and gives back what it is
// one too many for.
func (x *cursors) count(cur *cursor, limit int) (over []*cursor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.bound.of(cur.principal)
	s.makeRoom(limit, func(old *cursor) bool {
		over = append(over, old)
		return true
	})
	s.put(cur.id, cur)
	return over
}

// get finds a cursor that is used now.
func (x *cursors) get(id int64) *cursor {
	s := x.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	cur := s.m[id]
	if cur != nil {
		cur.used = time.Now()
	}
	return cur
}

// touch notes that a cursor is used by whom it belongs to.
func (x *cursors) touch(cur *cursor) {
	if !cur.bound {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bound.of(cur.principal).get(cur.id)
}

func (x *cursors) remove(id int64) {
	s := x.shard(id)
	s.mu.Lock()
	cur := s.m[id]
	delete(s.m, id)
	s.mu.Unlock()
	if cur != nil && cur.bound {
		x.uncount(cur)
	}
}

// uncount takes a cursor that is over from those of its principal.
func (x *cursors) uncount(cur *cursor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bound.of(cur.principal).remove(cur.id)
}

// sessions are those of the principal that have a cursor.
func (x *cursors) sessions(principal string) (all []sessionID) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		for _, cur := range s.m {
			if cur.hasLSID && cur.principal == principal {
				all = append(all, cur.lsid)
			}
		}
		s.mu.Unlock()
	}
	return all
}

// open is how many there are.
func (x *cursors) open() (n int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		n += len(s.m)
		s.mu.Unlock()
	}
	return n
}

// cursorIdle is when a cursor is forgotten here; servers end theirs after 10 minutes, and those
// of sessions when the session ends (30 minutes unused).
const cursorIdle = 31 * time.Minute

func (x *cursors) reap(now time.Time) {
	var bound []*cursor
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		for id, cur := range s.m {
			if now.Sub(cur.used) > cursorIdle {
				if delete(s.m, id); cur.bound {
					bound = append(bound, cur)
				}
			}
		}
		s.mu.Unlock()
	}
	for _, cur := range bound { // one at a time: others wait for the mutex
		x.uncount(cur)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bound.clear()
}

// keep enters a new cursor of the client and returns its id. Where it is one too many of a client who is
// bound to a tenant, the one that the client has not used for the longest time ends, as by time.
func (c *clientConn) keep(cur *cursor) int64 {
	cur.bound = c.bound != nil
	c.srv.cursors.add(cur)
	if !cur.bound {
		return cur.id
	}
	if over := c.srv.cursors.count(cur, c.share()); len(over) > 0 {
		c.mayOwe(func() { c.endUnused(over) })
	}
	c.weigh(cur)
	return cur.id
}

// weigh keeps what the client's merged cursors hold within bounds, where it is bound to a tenant: the servers
// keep the documents of other cursors.
func (c *clientConn) weigh(cur *cursor) {
	if cur.bound && cur.merged != nil {
		c.endUnused(c.srv.cursors.weigh(cur, heldBy(cur.merged.streams)))
	}
}

func heldBy(streams []*stream) (n int) {
	for _, s := range streams {
		if n += sizeOf(s.docs); s.flow != nil {
			n += heldBy(s.flow.from)
		}
	}
	return n
}

// mayOwe does what may have to wait: at once, or, on a loop, before the command is answered. There is one such thing
// in a command at most.
func (c *clientConn) mayOwe(do func()) {
	switch {
	case c.mayWait:
		do()
	case c.owed != nil:
		panic("proxy: a command owes two things")
	default:
		c.owed = do
	}
}

// endUnused ends cursors that nobody waits for at the moment: whoever does is about to be done with it.
func (c *clientConn) endUnused(all []*cursor) {
	for _, cur := range all {
		if cur.mu.TryLock() {
			c.srv.cursors.remove(cur.id)
			c.endLocked(cur)
			cur.mu.Unlock()
		}
	}
}

// endCursor ends a cursor here and on its servers.
func (c *clientConn) endCursor(cur *cursor) {
	c.srv.cursors.remove(cur.id)
	if cur.watch != nil {
		c.endWatch(cur)
		return
	}
	cur.mu.Lock()
	defer cur.mu.Unlock()
	c.endLocked(cur)
}

// endLocked ends it on its servers.
func (c *clientConn) endLocked(cur *cursor) {
	switch {
	case cur.watch != nil:
		c.endWatch(cur)
	case cur.merged != nil:
		c.killStreams(cur)
	default:
		c.killPart(cur.part, cur)
	}
}

// noteCursor gives a cursor of a reply an id of our own and a logical namespace.
func (c *clientConn) noteCursor(tr *trip, reply *wire.Buf) *wire.Error {
	f := &tr.facts
	it := f.cursor.Iter()
	var ns []byte
	var id int64
	idAt := 0
	for it.Next() {
		switch string(it.Key) {
		case "postBatchResumeToken":
			if d, ok := it.Value.Doc(); ok && tr.watch != nil {
				tr.watch.token, tr.watch.since = bytes.Clone(d), uint32(f.operation>>32)
			}
		case "id":
			id, _ = it.Value.Int()
			idAt = f.cursorAt + it.At
			if it.Value.Type != bsoncore.TypeInt64 {
				idAt = 0
			}
		case "ns":
			ns, _ = it.Value.Str()
			if view := c.viewOf(tr); view != "" || tr.renamed() {
				if c.scratch = c.scratch[:0]; view != "" {
					c.scratch = bsoncore.AppendString(c.scratch, logicalDB(ns, tr.target)+"."+view)
				} else {
					c.scratch = logicalNS(c.scratch, ns, tr.target)
				}
				tr.patch.Replace(f.cursorAt+it.At, len(it.Value.Data), c.scratch, tr.msg.BodyAt, f.cursorAt)
			}
		}
	}
	if it.Err() != nil || id != 0 && idAt == 0 {
		return c.label(wire.Errorf(wire.HostUnreachable, "the server's cursor can not be read"), false)
	}
	if cur := tr.cursor; cur != nil {
		if id == 0 {
			c.srv.cursors.remove(cur.id)
		} else {
			binary.LittleEndian.PutUint64(reply.B[idAt:], uint64(cur.id))
		}
		return nil
	}
	if id == 0 {
		return nil
	}
	own := c.openCursor(tr, ns, id)
	binary.LittleEndian.PutUint64(reply.B[idAt:], uint64(own))
	return nil
}

func (c *clientConn) openCursor(tr *trip, ns []byte, id int64) int64 {
	cur := c.newCursor(ns, tr.target)
	cur.tenant, cur.names, cur.watch = tr.tenant, tr.names, tr.watch
	cur.part = cursorPart{tr.target, tr.address, id, cur.coll}
	if c.viewed.is {
		cur.coll = c.viewed.coll
	}
	return c.keep(cur)
}

// viewOf is the view by which the client knows the cursor of a reply; "" where it is the server's own
// name.
func (c *clientConn) viewOf(tr *trip) string {
	switch cur := tr.cursor; {
	case cur != nil && cur.merged == nil && cur.coll != cur.part.coll:
		return cur.coll
	case cur == nil && c.viewed.is:
		return c.viewed.coll
	}
	return ""
}

// logicalDB is the database of a namespace of the target as the client knows it.
func logicalDB(ns []byte, target *routing.Target) string {
	db, _, _ := bytes.Cut(ns, []byte("."))
	if target.Logical != "" && string(db) == target.DB {
		return target.Logical
	}
	return string(db)
}

// newCursor is a cursor of this command on a namespace that the target's server named.
func (c *clientConn) newCursor(ns []byte, target *routing.Target) *cursor {
	db, coll, _ := bytes.Cut(ns, []byte("."))
	cur := &cursor{principal: c.principal, lsid: c.lsid, hasLSID: c.hasLSID, db: string(db), coll: string(coll)}
	if target.Logical != "" && cur.db == target.DB {
		cur.db = target.Logical
	}
	return cur
}

// mine finds a cursor that the command may use. Another's is answered as one that does not exist.
func (c *clientConn) mine(id int64, coll []byte) *cursor {
	cur := c.srv.cursors.get(id)
	if cur == nil || cur.principal != c.principal || cur.db != string(c.req.DB) || cur.coll != string(coll) {
		return nil
	}
	c.srv.cursors.touch(cur)
	return cur
}

// atCursor serves getMore and killCursors.
func (c *clientConn) atCursor(t *routing.Table) *wire.Buf {
	if c.req.Cmd.Name == "killCursors" {
		return c.killCursors()
	}
	id, ok := c.req.Value.Int()
	f, _ := c.req.Field("collection")
	coll, named := f.Value.Str()
	if !ok || !named || c.req.Value.Type != bsoncore.TypeInt64 {
		return c.refuse(wire.Errorf(wire.TypeMismatch, "getMore needs a 64-bit cursor id and a collection"))
	}
	cur := c.mine(id, coll)
	if cur == nil || cur.hasLSID != c.hasLSID || cur.hasLSID && cur.lsid != c.lsid {
		return c.refuse(wire.Errorf(wire.CursorNotFound, "cursor id %d not found", id))
	}
	tx, werr := c.transaction()
	if werr != nil {
		return c.refuse(werr)
	}
	cur.mu.Lock()
	defer cur.mu.Unlock()
	if cur.merged != nil {
		return c.nextMerged(cur, tx)
	}
	if cur.watch != nil {
		c.outcome.waits = true
		return c.nextWatched(t, cur)
	}
	return c.nextOf(t, cur, tx)
}

// nextOf fetches the next batch of an ordinary cursor.
func (c *clientConn) nextOf(t *routing.Table, cur *cursor, tx *txn) *wire.Buf {
	part := &cur.part
	tr := c.newTrip(t, part.target, tx)
	tr.tenant, tr.cursor, tr.names, tr.watch = cur.tenant, cur, cur.names, cur.watch
	tr.passes = c.passes(&tr, cur.names)
	tr.sel = backend.Select{Address: part.address}
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], uint64(part.id))
	tr.edit = func(p *wire.Patch) {
		p.Replace(c.req.ValueAt, 8, id[:])
		if cur.coll != part.coll {
			c.req.Set("collection", bsoncore.AppendStringElement(nil, "collection", part.coll), p)
		}
	}
	c.outcome.target = part.target
	reply, err := c.send(&tr)
	if err == nil && cur.watch != nil && tr.facts.ok {
		if opened, err := c.replan(cur); err != nil {
			reply.Free()
			return c.failWatch(cur, err)
		} else if opened {
			reply.Free()
			return c.nextEvents(cur)
		}
	}
	if err == nil {
		reply, err = c.finish(&tr, reply)
	}
	if err != nil {
		if cur.watch != nil {
			err = resumable(err)
		}
		return c.refuse(err)
	}
	if !tr.facts.ok && tr.facts.code == wire.CursorNotFound {
		c.srv.cursors.remove(cur.id)
	}
	return reply
}

// nextWatched gives the next batch of a change stream, which goes on to be passed on while nothing
// else has to be seen.
func (c *clientConn) nextWatched(t *routing.Table, cur *cursor) *wire.Buf {
	if cur.watch.plan == nil {
		if _, err := c.replan(cur); err != nil {
			return c.failWatch(cur, err)
		}
	}
	if cur.watch.plan == nil {
		return c.nextOf(t, cur, nil)
	}
	return c.nextEvents(cur)
}

// killCursors ends those of the named cursors that are the client's.
func (c *clientConn) killCursors() *wire.Buf {
	var killed, missing []int64
	f, _ := c.req.Field("cursors")
	a, ok := f.Value.Array()
	if !ok {
		return c.refuse(wire.Errorf(wire.FailedToParse, "killCursors needs an array of cursor ids"))
	}
	for it := a.Iter(); it.Next(); {
		id, _ := it.Value.Int()
		cur := c.mine(id, c.req.Coll())
		if cur == nil {
			missing = append(missing, id)
			continue
		}
		c.endCursor(cur)
		killed = append(killed, id)
	}
	return replyOf(func(d []byte) []byte {
		d = appendIDs(d, "cursorsKilled", killed)
		d = appendIDs(d, "cursorsNotFound", missing)
		d = appendIDs(d, "cursorsAlive", nil)
		return appendIDs(d, "cursorsUnknown", nil)
	})
}

func appendIDs(d []byte, name string, ids []int64) []byte {
	i, d := bsoncore.AppendArrayElementStart(d, name)
	for n, id := range ids {
		d = bsoncore.AppendInt64Element(d, itoa(n), id)
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}

// killPart ends a cursor on its server; what can't be reached ends by its own time.
func (c *clientConn) killPart(p cursorPart, cur *cursor) {
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, "killCursors", p.coll)
		i, d := bsoncore.AppendArrayElementStart(d, "cursors")
		d = bsoncore.AppendInt64Element(d, "0", p.id)
		d, _ = bsoncore.AppendArrayEnd(d, i)
		if cur.hasLSID {
			d = bsoncore.AppendDocumentElement(d, "lsid", sessionDoc(deriveID(c.srv.opts.FleetKey(), cur.principal, cur.lsid, p.target.Cluster)))
		}
		return bsoncore.AppendStringElement(d, "$db", cur.physical(p.target))
	})
	tr := ownTrip(p.target, func() wire.Doc { return body })
	tr.sel = backend.Select{Address: p.address}
	if reply, err := c.send(tr); err == nil {
		reply.Free()
	}
}

// physical is the database of the cursor at a target.
func (cur *cursor) physical(target *routing.Target) string {
	if target.DB == "" || cur.db == "admin" {
		return cur.db
	}
	return target.DB
}
