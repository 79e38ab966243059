package proxy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// logged is a log that a test reads while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// audited are the lines of the audit log with all of the texts.
func (l *logged) audited(texts ...string) (lines []string) {
next:
	for line := range strings.Lines(l.String()) {
		if !strings.Contains(line, `"audit":true`) {
			continue
		}
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// password is of every user in these tests.
const password = "hunter2"

func userOf(t testing.TB, name, role, tenant, isolation string) config.User {
	t.Helper()
	c, err := auth.NewCredential(config.ScramSHA256, name, password, nil)
	if err != nil {
		t.Fatal(err)
	}
	return config.User{Name: name, Source: "admin", Role: role, Tenant: tenant, Isolation: isolation, Credentials: []config.Credential{c}}
}

// guarded is a ground whose clients authenticate.
type guarded struct {
	*ground
	cfg   *config.Config
	addrs []string // of the configured listeners
}

// guard opens listeners on a ground: one where clients authenticate, and those that are given.
func guard(t *testing.T, g *ground, users []config.User, more ...config.Listener) *guarded {
	t.Helper()
	x := &guarded{ground: g, cfg: &config.Config{
		Clusters: map[string]config.Cluster{"home": {}}, Users: users,
		Routing: config.Routing{ScatterWidth: 16, ShipLimit: wire.MaxDocument},
		Limits:  config.Limits{QueueTimeout: 5 * time.Second, ClientConnections: 1000},
		Auth:    config.Auth{Mechanisms: []string{config.ScramSHA256}, FailurePeriod: time.Minute},
	}}
	for i, l := range append([]config.Listener{{Auth: "scram"}}, more...) {
		l.Address = fmt.Sprint("guarded ", i) // a name for settings; see listenAs
		x.cfg.Listeners = append(x.cfg.Listeners, l)
	}
	g.proxy.Apply(x.cfg)
	for _, l := range x.cfg.Listeners {
		addr, err := listenAs(g.proxy, l.Address)
		if err != nil {
			t.Fatal(err)
		}
		x.addrs = append(x.addrs, addr)
	}
	return x
}

// reload applies the configuration with changes.
func (x *guarded) reload(change func(*config.Config)) {
	n := *x.cfg
	change(&n)
	x.cfg = &n
	x.proxy.Apply(&n)
}

func (x *guarded) dial(t *testing.T, listener int) *wiretest.Client {
	return wiretest.Dial(t, x.addrs[listener])
}

// listenAs opens a listener on any port with the settings of the address.
func listenAs(s *Server, address string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.Serve(l, address)
	return l.Addr().String(), nil
}

// noConn is a connection that is never read from.
type noConn struct{ net.Conn }

func (noConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1} }
func (noConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 8), Port: 2} }

// login is the client's side of a log-in.
type login struct {
	c      *wiretest.Client
	source string
	scram  *scram.ClientConversation
	skip   bool
}

