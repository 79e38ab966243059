package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// position is where a change stream is: what a resume token of ours says.
type position struct {
	tokens []token
	since  uint32 // seconds since 1970; from then on a cluster without a token is read
	over   bool   // of the event that ends a stream
	lost   []plot // known to have nothing
}

// token is a cluster's own resume token.
type token struct {
	cluster string
	doc     wire.Doc
}

// of is the cluster's token; nil for none.
func (p *position) of(cluster string) wire.Doc {
	for _, t := range p.tokens {
		if t.cluster == cluster {
			return t.doc
		}
	}
	return nil
}

// sealer makes and reads resume tokens, the only ones that clients see of streams that are not one
// server's: a server's own may show physical names, and is of one cluster alone. To a client they
// look like a server's, { _data: string }. Within, encrypted and authenticated by a key of the
// fleet's and for who is connected, stands the position as BSON.
//
// The same position is always the same token: applications tell events apart by it.
type sealer struct {
	aead  cipher.AEAD
	nonce []byte // key of the nonces
	who   []byte
}

// tokenMark begins every token of ours; servers' are hexadecimal.
const tokenMark = "tenantry1."

func newSealer(fleetKey []byte, principal string) *sealer {
	derive := func(use string) []byte {
		key, err := hkdf.Key(sha256.New, fleetKey, nil, use, 32)
		if err != nil {
			panic(err) // the length is a constant, and right
		}
		return key
	}
	block, err := aes.NewCipher(derive("tenantry resume tokens"))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &sealer{aead, derive("tenantry resume tokens' nonces"), []byte(principal)}
}

// seal is the position as a token.
func (s *sealer) seal(p *position) wire.Doc {
	plain := build(func(d []byte) []byte {
		d = bsoncore.AppendInt64Element(d, "since", int64(p.since))
		d = bsoncore.AppendBooleanElement(d, "over", p.over)
		for _, t := range p.tokens {
			d = bsoncore.AppendDocumentElement(d, "@"+t.cluster, bsoncore.Document(t.doc))
		}
		for _, x := range p.lost {
			i, e := bsoncore.AppendArrayElementStart(d, "lost")
			for n, s := range []string{x.cluster, x.db, x.coll} {
				e = bsoncore.AppendStringElement(e, itoa(n), s)
			}
			d, _ = bsoncore.AppendArrayEnd(e, i)
		}
		return d
	})
	mac := hmac.New(sha256.New, s.nonce)
	mac.Write(s.who)
	mac.Write([]byte{0})
	mac.Write(plain)
	sealed := mac.Sum(nil)[:s.aead.NonceSize():s.aead.NonceSize()]
	sealed = s.aead.Seal(sealed, sealed, plain, s.who)
	return build(func(d []byte) []byte {
		return bsoncore.AppendStringElement(d, "_data", tokenMark+base64.RawURLEncoding.EncodeToString(sealed))
	})
}

// open reads a token; ours is false for one that is no token of any proxy. The error is a client's
// to see.
func (s *sealer) open(d wire.Doc) (p position, ours bool, err *wire.Error) {
	v, _ := d.Lookup("_data")
	text, _ := v.Str()
	text, ours = bytes.CutPrefix(text, []byte(tokenMark))
	if !ours {
		return p, false, nil
	}
	if p, ok := s.decode(text); ok {
		return p, true, nil
	}
	return p, true, wire.Errorf(wire.InvalidResumeToken,
		"the resume token was made by proxies with another key, or for another user, or has been changed; begin the change stream without it")
}

func (s *sealer) decode(text []byte) (p position, ok bool) {
	sealed, err := base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	n := s.aead.NonceSize()
	if err != nil || len(sealed) < n {
		return p, false
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], s.who)
	if err != nil || wire.Doc(plain).Check() != nil {
		return p, false
	}
	for it := wire.Doc(plain).Iter(); it.Next(); {
		cluster, isToken := bytes.CutPrefix(it.Key, []byte("@"))
		doc, isDoc := it.Value.Doc()
		switch {
		case isToken && isDoc:
			p.tokens = append(p.tokens, token{string(cluster), doc})
		case string(it.Key) == "since":
			n, _ := it.Value.Int()
			p.since = uint32(n)
		case string(it.Key) == "over":
			p.over = it.Value.True()
		case string(it.Key) == "lost":
			p.lost = append(p.lost, plotOf(it.Value))
		}
	}
	return p, true
}

func plotOf(v wire.Value) plot {
	var names [3]string
	a, _ := v.Array()
	it := a.Iter()
	for i := 0; i < len(names) && it.Next(); i++ {
		s, _ := it.Value.Str()
		names[i] = string(s)
	}
	return plot{names[0], names[1], names[2]}
}

// madeAt is the time that a server's own token tells, in seconds since 1970; 0 where it tells none
// that can be read. The token is a KeyString: the byte of a timestamp's type, then its seconds.
func madeAt(d wire.Doc) uint32 {
	v, _ := d.Lookup("_data")
	text, _ := v.Str()
	if len(text) < 10 || text[0] != '8' || text[1] != '2' {
		return 0
	}
	var n uint32
	for _, c := range text[2:10] {
		i := bytes.IndexByte([]byte("0123456789ABCDEF"), c)
		if i < 0 {
			return 0
		}
		n = n<<4 | uint32(i)
	}
	return n
}
