package proxy

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// maxStranger bounds the messages of a client that has not authenticated: each may make the proxy
// hold as much, and what such a client has to say is short.
const maxStranger = 16 << 10

// scramAuth is what a listener's auth says where clients authenticate by SCRAM.
const scramAuth = "scram"

// conversationID is of the one conversation that a connection has at a time.
const conversationID = 1

// admit says whether a command may go on to routing; where not, handled is true and reply the answer
// (nil where a stream of replies follows). Every command passes here, before anything is done for it.
func (c *clientConn) admit() (reply *wire.Buf, handled bool) {
	c.recheck()
	switch {
	case c.barred != nil && !c.asksHello():
		c.srv.metrics.shutOut.Inc()
		return c.refuse(c.barred), true
	case c.in:
		return nil, false
	}
	return c.stranger(), true
}

// recheck looks whether a reload has shut the client out, or changed who he is.
func (c *clientConn) recheck() {
	set := c.srv.settings.Load()
	if set == c.checked {
		return
	}
	c.checked = set
	if c.barred = set.shut(c); c.barred == nil && c.outdated(set) {
		c.barred = wire.Errorf(wire.Unauthorized, "the user of this connection has been changed or removed; connect again")
		c.closing = true
	}
}

// stillMay holds a command that has waited against what a reload may have said meanwhile, before it goes on.
func (c *clientConn) stillMay() *wire.Error {
	c.recheck()
	if c.barred != nil {
		c.srv.metrics.shutOut.Inc()
	}
	return c.barred
}

// endsHere reports whether a reload has shut the client out while its command was under way: those
// who wait for nothing are closed by it, see shutOut.
func (c *clientConn) endsHere() bool {
	if c.srv.settings.Load() == c.checked {
		return false
	}
	c.recheck()
	if c.barred != nil {
		c.srv.metrics.shutOut.Inc()
	}
	return c.barred != nil
}

// outdated reports whether the client has authenticated as a user who is not the same any more, or its
// certificate has been revoked.
func (c *clientConn) outdated(set *settings) bool {
	who := c.who.Load()
	switch {
	case c.revoked(set):
		return true
	case who == nil || c.listener.Auth == "":
		return false
	case c.listener.Auth == x509Auth:
		return !c.stillCertified(who, set.certificates)
	}
	return !set.users.Still(who)
}

// asksHello: hello is always answered. A driver that gets an error for it goes on looking for a
// server, and shows the error of its first command at once.
func (c *clientConn) asksHello() bool {
	return c.req.Cmd != nil && (c.req.Cmd.Name == "hello" || c.req.Cmd.Name == "isMaster")
}

// stranger answers a client that has not authenticated where its listener asks for it. Nothing that
// he sends reaches a server.
func (c *clientConn) stranger() *wire.Buf {
	if cmd := c.req.Cmd; cmd != nil {
		switch cmd.Name {
		case "hello", "isMaster", "saslStart", "saslContinue", "authenticate", "logout", "whatsmyuri", "connectionStatus":
			return c.answer(c.srv.opts.Router.Current(), &routing.Decision{})
		case "ping", "endSessions":
			return okReply()
		case "buildInfo":
			return c.strangersBuildInfo()
		}
	}
	return c.refuse(wire.Errorf(wire.Unauthorized, "command %s requires authentication", c.req.Name))
}

// strangersBuildInfo is what old tools read before they authenticate: the oldest release that the
// servers can be.
func (c *clientConn) strangersBuildInfo() *wire.Buf {
	f := c.srv.facts(c.srv.opts.Router.Current())
	return replyOf(func(d []byte) []byte {
		version := versionOf(f.MaxWire)
		d = bsoncore.AppendStringElement(d, "version", version+".0")
		i, d := bsoncore.AppendArrayElementStart(d, "versionArray")
		d = bsoncore.AppendInt32Element(d, "0", int32(version[0]-'0'))
		d = bsoncore.AppendInt32Element(d, "1", int32(version[2]-'0'))
		d = bsoncore.AppendInt32Element(d, "2", 0)
		d = bsoncore.AppendInt32Element(d, "3", 0)
		d, _ = bsoncore.AppendArrayEnd(d, i)
		return bsoncore.AppendInt32Element(d, "maxBsonObjectSize", f.MaxDocument)
	})
}

