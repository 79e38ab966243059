package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// readSize is what one read asks for: a small command or reply arrives whole in one read.
const readSize = TakeSize

// Conn reads and writes whole messages on a connection. While it waits for a message's first
// byte it holds no buffer: on TCP and unix sockets it waits for readiness, and of TLS, which
// decrypts into a buffer of its own, it asks for that one byte. One goroutine reads and one
// writes; they may be the same.
type Conn struct {
	net.Conn
	raw     syscall.RawConn
	ready   func(fd uintptr) bool // of the waits for a message's first bytes, see readRaw
	asked   func(fd uintptr) bool // of [Conn.Ask]
	served  func(fd uintptr) bool // of [Conn.Each]
	tls     bool
	inside  bool // an Each is in its wait, so that fd can be used; of a connection that is watched it always can
	fd      int
	watched *watched // where a loop waits for it; nil for none
	muted   bool     // the loop is told of an end at most
	full    bool     // the last read took all that it had asked for
	handler Handler  // of an Each
	first   [1]byte  // what fill reads of TLS
	in      *Buf     // bytes read and not yet handed out, from at on; nil while idle
	at      int
	err     error // of the read inside ready
	lost    error // why a message was read in part: the next byte is no header

	question []byte // of an Ask, until it is written
	written  int    // of that, or of what a Turn was given

	lull time.Time // when a wait for a message ends without one; zero for never

	Budget *Budget       // bounds the memory of large messages; nil for none
	Wait   time.Duration // how long a large message waits for the budget; 0 waits without limit
	Stall  time.Duration // how long the other side may stop within a large message; 0 for ever
}

// NewConn wraps a connection.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{Conn: nc}
	_, c.tls = nc.(*tls.Conn)
	c.waitReady()
	noNetwork(nc)
	return c
}

// fill waits until at least one byte is there.
func (c *Conn) fill() error {
	if c.in != nil {
		return nil
	}
	if c.raw != nil {
		return c.fillRaw()
	}
	if c.tls {
		return c.fillTLS()
	}
	b := NewBuf(readSize)
	n, err := c.Conn.Read(b.B)
	if n == 0 {
		b.Free()
		return progress(err)
	}
	b.B = b.B[:n]
	c.in = b
	return nil
}

// fillTLS waits for one byte, and takes a buffer when it is there. What came in one record with it
// costs the next read no system call.
func (c *Conn) fillTLS() error {
	n, err := c.Conn.Read(c.first[:])
	if n == 0 {
		return progress(err)
	}
	c.in = NewBuf(readSize)
	c.in.B = append(c.in.B[:0], c.first[0])
	return nil
}

// Buffered reports whether bytes of a further message have been read already.
func (c *Conn) Buffered() bool { return c.in != nil }

// Await waits until the first byte of the next message is there, holding no buffer meanwhile.
// After a timeout it can be called again. [ErrLull] ends it where [Conn.EndLull] says so.
func (c *Conn) Await() error {
	if c.lost != nil {
		return c.lost
	}
	err := c.fill()
	if err != nil && c.outlast(err) {
		return ErrLull
	}
	return err
}

// Handler serves the messages that [Conn.Each] finds.
type Handler interface {
	// Message serves one message, the whole frame, which it frees. It does not read from the connection.
	// more says that the next message may be served likewise.
	Message(frame *Buf) (more bool, err error)
}

// Each waits for messages as [Conn.Await] does, and hands those that come whole with one read, of 16 KiB
// at most, to h; most do. It ends with h's error, with none where h wants no more, or where a message has
// begun to come that is not so: that is for [Conn.ReadMessage] to read.
//
// On TCP and unix sockets messages are served inside of the wait for the next one, which saves a read
// that finds nothing; a Close from another goroutine waits until the message is served, which
// [Conn.Sever] does not.
func (c *Conn) Each(h Handler) error {
	if c.lost != nil {
		return c.lost
	}
	c.handler = h
	defer func() { c.handler = nil }()
	more, err := c.serveBuffered()
	if more && c.raw != nil {
		if err = c.eachRaw(); err != nil && c.outlast(err) {
			return ErrLull
		}
		return err
	}
	for more {
		if err := c.Await(); err != nil {
			return err
		}
		more, err = c.serveBuffered()
	}
	return err
}

