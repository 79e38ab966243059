package wiretest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// Client is a raw client: it sends what it is told to, also what no driver would. It is used by
// one goroutine; methods without an error fail the test, so they belong to the test's goroutine.
type Client struct {
	*wire.Conn
	Timeout time.Duration // for each write and read; 0 for none

	t  testing.TB
	id int32
	by *wire.Compressor
}

// Outgoing is a message to send.
type Outgoing struct {
	Body     any // see [D]; with its $db
	Sections []Sequence
	Flags    wire.Flag
	Checksum bool // with a checksum, a right one
	Compress *wire.Compressor
	ID       int32 // request id; 0 for the next one
}

// Incoming is a message that came.
type Incoming struct {
	wire.Header
	Flags      wire.Flag
	Body       wire.Doc
	Compressed bool
	Compressor wire.Compressor
}

// D is the body, decoded.
func (in Incoming) D() bson.D { return Decode(in.Body) }

// Dial connects over TCP; the connection is closed when the test ends.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(t, nc)
}

// Dial connects to the server.
func (s *Server) Dial() *Client {
	s.t.Helper()
	nc, err := s.DialContext(s.t.Context(), "tcp", "")
	if err != nil {
		s.t.Fatal(err)
	}
	return NewClient(s.t, nc)
}

// NewClient speaks over the connection, which is closed when the test ends.
func NewClient(t testing.TB, nc net.Conn) *Client {
	c := &Client{Conn: wire.NewConn(nc), Timeout: Patience, t: t}
	t.Cleanup(func() {
		nc.Close()
		c.Release()
	})
	return c
}

// Compress makes each further command that may be compressed so.
func (c *Client) Compress(by wire.Compressor) { c.by = &by }

// Run sends a command to a database and returns its reply, decoded.
func (c *Client) Run(db string, cmd bson.D) bson.D {
	c.t.Helper()
	return Decode(c.Command(append(slices.Clip(cmd), bson.E{Key: "$db", Value: db})))
}

// Command sends a command, which has its $db, and returns its reply.
func (c *Client) Command(doc any) wire.Doc {
	c.t.Helper()
	d, err := c.Try(doc)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// Try is Command with an error where the connection ends or the reply is none of the command.
func (c *Client) Try(doc any) (wire.Doc, error) {
	id, err := c.TrySend(Outgoing{Body: doc})
	if err != nil {
		return nil, err
	}
	in, err := c.TryReceive()
	if err != nil {
		return nil, err
	}
	if in.ResponseTo != id {
		return nil, fmt.Errorf("reply to %d, want to %d", in.ResponseTo, id)
	}
	return in.Body, nil
}

// Send sends a message and returns its id.
func (c *Client) Send(m Outgoing) int32 {
	c.t.Helper()
	id, err := c.TrySend(m)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// TrySend is Send with an error.
func (c *Client) TrySend(m Outgoing) (int32, error) {
	frame, id, err := c.frame(m)
	if err != nil {
		return 0, err
	}
	return id, c.SendFrame(frame)
}

// frame makes the message's bytes.
func (c *Client) frame(m Outgoing) ([]byte, int32, error) {
	id := m.ID
	if id == 0 {
		c.id++
		id = c.id
	}
	body := D(m.Body)
	f := wire.AppendMessage(nil, id, 0, m.Flags, body)
	for _, s := range m.Sections {
		f = wire.AppendSection(f, s.Identifier, s.Docs...)
	}
	if m.Checksum {
		f = wire.AppendChecksum(f)
	}
	by := m.Compress
	if it := body.Iter(); by == nil && c.by != nil && it.Next() && wire.Compressible(it.Key) {
		by = c.by
	}
	if by == nil {
		return f, id, nil
	}
	small, err := wire.Compress(&wire.Buf{B: f}, *by)
	if err != nil {
		return nil, 0, err
	}
	defer small.Free()
	return slices.Clone(small.B), id, nil
}

// SendFrame writes bytes as they are.
func (c *Client) SendFrame(b []byte) error {
	c.deadline(c.SetWriteDeadline)
	_, err := c.Conn.Write(b)
	return err
}

func (c *Client) deadline(set func(time.Time) error) {
	if c.Timeout > 0 {
		set(time.Now().Add(c.Timeout))
	}
}

// Receive reads a message, decompressed, an OP_MSG or an OP_REPLY.
func (c *Client) Receive() Incoming {
	c.t.Helper()
	in, err := c.TryReceive()
	if err != nil {
		c.t.Fatal(err)
	}
	return in
}

// TryReceive is Receive with an error.
func (c *Client) TryReceive() (in Incoming, err error) {
	c.deadline(c.SetReadDeadline)
	b, err := c.ReadMessage(wire.MaxMessage)
	if err != nil {
		return in, err
	}
	defer func() { b.Free() }()
	if wire.ReadHeader(b.B).OpCode == wire.OpCompressed {
		plain, by, err := wire.Decompress(b, wire.MaxMessage)
		if err != nil {
			return in, err
		}
		b.Free()
		b, in.Compressed, in.Compressor = plain, true, by
	}
	return in, in.parse(slices.Clone(b.B))
}

// parse fills the message from a frame that it may keep.
func (in *Incoming) parse(frame []byte) (err error) {
	in.Header = wire.ReadHeader(frame)
	if in.OpCode == wire.OpReply {
		_, in.Body, _, err = wire.ReadReply(frame)
		return err
	}
	var m wire.Message
	if err := m.Parse(frame); err != nil {
		return err
	}
	in.Flags, in.Body = m.Flags, m.Body
	return m.Body.Check()
}

// LegacyHello sends hello as OP_QUERY, as drivers do first, and returns the reply.
func (c *Client) LegacyHello(doc any) wire.Doc {
	c.t.Helper()
	c.id++
	if err := c.SendFrame(Query(c.id, "admin.$cmd", D(doc))); err != nil {
		c.t.Fatal(err)
	}
	in := c.Receive()
	if in.OpCode != wire.OpReply || in.ResponseTo != c.id {
		c.t.Fatalf("op code %d to %d, want an OP_REPLY to %d", in.OpCode, in.ResponseTo, c.id)
	}
	return in.Body
}

// Query is an OP_QUERY with numberToReturn -1.
func Query(id int32, ns string, doc wire.Doc) []byte {
	b := make([]byte, wire.HeaderLen+4)
	b = append(append(b, ns...), 0)
	b = append(b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
	b = append(b, doc...)
	wire.Header{Length: int32(len(b)), RequestID: id, OpCode: wire.OpQuery}.Put(b)
	return b
}

// Closed waits until the other side has closed the connection; a message that comes first fails
// the test.
func (c *Client) Closed() {
	c.t.Helper()
	in, err := c.TryReceive()
	switch {
	case err == nil:
		c.t.Fatalf("got %v, want the connection closed", in.D())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, net.ErrClosed):
	default:
		if e, ok := err.(net.Error); ok && e.Timeout() {
			c.t.Fatalf("the connection is still open: %v", err)
		}
	}
}
