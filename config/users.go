package config

import (
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The mechanisms of users.
const (
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA1   = "SCRAM-SHA-1"
)

var (
	scramMechanisms = []string{ScramSHA256, ScramSHA1}
	keySizes        = map[string]int{ScramSHA256: 32, ScramSHA1: 20}
)

const (
	maxUsersFile     = 16 << 20
	maxUserName      = 512
	minIterations    = 4096 // RFC 5802 section 5.1 and RFC 7677 section 4; drivers refuse fewer
	maxIterations    = 10_000_000
	minSalt, maxSalt = 8, 64
)

// User is one of [[users]] of the users file.
type User struct {
	Name, Source string // the source is the database that clients authenticate with
	Role         string // "application", "operator", or of one tenant "read", "write", "owner"
	Tenant       string // key; only of the roles of one tenant
	Isolation    string // "rows" or "database"; only of the roles of one tenant
	Credentials  []Credential
}

// Credential is what is stored of a password: with it a log-in can be checked, but not be done. As
// with [Secret], every way of printing one gives a redacted text.
type Credential struct {
	Mechanism            string
	Iterations           int
	Salt                 string // raw bytes
	StoredKey, ServerKey string // raw bytes
}

// Text is the credential as the users file holds it, MECHANISM$iterations:salt$StoredKey:ServerKey
// with base64 (RFC 5803 calls it so for directories).
func (c Credential) Text() string {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	return c.Mechanism + "$" + strconv.Itoa(c.Iterations) + ":" + b64(c.Salt) + "$" + b64(c.StoredKey) + ":" + b64(c.ServerKey)
}

// String is the redacted text.
func (c Credential) String() string { return c.Mechanism + "$<redacted>" }

// Format writes the redacted text whatever the verb.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// MarshalText is the redacted text, for JSON, TOML and loggers.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// ParseCredential reads what [Credential.Text] writes. No error shows any part of it.
func ParseCredential(text string) (c Credential, err error) {
	mechanism, rest, _ := strings.Cut(text, "$")
	if c.Mechanism = mechanism; !slices.Contains(scramMechanisms, mechanism) {
		return c, fmt.Errorf("does not begin with %s$ or %s$", ScramSHA256, ScramSHA1)
	}
	factors, keys, two := strings.Cut(rest, "$")
	count, salt, a := strings.Cut(factors, ":")
	stored, server, b := strings.Cut(keys, ":")
	if !two || !a || !b {
		return c, fmt.Errorf("is not MECHANISM$iterations:salt$StoredKey:ServerKey")
	}
	if c.Iterations, err = strconv.Atoi(count); err != nil || c.Iterations < minIterations || c.Iterations > maxIterations {
		return c, fmt.Errorf("its iterations are no number from %d to %d", minIterations, maxIterations)
	}
	for _, part := range []struct {
		what, text  string
		into        *string
		least, most int
	}{
		{"salt", salt, &c.Salt, minSalt, maxSalt},
		{"StoredKey", stored, &c.StoredKey, keySizes[mechanism], keySizes[mechanism]},
		{"ServerKey", server, &c.ServerKey, keySizes[mechanism], keySizes[mechanism]},
	} {
		raw, err := base64.StdEncoding.Strict().DecodeString(part.text)
		if err != nil || len(raw) < part.least || len(raw) > part.most {
			return c, fmt.Errorf("its %s is not base64 of the right length", part.what)
		}
		*part.into = string(raw)
	}
	return c, nil
}

const makeUser = "make it with tenantry user add"

// users reads the users file, whose mistakes are named by its own lines.
func (l *loader) users(p place, name string) {
	path, text, ok := l.whole(p, name, maxUsersFile)
	l.cfg.Auth.UsersFile = path
	if !ok {
		return
	}
	marks, duplicates := readLines(string(text))
	root := place{file: path, mark: marks}
	values, problems := decodeTOML(root, string(text), duplicates)
	if len(problems) > 0 {
		for i := range problems { // whatever the reader quotes may be of a credential
			if strings.Contains(problems[i].Text, "SCRAM") || strings.Contains(problems[i].Text, "$") {
				problems[i].Text = "not TOML"
			}
		}
		l.errs = append(l.errs, problems...)
		return
	}
	t := &table{l: l, at: root, values: values}
	for _, u := range t.tables("users") {
		l.user(u)
	}
	t.done()
}

func (l *loader) user(t *table) {
	u := User{Source: t.text("source", "admin")}
	var named bool
	if u.Name, named = t.required("name", "write the name that clients log in with"); named {
		if why := badUserName(u.Name); why != "" {
			t.refuse("name", why, "choose another name")
		}
	}
	if why := badDatabase(u.Source); why != "" {
		t.refuse("source", why, `write the database that clients authenticate with, or remove it for "admin"`)
	}
	if u.Role = t.oneOf("role", "", "application", "operator", "read", "write", "owner"); !t.has("role") {
		t.refuse("role", "is missing", `write "application" for all tenants' data, or "read", "write" or "owner" with a tenant`)
	}
	l.userTenant(t, &u)
	l.credentials(t, &u)
	t.done()
	l.cfg.Users = append(l.cfg.Users, u)
	l.userAt = append(l.userAt, t.at)
}

// ofTenant reports whether the role is of one tenant.
func (u *User) ofTenant() bool { return u.Role == "read" || u.Role == "write" || u.Role == "owner" }

func (l *loader) userTenant(t *table, u *User) {
	if u.ofTenant() {
		u.Tenant, _ = t.required("tenant", "write the key of the tenant whose data the user may see")
		u.Isolation = t.oneOf("isolation", "rows", "rows", "database")
		return
	}
	for _, key := range []string{"tenant", "isolation"} {
		if _, ok := t.take(key); ok && u.Role != "" {
			t.refuse(key, "has no meaning for role = "+show(u.Role), `remove it, or choose the role "read", "write" or "owner"`)
		}
	}
}

func (l *loader) credentials(t *table, u *User) {
	texts := t.list("credentials")
	if len(texts) == 0 && !(t.has("credentials") && texts == nil) {
		t.refuse("credentials", "there is none", makeUser)
	}
	for i, text := range texts {
		if text == "" {
			continue // which has been said
		}
		at := t.at.key("credentials").item(i)
		c, err := ParseCredential(text)
		if err != nil {
			l.refuse(at, err.Error(), makeUser)
			continue
		}
		if slices.ContainsFunc(u.Credentials, func(o Credential) bool { return o.Mechanism == c.Mechanism }) {
			l.refuse(at, "is a second one of "+c.Mechanism, "keep one of each mechanism")
			continue
		}
		u.Credentials = append(u.Credentials, c)
	}
}

// badUserName says why no client could log in by the name; "" where one could.
func badUserName(name string) string {
	switch {
	case len(name) > maxUserName:
		return fmt.Sprintf("has more than %d bytes", maxUserName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "holds control characters"
	}
	return ""
}

// checkUsers compares the users with each other and with the rest of the file.
func (l *loader) checkUsers() {
	tenants := make(map[string]bool, len(l.cfg.Tenants))
	for _, t := range l.cfg.Tenants {
		tenants[t.Key] = true
	}
	named := make(map[[2]string]place, len(l.cfg.Users))
	shapes := map[string]shape{}
	for i, u := range l.cfg.Users {
		at, id := l.userAt[i], [2]string{u.Source, u.Name}
		if first, ok := named[id]; ok && u.Name != "" {
			l.refuse(at.key("name"), show(u.Name)+" is already the name of "+first.path, "give each user of a source its own name")
		}
		named[id] = at
		if u.Tenant != "" && !tenants[u.Tenant] && l.cfg.TenantsFrom == nil {
			l.refuse(at.key("tenant"), show(u.Tenant)+" is not the key of a tenant", "add it to [[tenants]], or configure [tenants_collection]")
		}
		l.checkShapes(at, u, shapes)
	}
}

// shape is what a log-in shows of a credential before the password is known.
type shape struct {
	iterations, salt int
	owner            string
}

// checkShapes refuses credentials whose shape differs from others': names that are no user's are
// answered in the one shape, and would be told from those that are.
func (l *loader) checkShapes(at place, u User, shapes map[string]shape) {
	for _, c := range u.Credentials {
		is := shape{c.Iterations, len(c.Salt), at.path}
		was, ok := shapes[c.Mechanism]
		if !ok {
			shapes[c.Mechanism] = is
			continue
		}
		if is.iterations != was.iterations || is.salt != was.salt {
			l.refuse(at.key("credentials"), fmt.Sprintf("%s has %d iterations and %d bytes of salt, that of %s %d and %d; a log-in would tell who is a user",
				c.Mechanism, is.iterations, is.salt, was.owner, was.iterations, was.salt), "set one of the passwords anew with tenantry user passwd")
		}
	}
}
