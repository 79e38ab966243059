package wire

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// echo answers each message with itself.
type echo struct {
	c      *Conn
	served int
	stopAt int // after so many; 0 for never
}

func (e *echo) Message(frame *Buf) (more bool, err error) {
	defer frame.Free()
	e.served++
	_, err = e.c.Write(frame.B)
	return e.served != e.stopAt, err
}

// serveAll serves as a proxy does: what does not come whole is read by ReadMessage.
func serveAll(c *Conn, e *echo) error {
	for {
		err := c.Each(e)
		if errors.Is(err, ErrLull) {
			continue
		}
		if err != nil {
			return err
		}
		frame, err := c.ReadMessage(MaxMessage)
		if err != nil {
			return err
		}
		if _, err := e.Message(frame); err != nil {
			return err
		}
	}
}

// TestEachMissesNothing: messages of all sizes, sent in pieces and behind each other without waiting
// for answers, are all answered in order.
func TestEachMissesNothing(t *testing.T) {
	for kind, pair := range pairs(t) {
		t.Run(kind, func(t *testing.T) {
			near, far := pair()
			c := NewConn(far)
			ended := make(chan error, 1)
			go func() { ended <- serveAll(c, &echo{c: c}) }()
			var sent []string
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range 3000 {
				size := rnd.IntN(300)
				switch rnd.IntN(40) {
				case 0:
					size = readSize - 100 + rnd.IntN(200)
				case 1:
					size = rnd.IntN(3 * BudgetFloor)
				}
				sent = append(sent, string(AppendMessage(nil, int32(i), 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("y", size)}}))))
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				b := strings.Join(sent, "")
				for len(b) > 0 {
					n := min(len(b), 1+rnd.IntN(2000))
					if _, err := io.WriteString(near, b[:n]); err != nil {
						t.Error(err)
						return
					}
					if b = b[n:]; rnd.IntN(4) == 0 {
						time.Sleep(time.Duration(rnd.IntN(100)) * time.Microsecond)
					}
				}
			})
			back := NewConn(near)
			near.SetReadDeadline(time.Now().Add(30 * time.Second))
			for i, want := range sent {
				b, err := back.ReadMessage(MaxMessage)
				if err != nil || string(b.B) != want {
					t.Fatalf("answer %d: %v", i, err)
				}
				b.Free()
			}
			wg.Wait()
			near.Close()
			if err := <-ended; !errors.Is(err, io.EOF) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestEachReadsOn: a read that fills its buffer with whole messages may have left some behind.
func TestEachReadsOn(t *testing.T) {
	near, far := tcpPair(t)
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: ""}}))
	m = AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("y", 256-len(m))}}))
	all := strings.Repeat(string(m), 3*readSize/256)
	if _, err := io.WriteString(near, all); err != nil || len(m) != 256 {
		t.Fatal(err, len(m))
	}
	time.Sleep(10 * time.Millisecond) // all of it is there before the first read
	c := NewConn(far)
	go func() { _ = serveAll(c, &echo{c: c}) }()
	near.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(near, make([]byte, len(all))); err != nil {
		t.Error(err)
	}
}

// TestEachEnds: it goes back to its caller with what it has found, and nothing of that is lost.
func TestEachEnds(t *testing.T) {
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	for kind, pair := range pairs(t) {
		t.Run(kind, func(t *testing.T) {
			near, far := pair()
			defer near.Close()
			go io.Copy(io.Discard, near)
			c := NewConn(far)

			go near.Write(append(append([]byte{}, m...), m...))
			e := &echo{c: c, stopAt: 1}
			if err := c.Each(e); err != nil || e.served != 1 {
				t.Fatalf("one that wants no more: %v, served %d", err, e.served)
			}
			e.stopAt = 2
			if err := c.Each(e); err != nil || e.served != 2 {
				t.Fatalf("what had come with it: %v, served %d", err, e.served)
			}

			go near.Write(m[:20])
			e.stopAt = 0
			if err := c.Each(e); err != nil || e.served != 2 || !c.Buffered() {
				t.Fatalf("a part of a message: %v, served %d", err, e.served)
			}
			go near.Write(m[20:])
			readAll(t, c, [][]byte{m})

			if kind == "tcp" {
				if err := c.EndLull(time.Now(), time.Millisecond); err != nil {
					t.Fatal(err)
				}
				if err := c.Each(e); !errors.Is(err, ErrLull) {
					t.Fatalf("a lull: %v", err)
				}
			}
			go near.Close()
			if err := c.Each(e); err == nil {
				t.Error("it goes on when the other side has left")
			}
		})
	}
}

// TestEachSeesTheEnd: an end of the stream that comes with the last bytes ends it when the lull is over.
func TestEachSeesTheEnd(t *testing.T) {
	near, far := tcpPair(t)
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	near.Write(m)
	near.(*net.TCPConn).CloseWrite()
	c := NewConn(far)
	if err := c.EndLull(time.Now(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serveAll(c, &echo{c: c}) }()
	readAll(t, NewConn(near), [][]byte{m})
	select {
	case err := <-ended:
		if !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for one that has said its last")
	}
}

// TestSever: another goroutine ends a connection whose message is being served, and need not wait.
func TestSever(t *testing.T) {
	near, far := tcpPair(t)
	c := NewConn(far)
	h := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- c.Each(h) }()
	near.Write(AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}})))
	<-h.begun
	severed := make(chan struct{})
	go func() {
		c.Sever()
		close(severed)
	}()
	select {
	case <-severed:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the message to be served")
	}
	close(h.goOn)
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("it can be written to")
	}
}

// slow serves one message for as long as it is told to.
type slow struct{ begun, goOn chan struct{} }

func (s *slow) Message(frame *Buf) (bool, error) {
	frame.Free()
	close(s.begun)
	<-s.goOn
	return true, nil
}
