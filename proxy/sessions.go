package proxy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// sessionID is the 16 bytes of a logical session's UUID.
type sessionID = [16]byte

// sessionIDs keeps the ids derived for the sessions that one client connection used last, so that
// few commands hash anything.
type sessionIDs struct {
	entries []derivedID
	next    int
	proofs  []derivedID // of no session: see proof
}

type derivedID struct {
	client  sessionID
	cluster string
	id      sessionID
}

// maxDerived is how many a connection keeps; drivers use their sessions last in, first out.
const maxDerived = 8

// derive is the session's id at a cluster: the first 16 bytes of an HMAC over who is connected,
// the client's id and the cluster. Per cluster and not per database, since transactions span
// databases of one and a server finds a retried statement by session and number alone; the same
// in every proxy with the fleet's key, so that a retry may come through another one.
func (c *clientConn) derive(cluster string) *sessionID {
	for i := range c.sessions.entries {
		if e := &c.sessions.entries[i]; e.client == c.lsid && e.cluster == cluster {
			return &e.id
		}
	}
	e := derivedID{c.lsid, cluster, deriveID(c.srv.opts.FleetKey(), c.principal, c.lsid, cluster)}
	s := &c.sessions
	if len(s.entries) < maxDerived {
		s.entries = append(s.entries, e)
		return &s.entries[len(s.entries)-1].id
	}
	s.next = (s.next + 1) % maxDerived
	s.entries[s.next] = e
	return &s.entries[s.next].id
}

