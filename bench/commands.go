package main

import (
	"cmp"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// sharedDB is the database that clients name.
const sharedDB = "app_shared"

// tenantID is a tenant's id, which is its key too.
func tenantID(n int) string { return fmt.Sprintf("t%05d", n) }

// frames makes the messages that one client sends in turn, each for another tenant.
func frames(l *load, client int) ([][]byte, error) {
	n := min(max(l.Tenants, 1), 16)
	if l.Insert > 1<<20 {
		n = 1
	}
	out := make([][]byte, n)
	for i := range out {
		tenant := cmp.Or(l.Tenant, tenantID(1+(client*n+i)%max(l.Tenants, 1)))
		f := command(l, client, tenant)
		if l.Compressor != "" {
			packed, err := compressed(f, l.Compressor)
			if err != nil {
				return nil, err
			}
			f = packed
		}
		out[i] = f
	}
	return out, nil
}

// command is one message of the load, in the form that drivers give it.
func command(l *load, client int, tenant string) []byte {
	tail := func(d []byte) []byte {
		d = bsoncore.AppendDocumentElement(d, "lsid", session(client))
		if l.Collection == "timed" {
			d = gossip(d)
		}
		return bsoncore.AppendStringElement(d, "$db", sharedDB)
	}
	if l.Command == "insert" {
		f := message(document(func(d []byte) []byte {
			d = bsoncore.AppendStringElement(d, "insert", l.Collection)
			d = bsoncore.AppendBooleanElement(d, "ordered", true)
			return tail(d)
		}))
		return wire.AppendSection(f, "documents", inserted(tenant, l.Insert)...)
	}
	return message(document(func(d []byte) []byte {
		d = bsoncore.AppendStringElement(d, l.Command, l.Collection)
		d = bsoncore.AppendDocumentElement(d, "filter", document(func(d []byte) []byte {
			if !l.NoTenant {
				d = bsoncore.AppendStringElement(d, "tenantId", tenant)
			}
			if l.Compressor != "" { // so long that it is worth to be compressed
				d = bsoncore.AppendStringElement(d, "note", strings.Repeat("delivered ", 40))
			}
			return bsoncore.AppendInt32Element(d, "n", 1)
		}))
		return tail(bsoncore.AppendInt32Element(d, "batchSize", int32(l.Reply)))
	}))
}

// getMore is the message that asks for the next batch of a cursor.
func getMore(l *load, client int, id int64) []byte {
	return message(document(func(d []byte) []byte {
		d = bsoncore.AppendInt64Element(d, "getMore", id)
		d = bsoncore.AppendStringElement(d, "collection", l.Collection)
		d = bsoncore.AppendInt32Element(d, "batchSize", int32(l.Reply))
		d = bsoncore.AppendDocumentElement(d, "lsid", session(client))
		return bsoncore.AppendStringElement(d, "$db", sharedDB)
	}))
}

// session is the lsid of a client.
func session(client int) bsoncore.Document {
	id := [16]byte{6: 0x40, 8: 0x80, 14: byte(client >> 8), 15: byte(client)}
	return bsoncore.Document(document(func(d []byte) []byte { return bsoncore.AppendBinaryElement(d, "id", 4, id[:]) }))
}

// inserted are documents of so many bytes together, none larger than 1 MiB.
func inserted(tenant string, size int) []wire.Doc {
	var docs []wire.Doc
	for n := 0; size > 0; n++ {
		d := document(func(d []byte) []byte {
			d = bsoncore.AppendInt32Element(d, "_id", int32(n))
			d = bsoncore.AppendStringElement(d, "tenantId", tenant)
			return bsoncore.AppendStringElement(d, "text", text(min(size, 1<<20)))
		})
		docs = append(docs, d)
		size -= len(d)
	}
	return docs
}

// hello is what a client says first.
func hello() []byte {
	return message(document(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "hello", 1)
		return bsoncore.AppendStringElement(d, "$db", "admin")
	}))
}

func compressed(frame []byte, by string) ([]byte, error) {
	c, ok := map[string]wire.Compressor{"snappy": wire.Snappy, "zlib": wire.Zlib, "zstd": wire.Zstd}[by]
	if !ok {
		return nil, fmt.Errorf("no compressor %q", by)
	}
	b := wire.NewBuf(len(frame))
	defer b.Free()
	copy(b.B, frame)
	packed, err := wire.Compress(b, c)
	if err != nil {
		return nil, err
	}
	defer packed.Free()
	return append([]byte(nil), packed.B...), nil
}
