package control

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// tenantID is a tenant's id in a form that can be compared and be a map's key: equal where BSON
// takes the values for equal, so that 42 is one tenant whatever its numeric type.
type tenantID string

// idOf is a value's tenantID; "" where no tenant can have it.
func idOf(v wire.Value) tenantID {
	switch v.Type {
	case bsoncore.TypeString:
		if s, ok := v.Str(); !ok || len(s) == 0 {
			return ""
		}
	case bsoncore.TypeObjectID:
	case bsoncore.TypeBinary:
		if len(v.Data) != 21 || v.Data[4] != 3 && v.Data[4] != 4 {
			return ""
		}
	case bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDouble:
		n, ok := v.Int()
		if !ok {
			return ""
		}
		return tenantID("n" + strconv.FormatInt(n, 10))
	default:
		return ""
	}
	return tenantID(string(byte(v.Type)) + string(v.Data))
}

// valueText is an id or a key as text: what a name can be made of. "" where there is none.
func valueText(v wire.Value) string {
	switch v.Type {
	case bsoncore.TypeString:
		s, _ := v.Str()
		return string(s)
	case bsoncore.TypeObjectID:
		return hex.EncodeToString(v.Data)
	case bsoncore.TypeBinary:
		if len(v.Data) == 21 {
			h := hex.EncodeToString(v.Data[5:])
			return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
		}
	}
	if n, ok := v.Int(); ok {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

// shown is a value for people, with its type where that isn't plain.
func shown(v wire.Value) string {
	switch v.Type {
	case bsoncore.TypeObjectID:
		return "oid " + valueText(v)
	case bsoncore.TypeBinary:
		return "uuid " + valueText(v)
	}
	if s := valueText(v); s != "" {
		return s
	}
	return v.String()
}

func fromRaw(v bson.RawValue) wire.Value {
	return wire.Value{Type: bsoncore.Type(v.Type), Data: v.Value}
}

func toRaw(v wire.Value) bson.RawValue {
	return bson.RawValue{Type: bson.Type(v.Type), Value: v.Data}
}

// cloned is the value in memory of its own: one that a reply holds would keep all of the reply.
func cloned(v wire.Value) wire.Value {
	return wire.Value{Type: v.Type, Data: append([]byte(nil), v.Data...)}
}

// badInDatabase is what some server refuses in a database name.
const badInDatabase = "/\\. \"$*<>:|?\x00"

// maxDatabaseName is the server's limit, in bytes.
const maxDatabaseName = 63

// badKey says why a key can not be part of the tenants' database names; "" where it can.
func badKey(key string, patterns []string) string {
	switch i := strings.IndexAny(key, badInDatabase); {
	case key == "":
		return "it has no key"
	case i >= 0:
		return fmt.Sprintf("its key %q contains %q, which no database name may", key, key[i])
	case !utf8.ValidString(key):
		return "its key is not valid UTF-8"
	}
	for _, p := range patterns {
		if n := len(p) - len("{key}") + len(key); n > maxDatabaseName {
			return fmt.Sprintf("its key %q makes a database name of %d bytes; a server allows %d", key, n, maxDatabaseName)
		}
	}
	return ""
}
