package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// An application's day of one tenant, directly on a database that no other tenant has anything in, and
// on a connection that is bound to the tenant's rows of one that all share: it does not notice the
// guard. Definitions are the operator's there, and what a server says of a shared database is not shown.
func TestBoundDay(t *testing.T) {
	skipShort(t)
	for _, tenant := range []string{"globex", isolated} {
		t.Run(tenant, func(t *testing.T) {
			t.Parallel()
			alone, together := secantus.Start(t, secantus.Options{}), secantus.Start(t, secantus.Options{})
			address, err := child.FreeAddress()
			if err != nil {
				t.Fatal(err)
			}
			front := proxy.Start(t, config("mixed", together)+fmt.Sprintf(`
[platform.bound]
users = "own"
packages = "read"
[guard]
leaks = "full"
[[listeners]]
address = %q
tenant = %q
isolation = "rows"
`, address, tenant))
			var want, got bytes.Buffer
			if err := runParts(t.Context(), &want, alone, tenant, true); err != nil {
				t.Fatal(err)
			}
			// The others have had their day, and the tenant's collections are made.
			for _, other := range goTenants {
				if other != tenant {
					if err := runParts(t.Context(), io.Discard, front.URI, other, true); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := runParts(t.Context(), &got, "mongodb://"+address+"/", tenant, false); err != nil {
				t.Fatal(err)
			}
			compare(t, "alone", unsaid(want.String()), "bound", unsaid(got.String()))
		})
	}
}

// unsaid is a log without the words of servers that a bound connection does not get, and the codes of
// what it is refused earlier.
func unsaid(log string) string {
	log = regexp.MustCompile(`("error":\{"code":)[^}]*\}`).ReplaceAllString(log, "$1…}")
	return regexp.MustCompile(`"n":\d+,"op"`).ReplaceAllString(log, `"op"`)
}

// runParts is what [runGo] does of one tenant.
func runParts(ctx context.Context, out io.Writer, uri, tenant string, define bool) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	e := &goERP{out: io.Discard, client: client, db: client.Database(shared)}
	if define {
		e.definitions(ctx)
	}
	e.out = out
	for _, part := range []func(context.Context, string){e.fill, e.read, e.write, e.fail, e.transact} {
		part(ctx, tenant)
	}
	return ctx.Err()
}
