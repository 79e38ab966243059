package proxy

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

func nativeToken(text string) wire.Doc { return wiretest.D(d("_data", text)) }

func sealed(text string) wire.Doc { return nativeToken(tokenMark + text) }

func dataOf(t testing.TB, doc wire.Doc) string {
	t.Helper()
	text, ok := wiretest.Get(wiretest.Decode(doc), "_data").(string)
	if !ok {
		t.Fatalf("no token: %v", bson.Raw(doc))
	}
	return text
}

func TestTokens(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	s := newSealer(key, "")
	places := []position{
		{},
		{since: 1795590807, tokens: []token{{"home", nativeToken("8262")}}},
		{since: 7, over: true, tokens: []token{{"home", nativeToken("8262")}, {"big", wiretest.D(d("_data", "82", "_typeBits", bson.Binary{Data: []byte{1}}))}}},
	}
	seen := map[string]bool{}
	for _, p := range places {
		made := s.seal(&p)
		text := dataOf(t, made)
		if strings.Contains(text, "8262") || seen[text] {
			t.Errorf("token %q", text)
		}
		seen[text] = true
		if again := s.seal(&p); !bytes.Equal(again, made) {
			t.Error("one place, two tokens")
		}
		got, ours, err := newSealer(key, "").open(made) // as after a restart
		if err != nil || !ours || got.since != p.since || got.over != p.over || len(got.tokens) != len(p.tokens) {
			t.Fatalf("read as %v, %v, %v", got, ours, err)
		}
		for i := range p.tokens {
			if got.tokens[i].cluster != p.tokens[i].cluster || !bytes.Equal(got.tokens[i].doc, p.tokens[i].doc) {
				t.Errorf("token %d: %v", i, got.tokens[i])
			}
		}
	}
}

func TestForeignTokens(t *testing.T) {
	s := newSealer([]byte("one"), "")
	good := s.seal(&position{since: 7, tokens: []token{{"home", nativeToken("82")}}})
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(dataOf(t, good), tokenMark))
	changed := func(i int) wire.Doc {
		b := bytes.Clone(raw)
		b[i] ^= 1
		return sealed(base64.RawURLEncoding.EncodeToString(b))
	}
	for name, c := range map[string]struct {
		by    *sealer
		token wire.Doc
		ours  bool
	}{
		"another fleet's":         {newSealer([]byte("two"), ""), good, true},
		"an open one of a tenant": {newSealer([]byte("one"), "tenant:acme"), good, true},
		"nothing":                 {s, sealed(""), true},
		"no base64":               {s, sealed("$$"), true},
		"short":                   {s, sealed("AAAA"), true},
		"changed nonce":           {s, changed(0), true},
		"changed text":            {s, changed(14), true},
		"changed tag":             {s, changed(len(raw) - 1), true},
		"cut":                     {s, sealed(dataOf(t, good)[len(tokenMark) : len(dataOf(t, good))-4]), true},
		"a server's":              {s, nativeToken("8262"), false},
		"no token":                {s, wiretest.D(d("x", 1)), false},
		"a number":                {s, wiretest.D(d("_data", 7)), false},
		"empty":                   {s, wire.Doc{5, 0, 0, 0, 0}, false},
	} {
		_, ours, err := c.by.open(c.token)
		if ours != c.ours || (err != nil) != c.ours {
			t.Errorf("%s: ours %v, %v", name, ours, err)
		}
		if err != nil && err.Code != wire.InvalidResumeToken {
			t.Errorf("%s: %v", name, err.Code)
		}
	}
}

func TestMadeAt(t *testing.T) {
	for text, want := range map[string]uint32{
		"826A050000000000012B0429296E1404": 0x6A050000, "82": 0, "": 0, "8262g5f2000000012B": 0, "3a0000001073": 0,
		"826a050000000000012b": 0, tokenMark + "AAAA": 0,
	} {
		if got := madeAt(nativeToken(text)); got != want {
			t.Errorf("%q was made at %d, want %d", text, got, want)
		}
	}
}

// FuzzToken: whatever a client sends as a token is refused or is one that we made.
func FuzzToken(f *testing.F) {
	s := newSealer([]byte("key"), "")
	good := s.seal(&position{since: 7, tokens: []token{{"home", nativeToken("82")}}})
	f.Add([]byte(good))
	f.Add([]byte(nativeToken("8262")))
	f.Add([]byte(sealed("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")))
	f.Add([]byte{5, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ours, err := s.open(b)
		if !ours || err != nil {
			return
		}
		if dataOf(t, s.seal(&p)) != dataOf(t, b) {
			t.Errorf("a token that we have not made: %q", b)
		}
	})
}
