package work

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// pair is one cursor on both sides. Their documents are compared when all have been read: how they
// fall into batches is nobody's promise.
type pair struct {
	line      Line // that opened it
	order     order
	want, got half
	killed    bool
}

type half struct {
	id   int64
	docs bson.A
	ns   string
}

func newPair(l Line, want, got bson.D) *pair {
	c := &pair{line: l, order: orderOf(l.Command)}
	if name(l.Command) == "bulkWrite" {
		c.order.total = true // by idx
	}
	c.want.take(want)
	c.got.take(got)
	return c
}

// take adds a batch.
func (h *half) take(reply bson.D) {
	cursor := doc(get(reply, "cursor"))
	h.id, _ = get(cursor, "id").(int64)
	h.ns, _ = get(cursor, "ns").(string)
	for _, batch := range []string{"firstBatch", "nextBatch"} {
		h.docs = append(h.docs, array(get(cursor, batch))...)
	}
}

// collection is what getMore names.
func (h *half) collection() string {
	_, c, _ := strings.Cut(h.ns, ".")
	return c
}

// more is a getMore of the session that has opened the cursor.
func (c *pair) more(h *half, size any) Line {
	command := bson.D{{Key: "getMore", Value: h.id}, {Key: "collection", Value: h.collection()}}
	if size != nil {
		command = append(command, bson.E{Key: "batchSize", Value: size})
	}
	return Line{Session: c.line.Session, Txn: c.line.Txn, Command: command}
}

// next reads one batch on each side that has one.
func (r *run) next(c *pair, size any) error {
	for _, x := range []struct {
		who string
		s   *side
		h   *half
	}{{"direct", &r.want, &c.want}, {"proxied", &r.got, &c.got}} {
		if x.h.id == 0 {
			continue
		}
		reply, err := x.s.send(r, c.more(x.h, size), false)
		if err != nil {
			return fmt.Errorf("getMore, %s: %w", x.who, err)
		}
		if get(reply, "cursor") == nil {
			return fmt.Errorf("getMore, %s: %s", x.who, text(reply))
		}
		if strings.Contains(text(reply), ownName(r.database, "")) {
			return fmt.Errorf("%w: %s", errPhysical, text(reply))
		}
		if x.s == &r.got {
			reply = r.same(reply).(bson.D)
		}
		x.h.take(reply)
	}
	return nil
}

const maxBatches = 200 // of any cursor, of which none has so many documents

// drain reads both cursors to their ends and compares them.
func (r *run) drain(c *pair) error {
	for n := 0; !c.killed && (c.want.id != 0 || c.got.id != 0); n++ {
		if n > maxBatches {
			return fmt.Errorf("it has no end\n direct: %d documents, cursor %d\nproxied: %d documents, cursor %d", len(c.want.docs), c.want.id, len(c.got.docs), c.got.id)
		}
		if err := r.next(c, nil); err != nil {
			return err
		}
	}
	delete(r.cursors, c.line.Cursor)
	return c.compare()
}

func (c *pair) compare() error {
	want, got := rows(c.line.Command, c.want.docs), rows(c.line.Command, c.got.docs)
	if c.want.ns != c.got.ns {
		return fmt.Errorf(" direct: cursor of %s\nproxied: cursor of %s", c.want.ns, c.got.ns)
	}
	if c.killed {
		if !c.order.total {
			return nil // which documents came first is nobody's promise
		}
		n := min(len(want), len(got))
		want, got = want[:n], got[:n]
	}
	if a, b := c.order.texts(want), c.order.texts(got); !slices.Equal(a, b) {
		return fmt.Errorf(" direct: %s\nproxied: %s", strings.Join(a, " "), strings.Join(b, " "))
	}
	if a, b := c.order.steps(want), c.order.steps(got); !slices.Equal(a, b) {
		return fmt.Errorf("the order differs\n direct: %s\nproxied: %s", strings.Join(a, ", "), strings.Join(b, ", "))
	}
	return nil
}

// rows takes off what belongs to one server alone from rows that are no documents.
func rows(command bson.D, docs bson.A) bson.A {
	own := map[string]string{"listCollections": "info", "bulkWrite": "errmsg"}[name(command)]
	if own == "" {
		return docs
	}
	out := slices.Clone(docs)
	for i, d := range out {
		out[i] = slices.DeleteFunc(slices.Clone(doc(d)), func(e bson.E) bool { return e.Key == own })
	}
	return out
}

// cursorLine plays a getMore or killCursors that calls its cursors by name.
func (r *run) cursorLine(l Line) (done bool, err error) {
	switch name(l.Command) {
	case "getMore":
		called, ok := l.Command[0].Value.(string)
		if !ok {
			return false, nil
		}
		c := r.cursors[called]
		if c == nil || c.killed {
			return true, nil // its opening was refused, or is not there any more
		}
		r.note(l, &refusals{})
		return true, r.next(c, get(l.Command, "batchSize"))
	case "killCursors":
		return r.kill(l)
	}
	return false, nil
}

// dropped ends the cursors of a collection that is no more, as a server may.
func (r *run) dropped(collection string, reply bson.D) {
	for _, c := range r.cursors {
		if get(reply, "ok") == 1.0 && c.want.collection() == collection {
			c.killed = true
		}
	}
}

// kill ends cursors on both sides; a getMore then finds nothing on either.
func (r *run) kill(l Line) (bool, error) {
	names := array(get(l.Command, "cursors"))
	for _, n := range names {
		called, ok := n.(string)
		if !ok {
			return false, nil
		}
		c := r.cursors[called]
		if c == nil || c.killed {
			continue
		}
		r.note(l, &refusals{})
		if err := r.killPair(l, c); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (r *run) killPair(l Line, c *pair) error {
	c.killed = true
	for _, x := range []struct {
		s *side
		h *half
	}{{&r.want, &c.want}, {&r.got, &c.got}} {
		if x.h.id == 0 {
			continue
		}
		kill := Line{Session: c.line.Session, Txn: c.line.Txn, Command: bson.D{
			{Key: "killCursors", Value: x.h.collection()}, {Key: "cursors", Value: bson.A{x.h.id}},
		}}
		reply, err := x.s.send(r, kill, false)
		if err != nil {
			return err
		}
		if killed := array(get(reply, "cursorsKilled")); len(killed) != 1 {
			return fmt.Errorf("%s: %s", l, text(reply))
		}
		if reply, err = x.s.send(r, c.more(x.h, nil), false); err != nil {
			return err
		}
		if get(reply, "code") != int32(43) {
			return fmt.Errorf("getMore of a killed cursor: %s", text(reply))
		}
		x.h.id = 0
	}
	return nil
}

// drainSession reads the cursors of a session's transaction before it ends.
func (r *run) drainSession(n int) error {
	for name, c := range r.cursors {
		if !c.line.Txn || c.line.Session != n {
			continue
		}
		if err := r.drain(c); err != nil {
			return fmt.Errorf("cursor %s, %w", name, err)
		}
	}
	return nil
}

// forget leaves the cursors of a session's transaction, which has been aborted.
func (r *run) forget(n int) {
	for name, c := range r.cursors {
		if c.line.Txn && c.line.Session == n {
			delete(r.cursors, name)
		}
	}
}
