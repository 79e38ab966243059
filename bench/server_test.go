package main

import (
	"bytes"
	"net"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// started serves on an address of the system's until the test ends.
func started(t *testing.T, serve func(net.Conn) error) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- listen(l, &bytes.Buffer{}, serve) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestCannedServerAnswers(t *testing.T) {
	c := wiretest.Dial(t, started(t, newCanned().serve))
	if r := c.Run("admin", bson.D{{Key: "hello", Value: 1}}); wiretest.Get(r, "isWritablePrimary") != true {
		t.Errorf("hello: %v", r)
	}
	if r := c.Run("app", bson.D{{Key: "insert", Value: "orders"}, {Key: "documents", Value: bson.A{bson.D{}}}}); wiretest.Get(r, "n") != int32(1) {
		t.Errorf("insert: %v", r)
	}
	r := c.Run("app_tenant_t00001", bson.D{{Key: "find", Value: "order_items"}, {Key: "batchSize", Value: 300}})
	if wiretest.Get(r, "cursor", "ns") != "app_tenant_t00001.order_items" || wiretest.Get(r, "cursor", "id") != int64(cursorID) {
		t.Errorf("find: %v", r)
	}
	r = c.Run("app", bson.D{{Key: "find", Value: "timed"}, {Key: "batchSize", Value: 300}})
	if told := wiretest.Get(r, "operationTime"); told == nil || told != wiretest.Get(r, "$clusterTime", "clusterTime") {
		t.Errorf("a member of a replica set tells %v", r)
	}
	if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) == 0 {
		t.Errorf("a find with times: %v", r)
	}
	r = c.Run("app", bson.D{{Key: "listIndexes", Value: "orders"}})
	if list, ok := wiretest.Get(r, "cursor", "firstBatch").(bson.A); !ok || len(list) > 0 {
		t.Errorf("listIndexes: %v", r)
	}
	r = c.Run("app", bson.D{{Key: "getMore", Value: int64(cursorID)}, {Key: "collection", Value: "order_items"}, {Key: "batchSize", Value: 300}})
	if docs, _ := wiretest.Get(r, "cursor", "nextBatch").(bson.A); len(docs) == 0 {
		t.Errorf("getMore: %v", r)
	}
}

func TestRepliesAreOfTheSizeAskedFor(t *testing.T) {
	for _, size := range []int{200, 16 << 10, 1 << 20, 16 << 20} {
		b := batchReply("firstBatch", "app_tenant_t00001.orders", 0, size, untimed)
		var m wire.Message
		if err := m.Parse(b); err != nil {
			t.Fatalf("%d: %v", size, err)
		}
		if err := m.Body.Check(); err != nil {
			t.Fatalf("%d: %v", size, err)
		}
		if len(b) < size-100 || len(b) > size+200 {
			t.Errorf("%d bytes, want about %d", len(b), size)
		}
	}
}

func TestFloorsPassEverything(t *testing.T) {
	for name, serve := range map[string]func(client, server net.Conn) error{"framing": framing, "copy": copying} {
		t.Run(name, func(t *testing.T) {
			server := started(t, newCanned().serve)
			c := wiretest.Dial(t, started(t, relayTo(server, serve)))
			for _, size := range []int{200, 1 << 20, 300} {
				reply := c.Command(bson.D{{Key: "find", Value: "orders"}, {Key: "batchSize", Value: size}, {Key: "$db", Value: "app"}})
				want := batchReply("firstBatch", "app.orders", 0, size, untimed)
				if !bytes.Equal(reply, want[wire.FlagsAt+5:]) {
					t.Errorf("a reply of %d bytes came as %d", len(want), len(reply))
				}
			}
		})
	}
}

func TestLoadIsCounted(t *testing.T) {
	server := started(t, newCanned().serve)
	for _, l := range []load{
		{Command: "find", Collection: "orders", Tenants: 10, Reply: 200, Clients: 3},
		{Command: "find", Collection: "orders", Tenants: 10, Reply: 200, Clients: 3, Rate: 2000},
		{Command: "find", Collection: "orders", NoTenant: true, Reply: 100_000, Clients: 1},
		{Command: "insert", Collection: "orders", Tenants: 10, Insert: 3 << 20, Clients: 1},
		{Command: "getMore", Collection: "order_items", Tenants: 10, Reply: 20_000, Clients: 2},
	} {
		l.Address, l.Warm, l.For = server, 10*time.Millisecond, 500*time.Millisecond
		r, err := l.run()
		if err != nil || r.Commands == 0 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.Latency.P99 > r.Latency.Max {
			t.Errorf("%s: %+v, %v", l.Command, r, err)
		}
	}
}

func TestLoadFailsWithItsServer(t *testing.T) {
	refusing := started(t, func(nc net.Conn) error {
		in := newFramer(nc)
		for {
			m, err := in.next()
			if err != nil {
				return err
			}
			no := wire.NewMessage(1, wire.ReadHeader(m).RequestID, 0, wire.Errorf(wire.Unauthorized, "no").Doc())
			_, err = nc.Write(no.B)
			no.Free()
			if err != nil {
				return err
			}
		}
	})
	closing := started(t, func(net.Conn) error { return nil })
	for _, address := range []string{refusing, closing} {
		l := load{Address: address, Command: "find", Collection: "orders", Tenants: 1, Clients: 2, For: 10 * time.Millisecond}
		if r, err := l.run(); err == nil {
			t.Errorf("a load that was never answered gave %+v", r)
		}
	}
}
