package proxy

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// largeInsert is the frame of an insert of so many bytes, its documents in a section as drivers send it.
func largeInsert(id int32, coll string, size int, flags wire.Flag, more ...bson.E) []byte {
	body := append(append(d("insert", coll, "ordered", true), more...), bson.E{Key: "$db", Value: "app"})
	var docs []wire.Doc
	for i, row := range rows(size) {
		docs = append(docs, wiretest.D(append(row.(bson.D)[1:], bson.E{Key: "_id", Value: fmt.Sprint(id, "-", i)})))
	}
	return wire.AppendSection(wire.AppendMessage(nil, id, 0, flags, wiretest.D(body)), "documents", docs...)
}

func (g *ground) inserted(c *wiretest.Client, frame []byte) bson.D {
	g.t.Helper()
	if err := c.SendFrame(frame); err != nil {
		g.t.Fatal(err)
	}
	return c.Receive().D()
}

func (g *ground) count(coll string) any {
	g.t.Helper()
	return wiretest.Get(g.server.Dial().Run("app", d("count", coll)), "n")
}

// TestLargeInserts: an insert is one and the same whether it is passed on, collected, or divided; the
// commands behind it are served.
func TestLargeInserts(t *testing.T) {
	for _, size := range []int{1000, pullFloor, 5 << 20} {
		n := int32(len(rows(size)))
		g := newGround(t, nil)
		frames := map[string][]byte{
			"platform":    largeInsert(1, "users", size, 0, d("lsid", session(1), "txnNumber", int64(1))...),
			"checksum":    wire.AppendChecksum(largeInsert(2, "users", size, 0)),
			"of a tenant": largeInsert(3, "orders", size, 0),
		}
		for name, f := range frames {
			g.server.Forget()
			if r := g.inserted(g.client, f); wiretest.Get(r, "n") != n {
				t.Fatalf("%s, %d bytes: %v", name, size, r)
			}
			cmd := g.server.Wait("insert", 1)[0]
			want := "app"
			if name == "of a tenant" {
				want = "app_t_acme"
			}
			if len(cmd.Docs("documents")) != int(n) || cmd.Value("$db") != want {
				t.Errorf("%s, %d bytes: %d documents in %v", name, size, len(cmd.Docs("documents")), cmd.Value("$db"))
			}
			if r := g.client.Run("app", d("ping", 1)); wiretest.Get(r, "ok") != 1.0 {
				t.Errorf("after it: %v", r)
			}
		}
		if got := g.count("users"); got != 2*n {
			t.Errorf("%v documents, want %d", got, 2*n)
		}
	}
}

// TestLargeInsertWithoutAnswer: w: 0 is asked for by a flag, and the next command's answer is the next.
func TestLargeInsertWithoutAnswer(t *testing.T) {
	g := newGround(t, nil)
	if err := g.client.SendFrame(largeInsert(1, "users", 1<<20, wire.MoreToCome, d("writeConcern", d("w", 0))...)); err != nil {
		t.Fatal(err)
	}
	if r := g.client.Run("app", d("ping", 1)); wiretest.Get(r, "ok") != 1.0 {
		t.Fatal(r)
	}
	if got := g.count("users"); got != int32(len(rows(1<<20))) {
		t.Errorf("%v documents", got)
	}
}

// TestCutInserts: of an insert whose client leaves in its middle no server writes anything, and the
// connections that are lent afterwards are whole.
func TestCutInserts(t *testing.T) {
	g := newGround(t, nil)
	frame := largeInsert(1, "users", 5<<20, 0)
	for _, cut := range []int{100, 200, 20_000, 3 << 20, len(frame) - 1} {
		c := wiretest.Dial(t, g.addr)
		if err := c.SendFrame(frame[:cut]); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if r := g.client.Run("app", d("insert", "orders", "documents", bson.A{d("tenantId", "globex")})); wiretest.Get(r, "n") != int32(1) {
			t.Fatalf("cut after %d, the next one: %v", cut, r)
		}
	}
	if got := g.count("users"); got != int32(0) {
		t.Errorf("%v documents were written", got)
	}
}

// TestLargeInsertWithoutServer: the client gets an answer that says so, and its connection goes on.
func TestLargeInsertWithoutServer(t *testing.T) {
	g := newGround(t, nil)
	g.client.Run("app", d("ping", 1))
	g.server.Kill()
	for range 100 { // a connection of which nobody knows yet that it is dead would take the beginning
		if wiretest.Get(g.client.Run("app", d("ping", 1)), "code") == int32(wire.HostUnreachable) {
			break
		}
	}
	r := g.inserted(g.client, largeInsert(1, "users", 1<<20, 0, d("lsid", session(1), "txnNumber", int64(1))...))
	if wiretest.Get(r, "code") != int32(wire.HostUnreachable) {
		t.Fatal(r)
	}
	g.server.Restart()
	for late := time.Now().Add(wiretest.Patience); ; {
		r = g.inserted(g.client, largeInsert(2, "users", 1<<20, 0))
		if wiretest.Get(r, "ok") == 1.0 {
			break
		}
		if time.Now().After(late) {
			t.Fatal(r)
		}
	}
}

// TestServerLeavesInAnInsert: the client gets an error or the end of its connection, never an answer
// that says ok.
func TestServerLeavesInAnInsert(t *testing.T) {
	g := newGround(t, nil)
	g.server.Once("insert", wiretest.HangUp())
	c := wiretest.Dial(t, g.addr)
	if err := c.SendFrame(largeInsert(1, "users", 5<<20, 0)); err != nil {
		return
	}
	if in, err := c.TryReceive(); err == nil && wiretest.Get(in.D(), "ok") != 0.0 {
		t.Errorf("%v", in.D())
	} else if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		t.Logf("closed: %v", err)
	}
}

// TestLargeInsertsWhileTablesChange: one that a new table wants to look into is read to its end.
func TestLargeInsertsWhileTablesChange(t *testing.T) {
	g := newGround(t, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for epoch := uint64(2); ; epoch++ {
			select {
			case <-stop:
				return
			default:
			}
			g.router.Publish(tableOf(t, epoch, func(s *routing.Spec) {
				if epoch%2 == 0 {
					s.Platform, s.Collections = nil, []string{"orders", "users"}
					s.Tenants[0].Route.Collections = []string{"orders", "users"}
				}
			}))
		}
	})
	const clients, each, size = 4, 20, 200_000
	var work sync.WaitGroup
	for k := range clients {
		work.Go(func() {
			c := wiretest.Dial(t, g.addr)
			for n := range each {
				body := d("insert", "users", "$db", "app")
				var docs []wire.Doc
				for i := range len(rows(size)) {
					docs = append(docs, wiretest.D(d("_id", fmt.Sprint(k, n, i), "tenantId", "globex", "text", fmt.Sprintf("%09000d", i))))
				}
				if err := c.SendFrame(wire.AppendSection(wire.AppendMessage(nil, int32(n), 0, 0, wiretest.D(body)), "documents", docs...)); err != nil {
					t.Error(err)
					return
				}
				in, err := c.TryReceive()
				if err != nil || wiretest.Get(in.D(), "n") != int32(len(docs)) {
					t.Errorf("insert: %v, %v", in.Body, err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	wg.Wait()
	if got := g.count("users"); got != int32(clients*each*len(rows(size))) {
		t.Errorf("%v documents, want %d", got, clients*each*len(rows(size)))
	}
}
