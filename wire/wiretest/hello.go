package wiretest

import (
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// helloState is what hello tells of a server that changes; guarded by the server's mutex.
type helloState struct {
	role     Role
	process  bson.ObjectID
	counter  int64
	election bson.ObjectID
	changed  chan struct{} // closed and made anew by each change
}

// SetRole changes the role and pushes it to all who await a hello. A server that becomes Primary
// has won an election: its electionId is higher than any before in its set.
func (s *Server) SetRole(r Role) {
	var election bson.ObjectID
	if r == Primary {
		election = s.set.elected(s)
	} else {
		s.set.deposed(s)
	}
	s.mu.Lock()
	old := s.hello.role
	s.hello.role, s.hello.election = r, election
	s.mu.Unlock()
	if old == Primary && r != Primary {
		s.set.abortAll()
	}
	s.set.push()
}

// StepDown makes a primary a secondary; nobody is primary then.
func (s *Server) StepDown() { s.SetRole(Secondary) }

// Role is the server's at the moment.
func (s *Server) Role() Role {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hello.role
}

// push lets all who await a hello see the server's state.
func (s *Server) push() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hello.counter++
	close(s.hello.changed)
	s.hello.changed = make(chan struct{})
}

// hello answers a hello; one that awaits a change is held back, one that allows exhaust is answered
// again and again, each answer responding to the one before.
func (c *serverConn) hello(cmd Command) bool {
	await, version := cmd.Value("maxAwaitTimeMS"), cmd.Value("topologyVersion")
	exhaust := cmd.Flags&wire.ExhaustAllowed != 0 && await != nil
	switch {
	case (await == nil) != (version == nil):
		return c.send(cmd, Fail(wire.AwaitNoVersion, "A request with a 'topologyVersion' must include 'maxAwaitTimeMS'"))
	case cmd.Flags&wire.ExhaustAllowed != 0 && await == nil:
		return c.send(cmd, Fail(wire.ExhaustNoAwait, "hello with exhaust must specify 'maxAwaitTimeMS'"))
	}
	seen, _ := version.(bson.D)
	ms, _ := cmd.Int("maxAwaitTimeMS")
	to := cmd.RequestID
	for {
		if await != nil && !c.awaitChange(seen, time.Duration(ms)*time.Millisecond) {
			return c.next != nil
		}
		doc, now := c.helloDoc(cmd)
		seen = now
		flags := wire.Flag(0)
		if exhaust {
			flags = wire.MoreToCome
		}
		id := requestIDs.Add(1)
		if !c.sendDoc(cmd, c.s.gossip(doc), id, to, flags) {
			return false
		}
		if !exhaust {
			return true
		}
		to = id
	}
}

// awaitChange waits until the server's topologyVersion is another than the one seen; false where
// the connection ended or something else was asked meanwhile.
func (c *serverConn) awaitChange(seen bson.D, atMost time.Duration) bool {
	late := time.NewTimer(atMost)
	defer late.Stop()
	for {
		c.s.mu.Lock()
		h := c.s.hello
		c.s.mu.Unlock()
		if Get(seen, "processId") != h.process || Get(seen, "counter") != h.counter {
			return true
		}
		select {
		case <-h.changed:
		case <-late.C:
			return true
		case c.next = <-c.frames:
			return false
		case <-c.gone:
			return false
		case <-c.stop:
			return false
		}
	}
}

func (h helloState) version() bson.D {
	return bson.D{{Key: "processId", Value: h.process}, {Key: "counter", Value: h.counter}}
}

// helloDoc is hello's answer now, and the topologyVersion in it.
func (c *serverConn) helloDoc(cmd Command) (wire.Doc, bson.D) {
	s := c.s
	s.mu.Lock()
	h, addr := s.hello, s.addr
	s.mu.Unlock()
	d := bson.D{}
	if cmd.Value("helloOk") == true {
		d = append(d, bson.E{Key: "helloOk", Value: true})
	}
	writable := "isWritablePrimary"
	if cmd.Name != "hello" {
		writable = "ismaster"
	}
	d = append(d, bson.E{Key: "topologyVersion", Value: h.version()},
		bson.E{Key: writable, Value: h.role != Secondary && h.role != RecoveringMember})
	switch h.role {
	case Mongos:
		d = append(d, bson.E{Key: "msg", Value: "isdbgrid"})
	case Primary, Secondary, RecoveringMember:
		d = append(d, s.memberFields(h, addr)...)
	}
	d = append(d, bson.D{
		{Key: "maxBsonObjectSize", Value: int32(wire.MaxDocument)},
		{Key: "maxMessageSizeBytes", Value: int32(wire.MaxMessage)},
		{Key: "maxWriteBatchSize", Value: int32(100_000)},
		{Key: "localTime", Value: time.Now()},
		{Key: "logicalSessionTimeoutMinutes", Value: int32(30)},
		{Key: "connectionId", Value: int32(c.number)},
		{Key: "minWireVersion", Value: int32(0)},
		{Key: "maxWireVersion", Value: s.opt.wireVersion},
		{Key: "readOnly", Value: false},
	}...)
	if names := c.negotiate(cmd); len(names) > 0 {
		d = append(d, bson.E{Key: "compression", Value: names})
	}
	if s.opt.serviceID != nil && cmd.Value("loadBalanced") == true {
		d = append(d, bson.E{Key: "serviceId", Value: *s.opt.serviceID})
	}
	d = slices.DeleteFunc(d, func(e bson.E) bool {
		_, replaced := field(s.opt.hello, e.Key)
		return replaced
	})
	d = append(d, s.opt.hello...)
	return D(append(d, bson.E{Key: "ok", Value: 1.0})), h.version()
}

// memberFields are those of a replica set's member.
func (s *Server) memberFields(h helloState, addr string) bson.D {
	name, hosts, primary := s.set.names(s, addr)
	now := time.Now()
	op := bson.D{{Key: "ts", Value: bson.Timestamp{T: uint32(now.Unix()), I: 1}}, {Key: "t", Value: int64(1)}}
	d := bson.D{
		{Key: "hosts", Value: hosts},
		{Key: "setName", Value: name},
		{Key: "setVersion", Value: int32(1)},
		{Key: "secondary", Value: h.role == Secondary},
		{Key: "me", Value: addr},
		{Key: "lastWrite", Value: bson.D{
			{Key: "opTime", Value: op},
			{Key: "lastWriteDate", Value: now},
			{Key: "majorityOpTime", Value: op},
			{Key: "majorityWriteDate", Value: now},
		}},
	}
	if primary != "" {
		d = append(d, bson.E{Key: "primary", Value: primary})
	}
	if h.role == Primary {
		d = append(d, bson.E{Key: "electionId", Value: h.election})
	}
	return d
}

// negotiate notes the compressors that both sides have and returns their names.
func (c *serverConn) negotiate(cmd Command) []string {
	v, ok := cmd.Body.Lookup("compression")
	array, isArray := v.Array()
	if !ok || !isArray {
		return nil
	}
	c.agreed = wire.Pick(wire.CompressorNames(array), c.s.opt.compressors)
	var names []string
	for _, a := range c.agreed {
		names = append(names, a.String())
	}
	return names
}