// logIn serves the commands of authentication.
func (c *clientConn) logIn() *wire.Buf {
	if c.listener.Auth == "" {
		return c.refuse(wire.Errorf(wire.AuthenticationFailed, noAuthentication))
	}
	if c.listener.Auth == x509Auth && c.req.Cmd.Name == "authenticate" {
		return c.logInByCertificate()
	}
	var step loginStep
	var err *wire.Error
	switch c.req.Cmd.Name {
	case "saslStart":
		step, err = c.saslStart(c.msg.Body, string(c.req.DB))
	case "saslContinue":
		step, err = c.saslContinue(c.msg.Body)
	default:
		v, _ := c.msg.Body.Lookup("mechanism")
		name, _ := v.Str()
		err = c.notOffered(string(name))
	}
	if err != nil {
		return c.refuse(err)
	}
	return replyOf(step.append)
}

// loginStep is the answer to one step of a conversation.
type loginStep struct {
	payload []byte
	done    bool
}

func (s loginStep) append(d []byte) []byte {
	d = bsoncore.AppendInt32Element(d, "conversationId", conversationID)
	d = bsoncore.AppendBooleanElement(d, "done", s.done)
	return bsoncore.AppendBinaryElement(d, "payload", 0, s.payload)
}

// saslStart begins a conversation for a user of the source; the one before is forgotten.
func (c *clientConn) saslStart(cmd wire.Doc, source string) (s loginStep, err *wire.Error) {
	c.login = nil
	v, _ := cmd.Lookup("mechanism")
	mech, ok := v.Str()
	if !ok {
		return s, wire.Errorf(wire.FailedToParse, "saslStart needs the name of a mechanism")
	}
	set := c.srv.settings.Load()
	if c.listener.Auth != scramAuth || !slices.Contains(set.mechanisms, string(mech)) {
		return s, c.notOffered(string(mech))
	}
	secret := c.srv.fleetKey()
	if secret == nil && c.awaitRoutes() == nil { // it is read with them
		secret = c.srv.fleetKey()
	}
	if secret == nil {
		return s, wire.Errorf(wire.HostUnreachable, "nobody can authenticate before the fleet's key has been read; the home cluster is not reachable")
	}
	c.login = set.users.Login(string(mech), source, secret, skipsEmpty(cmd))
	return c.step(cmd)
}

// saslContinue goes on with the conversation.
func (c *clientConn) saslContinue(cmd wire.Doc) (s loginStep, err *wire.Error) {
	if c.login == nil {
		return s, wire.Errorf(wire.ProtocolError, "no authentication is under way")
	}
	v, _ := cmd.Lookup("conversationId")
	if id, ok := v.Int(); !ok || id != conversationID {
		c.login = nil
		return s, wire.Errorf(wire.ProtocolError, "the conversation is not the one under way")
	}
	return c.step(cmd)
}

// step takes a payload through the conversation, and lets the client in where that is its end.
func (c *clientConn) step(cmd wire.Doc) (s loginStep, _ *wire.Error) {
	v := c.login
	take := v.Step
	if v.Guesses() {
		attempt, ok := c.srv.throttle.Try(c.network(), v.Source(), v.Account(), c.srv.settings.Load().failures, time.Now())
		if !ok {
			return s, c.loginFailed("throttled")
		}
		take = func(payload []byte) ([]byte, bool, error) {
			reply, done, err := v.Step(payload)
			if err != nil {
				attempt.Failed()
			} else {
				attempt.Succeeded()
			}
			return reply, done, err
		}
	}
	payload, ok := payloadOf(cmd)
	if !ok {
		return s, c.loginFailed("failed")
	}
	var err error
	if s.payload, s.done, err = take(payload); err != nil {
		return s, c.loginFailed("failed")
	}
	if !s.done {
		return s, nil
	}
	c.login = nil
	return s, c.letIn(v.Principal())
}

// errLogin is all that a client is told of why it could not log in.
var errLogin = wire.Errorf(wire.AuthenticationFailed, "Authentication failed.")

