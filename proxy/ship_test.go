package proxy

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// aggregates is a script for a server: what it gives for a pipeline over a collection, by database,
// in batches of two; and of documents that it is brought what fold makes of them.
type aggregates struct {
	docs map[string][]any // by "db.coll"
	fold func(shipped []any, stages bson.A) []any
	keys func(doc bson.D) any // the sort key of a document, where it is asked for; nil: refused

	mu      sync.Mutex
	cursors map[int64][]any
	next    int64
}

func (a *aggregates) answer(c wiretest.Command) wiretest.Reply {
	cmd := wiretest.Decode(c.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch c.Name {
	case "aggregate":
		stages, _ := wiretest.Get(cmd, "pipeline").(bson.A)
		if coll, ok := wiretest.Get(cmd, "aggregate").(string); ok {
			docs := a.docs[c.DB+"."+coll]
			return a.keyed(c.DB+"."+coll, docs, stages)
		}
		var shipped []any
		list, _ := wiretest.Get(stages[0].(bson.D), "$documents").(bson.A)
		for _, x := range list {
			shipped = append(shipped, wiretest.Get(x.(bson.D), "$literal"))
		}
		if a.fold != nil && !asksKeys(stages) {
			shipped = a.fold(shipped, stages[1:])
		}
		return a.keyed(c.DB+".$cmd.aggregate", shipped, stages)
	case "getMore":
		id, _ := c.Int("getMore")
		rest, there := a.cursors[id]
		if !there {
			return wiretest.Fail(wire.CursorNotFound, "no such cursor")
		}
		batch := rest[:min(2, len(rest))]
		if a.cursors[id] = rest[len(batch):]; len(a.cursors[id]) == 0 {
			delete(a.cursors, id)
			id = 0
		}
		return wiretest.Cursor(c.DB+"."+fmt.Sprint(wiretest.Get(cmd, "collection")), id, false, batch...)
	case "killCursors":
		ids, _ := wiretest.Get(cmd, "cursors").(bson.A)
		for _, id := range ids {
			delete(a.cursors, id.(int64))
		}
		return wiretest.OK()
	}
	return wiretest.Pass()
}

func (a *aggregates) open(ns string, docs []any) wiretest.Reply {
	if len(docs) <= 2 {
		return wiretest.Cursor(ns, 0, true, docs...)
	}
	if a.cursors == nil {
		a.cursors = map[int64][]any{}
	}
	a.next++
	a.cursors[a.next] = docs[2:]
	return wiretest.Cursor(ns, a.next, true, docs[:2]...)
}

// asksKeys reports whether the last stage asks for sort keys.
func asksKeys(stages bson.A) bool {
	return len(stages) > 0 && wiretest.Get(stages[len(stages)-1].(bson.D), "$addFields", sortKey, "$meta") == "sortKey"
}

// keyed are the documents with their sort keys, where the stages ask for them.
func (a *aggregates) keyed(ns string, docs []any, stages bson.A) wiretest.Reply {
	if !asksKeys(stages) {
		return a.open(ns, docs)
	}
	if a.keys == nil {
		return wiretest.Fail(wire.InvalidPipelineOperator, "Unrecognized expression '$meta'")
	}
	var all []any
	for _, doc := range docs {
		if key := a.keys(doc.(bson.D)); key != nil {
			doc = append(slices.Clone(doc.(bson.D)), bson.E{Key: sortKey, Value: bson.A{key}})
		}
		all = append(all, doc)
	}
	return a.open(ns, all)
}

func (a *aggregates) left() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.cursors)
}

// shipped are the commands that brought documents to a server, without those that asked it for keys.
func (g *ground) shipped() (sent []bson.D) {
	for _, c := range g.server.Commands("aggregate") {
		if cmd := wiretest.Decode(c.Body); wiretest.Get(cmd, "aggregate") == int32(1) && !asksKeys(c.Value("pipeline").(bson.A)) {
			sent = append(sent, cmd)
		}
	}
	return sent
}

