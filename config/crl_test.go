package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// signer is a key and the authority whose name lists by it bear.
func signer(t *testing.T, ca *wiretest.Authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	list, why := certificates([]byte(read(t, ca.File)))
	if why != "" {
		t.Fatal(why)
	}
	forged := *list[0]
	forged.PublicKey, forged.KeyUsage = &key.PublicKey, x509.KeyUsageCRLSign
	return &forged, key
}

// listWith is a list in the authority's name with an extension.
func listWith(t *testing.T, ca *wiretest.Authority, extensions ...pkix.Extension) []byte {
	t.Helper()
	issuer, key := signer(t, ca)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour), ExtraExtensions: extensions,
	}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// forge makes a file with a list in the authority's name that somebody else has signed.
func forge(t *testing.T, ca *wiretest.Authority) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "forged.pem")
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: listWith(t, ca)})))
	return path
}

// TestRevocationLists: lists of several authorities in one file, in PEM or DER form, and when they end.
func TestRevocationLists(t *testing.T) {
	ca, other := wiretest.NewAuthority(t), wiretest.NewAuthority(t)
	server, revoked, kept := ca.Issue("server", nil), ca.Issue("revoked", nil), other.Issue("kept", nil)
	list := ca.Revoke("list", time.Hour, revoked)
	block, _ := pem.Decode([]byte(read(t, list)))
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	der, both := file("list.der", string(block.Bytes)), file("both.pem", read(t, list)+read(t, other.Revoke("other", 2*time.Hour)))
	cas := file("cas.pem", read(t, ca.File)+read(t, other.File))
	load := func(crl, more string) (*TLS, []Problem) {
		c, warnings, err := loadText(withTLS(fmt.Sprintf("cert = %q, key = %[1]q, client_ca = %q, client_crl = %q%s", server.File, cas, crl, more)))
		if err != nil {
			t.Fatal(err)
		}
		return c.Listeners[0].TLS, warnings
	}
	chain := func(leaf wiretest.Issued, ca *wiretest.Authority) [][]*x509.Certificate {
		all, _ := certificates([]byte(read(t, ca.File)))
		return [][]*x509.Certificate{{leaf.Leaf, all[0]}}
	}
	for name, path := range map[string]string{"PEM": list, "DER": der, "two": both} {
		s, warnings := load(path, "")
		var e RevokedError
		if err := s.Revoked(chain(revoked, ca)); !errors.As(err, &e) || len(warnings) > 0 || !s.ListsRevoked() {
			t.Errorf("%s: %v, %v", name, err, warnings)
		}
		if left := time.Until(s.NextList); left < 59*time.Minute || left > time.Hour {
			t.Errorf("%s: in force for %v", name, left)
		}
		if err := s.Revoked(chain(kept, other)); err != nil {
			t.Errorf("%s: another authority's: %v", name, err)
		}
		if err := s.lists.check(chain(kept, other), time.Now()); (err == nil) != (name == "two") {
			t.Errorf("%s: another authority's comes: %v", name, err)
		}
		later := time.Now().Add(90 * time.Minute)
		if err := s.lists.check(chain(server, ca), later); err == nil {
			t.Errorf("%s: accepted by a list that is out of date", name)
		}
		loose, _ := load(path, `, client_crl_expired = "warn"`)
		if err := loose.lists.check(chain(server, ca), later); err != nil || loose.Same(s) {
			t.Errorf("%s: not accepted where that is only warned of: %v", name, err)
		}
	}
	if s, _ := load(list, ""); s.lists.check(nil, time.Now()) != nil {
		t.Error("who shows no certificate has none that is revoked")
	}
	for policy, text := range map[string]string{"refuse": "none of its certificates is accepted", "warn": "are accepted all the same"} {
		_, warnings := load(ca.Revoke("old", -time.Minute), fmt.Sprintf(", client_crl_expired = %q", policy))
		if len(warnings) != 1 || !strings.Contains(warnings[0].String(), text) {
			t.Errorf("%s: %v", policy, warnings)
		}
	}
	before, _ := load(list, "")
	ca.Revoke("list", time.Hour)
	if after, _ := load(list, ""); after.Same(before) {
		t.Error("a new list is taken for the same")
	}
}
