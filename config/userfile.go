package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// UserFile is a users file that is being changed. What people wrote around the users stays as it
// is; the lines of a user who is changed are written anew.
type UserFile struct {
	path string
	text string

	users  []User
	blocks []block
}

// block is where a user stands in the text, from its [[users]] to its last key.
type block struct{ from, to int }

// OpenUsers reads a users file; where there is none it has no users yet.
func OpenUsers(path string) (*UserFile, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link stays one: what it leads to is replaced
	}
	f := &UserFile{path: path}
	text, err := readLimited(path, maxUsersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the users file: %w", err)
	}
	return f, f.parse(string(text))
}

// Users is those of the file, in its order.
func (f *UserFile) Users() []User { return slices.Clone(f.users) }

// Find is the user of a source; nil where there is none.
func (f *UserFile) Find(source, name string) *User {
	if i := f.index(source, name); i >= 0 {
		u := f.users[i]
		return &u
	}
	return nil
}

func (f *UserFile) index(source, name string) int {
	return slices.IndexFunc(f.users, func(u User) bool { return u.Source == source && u.Name == name })
}

// parse takes a text as the file's.
func (f *UserFile) parse(text string) error {
	l := &loader{cfg: &Config{}, read: func(string, int64) ([]byte, error) { return []byte(text), nil }}
	l.users(place{}, f.path)
	l.cfg.TenantsFrom = &TenantsCollection{} // which tenants there are is not known here
	l.checkUsers()
	if len(l.errs) > 0 {
		sortProblems(l.errs)
		return Errors(l.errs)
	}
	f.text, f.users, f.blocks = text, l.cfg.Users, nil
	for _, at := range l.userAt {
		m := at.mark
		if m == nil || !strings.HasPrefix(text[m.offset:], "[[") {
			return Errors{at.problem("is not written with a [[users]] of its own", "write it so; only that can be changed by a command")}
		}
		f.blocks = append(f.blocks, block{m.offset, m.last()})
	}
	return nil
}

// Put adds a user, or writes the one of its name and source anew.
func (f *UserFile) Put(u User) error {
	i := f.index(u.Source, u.Name)
	if i < 0 {
		text := f.text
		if text != "" {
			text = strings.TrimRight(text, "\n") + "\n\n"
		}
		return f.parse(text + u.text() + "\n")
	}
	b := f.blocks[i]
	return f.parse(f.text[:b.from] + u.text() + f.text[b.to:])
}

// Remove takes a user out; whether there was one.
func (f *UserFile) Remove(source, name string) (bool, error) {
	i := f.index(source, name)
	if i < 0 {
		return false, nil
	}
	b := f.blocks[i]
	_, after, _ := strings.Cut(f.text[b.to:], "\n") // and what is left of the last line: a comment of the user's
	return true, f.parse(f.text[:b.from] + strings.TrimLeft(after, "\n"))
}

// Save replaces the file as a whole. Nobody else can read the new one.
func (f *UserFile) Save() (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".users-*")
	if err != nil {
		return fmt.Errorf("write the users file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write the users file: %w", err)
		}
	}()
	_, err = tmp.WriteString(f.text) // it is made with mode 0600
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), f.path)
}

// text is the user as the file holds it, without the last line's end.
func (u User) text() string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString("\n" + key + " = " + value) }
	b.WriteString("[[users]]")
	line("name", tomlText(u.Name))
	if u.Source != "admin" {
		line("source", tomlText(u.Source))
	}
	line("role", tomlText(u.Role))
	if u.Tenant != "" {
		line("tenant", tomlText(u.Tenant))
		line("isolation", tomlText(u.Isolation))
	}
	b.WriteString("\ncredentials = [")
	for i, c := range u.Credentials {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(tomlText(c.Text()))
	}
	b.WriteString("]")
	return b.String()
}

// tomlText is a basic string (TOML 1.0).
func tomlText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
