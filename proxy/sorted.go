package proxy

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Servers tell what they sort a document by, and so a sorted pipeline over several homes needs no more than a
// merge of what they bring, however much that is. Not all that speak the protocol do, and none says so before it
// is asked: one document of the proxy's own finds it out, before the first pipeline that it matters to.

// sortKeys remembers what each cluster's servers have told.
type sortKeys struct {
	mu sync.Mutex
	by map[keysOf]keyTold
}

// keysOf is where a cluster is asked for sort keys: in pipelines as such, or under a collation.
type keysOf struct {
	cluster string
	collate bool
}

// keyTold is the key of probeText; none where a cluster's servers tell no keys.
type keyTold struct {
	key string
	at  time.Time
}

// probeText is what servers are asked the sort key of. Collation keys are those of the server's own version of
// Unicode's order, whose weights move with the letters that each version adds: two clusters with the same keys for
// letters of many scripts sort by the same.
const probeText = "aZ9 ß€ÆñЯжأبक中字ก가"

// unaskable stands for the key where servers can not be asked: they know no $documents, as before 5.1.
const unaskable = "unaskable"

// keysFor is how long what a cluster told is believed: servers may be replaced by newer ones.
const keysFor = 10 * time.Minute

// told is the key of probeText, and whether it is known.
func (k *sortKeys) told(of keysOf) (key string, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	x, known := k.by[of]
	return x.key, known && time.Since(x.at) < keysFor
}

func (k *sortKeys) note(of keysOf, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[keysOf]keyTold{}
	}
	k.by[of] = keyTold{key, time.Now()}
}

// sorted answers a pipeline by merging what its homes have sorted; nil without an error where their servers do
// not tell by what.
func (c *clientConn) sorted(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	collate := t.Collated(&c.req)
	seg := *d.Sorted
	key := appendSortKey
	if seg.By != "" {
		key = func(d []byte) []byte { return appendFieldKey(d, seg.By) }
	} else if told, _ := c.tell(seg.Targets, collate); !told {
		return nil, nil // where a server is away the segments say so
	}
	seg.Stages = append(seg.Stages[:len(seg.Stages):len(seg.Stages)], keyStage(key))
	s := c.newShipping(t, d, &seg, tx)
	s.main = &seg
	streams, err := s.first(&seg, true)
	if seg.By == "" && (err != nil && keysRefused(err) || err == nil && keysMissing(streams)) {
		for _, x := range seg.Targets {
			c.srv.sortKeys.note(keysOf{x.Cluster, collate}, "")
		}
		if tx == nil { // a transaction ends with the first command that a server refuses
			s.end()
			return nil, nil
		}
	}
	if err != nil {
		s.end()
		return nil, err
	}
	s.cur.merged.streams, s.cur.merged.down = streams, directions(seg.Sort)
	return c.firstOfMerged(s.cur, c.cursorSize(), tx)
}

// keyStage lets a pipeline's documents carry their sort keys.
func keyStage(key func([]byte) []byte) wire.Doc {
	return build(func(d []byte) []byte { return appendSub(d, "$addFields", key) })
}

// appendFieldKey appends the sort key of documents that are sorted by a field.
func appendFieldKey(d []byte, path string) []byte {
	i, d := bsoncore.AppendArrayElementStart(d, sortKey)
	d = bsoncore.AppendStringElement(d, "0", "$"+path)
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}

// keysRefused reports whether a server has said that it knows no sort keys.
func keysRefused(err *wire.Error) bool {
	return strings.Contains(err.Text, "$meta") || strings.Contains(err.Text, "sortKey")
}

// keysMissing reports whether some stream begins with a document without its key.
func keysMissing(streams []*stream) bool {
	return slices.ContainsFunc(streams, func(x *stream) bool {
		if len(x.docs) == 0 {
			return false
		}
		_, ok := x.docs[0].Lookup(sortKey)
		return !ok
	})
}

// asPipeline puts the pipeline that it stands for in the place of a find over several homes that sorts under a
// collation, where servers do not tell by what: a key that is the string itself says nothing of its order. again
// says that it has.
func (c *clientConn) asPipeline(t *routing.Table, d *routing.Decision) (again bool, err *wire.Error) {
	f, ok := c.req.Field("sort")
	sort, _ := f.Value.Doc()
	if !ok || c.req.Cmd.Merge != routing.MergeCursor || d.Segments != nil || directions(sort) == nil || !t.Collated(&c.req) {
		return false, nil
	}
	if told, err := c.tell(d.Targets, true); told || err != nil {
		return false, err
	}
	x, err := t.AsPipeline(&c.req, d.Coll)
	if err == nil {
		err = c.expand(x)
	}
	return err == nil, err
}

// tell reports whether all of the targets' clusters tell sort keys in pipelines; collate: under a collation, and
// the same ones. The string itself is none there.
func (c *clientConn) tell(targets []*routing.Target, collate bool) (bool, *wire.Error) {
	var first string
	for i, x := range targets {
		key, err := c.keyAt(x, collate)
		if i == 0 {
			first = key
		}
		if err != nil || key == "" || collate && key != first {
			return false, err
		}
	}
	return true, nil
}

// keyAt asks servers of the target's cluster for the sort key of probeText: none where they tell none.
func (c *clientConn) keyAt(x *routing.Target, collate bool) (key string, err *wire.Error) {
	of := keysOf{cluster: x.Cluster, collate: collate}
	if key, known := c.srv.sortKeys.told(of); known {
		return key, nil
	}
	body := build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "aggregate", 1)
		d = routing.AppendStages(d, "pipeline", []wire.Doc{
			documents([]wire.Doc{build(func(d []byte) []byte { return bsoncore.AppendStringElement(d, "v", probeText) })}),
			build(func(d []byte) []byte {
				return appendSub(d, "$sort", func(d []byte) []byte { return bsoncore.AppendInt32Element(d, "v", 1) })
			}),
			keyStage(appendSortKey),
		})
		d = appendSub(d, "cursor", func(d []byte) []byte { return d })
		if collate {
			d = appendSub(d, "collation", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "locale", "en") })
		}
		if f, ok := c.req.Field("$readPreference"); ok {
			d = f.Value.AppendTo(d, "$readPreference")
		}
		return bsoncore.AppendStringElement(d, "$db", x.DB)
	})
	tr := ownTrip(x, func() wire.Doc { return body })
	tr.sel = c.selectServer(nil)
	parts := c.scatter([]*trip{tr}, nil)
	defer free(parts)
	err = c.failed(parts)
	switch {
	case err != nil && err.Reply == nil:
		return "", err
	case err != nil && !keysRefused(err):
		switch {
		case noDocuments(err) != err:
		case collate:
			return "", err
		default: // it says nothing of keys, and may pass
			return unaskable, nil
		}
		key = unaskable
	case err == nil:
		docs, _, _ := firstBatch(tr.facts.cursor)
		for _, doc := range docs {
			told, _ := doc.Lookup(sortKey)
			first, _ := wire.Doc(told.Data).Lookup("0")
			if s, ok := first.Str(); ok && (string(s) == probeText) != collate {
				key = string(s)
			}
		}
	}
	c.srv.sortKeys.note(of, key)
	return key, nil
}
