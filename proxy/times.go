package proxy

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Each cluster has a clock of its own. A client sees the operationTime of whoever served it, and
// asks with afterClusterTime to see at least that; sent to another cluster it would mean nothing
// there, or an error. So with several clusters the proxy remembers for each session the last
// operationTime of each, and asks each for its own. See the causal consistency specification.

// times is what a command's replies say of time: for one reply made of several.
type times struct {
	operation uint64
	cluster   []byte // $clusterTime's document; empty for none
}

func (x *times) reset() { x.operation, x.cluster = 0, x.cluster[:0] }

// note takes over what is later than what is known.
func (x *times) note(f *replyFacts) {
	x.operation = max(x.operation, f.operation)
	if d, ok := f.clusterTime.Doc(); ok && clockOf(d) >= clockOf(x.cluster) {
		x.cluster = append(x.cluster[:0], d...)
	}
}

// gossip is the newest $clusterTime that servers have told bound clients, of the only cluster. What such a
// client tells is not passed on: it may have made a time up, and a server that takes it sets its clock by
// it. In its place servers are told this one, which they have signed themselves.
type gossip struct{ newest atomic.Pointer[clusterTime] }

// clusterTime is never changed.
type clusterTime struct {
	at  uint64
	doc wire.Doc
}

func (x *gossip) note(v wire.Value) {
	d, _ := v.Doc()
	at := clockOf(d)
	for {
		known := x.newest.Load()
		if at == 0 || known != nil && known.at >= at {
			return
		}
		if x.newest.CompareAndSwap(known, &clusterTime{at, slices.Clone(d)}) {
			return
		}
	}
}

func (x *gossip) at() uint64 {
	if known := x.newest.Load(); known != nil {
		return known.at
	}
	return 0
}

// gossip puts the time that servers have told in the place of the one that a bound client tells. Where the
// client has heard of a later one, by another proxy, the cluster is asked: a secondary that does not know it
// yet refuses to wait for it. A time that nobody knows is refused by the server.
func (c *clientConn) gossip(r *routing.Request, cluster string, p *wire.Patch) {
	f, ok := r.Field("$clusterTime")
	if !ok {
		return
	}
	concern, _ := r.Field("readConcern")
	d, _ := concern.Value.Doc()
	after, _ := d.Lookup("afterClusterTime")
	if timestamp(after) > c.srv.gossip.at() {
		if reply, err := c.pingReply(cluster); err == nil { // else sending says what is wrong
			v, _ := reply.Lookup("$clusterTime")
			c.srv.gossip.note(v)
		}
	}
	var with []byte
	if known := c.srv.gossip.newest.Load(); known != nil {
		with = bsoncore.AppendDocumentElement(nil, "$clusterTime", bsoncore.Document(known.doc))
	}
	p.Replace(f.Start, f.End-f.Start, with, r.Msg.BodyAt)
}

func clockOf(clusterTime wire.Doc) uint64 {
	v, _ := clusterTime.Lookup("clusterTime")
	return timestamp(v)
}

func timestamp(v wire.Value) uint64 {
	if v.Type != bsoncore.TypeTimestamp {
		return 0
	}
	return binary.LittleEndian.Uint64(v.Data)
}

func (x *times) append(d []byte) []byte {
	if len(x.cluster) > 0 {
		d = bsoncore.AppendDocumentElement(d, "$clusterTime", x.cluster)
	}
	if x.operation != 0 {
		d = bsoncore.AppendTimestampElement(d, "operationTime", uint32(x.operation>>32), uint32(x.operation))
	}
	return d
}

// snapshot is the time that all parts of a read with read concern "snapshot" read at: what the first
// of them has chosen. Another cluster's clock does not know it.
type snapshot struct {
	at      uint64 // 0 while none is chosen
	cluster string
}

// snapshotRead finds the read concern of a read outside of transactions that wants one snapshot;
// chosen says that the client has chosen its time.
func snapshotRead(r *routing.Request) (f routing.Field, chosen, ok bool) {
	if f, ok = r.Field("readConcern"); !ok || r.InTxn() {
		return f, false, false
	}
	d, _ := f.Value.Doc()
	level, _ := d.Lookup("level")
	s, _ := level.Str()
	_, chosen = d.Lookup("atClusterTime")
	return f, chosen, string(s) == "snapshot"
}

// agree lets the first of several parts choose the time of the snapshot that all of them read.
func (c *clientConn) agree(trips []*trip) (first []part, err *wire.Error) {
	_, chosen, ok := snapshotRead(&c.req)
	if !ok || len(trips) < 2 {
		return nil, nil
	}
	for _, tr := range trips {
		if tr.target.Cluster != trips[0].target.Cluster {
			return nil, noSnapshot()
		}
	}
	if chosen || c.snapshot.at != 0 {
		return nil, nil
	}
	return c.scatter(trips[:1], nil), nil
}

