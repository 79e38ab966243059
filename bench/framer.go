package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/smetasc/tenantry/wire"
)

// readSize is what one read asks for, the same in every part.
const readSize = 16 << 10

// framer reads whole messages from a connection, with as little of its own as can be.
type framer struct {
	from io.Reader
	buf  []byte // bytes read; those from at on are not handed out yet
	at   int
}

func newFramer(from io.Reader) *framer { return &framer{from: from, buf: make([]byte, 0, readSize)} }

// head waits for the header of the next message and returns the message's length.
func (f *framer) head() (int, error) {
	if f.at == len(f.buf) {
		f.buf, f.at = f.buf[:0], 0
	}
	if err := f.need(wire.HeaderLen); err != nil {
		return 0, err
	}
	n := int(wire.ReadHeader(f.buf[f.at:]).Length)
	if n < wire.HeaderLen || n > wire.MaxMessage+readSize {
		return 0, fmt.Errorf("a message of %d bytes", n)
	}
	return n, nil
}

// need reads on until so many bytes are there.
func (f *framer) need(bytes int) error {
	for len(f.buf)-f.at < bytes {
		if f.at > 0 {
			f.buf, f.at = f.buf[:copy(f.buf, f.buf[f.at:])], 0
		}
		n, err := f.from.Read(f.buf[len(f.buf):cap(f.buf)])
		if f.buf = f.buf[:len(f.buf)+n]; n == 0 {
			if err == io.EOF && len(f.buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// next returns the next message, which is valid until the next call. One that is longer than the
// buffer gets memory of its own.
func (f *framer) next() ([]byte, error) {
	n, err := f.head()
	if err != nil {
		return nil, err
	}
	have := f.buf[f.at:]
	if len(have) >= n {
		f.at += n
		return have[:n], nil
	}
	if f.at > 0 && n <= cap(f.buf) {
		have = f.buf[:copy(f.buf, have)]
		f.at = 0
	}
	whole := have
	if n <= cap(f.buf) {
		whole = f.buf[:n]
	} else {
		whole = make([]byte, n)
		copy(whole, have)
	}
	f.buf, f.at = f.buf[:0], 0
	_, err = io.ReadFull(f.from, whole[len(have):])
	return whole, unexpected(err)
}

// frontSize is how much of a message's beginning is kept at least: more than any body of the bench.
const frontSize = 1 << 10

// skip reads one message without keeping it, and returns its length and its beginning, valid until the
// next call.
func (f *framer) skip() (n int, front []byte, err error) {
	if n, err = f.head(); err != nil {
		return 0, nil, err
	}
	if err := f.need(min(n, frontSize)); err != nil {
		return 0, nil, err
	}
	front = f.buf[f.at:]
	if len(front) >= n {
		f.at += n
		return n, front[:n], nil
	}
	rest := n - len(front)
	f.buf, f.at = f.buf[:0], 0
	err = discard(f.from, f.space(len(front), rest), rest)
	return n, front, err
}

// space is room to read into that leaves the message's front as it is.
func (f *framer) space(used, rest int) []byte {
	if free := f.buf[:cap(f.buf)][used:]; len(free) >= rest {
		return free
	}
	return make([]byte, discardSize)
}

// discardSize is what one read of a large message takes.
const discardSize = 256 << 10

func discard(from io.Reader, into []byte, rest int) error {
	for rest > 0 {
		n, err := from.Read(into[:min(len(into), rest)])
		if rest -= n; err != nil && rest > 0 {
			return unexpected(err)
		}
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bodyOf is the command of an OP_MSG of which only the front is there; the body comes first, as all
// drivers send it.
func bodyOf(front []byte) (wire.Doc, error) {
	const kindAt = wire.FlagsAt + 4
	if len(front) < kindAt+5 || front[kindAt] != 0 {
		return nil, errors.New("a message without a body in front")
	}
	at := kindAt + 1
	n := int(uint32(front[at]) | uint32(front[at+1])<<8 | uint32(front[at+2])<<16 | uint32(front[at+3])<<24)
	if n < 5 || n > len(front)-at {
		return nil, fmt.Errorf("a body of %d bytes, %d are there", n, len(front)-at)
	}
	return wire.Doc(front[at : at+n]), nil
}