func newLogin(t testing.TB, c *wiretest.Client, user, password string) *login {
	t.Helper()
	client, err := scram.SHA256.NewClientUnprepped(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	return &login{c, "admin", client.NewConversation(), true}
}

func (l *login) first(t testing.TB) []byte {
	t.Helper()
	first, err := l.scram.Step("")
	if err != nil {
		t.Fatal(err)
	}
	return []byte(first)
}

func (l *login) start(t testing.TB) bson.D {
	t.Helper()
	cmd := d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", l.first(t))
	if l.skip {
		cmd = append(cmd, bson.E{Key: "options", Value: d("skipEmptyExchange", true)})
	}
	return l.c.Run(l.source, cmd)
}

// answer takes the server's payload and is the client's next.
func (l *login) answer(t testing.TB, reply bson.D) []byte {
	t.Helper()
	b, ok := wiretest.Get(reply, "payload").(bson.Binary)
	if !ok || b.Subtype != 0 {
		t.Fatalf("no payload in %v", reply)
	}
	next, err := l.scram.Step(string(b.Data))
	if err != nil {
		t.Fatalf("the client refuses %v: %v", reply, err)
	}
	return []byte(next)
}

func (l *login) proceed(payload any) bson.D {
	return l.c.Run(l.source, d("saslContinue", 1, "conversationId", 1, "payload", payload))
}

// logIn is a whole log-in; the last reply is returned.
func logIn(t testing.TB, c *wiretest.Client, user, password string) bson.D {
	t.Helper()
	l := newLogin(t, c, user, password)
	reply := l.start(t)
	if wiretest.Get(reply, "ok") == 1.0 {
		reply = l.proceed(l.answer(t, reply))
	}
	if wiretest.Get(reply, "done") == true {
		l.answer(t, reply)
		if !l.scram.Valid() {
			t.Error("the client does not believe the server")
		}
	}
	return reply
}

func mustLogIn(t *testing.T, c *wiretest.Client, user string) {
	t.Helper()
	if reply := logIn(t, c, user, password); wiretest.Get(reply, "done") != true {
		t.Fatalf("%s can not log in: %v", user, reply)
	}
}

func code(reply bson.D) any {
	if wiretest.Get(reply, "ok") == 1.0 {
		return int32(0)
	}
	return wiretest.Get(reply, "code")
}

func wantCode(t *testing.T, what string, reply bson.D, want int32) {
	t.Helper()
	if code(reply) != want {
		t.Errorf("%s: %v, want code %d", what, reply, want)
	}
}

// TestStranger: before a client has authenticated, small talk is answered, everything else is 13,
// and nothing of it reaches a server.
func TestStranger(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	g.server.Wait("hello", 1)
	c := g.dial(t, 0)
	g.server.Forget()
	open := map[string]bool{
		"hello": true, "isMaster": true, "ismaster": true, "ping": true, "buildInfo": true, "buildinfo": true, "endSessions": true,
		"whatsmyuri": true, "connectionStatus": true, "logout": true,
	}
	sasl := map[string]int32{"saslStart": 40414, "saslContinue": 17, "authenticate": 334}
	for cmd := range routing.Commands {
		for _, name := range append([]string{cmd.Name}, cmd.Aliases...) {
			reply := c.Run("admin", d(name, 1, "lsid", session(1)))
			want := int32(13)
			if open[name] {
				want = 0
			} else if s, ok := sasl[name]; ok {
				want = s
			}
			wantCode(t, name, reply, want)
			if want == 13 && wiretest.Get(reply, "errmsg") != "tenantry: command "+name+" requires authentication" {
				t.Errorf("%s: %v", name, reply)
			}
		}
	}
	wantCode(t, "noSuchCommand", c.Run("admin", d("noSuchCommand", 1)), 13)
	if users := wiretest.Get(c.Run("admin", d("connectionStatus", 1)), "authInfo", "authenticatedUsers"); len(users.(bson.A)) != 0 {
		t.Errorf("users %v", users)
	}
	if v := wiretest.Get(c.Run("admin", d("buildInfo", 1)), "version"); v != "8.0.0" {
		t.Errorf("version %v", v)
	}
	for _, cmd := range g.server.Commands() {
		if name := cmd.Name; name != "hello" && name != "isMaster" && name != "ping" {
			t.Errorf("%s reached a server", name)
		}
	}
	large := bson.D{{Key: "ping", Value: 1}, {Key: "comment", Value: strings.Repeat("x", maxStranger)}, {Key: "$db", Value: "admin"}}
	if _, err := c.TrySend(wiretest.Outgoing{Body: large}); err == nil {
		c.Closed()
	}
	c = g.dial(t, 0)
	mustLogIn(t, c, "app")
	if _, err := c.Try(large); err != nil {
		t.Errorf("a large message after the log-in: %v", err)
	}
}

func TestLogIn(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	g.insert(t, 1, "acme")
	for _, skip := range []bool{true, false} {
		for _, text := range []bool{false, true} {
			c := g.dial(t, 0)
			l := newLogin(t, c, "app", password)
			l.skip = skip
			reply := l.start(t)
			if wiretest.Get(reply, "conversationId") != int32(1) || wiretest.Get(reply, "done") != false {
				t.Fatalf("saslStart: %v", reply)
			}
			var payload any = l.answer(t, reply)
			if text {
				payload = base64.StdEncoding.EncodeToString(payload.([]byte))
			}
			reply = l.proceed(payload)
			if wiretest.Get(reply, "done") != skip {
				t.Fatalf("saslContinue: %v", reply)
			}
			l.answer(t, reply)
			if !skip {
				wantCode(t, "before the empty exchange", c.Run("app", d("find", "orders")), 13)
				if reply := l.proceed([]byte{}); wiretest.Get(reply, "done") != true {
					t.Fatalf("the empty exchange: %v", reply)
				}
			}
			if !l.scram.Valid() {
				t.Error("the client does not believe the server")
			}
			r := c.Run("app", d("find", "orders"))
			if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != 1 {
				t.Errorf("find: %v", r)
			}
			wantCode(t, "a step behind the end", l.proceed([]byte{}), 17)
		}
	}
	c := g.dial(t, 0)
	reply := c.Run("admin", d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "options", d("skipEmptyExchange", true),
		"payload", base64.StdEncoding.EncodeToString(newLogin(t, c, "app", password).first(t))))
	wantCode(t, "a payload as text", reply, 0)
}

