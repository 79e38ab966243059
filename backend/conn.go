package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"

	"github.com/smetasc/tenantry/wire"
)

// Conn is a connection to a server that has been handshaken and logged in. Who acquired it has it
// alone until it is released, and not longer.
type Conn struct {
	pool       *pool
	wire       *wire.Conn
	socket     net.Conn // below TLS, to look at and to close without a word
	live       liveness
	desc       *described
	generation uint64
	limit      int             // of a reply's length
	compressor wire.Compressor // what was agreed on; wire.Noop: nothing

	id     int32       // of the last request
	amid   bool        // a reply has been read in part
	broken atomic.Bool // it is closed when released
	killed atomic.Bool // by somebody else than who uses it

	out     *wire.Buf // what a turn writes
	packing bool      // it is not the request itself, and is freed then

	starting  sync.Mutex // guards the following
	taker     Taker      // is told of the reply under way; nil for nobody
	sent      bool       // all of its request has been
	atWork    bool       // a turn, or a goroutine after it, reads or writes
	woken     bool       // something has come meanwhile
	repliedAt int64      // when the reply came; 0 where nobody has looked

	at        int    // in the pool's open list; the pool's mutex guards this and the following
	busy      bool   // in use
	share     *share // of the tenant who uses it
	idleSince int64
}

// replyRoom is what a reply may be longer than the largest message the server announces.
const replyRoom = 16 << 10

// Address is the server's address as the topology names it.
func (c *Conn) Address() string { return c.pool.addr }

// Mongos reports whether the server is a mongos.
func (c *Conn) Mongos() bool { return c.desc.server.Kind == description.ServerKindMongos }

// MaxWire is the server's largest wire version.
func (c *Conn) MaxWire() int32 {
	if w := c.desc.server.WireVersion; w != nil {
		return w.Max
	}
	return 0
}

// Cluster is the name of the cluster.
func (c *Conn) Cluster() string { return c.pool.d.cluster.name }

// Release gives the connection back; it is closed if a round trip failed.
func (c *Conn) Release() { c.pool.release(c, nil) }

// ReleaseIn is Release in a loop's turn.
func (c *Conn) ReleaseIn(t *wire.Turn) { c.pool.release(c, t) }

// Interrupt makes the round trip under way fail, from another goroutine than the one that waits
// for it. The connection is lost. The one who acquired it must not have released it.
func (c *Conn) Interrupt() { c.kill() }

// kill ends the connection under whoever uses it, who closes it.
func (c *Conn) kill() {
	c.killed.Store(true)
	c.broken.Store(true)
	c.wire.Sever()
}

// close closes a connection that nobody uses.
func (c *Conn) close() {
	c.wire.Release()
	if c.killed.Load() && c.socket != c.wire.Conn { // the end of TLS may have to be waited for
		_ = c.socket.Close()
		return
	}
	_ = c.wire.Close()
}

// restSure is for how long an idle connection is taken for alive unseen.
const restSure = int64(1e9)

// usable reports whether a connection that was idle can be lent.
func (c *Conn) usable(at int64) bool {
	if c.generation != c.pool.generation.Load() || c.wire.Buffered() || c.wire.Ended() {
		return false
	}
	return at-c.idleSince < restSure || c.live.alive()
}

// RoundTrip writes one whole frame and reads the reply's frame; the caller frees both. The frame
// gets a request id of this connection's, a checksum is taken off, and the flag that asks for a
// stream of replies is cleared, since replies are read one by one. A frame that announces that
// more is to come has no reply: the result is nil then. With compressible set it goes compressed
// where that was agreed on with the server; the reply comes back decompressed. The error is a
// *[Error], and the connection is of no further use.
func (c *Conn) RoundTrip(req *wire.Buf, compressible bool) (*wire.Buf, error) {
	silent, err := c.Send(req, Rest{}, compressible)
	if err != nil || silent {
		return nil, err
	}
	return c.Receive()
}

// Rest is what follows the frame of a request that is sent in pieces: bytes that are there, or the
// next Len of a client's message. The frame's header has the length of all.
type Rest struct {
	Bytes []byte
	From  *wire.Conn
	Len   int
}

