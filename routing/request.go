package routing

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Request is one command with its parts found. It belongs to one connection at a time, is filled anew
// for each message and points into that message's frame.
type Request struct {
	Msg     *wire.Message
	Cmd     *Command // nil for a command that no row knows
	Name    []byte   // as the client spelled it
	Value   wire.Value
	ValueAt int // offset of the first field's value in the frame
	DB      []byte
	DBAt    int // offset of $db's value in the frame; -1 where the command lies in another

	fields  []Field
	index   [256]uint8 // by fieldID: 1 + place in fields
	unknown []byte     // first field that the row does not know
	strange int        // fields that no row knows
	intern  []byte     // first internal field
	outerAt int        // offset of the command that this one lies in; 0 where it lies in none

	uses    []stageUse // of the pipeline, once they are asked for
	walkErr *wire.Error
	walked  bool

	// Unlisted are the tenants named and not in the table that have been looked for and are listed
	// nowhere.
	Unlisted []wire.Value
	// Begun are the numbers of held tenants whose commands the request's does not wait with: it is of a
	// transaction that the change of their routes waits for itself.
	Begun []uint32
	// Looked says that what the shared databases hold has been read for this command.
	Looked    bool
	strangers bool // it names what the table does not know of
	// LogsIn says that clients authenticate where it comes from: users and roles are the proxy's there.
	LogsIn bool
	// Bound is the tenant's key that the connection is bound to; "" for an open one.
	Bound *Binding
}

// Binding is what binds a connection to one tenant.
type Binding struct {
	Key      string
	Database bool // isolation "database"; rows otherwise
	Access   Access
}

// Field is one top-level field of a command.
type Field struct {
	Value      wire.Value
	Start, End int // of the element, offsets in the frame
	At         int // of the value
}

// Coll is the collection that the command's own value names; nil where it is no string.
func (r *Request) Coll() []byte {
	s, _ := r.Value.Str()
	return s
}

// Field finds a top-level field of the body.
func (r *Request) field(id fieldID) (*Field, bool) {
	i := r.index[id]
	if i == 0 {
		return nil, false
	}
	return &r.fields[i-1], true
}

func (r *Request) value(id fieldID) wire.Value {
	if f, ok := r.field(id); ok {
		return f.Value
	}
	return wire.Value{}
}

// Field finds a top-level field of the body by its name, which is one of the command table's.
func (r *Request) Field(name string) (Field, bool) {
	f, ok := r.field(idOf(name))
	if !ok {
		return Field{}, false
	}
	return *f, true
}

// Parse takes the message's body apart. The error says what a server would answer to a message
// that is no well-formed command.
func (r *Request) Parse(msg *wire.Message) *wire.Error { return r.parse(msg, nil) }

// parse is Parse for a command that may leave $db to the one that it lies in.
func (r *Request) parse(msg *wire.Message, outer []byte) *wire.Error {
	clear(r.index[:])
	r.Msg, r.fields, r.unknown, r.intern, r.Unlisted = msg, r.fields[:0], nil, nil, nil
	r.strange, r.Begun = 0, nil
	r.Looked, r.strangers = false, false
	r.uses, r.walkErr, r.walked = r.uses[:0], nil, false
	it := msg.Body.Iter()
	if !it.Next() {
		return wire.Errorf(wire.FailedToParse, "a command needs a name")
	}
	r.Name, r.Value, r.ValueAt = it.Key, it.Value, msg.BodyAt+it.At
	r.Cmd = commandWords.find(it.Key)
	for it.Next() {
		if err := r.add(it); err != nil {
			return err
		}
	}
	if it.Err() != nil {
		return wire.Errorf(wire.FailedToParse, "the command is malformed BSON")
	}
	return r.finish(outer)
}

// Forget empties the request but for its memory, for another connection's use.
func (r *Request) Forget() {
	clear(r.fields)
	clear(r.uses)
	*r = Request{fields: r.fields[:0], uses: r.uses[:0]}
}