// deriver derives ids by one key. To begin takes several times what an id then takes, and drivers with many commands
// under way may use any session on any connection.
type deriver struct {
	key  []byte
	mac  hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

var derivers = sync.Pool{New: func() any { return &deriver{} }}

func deriveID(key []byte, principal string, client sessionID, cluster string) (id sessionID) {
	x := derivers.Get().(*deriver)
	defer derivers.Put(x)
	if x.mac == nil || !bytes.Equal(x.key, key) {
		x.key, x.mac = bytes.Clone(key), hmac.New(sha256.New, key)
	}
	x.text = append(append(x.text[:0], principal...), 0)
	x.text = append(append(x.text, client[:]...), cluster...)
	x.mac.Reset()
	x.mac.Write(x.text)
	copy(id[:], x.mac.Sum(x.sum[:0]))
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID's version and variant
	return id
}

// noteSession notes the command's session. A server keeps one for half an hour after its last command, has
// room for a million of all its clients, and takes all of ours for one: so those that a client who is bound
// to a tenant may begin are bounded.
func (c *clientConn) noteSession() *wire.Error {
	id, _, ok := c.req.LSID()
	if c.hasLSID = ok; ok {
		copy(c.lsid[:], id)
	}
	if !ok || c.bound == nil || c.sessions.has(c.lsid) {
		return nil
	}
	return c.beginSession(c.lsid)
}

// has reports whether the connection has used the session of late.
func (s *sessionIDs) has(id sessionID) bool {
	for i := range s.entries {
		if s.entries[i].client == id {
			return true
		}
	}
	return false
}

func (c *clientConn) beginSession(id sessionID) *wire.Error {
	if c.srv.begun.note(c.principal, id, c.share(), time.Now()) {
		return nil
	}
	return wire.Errorf(wire.TooManyLogicalSessions,
		"this user has %d sessions, the most there may be; end some of them, or use each for more than one command", c.share())
}

// begun are the sessions of clients that are bound to tenants, as servers have them.
type begun struct {
	mu   sync.Mutex // guards the following
	kept shelves[sessionID, time.Time]
}

// note notes that the session is used; false where there is no room for it.
func (x *begun) note(principal string, id sessionID, limit int, now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.kept.of(principal)
	if _, known := s.get(id); !known && !s.makeRoom(limit, func(used time.Time) bool { return now.Sub(used) > txnIdle }) {
		return false
	}
	s.put(id, now)
	return true
}

func (x *begun) end(principal string, id sessionID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kept.of(principal).remove(id)
}

func (x *begun) reap(now time.Time) {
	expireAll(&x.mu, x.kept, func(used time.Time) bool { return now.Sub(used) > txnIdle })
}

// noteListed notes the sessions that a command of a bound client lists: those that it ends are over, and one
// that it refreshes is begun by that.
func (c *clientConn) noteListed() *wire.Error {
	a, _ := c.req.Value.Array()
	for it := a.Iter(); it.Next(); {
		d, _ := it.Value.Doc()
		v, _ := d.Lookup("id")
		id, ok := v.UUID()
		switch {
		case !ok:
		case c.req.Cmd.Name != "refreshSessions":
			c.srv.begun.end(c.principal, sessionID(id))
		default:
			if err := c.beginSession(sessionID(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// txnKey names the session of a transaction.
type txnKey struct {
	principal string
	lsid      sessionID
}

// txnState says how far a transaction is.
type txnState uint8

const (
	txnOpen txnState = iota
	txnAborted
	txnEnded // committed, or aborted by the client
)

// txn is a transaction. One command of a session runs at a time, as drivers promise; the mutex is
// for those that break the promise.
type txn struct {
	mu      sync.Mutex // guards the following
	number  int64
	epoch   uint64 // of the table when it began
	state   txnState
	cluster string // "" until the first command was sent
	begun   bool   // the cluster has had a command of it
	here    bool   // its first command was answered here, so that another one is the first that a server gets
	address string // of the mongos it is pinned to
	failed  bool   // a command was refused before any was sent
	flights []flightKey
	fresh   bool // the last of flights was none before the command at work
	used    time.Time
	api     []byte     // elements of [stableAPI] that its first command has
	concern wire.Value // the readConcern of a first command that was answered here, until a server gets one
}

// txns holds the newest transaction of each session.
type txns struct {
	mu   sync.Mutex // guards the following
	kept shelves[sessionID, *txn]
}

func newTxns() *txns { return &txns{kept: shelves[sessionID, *txn]{}} }

const (
	txnIdle   = 30 * time.Minute // a session's transaction is forgotten after this
	txnHeld   = 2 * time.Minute  // servers abort a transaction after 60 s; then it holds up no drain
	txnLookup = "the transaction is unknown, ended or aborted"
)

// find returns the transaction of the command. Of one principal there are no more than the limit: then one
// that has ended, or that servers have aborted by now, is forgotten for a new one.
func (x *txns) find(key txnKey, number int64, start bool, epoch uint64, limit int, f *flights) (*txn, *wire.Error) {
	x.mu.Lock()
	s := x.kept.of(key.principal)
	t, _ := s.get(key.lsid)
	if start && (t == nil || t.number != number) {
		old, now := t, time.Now()
		if old != nil && old.number > number {
			x.mu.Unlock()
			return nil, wire.Errorf(wire.TransactionTooOld, "a transaction with a higher number was begun in this session")
		}
		if old == nil && !s.makeRoom(limit, func(t *txn) bool { return t.mayGo(now, f) }) {
			x.mu.Unlock()
			return nil, wire.Errorf(wire.TooManyLogicalSessions, "this user has %d transactions open, the most there may be; end some of them first", limit)
		}
		t = &txn{number: number, epoch: epoch, used: now}
		s.put(key.lsid, t)
		x.mu.Unlock()
		old.end(f)
		return t, nil
	}
	x.mu.Unlock()
	if t == nil || t.number != number {
		return nil, wire.Errorf(wire.NoSuchTransaction, txnLookup).WithLabels(wire.LabelTransientTxn)
	}
	return t, nil
}

// mayGo reports whether the transaction can be forgotten for another one, and takes its writes off the
// count then.
func (t *txn) mayGo(now time.Time, f *flights) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == txnOpen && now.Sub(t.used) <= txnHeld {
		return false
	}
	t.land(f)
	return true
}

// end takes the transaction's writes off the count.
func (t *txn) end(f *flights) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.land(f)
}

func (t *txn) land(f *flights) {
	for _, k := range t.flights {
		f.leave(k)
	}
	t.flights = nil
}

// reap forgets transactions of sessions that have not been used for long.
func (x *txns) reap(now time.Time, f *flights) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kept.reap(func(t *txn) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		idle := now.Sub(t.used)
		if idle > txnHeld {
			t.land(f)
		}
		return idle > txnIdle
	})
}

// unfinished are the transactions that have written and not ended, as far as that is known.
func (x *txns) unfinished() (all []unfinished) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for principal, s := range x.kept {
		for lsid, e := range s.at {
			t := e.Value.(*shelved[sessionID, *txn]).value
			t.mu.Lock()
			if t.state == txnOpen && t.begun && len(t.flights) > 0 {
				all = append(all, unfinished{principal, lsid, t.number, t.cluster, t.address, t.api})
			}
			t.mu.Unlock()
		}
	}
	return all
}

// sessions are those of the principal that have a transaction.
func (x *txns) sessions(principal string) (all []sessionID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.kept[principal]
	if s == nil {
		return nil
	}
	for lsid, e := range s.at {
		t := e.Value.(*shelved[sessionID, *txn]).value
		t.mu.Lock()
		if t.state == txnOpen {
			all = append(all, lsid)
		}
		t.mu.Unlock()
	}
	return all
}

type unfinished struct {
	principal string
	lsid      sessionID
	number    int64
	cluster   string
	address   string
	api       []byte
}

// Bounds of abortOpen.
const (
	abortWidth = 32
	abortTime  = 2 * time.Second
)

// abortOpen ends the transactions that nobody can go on with any more, whose locks would stay for as long as
// servers let them. It is a courtesy, and has little time.
func (s *Server) abortOpen() {
	all := s.txns.unfinished()
	if len(all) == 0 {
		return
	}
	late := time.AfterFunc(abortTime, s.cancel)
	defer late.Stop()
	var wg sync.WaitGroup
	places := make(chan struct{}, abortWidth)
	for _, u := range all {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			c := &clientConn{srv: s, principal: u.principal, work: &work{lsid: u.lsid, mayWait: true}}
			c.log.c = c
			c.abortAt(u.cluster, u.address, u.number, u.api)
		})
	}
	wg.Wait()
	s.log.Info().Int("transactions", len(all)).Msg("open transactions were aborted")
}

