package wiretest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority makes certificates for a test, in files that are gone with it.
type Authority struct {
	File string // its own certificate

	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Issued is a certificate with its key.
type Issued struct {
	tls.Certificate
	File string // both, as PEM
}

// NewAuthority makes an authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	self := a.Issue("ca", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	})
	a.cert, a.key, a.File = self.Leaf, self.PrivateKey.(*ecdsa.PrivateKey), self.File
	return a
}

// Pool is for those who trust the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue makes a certificate for 127.0.0.1 and for clients, as change (nil for none) wants it. One of
// a name that was issued before takes the place of its file, by a rename.
func (a *Authority) Issue(name string, change func(*x509.Certificate)) Issued {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(form)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = form, key
	}
	der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	made := Issued{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, filepath.Join(a.dir, name+".pem")}
	a.write(made)
	return made
}

// Revoke makes a list of revoked certificates that is in force for a time, in a PEM file of that name. A list
// of a name that was made before takes the place of its file.
func (a *Authority) Revoke(name string, lasts time.Duration, all ...Issued) (file string) {
	a.t.Helper()
	form := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(lasts)}
	if lasts < -time.Hour {
		form.ThisUpdate = form.NextUpdate.Add(-time.Hour)
	}
	for _, x := range all {
		form.RevokedCertificateEntries = append(form.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: x.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, form, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	file = filepath.Join(a.dir, name+".crl.pem")
	a.replace(file, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	return file
}

func (a *Authority) write(made Issued) {
	a.t.Helper()
	secret, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	a.replace(made.File, text)
}

// replace puts a file in the place of one of the name, at once.
func (a *Authority) replace(file string, text []byte) {
	a.t.Helper()
	if err := os.WriteFile(file+".next", text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(file+".next", file); err != nil {
		a.t.Fatal(err)
	}
}
