package proxy

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// clientConn is one client's connection. Its fields are those of who has its turn, see [turn], but for
// who, busy and inUse.
// Most connections idle at any time, so what only a command in work needs is not here but in work.
type clientConn struct {
	srv         *Server
	wc          *wire.Conn
	caller      *caller // by a unix socket, where the system tells; nil for none
	listener    *config.Listener
	who         atomic.Pointer[auth.Principal] // nil until the client has authenticated; then fixed, see become
	principal   string                         // who's name, for sessions and cursors
	bound       *routing.Binding               // what who may do, for routing; nil where he is bound to no tenant
	login       *auth.Conversation             // under way; nil for none
	checked     *settings                      // that the client was last held against; see recheck
	barred      *wire.Error                    // why the client may do nothing any more
	log         connLog
	application string // as the client's first hello names it
	sessions    sessionIDs
	id          int32
	requestID   int32        // of our last reply
	greeted     bool         // the client's first hello with its metadata has come
	in          bool         // its commands are served: it has authenticated where the listener asks for that
	closing     bool         // the connection ends with the reply under way
	stream      *helloStream // what the connection is for from now on; nil for commands

	*work      // nil while the connection waits for a message
	turn  turn // whose it is, where loops wait for it
	light bool // its last command was one that a loop is to serve
	alone int8 // how many light commands have had little company; see crowded

	busy   atomic.Bool
	shaken atomic.Bool                  // its TLS handshake is over
	faulty atomic.Bool                  // a goroutine of the command's has panicked
	inUse  atomic.Pointer[backend.Conn] // of the round trip under way
}

func newClientConn(s *Server, nc net.Conn, l *config.Listener) *clientConn {
	c := &clientConn{srv: s, wc: wire.NewConn(nc), caller: callerOf(nc), id: s.nextConn.Add(1), listener: l}
	c.log.c = c
	c.wc.Budget, c.wc.Wait, c.wc.Stall = s.opts.Budget, s.settings.Load().queueTimeout, stall
	if l.Auth == "" {
		access, _ := auth.ParseRole(l.Access)
		c.become(auth.Anonymous(l.Tenant, access, l.Isolation == "database"))
		c.in = true
	}
	c.recheck()
	return c
}

// become says who the client is for the connection's life.
func (c *clientConn) become(p *auth.Principal) {
	c.who.Store(p)
	c.principal, c.bound = p.Name(), nil
	if p.Tenant != "" {
		c.bound = &routing.Binding{Key: p.Tenant, Database: p.Database, Access: accessOf(p.Role)}
	}
}

// advertised is the address that hello names: the configured one, else where the client reached us.
func (c *clientConn) advertised() string {
	if c.listener.Advertise != "" {
		return c.listener.Advertise
	}
	if a := c.wc.LocalAddr(); a != nil && a.Network() == "tcp" {
		return a.String()
	}
	return c.listener.Address
}

// accessOf is how far a role reaches in its tenant's data; a user of all tenants who is bound to one
// may do there what the application does.
func accessOf(r auth.Role) routing.Access {
	switch r {
	case auth.Reader:
		return routing.Read
	case auth.Owner:
		return routing.DDL
	}
	return routing.Write
}

// stall is how long a client may stop in the middle of a message that takes from the memory of all.
const stall = 30 * time.Second

// errClose ends a connection without a word in the log.
var errClose = errors.New("close the connection")

// serve serves the connection on this goroutine, beginning with first, where there is work begun: one
// message after the other until the client goes or the framing is lost. Rested says that the connection
// goes on: nothing came for a while, a loop can go on with it, or a stream begins.
func (c *clientConn) serve(first func(*clientConn) error) (rested bool) {
	defer func() {
		if !rested {
			c.close()
		}
	}()
	defer c.recovered()
	if first != nil {
		c.mayWait = true
		if err := c.vacate(first(c)); err != nil {
			c.gone(err)
			return false
		}
		if c.srv.stopping() {
			return false
		}
		if c.stream != nil || c.light {
			return true
		}
	}
	if c.stream != nil {
		c.gone(c.play(c.stream))
		return false
	}
	c.light = false // what comes now is not
	c.wc.Mute()
	for c.stream == nil {
		err := c.wc.Each(c)
		if errors.Is(err, wire.ErrLull) {
			return true
		}
		if err == nil && c.stream == nil && !c.light && !c.srv.stopping() {
			err = c.next()
		}
		if err != nil {
			c.gone(err)
			return false
		}
		if c.srv.stopping() {
			return false
		}
		if c.light {
			return true
		}
	}
	return true
}

// Message serves a message that has come whole; see [wire.Conn.Each].
func (c *clientConn) Message(frame *wire.Buf) (more bool, err error) {
	c.occupy(frame, true)
	_, err = c.handle()
	err = c.vacate(err)
	return c.stream == nil && !c.light && !c.srv.stopping(), err
}

