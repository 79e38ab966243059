package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// A large reply to a find or getMore goes to the client as it comes. Its documents concern nobody on
// the way; what has to be changed stands before and behind them, in the order that MongoDB servers
// write in:
//
//	header, flags, { cursor: { firstBatch: [ …documents… ], id, ns }, ok, $clusterTime, operationTime }
//	└─────────── head ──────────────────┘                 └───────────────── tail ─────────────────┘
//
// The lengths in the head have to be right before the tail is known, so only a tail is waited for
// whose changed length is known by its own: see tailDelta. The head and the tail without the documents
// are a reply of their own, and go the way of every reply; at its end the lengths have to be those that
// the client was told, else its connection is closed in the middle of the message. A reply of another
// form is read whole.

// passFloor is the size from which replies are passed on: those that count in the budget of memory.
const passFloor = wire.BudgetFloor

// passing is a reply that is passed on.
type passing struct {
	begun bool  // the client has got some of it
	lost  error // the client's error, or why the rest can't follow

	key    [12]byte // element name of the batch, as told
	keyLen int
	body   int32 // lengths of the documents without the batch's, as told
	cursor int32
}

// Where things are in a reply of the form that is passed on.
const (
	cursorKeyAt = wire.FlagsAt + 4 + 1 + 4
	cursorLenAt = cursorKeyAt + len(cursorKey)
	batchKeyAt  = cursorLenAt + 4
	cursorKey   = "\x03cursor\x00"
	firstKey    = "\x04firstBatch\x00"
	nextKey     = "\x04nextBatch\x00"
	passHead    = batchKeyAt + len(firstKey) + 4 // the longest head
	emptyArray  = "\x05\x00\x00\x00\x00"
)

// batchHead is a reply's front taken apart.
type batchHead struct {
	key    string
	array  int // offset of the batch
	size   int // its length
	inside int // length of what follows it in the cursor, the end included
	tail   int // length of what follows the cursor, likewise
}

// readHead takes the front of a reply of n bytes apart; false where it has another form.
func readHead(front []byte, n int) (h batchHead, ok bool) {
	if len(front) < passHead || wire.ReadHeader(front).OpCode != wire.OpMsg ||
		length(front, wire.FlagsAt) != 0 || front[wire.FlagsAt+4] != 0 ||
		length(front, wire.FlagsAt+5) != n-wire.FlagsAt-5 ||
		string(front[cursorKeyAt:cursorLenAt]) != cursorKey {
		return h, false
	}
	for _, key := range []string{firstKey, nextKey} {
		if bytes.HasPrefix(front[batchKeyAt:], []byte(key)) {
			h.key = key
		}
	}
	if h.key == "" {
		return h, false
	}
	h.array = batchKeyAt + len(h.key)
	h.size = length(front, h.array)
	cursor := length(front, cursorLenAt)
	h.inside = cursorLenAt + cursor - h.array - h.size
	h.tail = n - cursorLenAt - cursor
	return h, h.size >= len(emptyArray) && cursor > 0 && h.inside >= 1 && h.tail >= 1
}

func length(b []byte, at int) int { return int(int32(binary.LittleEndian.Uint32(b[at:]))) }

// Lengths of the elements that follow a cursor in the replies of MongoDB servers.
const (
	okLen          = 1 + len("ok\x00") + 8
	operationLen   = 1 + len("operationTime\x00") + 8
	clusterTimeLen = 1 + len("$clusterTime\x00") + 4 + (1 + len("clusterTime\x00") + 8) +
		(1 + len("signature\x00") + 4 + (1 + len("hash\x00") + 5 + 20) + (1 + len("keyId\x00") + 8) + 1) + 1
	cursorIDLen = 1 + len("id\x00") + 8
)

