package config

import (
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table is one TOML table while it is read. Each getter remembers its key, so that what nobody
// asked for is an unknown key, and so that the suggestion for it comes from the right list.
// Decoding into structs would stop at the first wrong type and take keys in any letter case.
type table struct {
	l      *loader
	at     place
	values map[string]any
	known  []string
}

// take is the value of a key, and whether the file has it.
func (t *table) take(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

func (t *table) has(key string) bool {
	_, ok := t.values[key]
	return ok
}

func (t *table) refuse(key, text, remedy string) {
	t.l.refuse(t.at.key(key), text, remedy)
}

// later refuses a setting by name that does nothing yet: a setting that is silently without
// effect would be worse.
func (t *table) later(key, what string) {
	if _, ok := t.take(key); ok {
		t.refuse(key, what+" is not offered yet", "remove it")
	}
}

// as takes a value of one TOML type; ok says whether the file has a good one.
func as[T any](t *table, key, want string) (value T, ok bool) {
	v, there := t.take(key)
	if !there {
		return value, false
	}
	if value, ok = v.(T); !ok {
		t.refuse(key, "found "+typeName(v), "write "+want)
	}
	return value, ok
}

func (t *table) text(key, missing string) string {
	if v, ok := as[string](t, key, "a string in quotes"); ok {
		return v
	}
	return missing
}

func (t *table) boolean(key string, missing bool) bool {
	if v, ok := as[bool](t, key, "true or false"); ok {
		return v
	}
	return missing
}

// required takes a string that must be there and not empty.
func (t *table) required(key, remedy string) (string, bool) {
	v, ok := as[string](t, key, "a string in quotes")
	switch {
	case !t.has(key):
		t.refuse(key, "is missing", remedy)
	case ok && v == "":
		t.refuse(key, "is empty", remedy)
	}
	return v, v != ""
}

// optional takes a string that may be left out, but not be empty.
func (t *table) optional(key, missing string) string {
	v, ok := as[string](t, key, "a string in quotes")
	if ok && v == "" {
		t.refuse(key, "is empty", "give it a value or remove it")
	}
	if v == "" {
		return missing
	}
	return v
}

// permissions takes a file's, which let its owner write at least.
func (t *table) permissions(key string, missing fs.FileMode) fs.FileMode {
	v, ok := as[string](t, key, `permissions in quotes, like "0660"`)
	if !ok {
		return missing
	}
	mode, err := strconv.ParseUint(v, 8, 32)
	if err != nil || fs.FileMode(mode)&^fs.ModePerm != 0 || mode&0o200 == 0 {
		t.refuse(key, show(v)+" are not the permissions of a file that its owner may write to", `write octal digits, like "0660"`)
		return missing
	}
	return fs.FileMode(mode)
}

func (t *table) oneOf(key, missing string, choices ...string) string {
	v, ok := as[string](t, key, "one of "+alternatives(choices))
	if !ok {
		return missing
	}
	if !slices.Contains(choices, v) {
		t.refuse(key, show(v)+" is not a choice", "write one of "+alternatives(choices))
		return missing
	}
	return v
}

// number takes a whole number that is at least least.
func (t *table) number(key string, missing, least int) int {
	v, ok := as[int64](t, key, "a whole number")
	switch {
	case !ok:
		return missing
	case v < int64(least):
		t.refuse(key, fmt.Sprintf("%d is too small", v), fmt.Sprintf("write %d or more", least))
		return missing
	case v > math.MaxInt32:
		t.refuse(key, fmt.Sprintf("%d is too large", v), fmt.Sprintf("write %d or less", math.MaxInt32))
		return missing
	}
	return int(v)
}

// duration takes a duration like "5m"; zero only where it means something.
func (t *table) duration(key string, missing time.Duration, zero bool) time.Duration {
	v, ok := as[string](t, key, `a duration in quotes, like "5m" or "100ms"`)
	if !ok {
		return missing
	}
	d, err := time.ParseDuration(v)
	switch {
	case err != nil:
		t.refuse(key, show(v)+" is not a duration", `write a number with ms, s, m or h, like "5m"`)
	case d < 0:
		t.refuse(key, show(v)+" is negative", "write a duration above zero")
	case d == 0 && !zero:
		t.refuse(key, show(v)+" is no time at all", "write a duration above zero")
	default:
		return d
	}
	return missing
}

// size takes a number of bytes: an integer, or text like "64MiB".
func (t *table) size(key string, missing int64) int64 {
	v, ok := t.take(key)
	if !ok {
		return missing
	}
	const remedy = `write a size above zero, like "64MiB", "10MB" or a number of bytes`
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case string:
		if n, ok = parseSize(v); !ok {
			t.refuse(key, show(v)+" is not a size", remedy)
			return missing
		}
	default:
		t.refuse(key, "found "+typeName(v), remedy)
		return missing
	}
	if n <= 0 {
		t.refuse(key, "the size is not above zero", remedy)
		return missing
	}
	return n
}

// list takes an array of strings; nil where it is left out. What is wrong with an element has
// been said where it is "".
func (t *table) list(key string) []string {
	v, ok := as[[]any](t, key, `an array of strings, like ["a", "b"]`)
	if !ok {
		return nil
	}
	texts := make([]string, 0, len(v))
	for i, element := range v {
		text, ok := element.(string)
		if !ok {
			t.l.refuse(t.at.key(key).item(i), "found "+typeName(element), "write a string in quotes")
		} else if text == "" {
			t.l.refuse(t.at.key(key).item(i), "is empty", "remove it")
		}
		texts = append(texts, text) // "" in the place of a wrong one, so that positions stay
	}
	return texts
}

// table takes a table; an empty one where it is left out, so that defaults apply.
func (t *table) table(key string) *table {
	sub := &table{l: t.l, at: t.at.key(key)}
	sub.values, _ = as[map[string]any](t, key, "a table: ["+sub.at.path+"]")
	return sub
}

// tables takes an array of tables.
func (t *table) tables(key string) []*table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	at := t.at.key(key)
	var subs []*table
	add := func(i int, values map[string]any) {
		subs = append(subs, &table{l: t.l, at: at.item(i), values: values})
	}
	remedy := "write [[" + at.path + "]] over each of its tables"
	switch v := v.(type) {
	case []map[string]any:
		for i, values := range v {
			add(i, values)
		}
	case []any: // inline: key = [{…}, {…}]
		for i, element := range v {
			values, ok := element.(map[string]any)
			if !ok {
				t.l.refuse(at.item(i), "found "+typeName(element), remedy)
				continue
			}
			add(i, values)
		}
	default:
		t.refuse(key, "found "+typeName(v), remedy)
	}
	return subs
}

