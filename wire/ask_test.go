package wire

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// answering reads messages and answers each at once with what it was asked.
func answering(t *testing.T, nc net.Conn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := NewConn(nc)
		for {
			b, err := c.ReadMessage(MaxMessage)
			if err != nil {
				return
			}
			_, err = c.Write(b.B)
			b.Free()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		nc.Close()
		<-done
	})
}

// TestAsk: no answer is ever missed, however soon it comes.
func TestAsk(t *testing.T) {
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			near, far := pair()
			defer near.Close()
			answering(t, far)
			c := NewConn(near)
			small := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: 1}}))
			for i, size := range []int{0, 100, 20_000, BudgetFloor - 100, BudgetFloor, 1 << 20} {
				large := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("y", size)}}))
				for range 300 {
					for _, question := range [][]byte{small, large} {
						n, err := c.Ask(question)
						if err != nil || n != len(question) {
							t.Fatalf("%d: %d of %d bytes: %v", i, n, len(question), err)
						}
						b, err := c.ReadMessage(MaxMessage)
						if err != nil || string(b.B) != string(question) {
							t.Fatalf("%d: another answer: %v", i, err)
						}
						b.Free()
						if c.Buffered() {
							t.Fatal("more than the answer was read")
						}
					}
					if size > 1<<17 {
						break
					}
				}
			}
		})
	}
}

// TestAskWritesAllInPieces: a question that the socket does not take at once goes out whole.
func TestAskWritesAllInPieces(t *testing.T) {
	near, far := tcpPair(t)
	if err := near.(*net.TCPConn).SetWriteBuffer(1); err != nil {
		t.Fatal(err)
	}
	answering(t, far)
	c := NewConn(near)
	question := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("y", BudgetFloor-200)}}))
	for range 50 {
		if n, err := c.Ask(question); err != nil || n != len(question) {
			t.Fatal(n, err)
		}
		b, err := c.ReadMessage(MaxMessage)
		if err != nil || string(b.B) != string(question) {
			t.Fatalf("another answer: %v", err)
		}
		b.Free()
	}
}

// TestAskOfOneThatHasGone: what the other side did before the question wakes who waits, at the latest
// when the question reaches it.
func TestAskOfOneThatHasGone(t *testing.T) {
	question := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: 1}}))
	for name, leave := range map[string]func(far net.Conn){
		"closed": func(far net.Conn) { far.Close() },
		"reset": func(far net.Conn) {
			far.(*net.TCPConn).SetLinger(0)
			far.Close()
		},
		"after the question": func(far net.Conn) {
			go func() {
				io.ReadFull(far, make([]byte, len(question)))
				far.Close()
			}()
		},
		"in the answer": func(far net.Conn) {
			go func() {
				io.ReadFull(far, make([]byte, len(question)))
				far.Write(question[:20])
				far.Close()
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := tcpPair(t)
			c := NewConn(near)
			leave(far)
			_, err := c.Ask(question)
			if err == nil {
				_, err = c.ReadMessage(MaxMessage)
			}
			if err == nil {
				t.Error("there was an answer")
			}
			if name == "in the answer" && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("a cut answer: %v", err)
			}
		})
	}
}

// TestAskIsInterrupted: closing the connection ends the wait.
func TestAskIsInterrupted(t *testing.T) {
	near, far := tcpPair(t)
	c := NewConn(near)
	asked := make(chan error, 1)
	question := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: 1}}))
	go func() {
		_, err := c.Ask(question)
		asked <- err
	}()
	if _, err := io.ReadFull(far, make([]byte, len(question))); err != nil {
		t.Fatal(err)
	}
	near.Close()
	if err := <-asked; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
