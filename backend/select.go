package backend

import (
	"fmt"
	"math/rand/v2"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"
)

// Select says which server a command wants.
type Select struct {
	Write   bool      // the primary, or any server that takes writes
	Address string    // this server and no other: a cursor or a transaction is pinned to it
	Pref    *ReadPref // for reads; nil: the primary
}

// String is for error texts.
func (s Select) String() string {
	switch {
	case s.Address != "":
		return "the pinned server"
	case s.Write:
		return "writes"
	case s.Pref != nil:
		return fmt.Sprintf("reads with preference %s", s.Pref.Mode)
	}
	return "reads from the primary"
}

// pick chooses among the servers known now; nil if none is eligible. It allocates nothing.
func (t *table) pick(sel Select) *server {
	switch {
	case t.compat != nil:
		return nil
	case sel.Address != "":
		if s := t.find(sel.Address); s != nil && s.readable() {
			return s
		}
		return nil
	case sel.Write || sel.Pref == nil || !t.isReplicaSet():
		return quieter(t.writable)
	}
	var room [64]*server
	return quieter(t.near(t.eligible(sel.Pref, room[:0])))
}

// isReplicaSet reports whether read preferences choose among members. A mongos gets them with the
// command; of standalones and direct connections there is one.
func (t *table) isReplicaSet() bool {
	return t.kind == description.TopologyKindReplicaSetWithPrimary ||
		t.kind == description.TopologyKindReplicaSetNoPrimary
}

// quieter takes two servers at random and returns the one with fewer connections in use.
func quieter(list []*server) *server {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	i := rand.IntN(len(list))
	j := rand.IntN(len(list) - 1)
	if j >= i {
		j++
	}
	if list[j].pool.inUse.Load() < list[i].pool.inUse.Load() {
		return list[j]
	}
	return list[i]
}

// eligible appends the members that a read preference allows.
func (t *table) eligible(p *ReadPref, room []*server) []*server {
	switch p.Mode {
	case Secondary:
		return t.tagged(p, false, room)
	case PrimaryPreferred:
		if len(t.writable) > 0 {
			return append(room, t.writable...)
		}
		return t.tagged(p, false, room)
	case SecondaryPreferred:
		if found := t.tagged(p, false, room); len(found) > 0 {
			return found
		}
		return append(room, t.writable...)
	case Nearest:
		return t.tagged(p, true, room)
	}
	return append(room, t.writable...)
}

// tagged appends the members that the first tag set with any match allows and that are fresh.
func (t *table) tagged(p *ReadPref, primaryToo bool, room []*server) []*server {
	if len(p.Tags) == 0 {
		return t.matching(p, nil, primaryToo, room)
	}
	for _, set := range p.Tags {
		if found := t.matching(p, set, primaryToo, room); len(found) > 0 {
			return found
		}
	}
	return room
}

func (t *table) matching(p *ReadPref, tags []Tag, primaryToo bool, room []*server) []*server {
	for _, s := range t.servers {
		isPrimary := s.kind == description.ServerKindRSPrimary
		if !isPrimary && s.kind != description.ServerKindRSSecondary || isPrimary && !primaryToo {
			continue
		}
		if len(room) < cap(room) && s.hasAll(tags) && (isPrimary || t.fresh(s, p.MaxStaleness)) {
			room = append(room, s)
		}
	}
	return room
}

func (s *server) hasAll(tags []Tag) bool {
	for _, want := range tags {
		if !s.tags.Contains(want.Name, want.Value) {
			return false
		}
	}
	return true
}

// fresh reports whether a secondary is at most so far behind, as the max staleness specification
// estimates it: against the primary, or without one against the freshest secondary.
func (t *table) fresh(s *server, limit time.Duration) bool {
	if limit <= 0 {
		return true
	}
	var behind time.Duration
	if p := t.primary(); p != nil {
		behind = s.updated.Sub(s.lastWrite) - p.updated.Sub(p.lastWrite)
	} else {
		behind = t.freshest().Sub(s.lastWrite)
	}
	return behind+t.beat <= limit
}

func (t *table) primary() *server {
	for _, s := range t.servers {
		if s.kind == description.ServerKindRSPrimary {
			return s
		}
	}
	return nil
}

func (t *table) freshest() time.Time {
	var newest time.Time
	for _, s := range t.servers {
		if s.kind == description.ServerKindRSSecondary && s.lastWrite.After(newest) {
			newest = s.lastWrite
		}
	}
	return newest
}

// impossible says that waiting would not help: the pinned server is no longer a member, or the
// read preference cannot be met with this heartbeat.
func (t *table) impossible(sel Select) error {
	if sel.Address != "" && t.known() && t.find(sel.Address) == nil {
		return fmt.Errorf("%w: the pinned server is no longer a member", ErrNoServer)
	}
	if p := sel.Pref; p != nil && p.MaxStaleness > 0 && t.isReplicaSet() && p.MaxStaleness < t.beat+idleWritePeriod {
		return fmt.Errorf("%w: max staleness must be at least %v with this heartbeat", ErrNoServer, t.beat+idleWritePeriod)
	}
	return nil
}

// idleWritePeriod is how often an idle primary writes a no-op.
const idleWritePeriod = 10 * time.Second

// known reports whether any server has answered.
func (t *table) known() bool {
	for _, s := range t.servers {
		if s.readable() {
			return true
		}
	}
	return false
}
