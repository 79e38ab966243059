package config

import (
	"encoding/hex"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const idRemedy = `write "text", { oid = "24 hex digits" }, { uuid = "…" } or { int = 42 }`

// tenant reads one of [[tenants]]. An invalid one is kept with what is valid of it, so that the
// positions of the others stay and its other mistakes are found too.
func (l *loader) tenant(t *table) {
	id, idText := l.tenantID(t)
	tn := Tenant{
		ID:      id,
		Mode:    t.oneOf("mode", "", "shared", "per-tenant"),
		Cluster: t.optional("cluster", ""),
		Modules: t.list("modules"),
		Source:  t.at.source(),
	}
	if tn.Key = t.optional("key", ""); !t.has("key") {
		tn.Key = idText
	}
	t.done()
	l.cfg.Tenants = append(l.cfg.Tenants, tn)
	l.tenantAt = append(l.tenantAt, t.at)
}

// tenantID reads an id as documents carry it, and its text, which is the key where none is given.
func (l *loader) tenantID(t *table) (bson.RawValue, string) {
	v, ok := t.take("id")
	switch v := v.(type) {
	case string:
		if v == "" {
			t.refuse("id", "is empty", idRemedy)
			return bson.RawValue{}, ""
		}
		return rawValue(v), v
	case map[string]any:
		return l.typedID(&table{l: l, at: t.at.key("id"), values: v})
	}
	if !ok {
		t.refuse("id", "is missing", idRemedy)
	} else {
		t.refuse("id", "found "+typeName(v), idRemedy)
	}
	return bson.RawValue{}, ""
}

func (l *loader) typedID(t *table) (id bson.RawValue, text string) {
	if len(t.values) != 1 {
		l.refuse(t.at, "has "+strconv.Itoa(len(t.values))+" keys instead of one", idRemedy)
		return id, ""
	}
	if v, ok := as[string](t, "oid", "24 hex digits in quotes"); ok {
		oid, err := bson.ObjectIDFromHex(v)
		if err != nil {
			t.refuse("oid", show(v)+" is not an ObjectId", "write 24 hex digits")
			return id, ""
		}
		id, text = rawValue(oid), oid.Hex()
	}
	if v, ok := as[string](t, "uuid", "the UUID in quotes"); ok {
		uuid, ok := parseUUID(v)
		if !ok {
			t.refuse("uuid", show(v)+" is not a UUID", "write it like 123e4567-e89b-12d3-a456-426614174000")
			return id, ""
		}
		id, text = rawValue(bson.Binary{Subtype: bson.TypeBinaryUUID, Data: uuid}), strings.ToLower(v)
	}
	if v, ok := as[int64](t, "int", "a whole number"); ok {
		id, text = rawValue(v), strconv.FormatInt(v, 10)
	}
	t.done()
	return id, text
}

func parseUUID(text string) ([]byte, bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return nil, false
	}
	uuid, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	return uuid, err == nil && len(uuid) == 16
}

// rawValue is a scalar as BSON; it only gets types that always have a form.
func rawValue(v any) bson.RawValue {
	typ, value, err := bson.MarshalValue(v)
	if err != nil {
		panic(err)
	}
	return bson.RawValue{Type: typ, Value: value}
}

// idText is an id for people: a string in quotes, else what the file would say.
func idText(id bson.RawValue) string {
	switch id.Type {
	case bson.TypeString:
		return show(id.StringValue())
	case bson.TypeObjectID:
		return "oid " + id.ObjectID().Hex()
	case bson.TypeBinary:
		_, b := id.Binary()
		h := hex.EncodeToString(b)
		if len(h) == 32 {
			h = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
		}
		return "uuid " + h
	case bson.TypeInt64:
		return strconv.FormatInt(id.Int64(), 10)
	}
	return ""
}
