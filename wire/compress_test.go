package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"go.mongodb.org/mongo-driver/v2/bson"
)

var compressors = []Compressor{Noop, Snappy, Zlib, Zstd}

func TestCompressBack(t *testing.T) {
	random := make([]byte, 100_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, text := range map[string]string{"small": "x", "text": strings.Repeat("tenant", 50_000), "random": string(random)} {
		b := NewMessage(3, 4, ExhaustAllowed, doc(t, bson.D{{Key: "insert", Value: text}}))
		for _, c := range compressors {
			small, err := Compress(b, c)
			if err != nil {
				t.Fatal(err)
			}
			h := ReadHeader(small.B)
			if int(h.Length) != len(small.B) || h.RequestID != 3 || h.ResponseTo != 4 {
				t.Errorf("%s %s: header %v of %d bytes", name, c, h, len(small.B))
			}
			if h.OpCode == OpMsg { // made it no smaller
				if !bytes.Equal(small.B, b.B) || name == "text" {
					t.Errorf("%s %s: not compressed", name, c)
				}
				continue
			}
			if c != Noop && len(small.B) >= len(b.B) {
				t.Errorf("%s %s: %d bytes of %d", name, c, len(small.B), len(b.B))
			}
			got, by, err := Decompress(small, len(b.B))
			if err != nil || by != c || !bytes.Equal(got.B, b.B) {
				t.Fatalf("%s %s: %v by %s", name, c, err, by)
			}
			if _, _, err := Decompress(small, len(b.B)-1); !isFrameError(err) {
				t.Errorf("%s %s: limit passed over: %v", name, c, err)
			}
			got.Free()
			small.Free()
		}
		b.Free()
	}
}

func isFrameError(err error) bool {
	var f FrameError
	return errors.As(err, &f)
}

// compressed is an OP_COMPRESSED that announces so many bytes.
func compressed(c Compressor, announces int, data []byte) *Buf {
	b := NewBuf(compressedAt + len(data))
	Header{int32(len(b.B)), 1, 0, OpCompressed}.Put(b.B)
	putInt32(b.B[originalAt:], int32(OpMsg))
	putInt32(b.B[announcedAt:], int32(announces))
	b.B[compressorAt] = byte(c)
	copy(b.B[compressedAt:], data)
	return b
}

// packed compresses so many zeros by the libraries, not by our code.
func packed(t testing.TB, c Compressor, n int) []byte {
	zeros := make([]byte, n)
	switch c {
	case Snappy:
		return snappy.Encode(nil, zeros)
	case Zlib:
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		w.Write(zeros)
		w.Close()
		return b.Bytes()
	case Zstd:
		var b bytes.Buffer // a stream does not announce its length
		w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w.Write(zeros)
		w.Close()
		return b.Bytes()
	}
	return zeros
}

func TestBombs(t *testing.T) {
	for _, c := range compressors {
		data := packed(t, c, 8<<20)
		for _, announces := range []int{0, 1, 100, 8<<20 - 1, 8<<20 + 1, 16 << 20} {
			if got, _, err := Decompress(compressed(c, announces, data), MaxMessage); !isFrameError(err) || got != nil {
				t.Errorf("%s of 8 MiB that announces %d: %v", c, announces, err)
			}
		}
		got, _, err := Decompress(compressed(c, 8<<20, data), MaxMessage)
		if err != nil || len(got.B) != HeaderLen+8<<20 && len(got.B) != HeaderLen+(8<<20) {
			t.Errorf("%s: %v", c, err)
		}
		if _, _, err := Decompress(compressed(c, 8<<20, data), 1<<20); !isFrameError(err) {
			t.Errorf("%s over the limit: %v", c, err)
		}
	}
}

// TestBombMemory: what a bomb makes Decompress allocate is bounded by what it announces.
func TestBombMemory(t *testing.T) {
	for _, c := range compressors[1:] {
		b := compressed(c, 1000, packed(t, c, 32<<20))
		Decompress(b, MaxMessage)
		r := testing.Benchmark(func(tb *testing.B) {
			for range tb.N {
				if _, _, err := Decompress(b, MaxMessage); err == nil {
					tb.Fatal("taken")
				}
			}
		})
		if per := r.AllocedBytesPerOp(); per > 1<<20 {
			t.Errorf("%s: %d bytes allocated", c, per)
		}
	}
}

func TestConcatenatedZstd(t *testing.T) {
	two := append(packed(t, Zstd, 10), packed(t, Zstd, 10)...)
	if _, _, err := Decompress(compressed(Zstd, 10, two), MaxMessage); !isFrameError(err) {
		t.Errorf("two frames for one: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range compressors {
		if got, ok := CompressorByName(c.String()); !ok || got != c {
			t.Errorf("%s: got %v %v", c, got, ok)
		}
	}
	if _, ok := CompressorByName("lz4"); ok || Compressor(9).String() != "unknown" {
		t.Error("lz4 is known")
	}
}

func TestPick(t *testing.T) {
	ours := []Compressor{Snappy, Zstd}
	for _, c := range []struct {
		client []string
		want   []Compressor
	}{
		{nil, nil},
		{[]string{"lz4"}, nil},
		{[]string{"zlib"}, nil},
		{[]string{"noop"}, nil},
		{[]string{"zstd", "zlib", "snappy"}, []Compressor{Zstd, Snappy}},
		{[]string{"snappy", "snappy"}, []Compressor{Snappy}},
	} {
		if got := Pick(c.client, ours); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.client, got, c.want)
		}
	}
	array, _ := doc(t, bson.D{{Key: "c", Value: bson.A{"zstd", 5, "snappy"}}}).Lookup("c")
	if got := CompressorNames(array.Data); !slices.Equal(got, []string{"zstd", "snappy"}) {
		t.Errorf("got %v", got)
	}
	if got := CompressorNames(nil); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}