// asked is how many commands asked for sort keys.
func (g *ground) asked() (n int) {
	for _, c := range g.server.Commands("aggregate") {
		if asksKeys(c.Value("pipeline").(bson.A)) {
			n++
		}
	}
	return n
}

func newShippingGround(t *testing.T, a *aggregates) *ground {
	t.Helper()
	g := newGround(t, nil)
	g.server.Handle(a.answer)
	return g
}

func numbered(from, to int) (docs []any) {
	for i := from; i < to; i++ {
		docs = append(docs, d("_id", int32(i), "path", "$_id"))
	}
	return docs
}

func ids(r bson.D, batch string) string {
	docs, _ := wiretest.Get(r, "cursor", batch).(bson.A)
	text := ""
	for _, doc := range docs {
		text += fmt.Sprint(wiretest.Get(doc.(bson.D), "_id"), " ")
	}
	return text
}

func stages(list ...bson.D) bson.A {
	a := bson.A{}
	for _, s := range list {
		a = append(a, s)
	}
	return a
}

// TestShip: what two homes bring goes to shared as literals, with what belongs to the command; the
// client sees one cursor of its own on its collection.
func TestShip(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 3), "app_t_acme.orders": numbered(3, 5)}}
	g := newShippingGround(t, a)
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d("batchSize", 3),
		"let", d("v", 7), "collation", d("locale", "en"), "hint", "x_1", "allowDiskUse", true, "maxTimeMS", 60000, "lsid", session(1)))
	if got := ids(r, "firstBatch"); got != "0 1 2 " || wiretest.Get(r, "cursor", "ns") != "app.orders" {
		t.Fatalf("first batch: %v", r)
	}
	sent := g.shipped()
	if len(sent) != 1 {
		t.Fatalf("%d commands bring documents", len(sent))
	}
	pipeline := wiretest.Get(sent[0], "pipeline").(bson.A)
	first := wiretest.Get(pipeline[0].(bson.D), "$documents").(bson.A)
	if len(first) != 5 || wiretest.Get(first[0].(bson.D), "$literal", "path") != "$_id" || len(pipeline) != 2 {
		t.Errorf("shipped %v", pipeline)
	}
	limit := millis(sent[0])
	if wiretest.Get(sent[0], "let", "v") != int32(7) || wiretest.Get(sent[0], "collation", "locale") != "en" ||
		wiretest.Get(sent[0], "hint") != nil || wiretest.Get(sent[0], "$db") != "app" || limit <= 0 || limit > 60000 {
		t.Errorf("sent %v", sent[0])
	}
	id, _ := wiretest.Get(r, "cursor", "id").(int64)
	r = g.client.Run("app", d("getMore", id, "collection", "orders", "lsid", session(1)))
	if got := ids(r, "nextBatch"); got != "3 4 " || wiretest.Get(r, "cursor", "id") != int64(0) {
		t.Errorf("next batch: %v", r)
	}
	if more := g.server.Commands("getMore"); wiretest.Get(wiretest.Decode(more[len(more)-1].Body), "collection") != "$cmd.aggregate" {
		t.Errorf("the server's cursor is asked for as another: %v", wiretest.Decode(more[len(more)-1].Body))
	}
}

// TestShipCollated: what is brought together is compared as in the collection, whose collation documents alone do
// not have.
func TestShipCollated(t *testing.T) {
	for _, own := range []bool{true, false} {
		a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 3), "app_t_acme.orders": numbered(3, 5)}}
		g := newShippingGround(t, a)
		g.router.Publish(tableOf(t, 2, func(s *routing.Spec) {
			s.Collated = []routing.Collated{{Name: "app.orders", Collation: wiretest.D(d("locale", "de", "strength", 2, "version", "57.1"))}}
		}))
		command, want := d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()), "de"
		if !own {
			command, want = append(command, bson.E{Key: "collation", Value: d("locale", "en")}), "en"
		}
		g.client.Run("app", command)
		sent := g.shipped()
		if len(sent) != 1 || wiretest.Get(sent[0], "collation", "locale") != want || wiretest.Get(sent[0], "collation", "version") != nil {
			t.Errorf("sent %v", sent)
		}
	}
}