func (r *Request) add(it *wire.Iter) *wire.Error {
	id := idOf(it.Key)
	if id == 0 {
		return r.addUnknown(it)
	}
	if r.index[id] != 0 || bytes.Equal(it.Key, r.Name) {
		return duplicate(it.Key)
	}
	at := r.Msg.BodyAt
	f := r.room()
	f.Value, f.Start, f.End, f.At = it.Value, at+it.Start, at+it.End(), at+it.At
	r.index[id] = uint8(len(r.fields))
	switch {
	case generic.has(id):
	case internal.has(id):
		if r.intern == nil {
			r.intern = it.Key
		}
	case r.Cmd != nil && !r.Cmd.Fields.has(id) && r.unknown == nil:
		r.unknown = it.Key
	}
	return nil
}

// room is a further field, to be filled in its place: one that is made elsewhere and copied costs three times as
// much, since the processor waits for what has just been written in parts before it reads it in others.
func (r *Request) room() *Field {
	n := len(r.fields)
	if n == cap(r.fields) {
		r.fields = slices.Grow(r.fields, 8)
	}
	r.fields = r.fields[:n+1]
	return &r.fields[n]
}

// betweenServers is the first field that belongs between servers: of the command, of the one that it explains, or
// of one of its writes.
func (r *Request) betweenServers() []byte {
	if r.intern != nil || r.Cmd == nil {
		return r.intern
	}
	switch r.Cmd.Tenant.Kind {
	case InInner:
		return r.betweenInside()
	case InUpdates, InBulkOps:
		var all docs
		all.of(r, r.Cmd.Tenant.Path)
		for all.next() {
			if _, ok := all.doc.Lookup(upsertSupplied); ok {
				return []byte(upsertSupplied)
			}
		}
	}
	return nil
}

// betweenInside is betweenServers of the command that is explained.
func (r *Request) betweenInside() []byte {
	d, _ := r.Value.Doc()
	for it := d.Iter(); it.Next(); {
		if id := idOf(it.Key); id != 0 && internal.has(id) {
			return it.Key
		}
	}
	in, err := r.inner()
	if err != nil || in.Cmd == nil || in.Cmd.Tenant.Kind == InInner {
		return nil // which is refused, here or by a server
	}
	return in.betweenServers()
}

// maxStrange bounds the fields that no row knows, since each is compared with all before it.
const maxStrange = 256

// addUnknown takes a field that no row knows; it is refused where the table is strict. Equal ones
// are refused everywhere, since two readers could see different values.
func (r *Request) addUnknown(it *wire.Iter) *wire.Error {
	if !utf8.Valid(it.Key) {
		return wire.Errorf(wire.FailedToParse, "a field's name is not UTF-8")
	}
	if r.unknown == nil {
		r.unknown = it.Key
	}
	if r.strange++; r.strange > maxStrange {
		return wire.Errorf(wire.UnknownField, "more than %d fields of the command are unknown", maxStrange)
	}
	seen := 0
	for all := r.Msg.Body.Iter(); all.Next() && all.Start <= it.Start; {
		if bytes.Equal(all.Key, it.Key) {
			seen++
		}
	}
	if seen > 1 {
		return duplicate(it.Key)
	}
	return nil
}

func duplicate(name []byte) *wire.Error {
	return wire.Errorf(wire.DuplicateField, "field %q stands twice in the command; send it once", name)
}

func (r *Request) finish(outer []byte) *wire.Error {
	if f, ok := r.field(fDB); ok {
		r.DB, _ = f.Value.Str()
		r.DBAt = f.At
	} else {
		r.DB, r.DBAt = outer, -1
	}
	if !validDB(r.DB) {
		return wire.Errorf(wire.InvalidNamespace, "$db is missing or no valid database name")
	}
	for i := range r.Msg.Sections {
		s := &r.Msg.Sections[i]
		if id := idOf(s.Identifier); id != 0 && r.index[id] != 0 {
			return duplicate(s.Identifier)
		}
	}
	if r.Cmd != nil {
		if c, ok := r.Value.Str(); ok && (!utf8.Valid(c) || bytes.IndexByte(c, 0) >= 0) {
			return wire.Errorf(wire.InvalidNamespace, "the collection's name is not valid")
		}
	}
	return r.checkTxn()
}

