package proxy

import (
	"fmt"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// sortedHomes are two homes with the even and the odd of ten documents, in their order; down turns it round.
func sortedHomes(down bool) *aggregates {
	a := &aggregates{docs: map[string][]any{}, keys: sortedBy}
	for i := range int32(10) {
		ns := []string{"app.orders", "app_t_acme.orders"}[i%2]
		if down {
			a.docs[ns] = append([]any{d("_id", i)}, a.docs[ns]...)
		} else {
			a.docs[ns] = append(a.docs[ns], d("_id", i))
		}
	}
	return a
}

// sortedBy is what the homes' documents are sorted by, and the one that a server is asked with.
func sortedBy(doc bson.D) any {
	if v := wiretest.Get(doc, "v"); v != nil {
		return v
	}
	return wiretest.Get(doc, "_id")
}

// all are the _ids that a pipeline gives, in batches of three.
func (g *ground) all(t *testing.T, pipeline bson.A, more ...bson.E) string {
	t.Helper()
	r := g.client.Run("app", append(d("aggregate", "orders", "pipeline", pipeline, "cursor", d("batchSize", 3)), more...))
	text := ids(r, "firstBatch")
	for {
		if wiretest.Get(r, "ok") != 1.0 {
			t.Fatalf("%v", r)
		}
		id, _ := wiretest.Get(r, "cursor", "id").(int64)
		if id == 0 {
			return text
		}
		r = g.client.Run("app", append(d("getMore", id, "collection", "orders", "batchSize", 3), more...))
		text += ids(r, "nextBatch")
	}
}

// TestSortedPipelines: what homes have sorted is merged by what servers say they sorted by, and brought nowhere.
func TestSortedPipelines(t *testing.T) {
	up, down := d("$sort", d("x", 1)), d("$sort", d("x", -1))
	for _, c := range []struct {
		pipeline bson.A
		down     bool
		want     string
		stages   int // at a home
	}{
		{stages(up), false, "0 1 2 3 4 5 6 7 8 9 ", 2},
		{stages(down), true, "9 8 7 6 5 4 3 2 1 0 ", 2},
		{stages(d("$match", d("x", 1)), up, d("$project", d("x", 1)), d("$unwind", "$x")), false, "0 1 2 3 4 5 6 7 8 9 ", 5},
		{stages(up, d("$skip", 2), d("$limit", 3)), false, "2 3 4 ", 3},
		{stages(down, d("$limit", 4)), true, "9 8 7 6 ", 3},
		{stages(up, d("$skip", 7)), false, "7 8 9 ", 2},
	} {
		t.Run(fmt.Sprint(c.pipeline), func(t *testing.T) {
			a := sortedHomes(c.down)
			g := newShippingGround(t, a)
			if got := g.all(t, c.pipeline); got != c.want {
				t.Errorf("it gives %s, want %s", got, c.want)
			}
			if len(g.shipped()) != 0 || a.left() != 0 {
				t.Errorf("%v are brought to a server, %d cursors are left", g.shipped(), a.left())
			}
			for _, sent := range g.server.Commands("aggregate") {
				if n := len(sent.Value("pipeline").(bson.A)); sent.Value("aggregate") == "orders" && (n < c.stages || n > c.stages+1) { // shared's has what keeps leftovers out
					t.Errorf("sent %v", sent.D())
				}
			}
		})
	}
}

// TestNearestPipelines: what $geoNear brings from each home is merged by the distances in it.
func TestNearestPipelines(t *testing.T) {
	near := d("$geoNear", d("near", bson.A{0, 0}, "distanceField", "far.off"))
	for _, c := range []struct {
		pipeline bson.A
		want     string
	}{
		{stages(near), "0 1 2 3 4 5 6 7 8 9 "},
		{stages(near, d("$match", d("x", 1)), d("$skip", 2), d("$limit", 3)), "2 3 4 "},
		{stages(near, d("$project", d("x", 1, "far", 1)), d("$limit", 3)), "0 1 2 "},
	} {
		a := &aggregates{docs: map[string][]any{}}
		for i := range int32(10) {
			ns := []string{"app.orders", "app_t_acme.orders"}[i%2]
			a.docs[ns] = append(a.docs[ns], d("_id", i, sortKey, bson.A{float64(i) / 2}))
		}
		g := newShippingGround(t, a)
		if got := g.all(t, c.pipeline); got != c.want {
			t.Errorf("%v gives %s, want %s", c.pipeline, got, c.want)
		}
		for _, sent := range g.server.Commands("aggregate") {
			list := sent.Value("pipeline").(bson.A)
			if key := wiretest.Get(list[len(list)-1].(bson.D), "$addFields", sortKey); fmt.Sprint(key) != "[$far.off]" {
				t.Errorf("sent %v", sent.D())
			}
		}
	}
}

// TestSortedElsewhere: what needs more than a merge is brought together, and so is what servers tell no keys of.
func TestSortedElsewhere(t *testing.T) {
	up := d("$sort", d("x", 1))
	for _, pipeline := range []bson.A{
		stages(up, d("$group", d("_id", "$x", "first", d("$first", "$y")))),
		stages(up, d("$limit", 3), d("$match", d("x", 1))),
		stages(up, d("$addFields", d("s", d("$meta", "sortKey")))),
		stages(up, up),
	} {
		g := newShippingGround(t, sortedHomes(false))
		r := g.client.Run("app", d("aggregate", "orders", "pipeline", pipeline, "cursor", d()))
		for _, sent := range g.server.Commands("aggregate") {
			if asksKeys(sent.Value("pipeline").(bson.A)) {
				t.Errorf("%v: sent %v: %v", pipeline, sent.D(), r)
			}
		}
	}
	for name, keys := range map[string]func(bson.D) any{
		"refused": nil,
		"missing": func(bson.D) any { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			a := sortedHomes(false)
			a.keys = keys
			g := newShippingGround(t, a)
			for range 2 {
				if got := g.all(t, stages(up)); got != "0 2 4 6 8 1 3 5 7 9 " {
					t.Errorf("it gives %s", got)
				}
			}
			if g.asked() != 1 || len(g.shipped()) != 2 || a.left() != 0 {
				t.Errorf("keys are asked for %d times, documents are brought by %d commands, %d cursors are left", g.asked(), len(g.shipped()), a.left())
			}
		})
	}
}

