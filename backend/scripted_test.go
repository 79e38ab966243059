package backend

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// scripted is a lone server for what wiretest's has not: TLS, log-in, a hello that freezes, replies
// that allocate nothing.
type scripted struct {
	t    testing.TB
	addr string
	wg   sync.WaitGroup

	mu       sync.Mutex // guards the following
	tls      *tls.Config
	ln       net.Listener
	conns    map[net.Conn]bool
	role     bson.D                    // what hello says beyond what all roles say
	answer   func(cmd bson.Raw) bson.D // nil: ok
	auth     func() authStep
	accepted int
	frozen   chan struct{} // hello is not answered until it is closed

	canned atomic.Bool // answer everything but hello without allocating
}

// authStep takes a client's SASL payload; ok ends the conversation.
type authStep func(payload string) (reply string, done bool, err error)

func newScripted(t testing.TB, role bson.D) *scripted {
	s := &scripted{
		t: t, role: role, conns: map[net.Conn]bool{},
	}
	s.start("127.0.0.1:0")
	t.Cleanup(s.kill)
	return s
}

func (s *scripted) start(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[nc] = true
			s.accepted++
			s.mu.Unlock()
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				s.serve(nc)
			}()
		}
	}()
}

// kill closes the listener and all connections.
func (s *scripted) kill() {
	s.mu.Lock()
	s.ln.Close()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *scripted) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *scripted) serve(nc net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, nc)
		s.mu.Unlock()
		nc.Close()
	}()
	s.mu.Lock()
	secured := s.tls
	s.mu.Unlock()
	if secured != nil {
		nc = tls.Server(nc, secured)
	}
	c := wire.NewConn(nc)
	defer c.Release()
	session := &scriptedSession{scripted: s, conn: c}
	session.frame = wire.AppendMessage(nil, 1, 0, 0, marshal(d("ok", 1, "text", strings.Repeat("x", 300))))
	for {
		b, err := c.ReadMessage(wire.MaxMessage)
		if err != nil {
			return
		}
		ok := session.handle(b)
		if !ok {
			return
		}
	}
}

type scriptedSession struct {
	*scripted
	conn *wire.Conn
	step authStep

	frame []byte // the canned reply
}

func (s *scriptedSession) handle(b *wire.Buf) bool {
	defer b.Free()
	h := wire.ReadHeader(b.B)
	if s.canned.Load() && h.OpCode == wire.OpMsg && string(b.B[26:31]) != "hello" {
		wire.SetIDs(s.frame, 1, h.RequestID)
		_, err := s.conn.Conn.Write(s.frame)
		return err == nil
	}
	if h.OpCode == wire.OpQuery {
		q, err := wire.ParseQuery(b.B)
		if err != nil {
			s.t.Error(err)
			return false
		}
		s.thaw()
		reply := marshal(s.hello(bson.Raw(q.Body)))
		_, err = s.conn.Write(wire.AppendReply(nil, 1, h.RequestID, reply, wire.AwaitCapable))
		return err == nil
	}
	var m wire.Message
	if err := m.Parse(b.B); err != nil {
		s.t.Error(err)
		return false
	}
	return s.message(&m)
}

func (s *scriptedSession) message(m *wire.Message) bool {
	cmd := bson.Raw(m.Body)
	elems, _ := cmd.Elements()
	name := elems[0].Key()
	if wire.IsHello(name) {
		s.thaw()
		return s.reply(m.RequestID, 0, s.hello(cmd))
	}
	var reply bson.D
	switch name {
	case "saslStart", "saslContinue":
		reply = s.sasl(cmd)
	default:
		s.mu.Lock()
		f := s.answer
		s.mu.Unlock()
		reply = d("ok", 1)
		if f != nil {
			reply = f(cmd)
		}
	}
	if reply == nil {
		return false
	}
	if m.Flags&wire.MoreToCome != 0 {
		return true
	}
	return s.reply(m.RequestID, 0, reply)
}