func (c *clientConn) loginFailed(result string) *wire.Error {
	v := c.login
	c.login = nil
	c.srv.metrics.logins.WithLabelValues(result).Inc()
	c.auditLogin("login "+result, "", v.Name(), v.Source()).Msg("a log-in failed")
	return errLogin
}

// letIn lets in who has authenticated. Who a connection belongs to is fixed for its life.
func (c *clientConn) letIn(p *auth.Principal) *wire.Error {
	refuse := func(e *wire.Error) *wire.Error {
		c.srv.metrics.logins.WithLabelValues("refused").Inc()
		c.auditLogin("login refused", p.User, p.User, p.Source).Str("why", e.Text).Msg("a log-in was refused")
		return e
	}
	on := c.onListener(p)
	if on == nil {
		return refuse(wire.Errorf(wire.Unauthorized, "this user belongs to another tenant than this listener"))
	}
	if was := c.who.Load(); was != nil && was.Name() != on.Name() {
		c.closing = true
		return refuse(wire.Errorf(wire.IllegalOperation, "this connection has authenticated as another user; connect anew"))
	}
	if e := c.srv.settings.Load().shutPrincipal(on); e != nil {
		return refuse(e)
	}
	c.become(on)
	c.in, c.checked = true, nil
	c.srv.metrics.logins.WithLabelValues("ok").Inc()
	c.auditLogin("login", p.User, p.User, p.Source).Msg("a client logged in")
	return nil
}

// onListener is who somebody is on the client's listener; nil where that is bound to another tenant.
func (c *clientConn) onListener(p *auth.Principal) *auth.Principal {
	l := c.listener
	if l.Tenant == "" {
		return p
	}
	access, _ := auth.ParseRole(l.Access)
	return p.On(l.Tenant, access, l.Isolation == "database")
}

// logOut leaves the connection to nobody; only the same user may log in again.
func (c *clientConn) logOut() *wire.Buf {
	if c.listener.Auth != "" {
		c.in, c.login = false, nil
	}
	return okReply()
}

// speculate answers the log-in that a hello begins. What goes wrong is left out: the client then
// begins anew, and is told.
func (c *clientConn) speculate(d []byte, cmd wire.Doc) []byte {
	c.recheck()
	switch {
	case c.barred != nil:
		return d
	case c.listener.Auth == x509Auth:
		return c.speculateByCertificate(d, cmd)
	case c.listener.Auth != scramAuth:
		return d
	}
	if _, ok := cmd.Lookup("saslStart"); !ok {
		return d
	}
	v, _ := cmd.Lookup("db")
	source, _ := v.Str()
	step, err := c.saslStart(cmd, string(source))
	if err != nil {
		return d
	}
	i, d := bsoncore.AppendDocumentElementStart(d, "speculativeAuthenticate")
	d, _ = bsoncore.AppendDocumentEnd(step.append(d), i)
	return d
}

// notOffered refuses a mechanism.
func (c *clientConn) notOffered(mech string) *wire.Error {
	return wire.Errorf(wire.MechanismUnavailable, "the mechanism %q is not offered here; choose %s", mech, strings.Join(c.mechanisms(), " or "))
}

// mechanisms are those that the client can log in by.
func (c *clientConn) mechanisms() []string {
	switch c.listener.Auth {
	case x509Auth:
		return []string{auth.X509}
	case scramAuth:
		return c.srv.settings.Load().mechanisms
	}
	return nil
}

// payloadOf takes what servers take: bytes, or base64 of them.
func payloadOf(cmd wire.Doc) ([]byte, bool) {
	v, _ := cmd.Lookup("payload")
	if text, ok := v.Str(); ok {
		if len(text) > base64.StdEncoding.EncodedLen(auth.MaxPayload) {
			return nil, false
		}
		payload, err := base64.StdEncoding.DecodeString(string(text))
		return payload, err == nil
	}
	if v.Type != bsoncore.TypeBinary || len(v.Data) < 5 || v.Data[4] != 0 {
		return nil, false
	}
	return v.Data[5:], true
}

// skipsEmpty reports whether the client does without the empty exchange at the end.
func skipsEmpty(cmd wire.Doc) bool {
	v, _ := cmd.Lookup("options")
	options, _ := v.Doc()
	skip, _ := options.Lookup("skipEmptyExchange")
	return skip.True()
}
