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
	"go.uber.org/goleak"
)

func newLoops(t testing.TB, n int) *Loops {
	t.Helper()
	l, err := NewLoops(n, true)
	if l == nil {
		t.Skip("there are no loops on this system:", err)
	}
	t.Cleanup(l.Close)
	return l
}

// watching takes what has come whenever it is told to, and reads on a goroutine what is not whole.
type watching struct {
	c      *Conn
	frames chan string // what has come
	ended  chan error
	busy   sync.Mutex // held by who reads
	takes  int
	reads  int
	early  time.Time // when a message is said to have come though none had
}

func watch(t testing.TB, l *Loops, nc net.Conn) *watching {
	t.Helper()
	w := &watching{c: NewConn(nc), frames: make(chan string, 10000), ended: make(chan error, 1)}
	w.busy.Lock()
	defer w.busy.Unlock()
	if !w.c.Watch(l, w) || !w.c.Watched() {
		t.Fatal("it is not watched")
	}
	return w
}

func (w *watching) Ready(turn *Turn) {
	if turn.At.After(time.Now()) {
		w.early = turn.At
	}
	w.busy.Lock()
	turn.Read(w.c, w)
}

// Step takes what has come, until a goroutine goes on.
func (w *watching) Step(turn *Turn) {
	for {
		frame, found, err := w.c.Take()
		switch {
		case err != nil:
			w.end(err)
		case found == TakenMessage:
			w.takes++
			w.frames <- string(frame.B)
			frame.Free()
			continue
		case found == TakenMore:
			go w.readWaiting()
			return
		case w.c.Unread():
			turn.Read(w.c, w)
			return
		}
		w.busy.Unlock()
		return
	}
}

func (w *watching) readWaiting() {
	frame, err := w.c.ReadMessage(MaxMessage)
	if err != nil {
		w.end(err)
		w.busy.Unlock()
		return
	}
	w.reads++
	w.frames <- string(frame.B)
	frame.Free()
	turn := Turn{At: time.Now()} // what a read that waits has left nobody is told of
	turn.Read(w.c, w)
	turn.Run()
}

// close closes it when nobody uses it.
func (w *watching) close() {
	w.busy.Lock()
	defer w.busy.Unlock()
	_ = w.c.Close()
}

func (w *watching) end(err error) {
	select {
	case w.ended <- err:
	default: // it was told already
	}
}

// TestLoopsMissNothing: what many send in pieces of any size, behind each other, comes whole and in order;
// what is small and comes at once is taken.
func TestLoopsMissNothing(t *testing.T) {
	l := newLoops(t, 2)
	var wg sync.WaitGroup
	for i := range 20 {
		near, far := tcpPair(t)
		if i%4 > 1 {
			near, far = unixPair(t)
		}
		w := watch(t, l, far)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			var sent []string
			for n := range 300 {
				size := rnd.IntN(300)
				switch rnd.IntN(40) {
				case 0:
					size = TakeSize - 100 + rnd.IntN(200)
				case 1:
					size = rnd.IntN(3 * BudgetFloor)
				}
				sent = append(sent, string(AppendMessage(nil, int32(n), 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat("y", size)}}))))
			}
			go func() {
				pieces := i%2 == 0
				for b := strings.Join(sent, ""); len(b) > 0; {
					n := len(b)
					if pieces {
						n = min(n, 1+rnd.IntN(2000))
					}
					if _, err := io.WriteString(near, b[:n]); err != nil {
						t.Error(err)
						return
					}
					b = b[n:]
				}
			}()
			for n, want := range sent {
				select {
				case got := <-w.frames:
					if got != want {
						t.Errorf("message %d has %d bytes, want %d", n, len(got), len(want))
						return
					}
				case err := <-w.ended:
					t.Errorf("message %d: %v", n, err)
					return
				case <-time.After(10 * time.Second):
					t.Errorf("message %d has not come", n)
					return
				}
			}
			_ = near.Close()
			if err := <-w.ended; !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			w.close()
			if w.takes == 0 || !w.early.IsZero() {
				t.Errorf("%d taken, %d read; %v", w.takes, w.reads, w.early)
			}
		})
	}
	wg.Wait()
}

// TestLoopsTellWhatWasThere: a message that came before the connection was watched is told too.
func TestLoopsTellWhatWasThere(t *testing.T) {
	l := newLoops(t, 1)
	near, far := tcpPair(t)
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	if _, err := near.Write(m); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	w := watch(t, l, far)
	defer w.close()
	if got := <-w.frames; got != string(m) {
		t.Errorf("%q", got)
	}
}