func TestCompressible(t *testing.T) {
	for _, name := range []string{
		"hello", "isMaster", "ismaster", "saslStart", "saslContinue", "getnonce", "authenticate",
		"createUser", "updateUser", "copydbSaslStart", "copydbgetnonce", "copydb",
	} {
		if Compressible(name) || Compressible([]byte(name)) {
			t.Errorf("%s may be compressed", name)
		}
	}
	if !Compressible("find") || !Compressible([]byte("insert")) {
		t.Error("find may not be compressed")
	}
}

// TestCompressTogether: pooled coders are not shared while in use.
func TestCompressTogether(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b := NewMessage(int32(i), 0, 0, doc(t, bson.D{{Key: "x", Value: strings.Repeat(string(rune('a'+i)), 5000)}}))
			for n := range 60 {
				small, err := Compress(b, compressors[n%4])
				if err != nil {
					t.Error(err)
					return
				}
				got, _, err := Decompress(small, MaxMessage)
				if err != nil || !bytes.Equal(got.B, b.B) {
					t.Errorf("got another message: %v", err)
					return
				}
				got.Free()
				small.Free()
			}
		})
	}
	wg.Wait()
}

// TestCompressedBudget: both messages are paid for when the compressed one is read, and the share
// goes back with the two of them.
func TestCompressedBudget(t *testing.T) {
	g := NewBudget(1 << 20)
	frame := compressed(Zstd, 300_000, packed(t, Zstd, 300_000))
	c := NewConn(&chunked{b: slices.Clone(frame.B), size: 1 << 20})
	c.Budget, c.Wait = g, time.Millisecond
	b, err := c.ReadMessage(MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	if g.sem.TryAcquire(1<<20 - 1<<19 + 1) {
		t.Error("what is announced is not counted")
	}
	out, _, err := Decompress(b, MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	b.Free()
	if g.sem.TryAcquire(1<<20 - 1<<19 + 1) {
		t.Error("the share went with the compressed message")
	}
	out.Free()
	if !g.sem.TryAcquire(1 << 20) {
		t.Error("the share was not given back")
	}
	c = NewConn(&chunked{b: slices.Clone(frame.B), size: 1 << 20})
	c.Budget, c.Wait = g, time.Millisecond
	if _, err := c.ReadMessage(MaxMessage); err != ErrBudget {
		t.Errorf("got %v, want ErrBudget", err)
	}
	g.sem.Release(1 << 20)
	if b, err = c.ReadMessage(MaxMessage); err != nil {
		t.Errorf("later: %v", err)
	}
	b.Free()
}
