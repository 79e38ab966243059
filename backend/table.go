package backend

import (
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/tag"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
)

// server is one server as the newest news have it.
type server struct {
	addr      string
	kind      description.ServerKind // 0: unknown
	pool      *pool
	rtt       time.Duration
	tags      tag.Set
	lastWrite time.Time
	updated   time.Time
	desc      *description.Server
}

// readable reports whether the server answers reads.
func (s *server) readable() bool {
	switch s.kind {
	case description.ServerKindRSPrimary, description.ServerKindRSSecondary,
		description.ServerKindMongos, description.ServerKindStandalone:
		return true
	}
	return false
}

// table is what is known of a cluster's servers at one time. It never changes; the next one
// replaces it and closes changed.
type table struct {
	kind     description.TopologyKind
	servers  []*server // all that the topology names
	writable []*server // where writes go: the primary, or the mongos within the latency window
	window   time.Duration
	beat     time.Duration
	compat   error  // no server may be used: one is too old or too new for the driver
	set      string // the replica set's name; "" for none, or none known yet
	changed  chan struct{}
}

func newTable(d description.Topology, tgt *target, pools map[string]*pool) *table {
	t := &table{
		kind: d.Kind, compat: d.CompatibilityErr, changed: make(chan struct{}),
		window: tgt.latencyWindow, beat: tgt.heartbeat, set: d.SetName,
	}
	for i := range d.Servers {
		s := &d.Servers[i]
		addr := s.Addr.String()
		if pools[addr] == nil {
			continue // retired meanwhile
		}
		t.servers = append(t.servers, &server{
			addr: addr, kind: s.Kind, pool: pools[addr], rtt: s.AverageRTT, tags: s.Tags,
			lastWrite: s.LastWriteTime, updated: s.LastUpdateTime, desc: s,
		})
	}
	t.writable = t.takers()
	return t
}

// takers lists where writes go. A direct connection goes to its server whatever that is.
func (t *table) takers() []*server {
	if t.compat != nil {
		return nil
	}
	var w []*server
	for _, s := range t.servers {
		switch s.kind {
		case description.ServerKindRSPrimary, description.ServerKindStandalone, description.ServerKindMongos:
			w = append(w, s)
		case description.ServerKindRSSecondary:
			if t.kind == description.TopologyKindSingle {
				w = append(w, s)
			}
		}
	}
	return t.near(w)
}

// near keeps the servers whose round trip time is within the window of the fastest one's.
func (t *table) near(list []*server) []*server {
	if len(list) < 2 {
		return list
	}
	best := list[0].rtt
	for _, s := range list {
		best = min(best, s.rtt)
	}
	return slices.DeleteFunc(list, func(s *server) bool { return s.rtt > best+t.window })
}

// ready reports whether a server that takes writes is known.
func (t *table) ready() bool {
	return len(t.writable) > 0 && t.writable[0].kind != description.ServerKindRSSecondary
}

func (t *table) find(addr string) *server {
	for _, s := range t.servers {
		if s.addr == addr {
			return s
		}
	}
	return nil
}

// lastError is what the monitors last said of a server that is not known.
func (t *table) lastError() error {
	if t.compat != nil {
		return t.compat
	}
	for _, s := range t.servers {
		if s.desc.LastError != nil {
			return s.desc.LastError
		}
	}
	if len(t.servers) == 0 && t.set != "" { // the driver forgets servers of other sets
		return fmt.Errorf("no server that was asked says that it is of the replica set %q; look at replicaSet in the cluster's uri", t.set)
	}
	return nil
}

// Facts is what a cluster's servers say of themselves in hello: of those known at the newest news
// the strictest.
type Facts struct {
	Known          bool
	MinWire        int32 // largest minimum
	MaxWire        int32 // smallest maximum
	Sessions       bool  // all announce sessions, whatever kind they are
	SessionMinutes int32
	MaxDocument    int32
	MaxMessage     int32
	MaxBatch       int32
	ReplicaSet     bool
	Mongos         bool
	Standalone     bool
}

// Facts returns the last known facts; they outlive the servers' being reachable.
func (c *Cluster) Facts() Facts {
	if f := c.facts.Load(); f != nil {
		return *f
	}
	return Facts{}
}

// facts combines what the known servers say; false if none is known.
func (t *table) facts() (Facts, bool) {
	var f Facts
	for _, s := range t.servers {
		if !s.readable() {
			continue
		}
		if !f.Known {
			f = Facts{Known: true, Sessions: true}
		}
		f.add(s)
	}
	return f, f.Known
}

func (f *Facts) add(s *server) {
	d := s.desc
	if w := d.WireVersion; w != nil {
		f.MinWire, f.MaxWire = max(f.MinWire, w.Min), least(f.MaxWire, w.Max)
	}
	f.MaxDocument = least(f.MaxDocument, int32(d.MaxDocumentSize))
	f.MaxMessage = least(f.MaxMessage, int32(d.MaxMessageSize))
	f.MaxBatch = least(f.MaxBatch, int32(d.MaxBatchCount))
	if m := d.SessionTimeoutMinutes; m != nil && f.Sessions {
		f.SessionMinutes = least(f.SessionMinutes, int32(*m))
	} else {
		f.Sessions, f.SessionMinutes = false, 0
	}
	f.Mongos = f.Mongos || s.kind == description.ServerKindMongos
	f.Standalone = f.Standalone || s.kind == description.ServerKindStandalone
	f.ReplicaSet = f.ReplicaSet || s.kind&description.ServerKindRSMember != 0
}

// least is the smaller of two limits, of which 0 is none.
func least(a, b int32) int32 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
