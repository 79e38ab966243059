package demo

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// member makes certificates of one organization.
func member(ca *wiretest.Authority, name string, uris ...string) wiretest.Issued {
	return ca.Issue(name, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: name, Organization: []string{"Example, Inc."}}
		for _, u := range uris {
			parsed, _ := url.Parse(u)
			c.URIs = append(c.URIs, parsed)
		}
	})
}

// trusting is what a connection string says of who trusts the authority, and has this certificate
// where it has one.
func trusting(ca *wiretest.Authority, own string) string {
	query := "tls=true&tlsCAFile=" + url.QueryEscape(ca.File)
	if own != "" {
		query += "&tlsCertificateKeyFile=" + url.QueryEscape(own)
	}
	return query
}

const byCertificate = "&authMechanism=MONGODB-X509"

// guardedServer is a server with TLS that lets in who has the proxy's certificate, and its
// connection string for the proxy.
func guardedServer(t *testing.T, ca *wiretest.Authority) string {
	t.Helper()
	server, own := member(ca, "server"), member(ca, "proxy")
	o := secantus.Options{
		Dir: t.TempDir(), Query: trusting(ca, own.File),
		Args: []string{"--tls-cert-file", server.File, "--tls-key-file", server.File, "--tls-ca-file", ca.File, "--tls-require-client-cert"},
	}
	asked := o.Args
	o.Args = append(slices.Clip(asked), "--sync-on-commit") // the user has to outlive the kill
	first := secantus.Run(t, o)
	err := open(t, first.URI).Database("$external").RunCommand(t.Context(), bson.D{
		{Key: "createUser", Value: `CN=proxy,O=Example\, Inc.`},
		{Key: "mechanisms", Value: bson.A{"MONGODB-X509"}}, // which other servers know by the database
		{Key: "roles", Value: bson.A{bson.D{{Key: "role", Value: "root"}, {Key: "db", Value: "admin"}}}},
	}).Err()
	if err != nil {
		t.Fatal(err)
	}
	first.Kill()
	o.Args = append(slices.Clip(asked), "--auth")
	second := secantus.Run(t, o)
	if err := count(t, open(t, second.URI)); err == nil {
		t.Fatal("the server lets in who has not logged in")
	}
	return second.URI + byCertificate
}

func count(t *testing.T, client *mongo.Client) error {
	t.Helper()
	_, err := client.Database(shared).Collection("orders").CountDocuments(t.Context(), bson.D{{Key: "tenantId", Value: isolated}})
	return err
}

const certificateRules = `
[[auth.certificates]]
subject = 'CN=app,O=Example\, Inc.'
role = "application"
[[auth.certificates]]
san = "spiffe://example/tenant/{tenant}"
role = "write"
isolation = "database"
`

// TestCertificates: an application's first minute by each driver, TLS and certificates on both sides
// of the proxy, against a server that has neither and is asked directly. And who may not come in.
func TestCertificates(t *testing.T) {
	skipShort(t)
	t.Parallel()
	ca, other := wiretest.NewAuthority(t), wiretest.NewAuthority(t)
	listen := member(ca, "listener")
	settings := fmt.Sprintf("auth = \"x509\"\ntls = { cert = %q, key = %[1]q, client_ca = %q }\n\n[admin]", listen.File, ca.File)
	text := strings.Replace(config("mixed", guardedServer(t, ca)), "[admin]", settings, 1) + certificateRules
	front, direct := proxy.Start(t, text), secantus.Start(t, secantus.Options{})
	app := front.URI + "?" + trusting(ca, member(ca, "app").File) + byCertificate
	createOrders(t, direct)
	createOrders(t, app)

	var all sync.WaitGroup
	for _, d := range presenters {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), runLimit)
			defer cancel()
			want, err := d.run(t, ctx, direct, d.name, 0)
			if err != nil {
				t.Error(d.name, err)
			}
			got, err := d.run(t, ctx, app, d.name, 0)
			if err != nil {
				t.Error(d.name, err)
			}
			compare(t, d.name+" directly", want, "by certificate", got)
			// A log-in that fails makes pymongo wait for the next heartbeat, each time.
			for _, uri := range []string{
				trusting(ca, member(ca, d.name+"-stranger").File), // no rule says who that is
				trusting(ca, ""),
			} {
				got, err := d.run(t, ctx, front.URI+"?heartbeatFrequencyMS=500&"+uri+byCertificate, d.name, 0)
				if n, steps := strings.Count(got, "Authentication failed"), strings.Count(got, "\n"); err != nil || steps == 0 || n < steps {
					t.Errorf("%s as nobody: %v\n%s", d.name, err, got)
				}
			}
		})
	}
	all.Wait()

	t.Run("one tenant", func(t *testing.T) {
		bound := open(t, front.URI+"?"+trusting(ca, member(ca, "acme", "spiffe://example/tenant/"+isolated).File)+byCertificate)
		names, err := bound.ListDatabaseNames(t.Context(), bson.D{})
		if err != nil || fmt.Sprint(names) != "["+shared+"]" {
			t.Error(names, err)
		}
		n, err := bound.Database(shared).Collection("orders").CountDocuments(t.Context(), bson.D{})
		if err != nil || n == 0 {
			t.Errorf("%d documents, %v", n, err)
		}
	})
	for name, uri := range map[string]string{
		"who does not log in":             trusting(ca, member(ca, "silent").File),
		"another authority's certificate": trusting(ca, member(other, "app").File) + byCertificate,
		"who takes another for the proxy": trusting(other, member(ca, "app2").File) + byCertificate,
		"no TLS":                          "tls=false",
	} {
		t.Run(name, func(t *testing.T) {
			client, err := mongo.Connect(options.Client().ApplyURI(front.URI + "?serverSelectionTimeoutMS=2000&" + uri))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Disconnect(context.Background())
			if err := count(t, client); err == nil {
				t.Error("let in")
			} else {
				t.Log(err)
			}
		})
	}
	if log := front.Log(); strings.Contains(log, "PRIVATE KEY") {
		t.Error("the log shows a key")
	}
}