// TestWrongLogins: whatever is wrong, the answer is the same.
func TestWrongLogins(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "reader", "read", "acme", "rows")})
	var same string
	check := func(what string, reply bson.D) {
		t.Helper()
		wantCode(t, what, reply, 18)
		text := bson.Raw(wiretest.D(reply)).String()
		if same == "" {
			same = text
		}
		if text != same || !strings.Contains(text, "Authentication failed.") {
			t.Errorf("%s: %s, want %s", what, text, same)
		}
	}
	for _, who := range [][2]string{{"app", "wrong"}, {"nobody", password}, {"nobody", ""}, {"app+acme", "wrong"}, {"reader+acme", password}, {"app+", password}} {
		c := g.dial(t, 0)
		check(who[0], logIn(t, c, who[0], who[1]))
		wantCode(t, "find after "+who[0], c.Run("app", d("find", "orders")), 13)
	}
	c := g.dial(t, 0)
	l := newLogin(t, c, "app", password)
	l.source = "crm"
	check("another source", l.proceed(l.answer(t, l.start(t))))
	for _, payload := range []any{[]byte("n,,"), []byte{}, "%%%", 7, strings.Repeat("A", 9000), bson.Binary{Subtype: 4, Data: make([]byte, 16)}, nil} {
		check(fmt.Sprint(payload), c.Run("admin", d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", payload)))
	}
	l = newLogin(t, c, "app", password)
	l.answer(t, l.start(t))
	check("another proof", l.proceed([]byte("c=biws,r=x,p=AAAA")))
	wantCode(t, "behind it", l.proceed([]byte{}), 17)
}

// TestConversationRules: one conversation per connection, by its id, from the beginning.
func TestConversationRules(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	c := g.dial(t, 0)
	l := newLogin(t, c, "app", password)
	wantCode(t, "saslContinue at first", l.proceed([]byte{}), 17)
	proof := l.answer(t, l.start(t))
	wantCode(t, "another id", c.Run("admin", d("saslContinue", 1, "conversationId", 2, "payload", proof)), 17)
	wantCode(t, "the right id behind it", l.proceed(proof), 17)
	wantCode(t, "no id", c.Run("admin", d("saslContinue", 1, "payload", proof)), 17)
	old, l := newLogin(t, c, "app", password), newLogin(t, c, "app", password)
	proof = old.answer(t, old.start(t))
	next := l.answer(t, l.start(t)) // takes the place of the one before
	wantCode(t, "the replaced conversation", old.proceed(proof), 18)
	wantCode(t, "the conversation after a failure", l.proceed(next), 17)
	for _, mech := range []string{"SCRAM-SHA-1", "PLAIN", "MONGODB-X509", ""} {
		wantCode(t, mech, c.Run("admin", d("saslStart", 1, "mechanism", mech, "payload", []byte("n,,n=app,r=a"))), 334)
	}
	wantCode(t, "authenticate", c.Run("$external", d("authenticate", 1, "mechanism", "MONGODB-X509")), 334)
	mustLogIn(t, c, "app")
}

// TestNoFleetKey: while the key is not known, nobody is asked for a password: salts would differ later.
func TestNoFleetKey(t *testing.T) {
	g := newGround(t, nil)
	g.proxy.opts.FleetKey = func() []byte { return nil }
	x := guard(t, g, []config.User{userOf(t, "app", "application", "", "")})
	for _, name := range []string{"app", "nobody"} {
		wantCode(t, name, newLogin(t, x.dial(t, 0), name, password).start(t), 6)
	}
}

// TestSpeculation: the hello of either framing begins a log-in, and leaves it out where it is wrong.
func TestSpeculation(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	for name, hello := range map[string]func(*wiretest.Client, bson.D) bson.D{
		"OP_QUERY": func(c *wiretest.Client, cmd bson.D) bson.D {
			return wiretest.Decode(c.LegacyHello(append(d("isMaster", 1, "helloOk", true), cmd...)))
		},
		"OP_MSG": func(c *wiretest.Client, cmd bson.D) bson.D { return c.Run("admin", append(d("hello", 1), cmd...)) },
	} {
		c := g.dial(t, 0)
		l := newLogin(t, c, "app", password)
		reply := hello(c, d("saslSupportedMechs", "admin.app", "speculativeAuthenticate",
			d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", l.first(t), "db", "admin", "options", d("skipEmptyExchange", true))))
		if mechs := fmt.Sprint(wiretest.Get(reply, "saslSupportedMechs")); mechs != "[SCRAM-SHA-256]" {
			t.Errorf("%s: mechanisms %s", name, mechs)
		}
		started, ok := wiretest.Get(reply, "speculativeAuthenticate").(bson.D)
		if !ok {
			t.Fatalf("%s: %v", name, reply)
		}
		if wiretest.Get(l.proceed(l.answer(t, started)), "done") != true {
			t.Errorf("%s: not authenticated", name)
		}
		wantCode(t, name, c.Run("app", d("find", "orders")), 0)
		for what, wrong := range map[string]bson.D{
			"mechanism": d("saslStart", 1, "mechanism", "SCRAM-SHA-1", "payload", []byte("n,,n=app,r=a"), "db", "admin"),
			"payload":   d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte("n,"), "db", "admin"),
			"command":   d("authenticate", 1, "mechanism", "MONGODB-X509", "db", "$external"),
		} {
			reply := hello(g.dial(t, 0), d("saslSupportedMechs", "admin.nobody", "speculativeAuthenticate", wrong))
			if wiretest.Get(reply, "ok") != 1.0 || wiretest.Get(reply, "speculativeAuthenticate") != nil || fmt.Sprint(wiretest.Get(reply, "saslSupportedMechs")) != "[SCRAM-SHA-256]" {
				t.Errorf("%s, wrong %s: %v", name, what, reply)
			}
		}
	}
	if reply := g.client.Run("admin", d("hello", 1, "saslSupportedMechs", "admin.app", "speculativeAuthenticate",
		d("saslStart", 1, "mechanism", "SCRAM-SHA-256", "payload", []byte("n,,n=app,r=a"), "db", "admin"))); wiretest.Get(reply, "speculativeAuthenticate") != nil || wiretest.Get(reply, "saslSupportedMechs") != nil || wiretest.Get(reply, "ok") != 1.0 {
		t.Errorf("without authentication: %v", reply)
	}
}

// TestFixedForLife: a connection belongs to the one who has authenticated first.
func TestFixedForLife(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "other", "application", "", "")})
	c := g.dial(t, 0)
	mustLogIn(t, c, "app")
	mustLogIn(t, c, "app") // again, as the same
	wantCode(t, "logout", c.Run("admin", d("logout", 1)), 0)
	wantCode(t, "find after logout", c.Run("app", d("find", "orders")), 13)
	mustLogIn(t, c, "app")
	wantCode(t, "find", c.Run("app", d("find", "orders")), 0)
	wantCode(t, "a wrong password does no harm", logIn(t, c, "other", "wrong"), 18)
	wantCode(t, "find", c.Run("app", d("find", "orders")), 0)
	for _, name := range []string{"other", "app+acme"} {
		c := g.dial(t, 0)
		mustLogIn(t, c, "app")
		wantCode(t, "logout", c.Run("admin", d("logout", 1)), 0)
		wantCode(t, "as another", logIn(t, c, name, password), 20)
		c.Closed()
	}
}

