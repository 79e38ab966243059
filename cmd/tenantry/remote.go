package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// remote is a running proxy's admin address and what it takes to be let in there.
type remote struct {
	base      string // a URL, or host:port
	ca        string // file with the authorities that its certificate may be of; "" for the system's
	cert, key string // files of the client's own certificate; "" for none
}

// remoteFlags are the flags that name a running proxy, with the environment's as defaults.
func remoteFlags(flags *flag.FlagSet) *remote {
	r := &remote{}
	flags.StringVar(&r.base, "admin", os.Getenv("TENANTRY_ADMIN"), "")
	flags.StringVar(&r.ca, "ca", os.Getenv("TENANTRY_ADMIN_CA"), "")
	flags.StringVar(&r.cert, "cert", os.Getenv("TENANTRY_ADMIN_CERT"), "")
	flags.StringVar(&r.key, "key", os.Getenv("TENANTRY_ADMIN_KEY"), "")
	return r
}

// ask gets a page.
func (r *remote) ask(page string) ([]byte, error) {
	base := strings.TrimSuffix(cmp.Or(r.base, "127.0.0.1:8017"), "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	req, err := http.NewRequest(http.MethodGet, base+page, nil)
	if err != nil {
		return nil, usageError{fmt.Errorf("the admin address: %w", err)}
	}
	if token := strings.TrimSpace(os.Getenv("TENANTRY_ADMIN_TOKEN")); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	settings, err := r.tls(req.URL.Scheme)
	if err != nil {
		return nil, usageError{err}
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings,
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, unanswered(base, errors.Unwrap(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, errors.New("the running proxy asks for its token: set TENANTRY_ADMIN_TOKEN to what its token_file holds")
	case resp.StatusCode == http.StatusBadRequest && req.URL.Scheme == "http":
		return nil, fmt.Errorf("the running proxy answers %s; where [admin] has tls the address begins with https://", resp.Status)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the running proxy answers %s", resp.Status)
	case err != nil:
		return nil, fmt.Errorf("read the proxy's answer: %w", err)
	}
	return body, nil
}

// tls is how the proxy's certificate is judged and the client's own shown.
func (r *remote) tls(scheme string) (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if scheme != "https" && r.ca+r.cert+r.key != "" {
		return nil, errors.New("--ca, --cert and --key belong to an admin address that begins with https://")
	}
	if r.ca != "" {
		text, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: there is no certificate in %s", r.ca)
		}
	}
	if r.cert+r.key != "" {
		pair, err := tls.LoadX509KeyPair(cmp.Or(r.cert, r.key), cmp.Or(r.key, r.cert))
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

// unanswered says what to do where the request did not come through.
func unanswered(base string, err error) error {
	var untrusted *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("the certificate of %s is not trusted: %w; name its authority by --ca or TENANTRY_ADMIN_CA", base, err)
	case errors.As(err, &alert) && alert.Op == "remote error": // what crypto/tls calls an alert of the other side
		return fmt.Errorf("%s refuses: %w; does it ask for a certificate? --cert and --key name one", base, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s: %w; without tls under [admin] the address begins with http://", base, err)
	}
	return fmt.Errorf("no proxy answers at %s: %w; is tenantry running, and is this its admin address? --admin or TENANTRY_ADMIN name another", base, err)
}