// ErrHalfSent says that a client's bytes could not be moved, for a reason of its own or of the server's.
// The server has got a part of a message, and can't do anything with it; what is left of the client's
// message is not known.
var ErrHalfSent = errors.New("a request was sent in part")

// Send is the first half of a RoundTrip. Where it isn't silent, [Conn.Receive] is the other one, or
// [Conn.Front] and then [Conn.Pass] and [Conn.Fill] until all of the reply has been taken.
func (c *Conn) Send(req *wire.Buf, rest Rest, compressible bool) (silent bool, err error) {
	c.id++
	silent = prepare(req, c.id)
	if len(rest.Bytes) > 0 || rest.From != nil {
		return silent, c.sendAll(req, rest, compressible)
	}
	if sent, err := c.write(req, compressible, silent); err != nil {
		return silent, c.fail(sent, err)
	}
	return silent, nil
}

// sendAll writes a request in pieces.
func (c *Conn) sendAll(req *wire.Buf, rest Rest, compressible bool) error {
	if rest.From == nil && compressible && c.compressor != wire.Noop {
		whole := wire.NewBuf(len(req.B) + len(rest.Bytes))
		defer whole.Free()
		copy(whole.B[copy(whole.B, req.B):], rest.Bytes)
		if sent, err := c.write(whole, true, true); err != nil {
			return c.fail(sent, err)
		}
		return nil
	}
	if _, err := c.wire.Write(req.B); err != nil {
		return c.fail(false, err)
	}
	if rest.From == nil {
		if n, err := c.wire.Write(rest.Bytes); err != nil {
			return c.fail(n == len(rest.Bytes), err)
		}
		return nil
	}
	if _, err := rest.From.Pass(c.wire, rest.Len); err != nil {
		c.broken.Store(true)
		return &Error{Cluster: c.Cluster(), Err: fmt.Errorf("%w: %w", ErrHalfSent, err)}
	}
	return nil
}

// Receive reads the reply to what was sent.
func (c *Conn) Receive() (*wire.Buf, error) {
	reply, err := c.read()
	if err != nil {
		return nil, c.fail(true, err)
	}
	return reply, nil
}

// Small reports whether the reply to what was sent is known to have fewer bytes.
func (c *Conn) Small(bytes int) bool { return c.wire.Small(bytes) }

// Front waits for the first want bytes of the reply to what was sent, and returns its length and what
// has come of it; see [wire.Conn.Front]. One that is not the reply to it has no front.
func (c *Conn) Front(want int) (n int, front []byte, err error) {
	n, front, err = c.wire.Front(c.limit, want)
	if err == nil && wire.ReadHeader(front).ResponseTo != c.id {
		err = ErrMismatch
	}
	if err != nil {
		return 0, nil, c.fail(true, err)
	}
	return n, front, nil
}

// Pass moves the next n bytes of the reply to a client. Until the reply's end has been read by
// [Conn.Fill] the connection can't be lent again. lost is an error of which the client may be the
// reason, so that it says nothing about the server.
func (c *Conn) Pass(client *wire.Conn, n int) (lost, err error) {
	c.amid = true
	ended, err := c.wire.Pass(client, n)
	if ended || err != nil && c.killed.Load() {
		return nil, c.fail(true, err)
	}
	return err, nil
}

// Fill reads the reply's last len(b) bytes.
func (c *Conn) Fill(b []byte) error {
	if err := c.wire.Fill(b); err != nil {
		return c.fail(true, err)
	}
	c.amid = false
	return nil
}

// write writes one request and reports whether all of it went out. One that is not silent is waited
// for until its reply begins.
func (c *Conn) write(req *wire.Buf, compressible, silent bool) (sent bool, err error) {
	out := c.packed(req, compressible)
	if out != req {
		defer out.Free()
	}
	var n int
	if silent {
		n, err = c.wire.Write(out.B)
	} else {
		n, err = c.wire.Ask(out.B)
	}
	return n == len(out.B), err
}

