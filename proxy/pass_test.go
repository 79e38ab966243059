package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// rows are documents of so many bytes together.
func rows(size int) bson.A {
	batch := bson.A{}
	for n := 0; size > 0; n++ {
		batch = append(batch, d("_id", n, "tenantId", "acme", "text", strings.Repeat("x", min(size, 9000))))
		size -= 9000
	}
	return batch
}

// clock is what servers of a set add to a reply.
func clock() bson.D {
	now := bson.Timestamp{T: 7, I: 1}
	return d("$clusterTime", d("clusterTime", now, "signature", d("hash", bson.Binary{Data: make([]byte, 20)}, "keyId", int64(5))), "operationTime", now)
}

// largeFind is a find's reply in the order of a MongoDB server.
func largeFind(size int, id int64, ns string, tail ...bson.E) bson.D {
	return append(d("cursor", d("firstBatch", rows(size), "id", id, "ns", ns), "ok", 1.0), tail...)
}

// raw is the reply's frame, as an answer to the command.
func raw(cmd wiretest.Command, reply bson.D) []byte {
	return wire.AppendMessage(nil, 1, cmd.RequestID, 0, wiretest.D(reply))
}

var findOfAcme = d("find", "orders", "filter", d("tenantId", "acme"))

// TestLargeReplies: whatever form a reply has, the client gets it as the same reply of small documents.
func TestLargeReplies(t *testing.T) {
	ns := "app_t_acme.orders"
	for name, reply := range map[string]func(size int) bson.D{
		"plain":            func(n int) bson.D { return largeFind(n, 0, ns) },
		"goes on":          func(n int) bson.D { return largeFind(n, 77, ns) },
		"with times":       func(n int) bson.D { return largeFind(n, 0, ns, clock()...) },
		"operation time":   func(n int) bson.D { return largeFind(n, 0, ns, clock()[1]) },
		"of servers":       func(n int) bson.D { return largeFind(n, 0, ns, d("topologyVersion", 1)...) },
		"of another place": func(n int) bson.D { return largeFind(n, 0, "app_t_acme.orders_of_old") },
		"partial": func(n int) bson.D {
			return d("cursor", d("firstBatch", rows(n), "partialResultsReturned", true, "id", int64(0), "ns", ns), "ok", 1.0)
		},
		"id first": func(n int) bson.D {
			return d("cursor", d("id", int64(0), "ns", ns, "firstBatch", rows(n)), "ok", 1.0)
		},
		"ok first": func(n int) bson.D {
			return d("ok", 1.0, "cursor", d("firstBatch", rows(n), "id", int64(0), "ns", ns))
		},
	} {
		for _, clusters := range []int{1, 2} {
			t.Run(fmt.Sprint(name, clusters), func(t *testing.T) {
				g := newGround(t, nil)
				if clusters == 2 {
					g = twoClusters(t)
				}
				size := 0
				handle := func(cmd wiretest.Command) wiretest.Reply {
					if cmd.Name != "find" {
						return wiretest.Pass()
					}
					return wiretest.Raw(raw(cmd, reply(size)))
				}
				g.server.Handle(handle)
				if g.big != nil {
					g.big.Handle(handle)
				}
				var want bson.D
				for _, size = range []int{100, passFloor, 3 << 20} {
					got := g.client.Run("app", findOfAcme)
					cursor, _ := wiretest.Get(got, "cursor").(bson.D)
					if batch, _ := wiretest.Get(cursor, "firstBatch").(bson.A); len(batch) != len(rows(size)) {
						t.Fatalf("%d documents, want %d", len(batch), len(rows(size)))
					}
					id, _ := wiretest.Get(cursor, "id").(int64)
					if server := wiretest.Get(reply(0), "cursor", "id"); (id == 0) != (server == int64(0)) || id == 77 {
						t.Errorf("cursor id %d for the server's %v", id, server)
					}
					for i := range cursor {
						switch cursor[i].Key {
						case "firstBatch", "id":
							cursor[i].Value = nil
						}
					}
					if want == nil {
						want = got
					} else if a, b := fmt.Sprint(got), fmt.Sprint(want); a != b {
						t.Errorf("%d bytes: %s, want %s", size, a, b)
					}
				}
			})
		}
	}
}

