package proxy

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// clientConn is one client's connection. Its fields are its goroutine's, but for busy and inUse.
type clientConn struct {
	srv      *Server
	wc       *wire.Conn
	id       int32
	listener config.Listener
	bound    *routing.Binding
	log      zerolog.Logger
	greeted  bool // the client's first hello with its metadata has come

	frame      *wire.Buf // of the message being served
	msg        wire.Message
	req        routing.Request
	patch      wire.Patch
	replyMsg   wire.Message
	compressor wire.Compressor // of the message being served
	requestID  int32           // of our last reply
	lsid       [16]byte        // of the command, as the client sent it
	hasLSID    bool
	sessions   sessionIDs
	start      time.Time
	outcome    outcome
	times      times // of what the command's parts have said
	hintKey    []byte

	busy  atomic.Bool
	inUse atomic.Pointer[backend.Conn] // of the round trip under way
}

func newClientConn(s *Server, nc net.Conn, l config.Listener, address string) *clientConn {
	id := s.nextConn.Add(1)
	c := &clientConn{srv: s, wc: wire.NewConn(nc), id: id, listener: l}
	c.wc.Budget, c.wc.Wait = s.opts.Budget, s.settings.Load().queueTimeout
	ctx := s.log.With().Int32("connection", id).Str("client", nc.RemoteAddr().String())
	if l.Tenant != "" {
		c.bound = &routing.Binding{Key: l.Tenant, Database: l.Isolation == "database", Access: accessOf(l.Access)}
		ctx = ctx.Str("tenant", l.Tenant)
	}
	c.req.Bound = c.bound
	c.log = ctx.Logger()
	if l.Advertise == "" {
		c.listener.Advertise = address
		if a := nc.LocalAddr(); a != nil && a.Network() == "tcp" {
			c.listener.Advertise = a.String()
		}
	}
	return c
}

func accessOf(word string) routing.Access {
	switch word {
	case "read":
		return routing.Read
	case "owner":
		return routing.DDL
	}
	return routing.Write
}

// errClose ends a connection without a word in the log.
var errClose = errors.New("close the connection")

// serve reads one message after the other until the client goes or the framing is lost.
func (c *clientConn) serve() {
	defer c.close()
	defer c.recovered()
	c.log.Debug().Msg("client connected")
	for {
		if err := c.wc.Await(); err != nil {
			c.gone(err)
			return
		}
		c.busy.Store(true)
		frame, err := c.wc.ReadMessage(wire.MaxMessage)
		if err == nil {
			err = c.handle(frame)
		}
		c.busy.Store(false)
		if err != nil {
			c.gone(err)
			return
		}
		if c.srv.stopping() {
			return
		}
	}
}

// stopping reports whether the server has begun to shut down.
func (s *Server) stopping() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

func (c *clientConn) gone(err error) {
	var frame wire.FrameError
	switch {
	case errors.As(err, &frame):
		c.srv.metrics.malformed.Inc()
		c.log.Info().Err(err).Msg("connection closed: what came is no message")
	case errors.Is(err, io.EOF), errors.Is(err, errClose), errors.Is(err, net.ErrClosed):
		c.log.Debug().Msg("client left")
	default:
		c.log.Debug().Err(err).Msg("client lost")
	}
}

// recovered ends this connection alone where serving it has panicked: a fault met by one tenant's
// command must not take the others' connections down.
func (c *clientConn) recovered() {
	if fault := recover(); fault != nil {
		c.srv.metrics.panics.Inc()
		c.log.Error().Interface("panic", fault).Bytes("stack", debug.Stack()).Msg("a command made tenantry panic; its connection is closed")
	}
}

func (c *clientConn) close() {
	c.wc.Release()
	_ = c.wc.Close()
}

// abort ends the connection from another goroutine, and the round trip it may wait for.
func (c *clientConn) abort() {
	_ = c.wc.Close()
	if b := c.inUse.Load(); b != nil {
		b.Interrupt()
	}
}