// TestUnionCollated: what a $unionWith reads is compared as the pipeline's own collection is, whatever its collation.
func TestUnionCollated(t *testing.T) {
	for _, c := range []struct {
		collated         []string
		command          bson.D
		orders, invoices any
	}{
		{[]string{"app.invoices"}, nil, nil, "simple"},
		{[]string{"app.orders"}, nil, "de", "de"},
		{[]string{"app.invoices"}, d("collation", d("locale", "en")), "en", "en"},
		{nil, nil, nil, nil},
	} {
		g := newShippingGround(t, &aggregates{})
		g.router.Publish(tableOf(t, 2, func(s *routing.Spec) {
			s.Collections = append(s.Collections, "invoices")
			s.Tenants[0].Route.Collections = s.Collections
			for _, name := range c.collated {
				s.Collated = append(s.Collated, routing.Collated{Name: name, Collation: wiretest.D(d("locale", "de", "strength", 2))})
			}
		}))
		g.client.Run("app", append(d("aggregate", "orders", "pipeline", stages(d("$unionWith", "invoices")), "cursor", d()), c.command...))
		read := map[string]bool{}
		for _, sent := range g.server.Commands("aggregate") {
			want := map[string]any{"orders": c.orders, "invoices": c.invoices}[sent.Collection()]
			if got := sent.Value("collation", "locale"); got != want {
				t.Errorf("collations %q, %v: %s is read under %v", c.collated, c.command, sent.Collection(), got)
			}
			read[sent.Collection()] = true
		}
		if !read["orders"] || !read["invoices"] {
			t.Errorf("only %v are read", read)
		}
	}
}

// TestDistinctCollated: which values are equal is left to a server.
func TestDistinctCollated(t *testing.T) {
	a := &aggregates{
		docs: map[string][]any{"app.orders": {d("_id", nil, "values", bson.A{"a", "B"})}, "app_t_acme.orders": {d("_id", nil, "values", bson.A{"b"})}},
		fold: func([]any, bson.A) []any { return []any{d("_id", nil, "values", bson.A{"a", "B"})} },
	}
	g := newShippingGround(t, a)
	r := g.client.Run("app", d("distinct", "orders", "key", "x", "query", d("y", 1), "collation", d("locale", "de", "strength", 2)))
	if got := fmt.Sprint(wiretest.Get(r, "values")); got != fmt.Sprint(bson.A{"a", "B"}) {
		t.Errorf("%s: %v", got, r)
	}
	sent := g.shipped()
	if len(sent) != 1 || wiretest.Get(sent[0], "collation", "strength") != int32(2) {
		t.Errorf("sent %v", sent)
	}
	for _, c := range g.server.Commands("distinct") {
		t.Errorf("sent %v", c.D())
	}
}

// TestShipLimit: nothing is cut off, and no cursor is left open.
func TestShipLimit(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 9), "app_t_acme.orders": numbered(9, 40)}}
	g := newShippingGround(t, a)
	g.limit(500)
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()))
	if wiretest.Get(r, "code") != int32(292) {
		t.Errorf("too many documents: %v", r)
	}
	if n := a.left(); n != 0 || len(g.shipped()) != 0 {
		t.Errorf("%d cursors are left open, %d commands brought documents", n, len(g.shipped()))
	}
}

func (g *ground) limit(bytes int64) {
	s := *g.proxy.settings.Load()
	s.ship = bytes
	g.proxy.settings.Store(&s)
}

