//go:build !race

package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func testRing(t *testing.T) *ring {
	t.Helper()
	r, err := newRing()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("io_uring can't be had: ", err)
		}
		t.Skip("io_uring can't be had: ", err)
	}
	t.Cleanup(r.close)
	return r
}

// socketStates are what a socket can be like when it is read or written.
var socketStates = map[string]func(t *testing.T, near net.Conn, far *Conn) op{
	"nothing has come": func(_ *testing.T, _ net.Conn, far *Conn) op { return op{conn: far} },
	"something has come": func(t *testing.T, near net.Conn, far *Conn) op {
		send(t, near, []byte("something"))
		return op{conn: far}
	},
	"a buffer full has come": func(t *testing.T, near net.Conn, far *Conn) op {
		send(t, near, bytes.Repeat([]byte("x"), readSize))
		return op{conn: far}
	},
	"the end has come": func(t *testing.T, near net.Conn, far *Conn) op {
		_ = near.Close()
		return op{conn: far}
	},
	"a reset has come": func(t *testing.T, near net.Conn, far *Conn) op {
		_ = near.(*net.TCPConn).SetLinger(0)
		_ = near.Close()
		return op{conn: far}
	},
	"something is to be taken": func(t *testing.T, near net.Conn, far *Conn) op {
		send(t, near, []byte("something"))
		return op{conn: holding(far, "what came before")}
	},
	"there is room": func(_ *testing.T, _ net.Conn, far *Conn) op {
		return op{conn: far, out: []byte("a reply")}
	},
	"there is some room": func(_ *testing.T, _ net.Conn, far *Conn) op {
		return op{conn: far, out: make([]byte, 64<<20)}
	},
	"there is no room": func(_ *testing.T, _ net.Conn, far *Conn) op {
		for b := make([]byte, 1<<20); writeNow(far.fd, b) > 0; {
		}
		return op{conn: far, out: []byte("a reply")}
	},
	"nobody is there to read": func(t *testing.T, near net.Conn, far *Conn) op {
		_ = near.(*net.TCPConn).SetLinger(0)
		_ = near.Close()
		return op{conn: far, out: []byte("a reply")}
	},
}

// asWatched is a connection with its socket's number, as if a loop watched it.
func asWatched(t *testing.T, nc net.Conn) *Conn {
	t.Helper()
	c := NewConn(nc)
	if err := c.raw.Control(func(fd uintptr) { c.fd = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, nc net.Conn, b []byte) {
	t.Helper()
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
}

func holding(c *Conn, text string) *Conn {
	c.in = NewBuf(readSize)
	c.in.B = append(c.in.B[:0], text...)
	return c
}

// outcome is what has come of it, with all that a user of the connection can see.
func (o *op) outcome() string {
	c := o.conn
	if len(o.out) > 0 {
		return fmt.Sprintf("written: %t, all: %t", c.written > 0, c.written == len(o.out))
	}
	var read []byte
	if c.in != nil {
		read = c.in.B
	}
	why := c.err
	if op, ok := c.err.(*net.OpError); ok {
		why = errors.Unwrap(op.Err) // the rest names addresses
	}
	return fmt.Sprintf("read: %d %.20q, full: %t, error: %v, under way: %t", len(read), read, c.full, why, o.in != nil)
}

// TestRingDoesAsCallsDo: what comes of reads and writes is the same whether each is a call or many are one,
// whatever state the sockets are in, in any order and number; and where the system takes none of them.
func TestRingDoesAsCallsDo(t *testing.T) {
	want := map[string]string{}
	prepare := func(name string) op {
		pair := tcpPair
		if name == "there is no room" { // by TCP it grows while nobody reads
			pair = unixPair
		}
		near, nc := pair(t)
		return socketStates[name](t, near, asWatched(t, nc))
	}
	var names []string
	for name := range socketStates {
		names = append(names, name)
		o := prepare(name)
		time.Sleep(5 * time.Millisecond) // what was sent has come
		o.alone()
		want[name] = o.outcome()
	}
	for name, refuses := range map[string]bool{"a ring": false, "a ring that takes nothing": true} {
		t.Run(name, func(t *testing.T) {
			r := testRing(t)
			if refuses {
				fd := r.fd
				r.fd = -1
				defer func() { r.fd = fd }()
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			for range 10 {
				var ops []op
				var told []string
				for range 1 + rnd.IntN(3*ringSize) {
					name := names[rnd.IntN(len(names))]
					if name == "there is some room" && rnd.IntN(5) > 0 {
						name = "there is room"
					}
					told = append(told, name)
					ops = append(ops, prepare(name))
				}
				time.Sleep(5 * time.Millisecond)
				r.do(ops)
				for i := range ops {
					if got := ops[i].outcome(); got != want[told[i]] {
						t.Errorf("%s, %d of %d: %s, want %s", told[i], i, len(ops), got, want[told[i]])
					}
				}
				for i := range ops {
					_ = ops[i].conn.Conn.Close()
				}
			}
			if head := *r.sqTail; head != *r.sqHead || *r.cqHead != *r.cqTail {
				t.Error("it has requests or completions left")
			}
		})
	}
}

// TestRingIsUsed: what is asked for together is the ring's work, which no other test would miss.
func TestRingIsUsed(t *testing.T) {
	r := testRing(t)
	var ops []op
	for range ringSize {
		_, nc := tcpPair(t)
		ops = append(ops, op{conn: asWatched(t, nc), out: []byte("x")})
	}
	before := *r.cqHead
	r.do(ops)
	if n := *r.cqHead - before; n != ringSize {
		t.Errorf("%d of %d were its work", n, ringSize)
	}
}

// TestRingOfManyThreads: a ring is used by whatever thread its loop runs on.
func TestRingOfManyThreads(t *testing.T) {
	r := testRing(t)
	near, nc := tcpPair(t)
	far := asWatched(t, nc)
	for range 20 {
		finished := make(chan struct{})
		go func() {
			runtime.LockOSThread() // which ends with the goroutine
			defer close(finished)
			r.do([]op{{conn: far, out: []byte("a")}, {conn: far, out: []byte("b")}})
		}()
		<-finished
		b := make([]byte, 2)
		if _, err := near.Read(b); err != nil || string(b) != "ab" {
			t.Fatal(string(b), err)
		}
	}
}

// TestRingUnsupported: of a system that lacks something a ring says so.
func TestRingUnsupported(t *testing.T) {
	r := &ring{fd: -1}
	if err := r.open(&ringParams{features: ringSingleMmap}); err == nil {
		t.Error("it was taken")
	}
	if _, err := r.mmap(ringMemory, syscall.Getpagesize()); err == nil {
		t.Error("there is nothing to map")
	}
}
