package config

import (
	"strconv"
	"strings"
)

// The TOML library knows on which line a key stands, but offers no way to ask. So the text is
// read a second time, for positions only. The library has accepted the text by then (or has
// named its syntax error), so this reader need not judge: it stops where it does not understand.

// mark is the position of one key, table or array element, with those inside it.
type mark struct {
	line   int
	offset int
	end    int // behind its value, or its header
	keys   map[string]*mark
	items  []*mark
	set    bool // by a value or its own header, so a second time is a duplicate
}

// child is the mark of a key inside m, made where there is none yet.
func (m *mark) child(name string, line, offset int) *mark {
	if c := m.keys[name]; c != nil {
		return c
	}
	if m.keys == nil {
		m.keys = make(map[string]*mark, 4)
	}
	c := &mark{line: line, offset: offset}
	m.keys[name] = c
	return c
}

// latest is where keys after a header [m] or [[m]] belong: the last element of an array.
func (m *mark) latest() *mark {
	if n := len(m.items); n > 0 {
		return m.items[n-1]
	}
	return m
}

// last is the end of the last key inside m.
func (m *mark) last() int {
	end := m.end
	for _, k := range m.keys {
		end = max(end, k.last())
	}
	return end
}

// duplicate is a key or table that the text names a second time.
type duplicate struct {
	key   []string
	line  int
	first int
}

// lineReader walks over TOML text and remembers where things are.
type lineReader struct {
	src        string
	pos        int
	line       int
	root       *mark
	duplicates []duplicate
}

// readLines finds the positions of all keys of src.
func readLines(src string) (*mark, []duplicate) {
	r := &lineReader{src: src, line: 1, root: &mark{}}
	for _, bom := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(src, bom) {
			r.pos = len(bom)
		}
	}
	r.document()
	return r.root, r.duplicates
}

func (r *lineReader) document() {
	current, path := r.root, []string(nil)
	for {
		r.blank(true)
		if r.pos >= len(r.src) {
			return
		}
		ok := false
		if r.peek() == '[' {
			current, path, ok = r.header()
		} else {
			ok = r.keyValue(current, path)
		}
		if !ok {
			return
		}
	}
}

// header reads [a.b] or [[a.b]] and returns the table that the next keys belong to.
func (r *lineReader) header() (*mark, []string, bool) {
	line, offset := r.line, r.pos
	array := strings.HasPrefix(r.src[r.pos:], "[[")
	r.pos++
	if array {
		r.pos++
	}
	path, ok := r.key()
	if !ok || r.peek() != ']' {
		return nil, nil, false
	}
	r.pos++
	if array {
		r.pos++
	}
	at := r.root
	for _, name := range path[:len(path)-1] {
		at = at.child(name, line, offset).latest()
	}
	last := at.child(path[len(path)-1], line, offset)
	if array {
		last.items = append(last.items, &mark{line: line, offset: offset, end: r.pos})
		return last.latest(), path, true
	}
	r.define(last, path, line, offset)
	return last, path, true
}

// keyValue reads key = value inside the table at, whose own key is path.
func (r *lineReader) keyValue(at *mark, path []string) bool {
	line, offset := r.line, r.pos
	names, ok := r.key()
	if !ok || r.peek() != '=' {
		return false
	}
	r.pos++
	for _, name := range names {
		at = at.child(name, line, offset)
	}
	full := append(path[:len(path):len(path)], names...)
	r.define(at, full, line, offset)
	r.blank(false)
	ok = r.value(at, full)
	at.end = r.pos
	return ok
}

// define notes that a key is given here; tables that dotted keys imply are not.
func (r *lineReader) define(m *mark, path []string, line, offset int) {
	if m.set {
		r.duplicates = append(r.duplicates, duplicate{key: path, line: line, first: m.line})
		return
	}
	m.set, m.line, m.offset = true, line, offset
}

// key reads a bare, quoted or dotted key and the blanks after it.
func (r *lineReader) key() ([]string, bool) {
	var names []string
	for {
		r.blank(false)
		name, ok := r.keyPart()
		if !ok {
			return nil, false
		}
		names = append(names, name)
		r.blank(false)
		if r.peek() != '.' {
			return names, true
		}
		r.pos++
	}
}

func (r *lineReader) keyPart() (string, bool) {
	start := r.pos
	switch r.peek() {
	case '"':
		if !r.quoted() {
			return "", false
		}
		text := r.src[start:r.pos]
		if name, err := strconv.Unquote(text); err == nil {
			return name, true
		}
		return text, true // an escape that only TOML has: the line of the table must do
	case '\'':
		if !r.quoted() {
			return "", false
		}
		return r.src[start+1 : r.pos-1], true
	}
	for r.pos < len(r.src) && isBare(r.src[r.pos]) {
		r.pos++
	}
	return r.src[start:r.pos], r.pos > start
}