// transaction finds the command's transaction and checks that it may go on: an error with one is of one that
// has been aborted. It is nil for a command outside of one.
func (c *clientConn) transaction() (*txn, *wire.Error) {
	if !c.req.InTxn() {
		return nil, nil
	}
	number, _ := c.req.TxnNumber()
	t, err := c.srv.txns.find(txnKey{c.principal, c.lsid}, number, c.req.StartsTxn(), c.epoch(), c.share(), c.srv.flights)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = time.Now()
	if api := c.appendAPI(nil); c.req.StartsTxn() && len(api) <= maxKept {
		t.api = api
	}
	if t.state == txnAborted || t.state == txnEnded && !t.begun && c.req.Cmd.Route != routing.ByTxn {
		return t, wire.Errorf(wire.NoSuchTransaction, txnLookup).WithLabels(wire.LabelTransientTxn)
	}
	return t, nil
}

// maxKept is how many bytes of a command are kept for its transaction: more than any has that servers take.
const maxKept = 1 << 10

// beginHere keeps of a transaction whose first command is answered here what the first that a server gets has to
// have of it.
func (c *clientConn) beginHere(t *txn) *wire.Error {
	if !c.req.StartsTxn() {
		return nil
	}
	f, _ := c.req.Field("readConcern")
	if len(f.Value.Data) > maxKept {
		return wire.Errorf(wire.InvalidOptions, "the readConcern is longer than %d bytes", maxKept)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.here, t.concern = true, clone(f.Value)
	return nil
}

// epoch is the current table's.
func (c *clientConn) epoch() uint64 {
	if t := c.srv.opts.Router.Current(); t != nil {
		return t.Epoch
	}
	return 0
}

// goesOn ends the transaction where a tenant that the command concerns has moved since it began: its
// snapshot is older than what has been copied, and would show a home half filled.
func (c *clientConn) goesOn(t *routing.Table, d *routing.Decision, tx *txn) *wire.Error {
	if tx == nil || !t.MovedSince(d, tx.epoch) {
		return nil
	}
	c.failTxn(tx)
	return wire.Errorf(wire.NoSuchTransaction, "the tenant's database has changed since the transaction began; run it again").
		WithLabels(wire.LabelTransientTxn)
}

// pinned is the cluster that the transaction is bound to; "" for none yet.
func (t *txn) pinned() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cluster
}