// TestSortedByOldServers: they know no $documents, so they can not be asked, and not all that know none tell keys.
func TestSortedByOldServers(t *testing.T) {
	for name, c := range map[string]struct {
		keys  func(bson.D) any
		want  string
		asked int
	}{
		"told":    {sortedBy, "0 1 2 3 4 5 6 7 8 9 ", 1 + 2*2},
		"refused": {nil, "", 1 + 2},
	} {
		t.Run(name, func(t *testing.T) {
			a := sortedHomes(false)
			a.keys = c.keys
			g := newGround(t, nil)
			g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
				if cmd.Name == "aggregate" && cmd.Value("aggregate") == int32(1) {
					return wiretest.Fail(40324, "Unrecognized pipeline stage name: '$documents'")
				}
				return a.answer(cmd)
			})
			for range 2 {
				if c.want != "" {
					if got := g.all(t, stages(d("$sort", d("x", 1)))); got != c.want {
						t.Errorf("it gives %s", got)
					}
					continue
				}
				r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()))
				if wiretest.Get(r, "code") != int32(wire.CommandNotSupported) {
					t.Errorf("it answers %v", r)
				}
			}
			if g.asked() != c.asked || a.left() != 0 {
				t.Errorf("keys are asked for %d times, %d cursors are left", g.asked(), a.left())
			}
		})
	}
}

// TestSortKeyMissing: documents are not put anywhere where a server breaks its word.
func TestSortKeyMissing(t *testing.T) {
	a := sortedHomes(false)
	a.keys = func(doc bson.D) any {
		if wiretest.Get(doc, "_id") == int32(3) { // not the first of its home
			return nil
		}
		return sortedBy(doc)
	}
	g := newShippingGround(t, a)
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()))
	if wiretest.Get(r, "code") != int32(wire.OperationFailed) || a.left() != 0 {
		t.Errorf("it answers %v, %d cursors are left", r, a.left())
	}
}