// value reads one value; m is the mark of its key or of the array element that it is.
func (r *lineReader) value(m *mark, path []string) bool {
	switch r.peek() {
	case '"', '\'':
		return r.quoted()
	case '[':
		return r.array(m, path)
	case '{':
		return r.inlineTable(m, path)
	}
	start := r.pos
	for r.pos < len(r.src) && !strings.ContainsRune(",]}#\n", rune(r.src[r.pos])) {
		r.pos++
	}
	return r.pos > start
}

func (r *lineReader) array(m *mark, path []string) bool {
	for r.pos++; ; {
		r.blank(true)
		if r.peek() == ']' {
			r.pos++
			return true
		}
		item := &mark{line: r.line, offset: r.pos}
		m.items = append(m.items, item)
		if !r.value(item, path) {
			return false
		}
		r.blank(true)
		if r.peek() == ',' {
			r.pos++
		} else if r.peek() != ']' {
			return false
		}
	}
}

func (r *lineReader) inlineTable(m *mark, path []string) bool {
	for r.pos++; ; {
		r.blank(true)
		if r.peek() == '}' {
			r.pos++
			return true
		}
		if !r.keyValue(m, path) {
			return false
		}
		r.blank(true)
		if r.peek() == ',' {
			r.pos++
		} else if r.peek() != '}' {
			return false
		}
	}
}

// quoted reads a string of any of the four kinds.
func (r *lineReader) quoted() bool {
	quote := r.src[r.pos : r.pos+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(r.src[r.pos:], triple) {
		return r.multiLine(quote, triple)
	}
	for r.pos++; r.pos < len(r.src); r.pos++ {
		switch c := r.src[r.pos]; {
		case c == quote[0]:
			r.pos++
			return true
		case c == '\n':
			return false
		case c == '\\' && quote == `"`:
			r.pos++
		}
	}
	return false
}

func (r *lineReader) multiLine(quote, triple string) bool {
	for r.pos += 3; r.pos < len(r.src); r.pos++ {
		if strings.HasPrefix(r.src[r.pos:], triple) {
			// The text may end with one or two quotes of its own.
			for r.pos += 3; strings.HasPrefix(r.src[r.pos:], quote); {
				r.pos++
			}
			return true
		}
		switch r.src[r.pos] {
		case '\n':
			r.line++
		case '\\':
			if quote == `"` && r.pos+1 < len(r.src) && r.src[r.pos+1] != '\n' {
				r.pos++
			}
		}
	}
	return false
}

// blank skips spaces and, where lines may end, newlines and comments.
func (r *lineReader) blank(lines bool) {
	for ; r.pos < len(r.src); r.pos++ {
		switch c := r.src[r.pos]; {
		case c == ' ', c == '\t', c == '\r':
		case lines && c == '\n':
			r.line++
		case lines && c == '#':
			end := strings.IndexByte(r.src[r.pos:], '\n')
			if end < 0 {
				r.pos = len(r.src)
				return
			}
			r.pos += end - 1
		default:
			return
		}
	}
}

func (r *lineReader) peek() byte {
	if r.pos < len(r.src) {
		return r.src[r.pos]
	}
	return 0
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// place is a key of the configuration as messages name it, with the line it stands on. A key
// that is not there has the line of the table that it belongs in.
type place struct {
	file string
	path string
	line int
	mark *mark // nil where the text has no such key
}

// key is the place of a key inside p.
func (p place) key(name string) place {
	path := keyText(name)
	if p.path != "" {
		path = p.path + "." + path
	}
	var m *mark
	if p.mark != nil {
		m = p.mark.keys[name]
	}
	return p.at(path, m)
}

// item is the place of an array element inside p.
func (p place) item(i int) place {
	var m *mark
	if p.mark != nil && i < len(p.mark.items) {
		m = p.mark.items[i]
	}
	return p.at(p.path+"["+strconv.Itoa(i)+"]", m)
}

func (p place) at(path string, m *mark) place {
	line := p.line
	if m != nil {
		line = m.line
	}
	return place{file: p.file, path: path, line: line, mark: m}
}

// offset orders keys as the file does.
func (p place) offset() int {
	if p.mark == nil {
		return 0
	}
	return p.mark.offset
}

// source names the place for people, without the key.
func (p place) source() string { return p.file + ":" + strconv.Itoa(p.line) }

// problem is a mistake at this place.
func (p place) problem(text, remedy string) Problem {
	return Problem{File: p.file, Line: p.line, Key: p.path, Text: text, Remedy: remedy}
}

// keyText is a key as TOML writes it: bare where it can be.
func keyText(name string) string {
	for i := range len(name) {
		if !isBare(name[i]) {
			return show(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}