// pin binds the transaction to the cluster of its first command; another cluster is refused.
func (t *txn) pin(cluster string) *wire.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cluster == "" {
		t.cluster = cluster
	}
	if t.cluster != cluster {
		return spans()
	}
	return nil
}

// hasReached notes that a server has had a command of the transaction; of a mongos also which.
func (t *txn) hasReached(address string, mongos bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.concern = wire.Value{}
	if t.begun = true; mongos {
		t.address = address
	}
}

// appendStart appends what the first command of the transaction has that a server gets: no other may have it.
func (c *clientConn) appendStart(d []byte, t *txn, cluster string) []byte {
	t.mu.Lock()
	concern := t.concern
	t.mu.Unlock()
	if f, ok := c.req.Field("readConcern"); ok && c.req.StartsTxn() {
		concern = f.Value
	}
	return c.appendConcern(bsoncore.AppendBooleanElement(d, "startTransaction", true), concern, cluster)
}

// begins reports whether a server is to begin the transaction with the command at work. One that overtakes the first
// does not, as without a proxy: the server knows no transaction yet, and says so.
func (c *clientConn) begins(t *txn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.begun && (t.here || c.req.StartsTxn())
}

// count keeps a write of the transaction in flight until it ends; of those that are counted alike, one.
func (t *txn) count(k flightKey, f *flights) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fresh = !slices.Contains(t.flights, k); !t.fresh {
		f.leave(k)
		return
	}
	t.flights = append(t.flights, k)
}

// earlier is a write of the transaction that a change of the tenant's route waits for, also one that has
// begun by now. It is counted once more, which the caller ends.
func (t *txn) earlier(tn *routing.Tenant, f *flights) (k flightKey, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.flights {
		if (k.tenant == tn.Num || k.tenant == 0 && k.catalog == 0) && (!tn.Paused || k.epoch < tn.Since) {
			f.enter(k)
			return k, true
		}
	}
	return flightKey{}, false
}

// recount counts the command at work for these tenants, where it was counted for all.
func (t *txn) recount(tenants []uint32, f *flights) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := len(t.flights) - 1
	if !t.fresh || last < 0 || t.flights[last].tenant != 0 {
		return
	}
	old := t.flights[last]
	t.flights, t.fresh = t.flights[:last], false
	for _, n := range tenants {
		if k := (flightKey{tenant: n, epoch: old.epoch}); !slices.Contains(t.flights, k) {
			f.enter(k)
			t.flights = append(t.flights, k)
		}
	}
	f.leave(old)
}

// discount takes back what count has done for the command at work, which has written nothing.
func (t *txn) discount(f *flights) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := len(t.flights) - 1; t.fresh && last >= 0 {
		f.leave(t.flights[last])
		t.flights, t.fresh = t.flights[:last], false
	}
}

// fail marks a transaction after an error that the proxy made: as after a server's, it is aborted.
func (c *clientConn) failTxn(t *txn) {
	t.mu.Lock()
	open, cluster, address, api := t.state == txnOpen, t.cluster, t.address, t.api
	t.state, t.failed = txnAborted, true
	t.land(c.srv.flights)
	t.mu.Unlock()
	if open && cluster != "" {
		c.abortAt(cluster, address, t.number, api)
	}
}

// endTxn follows commitTransaction and abortTransaction.
func (c *clientConn) endTxn(table *routing.Table) *wire.Buf {
	t, err := c.transaction()
	abort := c.req.Cmd.Name == "abortTransaction"
	switch {
	case err == nil:
	case t == nil:
		return c.endUnknown(table, abort, err)
	case abort:
		return okReply()
	default:
		return c.refuse(err) // at a cluster it may not have been aborted
	}
	if t == nil {
		return c.refuse(wire.Errorf(wire.InvalidOptions, "%s must carry lsid, txnNumber and autocommit false", c.req.Cmd.Name))
	}
	t.mu.Lock()
	cluster, address, failed := t.cluster, t.address, t.failed
	t.mu.Unlock()
	if cluster == "" {
		t.mu.Lock()
		t.state = txnEnded
		t.mu.Unlock()
		if failed && !abort {
			return c.refuse(wire.Errorf(wire.NoSuchTransaction, txnLookup).WithLabels(wire.LabelTransientTxn))
		}
		return okReply()
	}
	return c.endAt(cluster, address, t)
}