// tailDelta is by how much the cursor and all of the reply change their lengths; false where the
// lengths of what follows the batch leave open what that is.
func (c *clientConn) tailDelta(tr *trip, h *batchHead) (cursor, body int, ok bool) {
	if tr.renamed() {
		coll := c.req.Coll()
		if tr.cursor != nil {
			coll = []byte(tr.cursor.coll)
		}
		ns := 1 + len("ns\x00") + 4 + len(tr.target.DB) + 1 + len(coll) + 1
		if h.inside != cursorIDLen+ns+1 {
			return 0, 0, false
		}
		cursor = len(tr.target.Logical) - len(tr.target.DB)
	}
	body = cursor
	switch h.tail {
	case okLen + 1, okLen + operationLen + 1:
	case okLen + clusterTimeLen + operationLen + 1:
		if !c.srv.settings.Load().oneCluster {
			body -= clusterTimeLen
		}
	default:
		return 0, 0, false
	}
	return cursor, body, true
}

// passes reports whether nothing has to be known of the reply's documents, and the client can take
// them as they are.
func (c *clientConn) passes(tr *trip, names routing.ReplyKind) bool {
	return !c.looksAtDocuments() && c.viewOf(tr) == "" && tr.txn == nil && tr.watch == nil && names == routing.ReplyGeneric &&
		c.compressor == wire.Noop && c.msg.Flags&wire.MoreToCome == 0
}

// replyTo is the reply to what was sent: whole, or without the documents that have been passed on.
func (c *clientConn) replyTo(tr *trip, conn *backend.Conn) (*wire.Buf, error) {
	if !tr.passes || conn.Small(passFloor) {
		return conn.Receive()
	}
	n, front, err := conn.Front(passHead)
	if err != nil {
		return nil, err
	}
	if n >= passFloor {
		if h, ok := readHead(front, n); ok {
			if cursor, body, ok := c.tailDelta(tr, &h); ok {
				return c.pass(conn, front, &h, n, cursor, body)
			}
		}
	}
	return conn.Receive()
}

// pass passes the reply's head and batch on, and returns the rest as a reply with an empty batch.
func (c *clientConn) pass(conn *backend.Conn, front []byte, h *batchHead, n, cursor, body int) (*wire.Buf, error) {
	without := h.size - len(emptyArray)
	rest := wire.NewBuf(n - without)
	b := rest.B
	copy(b, front[:h.array])
	copy(b[h.array:], emptyArray)
	grow(b, 0, -without)
	grow(b, wire.FlagsAt+5, -without)
	grow(b, cursorLenAt, -without)

	p := &c.passing
	*p = passing{begun: true, keyLen: len(h.key)}
	copy(p.key[:], h.key)
	p.body = int32(length(b, wire.FlagsAt+5) + body)
	p.cursor = int32(length(b, cursorLenAt) + cursor)
	grow(front, 0, body)
	grow(front, wire.FlagsAt+5, body)
	grow(front, cursorLenAt, cursor)
	c.requestID++
	wire.SetIDs(front, c.requestID, c.msg.RequestID)
	lost, err := conn.Pass(c.wc, h.array+h.size)
	if err == nil && lost == nil {
		err = conn.Fill(b[h.array+len(emptyArray):])
	}
	if lost != nil {
		p.lost, err = lost, lost
	}
	if err != nil {
		rest.Free()
		return nil, err
	}
	return rest, nil
}

func grow(b []byte, at, by int) {
	binary.LittleEndian.PutUint32(b[at:], uint32(length(b, at)+by))
}

var errHalfReply = errors.New("a reply that was passed on ended otherwise than it began; the client's connection is closed in its middle")

// end writes what follows the documents that have been passed on. Any other reply than the one that
// was begun can't be told to the client any more.
func (c *clientConn) end(reply *wire.Buf) error {
	p, b := &c.passing, reply.B
	key := string(p.key[:p.keyLen])
	at := batchKeyAt + len(key)
	switch {
	case p.lost != nil:
		return p.lost
	case len(b) < at+len(emptyArray), length(b, wire.FlagsAt) != 0,
		int32(length(b, wire.FlagsAt+5)) != p.body, len(b) != wire.FlagsAt+5+int(p.body),
		string(b[cursorKeyAt:cursorLenAt]) != cursorKey, int32(length(b, cursorLenAt)) != p.cursor,
		string(b[batchKeyAt:at]) != key, string(b[at:at+len(emptyArray)]) != emptyArray:
		return errHalfReply
	}
	_, err := c.wc.Write(b[at+len(emptyArray):])
	return err
}
