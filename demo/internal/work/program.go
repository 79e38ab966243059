// Package work is the same work twice with programs made by a generator: commands of several
// tenants, run directly on a database and through the proxy in front of another one, where the
// tenants are routed by chance. Replies and contents must be equal. A program has a text form, so
// that one that failed is kept and played again.
package work

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Program is work for a database that several tenants share, and where the proxy keeps them.
type Program struct {
	Note    string // what it is about, for people
	Routing Routing
	Lines   []Line
}

// Line is one command.
type Line struct {
	Session int    // 0: without one
	Txn     bool   // in the session's transaction, which the first such line begins
	Number  bool   // a retryable write
	Again   bool   // sent twice with one number, as by a driver that lost the reply
	Unheard bool   // sent without wanting a reply
	Left    bool   // put into shared behind the proxy's back, as a move leaves it there
	Cursor  string // how later lines call the cursor that it opens
	Command bson.D
}

// String is the program's text form: the routing, then a command a line.
//
//	# what it is about
//	mode mixed
//	tenant acme "acme" big orders accounting
//	tenant globex {"$oid": "…"} shared
//
//	{"insert": "orders", "documents": […]}
//	t1 {"find": "orders"}                    in the transaction of session 1
//	t1 {"commitTransaction": 1}
//	r2 {"update": …}                         in session 2, with a number; "r2 again" sends it twice
//	s1 =c {"find": "orders", "batchSize": 2}
//	s1 {"getMore": "c", "collection": "orders"}
//	unheard {"insert": "orders", …}          without a reply
//	left {"insert": "orders", …}             straight into shared: nobody may see or touch it
func (p *Program) String() string {
	var b strings.Builder
	for line := range strings.Lines(p.Note) {
		fmt.Fprintf(&b, "# %s\n", strings.TrimRight(line, "\n"))
	}
	b.WriteString(p.Routing.String())
	b.WriteByte('\n')
	for _, l := range p.Lines {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// GoString is what a failing property prints.
func (p *Program) GoString() string { return p.String() }

func (l Line) String() string {
	words := ""
	if l.Session > 0 {
		kind := "s"
		switch {
		case l.Txn:
			kind = "t"
		case l.Number:
			kind = "r"
		}
		words = kind + strconv.Itoa(l.Session) + " "
	}
	if l.Again {
		words += "again "
	}
	if l.Unheard {
		words += "unheard "
	}
	if l.Left {
		words += "left "
	}
	if l.Cursor != "" {
		words += "=" + l.Cursor + " "
	}
	return words + text(l.Command)
}

// Parse reads the text form.
func Parse(r io.Reader) (*Program, error) {
	p := &Program{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		var err error
		switch note, isNote := strings.CutPrefix(line, "#"); {
		case line == "":
		case isNote:
			p.Note += strings.TrimSpace(note) + "\n"
		case p.Routing.parse(line, &err):
		default:
			var l Line
			if l, err = parseLine(line); err == nil {
				p.Lines = append(p.Lines, l)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return p, in.Err()
}

func parseLine(line string) (l Line, err error) {
	at := strings.IndexByte(line, '{')
	if at < 0 {
		return l, fmt.Errorf("no command in %q", line)
	}
	for _, word := range strings.Fields(line[:at]) {
		name, isCursor := strings.CutPrefix(word, "=")
		switch {
		case isCursor:
			l.Cursor = name
		case word == "again":
			l.Again = true
		case word == "unheard":
			l.Unheard = true
		case word == "left":
			l.Left = true
		case strings.ContainsRune("str", rune(word[0])):
			if l.Session, err = strconv.Atoi(word[1:]); err != nil {
				return l, err
			}
			l.Txn, l.Number = word[0] == 't', word[0] == 'r'
		default:
			return l, fmt.Errorf("unknown word %q", word)
		}
	}
	return l, bson.UnmarshalExtJSON([]byte(line[at:]), false, &l.Command)
}

// text is a value in relaxed extended JSON, but that an int64 stays one when it is read again.
func text(v any) string {
	switch v := v.(type) {
	case bson.D:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = strconv.Quote(e.Key) + ": " + text(e.Value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case bson.A:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = text(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case int64:
		return fmt.Sprintf(`{"$numberLong": "%d"}`, v)
	}
	out, err := bson.MarshalExtJSON(bson.D{{Key: "", Value: v}}, false, false)
	if err != nil {
		return fmt.Sprintf("%v: %v", v, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(out), `{"":`), "}")
}

// name of a command is its first field's.
func name(command bson.D) string {
	if len(command) == 0 {
		return ""
	}
	return command[0].Key
}

// coll is the collection that a command's value names.
func coll(command bson.D) string {
	if len(command) == 0 {
		return ""
	}
	s, _ := command[0].Value.(string)
	return s
}

// get is a field of a document, nil where it has none.
func get(d bson.D, key string) any {
	for _, e := range d {
		if e.Key == key {
			return e.Value
		}
	}
	return nil
}

func doc(v any) bson.D {
	d, _ := v.(bson.D)
	return d
}

func array(v any) bson.A {
	a, _ := v.(bson.A)
	return a
}
