package proxy

import (
	"fmt"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// However the documents lie, and in whatever batches they are taken: they come in the order of their
// keys, equal ones in that of the homes, each once, skip and limit applied to the whole.
func TestSortedMergeOfMany(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		type row struct{ key, home, n int }
		down := rapid.Bool().Draw(r, "down")
		byKey := func(a, b row) int {
			if down {
				return b.key - a.key
			}
			return a.key - b.key
		}
		m := &merged{down: []bool{down}, skip: int64(rapid.IntRange(0, 4).Draw(r, "skip")), left: -1}
		limit := rapid.IntRange(0, 12).Draw(r, "limit")
		if limit > 0 {
			m.left = int64(limit)
		}
		var want []row
		for home, keys := range rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 5), 0, 8), 0, 9).Draw(r, "homes") {
			var rows []row
			for n, key := range keys {
				rows = append(rows, row{key, home, n})
			}
			slices.SortStableFunc(rows, byKey)
			s := &stream{}
			for _, x := range rows {
				s.docs = append(s.docs, wiretest.D(d("home", x.home, "n", x.n, sortKey, bson.A{x.key})))
			}
			m.streams = append(m.streams, s)
			want = append(want, rows...)
		}
		slices.SortStableFunc(want, byKey)
		want = want[min(int(m.skip), len(want)):]
		if limit > 0 {
			want = want[:min(limit, len(want))]
		}
		got := ""
		size := rapid.IntRange(1, 5).Draw(r, "batch")
		for c, cur := (&clientConn{}), (&cursor{merged: m}); ; {
			docs, err := c.take(cur, size, nil)
			if err != nil || len(docs) > size {
				r.Fatal(err, docs)
			}
			for _, doc := range docs {
				got += fmt.Sprintln(wiretest.Decode(doc))
			}
			if m.done() {
				break
			}
		}
		text := ""
		for _, x := range want {
			text += fmt.Sprintln(d("home", int32(x.home), "n", int32(x.n)))
		}
		if got != text {
			r.Fatalf("got\n%swant\n%s", got, text)
		}
	})
}

// A client that reads in small batches has its homes asked for such, and for those that it skips.
func TestMergedBatchSize(t *testing.T) {
	g := newGround(t, nil)
	for i := range 8 {
		g.insert(t, i, "globex")
		g.insert(t, 100+i, "acme")
	}
	for _, skip := range []int{0, 3} {
		g.server.Forget()
		seen := 0
		r := g.client.Run("app", d("find", "orders", "batchSize", 2, "skip", skip))
		batch, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		seen += len(batch)
		for id := wiretest.Get(r, "cursor", "id"); id != int64(0); id = wiretest.Get(r, "cursor", "id") {
			r = g.client.Run("app", d("getMore", id, "collection", "orders", "batchSize", 2))
			batch, _ = wiretest.Get(r, "cursor", "nextBatch").(bson.A)
			if seen += len(batch); len(batch) > 2 {
				t.Fatalf("%d documents in a batch", len(batch))
			}
		}
		if seen != 16-skip {
			t.Errorf("skip %d: %d documents", skip, seen)
		}
		for _, c := range g.server.Commands("getMore") {
			if n, ok := c.Int("batchSize"); !ok || n < 1 || n > int64(2+skip) {
				t.Errorf("skip %d: a home is asked for a batch of %v", skip, c.Value("batchSize"))
			}
		}
	}
}

// With hundreds of homes a document must not cost a look at each.
func BenchmarkSortedMerge(b *testing.B) {
	const documents = 2000
	for _, homes := range []int{2, 20, 200} {
		b.Run(fmt.Sprint(homes, " homes"), func(b *testing.B) {
			brought := make([][]wire.Doc, homes)
			for i := range documents {
				brought[i%homes] = append(brought[i%homes], wiretest.D(d("n", i, sortKey, bson.A{i})))
			}
			for b.Loop() {
				m := &merged{down: []bool{false}, left: -1}
				for _, docs := range brought {
					m.streams = append(m.streams, &stream{docs: docs})
				}
				if docs, err := (&clientConn{}).take(&cursor{merged: m}, -1, nil); err != nil || len(docs) != documents {
					b.Fatal(len(docs), err)
				}
			}
		})
	}
}

// What a single server refuses is refused where no server is sent it as it was written.
func TestMergedArguments(t *testing.T) {
	g := newGround(t, nil)
	for i := range 5 {
		g.insert(t, i, "globex")
	}
	for _, tt := range []struct {
		cmd  bson.D
		want int32
	}{
		{d("find", "orders", "skip", -1), 2},
		{d("find", "orders", "skip", "x"), 14},
		{d("count", "orders", "skip", -1), 2},
		{d("count", "orders", "skip", "x"), 14},
		{d("aggregate", "orders", "pipeline", bson.A{}), 9},
		{d("aggregate", "orders", "pipeline", bson.A{}, "cursor", d("x", 1)), 40415},
	} {
		if r := g.client.Run("app", tt.cmd); wiretest.Get(r, "code") != tt.want {
			t.Errorf("%v: %v", tt.cmd, r)
		}
	}
	r := g.client.Run("app", d("find", "orders", "batchSize", 1))
	id := wiretest.Get(r, "cursor", "id")
	for size, want := range map[any]int32{-1: 2, "x": 14} {
		if r := g.client.Run("app", d("getMore", id, "collection", "orders", "batchSize", size)); wiretest.Get(r, "code") != want {
			t.Errorf("getMore of %v: %v", size, r)
		}
	}
}
