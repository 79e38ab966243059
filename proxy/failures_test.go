package proxy

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

func labelsOf(reply bson.D) bson.A {
	a, _ := wiretest.Get(reply, "errorLabels").(bson.A)
	return a
}

// TestServersWords: where one server's error is that of a command over several homes, or of one
// that the proxy answers from what servers say, the client reads it as the server wrote it. A label
// that the server did not give would make drivers run a transaction again that can never work.
func TestServersWords(t *testing.T) {
	g := newGround(t, nil)
	many := d("_id", d("$in", bson.A{1, 2}))
	in := func(n int64, cmd bson.D) bson.D {
		return append(cmd, d("lsid", session(byte(n)), "txnNumber", n, "autocommit", false, "startTransaction", true)...)
	}
	for name, c := range map[string]struct {
		command string
		cmd     bson.D
		labels  []string
	}{
		"a find of a transaction":          {"find", in(1, d("find", "orders", "filter", many)), nil},
		"a conflict in a transaction":      {"find", in(2, d("find", "orders", "filter", many)), []string{"TransientTransactionError"}},
		"listDatabases of a busy server":   {"listDatabases", d("listDatabases", 1), []string{"SystemOverloadedError", "RetryableError"}},
		"listCollections of a busy server": {"listCollections", d("listCollections", 1), []string{"SystemOverloadedError", "RetryableError"}},
	} {
		g.server.Once(c.command, wiretest.Fail(2, "no such thing", c.labels...))
		db := "app"
		if c.command == "listDatabases" {
			db = "admin"
		}
		r := g.client.Run(db, c.cmd)
		var want bson.A
		for _, l := range c.labels {
			want = append(want, l)
		}
		if wiretest.Get(r, "code") != int32(2) || wiretest.Get(r, "errmsg") != "no such thing" || !reflect.DeepEqual(labelsOf(r), want) {
			t.Errorf("%s: %v, want the labels %v", name, r, want)
		}
	}
}

// TestLostGetMore: change streams go on after the loss of a server only where the error says so.
func TestLostGetMore(t *testing.T) {
	g := newGround(t, nil)
	for i := range 5 {
		g.insert(t, i, "acme")
	}
	r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"), "batchSize", 2))
	id, _ := wiretest.Get(r, "cursor", "id").(int64)
	g.server.Once("getMore", wiretest.HangUp())
	r = g.client.Run("app", d("getMore", id, "collection", "orders"))
	if wiretest.Get(r, "code") != int32(6) || !reflect.DeepEqual(labelsOf(r), bson.A{"ResumableChangeStreamError"}) {
		t.Errorf("a lost getMore: %v", r)
	}
}

// TestTimesOfListDatabases: a session reads on from where a reply that the proxy makes is.
func TestTimesOfListDatabases(t *testing.T) {
	g := newGround(t, nil)
	g.server.Once("listDatabases", wiretest.OK(
		bson.E{Key: "databases", Value: bson.A{d("name", "app", "sizeOnDisk", int64(5), "empty", false)}},
		bson.E{Key: "totalSize", Value: int64(5)},
	))
	r := g.client.Run("admin", d("listDatabases", 1))
	if at, ok := wiretest.Get(r, "operationTime").(bson.Timestamp); !ok || at.IsZero() || wiretest.Get(r, "totalSize") != int64(5) {
		t.Errorf("listDatabases: %v", r)
	}
}

// TestUnmetPreference: a cluster that is there and has no server for a read says so, as a mongos
// does; drivers try such a read no second time.
func TestUnmetPreference(t *testing.T) {
	g := newGround(t, nil)
	r := g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"), "$readPreference", d("mode", "secondary")))
	if wiretest.Get(r, "code") != int32(133) {
		t.Errorf("a read for secondaries of a set without any: %v", r)
	}
}