// TestRounds: parts of groups that are too many to be brought at once are combined in rounds.
func TestRounds(t *testing.T) {
	parts := func(n int) (docs []any) {
		for i := range n {
			docs = append(docs, d("_id", int32(i%3), "n", int32(1)))
		}
		return docs
	}
	a := &aggregates{docs: map[string][]any{"app.orders": parts(20), "app_t_acme.orders": parts(21)}}
	a.fold = func(shipped []any, stages bson.A) (docs []any) {
		if wiretest.Get(stages[0].(bson.D), "$group", "n", "$sum") != "$n" {
			t.Errorf("parts are combined by %v", stages)
		}
		sums := map[any]int32{}
		for _, x := range shipped {
			sums[wiretest.Get(x.(bson.D), "_id")] += wiretest.Get(x.(bson.D), "n").(int32)
		}
		for i := range int32(3) {
			docs = append(docs, d("_id", i, "n", sums[i]))
		}
		return docs
	}
	g := newShippingGround(t, a)
	g.limit(600)
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$group", d("_id", "$x", "n", d("$sum", 1)))), "cursor", d()))
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	for i, want := range []int32{14, 14, 13} {
		if len(docs) != 3 || wiretest.Get(docs[i].(bson.D), "n") != want {
			t.Fatalf("group %d: %v, want %d", i, r, want)
		}
	}
	if n := len(g.shipped()); n < 2 {
		t.Errorf("%d commands: nothing was combined in rounds", n)
	}
	a.fold = func(shipped []any, _ bson.A) []any { return shipped }
	r = g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$group", d("_id", "$x", "n", d("$sum", 1)))), "cursor", d()))
	if wiretest.Get(r, "code") != int32(292) || a.left() != 0 {
		t.Errorf("rounds that make nothing fewer: %v, %d cursors left", r, a.left())
	}
}

// TestShipInTransaction: what reads a collection is of the transaction, what only works on documents
// is not, and only the first command begins it.
func TestShipInTransaction(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 3), "app_t_acme.orders": numbered(3, 5)}}
	g := newShippingGround(t, a)
	join := d("$lookup", d("from", "users", "localField", "a", "foreignField", "b", "as", "u"))
	for n, tt := range []struct {
		pipeline bson.A
		joined   bool
	}{{stages(d("$sort", d("x", 1))), false}, {stages(d("$sort", d("x", 1)), join), true}} {
		g.server.Forget()
		txn := d("lsid", session(5), "txnNumber", int64(n+1), "autocommit", false)
		r := g.client.Run("app", append(d("aggregate", "orders", "pipeline", tt.pipeline, "cursor", d("batchSize", 1), "startTransaction", true), txn...))
		id, _ := wiretest.Get(r, "cursor", "id").(int64)
		if id == 0 {
			t.Fatalf("no cursor: %v", r)
		}
		if r = g.client.Run("app", append(d("getMore", id, "collection", "orders"), txn...)); ids(r, "nextBatch") != "1 2 3 4 " {
			t.Errorf("getMore: %v", r)
		}
		begun := 0
		for _, c := range g.server.Commands("aggregate") {
			if c.Value("startTransaction") == true {
				begun++
			}
		}
		sent := g.shipped()
		if begun != 1 || len(sent) != 1 || (wiretest.Get(sent[0], "autocommit") == false) != tt.joined {
			t.Errorf("joined %v: %d commands begin the transaction; brought by %v", tt.joined, begun, sent)
		}
	}
}

// TestNoDocuments: old servers can not be given documents, which is said in words.
func TestNoDocuments(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 3)}}
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "aggregate" && c.Value("aggregate") == int32(1) {
			return wiretest.Fail(wire.UnknownStage, "Unrecognized pipeline stage name: '$documents'")
		}
		return a.answer(c)
	})
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()))
	if wiretest.Get(r, "code") != int32(115) {
		t.Errorf("an old server: %v", r)
	}
	g.server.Forget()
	r = g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$limit", 2)), "cursor", d()))
	if ids(r, "firstBatch") != "0 1 " || a.left() != 0 {
		t.Errorf("what needs nothing brought: %v, %d cursors left", r, a.left())
	}
}

