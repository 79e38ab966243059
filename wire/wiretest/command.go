package wiretest

import (
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
)

// Command is one request that a server received. Its bytes are copies and may be kept.
type Command struct {
	wire.Header
	Name     string // of the first field
	DB       string
	Body     wire.Doc
	Sections []Sequence
	Flags    wire.Flag
	Conn     int  // number of the connection, from 1
	Legacy   bool // came as OP_QUERY

	Compressed bool
	Compressor wire.Compressor
}

// Sequence is a document sequence of a message.
type Sequence struct {
	Identifier string
	Docs       []wire.Doc
}

// D is the body, decoded.
func (c Command) D() bson.D { return Decode(c.Body) }

// Value returns a field of the body, nil where it isn't there.
func (c Command) Value(path ...string) any { return Get(c.D(), path...) }

// Collection is the first field's value where it is a string.
func (c Command) Collection() string {
	s, _ := c.Value(c.Name).(string)
	return s
}

// Docs returns the documents of a field, from a section or from an array of the body.
func (c Command) Docs(name string) []wire.Doc {
	for _, s := range c.Sections {
		if s.Identifier == name {
			return s.Docs
		}
	}
	var docs []wire.Doc
	v, _ := c.Body.Lookup(name)
	array, ok := v.Array()
	if !ok {
		return nil
	}
	for it := array.Iter(); it.Next(); {
		if d, ok := it.Value.Doc(); ok {
			docs = append(docs, d)
		}
	}
	return docs
}

// Int returns an integer field of the body.
func (c Command) Int(name string) (int64, bool) {
	v, ok := c.Body.Lookup(name)
	if !ok {
		return 0, false
	}
	return v.Int()
}

// session is the bytes of the lsid's id, "" for none.
func (c Command) session() string {
	v, _ := c.Body.Lookup("lsid")
	d, _ := v.Doc()
	id, _ := d.Lookup("id")
	return string(id.Data)
}

// inTransaction reports autocommit: false.
func (c Command) inTransaction() bool {
	v, ok := c.Body.Lookup("autocommit")
	return ok && !v.True()
}

// Reply says what a server does about a command.
type Reply struct {
	doc    wire.Doc
	raw    []byte
	pass   bool
	hangUp bool
	until  <-chan struct{}
	id     *int32
}

// Pass leaves the command to the server: ping and its like, the store if there is one, else an
// error CommandNotFound.
func Pass() Reply { return Reply{pass: true} }

// Doc replies a document as it is; see [D].
func Doc(v any) Reply { return Reply{doc: D(v)} }

// OK replies the fields and ok: 1.
func OK(fields ...bson.E) Reply {
	return Doc(append(append(bson.D{}, fields...), bson.E{Key: "ok", Value: 1.0}))
}

// Fail replies an error, as a server words it.
func Fail(code wire.Code, text string, labels ...string) Reply {
	d := bson.D{
		{Key: "ok", Value: 0.0},
		{Key: "errmsg", Value: text},
		{Key: "code", Value: int32(code)},
		{Key: "codeName", Value: codeName(code)},
	}
	if len(labels) > 0 {
		d = append(d, bson.E{Key: "errorLabels", Value: labels})
	}
	return Doc(d)
}

// Cursor replies a cursor's first batch; further ones are firstBatch false.
func Cursor(ns string, id int64, first bool, docs ...any) Reply {
	batch := make(bson.A, len(docs))
	for i, d := range docs {
		batch[i] = Decode(D(d))
	}
	name := "nextBatch"
	if first {
		name = "firstBatch"
	}
	return OK(bson.E{Key: "cursor", Value: bson.D{{Key: name, Value: batch}, {Key: "id", Value: id}, {Key: "ns", Value: ns}}})
}

// HangUp closes the connection; the command has no effect and no answer.
func HangUp() Reply { return Reply{hangUp: true} }

// Raw writes bytes in place of a reply: a malformed one, or none.
func Raw(b []byte) Reply { return Reply{raw: append([]byte{}, b...)} }

// ThenHangUp closes the connection in place of answering, after the command had its effect:
// Pass().ThenHangUp() is the write whose reply is lost, Raw(part).ThenHangUp() a reply cut short.
func (r Reply) ThenHangUp() Reply {
	r.hangUp = true
	return r
}

// After holds the answer back until the channel is closed. The command has no effect before.
func (r Reply) After(release <-chan struct{}) Reply {
	r.until = release
	return r
}

// Answering gives the reply another responseTo than the request's id.
func (r Reply) Answering(id int32) Reply {
	r.id = &id
	return r
}

var moreNames = map[wire.Code]string{
	91: "ShutdownInProgress", 112: "WriteConflict", 117: "ConflictingOperationInProgress", 189: "PrimarySteppedDown",
	197: "TimeProofMismatch", 211: "KeyNotFound", 238: "NotImplemented", 256: "TransactionCommitted",
	10107: "NotWritablePrimary", 11000: "DuplicateKey", 11600: "InterruptedAtShutdown",
	11602: "InterruptedDueToReplStateChange", 13435: "NotPrimaryNoSecondaryOk", 13436: "NotPrimaryOrSecondary",
}

func codeName(c wire.Code) string {
	if n, ok := moreNames[c]; ok {
		return n
	}
	return c.Name()
}