// A filter of listDatabases is about the databases that the client sees, with sizes summed; a server
// evaluates it.
func TestFilteredDatabases(t *testing.T) {
	g := newGround(t, nil)
	list := func(nameOnly bool, filter bson.D) bson.D {
		g.server.Once("listDatabases", wiretest.OK(bson.E{Key: "databases", Value: bson.A{
			d("name", "admin", "sizeOnDisk", int64(1), "empty", false), d("name", "app", "sizeOnDisk", int64(5), "empty", true),
			d("name", "app_t_acme", "sizeOnDisk", int64(7), "empty", false), d("name", "tenantry", "sizeOnDisk", int64(9), "empty", false),
		}}))
		return g.client.Run("admin", d("listDatabases", 1, "nameOnly", nameOnly, "filter", filter))
	}
	hit := d("name", "app", "sizeOnDisk", int64(12), "empty", false)
	big := d("sizeOnDisk", d("$gt", int32(10)))
	for nameOnly, want := range map[bool]bson.D{false: hit, true: d("name", "app")} {
		g.server.Forget()
		g.server.Once("aggregate", wiretest.Cursor("admin.$cmd.aggregate", 0, true, hit))
		if r := list(nameOnly, big); !reflect.DeepEqual(wiretest.Get(r, "databases"), bson.A{want}) {
			t.Errorf("the databases are %v, want %v", r, want)
		}
		sent := g.server.Commands("aggregate")[0]
		stages := sent.Value("pipeline").(bson.A)
		if got := fmt.Sprint(stages); !strings.Contains(got, fmt.Sprint(hit)) || strings.Contains(got, "tenantry") || strings.Contains(got, "app_t") {
			t.Errorf("the filter is asked about %s", got)
		}
		if !reflect.DeepEqual(stages[1], d("$match", big)) {
			t.Errorf("the filter asked is %v", stages[1])
		}
		if asked := g.server.Commands("listDatabases")[0]; asked.Value("filter") != nil || asked.Value("nameOnly") == true {
			t.Errorf("the server is asked for less than all: %v", asked)
		}
	}
	g.server.Once("aggregate", wiretest.Fail(40324, "Unrecognized pipeline stage name: '$documents'"))
	if r := list(false, big); wiretest.Get(r, "code") != int32(20) {
		t.Errorf("a server without $documents: %v", r)
	}
	g.server.Once("aggregate", wiretest.Fail(2, "unknown operator: $odd"))
	if r := list(false, d("name", d("$odd", 1))); wiretest.Get(r, "code") != int32(2) {
		t.Errorf("a bad filter: %v", r)
	}
}

// Shutdown does not wait for the parts of a command longer than it is told to.
func TestShutdownEndsParts(t *testing.T) {
	g := newGround(t, nil)
	never := make(chan struct{})
	defer close(never)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "find" {
			return wiretest.Pass().After(never)
		}
		return wiretest.Pass()
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = g.client.Try(d("find", "orders", "$db", "app"))
	}()
	g.server.Wait("find", 2)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		g.proxy.Shutdown(ctx)
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it waits for the servers")
	}
	<-done
}

// A fault met by one part of a command, on a goroutine of its own, is that command's: it is answered with
// an error and its connection closed, and everybody else is served.
func TestPanicOfOnePart(t *testing.T) {
	g := newGround(t, nil)
	other := wiretest.Dial(t, g.addr)
	good := g.proxy.opts.Clusters
	g.proxy.opts.Clusters = nil // by which each part's goroutine panics
	if r := g.client.Run("app", d("find", "orders")); wiretest.Get(r, "code") != int32(1) {
		t.Errorf("%v, want InternalError", r)
	}
	if _, err := g.client.TryReceive(); err == nil {
		t.Error("the connection is still there")
	}
	g.proxy.opts.Clusters = good
	if r := other.Run("app", d("find", "orders")); wiretest.Get(r, "ok") != 1.0 {
		t.Errorf("another client: %v", r)
	}
}

