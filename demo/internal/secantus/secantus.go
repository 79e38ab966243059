// Package secantus runs SecantusDB, the test server that has transactions,
// retryable writes and sessions, as a child process (../../secantus/launch.py).
package secantus

import (
	"context"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

const startLimit = 60 * time.Second

// Options of a server; the zero value is an empty one that leaves nothing.
type Options struct {
	Dir  string   // where the data is kept; empty: gone with the server
	Args []string // further arguments of secantusd-py, such as --auth
}

// Start runs a server on a free loopback port until the test ends and returns
// its connection string. To its clients it is a replica set of one member.
func Start(t testing.TB, o Options) string {
	t.Helper()
	python := tree.Path(t, ".cache", "venv", "bin", "python")
	tree.NeedSetup(t, python)
	address, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(address)
	dir := o.Dir
	if dir == "" {
		dir = ":memory:"
	}
	args := append([]string{
		tree.Path(t, "demo", "secantus", "launch.py"), "--until-stdin-closes",
		"--host", host, "--port", port, "--storage-path", dir,
		"--log-level", "WARNING", "--cache-size", "128M",
	}, o.Args...)
	cmd := exec.Command(python, args...)
	// ":memory:" is a temporary folder, which a killed server would leave.
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1")

	p, err := child.Start(cmd, nil)
	if err != nil {
		t.Fatalf("start SecantusDB: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil || t.Failed() {
			t.Logf("SecantusDB at %s: %v\n%s", address, err, p.Output())
		}
	})
	uri := "mongodb://" + address + "/"
	if err := p.WaitUntil(startLimit, func() error { return ping(uri) }); err != nil {
		t.Fatalf("start SecantusDB: %v\n%s", err, p.Output())
	}
	return uri
}

// ping asks without a log-in, which a server with --auth also answers.
func ping(uri string) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(time.Second))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	defer client.Disconnect(ctx)
	return client.Ping(ctx, nil)
}