// noteSnapshot keeps the time that a part which was sent alone has read at: what is read next for the command, by
// another stage of its pipeline, is to read at it too.
func (c *clientConn) noteSnapshot(p *part) {
	if c.snapshot.at != 0 || p.err != nil || !p.tr.facts.ok {
		return
	}
	if _, chosen, ok := snapshotRead(&c.req); ok && !chosen {
		c.snapshot = snapshot{snapshotTime(p.tr), p.tr.target.Cluster}
	}
}

// snapshotTime is the time that a server has read at; 0 where it tells none.
func snapshotTime(tr *trip) uint64 {
	v, ok := tr.facts.cursor.Lookup("atClusterTime")
	if !ok {
		v, _ = tr.msg.Body.Lookup("atClusterTime") // of distinct
	}
	return timestamp(v)
}

// appendSnapshot appends the time that all parts have read at: a session of a driver reads at it from then
// on.
func (c *clientConn) appendSnapshot(d []byte) []byte {
	at := c.snapshot.at
	if f, chosen, ok := snapshotRead(&c.req); ok && chosen {
		concern, _ := f.Value.Doc()
		v, _ := concern.Lookup("atClusterTime")
		at = timestamp(v)
	}
	if at == 0 {
		return d
	}
	return bsoncore.AppendTimestampElement(d, "atClusterTime", uint32(at>>32), uint32(at))
}

func noSnapshot() *wire.Error {
	return wire.Errorf(wire.InvalidOptions, "one snapshot over several clusters is not possible; add the tenant field to the filter, or read without it")
}

// atSnapshot makes a part of the command read at the time that another has chosen.
func (c *clientConn) atSnapshot(r *routing.Request, target *routing.Target, p *wire.Patch) *wire.Error {
	f, chosen, ok := snapshotRead(r)
	if !ok || chosen || c.snapshot.at == 0 {
		return nil
	}
	if target.Cluster != c.snapshot.cluster {
		return noSnapshot()
	}
	d, _ := f.Value.Doc()
	at := bsoncore.AppendTimestampElement(nil, "atClusterTime", uint32(c.snapshot.at>>32), uint32(c.snapshot.at))
	p.Replace(f.At+len(d)-1, 0, at, r.Msg.BodyAt, f.At)
	return nil
}

// clocks remember the last operationTime of each cluster, by session. Of one that is forgotten the
// clusters are asked.
type clocks struct {
	mu   sync.Mutex // guards the following
	kept shelves[sessionID, *sessionClock]
}

type sessionClock struct {
	used  time.Time
	last  map[string]uint64 // by cluster
	taken snapshot          // the last that it has been told
}

func newClocks() *clocks { return &clocks{kept: shelves[sessionID, *sessionClock]{}} }

func (x *clocks) note(key txnKey, cluster string, operation uint64, limit int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.make(key, limit)
	s.last[cluster] = max(s.last[cluster], operation)
}

// noteSnapshot remembers whose time the session reads at from now on.
func (x *clocks) noteSnapshot(key txnKey, taken snapshot, limit int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.make(key, limit).taken = taken
}

// snapshotOf is the cluster that has told the session the time of a snapshot; "" where that is not known.
func (x *clocks) snapshotOf(key txnKey, at uint64) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s, ok := x.kept.of(key.principal).get(key.lsid); ok && s.taken.at == at {
		return s.taken.cluster
	}
	return ""
}

// make is the session's clock; mu is held.
func (x *clocks) make(key txnKey, limit int) *sessionClock {
	of := x.kept.of(key.principal)
	s, ok := of.get(key.lsid)
	if !ok {
		of.makeRoom(limit, func(*sessionClock) bool { return true })
		s = &sessionClock{last: map[string]uint64{}}
		of.put(key.lsid, s)
	}
	s.used = time.Now()
	return s
}

// of is the session's last operationTime of the cluster, 0 for none; known says that the time is one
// that this session has been told.
func (x *clocks) of(key txnKey, cluster string, told uint64) (own uint64, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok := x.kept.of(key.principal).get(key.lsid)
	if !ok {
		return 0, false
	}
	for _, last := range s.last {
		known = known || last == told
	}
	return s.last[cluster], known
}

// reap forgets sessions that have not been used for as long as a server keeps one. Those behind one that was only
// looked up go when that does.
func (x *clocks) reap(now time.Time) {
	expireAll(&x.mu, x.kept, func(s *sessionClock) bool { return now.Sub(s.used) > txnIdle })
}

func (c *clientConn) sessionKey() txnKey { return txnKey{c.principal, c.lsid} }

