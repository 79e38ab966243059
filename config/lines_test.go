package config

import (
	"testing"

	"github.com/BurntSushi/toml"
)

func TestLines(t *testing.T) {
	text := `# a = 1
top = "x" # [not.a.table]
dotted.key.here = 1
"quoted key" = 'it\n'

[table] # comment with [[brackets]]
text = """
fake = 1
[fake]
\""" still """"
raw = '''
fake = 2
'''
after = 1
list = [
  "one", # two = 2
  [ "nested" ],
  { inner = "]}" , other = 3 },
]
inline = { a = 1, b.c = "}", d = [1, 2] }

[[array]]
name = "first"
[array.sub]
x = 1
[[array]]
  name = "second"
[array."sub.two"]
y = 1979-05-27 07:32:00
"esc\u0061pe" = 1
[table.deep.er]
z = 1
`
	if _, err := toml.Decode(text, new(map[string]any)); err != nil {
		t.Fatal(err)
	}
	marks, duplicates := readLines(text)
	root := place{file: "f", mark: marks}
	array := root.key("array")
	for _, tt := range []struct {
		at   place
		path string
		line int
	}{
		{root.key("top"), "top", 2},
		{root.key("dotted").key("key").key("here"), "dotted.key.here", 3},
		{root.key("quoted key"), `"quoted key"`, 4},
		{root.key("table"), "table", 6},
		{root.key("table").key("text"), "table.text", 7},
		{root.key("table").key("raw"), "table.raw", 11},
		{root.key("table").key("after"), "table.after", 14},
		{root.key("table").key("list"), "table.list", 15},
		{root.key("table").key("list").item(0), "table.list[0]", 16},
		{root.key("table").key("list").item(1).item(0), "table.list[1][0]", 17},
		{root.key("table").key("list").item(2).key("other"), "table.list[2].other", 18},
		{root.key("table").key("inline").key("b").key("c"), "table.inline.b.c", 20},
		{array.item(0), "array[0]", 22},
		{array.item(0).key("name"), "array[0].name", 23},
		{array.item(0).key("sub").key("x"), "array[0].sub.x", 25},
		{array.item(1).key("name"), "array[1].name", 27},
		{array.item(1).key("sub.two").key("y"), `array[1]."sub.two".y`, 29},
		{array.item(1).key("sub.two").key("escape"), `array[1]."sub.two".escape`, 30},
		{root.key("table").key("deep").key("er").key("z"), "table.deep.er.z", 32},
		// What is not there has the line of what it belongs in.
		{root.key("fake"), "fake", 0},
		{root.key("table").key("fake"), "table.fake", 6},
		{array.item(1).key("missing"), "array[1].missing", 26},
		{array.item(7), "array[7]", 22},
	} {
		if tt.at.path != tt.path || tt.at.line != tt.line {
			t.Errorf("got %s on line %d, want %s on %d", tt.at.path, tt.at.line, tt.path, tt.line)
		}
	}
	if len(duplicates) != 0 {
		t.Errorf("duplicates: %v", duplicates)
	}
}

func TestLinesCRLF(t *testing.T) {
	marks, _ := readLines("\xef\xbb\xbf[a]\r\n# c\r\nb = \"x\\\r\"\r\nc = 1\r\n")
	root := place{mark: marks}
	if a, b := root.key("a").line, root.key("a").key("b").line; a != 1 || b != 3 {
		t.Error(a, b)
	}
}
