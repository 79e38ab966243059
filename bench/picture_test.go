package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPictureIsWellFormed(t *testing.T) {
	for name, p := range map[string]plot{
		"some": {Title: "a < b & c", X: "load", Y: "µs", Curves: []curve{
			{Name: `"one" <1>`, Points: []point{{100, 20}, {200, 900}}, Color: "#123456"},
			{Name: "two", Points: []point{{50, 10}}, Dashed: true, Color: "red"},
		}},
		"none":  {Title: "nothing"},
		"zeros": {Curves: []curve{{Points: []point{{0, 0}, {1, 0}}}}},
	} {
		var b strings.Builder
		if err := p.write(&b); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, b.String())
			}
			if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "polyline" {
				lines++
			}
		}
		if lines != len(p.Curves) {
			t.Errorf("%s: %d curves drawn of %d", name, lines, len(p.Curves))
		}
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s: a place that is no number\n%s", name, b.String())
		}
	}
}
