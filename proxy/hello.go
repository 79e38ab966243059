package proxy

import (
	"bytes"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// The proxy presents itself as a mongos, or as the primary of a set with one member, or (if the
// client's hello asks for it) as what stands behind a load balancer. See the SDAM, load balancer
// and handshake specifications of the drivers.

// offered are the compressors of the client's hop.
var offered = []wire.Compressor{wire.Snappy, wire.Zlib, wire.Zstd}

// legacy serves the OP_QUERY hello.
func (c *clientConn) legacy() error {
	c.start = time.Now()
	q, err := wire.ParseQuery(c.frame.B)
	if e, ok := err.(*wire.Error); ok {
		_, err = c.wc.Write(wire.AppendQueryFailure(nil, 0, q.RequestID, e))
		return err
	}
	if err != nil {
		return err
	}
	doc, werr := c.hello(c.srv.opts.Router.Current(), string(q.Name) != "hello", q.Body)
	c.requestID++
	if werr != nil {
		_, err = c.wc.Write(wire.AppendReply(nil, c.requestID, q.RequestID, werr.Doc(), 0))
		return err
	}
	_, err = c.wc.Write(wire.AppendReply(nil, c.requestID, q.RequestID, doc, 0))
	return err
}

// version is the counter of topologyVersion: it moves once, when the process begins to go.
func (s *Server) version() int64 {
	if s.isDraining() {
		return 1
	}
	return 0
}

// helloArgs are the fields of a hello that change its answer.
type helloArgs struct {
	maxAwait  int64
	awaits    bool
	versioned bool
	process   []byte
	counter   int64
	helloOK   bool
	balanced  bool
	mechs     bool
	login     wire.Doc // the log-in that begins with the hello
	compress  []string
}

func readHello(d wire.Doc) (a helloArgs, err *wire.Error) {
	for it := d.Iter(); it.Next(); {
		switch string(it.Key) {
		case "maxAwaitTimeMS":
			a.maxAwait, a.awaits = it.Value.Int()
		case "topologyVersion":
			v, ok := it.Value.Doc()
			if !ok {
				continue
			}
			p, _ := v.Lookup("processId")
			n, _ := v.Lookup("counter")
			a.process, a.versioned = p.Data, p.Type == bsoncore.TypeObjectID
			a.counter, _ = n.Int()
		case "helloOk":
			a.helloOK = it.Value.True()
		case "loadBalanced":
			a.balanced = it.Value.True()
		case "saslSupportedMechs":
			_, a.mechs = it.Value.Str()
		case "speculativeAuthenticate":
			a.login, _ = it.Value.Doc()
		case "compression":
			if arr, ok := it.Value.Array(); ok {
				a.compress = wire.CompressorNames(arr)
			}
		case "client":
			if len(it.Value.Data) > 512 {
				return a, wire.Errorf(wire.BadValue, "the client's metadata is longer than 512 bytes")
			}
		}
	}
	switch {
	case a.awaits && a.maxAwait < 0:
		return a, wire.Errorf(wire.AwaitNegative, "maxAwaitTimeMS may not be negative")
	case a.awaits != a.versioned:
		return a, wire.Errorf(wire.AwaitNoVersion, "topologyVersion and maxAwaitTimeMS go together")
	}
	return a, nil
}

// helloCommand serves a hello that came as OP_MSG, once or as a stream of replies.
func (c *clientConn) helloCommand(t *routing.Table) *wire.Buf {
	legacy := c.req.Cmd.Name != "hello"
	a, err := readHello(c.msg.Body)
	if err != nil {
		return c.refuse(err)
	}
	if c.msg.Flags&wire.ExhaustAllowed != 0 && a.awaits {
		c.stream = &helloStream{legacy, bytes.Clone(c.msg.Body), c.msg.RequestID}
		return nil
	}
	if a.awaits {
		c.await(&a)
	}
	doc, err := c.hello(t, legacy, c.msg.Body)
	if err != nil {
		return c.refuse(err)
	}
	return wire.NewMessage(0, 0, 0, doc)
}

// await waits until what hello says has changed since the client's version, or the time is over.
func (c *clientConn) await(a *helloArgs) {
	if string(a.process) != string(c.srv.process[:]) || a.counter < c.srv.version() {
		return
	}
	timer := time.NewTimer(time.Duration(min(a.maxAwait, 600_000)) * time.Millisecond)
	defer timer.Stop()
	// A client that waits for news keeps the process from ending only as long as news take.
	draining := c.srv.draining
	if c.srv.isDraining() {
		draining = nil
	}
	c.busy.Store(false)
	defer c.busy.Store(true)
	select {
	case <-timer.C:
	case <-draining:
	case <-c.srv.stopped:
	}
}

// helloStream is an exhaust hello, answered by replies that follow each other until the client goes.
type helloStream struct {
	legacy bool
	cmd    wire.Doc // a copy: the message's memory is not kept for as long as the client lives
	to     int32    // the message that the next reply answers: the hello, then the reply before
}

// leastAwait is how long a stream waits at least for news, in milliseconds: who asks for none between
// replies is not sent them as fast as they can be read.
const leastAwait = 100

// play writes the replies of a stream.
func (c *clientConn) play(x *helloStream) error {
	c.busy.Store(true)
	defer c.busy.Store(false)
	a, _ := readHello(x.cmd)
	a.maxAwait = max(a.maxAwait, leastAwait)
	for {
		c.await(&a)
		doc, werr := c.hello(c.srv.opts.Router.Current(), x.legacy, x.cmd)
		if werr != nil {
			return errClose
		}
		c.requestID++
		reply := wire.NewMessage(c.requestID, x.to, wire.MoreToCome, doc)
		_, err := c.wc.Write(reply.B)
		reply.Free()
		if err != nil {
			return err
		}
		if c.srv.stopping() {
			return errClose
		}
		x.to = c.requestID
		a.process, a.counter = c.srv.process[:], c.srv.version()
	}
}

// hello is the reply document.
func (c *clientConn) hello(t *routing.Table, legacy bool, cmd wire.Doc) (wire.Doc, *wire.Error) {
	a, err := readHello(cmd)
	if err != nil {
		return nil, err
	}
	c.greet(cmd)
	f := c.srv.facts(t)
	return build(func(d []byte) []byte {
		if a.helloOK {
			d = bsoncore.AppendBooleanElement(d, "helloOk", true)
		}
		if legacy {
			d = bsoncore.AppendBooleanElement(d, "ismaster", true)
		} else {
			d = bsoncore.AppendBooleanElement(d, "isWritablePrimary", true)
		}
		d = c.presentation(d)
		d = c.appendVersion(d)
		d = bsoncore.AppendInt32Element(d, "maxBsonObjectSize", f.MaxDocument)
		d = bsoncore.AppendInt32Element(d, "maxMessageSizeBytes", f.MaxMessage)
		d = bsoncore.AppendInt32Element(d, "maxWriteBatchSize", f.MaxBatch)
		d = bsoncore.AppendDateTimeElement(d, "localTime", time.Now().UnixMilli())
		if f.Sessions {
			d = bsoncore.AppendInt32Element(d, "logicalSessionTimeoutMinutes", f.SessionMinutes)
		}
		d = bsoncore.AppendInt32Element(d, "connectionId", c.id)
		d = bsoncore.AppendInt32Element(d, "minWireVersion", f.MinWire)
		d = bsoncore.AppendInt32Element(d, "maxWireVersion", f.MaxWire)
		d = bsoncore.AppendBooleanElement(d, "readOnly", false)
		if a.balanced && c.listener.LoadBalanced {
			d = bsoncore.AppendObjectIDElement(d, "serviceId", c.srv.process)
		}
		if picked := wire.Pick(a.compress, offered); len(picked) > 0 {
			i, e := bsoncore.AppendArrayElementStart(d, "compression")
			for n, p := range picked {
				e = bsoncore.AppendStringElement(e, itoa(n), p.String())
			}
			d, _ = bsoncore.AppendArrayEnd(e, i)
		}
		if offers := c.mechanisms(); a.mechs && len(offers) > 0 { // whoever is asked for
			d = appendStrings(d, "saslSupportedMechs", offers)
		}
		if a.login != nil && c.stream == nil {
			d = c.speculate(d, a.login)
		}
		return appendOK(d)
	}), nil
}

// greet notes the first hello's metadata for the log.
func (c *clientConn) greet(cmd wire.Doc) {
	if c.greeted {
		return
	}
	v, ok := cmd.Lookup("client")
	if !ok {
		return
	}
	c.greeted = true
	d, _ := v.Doc()
	app, _ := d.Lookup("application")
	if a, ok := app.Doc(); ok {
		name, _ := a.Lookup("name")
		if s, ok := name.Str(); ok && len(s) > 0 {
			c.application = string(s)
		}
	}
}

// presentation says what kind of server this seems to be.
func (c *clientConn) presentation(d []byte) []byte {
	if c.listener.Presentation != "replica-set" {
		return bsoncore.AppendStringElement(d, "msg", "isdbgrid")
	}
	me := c.advertised()
	d = bsoncore.AppendBooleanElement(d, "secondary", false)
	d = bsoncore.AppendStringElement(d, "setName", c.listener.ReplicaSet)
	d = bsoncore.AppendInt32Element(d, "setVersion", 1)
	i, d := bsoncore.AppendArrayElementStart(d, "hosts")
	d = bsoncore.AppendStringElement(d, "0", me)
	d, _ = bsoncore.AppendArrayEnd(d, i)
	d = bsoncore.AppendStringElement(d, "primary", me)
	d = bsoncore.AppendStringElement(d, "me", me)
	i, d = bsoncore.AppendDocumentElementStart(d, "lastWrite")
	d = bsoncore.AppendDateTimeElement(d, "lastWriteDate", time.Now().UnixMilli())
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

func (c *clientConn) appendVersion(d []byte) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, "topologyVersion")
	d = bsoncore.AppendObjectIDElement(d, "processId", c.srv.process)
	d = bsoncore.AppendInt64Element(d, "counter", c.srv.version())
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// facts is what all clusters in use allow: the strictest of each limit. While none is known the
// values are those of servers of today, so that clients can connect and be told what is wrong.
func (s *Server) facts(t *routing.Table) facts {
	f := facts{
		MinWire: 0, MaxWire: 21, Sessions: true, SessionMinutes: 30,
		MaxDocument: wire.MaxDocument, MaxMessage: wire.MaxMessage - 64<<10, MaxBatch: 100_000,
	}
	names := []string(nil)
	if t != nil {
		names = t.Clusters
	}
	known := false
	for _, name := range names {
		cl := s.opts.Clusters.Get(name)
		if cl == nil {
			continue
		}
		b := cl.Facts()
		if !b.Known {
			continue
		}
		if !known {
			known, f.MaxWire = true, b.MaxWire
		}
		f.MinWire, f.MaxWire = max(f.MinWire, b.MinWire), min(f.MaxWire, b.MaxWire)
		f.Sessions = f.Sessions && b.Sessions && !b.Standalone
		f.SessionMinutes = least(f.SessionMinutes, b.SessionMinutes)
		f.MaxDocument = least(f.MaxDocument, b.MaxDocument)
		f.MaxMessage = least(f.MaxMessage, b.MaxMessage-64<<10)
		f.MaxBatch = least(f.MaxBatch, b.MaxBatch)
	}
	return f
}

type facts struct {
	MinWire, MaxWire                  int32
	Sessions                          bool
	SessionMinutes                    int32
	MaxDocument, MaxMessage, MaxBatch int32
}

func least(a, b int32) int32 {
	if b <= 0 {
		return a
	}
	return min(a, b)
}