func TestRoles(t *testing.T) {
	users := []config.User{
		userOf(t, "app", "application", "", ""), userOf(t, "ops", "operator", "", ""),
		userOf(t, "reader", "read", "acme", "database"), userOf(t, "writer", "write", "acme", "database"), userOf(t, "owner", "owner", "acme", "database"),
		userOf(t, "globex", "write", "globex", "database"),
	}
	acme := config.Listener{Auth: "scram", Tenant: "acme", Isolation: "database", Access: "write"}
	g := guard(t, newGround(t, nil), users, acme)
	g.insert(t, 1, "acme")
	g.insert(t, 2, "globex")
	insert := d("insert", "orders", "documents", bson.A{d("x", 1)})
	index := d("createIndexes", "orders", "indexes", bson.A{d("key", d("x", 1), "name", "x_1")})
	explain := d("tenantryExplain", d("find", "orders"))
	for _, tt := range []struct {
		listener                     int
		user                         string
		sees                         int
		insert, index, explain, drop int32
	}{
		{0, "app", 2, 0, 0, 13, 0},
		{0, "ops", 2, 0, 0, 0, 0},
		{0, "reader", 1, 13, 13, 13, 13},
		{0, "writer", 1, 0, 13, 13, 13},
		{0, "owner", 1, 0, 0, 13, 0},
		{1, "app", 1, 0, 13, 13, 13},
		{1, "ops", 1, 0, 13, 13, 13},
		{1, "reader", 1, 13, 13, 13, 13},
		{1, "owner", 1, 0, 13, 13, 13},
		{1, "app+acme", 1, 0, 13, 13, 13},
	} {
		c := g.dial(t, tt.listener)
		mustLogIn(t, c, tt.user)
		name := fmt.Sprint(tt.user, " on ", tt.listener)
		r := c.Run("app", d("find", "orders", "filter", d("_id", d("$in", bson.A{1, 2}))))
		if docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A); len(docs) != tt.sees {
			t.Errorf("%s sees %v", name, r)
		}
		wantCode(t, name+" inserts", c.Run("app", insert), tt.insert)
		wantCode(t, name+" defines", c.Run("app", index), tt.index)
		wantCode(t, name+" explains", c.Run("app", explain), tt.explain)
		wantCode(t, name+" drops", c.Run("app", d("drop", "nothing")), tt.drop)
	}
	wantCode(t, "another tenant's user", logIn(t, g.dial(t, 1), "globex", password), 13)
	wantCode(t, "the application's for another tenant", logIn(t, g.dial(t, 1), "app+globex", password), 13)
	c := g.dial(t, 0)
	mustLogIn(t, c, "app+acme") // with rows, which routing decides about
	wantCode(t, "explain of app+acme", c.Run("app", explain), 13)
	wantCode(t, "explain without authentication", g.client.Run("app", explain), 0)
}

