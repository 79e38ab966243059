package wire

import (
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// dump is an entry of testdata/frames.txt.
type dump struct {
	name, want string
	b          []byte
}

func dumps(t testing.TB) []dump {
	t.Helper()
	text, err := os.ReadFile("testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []dump
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if head, ok := strings.CutPrefix(line, "== "); ok {
			name, want, _ := strings.Cut(head, ": ")
			all = append(all, dump{name: name, want: want})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		last := &all[len(all)-1]
		last.b = append(last.b, b...)
	}
	return all
}

// seeds are the dumps whose names begin so.
func seeds(t testing.TB, prefix string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, d := range dumps(t) {
		if strings.HasPrefix(d.name, prefix) {
			all = append(all, d.b)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no dumps of %q", prefix)
	}
	return all
}

// parseAny reads a frame by the parser of the dump's kind.
func parseAny(kind string, b []byte) error {
	var err error
	switch kind {
	case "msg":
		var m Message
		if err = m.Parse(b); err == nil {
			err = m.Body.Check()
		}
	case "query":
		_, err = ParseQuery(b)
	case "reply":
		_, _, _, err = ReadReply(b)
	case "compressed":
		var out *Buf
		if out, _, err = Decompress(&Buf{B: b}, MaxMessage); err == nil {
			err = parseAny("msg", out.B)
			out.Free()
		}
	default:
		err = errors.New("no such kind")
	}
	return err
}

func TestFrames(t *testing.T) {
	for _, d := range dumps(t) {
		t.Run(d.name, func(t *testing.T) {
			kind, _, _ := strings.Cut(d.name, " ")
			b := slices.Clip(slices.Clone(d.b)) // a read behind the frame is an index out of range
			err := parseAny(kind, b)
			switch {
			case d.want == "ok" && err != nil:
				t.Errorf("got %v, want no error", err)
			case d.want != "ok" && (err == nil || !strings.Contains(err.Error(), d.want)):
				t.Errorf("got %v, want an error with %q", err, d.want)
			}
			var frame FrameError
			var refusal *Error
			if err != nil && !errors.As(err, &frame) && !errors.As(err, &refusal) {
				t.Errorf("got a %T, want a FrameError or an Error", err)
			}
			if !slices.Equal(b, d.b) {
				t.Error("parsing changed the frame")
			}
		})
	}
}

// TestCuts parses each prefix of each valid frame, with a length that says so: none panics, none
// is taken.
func TestCuts(t *testing.T) {
	for _, d := range dumps(t) {
		kind, _, _ := strings.Cut(d.name, " ")
		for n := 0; n < len(d.b); n++ {
			b := slices.Clip(slices.Clone(d.b[:n]))
			if n >= HeaderLen {
				putInt32(b, int32(n))
			}
			if err := parseAny(kind, b); err == nil && d.want == "ok" && !strings.Contains(d.name, "section") && !strings.Contains(d.name, "bulkWrite") {
				t.Errorf("%s: the first %d bytes are taken", d.name, n)
			}
		}
	}
}

func TestMessageParts(t *testing.T) {
	var m Message
	for _, d := range dumps(t) {
		if d.name != "msg insert with section" {
			continue
		}
		if err := m.Parse(d.b); err != nil {
			t.Fatal(err)
		}
	}
	if m.RequestID != 8 || m.BodyAt != 21 || len(m.Sections) != 1 {
		t.Fatalf("got request %d, body at %d, %d sections", m.RequestID, m.BodyAt, len(m.Sections))
	}
	s := m.Sections[0]
	if string(s.Identifier) != "documents" || m.Frame[s.Start] != 1 || &m.Frame[s.At] != &s.Docs[0] {
		t.Errorf("got section %q at %d, documents at %d", s.Identifier, s.Start, s.At)
	}
	if n := int(getInt32(m.Frame[s.Start+1:])); s.Start+1+n != s.At+len(s.Docs) {
		t.Errorf("section of %d bytes from %d ends elsewhere than its documents", n, s.Start)
	}
}

// doc marshals a document of a test.
func decimal(t testing.TB, s string) bson.Decimal128 {
	t.Helper()
	v, err := bson.ParseDecimal128(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func doc(t testing.TB, v any) Doc {
	t.Helper()
	b, err := bson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeader(t *testing.T) {
	h := Header{Length: 100, RequestID: -2, ResponseTo: 3, OpCode: OpMsg}
	b := make([]byte, HeaderLen)
	h.Put(b)
	if got := ReadHeader(b); got != h {
		t.Errorf("got %v, want %v", got, h)
	}
	SetIDs(b, 8, 9)
	if got := ReadHeader(b); got != (Header{100, 8, 9, OpMsg}) {
		t.Errorf("got %v", got)
	}
}
