package wire

import (
	"bytes"
	"encoding/binary"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Query is an OP_QUERY that carries a driver's first hello, the only one that servers since 5.1
// take. Its slices are parts of the frame.
type Query struct {
	Header
	Flags int32
	DB    []byte // of "<db>.$cmd"
	Name  []byte // hello, isMaster or ismaster, as it was spelled
	Body  Doc    // the command, taken out of $query where it was wrapped
}

// ReplyFlag is a bit of OP_REPLY's responseFlags.
type ReplyFlag int32

// The responseFlags that a server sets today.
const (
	QueryFailure ReplyFlag = 1 << 1
	AwaitCapable ReplyFlag = 1 << 3
)

// ParseQuery reads an OP_QUERY:
//
//	int32 flags, cstring fullCollectionName, int32 numberToSkip, int32 numberToReturn, document query
//
// One that is no hello is an [*Error] with code 352, to be answered by [AppendQueryFailure] since
// the framing is intact; the query's header is filled then. A [FrameError] says that it is not.
// numberToSkip means nothing for a command and is not looked at. Body's inside is checked no
// further than its first element.
func ParseQuery(frame []byte) (Query, error) {
	if len(frame) < HeaderLen {
		return Query{}, badFrame("OP_QUERY of %d bytes", len(frame))
	}
	q := Query{Header: ReadHeader(frame)}
	if q.OpCode != OpQuery || int(q.Length) != len(frame) {
		return q, badFrame("op code %d, length %d in a frame of %d bytes", q.OpCode, q.Length, len(frame))
	}
	b := frame[HeaderLen:]
	if len(b) < 4 {
		return q, badFrame("OP_QUERY of %d bytes", len(frame))
	}
	q.Flags, b = getInt32(b), b[4:]
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return q, badFrame("collection name without an end")
	}
	name, b := b[:end], b[end+1:]
	if len(b) < 8 {
		return q, badFrame("OP_QUERY of %d bytes", len(frame))
	}
	toReturn := getInt32(b[4:])
	body, rest, ok := NextDoc(b[8:])
	if !ok || len(rest) > 0 && !isDoc(rest) {
		return q, badFrame("documents do not fill the OP_QUERY")
	}
	return q, q.hello(name, toReturn, body, rest)
}

func isDoc(b []byte) bool {
	_, rest, ok := NextDoc(b)
	return ok && len(rest) == 0
}

// hello fills the query from its parts where they are a hello.
func (q *Query) hello(ns []byte, toReturn int32, body Doc, fields []byte) error {
	db, isCommand := bytes.CutSuffix(ns, []byte(".$cmd"))
	switch {
	case !isCommand || len(db) == 0 || bytes.IndexByte(db, '.') >= 0:
		return notHello("a query of %q", ns)
	case len(fields) > 0:
		return notHello("a command with a field selector")
	case toReturn != 1 && toReturn != -1:
		return notHello("numberToReturn %d", toReturn)
	}
	name, first, err := firstElement(body)
	if err != nil {
		return err
	}
	if string(name) == "$query" || string(name) == "query" {
		inner, ok := first.Doc()
		if !ok {
			return notHello("%s that is no document", name)
		}
		body = inner
		if name, _, err = firstElement(body); err != nil {
			return err
		}
	}
	if !IsHello(name) {
		return notHello("command %q", name)
	}
	q.DB, q.Name, q.Body = db, name, body
	return nil
}

// firstElement returns a command's first element; an empty document has a name of no length.
func firstElement(d Doc) ([]byte, Value, error) {
	it := d.Iter()
	it.Next()
	return it.Key, it.Value, it.Err()
}

func notHello(format string, args ...any) error {
	e := Errorf(UnsupportedOpQuery, format, args...)
	e.Text = "OP_QUERY is taken for hello only, not for " + e.Text + "; the driver may be too old"
	return e
}

// IsHello reports whether the command is hello under one of its names.
func IsHello[T ~string | ~[]byte](command T) bool {
	switch string(command) {
	case "hello", "isMaster", "ismaster":
		return true
	}
	return false
}

// AppendReply appends an OP_REPLY with one document:
//
//	int32 responseFlags, int64 cursorID, int32 startingFrom, int32 numberReturned, documents
func AppendReply(dst []byte, requestID, responseTo int32, doc Doc, flags ReplyFlag) []byte {
	const fixed = HeaderLen + 20
	at := len(dst)
	dst = append(dst, make([]byte, fixed)...)
	Header{int32(fixed + len(doc)), requestID, responseTo, OpReply}.Put(dst[at:])
	putInt32(dst[at+HeaderLen:], int32(flags))
	putInt32(dst[at+HeaderLen+16:], 1)
	return append(dst, doc...)
}

// AppendQueryFailure appends the OP_REPLY by which servers refuse an OP_QUERY: QueryFailure is set
// and the text is in $err, where old drivers look for it.
func AppendQueryFailure(dst []byte, requestID, responseTo int32, e *Error) []byte {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = bsoncore.AppendStringElement(d, "$err", e.Error())
	d = bsoncore.AppendInt32Element(d, "code", int32(e.Code))
	d = bsoncore.AppendStringElement(d, "codeName", e.Code.Name())
	d = bsoncore.AppendStringElement(d, "errmsg", e.Error())
	d = bsoncore.AppendDoubleElement(d, "ok", 0)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return AppendReply(dst, requestID, responseTo, d, QueryFailure)
}

// ReadReply reads an OP_REPLY with one document, as the answer to a hello has.
func ReadReply(frame []byte) (Header, Doc, ReplyFlag, error) {
	const fixed = HeaderLen + 20
	if len(frame) < fixed {
		return Header{}, nil, 0, badFrame("OP_REPLY of %d bytes", len(frame))
	}
	h := ReadHeader(frame)
	if h.OpCode != OpReply || int(h.Length) != len(frame) {
		return h, nil, 0, badFrame("op code %d, length %d in a frame of %d bytes", h.OpCode, h.Length, len(frame))
	}
	if n := getInt32(frame[HeaderLen+16:]); n != 1 || !isDoc(frame[fixed:]) {
		return h, nil, 0, badFrame("OP_REPLY of %d documents in %d bytes", n, len(frame)-fixed)
	}
	return h, Doc(frame[fixed:]), ReplyFlag(binary.LittleEndian.Uint32(frame[HeaderLen:])), nil
}