// What ends everybody's sessions is for operators, where clients authenticate.
func TestOperators(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "ops", "operator", "", "")})
	g.router.Publish(tableOf(t, 2, func(s *routing.Spec) { s.Mode, s.Tenants = routing.Disabled, nil }))
	for _, name := range []string{"killAllSessions", "killAllSessionsByPattern"} {
		for user, code := range map[string]int32{"app": 13, "ops": 0, "": 0} {
			c := g.client
			if user != "" {
				c = g.dial(t, 0)
				mustLogIn(t, c, user)
			}
			g.server.Forget()
			if code == 0 {
				g.server.Once(name, wiretest.OK())
			}
			wantCode(t, name+" of "+user, c.Run("admin", d(name, bson.A{})), code)
			if n := len(g.server.Commands(name)); n != 0 != (code == 0) {
				t.Errorf("%s of %q: the server has got %d", name, user, n)
			}
		}
	}
}

func TestConnectionStatus(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "reader", "read", "acme", "database")})
	for user, want := range map[string]string{
		"app":      `{"user":"app","db":"admin"} {"role":"readWriteAnyDatabase","db":"admin"} {"db":"","collection":""}`,
		"app+acme": `{"user":"app+acme","db":"admin"} {"role":"readWrite","db":"app"} {"db":"app","collection":""}`,
		"reader":   `{"user":"reader","db":"admin"} {"role":"read","db":"app"} {"db":"app","collection":""}`,
	} {
		c := g.dial(t, 0)
		mustLogIn(t, c, user)
		info := wiretest.Get(c.Run("app", d("connectionStatus", 1, "showPrivileges", true)), "authInfo")
		first := func(list string) bson.D {
			a, _ := wiretest.Get(info.(bson.D), list).(bson.A)
			if len(a) != 1 {
				t.Fatalf("%s: %v", user, info)
			}
			return a[0].(bson.D)
		}
		resource, _ := wiretest.Get(first("authenticatedUserPrivileges"), "resource").(bson.D)
		var got []string
		for _, x := range []bson.D{first("authenticatedUsers"), first("authenticatedUserRoles"), resource} {
			text, _ := bson.MarshalExtJSON(x, false, false)
			got = append(got, string(text))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s", user, got)
		}
	}
	c := g.dial(t, 0)
	mustLogIn(t, c, "app")
	if m := fmt.Sprint(wiretest.Get(c.Run("admin", d("getParameter", 1, "authenticationMechanisms", 1)), "authenticationMechanisms")); m != "[SCRAM-SHA-256]" {
		t.Errorf("mechanisms %s", m)
	}
}