// TestSortedRefused: a pipeline that servers refuse is sent once.
func TestSortedRefused(t *testing.T) {
	a := sortedHomes(false)
	g := newGround(t, nil)
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		if cmd.Name == "aggregate" && cmd.Value("aggregate") == "orders" {
			return wiretest.Fail(50, "operation exceeded time limit")
		}
		return a.answer(cmd)
	})
	r := g.client.Run("app", d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()))
	n := 0
	for _, sent := range g.server.Commands("aggregate") {
		if sent.Value("aggregate") == "orders" {
			n++
		}
	}
	if wiretest.Get(r, "code") != int32(50) || n != 2 {
		t.Errorf("it answers %v, and two homes are sent %d commands", r, n)
	}
}

// TestSortedInTransaction: servers are asked for keys outside of it, since a refusal would end it.
func TestSortedInTransaction(t *testing.T) {
	for name, c := range map[string]struct {
		keys func(bson.D) any
		want string
	}{
		"told":    {sortedBy, "0 1 2 3 4 5 6 7 8 9 "},
		"refused": {nil, "0 2 4 6 8 1 3 5 7 9 "},
	} {
		t.Run(name, func(t *testing.T) {
			a := sortedHomes(false)
			a.keys = c.keys
			g := newShippingGround(t, a)
			tx := func(more ...bson.E) []bson.E {
				return append(d("lsid", session(1), "txnNumber", int64(1), "autocommit", false), more...)
			}
			r := g.client.Run("app", append(d("aggregate", "orders", "pipeline", stages(d("$sort", d("x", 1))), "cursor", d()), tx(bson.E{Key: "startTransaction", Value: true})...))
			if got := ids(r, "firstBatch"); got != c.want {
				t.Errorf("it gives %s: %v", got, r)
			}
			for _, sent := range g.server.Commands("aggregate") {
				if asks, own := asksKeys(sent.Value("pipeline").(bson.A)), sent.Value("aggregate") == int32(1); asks && own && sent.Value("lsid") != nil {
					t.Errorf("sent %v", sent.D())
				}
			}
		})
	}
}

// TestSortedByLetters: a find that sorts under a collation is merged where servers tell collation keys, and else
// brought to one that sorts.
func TestSortedByLetters(t *testing.T) {
	for name, c := range map[string]struct {
		probe wiretest.Reply
		again bool // it is found out once
		finds int
	}{
		"told":            {wiretest.Cursor("app.$cmd.aggregate", 0, true, d("v", probeText, sortKey, bson.A{")\x01\x05\x01\x05"})), false, 4},
		"the string":      {wiretest.Cursor("app.$cmd.aggregate", 0, true, d("v", probeText, sortKey, bson.A{probeText})), false, 0},
		"none":            {wiretest.Cursor("app.$cmd.aggregate", 0, true, d("v", probeText)), false, 0},
		"refused":         {wiretest.Fail(wire.InvalidPipelineOperator, "Unrecognized expression '$meta'"), false, 0},
		"an old server":   {wiretest.Fail(40324, "Unrecognized pipeline stage name: '$documents'"), false, 4},
		"not to be asked": {wiretest.HangUp(), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := sortedHomes(false)
			a.keys = nil
			g := newGround(t, nil)
			var probes atomic.Int32
			g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
				switch {
				case cmd.Name == "aggregate" && asksKeys(cmd.Value("pipeline").(bson.A)) && cmd.Value("aggregate") == int32(1):
					probes.Add(1)
					return c.probe
				case cmd.Name == "find":
					return wiretest.Cursor(cmd.DB+".orders", 0, true)
				}
				return a.answer(cmd)
			})
			for range 2 {
				r := g.client.Run("app", d("find", "orders", "filter", d(), "sort", d("x", 1), "collation", d("locale", "de")))
				switch {
				case c.again:
					if wiretest.Get(r, "code") != int32(6) {
						t.Errorf("it answers %v", r)
					}
				case wiretest.Get(r, "ok") != 1.0 || wiretest.Get(r, "cursor", "ns") != "app.orders":
					t.Errorf("it answers %v", r)
				case c.finds == 0 && ids(r, "firstBatch") != "0 2 4 6 8 1 3 5 7 9 ":
					t.Errorf("it gives %v", r)
				}
			}
			if n := len(g.server.Commands("find")); n != c.finds || !c.again && probes.Load() != 1 {
				t.Errorf("%d finds are sent, and the server is asked %d times", n, probes.Load())
			}
		})
	}
}

