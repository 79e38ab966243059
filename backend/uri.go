package backend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/auth"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/ocsp"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"
)

// What a URI leaves out.
const (
	defaultConnectTimeout   = 10 * time.Second
	defaultSelectionTimeout = 30 * time.Second
	defaultLatencyWindow    = 15 * time.Millisecond
	defaultHeartbeat        = 10 * time.Second
)

// target is what a URI says, for the topology and for our own connections. It does not change.
type target struct {
	uri              string
	opts             *options.ClientOptions // for the topology
	connectTimeout   time.Duration
	selectionTimeout time.Duration
	latencyWindow    time.Duration
	heartbeat        time.Duration

	dial          dialFunc
	tls           *tls.Config // nil: plain
	ocsp          *ocsp.VerifyOptions
	authenticator driver.Authenticator // nil: no log-in; shared, since it caches the derived keys
	dbUser        string               // asks the server for the user's mechanisms; empty where one is named
	serverAPI     *driver.ServerAPIOptions
	appName       string
	compressors   []string // offered, in order of preference
}

const srvScheme = "mongodb+srv://"

// srv reports whether the servers' names must be looked up in DNS.
func (t *target) srv() bool { return strings.HasPrefix(t.uri, srvScheme) }

// CheckURI says what is wrong with a connection string, as [Clusters.Apply] does, without asking anybody.
func CheckURI(uri string) error {
	_, err := check(uri, "")
	return err
}

// check reads a URI without asking anybody, neither server nor DNS. A mongodb+srv URI is checked
// as what it will become.
func check(uri, appName string) (*target, error) {
	asked := uri
	if strings.HasPrefix(uri, srvScheme) {
		asked = withoutSRV(uri)
	}
	t, err := parse(asked, appName)
	if err != nil {
		return nil, redact(uri, err)
	}
	t.uri = uri
	return t, nil
}

// resolve reads a mongodb+srv URI for good. It blocks while DNS is asked.
func resolve(uri, appName string) (*target, error) {
	t, err := parse(uri, appName)
	if err != nil {
		return nil, redact(uri, err)
	}
	return t, nil
}

var srvOptions = regexp.MustCompile(`(?i)(srvMaxHosts|srvServiceName)=[^&]*&?`)

// withoutSRV is a URI of the plain scheme with the same options.
func withoutSRV(uri string) string {
	plain := "mongodb://" + strings.TrimPrefix(uri, srvScheme)
	before, query, _ := strings.Cut(plain, "?")
	query = srvOptions.ReplaceAllString(query, "")
	if !strings.HasSuffix(before, "/") && strings.Count(before, "/") == 2 {
		before += "/"
	}
	return before + "?" + query
}

func parse(uri, appName string) (*target, error) {
	opts := options.Client().ApplyURI(uri)
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.LoadBalanced != nil && *opts.LoadBalanced {
		return nil, errors.New("loadBalanced=true is not supported behind the proxy: name the servers or mongos themselves")
	}
	t := &target{uri: uri, opts: opts, appName: appName}
	t.times()
	t.transport()
	t.compressors = offered(opts.Compressors)
	if err := t.credential(); err != nil {
		return nil, err
	}
	t.monitorOnly()
	return t, nil
}

func (t *target) times() {
	o := t.opts
	if o.ConnectTimeout == nil || *o.ConnectTimeout <= 0 {
		o.SetConnectTimeout(defaultConnectTimeout)
	}
	t.connectTimeout = *o.ConnectTimeout
	t.selectionTimeout = or(o.ServerSelectionTimeout, defaultSelectionTimeout)
	t.latencyWindow = or(o.LocalThreshold, defaultLatencyWindow)
	t.heartbeat = or(o.HeartbeatInterval, defaultHeartbeat)
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// keepAlive finds a peer that vanished without a word within about two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

func (t *target) transport() {
	o := t.opts
	t.dial = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	if o.Dialer != nil {
		t.dial = o.Dialer.DialContext
	}
	t.tls = o.TLSConfig
	if t.tls != nil && !t.tls.InsecureSkipVerify && !or(o.DisableCertificateRevocationCheck, false) {
		t.ocsp = &ocsp.VerifyOptions{
			Cache:                   ocsp.NewCache(),
			DisableEndpointChecking: or(o.DisableOCSPEndpointCheck, false),
			HTTPClient:              o.HTTPClient,
		}
	}
	if o.ServerAPIOptions != nil {
		t.serverAPI = topology.ConvertToDriverAPIOptions(o.ServerAPIOptions)
	}
	if o.AppName != nil {
		t.appName = *o.AppName
	}
}

func (t *target) credential() error {
	cred := t.opts.Auth
	if cred == nil {
		return nil
	}
	a, err := auth.CreateAuthenticator(cred.AuthMechanism, topology.ConvertCreds(cred), t.opts.HTTPClient)
	if err != nil {
		return err
	}
	t.authenticator = a
	if cred.AuthMechanism == "" {
		t.dbUser = cred.AuthSource + "." + cred.Username
	}
	return nil
}

// monitorOnly keeps the topology's own pools from ever dialling, and its monitors from
// compressing; monitors never log in.
func (t *target) monitorOnly() {
	t.opts.SetMinPoolSize(0).SetMaxConnecting(1)
	t.opts.Compressors = nil
	if t.appName != "" {
		t.opts.SetAppName(t.appName)
	}
}

// redact takes out of an error's text what it quotes of the URI's secrets.
func redact(uri string, err error) error {
	secrets := secretParts(uri)
	text := quoted.ReplaceAllStringFunc(err.Error(), func(q string) string {
		inner := strings.Trim(q, `"`)
		for _, s := range secrets {
			if inner != "" && (strings.Contains(s, inner) || strings.Contains(inner, s)) {
				return `"…"`
			}
		}
		return q
	})
	for _, s := range secrets {
		if len(s) > 2 {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return errors.New(text)
}

var (
	quoted        = regexp.MustCompile(`"[^"]*"`)
	secretOptions = regexp.MustCompile(`(?i)(?:password|authmechanismproperties)=([^&]*)`)
)

// secretParts lists the parts of a URI that nobody may see, as written and unescaped.
func secretParts(uri string) []string {
	var parts []string
	add := func(s string) {
		if s == "" {
			return
		}
		parts = append(parts, s)
		if u, err := url.PathUnescape(s); err == nil && u != s {
			parts = append(parts, u)
		}
	}
	_, rest, _ := strings.Cut(uri, "://")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		add(rest[:at])
		user, password, _ := strings.Cut(rest[:at], ":")
		add(user)
		add(password)
	}
	for _, m := range secretOptions.FindAllStringSubmatch(rest, -1) {
		add(m[1])
	}
	return parts
}

func uriError(name string, err error) error { return fmt.Errorf("cluster %s: uri: %w", name, err) }