// checkTxn refuses the generic transaction fields in forms that servers refuse.
func (r *Request) checkTxn() *wire.Error {
	if v := r.value(fLSID); v.Type != 0 {
		if _, _, ok := lsid(v); !ok {
			return wire.Errorf(wire.Unauthorized, "lsid must be { id: UUID } and nothing else")
		}
	}
	if r.index[fTxnNumber]|r.index[fAutocommit]|r.index[fStartTxn] == 0 {
		return nil
	}
	if v := r.value(fTxnNumber); v.Type != 0 && v.Type != bsoncore.TypeInt64 {
		return wire.Errorf(wire.FailedToParse, "txnNumber must be a 64-bit integer")
	}
	auto := r.value(fAutocommit)
	if auto.Type != 0 && (auto.Type != bsoncore.TypeBoolean || auto.True() || r.value(fTxnNumber).Type == 0) {
		return wire.Errorf(wire.InvalidOptions, "autocommit may only be false, and with a txnNumber")
	}
	if v := r.value(fStartTxn); v.Type != 0 && (v.Type != bsoncore.TypeBoolean || !v.True() || auto.Type == 0) {
		return wire.Errorf(wire.InvalidOptions, "startTransaction may only be true, and with autocommit false")
	}
	if r.value(fTxnNumber).Type != 0 && r.value(fLSID).Type == 0 {
		return wire.Errorf(wire.InvalidOptions, "txnNumber needs an lsid")
	}
	return nil
}

// lsid finds the session's id in an lsid document and the offset of its 16 bytes there. { id: UUID } can only be
// written by these bytes.
func lsid(v wire.Value) (id []byte, at int, ok bool) {
	const begin = "\x1e\x00\x00\x00" + "\x05id\x00" + "\x10\x00\x00\x00\x04"
	d, ok := v.Doc()
	if !ok || len(d) != len(begin)+17 || string(d[:len(begin)]) != begin || d[len(d)-1] != 0 {
		return nil, 0, false
	}
	return d[len(begin) : len(begin)+16], len(begin), true
}

// LSID returns the session's id and the offset of its 16 bytes in the frame.
func (r *Request) LSID() (id []byte, at int, ok bool) {
	f, ok := r.field(fLSID)
	if !ok {
		return nil, 0, false
	}
	id, at, ok = lsid(f.Value)
	return id, f.At + at, ok
}

// TxnNumber returns the number of a retryable write or transaction.
func (r *Request) TxnNumber() (int64, bool) {
	v := r.value(fTxnNumber)
	if v.Type == 0 {
		return 0, false
	}
	return v.Int()
}

// InTxn reports whether the command is part of a transaction.
func (r *Request) InTxn() bool { return r.index[fAutocommit] != 0 }

// StartsTxn reports whether the command begins one.
func (r *Request) StartsTxn() bool { return r.index[fStartTxn] != 0 }

// Writes reports whether the command may change documents or definitions.
func (r *Request) Writes() bool {
	if r.Cmd == nil {
		return true
	}
	return r.Cmd.Access == Write || r.Cmd.Access == DDL || r.Cmd.Tenant.Kind == InStages && r.pipelineWrites()
}

// ReplyNames says where the reply names namespaces.
func (r *Request) ReplyNames() ReplyKind {
	if r.Cmd == nil {
		return ReplyGeneric
	}
	if r.Cmd.Tenant.Kind != InStages {
		return r.Cmd.Reply
	}
	if r.value(fExplain).True() {
		return ReplyExplain
	}
	uses, _ := r.stages()
	if slices.ContainsFunc(uses, func(u stageUse) bool { return u.row != nil && (u.row.Class == Info || u.row.Class == Change) }) {
		return ReplyRows
	}
	return ReplyGeneric
}