// TestJoinAll: each holder joins its own, and the arrays are put behind each other.
func TestJoinAll(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.users": numbered(0, 3)}}
	turn := 0
	a.fold = func(shipped []any, _ bson.A) (docs []any) {
		turn++
		for i, x := range shipped {
			list := bson.A{}
			for range (i + turn) % 3 {
				list = append(list, int32(turn))
			}
			docs = append(docs, append(x.(bson.D), bson.E{Key: "orders", Value: list}, bson.E{Key: "last", Value: true}))
		}
		return docs
	}
	g := newShippingGround(t, a)
	cmd := d("aggregate", "users", "pipeline", stages(d("$lookup", d("from", "orders", "localField", "_id", "foreignField", "u", "as", "orders"))), "cursor", d())
	r := g.client.Run("app", cmd)
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	for i, want := range []int{3, 2, 1} { // (i+1)%3 of the one, (i+2)%3 of the other
		if len(docs) != 3 {
			t.Fatalf("joined: %v", r)
		}
		list, _ := wiretest.Get(docs[i].(bson.D), "orders").(bson.A)
		if len(list) != want || wiretest.Get(docs[i].(bson.D), "last") != true {
			t.Errorf("document %d: %v, want %d of both", i, docs[i], want)
		}
	}
	a.fold = func(shipped []any, _ bson.A) []any { return shipped[1:] }
	if r = g.client.Run("app", cmd); wiretest.Get(r, "code") != int32(96) {
		t.Errorf("a join that loses a document: %v", r)
	}
}

// TestFlow: documents go through a join as they are asked for, not all before the first is seen.
func TestFlow(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app_t_acme.orders": numbered(0, 9)}}
	g := newShippingGround(t, a)
	g.limit(1) // it is no matter how many they are together
	open := func() int64 {
		r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$match", d("tenantId", "acme")),
			d("$lookup", d("from", "users", "localField", "a", "foreignField", "b", "as", "u"))), "cursor", d("batchSize", 2), "lsid", session(1)))
		id, _ := wiretest.Get(r, "cursor", "id").(int64)
		if ids(r, "firstBatch") != "0 1 " || id == 0 {
			t.Fatalf("first batch: %v", r)
		}
		return id
	}
	id := open()
	if n := len(g.shipped()); n != 1 {
		t.Errorf("%d commands brought documents for the first batch", n)
	}
	other := wiretest.Dial(t, g.addr) // a cursor is not its connection's
	for _, want := range []string{"2 3 ", "4 5 ", "6 7 "} {
		r := other.Run("app", d("getMore", id, "collection", "orders", "batchSize", 2, "lsid", session(1)))
		if ids(r, "nextBatch") != want {
			t.Fatalf("got %v, want %s", r, want)
		}
	}
	r := other.Run("app", d("getMore", id, "collection", "orders", "lsid", session(1)))
	if ids(r, "nextBatch") != "8 " || wiretest.Get(r, "cursor", "id") != int64(0) {
		t.Errorf("last batch: %v", r)
	}
	id = open()
	g.client.Run("app", d("killCursors", "orders", "cursors", bson.A{id}))
	if n := a.left(); n != 0 {
		t.Errorf("%d cursors are left open", n)
	}
}

// millis is a command's time limit; servers take it as any number.
func millis(cmd bson.D) int64 {
	switch n := wiretest.Get(cmd, "maxTimeMS").(type) {
	case int32:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

// TestShipTimeLimit: the limit is the whole command's.
func TestShipTimeLimit(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 2)}}
	g := newShippingGround(t, a)
	release := make(chan struct{})
	g.server.Once("aggregate", wiretest.Cursor("app.orders", 0, true).After(release))
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(release)
	}()
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d(), "maxTimeMS", 10))
	if wiretest.Get(r, "code") != int32(50) || len(g.shipped()) != 0 {
		t.Errorf("past its time: %v, brought by %v", r, g.shipped())
	}
}

// TestShipTimeLeft: what has passed is taken off the limit once.
func TestShipTimeLeft(t *testing.T) {
	a := &aggregates{docs: map[string][]any{"app.orders": numbered(0, 2)}}
	g := newShippingGround(t, a)
	release := make(chan struct{})
	g.server.Once("aggregate", wiretest.Cursor("app.orders", 0, true, numbered(0, 2)...).After(release))
	go func() {
		g.server.Wait("aggregate", 1)
		time.Sleep(50 * time.Millisecond)
		close(release)
	}()
	began := time.Now()
	g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d(), "maxTimeMS", 10_000))
	took := time.Since(began).Milliseconds()
	for _, cmd := range g.shipped() {
		if left := millis(cmd); left < 10_000-took || left > 9_951 {
			t.Errorf("after less than %d ms: %d are left of ten seconds", took, left)
		}
	}
}