// TestLargeBatchesOfACursor: the proxy's own id stays in every batch, and the last one ends the cursor.
func TestLargeBatchesOfACursor(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		switch cmd.Name {
		case "find":
			return wiretest.Raw(raw(cmd, largeFind(passFloor, 77, "app_t_acme.orders")))
		case "getMore":
			id := int64(0)
			if n, _ := cmd.Int("batchSize"); n == 2 {
				id = 77
			}
			if got := cmd.Value("getMore"); got != int64(77) {
				t.Errorf("the server is asked for %v", got)
			}
			return wiretest.Raw(raw(cmd, d("cursor", d("nextBatch", rows(2*passFloor), "id", id, "ns", "app_t_acme.orders"), "ok", 1.0)))
		}
		return wiretest.Pass()
	})
	id := wiretest.Get(g.client.Run("app", findOfAcme), "cursor", "id")
	for _, size := range []int{2, 3} {
		r := g.client.Run("app", d("getMore", id, "collection", "orders", "batchSize", size))
		want := id
		if size == 3 {
			want = int64(0)
		}
		if got := wiretest.Get(r, "cursor", "id"); got != want || wiretest.Get(r, "cursor", "ns") != "app.orders" {
			t.Errorf("%v of %v, want %v", got, wiretest.Get(r, "cursor", "ns"), want)
		}
	}
	if r := g.client.Run("app", d("getMore", id, "collection", "orders")); wiretest.Get(r, "code") != int32(wire.CursorNotFound) {
		t.Errorf("a cursor goes on that has ended: %v", wiretest.Get(r, "code"))
	}
}

// TestCutReplies: of a reply that the server doesn't finish the client gets an error or the end of its
// connection, never something whole; and the proxy serves on.
func TestCutReplies(t *testing.T) {
	g := newGround(t, nil)
	whole := len(wire.AppendMessage(nil, 1, 0, 0, wiretest.D(largeFind(3*passFloor, 0, "app_t_acme.orders", clock()...))))
	for _, cut := range []int{0, 10, 16, 30, 53, 54, 1000, passFloor, whole - 400, whole - 150, whole - 20, whole - 1} {
		g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
			if cmd.Name != "find" {
				return wiretest.Pass()
			}
			return wiretest.Raw(raw(cmd, largeFind(3*passFloor, 0, "app_t_acme.orders", clock()...))[:cut]).ThenHangUp()
		})
		c := wiretest.Dial(t, g.addr)
		reply, err := c.Try(append(findOfAcme, bson.E{Key: "$db", Value: "app"}))
		if err == nil && wiretest.Get(wiretest.Decode(reply), "ok") != 0.0 {
			t.Errorf("cut after %d of %d: a reply that says ok", cut, whole)
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d: %v, want the connection closed", cut, err)
		}
		g.server.Handle(nil)
		for late := time.Now().Add(wiretest.Patience); wiretest.Get(g.client.Run("app", d("find", "users")), "ok") != 1.0; {
			if time.Now().After(late) {
				t.Fatal("nothing is served any more")
			}
		}
	}
}

// TestOtherTails: a tail of the right length that is another one after all can't be told any more: the
// client's connection is closed before it has something whole.
func TestOtherTails(t *testing.T) {
	ns := "app_t_acme.orders"
	for name, change := range map[string]func([]byte){
		"not ok":         func(b []byte) { at := bytes.LastIndex(b, []byte("\x01ok\x00")); clear(b[at+4 : at+12]) },
		"another name":   func(b []byte) { copy(b[bytes.LastIndex(b, []byte(ns)):], "bpp_t_acme.orders") },
		"malformed tail": func(b []byte) { b[bytes.LastIndex(b, []byte("\x01ok\x00"))] = 0x7e },
		"malformed name": func(b []byte) { b[bytes.LastIndex(b, []byte(ns))-4]++ },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t, nil)
			g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
				if cmd.Name != "find" {
					return wiretest.Pass()
				}
				b := raw(cmd, largeFind(3*passFloor, 77, ns))
				change(b)
				return wiretest.Raw(b)
			})
			_, err := g.client.Try(append(findOfAcme, bson.E{Key: "$db", Value: "app"}))
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				t.Errorf("%v, want the connection closed in the middle", err)
			}
		})
	}
}