// serveBuffered serves the messages that have been read already.
func (c *Conn) serveBuffered() (more bool, err error) {
	for c.in != nil {
		n := c.whole()
		if n == 0 {
			return false, nil
		}
		frame, err := c.message(n, 0)
		if err != nil {
			return false, err
		}
		if more, err := c.handler.Message(frame); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// whole is the length of the message at the front of what has been read, where all of it has come and
// what it may hold compressed is as small, else 0.
func (c *Conn) whole() int {
	b := c.in.B[c.at:]
	if len(b) < HeaderLen {
		return 0
	}
	h := ReadHeader(b)
	if n := int(h.Length); n < HeaderLen || n > len(b) {
		return 0
	} else if h.OpCode != OpCompressed {
		return n
	} else if n < compressedAt {
		return 0
	}
	if _, err := announced(b, readSize); err != nil {
		return 0
	}
	return int(h.Length)
}

// Sever ends the connection from any goroutine, without waiting for those that use it: they get errors,
// and close it.
func (c *Conn) Sever() {
	nc := c.Conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn() // whose own Close first waits for who writes
	}
	both, ok := nc.(interface {
		CloseRead() error
		CloseWrite() error
	})
	if !ok {
		_ = nc.Close()
		return
	}
	_, _ = both.CloseRead(), both.CloseWrite()
}

// ErrLull says that no message came in time. The connection is as it was.
var ErrLull = errors.New("nothing came for a while")

// EndLull makes an Await return [ErrLull] once nothing has come for so long, or for half of that: to
// set a deadline costs a tenth of a command, so one that is set already serves until it is near. It
// ends no read of a message that has begun, and holds for one ErrLull. Connections that can't wait
// without a buffer have none. (A deadline does no harm to TLS while it reads: what has come of a
// record is kept.)
func (c *Conn) EndLull(now time.Time, after time.Duration) error {
	if c.raw == nil && !c.tls || c.lull.Sub(now) > after/2 {
		return nil
	}
	c.lull = now.Add(after)
	return c.SetReadDeadline(c.lull)
}

// NoLull takes the deadline of a lull off.
func (c *Conn) NoLull() {
	if !c.lull.IsZero() {
		c.lull = time.Time{}
		_ = c.SetReadDeadline(time.Time{}) // of one that is closed the next read tells
	}
}

// outlast reports whether a read was ended by the deadline of a lull, and takes that off.
func (c *Conn) outlast(err error) bool {
	if c.lull.IsZero() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.lull = time.Time{}
	return c.SetReadDeadline(time.Time{}) == nil
}

// Read reads on in a message that has begun, whatever the deadline of a lull says.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && n == 0 && c.outlast(err) {
		return c.Conn.Read(b)
	}
	return n, err
}

