package main

import (
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// The canned server's answers: OP_MSG with the fields in the order of a MongoDB server.

// cursorID is what a find gives that is to be continued; every getMore gives it again, so that a
// cursor never ends.
const cursorID = 4242

func document(fill func([]byte) []byte) wire.Doc {
	i, d := bsoncore.AppendDocumentStart(nil)
	d, _ = bsoncore.AppendDocumentEnd(fill(d), i)
	return d
}

func message(doc wire.Doc) []byte { return wire.AppendMessage(nil, 1, 0, 0, doc) }

func okReply() []byte {
	return message(document(func(d []byte) []byte { return bsoncore.AppendDoubleElement(d, "ok", 1) }))
}

func wroteReply(n int32) []byte {
	return message(document(func(d []byte) []byte {
		return bsoncore.AppendDoubleElement(bsoncore.AppendInt32Element(d, "n", n), "ok", 1)
	}))
}

func helloDoc() wire.Doc {
	return document(func(d []byte) []byte {
		d = bsoncore.AppendBooleanElement(d, "isWritablePrimary", true)
		d = bsoncore.AppendInt32Element(d, "maxBsonObjectSize", wire.MaxDocument)
		d = bsoncore.AppendInt32Element(d, "maxMessageSizeBytes", wire.MaxMessage)
		d = bsoncore.AppendInt32Element(d, "maxWriteBatchSize", 100_000)
		d = bsoncore.AppendInt32Element(d, "logicalSessionTimeoutMinutes", 30)
		d = bsoncore.AppendInt32Element(d, "minWireVersion", 0)
		d = bsoncore.AppendInt32Element(d, "maxWireVersion", 25)
		d = bsoncore.AppendBooleanElement(d, "readOnly", false)
		return bsoncore.AppendDoubleElement(d, "ok", 1)
	})
}

// listReply names the collections of a database; all are in the shared one.
func listReply(db string) []byte {
	return message(document(func(d []byte) []byte {
		i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
		d = bsoncore.AppendArrayElement(d, "firstBatch", document(func(d []byte) []byte {
			for n, name := range []string{"orders", "order_items", "slow", "timed", "users"} {
				if db == sharedDB {
					d = bsoncore.AppendDocumentElement(d, strconv.Itoa(n), bsoncore.Document(document(func(d []byte) []byte {
						d = bsoncore.AppendStringElement(d, "name", name)
						return bsoncore.AppendStringElement(d, "type", "collection")
					})))
				}
			}
			return d
		}))
		d = bsoncore.AppendInt64Element(d, "id", 0)
		d = bsoncore.AppendStringElement(d, "ns", db+".$cmd.listCollections")
		d, _ = bsoncore.AppendDocumentEnd(d, i)
		return bsoncore.AppendDoubleElement(d, "ok", 1)
	}))
}

// timed appends the times that the members of a replica set tell with each reply.
func timed(d []byte) []byte {
	d = gossip(d)
	return bsoncore.AppendTimestampElement(d, "operationTime", clusterTime, 1)
}

// untimed is for a server that is no member of a replica set.
func untimed(d []byte) []byte { return d }

// clusterTime are the seconds of the time that is told.
const clusterTime = 1_700_000_000

// gossip appends the time that clients tell too, in the form that servers with users give it.
func gossip(d []byte) []byte {
	i, d := bsoncore.AppendDocumentElementStart(d, "$clusterTime")
	d = bsoncore.AppendTimestampElement(d, "clusterTime", clusterTime, 1)
	j, d := bsoncore.AppendDocumentElementStart(d, "signature")
	d = bsoncore.AppendBinaryElement(d, "hash", 0, make([]byte, 20))
	d = bsoncore.AppendInt64Element(d, "keyId", 7_000_000_000_000_000_000)
	d, _ = bsoncore.AppendDocumentEnd(d, j)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

// batchReply is the reply to a find or getMore with documents that make it size bytes long, beside what is told
// with it.
func batchReply(name, ns string, id int64, size int, told func([]byte) []byte) []byte {
	whole := func(docs []byte, told func([]byte) []byte) []byte {
		return message(document(func(d []byte) []byte {
			i, d := bsoncore.AppendDocumentElementStart(d, "cursor")
			d = bsoncore.AppendArrayElement(d, name, docs)
			d = bsoncore.AppendInt64Element(d, "id", id)
			d = bsoncore.AppendStringElement(d, "ns", ns)
			d, _ = bsoncore.AppendDocumentEnd(d, i)
			return told(bsoncore.AppendDoubleElement(d, "ok", 1))
		}))
	}
	empty, docs := document(func(d []byte) []byte { return d }), wire.Doc(nil)
	left := size - len(whole(empty, untimed))
	docs = document(func(d []byte) []byte {
		for n := 0; left > 0; n++ {
			before := len(d)
			d = bsoncore.AppendDocumentElement(d, strconv.Itoa(n), row(n, min(left, max(size/16, 1<<10), 16<<10)))
			left -= len(d) - before
		}
		return d
	})
	return whole(docs, told)
}

// cannedTenant is the tenant of every row: the first one, which is isolated where any is.
var cannedTenant = tenantID(1)

// row is a document of about so many bytes.
func row(n, size int) bsoncore.Document {
	const frame = 60 // what else the row and its place in the batch take
	return bsoncore.Document(document(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "_id", int32(n))
		d = bsoncore.AppendStringElement(d, "tenantId", cannedTenant)
		return bsoncore.AppendStringElement(d, "text", text(size-frame))
	}))
}

// text is a string of so many bytes that compresses as text does, to about a third.
func text(size int) string {
	const words = "amount customer delivered invoice order paid quantity region shipped total "
	b := make([]byte, max(size, 1))
	state := uint32(size)
	for i := range b {
		if state = state*1664525 + 1013904223; state>>28 < 6 {
			b[i] = 'a' + byte(state>>20)%26
			continue
		}
		b[i] = words[i%len(words)]
	}
	return string(b)
}