// TestClientLeavesInAReply: the server's connection, with the rest of the reply on it, is not lent again.
func TestClientLeavesInAReply(t *testing.T) {
	g := newGround(t, nil)
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		if cmd.Name != "find" || cmd.Collection() != "orders" {
			return wiretest.Pass()
		}
		return wiretest.Raw(raw(cmd, largeFind(14<<20, 0, "app_t_acme.orders")))
	})
	for range 3 {
		nc, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		frame := wire.AppendMessage(nil, 1, 0, 0, wiretest.D(append(findOfAcme, bson.E{Key: "$db", Value: "app"})))
		if _, err := nc.Write(frame); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		nc.Close()
		for n := range 5 {
			r := g.client.Run("app", d("insert", "users", "documents", bson.A{d("n", n)})) // is not sent twice
			if wiretest.Get(r, "n") != int32(1) {
				t.Fatalf("the next command: %v", r)
			}
		}
	}
}

// TestNotTheServersFault: a reply that its client does not take is counted as that, not as a cluster's
// absence, which operators are called for.
func TestNotTheServersFault(t *testing.T) {
	g := newGround(t, nil)
	reg := prometheus.NewRegistry()
	g.proxy.metrics = newMetrics(reg, g.proxy)
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		if cmd.Name != "find" || cmd.Collection() != "orders" {
			return wiretest.Pass()
		}
		return wiretest.Raw(raw(cmd, largeFind(14<<20, 0, "app_t_acme.orders")))
	})
	c := wiretest.Dial(t, g.addr)
	if err := c.SendFrame(wire.AppendMessage(nil, 1, 0, 0, wiretest.D(append(findOfAcme, bson.E{Key: "$db", Value: "app"})))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	c.Close()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for name := range gathered(t, reg) {
			switch name {
			case "tenantry_command_seconds home find ClientDisconnect":
				return
			case "tenantry_command_seconds home find HostUnreachable", "tenantry_command_seconds home find ok":
				t.Fatal(name)
			}
		}
	}
	t.Error("it is not counted")
}

// TestChangedLargeReplies: a reply changed at random that reaches a client whole as it is passed on is
// the one that is read whole, which a client that compresses gets.
func TestChangedLargeReplies(t *testing.T) {
	base := largeFind(passFloor, 0, "app_t_acme.orders", clock()...)
	g := newGround(t, nil)
	tries := 200
	if os.Getenv("TENANTRY_LONG") != "" {
		tries = 5000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cmd := append(findOfAcme, bson.E{Key: "$db", Value: "app"})
	for range tries {
		place, n, with := random.IntN(600), random.IntN(5), random.Uint64()
		if random.IntN(3) == 0 {
			with &= 0x0101010101
		}
		g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
			if cmd.Name != "find" {
				return wiretest.Pass()
			}
			b := raw(cmd, base)
			at := place // of the head, or counted from the end
			if at >= 60 {
				at = len(b) - 600 + place
			}
			if at < 8 || at >= 12 { // another request's reply is another matter
				var bits [8]byte
				binary.LittleEndian.PutUint64(bits[:], with)
				copy(b[at:], bits[:n])
			}
			return wiretest.Raw(b).ThenHangUp()
		})
		passed, err := wiretest.Dial(t, g.addr).Try(cmd)
		if err != nil || unreachable(passed) {
			continue
		}
		var read wire.Doc
		for range 5 { // the server hangs up each time, and is away for a moment then
			packing := wiretest.Dial(t, g.addr)
			packing.Compress(wire.Snappy)
			if read, err = packing.Try(cmd); err == nil && !unreachable(read) {
				break
			}
		}
		if !bytes.Equal(withoutID(passed), withoutID(read)) {
			t.Errorf("passed on:\n%s\nread whole (%v):\n%s", end(passed), err, end(read))
		}
	}
}

func unreachable(reply wire.Doc) bool {
	v, _ := reply.Lookup("code")
	n, _ := v.Int()
	return n == int64(wire.HostUnreachable)
}

// withoutID is a reply with its cursor's id cleared, which is drawn anew for each.
func withoutID(reply []byte) []byte {
	b := bytes.Clone(reply)
	if at := bytes.LastIndex(b, []byte("\x12id\x00")); at >= 0 && at+12 <= len(b) {
		clear(b[at+4 : at+12])
	}
	return b
}

func end(b []byte) string { return fmt.Sprintf("%d bytes … %q", len(b), b[max(0, len(b)-300):]) }