// TestFigures: rows about servers name the client's databases.
func TestFigures(t *testing.T) {
	a := &aggregates{docs: map[string][]any{
		"app.orders": {d("ns", "app.orders", "count", 1)}, "app_t_acme.orders": {d("ns", "app_t_acme.orders", "count", 2)},
	}}
	g := newShippingGround(t, a)
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$collStats", d("count", d()))), "cursor", d()))
	docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if len(docs) != 2 || wiretest.Get(docs[1].(bson.D), "ns") != "app.orders" {
		t.Errorf("rows: %v", r)
	}
	r = g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$collStats", d("count", d()))), "cursor", d(),
		"comment", d("tenantry", d("tenant", "acme"))))
	docs, _ = wiretest.Get(r, "cursor", "firstBatch").(bson.A)
	if len(docs) != 1 || wiretest.Get(docs[0].(bson.D), "ns") != "app.orders" || wiretest.Get(docs[0].(bson.D), "count") != int32(2) {
		t.Errorf("rows of acme's: %v", r)
	}
}

// What counts all documents comes to the sum of what the homes count, and nothing is shipped.
func TestCountsAreSummed(t *testing.T) {
	g := newGround(t, nil)
	answers := map[string][]any{"app": {d("_id", 1, "n", int32(3))}, "app_t_acme": {d("_id", 1, "n", int32(4))}}
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "aggregate" {
			return wiretest.Cursor(c.DB+".orders", 0, true, answers[c.DB]...)
		}
		return wiretest.Pass()
	})
	count := d("aggregate", "orders", "pipeline", bson.A{d("$match", d("x", 1)), d("$group", d("_id", 1, "n", d("$sum", 1)))}, "cursor", d())
	want := func(want string) {
		t.Helper()
		g.server.Forget()
		docs, _ := wiretest.Get(g.client.Run("app", count), "cursor", "firstBatch").(bson.A)
		if got := fmt.Sprint(docs); got != want || len(g.server.Commands("aggregate")) != 2 {
			t.Errorf("%s after %d commands, want %s after 2", got, len(g.server.Commands("aggregate")), want)
		}
	}
	want(fmt.Sprint(bson.A{d("_id", int32(1), "n", int32(7))}))
	answers["app"] = nil
	want(fmt.Sprint(bson.A{d("_id", int32(1), "n", int32(4))}))
	answers["app_t_acme"] = nil
	want("[]")
}

// What is wrong with a pipeline a server says at once: also of stages that documents flow through batch by
// batch, where none has come yet, or none comes.
func TestShipChecked(t *testing.T) {
	join := d("$lookup", d("from", "users", "localField", "user", "foreignField", "_id", "as", "u"))
	for _, tt := range []struct{ docs, size int }{{3, 0}, {3, 5}, {0, 5}} {
		a := &aggregates{docs: map[string][]any{"app_t_acme.orders": numbered(0, tt.docs)}}
		g := newShippingGround(t, a)
		g.server.Handle(func(c wiretest.Command) wiretest.Reply {
			if _, ships := c.Int("aggregate"); ships {
				return wiretest.Fail(28667, "Invalid $project")
			}
			return a.answer(c)
		})
		r := g.client.Run("app", d("aggregate", "orders", "cursor", d("batchSize", tt.size),
			"pipeline", stages(d("$match", d("tenantId", "acme")), join, d("$project", d("x", 1)))))
		if wiretest.Get(r, "code") != int32(28667) || g.proxy.cursors.open() != 0 {
			t.Errorf("%d documents in batches of %d: %v, %d cursors are left open", tt.docs, tt.size, r, g.proxy.cursors.open())
		}
	}
}
