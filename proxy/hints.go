package proxy

import (
	"strings"
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

func (h *hints) at(c *routing.Collection, coll string, id wire.Value) (*hintShard, string) {
	var b strings.Builder
	for _, part := range []string{c.Database(), ".", coll, "\x00"} {
		b.WriteString(part)
	}
	b.WriteByte(byte(id.Type))
	b.Write(id.Data)
	key := b.String()
	sum := uint32(2166136261)
	for i := range len(key) {
		sum = (sum ^ uint32(key[i])) * 16777619
	}
	return &h.shards[sum%uint32(len(h.shards))], key
}

// get is the tenant field's value of the document; zero where nothing is remembered.
func (h *hints) get(c *routing.Collection, coll string, id wire.Value) (tenant wire.Value) {
	s, key := h.at(c, coll, id)
	s.mu.Lock()
	seen, ok := s.m[key]
	s.mu.Unlock()
	if ok {
		tenant = wire.Value{Type: bsoncore.Type(seen[0]), Data: []byte(seen[1:])}
	}
	return tenant
}

func (h *hints) put(c *routing.Collection, coll string, id, tenant wire.Value) {
	s, key := h.at(c, coll, id)
	value := string(byte(tenant.Type)) + string(tenant.Data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.m[key]; !known && len(s.m) >= maxHints {
		for old := range s.m {
			delete(s.m, old)
			break
		}
	}
	s.m[key] = value
}
