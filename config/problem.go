package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a configuration, or worth a warning: where it stands,
// what it is, and what to do about it.
type Problem struct {
	File   string `json:"file,omitempty"` // "" where it comes from the environment
	Line   int    `json:"line,omitempty"` // 0 where no line can be named
	Key    string `json:"key,omitempty"`  // "tenants[2].key", or the environment variable
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// String is the problem on one line: file:line: key: text; remedy.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	for _, part := range []string{p.Key, p.Text} {
		if part != "" && b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(part)
	}
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Errors is every mistake of a refused configuration, in the order of the file. It is the type
// of all errors that [Load] returns.
type Errors []Problem

// Error is one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sortProblems orders by file and line; what has none (the environment, a missing section) comes first.
func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Key, b.Key))
	})
}

// show quotes a value for a message. What looks like a connection string is not shown, wherever
// in the file it was pasted.
func show(value string) string {
	if looksSecret(value) {
		return `"` + redacted + `"`
	}
	return strconv.Quote(value)
}

func looksSecret(text string) bool {
	lower := strings.ToLower(text)
	return strings.Contains(lower, "mongodb:/") || strings.Contains(lower, "mongodb+srv:/") ||
		strings.Contains(lower, "://") && strings.Contains(lower, "@")
}
