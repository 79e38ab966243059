package main

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/smetasc/tenantry/wire"
)

// stream is messages of those lengths, one after the other, each filled with its number.
func stream(lengths ...int) (all []byte) {
	for i, n := range lengths {
		m := bytes.Repeat([]byte{byte(i)}, n)
		wire.Header{Length: int32(n), RequestID: int32(i), OpCode: wire.OpMsg}.Put(m)
		all = append(all, m...)
	}
	return all
}

var pieces = map[string]func(io.Reader) io.Reader{
	"at once":      func(r io.Reader) io.Reader { return r },
	"byte by byte": iotest.OneByteReader,
	"halves":       iotest.HalfReader,
	"end with it":  iotest.DataErrReader,
}

func TestFramerReadsWholeMessages(t *testing.T) {
	lengths := []int{16, 200, readSize - 1, 40, readSize, 16, readSize + 1, 100, 600 << 10, 50}
	for name, in := range pieces {
		t.Run(name, func(t *testing.T) {
			whole, past := newFramer(in(bytes.NewReader(stream(lengths...)))), newFramer(in(bytes.NewReader(stream(lengths...))))
			for i, n := range lengths {
				m, err := whole.next()
				if err != nil || len(m) != n || !bytes.Equal(m, stream(lengths[:i+1]...)[len(stream(lengths[:i]...)):]) {
					t.Fatalf("message %d: %d bytes, want %d: %v", i, len(m), n, err)
				}
				skipped, front, err := past.skip()
				if err != nil || skipped != n || !bytes.Equal(front, m[:len(front)]) || len(front) < wire.HeaderLen {
					t.Fatalf("message %d skipped: %d bytes, want %d, %d in front: %v", i, skipped, n, len(front), err)
				}
			}
			for _, f := range []*framer{whole, past} {
				if _, err := f.next(); err != io.EOF {
					t.Errorf("after the last: %v", err)
				}
			}
		})
	}
}

func TestFramerTellsACutMessageFromAnEnd(t *testing.T) {
	for _, cut := range []int{1, 15, 16, 100, readSize + 5} {
		all := stream(readSize + 10)[:cut]
		if _, err := newFramer(bytes.NewReader(all)).next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d: %v", cut, err)
		}
		if _, _, err := newFramer(bytes.NewReader(all)).skip(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d, skipped: %v", cut, err)
		}
	}
}

func TestFramerRefusesLengths(t *testing.T) {
	for _, n := range []int32{-1, 0, 15, wire.MaxMessage + readSize + 1} {
		m := make([]byte, 16)
		wire.Header{Length: n, OpCode: wire.OpMsg}.Put(m)
		if _, err := newFramer(bytes.NewReader(m)).next(); err == nil {
			t.Errorf("length %d was taken", n)
		}
	}
}
