package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/smetasc/tenantry/config"
)

var secret = []byte("the fleet's key")

// TestVectors replays the conversations that RFC 7677 section 3 and RFC 5802 section 5 print.
func TestVectors(t *testing.T) {
	for _, tt := range []struct{ mech, salt, nonce, c1, s1, c2, s2 string }{
		{
			config.ScramSHA256, "W22ZaJ0SNY7soEsUEjb6gQ==", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
			"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		},
		{
			config.ScramSHA1, "QSXCR+Q6sek8bf92", "3rfcNHYJY1ZVvWVs7j",
			"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		},
	} {
		salt, _ := base64.StdEncoding.DecodeString(tt.salt)
		c, err := deriveCredential(tt.mech, "pencil", string(salt), 4096)
		if err != nil {
			t.Fatal(err)
		}
		users := NewUsers([]config.User{{Name: "user", Source: "admin", Role: "application", Credentials: []config.Credential{c}}})
		for _, skip := range []bool{true, false} {
			v := users.login(tt.mech, "admin", secret, skip, func() string { return tt.nonce })
			if got, done, err := v.Step([]byte(tt.c1)); string(got) != tt.s1 || done || err != nil {
				t.Fatalf("%s: first %q %v %v", tt.mech, got, done, err)
			}
			if got, done, err := v.Step([]byte(tt.c2)); string(got) != tt.s2 || done != skip || err != nil {
				t.Fatalf("%s: final %q %v %v", tt.mech, got, done, err)
			}
			if !skip {
				if v.Principal() != nil {
					t.Error("authenticated before the empty step")
				}
				if got, done, err := v.Step(nil); len(got) > 0 || !done || err != nil {
					t.Fatalf("%s: empty step %q %v %v", tt.mech, got, done, err)
				}
			}
			if p := v.Principal(); p == nil || p.User != "user" || p.Source != "admin" || p.Role != Application || p.Tenant != "" {
				t.Errorf("%s: principal %+v", tt.mech, p)
			}
			if _, _, err := v.Step(nil); !errors.Is(err, ErrFailed) {
				t.Errorf("a step behind the end: %v", err)
			}
		}
	}
}

// a user with the password "pw" of each mechanism.
func user(t testing.TB, name, role, tenant, isolation string) config.User {
	t.Helper()
	u := config.User{Name: name, Source: "admin", Role: role, Tenant: tenant, Isolation: isolation}
	for _, mech := range []string{config.ScramSHA256, config.ScramSHA1} {
		c, err := NewCredential(mech, name, "pw", nil)
		if err != nil {
			t.Fatal(err)
		}
		u.Credentials = append(u.Credentials, c)
	}
	return u
}

// logIn is a whole conversation with the client of the library.
func logIn(t testing.TB, u *Users, mech, source, name, password string) (*Principal, error) {
	t.Helper()
	prepared, err := prepare(mech, name, password)
	if err != nil {
		t.Fatal(err)
	}
	client, err := mechanisms[mech].hash.NewClientUnprepped(name, prepared, "")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := u.Login(mech, source, secret, true), client.NewConversation()
	var reply []byte
	for done := false; !done; {
		text, err := theirs.Step(string(reply))
		if err != nil {
			t.Fatalf("the client refuses what it got: %v", err)
		}
		if reply, done, err = ours.Step([]byte(text)); err != nil {
			return ours.Principal(), err
		}
	}
	if _, err := theirs.Step(string(reply)); err != nil || !theirs.Valid() {
		t.Fatalf("the client does not believe the server: %v", err)
	}
	return ours.Principal(), nil
}

func TestWho(t *testing.T) {
	users := NewUsers([]config.User{
		user(t, "app", "application", "", ""),
		user(t, "op", "operator", "", ""),
		user(t, "acme-reader", "read", "acme", "rows"),
		user(t, "acme-owner", "owner", "acme", "database"),
		user(t, "app+literal", "write", "globex", "rows"),
		user(t, "a,b=c", "application", "", ""),
		user(t, "🚲", "application", "", ""),
	})
	both := []string{config.ScramSHA256, config.ScramSHA1}
	for _, tt := range []struct {
		name  string
		mechs []string
		want  Principal
	}{
		{"app", both, Principal{Role: Application}},
		{"op", both, Principal{Role: Operator}},
		{"acme-reader", both, Principal{Role: Reader, Tenant: "acme"}},
		{"acme-owner", both, Principal{Role: Owner, Tenant: "acme", Database: true}},
		{"app+literal", both, Principal{Role: Writer, Tenant: "globex"}},
		{"app+acme", both[:1], Principal{Role: Application, Tenant: "acme"}},
		{"op+a.b", both[:1], Principal{Role: Operator, Tenant: "a.b"}},
		{"a,b=c", both, Principal{Role: Application}},
		{"🚲", both, Principal{Role: Application}},
	} {
		for _, mech := range tt.mechs {
			p, err := logIn(t, users, mech, "admin", tt.name, "pw")
			if err != nil {
				t.Errorf("%s %s: %v", mech, tt.name, err)
				continue
			}
			tt.want.User, tt.want.Source, tt.want.record = tt.name, "admin", p.record
			if *p != tt.want {
				t.Errorf("%s: %+v, want %+v", tt.name, *p, tt.want)
			}
			if _, err := logIn(t, users, mech, "admin", tt.name, "wrong"); !errors.Is(err, ErrFailed) {
				t.Errorf("%s %s with a wrong password: %v", mech, tt.name, err)
			}
			if _, err := logIn(t, users, mech, "other", tt.name, "pw"); !errors.Is(err, ErrFailed) {
				t.Errorf("%s %s from another source: %v", mech, tt.name, err)
			}
		}
	}
	for _, name := range []string{"nobody", "app+", "+acme", "acme-reader+acme", "app+literal+acme", "APP", "app "} {
		if p, err := logIn(t, users, config.ScramSHA256, "admin", name, "pw"); !errors.Is(err, ErrFailed) || p != nil {
			t.Errorf("%q logs in: %v %v", name, p, err)
		}
	}
}

// TestUnknown: what a log-in shows before the password does not tell who is a user.
func TestUnknown(t *testing.T) {
	one := user(t, "app", "application", "", "")
	other := user(t, "other", "read", "acme", "rows")
	users := NewUsers([]config.User{one, other})
	salt := func(u *Users, name string) string {
		reply, _, err := u.Login(config.ScramSHA256, "admin", secret, true).Step([]byte("n,,n=" + name + ",r=abc"))
		_, after, ok := strings.Cut(string(reply), ",s=")
		if err != nil || !ok {
			t.Fatalf("%s: %q %v", name, reply, err)
		}
		return after
	}
	if len(salt(users, "app")) != len(salt(users, "nobody")) || !strings.HasSuffix(salt(users, "nobody"), ",i=15000") {
		t.Errorf("%s and %s differ in shape", salt(users, "app"), salt(users, "nobody"))
	}
	if salt(users, "nobody") != salt(NewUsers([]config.User{other}), "nobody") {
		t.Error("the salt of nobody changes with the users")
	}
	if salt(users, "nobody") == salt(users, "nemo") || salt(users, "nobody") == salt(users, "app") {
		t.Error("two names have one salt")
	}
	for _, name := range []string{"app", "other", "nobody"} { // a plus shows nothing of who is before it
		if salt(users, name) != salt(users, name+"+acme") {
			t.Errorf("%s has another salt with a tenant", name)
		}
	}
}

// TestMalformed: every malformed or foreign message ends the conversation with the one error, and
// nothing can be sent behind it.
func TestMalformed(t *testing.T) {
	users := NewUsers([]config.User{user(t, "app", "application", "", "")})
	for _, first := range []string{
		"", "n", "n,,", "n,,n=app", "n,,r=abc,n=app", "p=tls-unique,,n=app,r=abc", "p=no-such,,n=app,r=abc", "x,,n=app,r=abc", "n,a=other,n=app,r=abc",
		"n,,n=app=2,r=abc", "n,,n=,r=abc", "n,,n=a\x00b,r=abc", "n,,m=ext,n=app,r=abc", strings.Repeat("n", MaxPayload+1),
	} {
		v := users.Login(config.ScramSHA256, "admin", secret, true)
		if reply, done, err := v.Step([]byte(first)); reply != nil || done || !errors.Is(err, ErrFailed) {
			t.Errorf("%q: %q %v %v", first, reply, done, err)
		}
		if reply, done, err := v.Step([]byte("n,,n=app,r=abc")); reply != nil || done || !errors.Is(err, ErrFailed) {
			t.Errorf("behind %q: %q %v %v", first, reply, done, err)
		}
	}
	for _, first := range []string{"n,,n=app,r=abc", "y,,n=app,r=abc", "n,a=app,n=app,r=abc"} {
		if _, _, err := users.Login(config.ScramSHA256, "admin", secret, true).Step([]byte(first)); err != nil {
			t.Errorf("%q: %v", first, err)
		}
	}
	for _, final := range []string{"", "c=biws", "c=biws,r=NONCE", "c=biws,r=other,p=AAAA", "c=biws,r=NONCE,p=AAAA", "c=!,r=NONCE,p=AAAA", "c=cD0=,r=NONCE,p=" + strings.Repeat("A", 44)} {
		v := users.Login(config.ScramSHA256, "admin", secret, false)
		first, _, err := v.Step([]byte("n,,n=app,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		nonce := strings.TrimPrefix(strings.Split(string(first), ",")[0], "r=")
		if _, done, err := v.Step([]byte(strings.ReplaceAll(final, "NONCE", nonce))); done || !errors.Is(err, ErrFailed) {
			t.Errorf("%q: %v %v", final, done, err)
		}
		if _, done, err := v.Step(nil); done || !errors.Is(err, ErrFailed) || v.Principal() != nil {
			t.Errorf("the empty step behind %q: %v %v", final, done, err)
		}
	}
}

// TestEmptyStep: the third step, where a client takes it, is empty.
func TestEmptyStep(t *testing.T) {
	users := NewUsers([]config.User{user(t, "app", "application", "", "")})
	prepared, _ := prepare(config.ScramSHA256, "app", "pw")
	client, err := scram.SHA256.NewClientUnprepped("app", prepared, "")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := users.Login(config.ScramSHA256, "admin", secret, false), client.NewConversation()
	first, _ := theirs.Step("")
	reply, _, err := ours.Step([]byte(first))
	if err != nil {
		t.Fatal(err)
	}
	final, _ := theirs.Step(string(reply))
	if _, done, err := ours.Step([]byte(final)); done || err != nil {
		t.Fatalf("%v %v", done, err)
	}
	for _, payload := range []string{"x", ""} {
		if _, done, err := ours.Step([]byte(payload)); done || !errors.Is(err, ErrFailed) || ours.Principal() != nil {
			t.Errorf("%q: %v %v", payload, done, err)
		}
	}
}

// TestPreparedPasswords: what clients make equal by RFC 4013 is one password.
func TestPreparedPasswords(t *testing.T) {
	for _, tt := range [][2]string{{"Ⅸ", "IX"}, {"a\u00adb", "ab"}, {"a\u00a0b", "a b"}} {
		c, err := NewCredential(config.ScramSHA256, "u", tt[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		users := NewUsers([]config.User{{Name: "u", Source: "admin", Role: "application", Credentials: []config.Credential{c}}})
		for _, spelling := range tt {
			if _, err := logIn(t, users, config.ScramSHA256, "admin", "u", spelling); err != nil {
				t.Errorf("%q for %q: %v", spelling, tt[0], err)
			}
		}
	}
	for _, bad := range []string{"", "\u00ad", "\x07"} {
		if _, err := NewCredential(config.ScramSHA256, "u", bad, nil); err == nil {
			t.Errorf("%q is a password", bad)
		}
	}
}

func TestStill(t *testing.T) {
	u := user(t, "app", "application", "", "")
	users := NewUsers([]config.User{u})
	app, _ := logIn(t, users, config.ScramSHA256, "admin", "app", "pw")
	acme, _ := logIn(t, users, config.ScramSHA256, "admin", "app+acme", "pw")
	changed := func(f func(*config.User)) *Users {
		n := u
		f(&n)
		return NewUsers([]config.User{n})
	}
	for name, tt := range map[string]struct {
		users *Users
		want  bool
	}{
		"unchanged": {changed(func(*config.User) {}), true},
		"gone":      {NewUsers(nil), false},
		"role":      {changed(func(n *config.User) { n.Role = "operator" }), false},
		"tenant":    {changed(func(n *config.User) { n.Role, n.Tenant = "write", "acme" }), false},
		"password":  {changed(func(n *config.User) { n.Credentials = user(t, "app", "", "", "").Credentials }), false},
	} {
		if got := tt.users.Still(app); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
		if got := tt.users.Still(acme); got != tt.want {
			t.Errorf("%s, for a tenant: %v", name, got)
		}
	}
	if NewUsers([]config.User{u, user(t, "app+acme", "read", "acme", "rows")}).Still(acme) {
		t.Error("another user's record has the name now")
	}
	if !NewUsers(nil).Still(Anonymous("acme", Writer, false)) {
		t.Error("a listener without authentication asks for no user")
	}
}

func TestOn(t *testing.T) {
	for _, tt := range []struct {
		is       Principal
		access   Role
		database bool
		want     *Principal
	}{
		{Principal{Role: Application}, Writer, true, &Principal{Role: Application, Tenant: "acme", Database: true}},
		{Principal{Role: Operator}, Writer, false, &Principal{Role: Operator, Tenant: "acme"}},
		{Principal{Role: Application}, Reader, false, &Principal{Role: Reader, Tenant: "acme"}},
		{Principal{Role: Application}, Owner, false, &Principal{Role: Owner, Tenant: "acme"}},
		{Principal{Role: Application, Tenant: "acme"}, Reader, true, &Principal{Role: Reader, Tenant: "acme", Database: true}},
		{Principal{Role: Application, Tenant: "other"}, Owner, true, nil},
		{Principal{Role: Owner, Tenant: "acme"}, Writer, true, &Principal{Role: Writer, Tenant: "acme"}},
		{Principal{Role: Reader, Tenant: "acme", Database: true}, Owner, false, &Principal{Role: Reader, Tenant: "acme", Database: true}},
		{Principal{Role: Reader, Tenant: "other"}, Reader, false, nil},
	} {
		got := tt.is.On("acme", tt.access, tt.database)
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%+v on %v: %+v", tt.is, tt.access, got)
		}
	}
}

// FuzzConversation: whatever is sent in whatever order, nobody authenticates, nothing panics, and no
// answer follows an error.
func FuzzConversation(f *testing.F) {
	for _, seed := range []string{
		"n,,n=app,r=abc\nc=biws,r=abc,p=AAAA\n", "n,,n=app+acme,r=abc\n\n\n", "\n\n", "n,a=app,n=app,r=a\nv=AAAA", "y,,n=a=2Cb,r=,x=y\nc=eSws,r=,p=",
		"p=tls-exporter,,n=app,r=abc", "n,,n=" + strings.Repeat("x", 5000) + ",r=abc", "e=other-error\ne=other-error",
	} {
		f.Add([]byte(seed), true, true)
		f.Add([]byte(seed), false, false)
	}
	users := NewUsers([]config.User{user(f, "app", "application", "", ""), user(f, "", "operator", "", "")})
	f.Fuzz(func(t *testing.T, text []byte, skip, sha1 bool) {
		mech := config.ScramSHA256
		if sha1 {
			mech = config.ScramSHA1
		}
		v := users.login(mech, "admin", secret, skip, func() string { return "" }) // the client foresees the nonce
		failed := false
		for _, step := range bytes.Split(text, []byte("\n")) {
			reply, done, err := v.Step(step)
			if done || v.Principal() != nil || failed && err == nil || err != nil && reply != nil || bytes.Contains(reply, []byte("e=")) && !bytes.Contains(text, []byte("e=")) {
				t.Fatalf("%q: %q %v %v", step, reply, done, err)
			}
			failed = failed || err != nil
		}
	})
}

// TestShape: a new credential looks like those that are there.
func TestShape(t *testing.T) {
	is := config.Credential{Mechanism: config.ScramSHA256, Iterations: 5000, Salt: strings.Repeat("s", 16)}
	others := []config.User{{Name: "x", Credentials: []config.Credential{is}}}
	for mech, want := range map[string][2]int{config.ScramSHA256: {5000, 16}, config.ScramSHA1: {10000, 16}} {
		c, err := NewCredential(mech, "u", "pw", others)
		if err != nil || c.Iterations != want[0] || len(c.Salt) != want[1] {
			t.Errorf("%s: %d iterations, %d bytes of salt, %v", mech, c.Iterations, len(c.Salt), err)
		}
	}
}
