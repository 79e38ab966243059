package proxy

import (
	"cmp"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// What the proxy adds to a command can make it larger than servers take, though the client has kept to what
// hello says: a filter of each of many writes that is narrowed to a tenant, the numbers of writes. A server
// closes the connection of a message that is too large, so that none is sent. A batch goes in pieces.

// limits are what the servers of a cluster take as one command.
type limits struct {
	message int // bytes
	body    int // bytes of it that are the command's own document; what is in document sequences is not
	writes  int // of a batch
}

// bodyRoom is how much larger than a stored document a command's own may be (BSONObjMaxInternalSize).
const bodyRoom = 16 << 10

// limitsOf are those of today's servers as long as the cluster's are not known.
func limitsOf(cluster *backend.Cluster) limits {
	l := limits{message: wire.MaxMessage, body: wire.MaxDocument, writes: 100_000}
	if cluster != nil {
		f := cluster.Facts()
		l.message = int(least(int32(l.message), f.MaxMessage))
		l.body = int(least(int32(l.body), f.MaxDocument))
		l.writes = int(least(int32(l.writes), f.MaxBatch))
	}
	l.body += bodyRoom
	return l
}

// errTooLarge is the failure of a command that has grown too large.
var errTooLarge = wire.Errorf(wire.BSONObjectTooLarge, "with what is added to it the command is larger than its cluster's servers take; send less at once")

// exceeds reports whether a message of so many bytes is larger than the target's servers take once it is
// changed.
func (c *clientConn) exceeds(tr *trip, r *routing.Request, size int, p *wire.Patch) bool {
	if size += p.Delta() + tr.rest.Len; size < divideFloor {
		return false // no server's limit is that low
	}
	l := limitsOf(c.srv.opts.Clusters.Get(tr.target.Cluster))
	return size > l.message || size > l.body && len(r.Msg.Body)+p.DeltaAt(r.Msg.BodyAt) > l.body
}

// hopRoom is more than what a hop adds to a command's body beside what is told here: the name of a
// database, times.
const hopRoom = 1 << 10

// room is what the home's servers take as one command beside the body of the client's, without its batch.
func (s *split) room(home *routing.Target) limits {
	r := &s.c.req
	body := len(s.c.msg.Body)
	for _, name := range []string{r.Cmd.Batch(), "nsInfo"} {
		if f, ok := r.Field(name); ok {
			body -= f.End - f.Start
		}
	}
	l := limitsOf(s.c.srv.opts.Clusters.Get(home.Cluster))
	l.body -= body + hopRoom
	l.message -= body + hopRoom
	if s.result.bulk {
		for _, ns := range r.Docs("nsInfo") {
			l.message -= len(ns) + len(home.DB)
		}
	}
	return l
}

// numberSize is what the number of a write has in the array of them.
const numberSize = 12

// take takes a write of so many bytes into the room; false where there is none.
func (l *limits) take(size int, numbered bool) bool {
	if numbered {
		size += numberSize
		l.body -= numberSize
	}
	l.message -= size
	l.writes--
	return l.message >= 0 && l.body >= 0 && l.writes >= 0
}

// inPieces makes the writes of a batch for one home that is larger than its servers take as one command, by
// several of them.
func (c *clientConn) inPieces(tr *trip, d *routing.Decision) (*wire.Buf, *wire.Error) {
	if c.unread > 0 || c.req.Cmd.Merge != routing.MergeWrite && c.req.Cmd.Merge != routing.MergeBulk {
		return nil, errTooLarge
	}
	s := &split{c: c, t: tr.table, d: d, tx: tr.txn, whole: true, tenant: tr.tenant}
	if ok, err := s.read(); !ok || err != nil {
		return nil, cmp.Or(err, errTooLarge) // a server can't be asked what is wrong with it
	}
	tr.patch.Reset() // what was put in for all of them is not kept meanwhile
	if err := s.sendAll([]batch{{tr.target, span(0, len(s.ops))}}); err != nil {
		return nil, s.partial(err)
	}
	return s.answer(tr.target), nil
}