// handle serves one frame, which it frees.
func (c *clientConn) handle(frame *wire.Buf) error {
	c.frame, c.compressor = frame, wire.Noop
	defer func() { c.frame.Free() }()
	switch wire.ReadHeader(frame.B).OpCode {
	case wire.OpMsg:
	case wire.OpQuery:
		return c.legacy()
	case wire.OpCompressed:
		plain, by, err := wire.Decompress(frame, wire.MaxMessage)
		if err != nil {
			return err
		}
		frame.Free()
		c.frame, c.compressor = plain, by
		if wire.ReadHeader(plain.B).OpCode == wire.OpQuery {
			return c.legacy()
		}
	default:
		return wire.FrameError("unknown op code")
	}
	return c.command()
}

// command serves one OP_MSG.
func (c *clientConn) command() error {
	if err := c.msg.Parse(c.frame.B); err != nil {
		return err
	}
	c.start, c.outcome = time.Now(), outcome{}
	c.times.reset()
	silent := c.msg.Flags&wire.MoreToCome != 0
	c.frame.B[wire.FlagsAt] &^= byte(wire.MoreToCome) // servers are always asked for an answer
	var reply *wire.Buf
	if err := c.req.Parse(&c.msg); err != nil {
		reply = c.refuse(err)
	} else if reply = c.run(); reply == nil {
		return errClose // the hello stream wrote its replies itself, or the client is gone
	}
	c.observe()
	if silent {
		reply.Free()
		return nil
	}
	return c.write(reply)
}

// run decides and acts, again where the table changed meanwhile.
func (c *clientConn) run() *wire.Buf {
	c.noteSession()
	c.req.Unlisted = false
	for range 64 {
		t := c.srv.opts.Router.Current()
		if t == nil {
			if c.req.Cmd != nil && c.req.Cmd.Access == routing.None && c.req.Cmd.Route == routing.Local {
				return c.answer(nil, &routing.Decision{})
			}
			return c.refuse(c.label(wire.Errorf(wire.HostUnreachable, "the routes have not been read yet; the home cluster is not reachable"), true))
		}
		d := t.Route(&c.req)
		if d.Action == routing.Hold {
			if err := c.hold(&d); err != nil {
				return c.refuse(err)
			}
			continue
		}
		if reply, again := c.act(t, &d); !again {
			return reply
		}
	}
	return c.refuse(c.label(wire.Errorf(wire.HostUnreachable, "the tenant's route did not come to rest"), true))
}

// write sends the reply as the client asked for it.
func (c *clientConn) write(reply *wire.Buf) error {
	defer func() { reply.Free() }()
	c.requestID++
	wire.SetIDs(reply.B, c.requestID, c.msg.RequestID)
	if c.compressor != wire.Noop && c.req.Cmd != nil && wire.Compressible(c.req.Cmd.Name) {
		packed, err := wire.Compress(reply, c.compressor)
		if err != nil {
			return err
		}
		reply.Free()
		reply = packed
	}
	_, err := c.wc.Write(reply.B)
	return err
}

// refuse is the reply that says no.
func (c *clientConn) refuse(e *wire.Error) *wire.Buf {
	c.outcome.code = e.Code
	if e.Code != wire.HostUnreachable {
		c.log.Debug().Bytes("command", c.req.Name).Int32("code", int32(e.Code)).Str("text", e.Text).Msg("refused")
	}
	return wire.NewMessage(0, 0, 0, e.Doc())
}

// label adds the labels that make drivers treat an error of the network rightly: unsent says that
// nothing reached a server.
func (c *clientConn) label(e *wire.Error, unsent bool) *wire.Error {
	_, numbered := c.req.TxnNumber()
	var labels []string
	switch {
	case c.req.InTxn() && c.req.Cmd != nil && c.req.Cmd.Name == "commitTransaction":
		labels = append(labels, wire.LabelRetryableWrite, wire.LabelUnknownCommit)
	case c.req.InTxn():
		labels = append(labels, wire.LabelTransientTxn)
	case numbered:
		labels = append(labels, wire.LabelRetryableWrite)
		if unsent {
			labels = append(labels, wire.LabelNoWrites)
		}
	}
	if labels == nil {
		return e
	}
	return e.WithLabels(labels...)
}