// TestUserChanges: who is removed or changed by a reload is out at once, or when the command under way
// is over.
func TestUserChanges(t *testing.T) {
	app, other := userOf(t, "app", "application", "", ""), userOf(t, "other", "application", "", "")
	changed := other
	changed.Role = "operator"
	for name, after := range map[string][]config.User{"removed": {app}, "changed": {app, changed}} {
		g := guard(t, newGround(t, nil), []config.User{app, other})
		stays, idle, busy := g.dial(t, 0), g.dial(t, 0), g.dial(t, 0)
		mustLogIn(t, stays, "app")
		mustLogIn(t, idle, "other")
		mustLogIn(t, busy, "other")
		release := make(chan struct{})
		g.server.Once("find", wiretest.Cursor("app.orders", 0, true).After(release))
		busy.Send(wiretest.Outgoing{Body: d("find", "users", "$db", "app")})
		g.server.Wait("find", 1)
		g.reload(func(c *config.Config) { c.Users = after })
		idle.Closed()
		close(release)
		if reply := busy.Receive().D(); wiretest.Get(reply, "ok") != 1.0 {
			t.Errorf("%s: the command under way: %v", name, reply)
		}
		busy.Closed()
		wantCode(t, "another user", stays.Run("app", d("find", "orders")), 0)
	}
}

// TestChangeWhileLoggingIn: a reload between the steps of a log-in holds for it too.
func TestChangeWhileLoggingIn(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	c := g.dial(t, 0)
	l := newLogin(t, c, "app", password)
	reply := l.start(t)
	g.reload(func(c *config.Config) { c.Users = nil }) // it is nobody's yet, so it stays
	l.proceed(l.answer(t, reply))
	c.Closed()
}

// TestRecheck: a command that comes before the connection is closed is refused.
func TestRecheck(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", "")})
	for what, change := range map[string]func(*settings){
		"removed":  func(s *settings) { s.users = auth.NewUsers(nil) },
		"shut out": func(s *settings) { s.deny = []config.Deny{{User: "app", Reason: "bill"}} },
	} {
		was, refused := g.proxy.settings.Load(), false
		for range 100 {
			c := g.dial(t, 0)
			mustLogIn(t, c, "app")
			wantCode(t, "find", c.Run("app", d("find", "orders")), 0)
			n := *was
			change(&n)
			g.proxy.settings.Store(&n) // and shutOut has not come to it yet
			in, err := c.Try(d("find", "orders", "$db", "app"))
			g.proxy.settings.Store(was)
			if err == nil { // else the command before was not quite over, and the connection is closed
				wantCode(t, what, wiretest.Decode(in), 13)
				refused = true
				break
			}
		}
		if !refused {
			t.Errorf("%s: each of a hundred connections was closed", what)
		}
	}
}

// TestDeny: who is shut out is told why, by the first command and not by hello, which drivers would
// take for a server that is down.
func TestDeny(t *testing.T) {
	users := []config.User{userOf(t, "app", "application", "", ""), userOf(t, "reader", "read", "acme", "database")}
	for _, tt := range []struct {
		deny config.Deny
		who  string // is shut out; the other is not
		free string
	}{
		{config.Deny{Tenant: "acme", Reason: "bill"}, "reader", "app"},
		{config.Deny{Tenant: "acme", Reason: "bill"}, "app+acme", "app+globex"},
		{config.Deny{User: "app", Reason: "bill"}, "app+acme", "reader"},
		{config.Deny{User: "reader", Reason: "bill"}, "reader", "app"},
		{config.Deny{Address: netip.MustParsePrefix("127.0.0.0/8"), Reason: "bill"}, "app", ""},
	} {
		g := guard(t, newGround(t, nil), users)
		idle, free := g.dial(t, 0), g.dial(t, 0)
		mustLogIn(t, idle, tt.who)
		if tt.free != "" {
			mustLogIn(t, free, tt.free)
		}
		g.reload(func(c *config.Config) { c.Deny = []config.Deny{tt.deny} })
		idle.Closed()
		if tt.free != "" {
			wantCode(t, tt.free, free.Run("admin", d("connectionStatus", 1)), 0)
		}
		c := g.dial(t, 0)
		wantCode(t, "the first hello", wiretest.Decode(c.LegacyHello(d("isMaster", 1))), 0)
		wantCode(t, "hello", c.Run("admin", d("hello", 1)), 0)
		reply := logIn(t, c, tt.who, password)
		wantCode(t, tt.who, reply, 13)
		if text := wiretest.Get(reply, "errmsg"); text != "tenantry: bill" {
			t.Errorf("%s is told %v", tt.who, text)
		}
		if tt.deny.Address.IsValid() {
			continue
		}
		wantCode(t, tt.who+" with a wrong password", logIn(t, g.dial(t, 0), tt.who, "wrong"), 18)
		g.reload(func(c *config.Config) { c.Deny = nil })
		mustLogIn(t, c, tt.who)
	}
	g := guard(t, newGround(t, nil), nil, config.Listener{Tenant: "acme", Isolation: "database", Access: "write"})
	g.insert(t, 1, "acme")
	g.reload(func(c *config.Config) { c.Deny = []config.Deny{{Tenant: "acme", Reason: "bill"}} })
	c := g.dial(t, 1)
	wantCode(t, "hello on a tenant's listener", c.Run("admin", d("hello", 1)), 0)
	wantCode(t, "find on a tenant's listener", c.Run("app", d("find", "orders")), 13)
	wantCode(t, "an open connection", g.client.Run("app", d("find", "orders", "filter", d("tenantId", "acme"))), 0)
}

