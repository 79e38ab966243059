//go:build unix

package wire

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestAwaitHoldsNothing looks from inside of the wait: a try that finds nothing has freed its
// buffer.
func TestAwaitHoldsNothing(t *testing.T) {
	near, far := tcpPair(t)
	c := NewConn(far)
	tries, held := make(chan struct{}, 10), atomic.Bool{}
	c.ready = func(fd uintptr) bool {
		ok := c.tryRead(fd)
		if !ok && c.in != nil {
			held.Store(true)
		}
		tries <- struct{}{}
		return ok
	}
	done := make(chan error)
	go func() { done <- c.Await() }()
	<-tries
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	near.Write(m)
	if err := <-done; err != nil || held.Load() || !c.Buffered() {
		t.Errorf("%v, held while waiting: %v, there afterwards: %v", err, held.Load(), c.Buffered())
	}
	readAll(t, c, [][]byte{m})
	if c.Buffered() {
		t.Error("a buffer is held after the message")
	}
	far.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := c.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	far.SetReadDeadline(time.Time{})
	near.Close()
	if err := c.Await(); err != io.EOF {
		t.Errorf("got %v", err)
	}
}
