package backend

import (
	"crypto/tls"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// scramAuth knows one user.
func scramAuth(t *testing.T, user, password string) func() authStep {
	client, err := scram.SHA256.NewClientUnprepped(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789012345678901234567", Iters: 15000})
	if err != nil {
		t.Fatal(err)
	}
	server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) {
		if name != user {
			return scram.StoredCredentials{}, errors.New("unknown")
		}
		return stored, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() authStep {
		conv := server.NewConversation()
		return func(payload string) (string, bool, error) {
			reply, err := conv.Step(payload)
			return reply, conv.Valid(), err
		}
	}
}

func TestSCRAM(t *testing.T) {
	const secret = "s€cr/t:@"
	s := newScripted(t, standalone())
	s.auth = scramAuth(t, "app", secret)
	for _, options := range []string{"", "&authMechanism=SCRAM-SHA-256"} {
		_, c := open(t, "mongodb://app:"+url.QueryEscape(secret)+"@"+s.addr+"/?authSource=admin"+options, Limits{})
		for range 3 { // the authenticator is shared, the conversation is not
			roundTrip(t, acquire(t, c, write, 0))
		}
		for _, conn := range c.current.Load().allPools()[0].open {
			defer conn.Release()
		}
	}
}

func TestWrongPasswordIsToldAtOnce(t *testing.T) {
	s := newScripted(t, standalone())
	s.auth = scramAuth(t, "app", "right")
	_, c := open(t, "mongodb://app:wrong@"+s.addr+"/", Limits{})
	begin := time.Now()
	for range 5 {
		_, err := c.Acquire(within(t, 5*time.Second), write, 0)
		var refused driver.Error
		if !errors.As(err, &refused) || refused.Code != 18 {
			t.Fatalf("%v", err)
		}
		if strings.Contains(err.Error(), "wrong") {
			t.Error("the password is shown")
		}
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Error(d)
	}
	if n := c.current.Load().allPools()[0].dials.Load(); n > 1 {
		t.Errorf("%d log-ins within a second", n)
	}
}

func TestTLSAndX509(t *testing.T) {
	ca := wiretest.NewAuthority(t)
	server, client := ca.Issue("server", nil), ca.Issue("client", nil)
	s := newScripted(t, standalone())
	s.set(func() {
		s.tls = &tls.Config{Certificates: []tls.Certificate{server.Certificate}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	})
	s.answer = func(cmd bson.Raw) bson.D { return d("ok", 1, "asked", cmd) }
	_, c := open(t, "mongodb://"+s.addr+"/?tls=true&tlsCAFile="+ca.File+"&tlsCertificateKeyFile="+client.File+
		"&authMechanism=MONGODB-X509", Limits{})
	conn := acquire(t, c, write, 0)
	roundTrip(t, conn)
	conn.Release()
	conn.pool.mu.Lock()
	conn.idleSince -= 2 * restSure
	conn.pool.mu.Unlock()
	again := acquire(t, c, write, 0)
	if again != conn {
		t.Error("a good idle connection was dropped")
	}
	roundTrip(t, again)
	again.Release()

	_, bad := open(t, "mongodb://"+s.addr+"/?tls=true&serverSelectionTimeoutMS=1500", Limits{})
	_, err := bad.Acquire(within(t, 5*time.Second), write, 0)
	if !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func TestBadURIs(t *testing.T) {
	cs, c := open(t, "mongodb://127.0.0.1:1/", Limits{})
	for _, tc := range []struct{ uri, want string }{
		{"http://x", "scheme"},
		{"mongodb://", ""},
		{"mongodb://app:hunter2@/", ""},
		{"mongodb://app:hunter2@h/?connectTimeoutMS=soon", "connecttimeoutms"},
		{"mongodb://app:hun%zzter2@h/", ""},
		{"mongodb://app:hunter2@x@h/", "@"},
		{"mongodb://app:hunter2/x@h/", ""},
		{"mongodb://app:hunter2:x@h/", ""},
		{"mongodb://hunter2@h:notaport/", "port"},
		{"mongodb://h/?tlsCAFile=/nowhere/hunter2x.pem&tls=true", "nowhere"},
		{"mongodb://h/?loadBalanced=true", "loadBalanced"},
		{"mongodb://h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:hunter2", ""},
		{"mongodb://h,i/?directConnection=true", "direct"},
		{"mongodb+srv://app:hunter2@h/?connectTimeoutMS=soon", "connecttimeoutms"},
		{"mongodb+srv://h:1/?loadBalanced=true", ""},
	} {
		err := cs.Apply([]Spec{{Name: "good", URI: "mongodb://127.0.0.1:1/"}, {Name: "faulty", URI: tc.uri}}, Limits{})
		switch {
		case err == nil:
			t.Errorf("%s: no error", tc.uri)
		case !strings.Contains(err.Error(), "faulty"), !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tc.want)):
			t.Errorf("%s: %v", tc.uri, err)
		case strings.Contains(err.Error(), "hunter2") && !strings.Contains(tc.uri, "tlsCAFile"), strings.Contains(err.Error(), "zz"):
			t.Errorf("%s: shows a secret: %v", tc.uri, err)
		}
	}
	if cs.Get("good") != nil || cs.Get("c") != c {
		t.Error("something was applied")
	}
	if err := cs.Apply([]Spec{{Name: "x", URI: "mongodb://h"}, {Name: "x", URI: "mongodb://h"}}, Limits{}); err == nil {
		t.Error("the same name twice")
	}
}

func TestURIOptions(t *testing.T) {
	for _, uri := range []string{"mongodb+srv://u:p@cluster.example", "mongodb+srv://cluster.example/db?srvMaxHosts=2&appName=x&localThresholdMS=30"} {
		got, err := check(uri, "tenantry")
		if err != nil || !got.srv() {
			t.Error(uri, err)
		}
	}
	got, err := check("mongodb://a,b/?appName=x&localThresholdMS=30&serverSelectionTimeoutMS=1000&minPoolSize=5&compressors=zstd,snappy", "tenantry")
	if err != nil {
		t.Fatal(err)
	}
	if got.appName != "x" || got.latencyWindow != 30*time.Millisecond || got.selectionTimeout != time.Second ||
		got.connectTimeout != 10*time.Second || *got.opts.MinPoolSize != 0 || strings.Join(got.compressors, " ") != "zstd snappy" {
		t.Errorf("%+v", got)
	}
}
