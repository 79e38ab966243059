package proxy

import (
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Servers tell what they sort a document by, and so a sorted pipeline over several homes needs no more than a
// merge of what they bring, however much that is. Not all that speak the protocol do, and none says so before it
// is asked: it is found out by the first pipeline, which is then run by its segments.

// keyless remembers the clusters whose servers tell no sort keys in pipelines, and those that do.
type keyless struct {
	mu sync.Mutex
	by map[string]keysTold // by cluster
}

type keysTold struct {
	told bool
	at   time.Time
}

// keylessFor is how long a cluster that told no keys is not asked again: servers may be replaced by newer ones.
const keylessFor = 10 * time.Minute

// ask reports whether a cluster is to be asked for sort keys; sure says that it has told some.
func (k *keyless) ask(cluster string) (ask, sure bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	x, known := k.by[cluster]
	return !known || x.told || time.Since(x.at) > keylessFor, known && x.told
}

func (k *keyless) note(cluster string, told bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[string]keysTold{}
	}
	k.by[cluster] = keysTold{told, time.Now()}
}

// sorted answers a pipeline by merging what its homes have sorted; nil without an error where their servers do
// not tell by what.
func (c *clientConn) sorted(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	certain := true
	for _, x := range d.Sorted.Targets {
		ask, sure := c.srv.keyless.ask(x.Cluster)
		if !ask {
			return nil, nil
		}
		certain = certain && sure
	}
	if tx != nil && !certain { // a transaction ends with the first command that a server refuses
		return nil, nil
	}
	seg := *d.Sorted
	seg.Stages = append(seg.Stages[:len(seg.Stages):len(seg.Stages)], build(func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "$addFields")
		d, _ = bsoncore.AppendDocumentEnd(appendSortKey(d), i)
		return d
	}))
	s := c.newShipping(t, d, &seg, tx)
	s.main = &seg
	streams, err := s.first(&seg, true)
	if err != nil {
		s.end()
		if certain || err.Reply == nil {
			return nil, err
		}
		if strings.Contains(err.Text, "$meta") || strings.Contains(err.Text, "sortKey") {
			for _, x := range seg.Targets {
				c.srv.keyless.note(x.Cluster, false)
			}
		}
		return nil, nil // what else is wrong with it is said of its segments
	}
	told := true
	for _, x := range streams {
		if len(x.docs) == 0 {
			continue
		}
		_, ok := x.docs[0].Lookup(sortKey)
		c.srv.keyless.note(x.target.Cluster, ok)
		told = told && ok
	}
	if !told {
		s.end()
		return nil, nil
	}
	s.cur.merged.streams, s.cur.merged.down = streams, directions(seg.Sort)
	return c.firstOfMerged(s.cur, c.cursorSize(), tx)
}
