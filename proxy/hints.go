package proxy

import (
	"sync"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// hints remember in which database a document was seen last, by collection and _id. They are only
// ever where to look first: a write that changes nothing there looks everywhere, and a hint whose
// database is no holder any more is none.
type hints struct {
	shards [16]hintShard
}

type hintShard struct {
	mu sync.Mutex // guards the following
	m  map[string]hint
}

type hint struct{ cluster, db string }

// maxHints bounds each shard; which one goes when it is full is left to the map's order.
const maxHints = 4096

func newHints() *hints {
	h := &hints{}
	for i := range h.shards {
		h.shards[i].m = map[string]hint{}
	}
	return h
}

func (h *hints) at(c *routing.Collection, coll string, id wire.Value) (*hintShard, string) {
	key := c.Database() + "." + coll + "\x00" + string(byte(id.Type)) + string(id.Data)
	sum := uint32(2166136261)
	for i := range len(key) {
		sum = (sum ^ uint32(key[i])) * 16777619
	}
	return &h.shards[sum%uint32(len(h.shards))], key
}

func (h *hints) get(c *routing.Collection, coll string, id wire.Value, holders []*routing.Target) *routing.Target {
	s, key := h.at(c, coll, id)
	s.mu.Lock()
	seen, ok := s.m[key]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	for _, x := range holders {
		if x.Cluster == seen.cluster && x.DB == seen.db {
			return x
		}
	}
	return nil
}

func (h *hints) put(c *routing.Collection, coll string, id wire.Value, x *routing.Target) {
	s, key := h.at(c, coll, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m) >= maxHints {
		for old := range s.m {
			delete(s.m, old)
			break
		}
	}
	s.m[key] = hint{x.Cluster, x.DB}
}
