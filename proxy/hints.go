package proxy

import (
	"sync"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// hints remember whose a document was when it was seen last, by collection and _id: the value of
// its tenant field, from which the current table tells its home. They are only ever where to look
// first: what a hint leads to asks for the tenant as well, and what is not found there is looked
// for everywhere.
type hints struct {
	shards [16]hintShard
}

type hintShard struct {
	mu sync.Mutex // guards the following
	m  map[string]string
}

// maxHints bounds each shard; which one goes when it is full is left to the map's order.
const maxHints = 4096

func newHints() *hints {
	h := &hints{}
	for i := range h.shards {
		h.shards[i].m = map[string]string{}
	}
	return h
}

func (h *hints) shard(key []byte) *hintShard {
	sum := uint32(2166136261)
	for _, b := range key {
		sum = (sum ^ uint32(b)) * 16777619
	}
	return &h.shards[sum%uint32(len(h.shards))]
}

// get is the tenant field's value of the document; zero where nothing is remembered.
func (h *hints) get(key []byte) (tenant wire.Value) {
	s := h.shard(key)
	s.mu.Lock()
	seen, ok := s.m[string(key)]
	s.mu.Unlock()
	if ok {
		tenant = wire.Value{Type: bsoncore.Type(seen[0]), Data: []byte(seen[1:])}
	}
	return tenant
}

// put remembers; what is known already costs no memory.
func (h *hints) put(key []byte, tenant wire.Value) {
	s := h.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, known := s.m[string(key)]
	if known && seen[0] == byte(tenant.Type) && seen[1:] == string(tenant.Data) {
		return
	}
	if !known && len(s.m) >= maxHints {
		for old := range s.m {
			delete(s.m, old)
			break
		}
	}
	s.m[string(key)] = string(byte(tenant.Type)) + string(tenant.Data)
}

// hint is the key of a document; it is good until the next one is made.
func (c *clientConn) hint(coll *routing.Collection, name []byte, id wire.Value) []byte {
	k := append(c.hintKey[:0], coll.Database()...)
	k = append(append(append(k, '.'), name...), 0, byte(id.Type))
	c.hintKey = append(k, id.Data...)
	return c.hintKey
}
