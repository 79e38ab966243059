package wiretest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// set is what the members of a replica set share: who is primary, the time, sessions and data. A
// lone server has one of its own. Its mutex is taken before a server's, never after.
type set struct {
	mu          sync.Mutex // guards the following fields
	members     []*Server
	primary     *Server
	term        uint32
	time        bson.Timestamp
	key         []byte
	keyID       int64
	sessions    map[string]*session
	collections map[string]*collection
}

func newSet() *set {
	s := &set{key: make([]byte, 20), sessions: map[string]*session{}, collections: map[string]*collection{}}
	rand.Read(s.key)
	s.keyID = int64(binary.LittleEndian.Uint64(s.key) >> 1)
	s.time = bson.Timestamp{T: uint32(time.Now().Unix()), I: 1}
	return s
}

func (x *set) join(s *Server) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.members = append(x.members, s)
}

// elected makes the server primary; its electionId grows with the term, as that of servers does.
func (x *set) elected(s *Server) (id bson.ObjectID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.primary = s
	x.term++
	binary.BigEndian.PutUint32(id[:], 0x7fffffff)
	binary.BigEndian.PutUint32(id[8:], x.term)
	return id
}

func (x *set) deposed(s *Server) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.primary == s {
		x.primary = nil
	}
}

// push makes each member tell the set's new state.
func (x *set) push() {
	x.mu.Lock()
	members := append([]*Server(nil), x.members...)
	x.mu.Unlock()
	for _, m := range members {
		m.push()
	}
}

// names are the set's as a member tells them.
func (x *set) names(s *Server, addr string) (name string, hosts []string, primary string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	name, hosts = s.opt.setName, s.opt.hosts
	if name == "" {
		name = "rs"
	}
	if len(hosts) == 0 {
		for _, m := range x.members {
			hosts = append(hosts, m.Addr())
		}
	}
	if x.primary != nil {
		primary = x.primary.Addr()
	}
	return name, hosts, primary
}

// Set is a replica set of servers that know each other and share one store and its sessions. The
// first is primary. Secondaries see each write at once.
type Set struct {
	Servers []*Server
	name    string
}

// NewSet starts n members with the options.
func NewSet(t testing.TB, name string, n int, opts ...Option) *Set {
	t.Helper()
	shared, rs := newSet(), &Set{name: name}
	for i := range n {
		role := Secondary
		if i == 0 {
			role = Primary
		}
		own := append([]Option{As(role), Member(name)}, opts...)
		rs.Servers = append(rs.Servers, newServer(t, shared, own...))
	}
	return rs
}

// URI is a connection string that names all members.
func (s *Set) URI() string {
	var hosts []string
	for _, m := range s.Servers {
		hosts = append(hosts, m.Addr())
	}
	return fmt.Sprintf("mongodb://%s/?replicaSet=%s", strings.Join(hosts, ","), s.name)
}

// Dialer reaches the members by their addresses.
func (s *Set) Dialer() Dialer { return Dialer(s.Servers) }

// Primary is the member that is primary now, nil if none is.
func (s *Set) Primary() *Server {
	for _, m := range s.Servers {
		if m.Role() == Primary {
			return m
		}
	}
	return nil
}

// Elect makes the i-th member primary, after the old one has stepped down.
func (s *Set) Elect(i int) {
	if old := s.Primary(); old != nil {
		old.StepDown()
	}
	s.Servers[i].SetRole(Primary)
}

// tick is the time of one more operation.
func (x *set) tick() bson.Timestamp {
	x.time.I++
	return x.time
}

// sign is the proof of a cluster time that only this set can make.
func (x *set) sign(t bson.Timestamp) []byte {
	h := hmac.New(sha1.New, x.key)
	binary.Write(h, binary.LittleEndian, []uint32{t.T, t.I})
	return h.Sum(nil)
}

// gossip adds the times that replica sets and mongos send with each reply.
func (s *Server) gossip(d wire.Doc) wire.Doc {
	if !s.opt.enforce || s.Role() == Standalone {
		return d
	}
	x := s.set
	x.mu.Lock()
	defer x.mu.Unlock()
	v := Decode(d)
	if _, has := field(v, "$clusterTime"); has {
		return d
	}
	return D(append(v, bson.E{Key: "$clusterTime", Value: bson.D{
		{Key: "clusterTime", Value: x.time},
		{Key: "signature", Value: bson.D{
			{Key: "hash", Value: bson.Binary{Data: x.sign(x.time)}},
			{Key: "keyId", Value: x.keyID},
		}},
	}}, bson.E{Key: "operationTime", Value: x.time}))
}
