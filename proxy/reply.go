package proxy

import (
	"bytes"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// stateChange reports whether an error code says that a server's part in its set has changed or
// is about to. A driver that sees one marks who said it as unknown, and that would be the proxy.
func stateChange(code wire.Code) bool {
	switch code {
	case 91, 189, 10058, 10107, 11600, 11602, 13435, 13436:
		return true
	}
	return false
}

// renameReply makes the places of a good reply logical that the row says name namespaces. The
// patch takes the usual ones; a whole new reply is returned where names may stand at any depth.
func (c *clientConn) renameReply(tr *trip, reply *wire.Buf) *wire.Buf {
	switch tr.names {
	case routing.ReplyExplain:
		return c.rewritten(tr, reply, planNames)
	case routing.ReplyRows:
		return c.rewritten(tr, reply, rowNames)
	case routing.ReplyNS:
		it := tr.msg.Body.Iter()
		for it.Next() {
			switch string(it.Key) {
			case "ns", "db", "dropped":
				if s, ok := it.Value.Str(); ok {
					with := wire.StringValue(renameText(string(s), tr.target)).Data
					tr.patch.Replace(tr.msg.BodyAt+it.At, len(it.Value.Data), with, tr.msg.BodyAt)
				}
			}
		}
	}
	return nil
}

// failure is a reply that says no, or that some of the writes failed.
func (c *clientConn) failure(tr *trip, reply *wire.Buf) *wire.Buf {
	f := &tr.facts
	changed := stateChange(f.code) || f.errors && stateChangeInside(tr.msg.Body)
	if c.sealed(tr) {
		return c.remade(tr, reply, func(d wire.Doc) wire.Doc {
			r := renamer{target: tr.target, rule: errorTexts}
			return overRows(sealedError(r.doc(nil, d, "", 0)), sealedError) // a bulkWrite tells of failures in rows
		})
	}
	if !changed && !tr.renamed() {
		if tr.patch.Empty() {
			return reply
		}
		return tr.patch.Apply(reply)
	}
	return c.rewritten(tr, reply, errorTexts)
}

func stateChangeInside(d wire.Doc) bool {
	if v, ok := d.Lookup("writeConcernError"); ok {
		if w, ok := v.Doc(); ok {
			code, _ := w.Lookup("code")
			n, _ := code.Int()
			return stateChange(wire.Code(n))
		}
	}
	return false
}

// rewritten is the reply anew, with the strings that the rule picks made logical and state changes
// of servers told as what they are to the client: a backend that is not reachable.
func (c *clientConn) rewritten(tr *trip, reply *wire.Buf, rule namesRule) *wire.Buf {
	return c.remade(tr, reply, func(d wire.Doc) wire.Doc {
		r := renamer{target: tr.target, rule: rule}
		return r.doc(nil, d, "", 0)
	})
}

// remade is the reply with another body, made from its own once that is patched.
func (c *clientConn) remade(tr *trip, reply *wire.Buf, body func(wire.Doc) wire.Doc) *wire.Buf {
	defer reply.Free()
	stripped := reply
	if !tr.patch.Empty() {
		stripped = tr.patch.ApplyTo(reply)
		defer stripped.Free()
	}
	var m wire.Message
	if err := m.Parse(stripped.B); err != nil {
		return c.refuse(wire.Errorf(wire.HostUnreachable, "the server's reply can not be read"))
	}
	return wire.NewMessage(0, 0, 0, body(m.Body))
}

// namesRule says in which strings of a reply names of databases are replaced.
type namesRule uint8

const (
	errorTexts namesRule = iota // errmsg and errInfo, and the codes of state changes
	rowNames                    // ns, to and db of a cursor's rows
	everywhere
	planNames // everywhere, and nothing of the server, or of the servers behind a home that is a mongos
)

// renamer copies a reply with physical names made logical.
type renamer struct {
	target *routing.Target
	rule   namesRule
}

func (r *renamer) doc(dst []byte, d wire.Doc, path string, depth int) []byte {
	i, dst := bsoncore.AppendDocumentStart(dst)
	it := d.Iter()
	for it.Next() {
		key := string(it.Key)
		dst = r.element(dst, key, it.Value, path, depth)
	}
	dst, _ = bsoncore.AppendDocumentEnd(dst, i)
	return dst
}

func (r *renamer) element(dst []byte, key string, v wire.Value, path string, depth int) []byte {
	if r.rule == planNames && ofPlanner(key) && (path == "" || strings.Contains(path, ".shards.")) {
		return dst
	}
	if depth > 150 || r.user(key) {
		return v.AppendTo(dst, key)
	}
	if s, ok := v.Str(); ok {
		if r.picks(key, path) {
			return bsoncore.AppendStringElement(dst, key, r.text(string(s)))
		}
		return v.AppendTo(dst, key)
	}
	if n, ok := v.Int(); ok && r.rule == errorTexts && key == "code" && stateChange(wire.Code(n)) {
		return bsoncore.AppendInt32Element(dst, key, int32(wire.HostUnreachable))
	}
	sub, ok := v.AnyDoc()
	if !ok {
		return v.AppendTo(dst, key)
	}
	dst = bsoncore.AppendHeader(dst, v.Type, key)
	return r.doc(dst, sub, path+"."+key, depth+1)
}

// user reports whether a key holds the user's own data, which stays as it is.
func (r *renamer) user(key string) bool {
	switch key {
	case "keyValue", "keyPattern", "details", "fullDocument", "fullDocumentBeforeChange", "documentKey", "updateDescription":
		return r.rule != everywhere && r.rule != planNames
	}
	return false
}

func (r *renamer) picks(key, path string) bool {
	switch r.rule {
	case everywhere, planNames:
		return true
	case rowNames:
		return key == "ns" || key == "db" && (strings.HasSuffix(path, ".ns") || strings.HasSuffix(path, ".to"))
	}
	return key == "errmsg" || key == "codeName" || strings.Contains(path, ".errInfo")
}

// text is a string with its physical names made logical, and with no word left that makes drivers
// of old take a backend's change of state for the proxy's.
func (r *renamer) text(s string) string {
	if r.rule == errorTexts {
		switch s {
		case "NotWritablePrimary", "NotPrimaryNoSecondaryOk", "NotPrimaryOrSecondary", "PrimarySteppedDown",
			"InterruptedDueToReplStateChange", "InterruptedAtShutdown", "ShutdownInProgress", "LegacyNotPrimary":
			return wire.HostUnreachable.Name()
		}
		s = strings.ReplaceAll(s, "not master", "no primary")
		s = strings.ReplaceAll(s, "node is recovering", "server is recovering")
	}
	return renameText(s, r.target)
}

// renameText replaces the target's database name, standing as a whole word, by the logical one.
func renameText(s string, target *routing.Target) string {
	if target.Logical == "" || target.DB == target.Logical || !strings.Contains(s, target.DB) {
		return s
	}
	var b strings.Builder
	for {
		i := strings.Index(s, target.DB)
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		end := i + len(target.DB)
		whole := (i == 0 || !nameByte(s[i-1])) && (end == len(s) || !nameByte(s[end]))
		b.WriteString(s[:i])
		if whole {
			b.WriteString(target.Logical)
		} else {
			b.WriteString(target.DB)
		}
		s = s[end:]
	}
}

func nameByte(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// logicalNS is a namespace of the target as the client knows it, appended to dst as a BSON string.
func logicalNS(dst []byte, ns []byte, target *routing.Target) []byte {
	rest, ok := bytes.CutPrefix(ns, []byte(target.DB))
	if !ok || len(rest) == 0 || rest[0] != '.' {
		return bsoncore.AppendString(dst, renameText(string(ns), target))
	}
	n := len(target.Logical) + len(rest) + 1
	dst = append(dst, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	dst = append(dst, target.Logical...)
	dst = append(dst, rest...)
	return append(dst, 0)
}

// okReply is { ok: 1 }.
func okReply() *wire.Buf {
	return wire.NewMessage(0, 0, 0, build(func(d []byte) []byte { return appendOK(d) }))
}

func appendOK(d []byte) []byte { return bsoncore.AppendDoubleElement(d, "ok", 1) }

// build makes a document of the elements that fill appends.
func build(fill func([]byte) []byte) wire.Doc {
	i, d := bsoncore.AppendDocumentStart(make([]byte, 0, 512))
	d = fill(d)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// replyOf is a reply made here.
func replyOf(fill func([]byte) []byte) *wire.Buf {
	return wire.NewMessage(0, 0, 0, build(func(d []byte) []byte { return appendOK(fill(d)) }))
}

// appendCursor appends a cursor document with its first or next batch.
func appendCursor(d []byte, id int64, ns, batch string, docs []wire.Doc) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
	d = appendBatch(d, batch, docs)
	d = bsoncore.AppendInt64Element(d, "id", id)
	d = bsoncore.AppendStringElement(d, "ns", ns)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

func appendBatch(d []byte, name string, docs []wire.Doc) []byte {
	i, d := bsoncore.AppendArrayElementStart(d, name)
	for n, doc := range docs {
		d = bsoncore.AppendDocumentElement(d, itoa(n), bsoncore.Document(doc))
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}
