package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chunked is a connection that yields its bytes in pieces, then the error (io.EOF for none).
type chunked struct {
	net.Conn
	b     []byte
	size  int
	sizes []byte // of the pieces, in turn; before size counts
	err   error
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return 0, io.EOF
	}
	n := c.size
	if len(c.sizes) > 0 {
		n, c.sizes = int(c.sizes[0])+1, c.sizes[1:]
	}
	n = copy(p, c.b[:min(n, len(c.b))])
	c.b = c.b[n:]
	return n, nil
}

// messages are some of different lengths, and the bytes of all.
func messages(t testing.TB) (all [][]byte, stream []byte) {
	for i, n := range []int{0, 1, 100, readSize - 60, readSize, 3 * readSize, 5, 100_000, 7} {
		m := AppendMessage(nil, int32(i), 0, 0, doc(t, bson.D{{Key: "x", Value: string(bytes.Repeat([]byte{'a' + byte(i)}, n))}}))
		all = append(all, m)
		stream = append(stream, m...)
	}
	return all, stream
}

func readAll(t *testing.T, c *Conn, want [][]byte) {
	t.Helper()
	for i, w := range want {
		b, err := c.ReadMessage(MaxMessage)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if !bytes.Equal(b.B, w) {
			t.Fatalf("message %d: got %d bytes, want %d", i, len(b.B), len(w))
		}
		b.Free()
	}
}

func TestReadInPieces(t *testing.T) {
	all, stream := messages(t)
	for _, size := range []int{1, 2, 3, 15, 16, 17, 1000, readSize - 1, readSize, 1 << 20} {
		c := NewConn(&chunked{b: stream, size: size})
		readAll(t, c, all)
		if _, err := c.ReadMessage(MaxMessage); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
		if c.Buffered() {
			t.Error("a buffer is held at the end")
		}
	}
}

// pairs are two connected ends of each kind.
func pairs(t *testing.T) map[string]func() (near, far net.Conn) {
	return map[string]func() (near, far net.Conn){
		"pipe": net.Pipe,
		"tcp":  func() (net.Conn, net.Conn) { return tcpPair(t) },
		"unix": func() (net.Conn, net.Conn) { return unixPair(t) },
	}
}

func tcpPair(t testing.TB) (near, far net.Conn) { return pairOf(t, "tcp", "127.0.0.1:0") }

func unixPair(t testing.TB) (near, far net.Conn) {
	return pairOf(t, "unix", filepath.Join(t.TempDir(), "test.sock"))
}

func pairOf(t testing.TB, network, address string) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func TestSplitAtEachByte(t *testing.T) {
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	two := append(slices.Clone(m), m...)
	for kind, pair := range pairs(t) {
		t.Run(kind, func(t *testing.T) {
			near, far := pair()
			defer near.Close()
			c := NewConn(far)
			for i := 1; i < len(two); i++ {
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					near.Write(two[:i])
					if kind == "tcp" {
						time.Sleep(200 * time.Microsecond)
					}
					near.Write(two[i:])
				}()
				readAll(t, c, [][]byte{m, m})
				<-sent
			}
		})
	}
}

func TestManyInOneWrite(t *testing.T) {
	all, stream := messages(t)
	for kind, pair := range pairs(t) {
		t.Run(kind, func(t *testing.T) {
			near, far := pair()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				near.Write(stream)
				near.Close()
			}()
			c := NewConn(far)
			readAll(t, c, all)
			if _, err := c.ReadMessage(MaxMessage); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
			<-sent
		})
	}
}

func TestEndInTheMiddle(t *testing.T) {
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: 1}}))
	for kind, pair := range pairs(t) {
		for i := 0; i < len(m); i++ {
			near, far := pair()
			go func() {
				if i > 0 {
					near.Write(m[:i])
				}
				near.Close()
			}()
			c := NewConn(far)
			_, err := c.ReadMessage(MaxMessage)
			want := io.ErrUnexpectedEOF
			if i == 0 {
				want = io.EOF
			}
			if err != want {
				t.Errorf("%s: after %d bytes: %v, want %v", kind, i, err, want)
			}
			if _, err := c.ReadMessage(MaxMessage); err == nil {
				t.Errorf("%s: after %d bytes: a message behind the end", kind, i)
			}
			c.Release()
			far.Close()
		}
	}
}

// TestTimeoutInTheMiddle: after a part of a message was thrown away, the next byte is no header.
func TestTimeoutInTheMiddle(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	m := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "ping", Value: "long enough"}}))
	c := NewConn(far)
	far.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	go near.Write(m[:20])
	if _, err := c.ReadMessage(MaxMessage); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	far.SetReadDeadline(time.Time{})
	if _, err := c.ReadMessage(MaxMessage); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read on: %v", err)
	}
	if err := c.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("waited on: %v", err)
	}
}

func TestLengths(t *testing.T) {
	for _, c := range []struct {
		length int32
		limit  int
	}{{15, 100}, {0, 100}, {-1, 100}, {101, 100}, {1<<31 - 1, MaxMessage}} {
		b := make([]byte, 100)
		Header{Length: c.length, OpCode: OpMsg}.Put(b)
		conn := NewConn(&chunked{b: b, size: 1000})
		for range 2 {
			if _, err := conn.ReadMessage(c.limit); !isFrameError(err) {
				t.Errorf("length %d: %v", c.length, err)
			}
		}
		conn.Release()
	}
}

