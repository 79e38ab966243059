package wire

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Compressor is the id of a compressor in an OP_COMPRESSED.
type Compressor uint8

// The compressors of the OP_COMPRESSED specification. Noop only wraps; nobody negotiates it.
const (
	Noop   Compressor = 0
	Snappy Compressor = 1
	Zlib   Compressor = 2
	Zstd   Compressor = 3
)

var compressorNames = [...]string{Noop: "noop", Snappy: "snappy", Zlib: "zlib", Zstd: "zstd"}

// String is the compressor's name in hello and in URIs.
func (c Compressor) String() string {
	if int(c) < len(compressorNames) {
		return compressorNames[c]
	}
	return "unknown"
}

// CompressorByName is the reverse of [Compressor.String].
func CompressorByName(name string) (Compressor, bool) {
	for c, n := range compressorNames {
		if n == name {
			return Compressor(c), true
		}
	}
	return 0, false
}

// Pick returns those of ours that the client names too, in the client's order: what a server
// answers in hello's compression. A client compresses with the first of its own list that it finds
// in the answer, a server with what the request came in. Names that nobody knows are passed over.
func Pick(client []string, ours []Compressor) []Compressor {
	var picked []Compressor
	for _, name := range client {
		c, ok := CompressorByName(name)
		if ok && contains(ours, c) && !contains(picked, c) {
			picked = append(picked, c)
		}
	}
	return picked
}

// CompressorNames returns the strings of hello's compression array, at most 16 of them. Elements
// of another type are passed over, as is an array that is malformed.
func CompressorNames(array Doc) []string {
	var names []string
	for it := array.Iter(); len(names) < 16 && it.Next(); {
		if s, ok := it.Value.Str(); ok {
			names = append(names, string(s))
		}
	}
	return names
}

func contains(list []Compressor, c Compressor) bool {
	for _, l := range list {
		if l == c {
			return true
		}
	}
	return false
}

// Compressible reports whether a message with the command may be compressed. The list is that of
// the OP_COMPRESSED specification: what comes before the compressor is agreed on, and what carries
// secrets, whose length compression would betray.
func Compressible[T ~string | ~[]byte](command T) bool {
	switch string(command) {
	case "hello", "isMaster", "ismaster", "saslStart", "saslContinue", "getnonce", "authenticate",
		"createUser", "updateUser", "copydbSaslStart", "copydbgetnonce", "copydb":
		return false
	}
	return true
}

// Offsets in an OP_COMPRESSED.
const (
	originalAt   = HeaderLen     // int32, op code of what is inside
	announcedAt  = HeaderLen + 4 // int32, its length without header
	compressorAt = HeaderLen + 8 // uint8
	compressedAt = HeaderLen + 9
)

// announced checks an OP_COMPRESSED's head and returns the length of the whole message inside,
// header included. Only the first compressedAt bytes of head are looked at.
func announced(head []byte, limit int) (int, error) {
	if len(head) < compressedAt {
		return 0, badFrame("OP_COMPRESSED of %d bytes", len(head))
	}
	if OpCode(getInt32(head[originalAt:])) == OpCompressed {
		return 0, badFrame("OP_COMPRESSED in an OP_COMPRESSED")
	}
	n := int64(getInt32(head[announcedAt:]))
	if n < 0 || n > int64(limit-HeaderLen) {
		return 0, badFrame("uncompressed length %d, want 0 to %d", n, limit-HeaderLen)
	}
	return HeaderLen + int(n), nil
}

// Decompress returns the message inside an OP_COMPRESSED, with an ordinary header and the same
// ids, and by what it was compressed. The length that is announced is checked against limit before
// memory is taken; what yields more or less is a [FrameError]. The frame stays the caller's, who
// frees both; of its share in the [Budget], which [Conn.ReadMessage] takes for both at once, the
// new buffer gets its part, so that Decompress never waits.
func Decompress(frame *Buf, limit int) (*Buf, Compressor, error) {
	b := frame.B
	if len(b) < HeaderLen || ReadHeader(b).OpCode != OpCompressed || int(ReadHeader(b).Length) != len(b) {
		return nil, 0, badFrame("no OP_COMPRESSED")
	}
	n, err := announced(b, limit)
	if err != nil {
		return nil, 0, err
	}
	c := Compressor(b[compressorAt])
	out := NewBuf(n)
	if err := decode(c, out.B[HeaderLen:n:n], b[compressedAt:]); err != nil {
		out.Free()
		return nil, c, badFrame("%s: %v", c, err)
	}
	h := ReadHeader(b)
	h.Length, h.OpCode = int32(n), OpCode(getInt32(b[originalAt:]))
	h.Put(out.B)
	frame.share(out)
	return out, c, nil
}

var (
	errLength     = errors.New("not the announced length")
	errTrailing   = errors.New("bytes behind the end")
	errCompressor = errors.New("no such compressor")
)

// decode fills dst from src, exactly.
func decode(c Compressor, dst, src []byte) error {
	switch c {
	case Noop:
		return exactly(dst, src, nil)
	case Snappy:
		return decodeSnappy(dst, src)
	case Zlib:
		return decodeZlib(dst, src)
	case Zstd:
		return decodeZstd(dst, src)
	}
	return errCompressor
}

// exactly copies what was decoded to dst, where it isn't yet.
func exactly(dst, got []byte, err error) error {
	if err != nil {
		return err
	}
	if len(got) != len(dst) {
		return errLength
	}
	copy(dst, got)
	return nil
}

