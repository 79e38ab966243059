package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

const (
	bearable       = 1500 * time.Millisecond // for one command beside the nuisance; memory is waited for 2 s
	clientsAllowed = 300
	memoryAllowed  = 128 << 20 // for messages, a half for requests; one of 48 MB takes 64 MiB

	// What the process is without messages (of which a changed one counts once and
	// is there twice): its binary, a goroutine and 16 KiB for each client that
	// stalls, and garbage.
	memoryBeside = 64 << 20
)

// What no driver sends, from many connections at once, while a driver works: the
// proxy lives, the driver notices nothing, memory stays bounded, nothing is left.
func TestGarbage(t *testing.T) {
	skipShort(t)
	server := wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member("rs0"), wiretest.Stored())
	front := proxy.StartShipped(t, config("mixed", "mongodb://"+server.Addr()+"/?replicaSet=rs0")+fmt.Sprintf(
		"[control]\nenabled = false\n[limits]\nclient_connections = %d\nmessage_memory = \"%dMiB\"\nqueue_timeout = \"2s\"\n", clientsAllowed, memoryAllowed>>20))
	worker := startWorker(t, front)
	worker.await(t, 20)
	goroutines := front.Metric(t, "go_goroutines")
	for _, x := range nuisances() {
		t.Run(x.name, func(t *testing.T) {
			worker.worst.Store(0)
			var conns []net.Conn
			defer func() {
				for _, nc := range conns {
					nc.Close()
				}
			}()
			for range x.conns {
				nc, err := net.Dial("tcp", front.Address)
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, nc)
			}
			var all sync.WaitGroup
			for i, nc := range conns {
				all.Go(func() {
					nc.SetDeadline(time.Now().Add(10 * time.Second))
					x.act(nc, rand.New(rand.NewPCG(1, uint64(i))))
				})
			}
			all.Wait()
			worker.await(t, 20)
			rss := front.Metric(t, "process_resident_memory_bytes")
			worst := time.Duration(worker.worst.Load()).Round(time.Millisecond)
			t.Logf("the worker's slowest command took %v, the proxy has %.0f MiB", worst, rss/(1<<20))
			if worst > bearable {
				t.Errorf("the worker's slowest command took %v", worst)
			}
			if rss > 2*memoryAllowed+memoryBeside {
				t.Errorf("the proxy has grown to %.0f MiB", rss/(1<<20))
			}
		})
	}
	worker.stop(t)
	if n := front.Metric(t, "tenantry_panics_total"); n > 0 {
		t.Errorf("%.0f panics", n)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		n, clients := front.Metric(t, "go_goroutines"), front.Metric(t, "tenantry_client_connections")
		if n <= goroutines+10 { // backend connections' and the like
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%.0f goroutines are left and %.0f clients, there were %.0f goroutines", n, clients, goroutines)
		}
	}
}

// nuisance is one way of sending what is no conversation.
type nuisance struct {
	name  string
	conns int
	act   func(net.Conn, *rand.Rand)
}