func (s *scripted) thaw() {
	s.mu.Lock()
	frozen := s.frozen
	s.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

func (s *scriptedSession) reply(to int32, flags wire.Flag, d bson.D) bool {
	out := wire.NewMessage(1000+to, to, flags, marshal(d))
	defer out.Free()
	_, err := s.conn.Write(out.B)
	return err == nil
}

func (s *scriptedSession) hello(cmd bson.Raw) bson.D {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc := d(
		"helloOk", true, "maxBsonObjectSize", int32(16<<20), "maxMessageSizeBytes", int32(48_000_000),
		"maxWriteBatchSize", int32(100000), "localTime", time.Now(), "logicalSessionTimeoutMinutes", int32(30),
		"minWireVersion", int32(0), "maxWireVersion", int32(25), "readOnly", false, "connectionId", int32(7),
	)
	doc = append(doc, s.role...)
	if _, err := cmd.LookupErr("saslSupportedMechs"); err == nil {
		doc = append(doc, bson.E{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-256"}})
	}
	if spec, ok := cmd.Lookup("speculativeAuthenticate").DocumentOK(); ok && s.auth != nil {
		if reply := s.saslLocked(spec); reply[0].Key == "conversationId" {
			doc = append(doc, bson.E{Key: "speculativeAuthenticate", Value: reply})
		}
	}
	return append(doc, bson.E{Key: "ok", Value: 1})
}

func (s *scriptedSession) sasl(cmd bson.Raw) bson.D {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saslLocked(cmd)
}

func (s *scriptedSession) saslLocked(cmd bson.Raw) bson.D {
	if _, err := cmd.LookupErr("saslStart"); err == nil {
		s.step = s.auth()
	}
	_, payload := cmd.Lookup("payload").Binary()
	out, done, err := s.step(string(payload))
	if err != nil {
		return d("ok", 0, "errmsg", "Authentication failed.", "code", int32(18), "codeName", "AuthenticationFailed")
	}
	return d("conversationId", int32(1), "done", done, "payload", []byte(out), "ok", 1)
}

func marshal(d bson.D) wire.Doc {
	b, err := bson.Marshal(d)
	if err != nil {
		panic(err)
	}
	return b
}

// Roles.
func standalone() bson.D { return d("isWritablePrimary", true) }

func mongos() bson.D { return d("isWritablePrimary", true, "msg", "isdbgrid") }

// open applies one cluster with the name c.
func open(t testing.TB, uri string, l Limits) (*Clusters, *Cluster) {
	t.Helper()
	cs := New(Options{AppName: "test"})
	t.Cleanup(cs.Close)
	if err := cs.Apply([]Spec{{Name: "c", URI: uri}}, l); err != nil {
		t.Fatal(err)
	}
	return cs, cs.Get("c")
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func acquire(t testing.TB, c *Cluster, sel Select, tenant uint32) *Conn {
	t.Helper()
	conn, err := c.Acquire(within(t, 5*time.Second), sel, tenant)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

var write = Select{Write: true}

func ping() *wire.Buf {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendInt32Element(d, "ping", 1)
	d = bsoncore.AppendStringElement(d, "$db", "admin")
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return wire.NewMessage(99, 0, 0, d)
}

func roundTrip(t testing.TB, conn *Conn) bson.Raw {
	t.Helper()
	req := ping()
	defer req.Free()
	reply, err := conn.RoundTrip(req, true)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Free()
	var m wire.Message
	if err := m.Parse(reply.B); err != nil {
		t.Fatal(err)
	}
	return append(bson.Raw(nil), m.Body...)
}

// eventually waits until the function is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("not in time: " + what)
}

// d makes a document of keys and values.
func d(pairs ...any) bson.D {
	doc := bson.D{}
	for i := 0; i < len(pairs); i += 2 {
		doc = append(doc, bson.E{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return doc
}
