package wire

import (
	"net"
	"runtime/debug"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// allocs checks how many allocations a run makes once the pools are filled.
func allocs(t *testing.T, most float64, f func()) {
	t.Helper()
	if raceOn {
		t.Skip("the race detector empties pools at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties pools
	f()
	if n := testing.AllocsPerRun(500, f); n > most {
		t.Errorf("%v allocations, want at most %v", n, most)
	}
}

func TestAllocsTCP(t *testing.T) {
	near, far := tcpPair(t)
	client, server := NewConn(near), NewConn(far)
	m := findMessage(t)
	allocs(t, 0, func() {
		if _, err := client.Write(m.B); err != nil {
			t.Fatal(err)
		}
		if err := server.Await(); err != nil {
			t.Fatal(err)
		}
		b, err := server.ReadMessage(MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	})
}

func TestAllocsLarge(t *testing.T) {
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: string(make([]byte, 500_000))}}))
	src := &chunked{size: 1 << 20}
	var nc net.Conn = src
	c := NewConn(nc)
	c.Budget = NewBudget(1 << 20)
	allocs(t, 0, func() {
		src.b = m
		b, err := c.ReadMessage(MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	})
}

func TestAllocsParse(t *testing.T) {
	var m Message
	frames := [][]byte{findMessage(t).B}
	for _, d := range dumps(t) {
		if d.name == "msg bulkWrite moreToCome" {
			frames = append(frames, d.b)
		}
	}
	allocs(t, 0, func() {
		for _, f := range frames {
			if err := m.Parse(f); err != nil {
				t.Fatal(err)
			}
			if err := m.Body.Check(); err != nil {
				t.Fatal(err)
			}
			if _, ok := m.Body.Lookup("$db"); !ok {
				t.Fatal("no $db")
			}
		}
	})
}

func TestAllocsPatch(t *testing.T) {
	b := findMessage(t)
	_, db, dbEnd := at(t, b, "$db")
	_, filter, _ := at(t, b, "filter")
	name, tenant := StringValue("warehouse").Data, elem(t, "tenant", "x")
	var p Patch
	allocs(t, 0, func() {
		in := NewBuf(len(b.B))
		copy(in.B, b.B)
		p.Reset()
		p.Replace(db, dbEnd-db, name, 21)
		p.Replace(filter+4, 0, tenant, 21, filter)
		p.Apply(in).Free()
	})
}

func TestAllocsCompress(t *testing.T) {
	b := NewMessage(1, 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("tenant", 500)}}))
	for _, c := range compressors {
		t.Run(c.String(), func(t *testing.T) {
			allocs(t, 0, func() {
				small, err := Compress(b, c)
				if err != nil {
					t.Fatal(err)
				}
				got, _, err := Decompress(small, MaxMessage)
				if err != nil {
					t.Fatal(err)
				}
				got.Free()
				small.Free()
			})
		})
	}
}
