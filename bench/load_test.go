package main

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// TestNoCoordinatedOmission: a server that stops for a second delays every command that was due
// meanwhile, and each of them counts, though the client could not send them.
func TestNoCoordinatedOmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		go func() {
			in, n := newFramer(far), 0
			for {
				m, err := in.next()
				if err != nil {
					return
				}
				if n++; n == 50 {
					time.Sleep(time.Second)
				}
				reply := okReply()
				wire.SetIDs(reply, 1, wire.ReadHeader(m).RequestID)
				if _, err := far.Write(reply); err != nil {
					return
				}
			}
		}()
		g := &generator{load: &load{Clients: 1, Rate: 100}, times: newTimings(), begun: time.Now()}
		g.phase.Store(counting)
		c := &client{generator: g, nc: near, in: newFramer(near), frames: [][]byte{okReply()}}
		done := make(chan error)
		go func() { done <- c.work() }()
		time.Sleep(3 * time.Second)
		g.phase.Store(over)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		near.Close()
		l, n := g.times.summary()
		if n < 290 || n > 310 {
			t.Errorf("%d commands in 3 s at 100 a second", n)
		}
		slow := 0.0
		for _, q := range g.times.parts[0].h.Distribution() {
			if q.From > (100 * time.Millisecond).Nanoseconds() {
				slow += float64(q.Count)
			}
		}
		if slow < 85 || slow > 95 {
			t.Errorf("%v commands of a second's hundred waited for longer than 100 ms, want 90", slow)
		}
		if l.Max < 0.99e6 || l.P50 > 1500 {
			t.Errorf("latency %+v", l)
		}
	})
}

func TestForgivesTheTimersOnly(t *testing.T) {
	due := time.Now()
	for _, x := range []struct{ late, counts time.Duration }{
		{0, 0},
		{time.Millisecond, 0},
		{timerSlack, 0},
		{timerSlack + time.Millisecond, time.Millisecond},
		{time.Second, time.Second - timerSlack},
	} {
		woken := due.Add(x.late)
		if got := woken.Sub(forgiven(due, woken)); got != x.counts {
			t.Errorf("woken %v late: %v counts, want %v", x.late, got, x.counts)
		}
	}
}

func TestFramesNameTenantsInTurn(t *testing.T) {
	l := &load{Command: "find", Collection: "orders", Tenants: 1000, Reply: 200, Clients: 8}
	seen := map[string]bool{}
	for client := range l.Clients {
		list, err := frames(l, client)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			var m wire.Message
			if err := m.Parse(f); err != nil {
				t.Fatal(err)
			}
			filter, _ := m.Body.Lookup("filter")
			d, _ := filter.Doc()
			v, _ := d.Lookup("tenantId")
			s, _ := v.Str()
			seen[string(s)] = true
		}
	}
	if len(seen) != 128 {
		t.Errorf("%d tenants are named, want 16 for each of 8 clients", len(seen))
	}
}