// ReadMessage reads one message of at most limit bytes, the whole frame with its header; what an
// OP_COMPRESSED announces is held to the limit too. The caller frees the buffer. The error is
// io.EOF only between messages; a [FrameError] says that what arrived is no message or too long,
// before memory for it is taken. The memory is taken when the header is there, a large message's
// when its first 16 KiB are, so whoever isn't trusted yet gets a small limit. After a FrameError, or
// an error in a message's middle, each further call fails.
func (c *Conn) ReadMessage(limit int) (*Buf, error) {
	if c.lost != nil {
		return nil, c.lost
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	n, cost, err := c.head(limit)
	if err != nil {
		return nil, err
	}
	if cost > 0 { // who only announces takes nothing from those who send
		if err := c.need(min(n, readSize)); err != nil {
			return nil, err
		}
	}
	taken, err := c.Budget.take(cost, c.Wait)
	if err != nil {
		return nil, err
	}
	stall := c.Stall
	if cost == 0 {
		stall = 0
	}
	b, err := c.message(n, stall)
	if err != nil {
		c.Budget.release(taken)
		return nil, err
	}
	if taken > 0 {
		b.budget, b.taken = c.Budget, taken
	}
	return b, nil
}

// head returns the length of the message whose first bytes are there, and what it costs of the
// budget: for an OP_COMPRESSED, together with the message inside.
func (c *Conn) head(limit int) (n int, price int64, err error) {
	if err := c.need(HeaderLen); err != nil {
		return 0, 0, err
	}
	h := ReadHeader(c.in.B[c.at:])
	n = int(h.Length)
	if h.OpCode != OpMsg && h.OpCode != OpCompressed && isClientHello(c.in.B[c.at:]) {
		return 0, 0, ErrTLS
	}
	if n < HeaderLen || n > limit {
		return 0, 0, badFrame("length %d, want %d to %d", n, HeaderLen, limit)
	}
	if h.OpCode != OpCompressed {
		return n, cost(n), nil
	}
	if n < compressedAt {
		return 0, 0, badFrame("OP_COMPRESSED of %d bytes", n)
	}
	if err := c.need(compressedAt); err != nil {
		return 0, 0, err
	}
	inner, err := announced(c.in.B[c.at:], limit)
	return n, cost(n) + cost(inner), err
}

// need reads on until so many bytes of the message are there.
func (c *Conn) need(n int) error {
	for len(c.in.B)-c.at < n {
		if err := c.more(); err != nil {
			return err
		}
	}
	return nil
}

// more reads further bytes behind those that are there, for a header that came in pieces.
func (c *Conn) more() error {
	if c.at > 0 {
		c.in.B = c.in.B[:copy(c.in.B, c.in.B[c.at:])]
		c.at = 0
	}
	have := len(c.in.B)
	n, err := c.Read(c.in.B[have:cap(c.in.B)])
	c.in.B = c.in.B[:have+n]
	if n > 0 {
		return nil
	}
	return unexpected(progress(err))
}

// message returns the first n bytes of what is there or still comes.
func (c *Conn) message(n int, stall time.Duration) (*Buf, error) {
	have := c.in.B[c.at:]
	if len(have) == n && c.at == 0 { // as nearly always: nothing is copied
		b := c.in
		c.in = nil
		return b, nil
	}
	b := NewBuf(n)
	c.skip(copy(b.B, have))
	if len(have) >= n { // further messages came with it
		return b, nil
	}
	if err := c.rest(b.B[len(have):], stall); err != nil {
		b.Free()
		c.lost = unexpected(err)
		return nil, c.lost
	}
	return b, nil
}

// rest fills b with what still comes of a message.
func (c *Conn) rest(b []byte, stall time.Duration) error {
	if stall == 0 {
		_, err := io.ReadFull(c, b)
		return err
	}
	for len(b) > 0 {
		if err := c.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		n, err := c.Conn.Read(b)
		if b = b[n:]; err != nil && len(b) > 0 {
			return err
		}
	}
	c.lull = time.Time{}
	return c.SetReadDeadline(time.Time{})
}

// Write writes a whole message. The other side of a large one has to take some of it within
// [Conn.Stall].
func (c *Conn) Write(b []byte) (n int, err error) {
	if len(b) < BudgetFloor && (c.inside || c.watched != nil) {
		if n = writeNow(c.fd, b); n == len(b) {
			return n, nil
		}
		rest, err := c.Conn.Write(b[n:])
		return n + rest, err
	}
	if c.Stall == 0 || len(b) < BudgetFloor {
		return c.Conn.Write(b)
	}
	for n < len(b) && err == nil {
		if err = c.SetWriteDeadline(time.Now().Add(c.Stall)); err != nil {
			return n, err
		}
		var some int
		some, err = c.Conn.Write(b[n:min(len(b), n+writeSize)])
		n += some
	}
	if err != nil {
		return n, err
	}
	return n, c.SetWriteDeadline(time.Time{})
}

// Ask writes a whole message to a side that speaks only when it is asked, and waits for the first byte
// of what it says; [Conn.ReadMessage] reads that. n is how much was written.
//
// Where the connection can wait without a buffer, the write is made inside of the wait: a read that is
// tried before the answer can be there costs as much as one that brings it. What had come before the
// question wakes nobody by itself then, but with the answer, or with the reset by which a socket that
// its owner has closed answers what is sent to it.
func (c *Conn) Ask(b []byte) (n int, err error) {
	if c.raw == nil || c.in != nil || len(b) >= BudgetFloor {
		return c.Write(b)
	}
	c.question, c.written = b, 0
	err = c.askRaw()
	n, c.question = c.written, nil
	if err == nil && n < len(b) {
		var rest int
		rest, err = c.Write(b[n:])
		n += rest
	}
	return n, err
}

// writeSize is how much of a large message has to be taken within the stall.
const writeSize = 256 << 10

// skip takes n bytes off what is there.
func (c *Conn) skip(n int) {
	if c.at += n; c.at == len(c.in.B) {
		c.Release()
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// progress is the error of a read of no bytes.
func progress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// Release frees what was read and not handed out; the connection is not read from afterwards.
func (c *Conn) Release() {
	c.in.Free()
	c.in, c.at = nil, 0
}
