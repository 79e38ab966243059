package proxy

import (
	"container/heap"

	"github.com/smetasc/tenantry/wire"
)

// front is the streams of a sorted merge that have documents, as a heap by the first of each: with many
// homes a document costs the logarithm of their number in comparisons.
type front struct {
	heads []head
	down  []bool
}

// head is a stream's first document.
type head struct {
	stream *stream
	key    wire.Value // by which the document is sorted
	at     int        // the stream's place: equal documents keep the order of the streams
}

func (f *front) Len() int           { return len(f.heads) }
func (f *front) Swap(i, j int)      { f.heads[i], f.heads[j] = f.heads[j], f.heads[i] }
func (f *front) Push(x any)         { f.heads = append(f.heads, x.(head)) }
func (f *front) Less(i, j int) bool { return f.heads[i].less(&f.heads[j], f.down) }

func (f *front) Pop() any {
	last := len(f.heads) - 1
	x := f.heads[last]
	f.heads = f.heads[:last]
	return x
}

func (h *head) less(o *head, down []bool) bool {
	if keyLess(h.key, o.key, down) {
		return true
	}
	return h.at < o.at && !keyLess(o.key, h.key, down)
}

// look reads the key of the stream's first document.
func (h *head) look() *wire.Error {
	var ok bool
	if h.key, ok = h.stream.docs[0].Lookup(sortKey); !ok {
		return wire.Errorf(wire.OperationFailed, "a server has brought a document without its sort key")
	}
	return nil
}

// first is the stream whose first document comes first of all.
func (c *clientConn) first(cur *cursor, size int, tx *txn) (*stream, *wire.Error) {
	m := cur.merged
	if m.front == nil {
		m.front = &front{down: m.down}
		for i, s := range m.streams {
			if err := c.show(cur, s, size, tx); err != nil {
				return nil, err
			}
			if len(s.docs) > 0 {
				h := head{stream: s, at: i}
				if err := h.look(); err != nil {
					return nil, err
				}
				heap.Push(m.front, h)
			}
		}
		m.given = false
	}
	f := m.front
	if m.given && f.Len() > 0 {
		top := &f.heads[0]
		if err := c.show(cur, top.stream, size, tx); err != nil {
			return nil, err
		}
		if len(top.stream.docs) == 0 {
			heap.Pop(f)
		} else {
			if err := top.look(); err != nil {
				return nil, err
			}
			heap.Fix(f, 0)
		}
		m.given = false
	}
	if f.Len() == 0 {
		return nil, nil
	}
	return f.heads[0].stream, nil
}
