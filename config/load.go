package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxSecretFile bounds files with a URI, a token or a key, so that a wrong path (a log, a
// device) does no harm.
const maxSecretFile = 64 << 10

// Load reads the file at path, overlays it with the environment (env is [os.Getenv]) and
// validates the whole. It returns a complete configuration and warnings about it, or an error of
// type [Errors] that names every mistake. Paths in the file are relative to its folder.
func Load(path string, env func(string) string) (*Config, []Problem, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, Errors{{
			File: path, Text: "cannot be read: " + reason(err).Error(),
			Remedy: "name a configuration file that tenantry may read",
		}}
	}
	return load(path, string(text), env, readLimited)
}

// load is Load without the disk: read gives the files that the text names.
func load(path, text string, env func(string) string, read func(string, int64) ([]byte, error)) (*Config, []Problem, error) {
	marks, duplicates := readLines(text)
	root := place{file: path, line: 0, mark: marks}
	values, problems := decodeTOML(root, text, duplicates)
	if len(problems) > 0 {
		return nil, nil, Errors(problems)
	}
	l := &loader{env: env, read: read, root: root, cfg: &Config{files: []string{path}}}
	l.sections(&table{l: l, at: root, values: values})
	l.overlay()
	l.validate()
	if len(l.errs) > 0 {
		sortProblems(l.errs)
		return nil, nil, Errors(l.errs)
	}
	sortProblems(l.warnings)
	return l.cfg, l.warnings, nil
}

// loader is one load under way.
type loader struct {
	env      func(string) string
	read     func(string, int64) ([]byte, error)
	root     place
	cfg      *Config
	errs     []Problem
	warnings []Problem

	// Where the elements of the lists of cfg stand, for what validate says about them.
	listenerAt []place
	databaseAt []databasePlace
	tenantAt   []place
	userAt     []place
	denyAt     []place

	certificateAt []place
}

// databasePlace is where the two names of a logical database stand.
type databasePlace struct{ shared, tenant place }

func (l *loader) refuse(at place, text, remedy string) {
	l.errs = append(l.errs, at.problem(text, remedy))
}

func (l *loader) warn(at place, text, remedy string) {
	l.warnings = append(l.warnings, at.problem(text, remedy))
}

// decodeTOML parses the text. After a syntax error nothing else can be said; of keys that are
// given twice, which the library reports one at a time, all are named.
func decodeTOML(root place, text string, duplicates []duplicate) (values map[string]any, problems []Problem) {
	defer func() {
		// The library panics where its parser meets a state that it calls a bug. A reload must
		// not end the process for that.
		if p := recover(); p != nil {
			problems = []Problem{root.problem("the TOML reader gave up on this file", "look for unusual syntax")}
		}
	}()
	_, err := toml.Decode(text, &values)
	if err == nil {
		return values, nil
	}
	var syntax toml.ParseError
	if !errors.As(err, &syntax) {
		return nil, []Problem{root.problem(err.Error(), "correct the file")}
	}
	if len(duplicates) > 0 && strings.Contains(syntax.Message, "already") {
		return nil, duplicateProblems(root, duplicates)
	}
	at := place{file: root.file, line: syntax.Position.Line}
	message := syntax.Message
	if looksSecret(message) {
		message = "not TOML"
	}
	return nil, []Problem{at.problem(message, "correct the TOML there")}
}

func duplicateProblems(root place, duplicates []duplicate) []Problem {
	problems := make([]Problem, len(duplicates))
	for i, d := range duplicates {
		at := root
		for _, name := range d.key {
			at = at.key(name)
		}
		at.line = d.line
		problems[i] = at.problem(fmt.Sprintf("is given on line %d already", d.first), "keep one of the two")
	}
	return problems
}

// file reads the secret in a file that the setting at p names, and says where it is.
func (l *loader) file(p place, name string) (path string, text []byte, ok bool) {
	path, text, ok = l.whole(p, name, maxSecretFile)
	if text = []byte(strings.TrimSpace(string(text))); ok && len(text) == 0 {
		l.refuse(p, "the file "+show(name)+" is empty", "write the secret into it")
		return path, nil, false
	}
	return path, text, ok
}

// whole reads a file that the setting at p names.
func (l *loader) whole(p place, name string, limit int64) (path string, text []byte, ok bool) {
	path = name
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(l.root.file), path)
	}
	text, err := l.read(path, limit)
	if err != nil {
		l.refuse(p, fmt.Sprintf("%s cannot be read: %v", show(name), reason(err)),
			"name a file that tenantry may read, absolute or relative to the configuration's folder")
		return path, nil, false
	}
	l.cfg.files = append(l.cfg.files, path)
	return path, text, true
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, err
}

// reason leaves out of a file error what the message around it says anyway.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