// Explained is the command whose plan the request asks for, and how much of it. It is nil where the request
// asks for none. An aggregate may ask for its own.
func (r *Request) Explained() (command wire.Doc, verbosity wire.Value) {
	switch {
	case r.Cmd == nil:
	case r.Cmd.Tenant.Kind == InInner:
		command, _ = r.Value.Doc()
		return command, r.value(fVerbosity)
	case r.Cmd.Tenant.Kind == InStages && r.value(fExplain).True():
		return build(func(d []byte) []byte {
			for it := r.Msg.Body.Iter(); it.Next(); {
				if id := idOf(it.Key); !generic.has(id) && id != fExplain {
					d = append(d, r.Msg.Body[it.Start:it.End()]...)
				}
			}
			return d
		}), wire.StringValue("queryPlanner")
	}
	return nil, wire.Value{}
}

// Acknowledged reports whether the client waits for the write's outcome (any w but 0).
func (r *Request) Acknowledged() bool {
	d, ok := r.value(fWriteConc).Doc()
	if !ok {
		return true
	}
	w, ok := d.Lookup("w")
	if !ok || !w.IsNumber() {
		return true
	}
	n, ok := w.Int()
	return !ok || n != 0
}

// section is the document sequence that stands for the field; nil where there is none.
func (r *Request) section(id fieldID) *wire.Section {
	for i := range r.Msg.Sections {
		if string(r.Msg.Sections[i].Identifier) == fieldNames[id] {
			return &r.Msg.Sections[i]
		}
	}
	return nil
}

// docs goes through the documents of an array field or of the section with its name.
type docs struct {
	doc wire.Doc // the current one
	at  int      // its offset in the frame
	n   int      // how many have been seen
	ok  bool     // so far it is an array of documents

	rest    []byte // of a section
	section bool
	array   wire.Iter
	holder  int // offset of the length that contains them all
}

// of begins with the documents of a request's field; d is the zero value.
func (d *docs) of(r *Request, id fieldID) {
	if s := r.section(id); s != nil {
		d.ok, d.section, d.rest, d.at, d.holder = true, true, s.Docs, s.At, s.Start+1
	} else if f, ok := r.field(id); ok {
		var a wire.Doc
		a, d.ok = f.Value.Array()
		d.array, d.holder = *a.Iter(), f.At
	}
}

func (d *docs) next() bool {
	if !d.ok {
		return false
	}
	more := false
	if d.section {
		more = d.nextInSection()
	} else if more = d.array.Next(); more {
		d.doc, d.ok = d.array.Value.Doc()
		d.at = d.holder + d.array.At
	} else {
		d.ok = d.array.Err() == nil
	}
	if more && d.ok {
		d.n++
	}
	return more && d.ok
}

func (d *docs) nextInSection() bool {
	if len(d.rest) == 0 {
		return false
	}
	d.at += len(d.doc)
	d.doc, d.rest, d.ok = wire.NextDoc(d.rest)
	return true
}

// within are the offsets of the lengths that contain the command's fields.
func (r *Request) within() []int {
	if r.outerAt != 0 {
		return []int{r.outerAt, r.Msg.BodyAt}
	}
	return []int{r.Msg.BodyAt}
}

// validDB reports whether a server accepts the name of a database.
func validDB(db []byte) bool {
	if len(db) == 0 || len(db) >= 64 {
		return false
	}
	for _, b := range db {
		switch {
		case b >= utf8.RuneSelf:
			if !utf8.Valid(db) {
				return false
			}
		case b == '/' || b == '\\' || b == '.' || b == ' ' || b == '"' || b == 0 || b == '$':
			return string(db) == "$external"
		}
	}
	return true
}
