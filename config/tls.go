package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"
)

// TLS is the tls of a listener or of [admin], loaded: what its files hold has been checked.
type TLS struct {
	NotAfter time.Time // when the first certificate of the server's chain expires
	NextList time.Time // when the first list of revoked certificates is too old; zero where there is none
	Clients  string    // "none", "asked" or "required": whether clients are asked for certificates

	server *tls.Config
	lists  *revocations
	digest [sha256.Size]byte // of everything it was made of
}

// Server is the settings for handshakes. They are shared: whoever changes them clones them first.
func (t *TLS) Server() *tls.Config { return t.server }

// Same reports whether both were made of the same files and settings, so that sessions which clients
// may resume, and handshakes under way, need not notice a reload.
func (t *TLS) Same(o *TLS) bool {
	return t == o || t != nil && o != nil && t.digest == o.digest
}

// expiryNotice is how long before its end a certificate is warned of.
const expiryNotice = 30 * 24 * time.Hour

const tlsForm = `tls = { cert = "server.pem", key = "server.key" }`

var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// tls reads the table tls of t; nil where there is none, or a bad one.
func (l *loader) tls(t *table) *TLS {
	values, ok := as[map[string]any](t, "tls", tlsForm)
	if !ok {
		return nil
	}
	sub := &table{l: l, at: t.at.key("tls"), values: values}
	defer sub.done()
	s := &TLS{Clients: "none", server: &tls.Config{}}
	cert, certOK := l.pem(sub, "cert", true)
	key, keyOK := l.pem(sub, "key", true)
	ca, caOK := l.pem(sub, "client_ca", false)
	crl, crlOK := l.lists(sub)
	expired := sub.oneOf("client_crl_expired", "refuse", "refuse", "warn")
	version := sub.oneOf("min_version", "1.2", "1.2", "1.3")
	require := sub.boolean("require_client_cert", false)
	s.server.MinVersion = tlsVersions[version]
	ok = certOK && keyOK && l.pair(s, sub, cert, key)
	if require && !sub.has("client_ca") {
		sub.refuse("require_client_cert", "has no meaning without client_ca", "name the file with the clients' certificate authority, or remove it")
	}
	if caOK && ca != nil {
		ok = l.clientCA(s, sub, ca, require) && ok
	}
	switch {
	case !sub.has("client_crl") && sub.has("client_crl_expired"):
		sub.refuse("client_crl_expired", "has no meaning without client_crl", "name the file with the lists of revoked certificates, or remove it")
	case sub.has("client_crl") && !sub.has("client_ca"):
		sub.refuse("client_crl", "has no meaning without client_ca", "name the file with the clients' certificate authority, or remove it")
	case crl != nil && caOK && ok:
		ok = l.clientCRL(s, sub, crl, ca, expired == "refuse")
	}
	if !ok || !caOK || !crlOK {
		return nil
	}
	s.digest = sha256.Sum256(fmt.Appendf(nil, "%s %v %q %q %q %q %s", version, require, cert, key, ca, crl, expired))
	return s
}

// pem reads the file that a key of the table names; nil where it is left out.
func (l *loader) pem(t *table, key string, needed bool) (text []byte, ok bool) {
	name := t.optional(key, "")
	switch {
	case name != "":
		_, text, ok = l.file(t.at.key(key), name)
		return text, ok
	case needed && !t.has(key):
		t.refuse(key, "is missing", "write "+tlsForm)
	}
	return nil, !needed && !t.has(key)
}

// pair takes the server's certificate and its key.
func (l *loader) pair(s *TLS, t *table, cert, key []byte) bool {
	chain, why := certificates(cert)
	if why != "" {
		t.refuse("cert", why, "name the file with the server's certificate in PEM form, followed by those in between and the authority's")
		return false
	}
	if block, _ := pem.Decode(key); block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "") {
		t.refuse("key", "the key is encrypted", "write it without a passphrase, in a file that tenantry alone may read")
		return false
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.refuse("key", "certificate and key can not be used together: "+err.Error(), "name the key of this very certificate, in PEM form")
		return false
	}
	s.server.Certificates = []tls.Certificate{pair}
	s.NotAfter = chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(s.NotAfter) {
			s.NotAfter = c.NotAfter
		}
	}
	l.warnExpiry(t, "cert", "the certificate", s.NotAfter)
	if begins := chain[0].NotBefore; time.Now().Before(begins) {
		t.l.warn(t.at.key("cert"), "the certificate is valid from "+day(begins)+" only", "clients refuse it until then; is the clock right?")
	}
	return true
}

// clientCA takes the authorities that clients' certificates must come from.
func (l *loader) clientCA(s *TLS, t *table, text []byte, require bool) bool {
	list, why := certificates(text)
	if why != "" {
		t.refuse("client_ca", why, "name a file with the certificates of the authorities, in PEM form")
		return false
	}
	s.server.ClientCAs = x509.NewCertPool()
	last := time.Time{} // when no authority is left
	for _, c := range list {
		s.server.ClientCAs.AddCert(c)
		if c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	l.warnExpiry(t, "client_ca", "the clients' certificate authority", last)
	s.Clients, s.server.ClientAuth = "asked", tls.VerifyClientCertIfGiven
	if require {
		s.Clients, s.server.ClientAuth = "required", tls.RequireAndVerifyClientCert
	}
	return true
}

func (l *loader) warnExpiry(t *table, key, what string, at time.Time) {
	left := time.Until(at)
	switch {
	case left <= 0:
		l.warn(t.at.key(key), what+" has expired on "+day(at), "renew it: the new file is taken without a restart")
	case left < expiryNotice:
		l.warn(t.at.key(key), fmt.Sprintf("%s expires on %s, in %d days", what, day(at), int(left.Hours()/24)),
			"renew it: the new file is taken without a restart")
	}
}

func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// certificates reads every certificate of a PEM text; why says what is wrong with it.
func certificates(text []byte) (list []*x509.Certificate, why string) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue // a key may stand beside it
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Sprintf("certificate %d of the file can not be read: %v", len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, "there is no certificate in the file"
	}
	return list, ""
}

// note is for the summary of a configuration.
func (t *TLS) note() string {
	if t == nil {
		return ""
	}
	return "tls until " + day(t.NotAfter) + when(t.Clients != "none", ", client certificates "+t.Clients) +
		when(t.lists != nil, ", revoked ones refused")
}