func decodeSnappy(dst, src []byte) error {
	n, err := snappy.DecodedLen(src)
	if err != nil {
		return err
	}
	if n != len(dst) {
		return errLength
	}
	got, err := snappy.DecodeStrict(dst, src)
	return exactly(dst, got, err)
}

// inflater is a zlib reader with the source that it reads, kept together for reuse.
type inflater struct {
	src  bytes.Reader
	z    io.ReadCloser
	rest [1]byte
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

func decodeZlib(dst, src []byte) error {
	f := inflaters.Get().(*inflater)
	defer f.put()
	f.src.Reset(src)
	if err := f.open(); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.z, dst); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return errLength
		}
		return err
	}
	switch n, err := f.z.Read(f.rest[:]); {
	case n > 0:
		return errLength
	case err != io.EOF: // the checksum is read with the end
		return err
	case f.src.Len() > 0:
		return errTrailing
	}
	return nil
}

func (f *inflater) open() (err error) {
	if f.z == nil {
		f.z, err = zlib.NewReader(&f.src)
		return err
	}
	return f.z.(zlib.Resetter).Reset(&f.src, nil)
}

// put gives the inflater back without the message that it read.
func (f *inflater) put() {
	f.src.Reset(nil)
	inflaters.Put(f)
}

// maxDecoded is above MaxMessage; it bounds the windows that a zstd frame may ask for.
const maxDecoded = 64 << 20

// unzstds are decoders that start no goroutine: DecodeAll works in the caller's.
var unzstds = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxDecoded), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}}

func decodeZstd(dst, src []byte) error {
	d := unzstds.Get().(*zstd.Decoder)
	defer unzstds.Put(d)
	got, err := d.DecodeAll(src, dst[:0:len(dst)])
	if err != nil {
		return err
	}
	if len(got) == len(dst) && len(got) > 0 && &got[0] == &dst[0] {
		return nil
	}
	return exactly(dst, got, nil)
}

// Compress returns the message as an OP_COMPRESSED in a new buffer, or an uncompressed copy where
// compressing makes it no smaller: a peer must take both. The frame stays the caller's, who frees
// both; which commands are compressed at all says [Compressible]. The new buffer is not counted in
// the budget; it lives for one write.
func Compress(frame *Buf, c Compressor) (*Buf, error) {
	b := frame.B
	if len(b) < HeaderLen {
		return nil, badFrame("message of %d bytes", len(b))
	}
	h := ReadHeader(b)
	if h.OpCode == OpCompressed {
		return nil, badFrame("OP_COMPRESSED in an OP_COMPRESSED")
	}
	out, err := encode(c, b[HeaderLen:])
	if err != nil {
		return nil, err
	}
	if c != Noop && len(out.B) >= len(b) {
		out.B = append(out.B[:0], b...)
		return out, nil
	}
	putInt32(out.B[originalAt:], int32(h.OpCode))
	putInt32(out.B[announcedAt:], int32(len(b)-HeaderLen))
	out.B[compressorAt] = byte(c)
	h.Length, h.OpCode = int32(len(out.B)), OpCompressed
	h.Put(out.B)
	return out, nil
}

// encode compresses src behind the room for an OP_COMPRESSED's head.
func encode(c Compressor, src []byte) (*Buf, error) {
	switch c {
	case Noop:
		out := NewBuf(compressedAt + len(src))
		copy(out.B[compressedAt:], src)
		return out, nil
	case Snappy:
		out := NewBuf(compressedAt + snappy.MaxEncodedLen(len(src)))
		got := snappy.Encode(out.B[compressedAt:], src)
		out.B = out.B[:compressedAt+len(got)]
		return out, nil
	case Zlib:
		return encodeZlib(src)
	case Zstd:
		z := zstds.Get().(*zstd.Encoder)
		defer zstds.Put(z)
		out := NewBuf(compressedAt + z.MaxEncodedSize(len(src)))
		out.B = z.EncodeAll(src, out.B[:compressedAt])
		return out, nil
	}
	return nil, errCompressor
}

// zstds are encoders with one worker and small tables; EncodeAll starts no goroutine.
var zstds = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20), zstd.WithZeroFrames(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return z
}}

// deflater is a zlib writer with the buffer that it fills, kept together for reuse.
type deflater struct {
	dst []byte
	z   *zlib.Writer
}

var deflaters = sync.Pool{New: func() any {
	f := new(deflater)
	z, err := zlib.NewWriterLevel(f, zlib.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	f.z = z
	return f
}}

var errFull = errors.New("compressing makes it larger")

// Write appends what the zlib writer puts out, as far as there is room.
func (f *deflater) Write(p []byte) (int, error) {
	if len(p) > cap(f.dst)-len(f.dst) {
		return 0, errFull
	}
	f.dst = append(f.dst, p...)
	return len(p), nil
}

func encodeZlib(src []byte) (*Buf, error) {
	// One byte more than the message itself is already too much.
	out := NewBuf(compressedAt + HeaderLen + len(src))
	f := deflaters.Get().(*deflater)
	f.dst = out.B[:compressedAt]
	f.z.Reset(f)
	_, err := f.z.Write(src)
	if err == nil {
		err = f.z.Close()
	}
	switch {
	case err == nil:
		out.B = f.dst
	case !errors.Is(err, errFull):
		out.Free()
		out = nil
	default: // as long as the message or longer: Compress copies it
		err = nil
	}
	f.dst = nil
	deflaters.Put(f)
	return out, err
}