// boundTenant is the number of the tenant that the client is bound to, whose share of sockets a command takes
// that names no tenant by itself; 0 for none.
func (c *clientConn) boundTenant() uint32 {
	if c.bound == nil || c.decision.Tenant == nil {
		return 0
	}
	return c.decision.Tenant.Num
}

// endAt sends the end of a transaction to where it runs.
func (c *clientConn) endAt(cluster, address string, t *txn) *wire.Buf {
	target := &routing.Target{Cluster: cluster}
	tr := c.newTrip(nil, target, nil)
	tr.sel, tr.tenant = backend.Select{Write: address == "", Address: address}, c.boundTenant()
	reply, err := c.roundTrip(&tr)
	if err != nil {
		return c.refuse(err)
	}
	if t != nil && c.outcome.code == 0 {
		t.mu.Lock()
		t.state = txnEnded
		t.land(c.srv.flights)
		t.mu.Unlock()
	}
	return reply
}

// endUnknown ends a transaction that this process knows nothing of: it was begun through one that is gone,
// or forgotten. Its cluster is the one of the recovery token. A commit without one goes from cluster to
// cluster until one knows the transaction: that it was not committed may only be said when all of them have
// said so, since the client then runs it again.
func (c *clientConn) endUnknown(table *routing.Table, abort bool, unknown *wire.Error) *wire.Buf {
	if cluster := c.recoveryCluster(); cluster != "" && c.srv.opts.Clusters.Get(cluster) != nil && c.mayReach(table, cluster) {
		return c.endAt(cluster, "", nil)
	}
	clusters := table.Clusters
	if c.bound != nil {
		clusters = table.Reach(c.decision.Tenant)
	}
	if abort && len(clusters) > 1 {
		return okReply()
	}
	var reply *wire.Buf
	for _, cluster := range clusters {
		if reply != nil {
			reply.Free()
		}
		reply = c.endAt(cluster, "", nil)
		if c.outcome.code != wire.NoSuchTransaction {
			break
		}
	}
	if reply == nil {
		return c.refuse(unknown)
	}
	return reply
}

// mayReach reports whether the recovery token's cluster may be the transaction's. A bound client may have
// made the token up: the cluster is one that its tenant's commands go to, or the token proves that a proxy
// has given it to this client.
func (c *clientConn) mayReach(table *routing.Table, cluster string) bool {
	if c.bound == nil || slices.Contains(table.Reach(c.decision.Tenant), cluster) {
		return true
	}
	f, _ := c.req.Field("recoveryToken")
	d, _ := f.Value.Doc()
	v, _ := d.Lookup("tenantryProof")
	id, ok := v.UUID()
	return ok && hmac.Equal(id, c.proof(cluster))
}

// proof is what a recovery token of a bound client has beside the cluster's name. Nobody's sessions are
// derived for a principal of that name.
func (c *clientConn) proof(cluster string) []byte {
	for i := range c.sessions.proofs {
		if e := &c.sessions.proofs[i]; e.cluster == cluster {
			return e.id[:]
		}
	}
	e := derivedID{cluster: cluster, id: deriveID(c.srv.opts.FleetKey(), "recovery:"+c.principal, sessionID{}, cluster)}
	c.sessions.proofs = append(c.sessions.proofs, e)
	return e.id[:]
}

// recoveryToken is what commit and abort bring back, so that any proxy can finish the transaction.
func (c *clientConn) recoveryToken(cluster string) []byte {
	i, d := bsoncore.AppendDocumentElementStart(nil, "recoveryToken")
	d = bsoncore.AppendStringElement(d, "tenantryCluster", cluster)
	if c.bound != nil {
		d = bsoncore.AppendBinaryElement(d, "tenantryProof", 4, c.proof(cluster))
	}
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// recoveryCluster is the cluster that the recovery token of one of our replies names.
func (c *clientConn) recoveryCluster() string {
	f, ok := c.req.Field("recoveryToken")
	if !ok {
		return ""
	}
	d, ok := f.Value.Doc()
	if !ok {
		return ""
	}
	v, _ := d.Lookup("tenantryCluster")
	s, _ := v.Str()
	return string(s)
}