// TestSortedOldAndNew: without a collation a server that can not be asked sorts as every other.
func TestSortedOldAndNew(t *testing.T) {
	a := sortedHomes(false)
	g := twoClusters(t)
	for _, s := range []*wiretest.Server{g.server, g.big} {
		s.Handle(func(cmd wiretest.Command) wiretest.Reply {
			if cmd.Name == "aggregate" && cmd.Value("aggregate") == int32(1) && s == g.server {
				return wiretest.Fail(40324, "Unrecognized pipeline stage name: '$documents'")
			}
			return a.answer(cmd)
		})
	}
	if got := g.all(t, stages(d("$sort", d("x", 1)))); got != "0 1 2 3 4 5 6 7 8 9 " {
		t.Errorf("it gives %s", got)
	}
}

// TestSortedByTwoOrders: collation keys of two clusters are compared where both tell the same ones. Those of servers
// whose Unicode differs say nothing of each other's, and what has to be sorted is brought to one of them.
func TestSortedByTwoOrders(t *testing.T) {
	for name, c := range map[string]struct {
		big   string
		finds int
		code  any // of a sorted write
	}{
		"one":   {")\x01\x05\x01\x05", 1, nil},
		"other": {"*\x01\x05\x01\x05", 0, int32(wire.CommandNotSupported)},
	} {
		t.Run(name, func(t *testing.T) {
			a := sortedHomes(false)
			a.keys = nil
			g := twoClusters(t)
			told := map[*wiretest.Server]string{g.server: ")\x01\x05\x01\x05", g.big: c.big}
			for s, key := range told {
				s.Handle(func(cmd wiretest.Command) wiretest.Reply {
					switch {
					case cmd.Name == "aggregate" && cmd.Value("aggregate") == int32(1) && asksKeys(cmd.Value("pipeline").(bson.A)):
						return wiretest.Cursor("app.$cmd.aggregate", 0, true, d("v", probeText, sortKey, bson.A{key}))
					case cmd.Name == "find":
						return wiretest.Cursor(cmd.DB+".orders", 0, true)
					case cmd.Name == "aggregate" || cmd.Name == "getMore" || cmd.Name == "killCursors":
						return a.answer(cmd)
					case cmd.Name == "findAndModify":
						return wiretest.OK(d("value", nil, "lastErrorObject", d("n", 0, "updatedExisting", false))...)
					}
					return wiretest.Pass()
				})
			}
			r := g.client.Run("app", d("find", "orders", "filter", d(), "sort", d("x", 1), "collation", d("locale", "de")))
			if wiretest.Get(r, "ok") != 1.0 || c.finds == 0 && ids(r, "firstBatch") != "0 2 4 6 8 1 3 5 7 9 " {
				t.Errorf("it answers %v", r)
			}
			if n, m := len(g.server.Commands("find")), len(g.big.Commands("find")); n != c.finds || m != c.finds {
				t.Errorf("%d and %d finds are sent", n, m)
			}
			r = g.client.Run("app", d("findAndModify", "orders", "query", d("x", d("$gt", 0)), "sort", d("name", 1), "remove", true, "collation", d("locale", "de")))
			if code := wiretest.Get(r, "code"); code != c.code {
				t.Errorf("a sorted write answers %v", r)
			}
		})
	}
}