func TestNoProgress(t *testing.T) {
	c := NewConn(&stuck{})
	if _, err := c.ReadMessage(MaxMessage); err != io.ErrNoProgress {
		t.Errorf("got %v", err)
	}
}

type stuck struct{ net.Conn }

func (*stuck) Read([]byte) (int, error) { return 0, nil }

func TestReset(t *testing.T) {
	near, far := tcpPair(t)
	near.(*net.TCPConn).SetLinger(0)
	near.Close()
	err := NewConn(far).Await()
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("got %T %v, want a net.OpError", err, err)
	}
}

// TestWrapped: a connection that wraps a TCP connection is read by its own Read.
func TestWrapped(t *testing.T) {
	_, far := tcpPair(t)
	w := &wrapped{TCPConn: far.(*net.TCPConn)}
	if _, err := NewConn(w).ReadMessage(MaxMessage); err != io.EOF || !w.read {
		t.Errorf("%v, own Read called: %v", err, w.read)
	}
}

type wrapped struct {
	*net.TCPConn
	read bool
}

func (w *wrapped) Read([]byte) (int, error) { w.read = true; return 0, io.EOF }

func TestBudget(t *testing.T) {
	g := NewBudget(1 << 18)
	large := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: string(make([]byte, 150_000))}}))
	small := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: "y"}}))
	conn := func(b []byte) *Conn {
		c := NewConn(&chunked{b: slices.Clone(b), size: 4096})
		c.Budget, c.Wait = g, time.Millisecond
		return c
	}
	first, err := conn(large).ReadMessage(MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	second := conn(large)
	if _, err := second.ReadMessage(MaxMessage); err != ErrBudget {
		t.Errorf("got %v, want ErrBudget", err)
	}
	readAll(t, conn(small), [][]byte{small})
	first.Free()
	readAll(t, second, [][]byte{large})
	cut := conn(large[:100_000])
	if _, err := cut.ReadMessage(MaxMessage); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if !g.sem.TryAcquire(1 << 18) {
		t.Error("the budget was not given back")
	}
	g.sem.Release(1 << 18)
	huge := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: string(make([]byte, 1_000_000))}}))
	c := conn(huge)
	c.Wait = 0 // a message above the whole budget must not wait for ever
	readAll(t, c, [][]byte{huge})
}

func TestBufs(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 4097, 1 << 20, MaxMessage, 1<<26 + 1} {
		b := NewBuf(n)
		if len(b.B) != n {
			t.Errorf("got %d bytes, want %d", len(b.B), n)
		}
		b.Free()
	}
	b := NewBuf(100)
	b.B = b.B[50:]
	b.Free() // not back into the pool: the next one would be too short
	for range 100 {
		c := NewBuf(4096)
		defer c.Free()
	}
	defer func() {
		if recover() == nil {
			t.Error("freed twice")
		}
	}()
	(*Buf)(nil).Free()
	b.Free()
}

// TestLull: a wait in which nothing comes ends once, and a message that has begun is read to its end
// whatever the deadline says.
func TestLull(t *testing.T) {
	near, far := tcpPair(t)
	c := NewConn(far)
	const after = 30 * time.Millisecond
	if err := c.EndLull(time.Now(), after); err != nil {
		t.Fatal(err)
	}
	if err := c.Await(); !errors.Is(err, ErrLull) {
		t.Fatalf("nothing came: %v", err)
	}
	m := findMessage(t)
	for _, cut := range []int{3, HeaderLen + 1} { // in the header, in the body
		if err := c.EndLull(time.Now(), after); err != nil {
			t.Fatal(err)
		}
		near.Write(m.B[:cut])
		if err := c.Await(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2*after, func() { near.Write(m.B[cut:]) })
		b, err := c.ReadMessage(MaxMessage)
		if err != nil || !bytes.Equal(b.B, m.B) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		b.Free()
	}
	time.AfterFunc(2*after, func() { near.Write(m.B) })
	if err := c.Await(); err != nil { // the deadline is off
		t.Fatalf("after all of it: %v", err)
	}
	c.Release()
}

// TestStall: who stops within a large message is given up, writing and reading; what has only been
// announced takes nothing of the budget.
func TestStall(t *testing.T) {
	near, far := tcpPair(t)
	c := NewConn(far)
	defer c.Release()
	c.Budget, c.Stall = NewBudget(1<<20), 50*time.Millisecond
	large := AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "x", Value: string(make([]byte, 900_000))}}))
	near.Write(large[:100])
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadMessage(MaxMessage)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("of a message that has only been announced: %v", err)
	case <-time.After(4 * c.Stall):
	}
	if !c.Budget.sem.TryAcquire(1 << 20) {
		t.Error("it takes from the budget")
	}
	c.Budget.release(1 << 20)
	near.Write(large[100:600_000])
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of a message that stops: %v", err)
	}
	if !c.Budget.sem.TryAcquire(1 << 20) {
		t.Error("it keeps what it took from the budget")
	}
	var err error
	for range 100 { // until the sockets' buffers are full
		if _, err = c.Write(large); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("to who does not read: %v", err)
	}
}
