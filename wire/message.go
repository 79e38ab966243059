package wire

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// Flag is a bit of OP_MSG's flags.
type Flag uint32

// The flags of OP_MSG. Of the first 16 bits those that a reader does not know are an error.
const (
	ChecksumPresent Flag = 1 << 0
	MoreToCome      Flag = 1 << 1
	ExhaustAllowed  Flag = 1 << 16
)

const (
	flagsAt    = HeaderLen
	sectionsAt = HeaderLen + 4
)

// maxSections is how many document sequences a message may have. No command has more than two
// (bulkWrite: ops and nsInfo); without a limit a message of empty ones costs time by the square of
// its length.
const maxSections = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Section is a document sequence (kind 1) of a message.
type Section struct {
	Identifier []byte
	Start      int // offset of the section's kind byte in the frame; its length is one behind
	At         int // offset of its first document in the frame
	Docs       []byte
}

// Message is one OP_MSG with its parts found. Its slices are parts of the frame it was parsed
// from and may be kept as long as that.
type Message struct {
	Header
	Flags    Flag
	Frame    []byte
	Body     Doc // the section of kind 0
	BodyAt   int // its offset in the frame
	Sections []Section
}

// Parse takes the frame apart and checks it: known flags, exactly one body, sections that fill
// the frame and have an identifier each of their own, documents that fill their sections, the
// checksum where there is one. It reuses m's memory. The documents' insides are not looked at, so
// that a field of the body may have the name of a section still.
func (m *Message) Parse(frame []byte) error {
	*m = Message{Frame: frame, Sections: m.Sections[:0]}
	if len(frame) < sectionsAt {
		return badFrame("OP_MSG of %d bytes", len(frame))
	}
	m.Header = ReadHeader(frame)
	if m.OpCode != OpMsg || int(m.Length) != len(frame) {
		return badFrame("op code %d, length %d in a frame of %d bytes", m.OpCode, m.Length, len(frame))
	}
	m.Flags = Flag(binary.LittleEndian.Uint32(frame[flagsAt:]))
	if unknown := m.Flags & 0xffff &^ (ChecksumPresent | MoreToCome); unknown != 0 {
		return badFrame("unknown required flags %#x", uint32(unknown))
	}
	end := len(frame)
	if m.Flags&ChecksumPresent != 0 {
		end -= 4
		if end < sectionsAt || crc32.Checksum(frame[:end], castagnoli) != binary.LittleEndian.Uint32(frame[end:]) {
			return badFrame("checksum does not match")
		}
	}
	for at := sectionsAt; at < end; {
		n, err := m.section(frame[:end], at)
		if err != nil {
			return err
		}
		at += n
	}
	if m.Body == nil {
		return badFrame("no body section")
	}
	return nil
}

// section reads the section at the offset and returns its length.
func (m *Message) section(frame []byte, at int) (int, error) {
	kind, rest := frame[at], frame[at+1:]
	if len(rest) < 4 {
		return 0, badFrame("section cut short")
	}
	n := int(getInt32(rest))
	if n < 5 || n > len(rest) {
		return 0, badFrame("section of %d bytes, %d left", n, len(rest))
	}
	switch kind {
	case 0:
		if m.Body != nil {
			return 0, badFrame("two body sections")
		}
		if rest[n-1] != 0 {
			return 0, badFrame("body without an end")
		}
		m.Body, m.BodyAt = Doc(rest[:n]), at+1
	case 1:
		if err := m.sequence(rest[:n], at); err != nil {
			return 0, err
		}
	default:
		return 0, badFrame("section of kind %d", kind)
	}
	return 1 + n, nil
}

// sequence reads a section of kind 1 whose bytes behind the kind are b.
func (m *Message) sequence(b []byte, at int) error {
	id := 4 + bytes.IndexByte(b[4:], 0)
	if id < 4 {
		return badFrame("section identifier without an end")
	}
	s := Section{Identifier: b[4:id], Start: at, At: at + 1 + id + 1, Docs: b[id+1:]}
	for docs := s.Docs; len(docs) > 0; {
		_, rest, ok := NextDoc(docs)
		if !ok {
			return badFrame("documents of section %q do not fill it", s.Identifier)
		}
		docs = rest
	}
	for i := range m.Sections {
		if string(m.Sections[i].Identifier) == string(s.Identifier) {
			return badFrame("two sections %q", s.Identifier)
		}
	}
	if len(m.Sections) == maxSections {
		return badFrame("more than %d document sequences", maxSections)
	}
	m.Sections = append(m.Sections, s)
	return nil
}

// NextDoc splits the first document off a sequence of documents.
func NextDoc(docs []byte) (d Doc, rest []byte, ok bool) {
	if len(docs) < 5 {
		return nil, nil, false
	}
	n := int(getInt32(docs))
	if n < 5 || n > len(docs) || docs[n-1] != 0 {
		return nil, nil, false
	}
	return Doc(docs[:n]), docs[n:], true
}

// AppendMessage appends an OP_MSG whose only section is the body. A checksum is not made: flags go
// without ChecksumPresent.
func AppendMessage(dst []byte, requestID, responseTo int32, flags Flag, body Doc) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, sectionsAt+1)...)
	Header{int32(sectionsAt + 1 + len(body)), requestID, responseTo, OpMsg}.Put(dst[at:])
	binary.LittleEndian.PutUint32(dst[at+flagsAt:], uint32(flags))
	return append(dst, body...)
}

// AppendSection appends a document sequence to the OP_MSG at the front of msg, which has no
// checksum.
func AppendSection(msg []byte, identifier string, docs ...Doc) []byte {
	msg = append(msg, 1)
	at := len(msg)
	msg = append(msg, 0, 0, 0, 0)
	msg = append(append(msg, identifier...), 0)
	for _, d := range docs {
		msg = append(msg, d...)
	}
	putInt32(msg[at:], int32(len(msg)-at))
	putInt32(msg, int32(len(msg)))
	return msg
}

// AppendChecksum appends the checksum to the OP_MSG at the front of msg and sets its flag.
func AppendChecksum(msg []byte) []byte {
	msg[flagsAt] |= byte(ChecksumPresent)
	putInt32(msg, int32(len(msg)+4))
	return binary.LittleEndian.AppendUint32(msg, crc32.Checksum(msg, castagnoli))
}

// NewMessage returns a buffer with an OP_MSG whose only section is the body.
func NewMessage(requestID, responseTo int32, flags Flag, body Doc) *Buf {
	b := NewBuf(sectionsAt + 1 + len(body))
	b.B = AppendMessage(b.B[:0], requestID, responseTo, flags, body)
	return b
}