// next serves the message that has begun to come.
func (c *clientConn) next() error {
	c.occupy(nil, true)
	pulled, err := false, error(nil)
	if c.wc.Large(pullFloor) && c.mayPull() {
		pulled, err = c.pull()
	}
	if !pulled && err == nil {
		limit := wire.MaxMessage
		if !c.in {
			limit = maxStranger
		}
		if c.frame, err = c.wc.ReadMessage(limit); err == nil {
			_, err = c.handle()
		}
	}
	return c.vacate(err)
}

// occupy begins the work on a message; mayWait says that a goroutine does it.
func (c *clientConn) occupy(frame *wire.Buf, mayWait bool) {
	c.busy.Store(true)
	c.takeWork(mayWait)
	c.frame, c.light = frame, false
}

// vacate ends it; err is how it went.
func (c *clientConn) vacate(err error) error {
	if err == nil && c.mayWait && !c.light {
		err = c.wc.EndLull(c.start, c.lull())
	}
	if c.faulty.Load() {
		return errClose // and nobody else gets what it worked with
	}
	c.giveWork() // not deferred: after a panic a goroutine of the command's may still use it
	c.busy.Store(false)
	if err == nil && c.endsHere() {
		err = errClose
	}
	return err
}

// lull is how long a connection waits on the goroutine that served its last command. To go on with
// another one costs about as much as a command, so one that works keeps its own for longer than one
// that has only come: those come in crowds, and each is to leave its stack to the next.
func (c *clientConn) lull() time.Duration {
	if c.requestID < 16 {
		return 100 * time.Millisecond
	}
	return time.Second
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
	case errors.Is(err, wire.ErrTLS):
		c.handshakeUnwanted()
	case errors.As(err, &frame):
		c.srv.metrics.malformed.Inc()
		c.log.Info().Err(err).Msg("connection closed: what came is no message")
	case errors.Is(err, wire.ErrBudget):
		c.log.Warn().Msg("connection closed: limits.message_memory had no room for its message in time")
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
		c.panicked(fault)
		c.abandon()
	}
}

// caught makes a panic of a goroutine that works for the command an error of its part; when the command
// is answered its connection is closed, as by recovered.
func (c *clientConn) caught(err **wire.Error) {
	if fault := recover(); fault != nil {
		c.panicked(fault)
		c.faulty.Store(true)
		*err = wire.Errorf(wire.InternalError, "serving the command has failed by a fault of the proxy, which its log tells; whether it was done is not known")
	}
}

func (c *clientConn) panicked(fault any) {
	c.srv.metrics.panics.Inc()
	c.log.Error().Interface("panic", fault).Bytes("stack", debug.Stack()).Msg("a command made tenantry panic; its connection is closed")
}

func (c *clientConn) close() {
	c.wc.Release()
	_ = c.wc.Close()
}

// abort ends the connection from another goroutine, and the round trip it may wait for.
func (c *clientConn) abort() {
	c.wc.Sever()
	c.interrupt()
}

func (c *clientConn) interrupt() {
	if b := c.inUse.Load(); b != nil {
		b.Interrupt()
	}
}

// fate is what has become of a command.
type fate int

const (
	answered fate = iota // its reply is there, or none is wanted
	again                // a new decision is needed: the table has changed
	waits                // it can't go on without a wait
	ready                // it is to be sent, by launch
)

// handle serves the frame. Where it may wait, the fate is that the command has been answered.
func (c *clientConn) handle() (fate, error) {
	c.compressor = wire.Noop
	if wire.ReadHeader(c.frame.B).OpCode == wire.OpCompressed {
		plain, by, err := wire.Decompress(c.frame, wire.MaxMessage)
		if err != nil {
			return answered, err
		}
		c.frame.Free()
		c.frame, c.compressor = plain, by
	}
	return c.dispatch()
}

// dispatch serves a frame that is not compressed. One that can't go on without a wait can be served anew
// from here.
func (c *clientConn) dispatch() (fate, error) {
	switch wire.ReadHeader(c.frame.B).OpCode {
	case wire.OpMsg:
		return c.command()
	case wire.OpQuery:
		if !c.mayWait {
			return waits, nil
		}
		return answered, c.legacy()
	}
	return answered, wire.FrameError("unknown op code")
}

// command serves one OP_MSG.
func (c *clientConn) command() (fate, error) {
	if err := c.msg.Parse(c.frame.B); err != nil {
		return answered, err
	}
	if !c.mayWait && c.msg.Flags&wire.MoreToCome != 0 {
		return waits, nil
	}
	c.begin()
	var reply *wire.Buf
	if err := c.req.Parse(&c.msg); err != nil {
		reply = c.refuse(err)
	} else {
		var handled bool
		if reply, handled = c.admit(); !handled {
			var f fate
			if reply, f = c.run(); f != answered {
				return f, nil
			}
		}
		if reply == nil {
			return answered, nil // a stream of replies follows
		}
	}
	return answered, c.conclude(reply)
}

