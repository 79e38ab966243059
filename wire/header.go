// Package wire is messages as bytes: framing, OP_MSG, OP_COMPRESSED and the OP_QUERY hello of the
// MongoDB wire protocol, raw BSON looked up and edited in place, and the server's error replies.
// It decides nothing: which command goes where is routing's, who may speak is auth's.
//
// A message is read into one [Buf] and stays there; everything that a parser hands out is a slice
// of that buffer and may be kept until the buffer is freed, not longer.
//
// Facts about the protocol are from the MongoDB wire protocol specification and the message
// specification (OP_MSG) of the driver specifications.
package wire

import (
	"encoding/binary"
	"fmt"
)

// OpCode says what follows a message's header.
type OpCode int32

// The op codes that servers of today and drivers' first hello use.
const (
	OpReply      OpCode = 1
	OpQuery      OpCode = 2004
	OpCompressed OpCode = 2012
	OpMsg        OpCode = 2013
)

// Sizes of frames, in bytes.
const (
	HeaderLen = 16
	// MaxMessage is the largest message a server accepts and announces in hello.
	MaxMessage = 48_000_000
	// MaxDocument is the largest document a server stores.
	MaxDocument = 16 << 20
)

// Header is the first 16 bytes of each message.
type Header struct {
	Length     int32 // of the whole message, header included
	RequestID  int32
	ResponseTo int32
	OpCode     OpCode
}

// FrameError says that the bytes are no message: the connection they came from has lost its
// framing and is to be closed.
type FrameError string

func (e FrameError) Error() string { return "malformed message: " + string(e) }

func badFrame(format string, args ...any) error {
	return FrameError(fmt.Sprintf(format, args...))
}

// ReadHeader reads the header at the front of b, which holds at least [HeaderLen] bytes.
func ReadHeader(b []byte) Header {
	_ = b[HeaderLen-1]
	return Header{
		Length:     int32(binary.LittleEndian.Uint32(b)),
		RequestID:  int32(binary.LittleEndian.Uint32(b[4:])),
		ResponseTo: int32(binary.LittleEndian.Uint32(b[8:])),
		OpCode:     OpCode(binary.LittleEndian.Uint32(b[12:])),
	}
}

// Put writes the header over the front of b.
func (h Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	putInt32(b, h.Length)
	putInt32(b[4:], h.RequestID)
	putInt32(b[8:], h.ResponseTo)
	putInt32(b[12:], int32(h.OpCode))
}

// SetIDs overwrites a frame's request id and the id it responds to.
func SetIDs(frame []byte, requestID, responseTo int32) {
	putInt32(frame[4:], requestID)
	putInt32(frame[8:], responseTo)
}

// SetLength overwrites the length that a frame announces.
func SetLength(frame []byte, n int) { putInt32(frame, int32(n)) }

func putInt32(b []byte, v int32)  { binary.LittleEndian.PutUint32(b, uint32(v)) }
func getInt32(b []byte) int32     { return int32(binary.LittleEndian.Uint32(b)) }
func addInt32(b []byte, by int32) { putInt32(b, getInt32(b)+by) }

// FlagsAt is the offset of OP_MSG's flags in a frame.
const FlagsAt = HeaderLen