// names is all keys in the order of the file, for tables whose keys people choose.
func (t *table) names() []string {
	names := make([]string, 0, len(t.values))
	for name := range t.values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := t.at.key(a).offset() - t.at.key(b).offset(); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}

// done refuses the keys that nobody asked for.
func (t *table) done() {
	if len(t.values) == 0 {
		return
	}
	for key := range t.values {
		if slices.Contains(t.known, key) {
			continue
		}
		remedy := "remove it"
		if near := nearest(key, t.known); near != "" {
			remedy = "did you mean " + near + "?"
		}
		t.refuse(key, "unknown key", remedy)
	}
}

// typeName is a TOML type for people.
func typeName(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "an array of tables"
	case []any:
		return "an array"
	default:
		return fmt.Sprintf("%T", v)
	}
}

// alternatives is "a, b or c", as values are written.
func alternatives(choices []string) string {
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = strconv.Quote(c)
	}
	last := len(quoted) - 1
	if last == 0 {
		return quoted[0]
	}
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// nearest is the known key that a misspelt one probably means; "" where none is near.
func nearest(key string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if len(key)-len(k) >= least || len(k)-len(key) >= least {
			continue
		}
		if d := distance(strings.ToLower(key), k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, drop, change or swap to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

var units = []struct {
	name  string
	bytes int64
}{
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"tib", 1 << 40},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{"b", 1},
}

// parseSize reads a whole number with an optional unit.
func parseSize(text string) (int64, bool) {
	number, unit := strings.ToLower(text), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimRight(rest, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/unit || n < 0 {
		return 0, false
	}
	return n * unit, true
}