// noteTime remembers for the session what its cluster has said of time.
func (c *clientConn) noteTime(tr *trip) {
	if !c.hasLSID || c.srv.settings.Load().oneCluster {
		return
	}
	if at := tr.facts.operation; at != 0 {
		c.srv.clocks.note(c.sessionKey(), tr.target.Cluster, at, c.share())
	}
	if _, chosen, ok := snapshotRead(&c.req); ok && !chosen && tr.facts.ok {
		if at := snapshotTime(tr); at != 0 {
			c.srv.clocks.noteSnapshot(c.sessionKey(), snapshot{at, tr.target.Cluster}, c.share())
		}
	}
}

// ofOther refuses a read at the time of a snapshot that another cluster has told the session: this one
// would read at some other state, or wait for a time that is to come.
func (c *clientConn) ofOther(r *routing.Request, target *routing.Target) *wire.Error {
	f, chosen, ok := snapshotRead(r)
	if !ok || !chosen || !c.hasLSID {
		return nil
	}
	d, _ := f.Value.Doc()
	v, _ := d.Lookup("atClusterTime")
	if by := c.srv.clocks.snapshotOf(c.sessionKey(), timestamp(v)); by != "" && by != target.Cluster {
		return wire.Errorf(wire.InvalidOptions,
			"the snapshot of this session is one of another cluster than these documents are on; read them in a session of their own, or without a snapshot")
	}
	return nil
}

// afterTime makes a read that is to see at least what a cluster had done by some time ask the
// target's cluster by its own clock.
func (c *clientConn) afterTime(r *routing.Request, target *routing.Target, p *wire.Patch) *wire.Error {
	f, ok := r.Field("readConcern")
	if !ok {
		return nil
	}
	d, _ := f.Value.Doc()
	for it := d.Iter(); it.Next(); {
		if string(it.Key) != "afterClusterTime" || it.Value.Type != bsoncore.TypeTimestamp {
			continue
		}
		own, err := c.ownTime(target.Cluster, timestamp(it.Value))
		if err != nil {
			c.srv.unreachable(c, target.Cluster, err)
			return c.label(wire.Errorf(wire.HostUnreachable, "the cluster %q is not reachable", target.Cluster), true)
		}
		if own == 0 { // nothing was asked of this cluster before
			p.Replace(f.At+it.Start, it.End()-it.Start, nil, r.Msg.BodyAt, f.At)
			return nil
		}
		p.Replace(f.At+it.At, 8, binary.LittleEndian.AppendUint64(nil, own))
	}
	return nil
}

// ownTime is the cluster's own time for one that the client was told; 0 where nothing was asked of it
// before.
func (c *clientConn) ownTime(cluster string, told uint64) (own uint64, err error) {
	known := false
	if c.hasLSID {
		own, known = c.srv.clocks.of(c.sessionKey(), cluster, told)
	}
	if !known { // told by another proxy, or to another session: whatever the cluster has done by now
		own, err = c.clock(cluster)
	}
	return own, err
}

// appendConcern appends a read concern of the client's, with the cluster's own time.
func (c *clientConn) appendConcern(d []byte, concern wire.Value, cluster string) []byte {
	theirs, isDoc := concern.Doc()
	switch {
	case concern.Type == 0:
		return d
	case !isDoc || c.srv.settings.Load().oneCluster:
		return concern.AppendTo(d, "readConcern")
	}
	i, d := bsoncore.AppendDocumentElementStart(d, "readConcern")
	for it := theirs.Iter(); it.Next(); {
		if string(it.Key) != "afterClusterTime" || it.Value.Type != bsoncore.TypeTimestamp {
			d = append(d, theirs[it.Start:it.End()]...)
			continue
		}
		own, err := c.ownTime(cluster, timestamp(it.Value))
		if err == nil && own != 0 { // what can not be reached now says so when it is asked
			d = bsoncore.AppendTimestampElement(d, "afterClusterTime", uint32(own>>32), uint32(own))
		}
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// clock is the cluster's operationTime of now; 0 where its servers tell none.
func (c *clientConn) clock(cluster string) (uint64, error) {
	reply, err := c.pingReply(cluster)
	if err != nil || reply == nil {
		return 0, err
	}
	v, _ := reply.Lookup("operationTime")
	return timestamp(v), nil
}

// pingReply is what the cluster says now; nil for one that is not configured, of which sending says what
// is wrong.
func (c *clientConn) pingReply(cluster string) (wire.Doc, error) {
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.settings.Load().queueTimeout)
	defer cancel()
	cl := c.srv.opts.Clusters.Get(cluster)
	if cl == nil {
		return nil, nil
	}
	return cl.Run(ctx, "admin", build(func(d []byte) []byte { return bsoncore.AppendInt32Element(d, "ping", 1) }))
}