func nuisances() []nuisance {
	rounds := 1
	if long() {
		rounds = 20
	}
	bombs := [][]byte{bomb(wire.Snappy), bomb(wire.Zlib), bomb(wire.Zstd)}
	return []nuisance{
		{"random bytes", 100, func(nc net.Conn, r *rand.Rand) {
			b := make([]byte, 1+r.IntN(4096))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			nc.Write(b)
			untilClosed(nc, time.Second)
		}},
		{"mutated messages", 50 * rounds, func(nc net.Conn, r *rand.Rand) {
			for range 20 {
				b := find(200)
				for range 1 + r.IntN(4) {
					b[r.IntN(len(b))] = byte(r.Uint32())
				}
				binary.LittleEndian.PutUint32(b, uint32(len(b)))
				if _, err := nc.Write(b); err != nil {
					return
				}
				nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // some ask for no reply
				nc.Read(make([]byte, 4096))
			}
		}},
		{"wrong lengths", 60, func(nc net.Conn, r *rand.Rand) {
			lengths := []uint32{0, 1, 15, 16, 20, 1 << 31, 1<<31 - 1, 48_000_001, 0xffffffff}
			b := find(0)
			binary.LittleEndian.PutUint32(b, lengths[r.IntN(len(lengths))])
			nc.Write(b)
			untilClosed(nc, time.Second)
		}},
		{"half messages", 200, func(nc net.Conn, r *rand.Rand) {
			b := find(300)
			nc.Write(b[:1+r.IntN(len(b)-1)]) // and nothing more until the end
		}},
		{"HTTP", 20, func(nc net.Conn, _ *rand.Rand) {
			nc.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
			untilClosed(nc, 10*time.Second)
		}},
		{"TLS", 20, func(nc net.Conn, _ *rand.Rand) {
			tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}},
		{"48 MB announced and not sent", 100, func(nc net.Conn, _ *rand.Rand) {
			b := find(100)
			binary.LittleEndian.PutUint32(b, wire.MaxMessage)
			nc.Write(b)
		}},
		{"48 MB announced, a part sent, then nothing", 20, func(nc net.Conn, _ *rand.Rand) {
			b := find(100_000)
			binary.LittleEndian.PutUint32(b, wire.MaxMessage)
			nc.Write(b)
		}},
		{"bombs", 10 * rounds, func(nc net.Conn, r *rand.Rand) {
			nc.Write(bombs[r.IntN(len(bombs))])
			nc.Read(make([]byte, 4096)) // the server's reply, or the end
		}},
		{"too many connections", 4 * clientsAllowed, func(nc net.Conn, _ *rand.Rand) {
			nc.Write(find(10))
		}},
	}
}

// find is a command with a long string in it.
func find(n int) []byte {
	return wire.AppendMessage(nil, 1, 0, 0, wiretest.D(bson.D{
		{Key: "find", Value: "orders"},
		{Key: "filter", Value: bson.D{{Key: "tenantId", Value: isolated}, {Key: "x", Value: strings.Repeat("x", n)}}},
		{Key: "$db", Value: shared},
	}))
}

// bomb is a message that is small and unpacks to 47 MB.
func bomb(by wire.Compressor) []byte {
	plain := wire.NewBuf(0)
	plain.B = find(47_000_000)
	packed, err := wire.Compress(plain, by)
	if err != nil {
		panic(err)
	}
	defer packed.Free()
	return bytes.Clone(packed.B)
}

// untilClosed reads until the other side closes, or for a while.
func untilClosed(nc net.Conn, limit time.Duration) {
	nc.SetReadDeadline(time.Now().Add(limit))
	b := make([]byte, 4096)
	for {
		if _, err := nc.Read(b); err != nil {
			return
		}
	}
}

// worker is a driver that works, with small and with large documents, and may not fail.
type worker struct {
	done   atomic.Int64
	worst  atomic.Int64 // duration of the slowest command since it was last asked
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func startWorker(t *testing.T, front *proxy.Proxy) *worker {
	t.Helper()
	orders := open(t, front.URI+"?maxPoolSize=4&retryWrites=false&retryReads=false").Database(shared).Collection("orders")
	ctx, cancel := context.WithCancel(t.Context())
	w := &worker{cancel: cancel, ended: make(chan struct{})}
	big := strings.Repeat("y", 300_000)
	go func() {
		defer close(w.ended)
		for n := 0; ctx.Err() == nil; n++ {
			began := time.Now()
			id := fmt.Sprint("w", n%10)
			mine := bson.D{{Key: "tenantId", Value: isolated}, {Key: "_id", Value: id}}
			if n < 10 {
				_, w.err = orders.InsertOne(t.Context(), append(mine, bson.E{Key: "text", Value: big}))
			} else {
				w.err = orders.FindOne(t.Context(), mine).Err()
			}
			if w.err != nil {
				return
			}
			w.done.Add(1)
			if took := int64(time.Since(began)); took > w.worst.Load() {
				w.worst.Store(took)
			}
		}
	}()
	return w
}

// await waits until the worker has done so many commands more.
func (w *worker) await(t *testing.T, n int64) {
	t.Helper()
	goal := w.done.Load() + n
	for end := time.Now().Add(10 * time.Second); w.done.Load() < goal; time.Sleep(2 * time.Millisecond) {
		select {
		case <-w.ended:
			t.Fatalf("the worker failed: %v", w.err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the worker did %d of %d commands", w.done.Load()-goal+n, n)
		}
	}
}

func (w *worker) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	<-w.ended
	if w.err != nil {
		t.Errorf("the worker failed: %v", w.err)
	}
}
