package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// hop is two connections with somebody between them who has one end of each.
func hop(t *testing.T, pair func() (near, far net.Conn)) (source net.Conn, from, to *Conn, sink net.Conn) {
	source, a := pair()
	sink, b := pair()
	t.Cleanup(func() {
		for _, nc := range []net.Conn{source, a, sink, b} {
			nc.Close()
		}
	})
	return source, NewConn(a), NewConn(b), sink
}

func large(t *testing.T, size int) []byte {
	return AppendMessage(nil, 9, 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("0123456789", size/10)}}))
}

// TestPass: what is passed on arrives byte by byte, whatever is filled from it, and the messages behind
// it are read as ever.
func TestPass(t *testing.T) {
	for name, pair := range pairs(t) {
		for _, stall := range []time.Duration{0, time.Minute} {
			t.Run(name+" "+stall.String(), func(t *testing.T) {
				source, from, to, sink := hop(t, pair)
				to.Stall = stall
				small := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
				for _, size := range []int{10, 16_000, 70_000, 300_000, 5 << 20} {
					m := large(t, size)
					go func() {
						source.Write(m)
						source.Write(small)
					}()
					const tail = 7
					got := make([]byte, len(m)-tail)
					read := make(chan error, 1)
					go func() {
						_, err := io.ReadFull(sink, got)
						read <- err
					}()
					n, front, err := from.Front(MaxMessage, 20)
					if err != nil || n != len(m) || len(front) < 20 || !bytes.HasPrefix(m, front) {
						t.Fatalf("%d: %d, %d in front, %v", len(m), n, len(front), err)
					}
					front[8] = 77
					if _, err := from.Pass(to, n-tail); err != nil {
						t.Fatal(err)
					}
					end := make([]byte, tail)
					if err := from.Fill(end); err != nil {
						t.Fatal(err)
					}
					if err := <-read; err != nil {
						t.Fatal(err)
					}
					want := bytes.Clone(m)
					want[8] = 77
					if !bytes.Equal(append(got, end...), want) {
						t.Fatalf("%d: other bytes have come", len(m))
					}
					readAll(t, from, [][]byte{small})
				}
			})
		}
	}
}

// TestFrontTakesNothing: a message that was only looked at is read whole.
func TestFrontTakesNothing(t *testing.T) {
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			source, from, _, _ := hop(t, pair)
			want := [][]byte{large(t, 10), large(t, 200_000), large(t, 30)}
			go source.Write(bytes.Join(want, nil))
			for _, m := range want {
				if n, front, err := from.Front(MaxMessage, 1000); err != nil || n != len(m) || !bytes.HasPrefix(m, front) || len(front) < min(1000, n) {
					t.Fatalf("%d of %d, %d in front, %v", n, len(m), len(front), err)
				}
				readAll(t, from, [][]byte{m})
			}
		})
	}
}

// TestPassOfACutMessage: the end in the middle is told, and nothing is read from the connection again.
func TestPassOfACutMessage(t *testing.T) {
	for name, pair := range pairs(t) {
		for _, cut := range []int{50, 16_500, 299_000} {
			t.Run(name, func(t *testing.T) {
				source, from, to, sink := hop(t, pair)
				m := large(t, 300_000)
				go func() {
					source.Write(m[:cut])
					source.Close()
				}()
				go io.Copy(io.Discard, sink)
				n, _, err := from.Front(MaxMessage, 40)
				if err != nil {
					t.Fatal(err)
				}
				ended, err := from.Pass(to, n)
				if !ended || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("ended %v: %v", ended, err)
				}
				if _, err := from.ReadMessage(MaxMessage); err == nil {
					t.Error("a message was read behind a cut one")
				}
			})
		}
	}
}

// TestPassToOneThatHasGone: the rest of the message is not taken for the next one.
func TestPassToOneThatHasGone(t *testing.T) {
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			source, from, to, sink := hop(t, pair)
			sink.Close()
			go source.Write(large(t, 20<<20))
			n, _, err := from.Front(MaxMessage, 40)
			if err != nil {
				t.Fatal(err)
			}
			if ended, err := from.Pass(to, n); ended || err == nil {
				t.Fatalf("ended %v: %v", ended, err)
			}
			if _, err := from.ReadMessage(MaxMessage); err == nil {
				t.Error("a message was read in the middle of another one")
			}
		})
	}
}

// TestPassOfAStalledMessage: who sends nothing more of a message is given up after the stall, and a
// deadline of a lull ends none.
func TestPassOfAStalledMessage(t *testing.T) {
	source, from, to, sink := hop(t, func() (net.Conn, net.Conn) { return tcpPair(t) })
	go io.Copy(io.Discard, sink)
	from.Stall = 2 * time.Second
	m := large(t, 1<<20)
	for _, part := range []int{len(m), 200_000} {
		go source.Write(m[:part])
		if err := from.EndLull(time.Now(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		err := from.Await()
		if errors.Is(err, ErrLull) { // the message was late
			err = from.Await()
		}
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := from.Front(MaxMessage, 40)
		if err != nil {
			t.Fatal(err)
		}
		_, err = from.Pass(to, n)
		var timeout net.Error
		if part == len(m) && err != nil || part < len(m) && (!errors.As(err, &timeout) || !timeout.Timeout()) {
			t.Errorf("%d bytes of %d: %v", part, len(m), err)
		}
	}
}

// TestPassStalls: who takes nothing of a message is given up after the stall.
func TestPassStalls(t *testing.T) {
	source, from, to, _ := hop(t, func() (net.Conn, net.Conn) { return tcpPair(t) })
	to.Stall = 50 * time.Millisecond
	go source.Write(large(t, 40<<20))
	n, _, err := from.Front(MaxMessage, 40)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := from.Pass(to, n)
	var timeout net.Error
	if ended || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("ended %v: %v", ended, err)
	}
}