// begin begins to serve the command that has been parsed.
func (c *clientConn) begin() {
	if c.outcome = (outcome{}); c.mayWait {
		c.start = time.Now()
	}
	c.times.reset()
	c.snapshot, c.viewed, c.unseen = snapshot{}, viewed{}, false
	c.silent = c.msg.Flags&wire.MoreToCome != 0
	c.frame.B[wire.FlagsAt] &^= byte(wire.MoreToCome) // servers are always asked for an answer
}

// conclude counts the command, and answers it where it is to be answered.
func (c *clientConn) conclude(reply *wire.Buf) error {
	c.observe()
	if c.silent {
		reply.Free()
	} else if err := c.write(reply); err != nil {
		return err
	}
	if c.closing {
		return errClose
	}
	return nil
}

// run decides and acts, and lets go of what the command has entered unless it is to be sent.
func (c *clientConn) run() (*wire.Buf, fate) {
	reply, f := c.settle()
	if f != ready {
		c.letGo()
	}
	return reply, f
}

// settle decides and acts, again where the table changed meanwhile.
func (c *clientConn) settle() (*wire.Buf, fate) {
	if err := c.noteSession(); err != nil {
		return c.refuse(err), answered
	}
	c.req.Unlisted, c.req.Looked = nil, c.seen()
	for range 64 {
		t := c.srv.opts.Router.Current()
		if t == nil && !c.mayWait {
			return nil, waits
		}
		if t == nil {
			if c.req.Cmd != nil && c.req.Cmd.Access == routing.None && c.req.Cmd.Route == routing.Local {
				return c.answer(nil, &routing.Decision{}), answered
			}
			if err := c.awaitRoutes(); err != nil {
				return c.refuse(err), answered
			}
			continue
		}
		d := &c.decision
		*d = t.Route(&c.req)
		if !c.mayWait && !c.isLight(t, d) {
			return nil, waits
		}
		switch d.Action {
		case routing.Hold:
			if err := c.hold(d); err != nil {
				return c.refused(err), answered
			}
			continue
		case routing.Expand:
			if err := c.expand(d.Expanded); err != nil {
				return c.refused(err), answered
			}
			continue
		}
		if err := c.blind(d); err != nil {
			return c.refused(err), answered
		}
		switch reply, f := c.act(t, d); f {
		case again:
		case answered:
			return c.told(t, reply), answered
		default:
			return nil, f
		}
	}
	return c.refused(c.label(wire.Errorf(wire.HostUnreachable, "the tenant's route did not come to rest"), true)), answered
}

// isLight reports whether a loop can serve what was decided: it is sent to one server, its reply answers it,
// and nothing else has to be waited for. What has an operation of its own beside it is not light: a
// definition, after which views are read again; a cluster's time, which may have to be asked for.
func (c *clientConn) isLight(t *routing.Table, d *routing.Decision) bool {
	if d.Action != routing.Forward || c.req.InTxn() || c.req.Watches() || t.Redefines(&c.req) {
		return false
	}
	_, concerned := c.req.Field("readConcern")
	return !concerned
}

// told makes the reply to what was sent what the client has asked for.
func (c *clientConn) told(t *routing.Table, reply *wire.Buf) *wire.Buf {
	c.redefined(t)
	return c.shaped(reply)
}

// awaitRoutes waits for the first table. A process that has just begun reads the routes beside its first
// commands: clients that wait for the address to be there again come sooner, and have one more try at most.
func (c *clientConn) awaitRoutes() *wire.Error {
	late := time.NewTimer(c.srv.settings.Load().queueTimeout)
	defer late.Stop()
	select {
	case <-c.srv.opts.Router.Begun():
		return c.stillMay()
	case <-late.C:
	case <-c.srv.stopped:
	}
	return c.label(wire.Errorf(wire.HostUnreachable, "the routes have not been read yet; the home cluster is not reachable"), true)
}

// write sends the reply as the client asked for it.
func (c *clientConn) write(reply *wire.Buf) error {
	defer func() { reply.Free() }()
	if c.passing.begun {
		return c.end(reply)
	}
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
	if !c.mayWait {
		c.unwritten, reply = reply, nil
		return errUnwritten
	}
	_, err := c.wc.Write(reply.B)
	return err
}

// errUnwritten says that the reply is to be written by the turn.
var errUnwritten = errors.New("the reply is to be written")

// refuse is the reply that says no.
func (c *clientConn) refuse(e *wire.Error) *wire.Buf {
	e = c.req.Refusal(e)
	c.outcome.code = e.Code
	c.auditRefusal(e)
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
	case c.req.Cmd != nil && c.req.Cmd.Name == "getMore":
		labels = append(labels, wire.LabelResumable) // heard by change streams only
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