// TestThrottledLogins: beyond the limit the right password is refused like a wrong one, for those who
// have not logged in before.
func TestThrottledLogins(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "known", "application", "", "")})
	g.reload(func(c *config.Config) {
		c.Auth.UserFailures, c.Auth.AddressFailures, c.Auth.FailurePeriod = 3, 8, 10*time.Hour
	})
	mustLogIn(t, g.dial(t, 0), "known")
	for range 3 {
		wantCode(t, "a wrong password", logIn(t, g.dial(t, 0), "app", "wrong"), 18)
	}
	wantCode(t, "the right one then", logIn(t, g.dial(t, 0), "app", password), 18)
	wantCode(t, "and for a tenant", logIn(t, g.dial(t, 0), "app+acme", password), 18)
	for n := range 8 {
		wantCode(t, "a stranger", logIn(t, g.dial(t, 0), fmt.Sprint("user", n), "x"), 18)
	}
	mustLogIn(t, g.dial(t, 0), "known")
	if n := len(g.log.audited(`"event":"login throttled"`)); n < 2 {
		t.Errorf("%d lines of throttled log-ins", n)
	}
}

// TestAudit: the audit log names who did what from where, and shows no value and no credential.
func TestAudit(t *testing.T) {
	g := guard(t, newGround(t, nil), []config.User{userOf(t, "app", "application", "", ""), userOf(t, "reader", "read", "acme", "database")})
	c := g.dial(t, 0)
	wantCode(t, "before the log-in", c.Run("app", d("find", "orders", "filter", d("secretField", "secretValue"))), 13)
	logIn(t, c, "app", "secretPassword")
	mustLogIn(t, c, "reader")
	wantCode(t, "insert", c.Run("app", d("insert", "orders", "documents", bson.A{d("_id", "secretValue", "list", bson.A{1, 2})})), 13)
	g.insert(t, 2, "globex")
	g.client.Run("app", d("update", "orders", "updates", bson.A{d("q", d("_id", 2), "u", d("$set", d("tenantId", "acme")))}))
	wantCode(t, "no such command", g.client.Run("app", d("noSuchCommand", 1)), 59)
	if n := len(g.log.audited(`"event":"command refused"`)); n != 3 {
		t.Errorf("%d lines of refused commands", n)
	}
	from := `"client":"` + c.LocalAddr().String() + `"`
	for _, want := range [][]string{
		{`"event":"command refused"`, `"code":13`, `"command":"find"`, `"database":"app"`, `"collection":"orders"`, `"shape":"{find: string, filter: {secretField: string}}"`, from},
		{`"event":"login failed"`, `"login":"app"`, `"source":"admin"`, from},
		{`"event":"login"`, `"login":"reader"`, `"user":"reader"`, `"tenant":"acme"`, from},
		{`"event":"command refused"`, `"code":13`, `"command":"insert"`, `"user":"reader"`, `"tenant":"acme"`, `"shape":"{insert: string, documents: [{_id: string, list: [int]×2}]×1}"`, from},
		{`"event":"command refused"`, `"code":66`, `"code_name":"ImmutableField"`, `"command":"update"`},
	} {
		if n := len(g.log.audited(want...)); n != 1 {
			t.Errorf("%d lines with %q in\n%s", n, want, g.log.String())
		}
	}
	for _, secret := range []string{"secretValue", "secretPassword", password, "biws", "n,,n="} {
		if strings.Contains(g.log.String(), secret) {
			t.Errorf("the log shows %q", secret)
		}
	}
}

