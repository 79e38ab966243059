package proxy

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// canned is a server that answers with the times of a replica set, and without an allocation, so that what is counted
// is the proxy's.
type canned struct {
	net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex // guards the following
	conns []net.Conn
}

var (
	cannedHello = wiretest.D(d("isWritablePrimary", true, "minWireVersion", 0, "maxWireVersion", 25, "maxBsonObjectSize", 16<<20,
		"maxMessageSizeBytes", 48_000_000, "maxWriteBatchSize", 100_000, "logicalSessionTimeoutMinutes", 30, "ok", 1.0))
	cannedFound = wiretest.D(d("cursor", d("firstBatch", bson.A{d("_id", 1, "tenantId", "acme", "text", strings.Repeat("x", 100))},
		"id", int64(0), "ns", "app_t_acme.orders"), "ok", 1.0, "$clusterTime", cannedTime, "operationTime", bson.Timestamp{T: 4e9, I: 1}))
	cannedWrote = wiretest.D(d("n", 1, "nModified", 1, "ok", 1.0, "$clusterTime", cannedTime, "operationTime", bson.Timestamp{T: 4e9, I: 1}))
	cannedTime  = d("clusterTime", bson.Timestamp{T: 4e9, I: 1}, "signature", d("hash", bson.Binary{Data: make([]byte, 20)}, "keyId", int64(1)))
)

func newCanned(t testing.TB) *canned {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &canned{Listener: l}
	s.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, nc)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(nc) })
		}
	})
	return s
}

func (s *canned) stop() {
	s.Close()
	s.mu.Lock()
	for _, nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *canned) serve(nc net.Conn) {
	defer nc.Close()
	c := wire.NewConn(nc)
	defer c.Release()
	var m wire.Message
	var out []byte
	for {
		b, err := c.ReadMessage(wire.MaxMessage)
		if err != nil {
			return
		}
		h := wire.ReadHeader(b.B)
		reply := cannedHello
		if h.OpCode == wire.OpQuery {
			out = wire.AppendReply(out[:0], 1, h.RequestID, reply, 0)
		} else {
			if err := m.Parse(b.B); err != nil {
				return
			}
			it := m.Body.Iter()
			it.Next()
			switch string(it.Key) {
			case "find":
				reply = cannedFound
			case "update", "insert":
				reply = cannedWrote
			}
			out = wire.AppendMessage(out[:0], 1, h.RequestID, 0, reply)
		}
		b.Free()
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// cannedGround is the proxy before a canned server, which is all of the clusters, with metrics, as it is run. All
// documents are in home.
func cannedGround(t testing.TB, names ...string) (addr string) {
	t.Helper()
	server := newCanned(t)
	reg := prometheus.NewRegistry()
	clusters := backend.New(backend.Options{Log: zerolog.Nop(), Registerer: reg})
	var specs []backend.Spec
	known := map[string]config.Cluster{}
	for _, name := range names {
		specs = append(specs, backend.Spec{Name: name, URI: "mongodb://" + server.Addr().String()})
		known[name] = config.Cluster{}
	}
	if err := clusters.Apply(specs, backend.Limits{}); err != nil {
		t.Fatal(err)
	}
	router := &routing.Router{}
	router.Publish(tableOf(t, 1, nil))
	key := []byte(strings.Repeat("k", 32))
	p := New(Options{Log: zerolog.Nop(), Registerer: reg, Router: router, Clusters: clusters, Loops: newLoops(t), FleetKey: func() []byte { return key }})
	p.Apply(&config.Config{
		Log: config.Log{Slow: time.Minute}, Clusters: known,
		Limits: config.Limits{QueueTimeout: time.Second, ClientConnections: 20000},
	})
	a, err := p.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.Shutdown(ctx)
		clusters.Close()
		server.stop()
	})
	return a.String()
}

// plain are commands whose way there and back is the plain path.
var plain = []struct {
	name string
	db   string
	cmd  bson.D
}{
	{"ping", "admin", d("ping", 1)},
	{"find in shared", "app", d("find", "users", "filter", d("name", "x"), "lsid", session(1))},
	{"find of an isolated tenant", "app", d("find", "orders", "filter", d("tenantId", "acme", "n", 1), "lsid", session(1))},
	{"update of an isolated tenant", "app", d("update", "orders", "updates", bson.A{
		d("q", d("tenantId", "acme", "n", 1), "u", d("$set", d("x", 1))),
	}, "lsid", session(1), "txnNumber", int64(1))},
	{"insert of an isolated tenant", "app", d("insert", "orders", "documents", bson.A{d("_id", 1, "tenantId", "acme")}, "lsid", session(1), "txnNumber", int64(1))},
	{"find with a time", "app", d("find", "orders", "filter", d("tenantId", "acme"), "lsid", session(1), "$clusterTime", cannedTime)},
}

// asked returns a function that sends the next of some commands and reads its reply without an allocation.
func asked(t testing.TB, addr, db string, cmds ...bson.D) func() {
	c := wiretest.Dial(t, addr)
	var frames [][]byte
	for _, cmd := range cmds {
		full := append(cmd, bson.E{Key: "$db", Value: db})
		if reply := wiretest.Decode(c.Command(full)); wiretest.Get(reply, "ok") != 1.0 {
			t.Fatalf("reply: %v", reply)
		}
		frames = append(frames, wire.AppendMessage(nil, 7, 0, 0, wiretest.D(full)))
	}
	next := 0
	return func() {
		next = (next + 1) % len(frames)
		if _, err := c.Write(frames[next]); err != nil {
			t.Fatal(err)
		}
		b, err := c.ReadMessage(wire.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	}
}

// TestAllocs: what most commands are costs no allocation on the whole way there and back.
func TestAllocs(t *testing.T) {
	if raceOn {
		t.Skip("the race detector empties pools at random")
	}
	for _, clusters := range [][]string{{"home"}, {"home", "big"}} {
		addr := cannedGround(t, clusters...)
		none := func(name, db string, cmds ...bson.D) {
			t.Run(fmt.Sprint(name, " ", clusters), func(t *testing.T) {
				run := asked(t, addr, db, cmds...)
				defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties pools
				run()
				if n := testing.AllocsPerRun(500, run); n > 0 {
					t.Errorf("%v allocations", n)
				}
			})
		}
		for _, x := range plain {
			none(x.name, x.db, x.cmd)
		}
		var cmds []bson.D
		for i := range byte(2*maxDerived + 1) {
			cmds = append(cmds, d("find", "orders", "filter", d("tenantId", "acme"), "lsid", session(i)))
		}
		none("sessions in turn", "app", cmds...)
	}
}

func BenchmarkPlain(b *testing.B) {
	addr := cannedGround(b, "home")
	for _, x := range plain {
		b.Run(x.name, func(b *testing.B) {
			run := asked(b, addr, x.db, x.cmd)
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}
