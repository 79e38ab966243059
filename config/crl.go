package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"
)

// maxLists bounds the file with lists of revoked certificates.
const maxLists = 64 << 20

// revocations are the lists of revoked certificates of a listener, by the authority that has made them.
type revocations struct {
	by     map[string][]*revocationList // by the authority's name, as a certificate has it
	strict bool                         // a list that is too old is none
}

type revocationList struct {
	list    *x509.RevocationList
	revoked map[string]time.Time // by serial number
	// proven are the authorities of client_ca that have signed it. Of one in between, whose certificate the
	// client shows, it is looked at then.
	proven []*x509.Certificate
}

// RevokedError is why a client's certificate is not accepted by the lists of revoked ones.
type RevokedError struct{ why string }

func (e RevokedError) Error() string { return e.why }

// lists reads the file that client_crl names.
func (l *loader) lists(t *table) (text []byte, ok bool) {
	name := t.optional("client_crl", "")
	if name == "" {
		return nil, !t.has("client_crl")
	}
	_, text, ok = l.whole(t.at.key("client_crl"), name, maxLists)
	return text, ok
}

// clientCRL takes the lists of revoked certificates.
func (l *loader) clientCRL(s *TLS, t *table, text, ca []byte, strict bool) bool {
	const form = "name a file with the authorities' lists, in PEM form, or one in DER form"
	lists, why := parseLists(text)
	if why != "" {
		t.refuse("client_crl", why, form)
		return false
	}
	authorities, _ := certificates(ca)
	r := &revocations{by: map[string][]*revocationList{}, strict: strict}
	for i, list := range lists {
		x := &revocationList{list: list, revoked: make(map[string]time.Time, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			x.revoked[string(e.SerialNumber.Bytes())] = e.RevocationTime
		}
		known := false
		for _, a := range authorities {
			if string(a.RawSubject) != string(list.RawIssuer) {
				continue
			}
			known = true
			if list.CheckSignatureFrom(a) == nil {
				x.proven = append(x.proven, a)
			}
		}
		if known && x.proven == nil {
			t.refuse("client_crl", fmt.Sprintf("list %d of the file was not signed by %q of client_ca", i+1, list.Issuer), form)
			return false
		}
		r.by[string(list.RawIssuer)] = append(r.by[string(list.RawIssuer)], x)
		l.warnList(t, list, strict)
		if next := list.NextUpdate; !next.IsZero() && (s.NextList.IsZero() || next.Before(s.NextList)) {
			s.NextList = next
		}
	}
	s.lists = r
	s.server.VerifyConnection = func(state tls.ConnectionState) error { return r.check(state.VerifiedChains, time.Now()) }
	return true
}

func (l *loader) warnList(t *table, list *x509.RevocationList, strict bool) {
	if next := list.NextUpdate; !next.IsZero() && time.Now().After(next) {
		what := "its certificates are accepted all the same, but for those that it lists"
		if strict {
			what = "none of its certificates is accepted"
		}
		l.warn(t.at.key("client_crl"), fmt.Sprintf("the list of %q was to be renewed by %s: %s", list.Issuer, next.UTC().Format(time.RFC3339), what),
			"put a new one in its place: it is taken without a restart")
	}
}

// parseLists reads every list of a PEM text, or the one of a file in DER form; why says what is wrong.
func parseLists(text []byte) (lists []*x509.RevocationList, why string) {
	var all [][]byte
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			all = append(all, block.Bytes)
		}
	}
	if all == nil {
		all = [][]byte{text}
	}
	for i, der := range all {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Sprintf("list %d of the file can not be read: %v", i+1, err)
		}
		for _, e := range list.Extensions {
			if e.Critical { // it lists changes, or some of what is revoked, or other authorities' certificates
				return nil, fmt.Sprintf("list %d of the file is not a whole one of one authority: it has the critical extension %s", i+1, e.Id)
			}
		}
		lists = append(lists, list)
	}
	return lists, ""
}

// ListsRevoked reports whether there are lists of revoked certificates.
func (t *TLS) ListsRevoked() bool { return t != nil && t.lists != nil }

// Revoked is the error of a client whose certificate is on a list now; nil where it has shown none. The
// chains are those of its handshake.
func (t *TLS) Revoked(chains [][]*x509.Certificate) error {
	if !t.ListsRevoked() {
		return nil
	}
	return t.lists.each(chains, t.lists.listed)
}

// check is the error of a handshake.
func (r *revocations) check(chains [][]*x509.Certificate, now time.Time) error {
	return r.each(chains, func(chain []*x509.Certificate) error {
		if err := r.listed(chain); err != nil {
			return err
		}
		return r.current(chain, now)
	})
}

// each is the error of the last chain, where all have one.
func (r *revocations) each(chains [][]*x509.Certificate, of func([]*x509.Certificate) error) (err error) {
	for _, chain := range chains {
		if err = of(chain); err == nil {
			return nil
		}
	}
	return err
}

// listed is the error of a chain with a certificate that is on a list.
func (r *revocations) listed(chain []*x509.Certificate) error {
	for i, c := range chain {
		for _, x := range r.of(c, issuer(chain, i)) {
			if at, ok := x.revoked[string(c.SerialNumber.Bytes())]; ok {
				return RevokedError{fmt.Sprintf("the certificate %q with the serial number %x was revoked on %s", c.Subject, c.SerialNumber, day(at))}
			}
		}
	}
	return nil
}

// current is the error of a client's certificate of whose authority there is no list, or none that is in
// force. It is what servers with a tlsCRLFile do.
func (r *revocations) current(chain []*x509.Certificate, now time.Time) error {
	if len(chain) < 2 {
		return nil // an authority's own
	}
	lists := r.of(chain[0], issuer(chain, 0))
	if len(lists) == 0 {
		return RevokedError{fmt.Sprintf("there is no list of revoked certificates of %q", chain[0].Issuer)}
	}
	if !r.strict {
		return nil
	}
	for _, x := range lists {
		if next := x.list.NextUpdate; !now.Before(x.list.ThisUpdate) && (next.IsZero() || now.Before(next)) {
			return nil
		}
	}
	return RevokedError{fmt.Sprintf("the list of revoked certificates of %q is out of date", chain[0].Issuer)}
}

// issuer is the certificate of whoever has made the i-th of the chain; the last one's is its own.
func issuer(chain []*x509.Certificate, i int) *x509.Certificate { return chain[min(i+1, len(chain)-1)] }

// of are the lists of the authority that has made the certificate.
func (r *revocations) of(c, authority *x509.Certificate) (lists []*revocationList) {
	for _, x := range r.by[string(c.RawIssuer)] {
		if x.signedBy(authority) {
			lists = append(lists, x)
		}
	}
	return lists
}

func (x *revocationList) signedBy(authority *x509.Certificate) bool {
	for _, a := range x.proven {
		if a.Equal(authority) {
			return true
		}
	}
	return x.proven == nil && x.list.CheckSignatureFrom(authority) == nil
}