// Of a write Node's driver shows no text of an error with 20, so that none has it: neither the command's nor a
// write's of a batch, nor the plan of one. A read's has.
func TestNoWriteFailsWith20(t *testing.T) {
	g := newGround(t, nil)
	for _, tenant := range []string{"acme", "globex"} {
		g.insert(t, 0, tenant)
	}
	retryable := d("lsid", session(1), "txnNumber", int64(1))
	open := d("lsid", session(2), "txnNumber", int64(1), "autocommit", false, "startTransaction", true)
	near := d("find", "orders", "filter", d("place", d("$near", d("$geometry", d("type", "Point", "coordinates", bson.A{1, 2})))))
	entry := d("q", d("_id", 0), "u", d("$set", d("x", 1)))
	for _, c := range []struct {
		name string
		cmd  bson.D
		more bson.D
		want int32
	}{
		{name: "update", cmd: d("update", "orders", "updates", bson.A{entry})},
		{name: "retryable update", cmd: d("update", "orders", "updates", bson.A{entry}), more: retryable},
		{name: "unordered update", cmd: d("update", "orders", "updates", bson.A{entry, entry}, "ordered", false)},
		{name: "delete", cmd: d("delete", "orders", "deletes", bson.A{d("q", d("_id", 0), "limit", 1)})},
		{name: "findAndModify", cmd: d("findAndModify", "orders", "query", d("_id", 0), "remove", true)},
		{name: "bulkWrite", cmd: d("bulkWrite", 1, "ops", bson.A{d("delete", 0, "filter", d("_id", 0))}, "nsInfo", bson.A{d("ns", "app.orders")})},
		{name: "$out", cmd: d("aggregate", "orders", "pipeline", bson.A{d("$out", "other")}, "cursor", d())},
		{name: "renameCollection", cmd: d("renameCollection", "app.orders", "to", "app.other")},
		{name: "dropDatabase", cmd: d("dropDatabase", 1)},
		{name: "explain", cmd: d("explain", d("aggregate", "orders", "pipeline", bson.A{d("$out", "other")}, "cursor", d()))},
		{name: "find", cmd: near, want: 20},
		{name: "find in a transaction", cmd: near, more: open},
	} {
		db := "app"
		if c.name == "bulkWrite" || c.name == "renameCollection" {
			db = "admin"
		}
		if c.want == 0 {
			c.want = 115
		}
		r := g.client.Run(db, append(c.cmd[:len(c.cmd):len(c.cmd)], c.more...))
		codes := []any{wiretest.Get(r, "code")}
		errs, _ := wiretest.Get(r, "writeErrors").(bson.A)
		rows, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		for _, e := range append(errs, rows...) {
			codes = append(codes[:0], wiretest.Get(e.(bson.D), "code"))
		}
		if codes[0] != c.want || !strings.Contains(fmt.Sprint(r), "tenantry: ") {
			t.Errorf("%s: %v, want %d: %v", c.name, codes, c.want, r)
		}
	}
}

// Who has the document answers, also where another cluster that could have it says nothing.
func TestFindOneWaitsForNobody(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	for name, fail := range map[string]func(*ground){
		"gone": func(g *ground) { g.big.Close() },
		"hung": func(g *ground) {
			g.big.Handle(func(c wiretest.Command) wiretest.Reply {
				if c.Name == "find" {
					return wiretest.Pass().After(hung)
				}
				return wiretest.Pass()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := twoClusters(t)
			g.insert(t, 1, "globex")
			g.client.Run("app", d("find", "orders", "filter", d("_id", 7))) // so that there are connections
			fail(g)
			start := time.Now()
			r := g.client.Run("app", d("find", "orders", "filter", d("_id", 1)))
			if took := time.Since(start); ids(r, "firstBatch") != "1 " || took > 1500*time.Millisecond {
				t.Errorf("after %v it gives %v", took, r)
			}
		})
	}
}

// An outage does not fill the disk with one line for each command.
func TestOutageIsToldOf(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "insert" {
			return wiretest.HangUp()
		}
		return wiretest.Pass()
	})
	for i := range 50 {
		g.client.Run("app", d("insert", "orders", "documents", bson.A{d("_id", i, "tenantId", "acme")}))
	}
	if n := strings.Count(g.log.String(), "no answer from the cluster"); n < outageLines.Count || n > 2*outageLines.Count {
		t.Errorf("%d lines of 50", n)
	}
}