// TestAuditLimit: one address does not fill the log, nor keep others out of it, and what is left out is
// counted.
func TestAuditLimit(t *testing.T) {
	var log logged
	a, now := newAudits(zerolog.New(&log)), time.Unix(1e9, 0)
	for range 100 {
		a.line("one", now).Msg("")
	}
	if n := len(log.audited()); n != auditEach.Count {
		t.Errorf("%d lines of one address", n)
	}
	a.line("another", now).Msg("")
	a.flush()
	if n := len(log.audited(`"left_out":80`)); n != 1 || len(log.audited()) != auditEach.Count+1 {
		t.Errorf("%s", log.String())
	}
	for n := range 2 * auditAll.Count {
		a.line(fmt.Sprint(n), now).Msg("")
	}
	if n := len(log.audited()); n != auditAll.Count {
		t.Errorf("%d lines of all", n)
	}
	a.flush()
	a.flush()
	if n := len(log.audited(`left_out":1021`, "were left out")); n != 1 || len(log.audited()) != auditAll.Count+1 {
		t.Errorf("%d lines that tell how many are left out", n)
	}
}

// FuzzStranger: whatever a client sends before it has authenticated, in whatever order, it does not
// get in, and gets only answers that strangers get.
func FuzzStranger(f *testing.F) {
	first := "n,,n=app,r=abc"
	f.Add([]byte("\x00"+first+"\x01\x00c=biws,r=abc,p=AAAA"), byte(0))
	f.Add([]byte("\x01\x00\x01\x00"), byte(1))
	f.Add([]byte("\x02"+first+"\x03"), byte(2))
	f.Add([]byte("\x00"+strings.Repeat("n", 9000)), byte(3))
	f.Add([]byte("\x04\x05\x06\x07"), byte(255))
	clusters := backend.New(backend.Options{Log: zerolog.Nop()})
	f.Cleanup(clusters.Close)
	s := New(Options{Router: &routing.Router{}, Clusters: clusters, FleetKey: func() []byte { return make([]byte, 32) }})
	f.Cleanup(s.cancel)
	s.opts.Router.Publish(tableOf(f, 1, nil))
	s.Apply(&config.Config{Auth: config.Auth{Mechanisms: []string{config.ScramSHA256}, FailurePeriod: time.Second}, Users: []config.User{userOf(f, "app", "application", "", "")}})
	f.Fuzz(func(t *testing.T, script []byte, how byte) {
		c := newClientConn(s, noConn{}, &config.Listener{Auth: scramAuth})
		for _, step := range bytes.Split(script, []byte{0xff}) {
			c.takeWork(true)
			frame := wire.AppendMessage(nil, 1, 0, 0, wiretest.D(strangersCommand(step, how)))
			if err := c.msg.Parse(frame); err != nil {
				t.Fatal(err)
			}
			if err := c.req.Parse(&c.msg); err != nil {
				c.giveWork()
				continue
			}
			reply, handled := c.admit()
			if !handled || reply == nil || c.in || c.who.Load() != nil {
				t.Fatalf("%q gets in", step)
			}
			var m wire.Message
			if err := m.Parse(reply.B); err != nil || m.Body.Check() != nil {
				t.Fatalf("the reply: %v", err)
			}
			switch got := code(wiretest.Decode(m.Body)); got {
			case int32(0), int32(13), int32(17), int32(18), int32(334), int32(40414):
			default:
				t.Fatalf("%q gets code %v", step, got)
			}
			reply.Free()
			c.giveWork()
		}
	})
}

// strangersCommand is a command of the log-in, made from what a fuzzer chose.
func strangersCommand(step []byte, how byte) bson.D {
	kind := byte(0)
	if len(step) > 0 {
		kind, step = step[0], step[1:]
	}
	var payload any = step
	if how&1 != 0 {
		payload = string(step)
	}
	mech := "SCRAM-SHA-256"
	if how&2 != 0 {
		mech = string(step)
	}
	start := d("saslStart", 1, "mechanism", mech, "payload", payload, "options", d("skipEmptyExchange", how&4 == 0), "$db", "admin")
	switch kind % 8 {
	case 0, 2:
		return start
	case 1, 3:
		return d("saslContinue", 1, "conversationId", int64(how>>3), "payload", payload, "$db", "admin")
	case 4:
		return d("hello", 1, "speculativeAuthenticate", append(start[:4:4], bson.E{Key: "db", Value: string(step)}), "saslSupportedMechs", payload, "$db", "admin")
	case 5:
		return d("authenticate", 1, "mechanism", mech, "user", payload, "$db", "$external")
	case 6:
		return d("logout", 1, "$db", "admin")
	}
	return d(strings.ToValidUTF8(strings.ReplaceAll(string(step), "\x00", ""), "?"), payload, "$db", "admin")
}
