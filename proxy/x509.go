package proxy

import (
	"crypto/tls"
	"crypto/x509"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// x509Auth is what a listener's auth says where clients authenticate by their certificates.
const x509Auth = "x509"

// certified is who the client's certificate makes him, for the command authenticate or for what a
// hello carries of it. What is told of a failure is the same whatever it was; the log knows more.
func (c *clientConn) certified(cmd wire.Doc, source string) (*auth.Principal, *wire.Error) {
	v, _ := cmd.Lookup("mechanism")
	if mech, _ := v.Str(); string(mech) != auth.X509 {
		return nil, c.notOffered(string(mech))
	}
	shown := c.certificate()
	if shown == nil {
		return nil, c.uncertified("the client has shown no certificate", "")
	}
	subject, _ := auth.Subject(shown)
	user, named := cmd.Lookup("user")
	name, isText := user.Str()
	if source != auth.External || named && !isText || len(name) > 0 && string(name) != subject {
		return nil, c.uncertified("the client names another user than its certificate's, or another database than $external", subject)
	}
	p := auth.OfCertificate(shown, c.srv.settings.Load().certificates)
	if p == nil {
		return nil, c.uncertified("no rule of [[auth.certificates]] says who has this certificate", subject)
	}
	return p, nil
}

// uncertified says why to the audit log, and to the client that it is so.
func (c *clientConn) uncertified(why, subject string) *wire.Error {
	c.srv.metrics.logins.WithLabelValues("failed").Inc()
	c.audit("login failed", "").Str("login", subject).Str("source", auth.External).Str("why", why).Msg("a log-in failed")
	return errLogin
}

// logInByCertificate serves the command authenticate.
func (c *clientConn) logInByCertificate() *wire.Buf {
	p, err := c.certified(c.msg.Body, string(c.req.DB))
	if err == nil {
		err = c.letIn(p)
	}
	if err != nil {
		return c.refuse(err)
	}
	return replyOf(func(d []byte) []byte { return appendCertified(d, p) })
}

// speculateByCertificate answers the log-in that a hello begins. What goes wrong is left out: the
// client then sends authenticate, and is told.
func (c *clientConn) speculateByCertificate(d []byte, cmd wire.Doc) []byte {
	if _, ok := cmd.Lookup("authenticate"); !ok {
		return d
	}
	source := auth.External // drivers leave it out, since there is no other
	if v, ok := cmd.Lookup("db"); ok {
		text, _ := v.Str()
		source = string(text)
	}
	p, err := c.certified(cmd, source)
	if err != nil || c.letIn(p) != nil {
		return d
	}
	i, d := bsoncore.AppendDocumentElementStart(d, "speculativeAuthenticate")
	d, _ = bsoncore.AppendDocumentEnd(appendCertified(d, p), i)
	return d
}

func appendCertified(d []byte, p *auth.Principal) []byte {
	d = bsoncore.AppendStringElement(d, "dbname", p.Source)
	return bsoncore.AppendStringElement(d, "user", p.User)
}

// certificate is the one that the client has shown, whose chain has been verified; nil for none.
func (c *clientConn) certificate() *x509.Certificate {
	t, _ := c.wc.Conn.(*tls.Conn)
	if t == nil {
		return nil
	}
	if state := t.ConnectionState(); len(state.VerifiedChains) > 0 && len(state.PeerCertificates) > 0 {
		return state.PeerCertificates[0]
	}
	return nil
}

// stillCertified reports whether the client's certificate would make it the same by other rules.
func (c *clientConn) stillCertified(who *auth.Principal, rules []config.Certificate) bool {
	p := auth.OfCertificate(c.certificate(), rules)
	if p != nil {
		p = c.onListener(p)
	}
	return p != nil && *p == *who
}
