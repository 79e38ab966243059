package proxy

import (
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// work is what a connection needs while it serves a message. It is taken when the message comes and
// given back when its reply is written, so that there are as many as messages in work and not as
// connections, and none is made for a command.
type work struct {
	frame      *wire.Buf // of the message being served
	msg        wire.Message
	req        routing.Request
	decision   routing.Decision
	patch      wire.Patch
	replyMsg   wire.Message
	compressor wire.Compressor // of the message being served
	lsid       [16]byte        // of the command, as the client sent it
	hasLSID    bool
	api        []byte // elements of [stableAPI] for a command of no client's
	scratch    []byte // for the logical namespace of a reply
	start      time.Time
	outcome    outcome
	times      times // of what the command's parts have said
	snapshot   snapshot
	passing    passing
	unread     int    // bytes of the client's message that have not been read
	halfSent   error  // why the rest of it is lost
	viewed     viewed // what the client's own command was

	mayWait bool                // a goroutine serves it: what has to be waited for is waited for
	silent  bool                // no answer is wanted
	trip    trip                // of a command with one target
	entry   entry               // of that
	places  *semaphore.Weighted // of its tenant's room, of which one is taken; nil for none
	out     *wire.Buf           // what a loop sends; nil on a goroutine
	dest    *backend.Cluster    // to which
	conn    *backend.Conn       // by which

	unwritten *wire.Buf // the reply, until it is written
	owed      func()    // what a loop leaves to a goroutine, which does it before it answers; nil for nothing

	unseen  bool   // what the shared databases hold could not be read for it
	hintKey []byte // of the document last asked for
}

var works = sync.Pool{New: func() any { return &work{} }}

// takeWork takes it; mayWait says that a goroutine does.
func (c *clientConn) takeWork(mayWait bool) {
	c.work = works.Get().(*work)
	c.req.Bound, c.req.LogsIn, c.mayWait = c.bound, c.listener.Auth != "", mayWait
}

// giveWork gives it back without a trace of the tenant: a message that the next one fails to read
// must not be taken for this one.
func (c *clientConn) giveWork() {
	w := c.work
	c.work = nil
	if w.out != w.frame {
		w.out.Free()
	}
	w.frame.Free()
	w.frame, w.out, w.dest, w.conn = nil, nil, nil, nil
	w.req.Forget()
	w.decision, w.outcome = routing.Decision{}, outcome{}
	w.lsid, w.hasLSID = [16]byte{}, false
	w.patch.Reset()
	w.passing, w.unread, w.halfSent, w.viewed = passing{}, 0, nil, viewed{}
	w.trip, w.entry = trip{}, entry{}
	w.unwritten, w.owed = nil, nil
	works.Put(w)
}