// packed is the request compressed where that was agreed on, else as it is.
func (c *Conn) packed(req *wire.Buf, compressible bool) *wire.Buf {
	if !compressible || c.compressor == wire.Noop {
		return req
	}
	out, err := wire.Compress(req, c.compressor)
	if err != nil {
		return req
	}
	return out
}

// read reads one reply and checks that it is ours.
func (c *Conn) read() (*wire.Buf, error) {
	reply, err := c.wire.ReadMessage(c.limit)
	if err != nil {
		return nil, err
	}
	return c.received(reply)
}

// received checks that a reply is ours, and decompresses it.
func (c *Conn) received(reply *wire.Buf) (_ *wire.Buf, err error) {
	h := wire.ReadHeader(reply.B)
	if h.OpCode == wire.OpCompressed {
		if reply, err = unpack(reply, c.limit); err != nil {
			return nil, err
		}
		h = wire.ReadHeader(reply.B)
	}
	switch {
	case h.ResponseTo != c.id:
		err = ErrMismatch
	case h.OpCode == wire.OpMsg && len(reply.B) >= bodyAt:
		if reply.B[flagsAt]&byte(wire.MoreToCome) != 0 {
			c.broken.Store(true) // further replies will come that nobody reads
		}
	case h.OpCode != wire.OpReply:
		err = ErrOpCode
	}
	if err != nil {
		reply.Free()
		return nil, err
	}
	return reply, nil
}

// Where things are in an OP_MSG.
const (
	flagsAt   = wire.HeaderLen
	exhaustAt = flagsAt + 2 // byte of the flag exhaustAllowed
	bodyAt    = flagsAt + 4
)

// prepare makes a frame fit for this hop and reports whether it asks for no reply.
func prepare(req *wire.Buf, id int32) (silent bool) {
	b := req.B
	if h := wire.ReadHeader(b); h.OpCode == wire.OpMsg && len(b) > bodyAt {
		if b[flagsAt]&byte(wire.ChecksumPresent) != 0 && len(b) > bodyAt+4 {
			b = b[:len(b)-4]
			b[flagsAt] &^= byte(wire.ChecksumPresent)
			h.Length = int32(len(b))
			h.Put(b)
			req.B = b
		}
		b[exhaustAt] &^= byte(wire.ExhaustAllowed >> 16)
		silent = b[flagsAt]&byte(wire.MoreToCome) != 0
	}
	wire.SetIDs(b, id, 0)
	return silent
}

// fail marks the connection as lost, tells the topology where the network was the reason, and
// makes the caller's error.
func (c *Conn) fail(sent bool, err error) error {
	c.broken.Store(true)
	switch {
	case c.killed.Load():
		err = fmt.Errorf("%w: %w", ErrKilled, err)
	case lost(err):
		c.pool.report(c, topology.ConnectionError{ConnectionID: c.desc.ID(), Wrapped: err})
	}
	return &Error{Cluster: c.Cluster(), Sent: sent, Err: err}
}

// lost reports whether an error says that the network or the server is gone, and not that we gave
// up waiting for memory or could not read what came.
func lost(err error) bool {
	var frame wire.FrameError
	return !errors.As(err, &frame) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, net.ErrClosed) &&
		!errors.Is(err, ErrMismatch) && !errors.Is(err, ErrOpCode) && !errors.Is(err, io.ErrShortWrite)
}

// Observe tells the topology about an error reply of this connection: a server that says it is no
// primary, is recovering or shuts down, at the top level or as a write concern error. Other
// replies are ignored; call it for those with such a code only, since it reads the whole reply.
func (c *Conn) Observe(reply wire.Doc) {
	switch err := driver.ExtractErrorFromServerResponse(bsoncore.Document(reply)).(type) {
	case driver.Error:
		if err.NotPrimary() || err.NodeIsRecovering() {
			c.pool.report(c, err)
		}
	case driver.WriteCommandError:
		if w := err.WriteConcernError; w != nil && (w.NotPrimary() || w.NodeIsRecovering()) {
			c.pool.report(c, err)
		}
	}
}