// TestLoopsOfTheMuted: of what comes to a connection that is muted the loop tells nobody, and of all that has
// come when it is not any more, the end included.
func TestLoopsOfTheMuted(t *testing.T) {
	l := newLoops(t, 1)
	near, far := tcpPair(t)
	w := watch(t, l, far)
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	send := func() {
		t.Helper()
		if _, err := near.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	mute := func() { // when what has come before is read
		w.busy.Lock()
		defer w.busy.Unlock()
		w.c.Mute()
		w.c.Mute()
	}
	for range 3 {
		mute()
		send()
		select {
		case <-w.frames:
			t.Fatal("the loop told of what came to a muted connection")
		case <-time.After(30 * time.Millisecond):
		}
		w.c.Unmute()
		if got := <-w.frames; got != string(m) {
			t.Fatalf("%q", got)
		}
		send()
		if got := <-w.frames; got != string(m) {
			t.Fatalf("%q", got)
		}
	}
	mute()
	send()
	_ = near.Close()
	time.Sleep(20 * time.Millisecond)
	w.c.Unmute()
	if got := <-w.frames; got != string(m) {
		t.Fatalf("%q", got)
	}
	if err := <-w.ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	w.close()
}

// TestLoopsHearOfTheEnd: of a Sever from elsewhere and of a reset, and of nothing after a Close, whose
// socket's number is another one's soon.
func TestLoopsHearOfTheEnd(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := NewLoops(1, true)
	if l == nil {
		t.Skip("there are no loops on this system", err)
	}
	_, far := tcpPair(t)
	w := watch(t, l, far)
	w.c.Sever()
	if err := <-w.ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	w.close()
	near, far := tcpPair(t)
	w = watch(t, l, far)
	_ = near.(*net.TCPConn).SetLinger(0)
	_ = near.Close()
	if err := <-w.ended; err == nil || errors.Is(err, io.EOF) {
		t.Error(err)
	}
	w.close()
	var open []net.Conn
	for range 50 { // of the same few numbers
		near, far := tcpPair(t)
		next := watch(t, l, far)
		m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
		if _, err := near.Write(m); err != nil {
			t.Fatal(err)
		}
		if got := <-next.frames; got != string(m) {
			t.Fatalf("%q", got)
		}
		if len(w.frames) > 0 {
			t.Fatal("what is closed was told of what another one's is")
		}
		w = next
		if _, err := near.Write(m[:10]); err != nil {
			t.Fatal(err)
		}
		open = append(open, near)
		w.c.Sever()
		<-w.ended
		w.close()
	}
	for _, nc := range open {
		_ = nc.Close()
	}
	l.Close()
}

// once makes a turn of its own.
func once(ask func(*Turn, Stepper)) {
	turn := Turn{At: time.Now()}
	ask(&turn, done{})
	turn.Run()
}

type done struct{}

func (done) Step(*Turn) {}

// TestTakeHoldsNothing: who has read in vain keeps no buffer.
func TestTakeHoldsNothing(t *testing.T) {
	l := newLoops(t, 1)
	_, far := tcpPair(t)
	w := watch(t, l, far)
	defer w.close()
	w.busy.Lock()
	defer w.busy.Unlock()
	once(func(turn *Turn, s Stepper) { turn.Read(w.c, s) })
	if _, found, err := w.c.Take(); found != TakenNothing || err != nil || w.c.Buffered() {
		t.Error(found, err, w.c.Buffered())
	}
}

// TestLoopsWatchPlainTCPAlone: others have to be waited for by a goroutine.
func TestLoopsWatchPlainTCPAlone(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if c := NewConn(far); c.Watch(newLoops(t, 1), nil) || c.Watched() || c.Plain() {
		t.Error("a pipe is watched")
	}
	_, tcp := tcpPair(t)
	if c := NewConn(tcp); c.Watch(nil, nil) || c.Watched() {
		t.Error("nobody watches")
	}
}

// TestTurnsWriteDoesNotWait: of what the socket does not take it says so.
func TestTurnsWriteDoesNotWait(t *testing.T) {
	l := newLoops(t, 1)
	near, far := tcpPair(t)
	w := watch(t, l, far)
	defer w.close()
	b, all := make([]byte, 1<<20), 0
	for range 100 {
		once(func(turn *Turn, s Stepper) { turn.Write(w.c, b, s) })
		n := w.c.Written()
		if all += n; n < len(b) {
			break
		}
	}
	if all == 100<<20 {
		t.Fatal("it has taken 100 MiB that nobody reads")
	}
	go func() { _, _ = w.c.Write(b[:10]) }()
	if n, err := io.CopyN(io.Discard, near, int64(all+10)); err != nil || n != int64(all+10) {
		t.Error(n, err)
	}
}
