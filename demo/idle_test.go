package demo

import (
	"crypto/tls"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// Clients that have said hello, pinged and read something, and then do nothing:
// most of a big application's connections are so at any time. And the drivers'
// monitors, which wait for a hello that changes.
func TestIdleClientsAreCheap(t *testing.T) {
	skipShort(t)
	t.Parallel() // most of the time is waiting for memory to be given back
	if runtime.GOOS != "linux" {
		t.Skip("other systems count a process's memory differently")
	}
	const clients = 5000 // with fewer, what the process itself takes would count
	ca := wiretest.NewAuthority(t)
	settings := fmt.Sprintf("tls = { cert = %q, key = %[1]q }\n\n[admin]", ca.Issue("listener", nil).File)
	for _, x := range []struct {
		name   string
		dial   func(*testing.T, *proxy.Proxy, int)
		most   float64 // KiB for each
		secure bool
	}{
		{"after commands", dialIdle, 6, false}, // 4.5 to 5.0 on a machine that has time
		{"monitors", dialMonitors, 10, false},
		{"after commands, with TLS", dialIdleTLS(ca), 24, true}, // 18 to 19, of which crypto/tls keeps 8
	} {
		t.Run(x.name, func(t *testing.T) {
			server := wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member("rs0"), wiretest.Stored())
			text := config("mixed", "mongodb://"+server.Addr()+"/?replicaSet=rs0") + "[control]\nenabled = false\n"
			if x.secure {
				text = strings.Replace(text, "[admin]", settings, 1)
			}
			front := proxy.StartShipped(t, text)
			x.dial(t, front, 50) // what is made once
			before := settledRSS(t, front)
			x.dial(t, front, clients)
			after := settledRSS(t, front)
			each := (after - before) / float64(clients) / 1024
			t.Logf("%d idle clients: %.1f KiB each (%.1f MiB before, %.1f MiB after)", clients, each, before/(1<<20), after/(1<<20))
			if each > x.most {
				t.Errorf("an idle client costs %.1f KiB, want at most %.0f", each, x.most)
			}
		})
	}
}

// settledRSS is the proxy's memory once it has stopped changing.
func settledRSS(t *testing.T, p *proxy.Proxy) float64 {
	t.Helper()
	now := p.Metric(t, "process_resident_memory_bytes")
	for range 20 {
		time.Sleep(500 * time.Millisecond)
		was := now
		if now = p.Metric(t, "process_resident_memory_bytes"); now > was-64<<10 && now < was+64<<10 {
			break
		}
	}
	return now
}

// hello is a driver's first.
var hello = bson.D{
	{Key: "hello", Value: 1},
	{Key: "helloOk", Value: true},
	{Key: "client", Value: bson.D{
		{Key: "application", Value: bson.D{{Key: "name", Value: "erp"}}},
		{Key: "driver", Value: bson.D{{Key: "name", Value: "nodejs"}, {Key: "version", Value: "7.0.0"}}},
	}},
	{Key: "$db", Value: "admin"},
}

// dialIdle makes connections that do a little and idle until the test ends.
func dialIdle(t *testing.T, p *proxy.Proxy, n int) {
	t.Helper()
	for i := range n {
		idle(t, wiretest.Dial(t, p.Address), i)
	}
}

// dialIdleTLS is dialIdle over TLS.
func dialIdleTLS(ca *wiretest.Authority) func(*testing.T, *proxy.Proxy, int) {
	return func(t *testing.T, p *proxy.Proxy, n int) {
		t.Helper()
		for i := range n {
			nc, err := tls.Dial("tcp", p.Address, &tls.Config{RootCAs: ca.Pool()})
			if err != nil {
				t.Fatal(err)
			}
			idle(t, wiretest.NewClient(t, nc), i)
		}
	}
}

// idle makes a client do a little; i tells clients apart.
func idle(t *testing.T, c *wiretest.Client, i int) {
	t.Helper()
	id := make([]byte, 16)
	id[0], id[1], id[6], id[8] = byte(i), byte(i>>8), 0x40, 0x80
	for _, cmd := range []bson.D{hello, {{Key: "ping", Value: 1}, {Key: "$db", Value: "admin"}}, {
		{Key: "find", Value: "orders"},
		{Key: "filter", Value: bson.D{{Key: "tenantId", Value: isolated}, {Key: "n", Value: 1}}},
		{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: id}}}},
		{Key: "$db", Value: shared},
	}} {
		if r := wiretest.Decode(c.Command(cmd)); wiretest.Get(r, "ok") != 1.0 {
			t.Fatalf("%v: %v", cmd[0].Key, r)
		}
	}
}

// dialMonitors makes connections that wait for the next hello of a stream until
// the test ends.
func dialMonitors(t *testing.T, p *proxy.Proxy, n int) {
	t.Helper()
	for range n {
		c := wiretest.Dial(t, p.Address)
		version := wiretest.Get(wiretest.Decode(c.Command(hello)), "topologyVersion")
		c.Send(wiretest.Outgoing{Flags: wire.ExhaustAllowed, Body: bson.D{
			{Key: "hello", Value: 1},
			{Key: "topologyVersion", Value: version},
			{Key: "maxAwaitTimeMS", Value: 600_000},
			{Key: "$db", Value: "admin"},
		}})
	}
}
