package wiretest

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// serverConn is one connection of a server. Its goroutine answers, a second one reads, so that a
// client that leaves is noticed while an answer is held back.
type serverConn struct {
	*wire.Conn
	s      *Server
	number int
	stop   <-chan struct{} // closed when the server is killed
	gone   chan struct{}   // closed when nothing more can be read
	agreed []wire.Compressor
	next   *wire.Buf // came while a hello was streamed
	frames chan *wire.Buf
}

var requestIDs atomic.Int32

// serve answers one message after the other until the connection ends.
func (c *serverConn) serve() {
	c.frames = make(chan *wire.Buf)
	done := make(chan struct{})
	go func() {
		defer close(c.gone)
		c.read(done)
	}()
	defer func() {
		c.Conn.Close()
		close(done)
		<-c.gone
		c.Release()
		c.s.forget(c)
	}()
	for {
		b := c.next
		c.next = nil
		if b == nil {
			select {
			case b = <-c.frames:
			case <-c.gone:
				return
			}
		}
		if !c.message(b) {
			return
		}
	}
}

// read hands over messages until the connection is closed.
func (c *serverConn) read(done <-chan struct{}) {
	for {
		b, err := c.ReadMessage(wire.MaxMessage)
		if err != nil {
			return
		}
		select {
		case c.frames <- b:
		case <-done:
			b.Free()
			return
		}
	}
}

// message answers one message; false closes the connection.
func (c *serverConn) message(b *wire.Buf) bool {
	cmd, err := c.parse(b)
	b.Free()
	var refused *wire.Error
	if errors.As(err, &refused) {
		return c.write(wire.AppendQueryFailure(nil, requestIDs.Add(1), cmd.RequestID, refused))
	}
	if err != nil || c.s.tooLong(cmd) {
		return false
	}
	c.s.record(cmd)
	if wire.IsHello(cmd.Name) {
		return c.hello(cmd)
	}
	return c.answer(cmd)
}

// parse copies the message to a command.
func (c *serverConn) parse(b *wire.Buf) (Command, error) {
	cmd := Command{Conn: c.number}
	if wire.ReadHeader(b.B).OpCode == wire.OpCompressed {
		plain, by, err := wire.Decompress(b, wire.MaxMessage)
		if err != nil {
			return cmd, err
		}
		defer plain.Free()
		if !slices.Contains(c.agreed, by) {
			return cmd, errors.New("compressor not agreed on")
		}
		b, cmd.Compressed, cmd.Compressor = plain, true, by
	}
	cmd.Header = wire.ReadHeader(b.B)
	if cmd.OpCode == wire.OpQuery {
		q, err := wire.ParseQuery(b.B)
		cmd.Name, cmd.DB, cmd.Body, cmd.Legacy = string(q.Name), string(q.DB), slices.Clone(q.Body), true
		return cmd, err
	}
	return cmd, cmd.parse(b.B)
}

// parse fills the command from an OP_MSG.
func (c *Command) parse(frame []byte) error {
	var m wire.Message
	if err := m.Parse(slices.Clone(frame)); err != nil {
		return err
	}
	if err := m.Body.Check(); err != nil {
		return err
	}
	c.Flags, c.Body = m.Flags, m.Body
	it := m.Body.Iter()
	it.Next()
	c.Name = string(it.Key)
	v, _ := m.Body.Lookup("$db")
	db, _ := v.Str()
	c.DB = string(db)
	for _, s := range m.Sections {
		seq := Sequence{Identifier: string(s.Identifier)}
		for rest := s.Docs; len(rest) > 0; {
			var d wire.Doc
			d, rest, _ = wire.NextDoc(rest)
			if err := d.Check(); err != nil {
				return err
			}
			seq.Docs = append(seq.Docs, d)
		}
		c.Sections = append(c.Sections, seq)
	}
	return nil
}

// answer does what the rules, the script, the store say, in this order.
func (c *serverConn) answer(cmd Command) bool {
	if r, ok := c.s.refuse(cmd); ok {
		return c.send(cmd, r)
	}
	r := c.s.scripted(cmd)
	if r.until != nil && !c.wait(r.until) {
		return false
	}
	switch {
	case r.pass:
		r.doc = c.s.run(cmd)
	case r.doc != nil && c.s.opt.enforce:
		r.doc = c.s.set.remember(cmd, r.doc)
	}
	if r.hangUp {
		if r.raw != nil {
			c.write(r.raw)
		}
		return false
	}
	return c.send(cmd, r)
}

// wait is false where the connection or server ended first.
func (c *serverConn) wait(release <-chan struct{}) bool {
	select {
	case <-release:
		return true
	case <-c.gone:
	case <-c.stop:
	}
	return false
}

// send writes the reply, unless the client said that it wants none.
func (c *serverConn) send(cmd Command, r Reply) bool {
	if r.raw != nil {
		return c.write(r.raw)
	}
	if cmd.Flags&wire.MoreToCome != 0 {
		return true
	}
	to := cmd.RequestID
	if r.id != nil {
		to = *r.id
	}
	return c.sendDoc(cmd, c.s.gossip(r.doc), requestIDs.Add(1), to, 0)
}

// sendDoc writes a document in the form that the command came in.
func (c *serverConn) sendDoc(cmd Command, d wire.Doc, id, to int32, flags wire.Flag) bool {
	if cmd.Legacy {
		return c.write(wire.AppendReply(nil, id, to, d, wire.AwaitCapable))
	}
	b := wire.NewMessage(id, to, flags, d)
	defer b.Free()
	if cmd.Compressed && wire.Compressible(cmd.Name) {
		small, err := wire.Compress(b, cmd.Compressor)
		if err != nil {
			return false
		}
		defer small.Free()
		return c.write(small.B)
	}
	return c.write(b.B)
}

func (c *serverConn) write(frame []byte) bool {
	_, err := c.Conn.Write(frame)
	return err == nil
}

// run answers what the script passed.
func (s *Server) run(cmd Command) wire.Doc {
	switch strings.ToLower(cmd.Name) {
	case "ping", "endsessions", "killsessions", "refreshsessions":
		return OK().doc
	case "buildinfo":
		return OK(bson.E{Key: "version", Value: "8.0.0"}, bson.E{Key: "versionArray", Value: bson.A{8, 0, 0, 0}},
			bson.E{Key: "maxBsonObjectSize", Value: wire.MaxDocument}).doc
	case "committransaction", "aborttransaction":
		if s.opt.enforce {
			return OK().doc // the rules have done it
		}
	}
	if s.opt.stored {
		return s.set.store(s, cmd)
	}
	return Fail(wire.CommandNotFound, "no such command: '"+cmd.Name+"'").doc
}
