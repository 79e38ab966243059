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
	Dir   string   // where the data is kept; empty: gone with the server
	Args  []string // further arguments of secantusd-py, such as --auth
	Query string   // of the connection string, such as tls=true
}

// Start runs a server on a free loopback port until the test ends and returns
// its connection string. To its clients it is a replica set of one member.
func Start(t testing.TB, o Options) string {
	t.Helper()
	return Run(t, o).URI
}

// Server is a server that a test may kill.
type Server struct {
	URI     string
	Address string

	options Options
	process *child.Process
}

// Run is Start for a test that wants more than the connection string.
func Run(t testing.TB, o Options) *Server {
	t.Helper()
	address, err := child.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URI: "mongodb://" + address + "/", Address: address, options: o}
	if o.Query != "" {
		s.URI += "?" + o.Query
	}
	s.Restart(t)
	t.Cleanup(func() {
		if err := s.process.Stop(); err != nil || t.Failed() {
			t.Logf("SecantusDB at %s: %v\n%s", address, err, s.process.Output())
		}
	})
	return s
}

// Kill ends the server at once. It keeps what was written with journal=true,
// where it has a directory.
func (s *Server) Kill() { s.process.Kill() }

// Restart starts the server, again after Kill, and returns when it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	python := tree.Path(t, ".cache", "venv", "bin", "python")
	tree.NeedSetup(t, python)
	host, port, _ := net.SplitHostPort(s.Address)
	dir := s.options.Dir
	if dir == "" {
		dir = ":memory:"
	}
	args := append([]string{
		tree.Path(t, "demo", "secantus", "launch.py"), "--until-stdin-closes",
		"--host", host, "--port", port, "--storage-path", dir,
		"--log-level", "WARNING", "--cache-size", "128M",
	}, s.options.Args...)
	cmd := exec.Command(python, args...)
	// ":memory:" is a temporary folder, which a killed server would leave.
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1")

	var err error
	if s.process, err = child.Start(cmd, nil); err != nil {
		t.Fatalf("start SecantusDB: %v", err)
	}
	if err := s.process.WaitUntil(startLimit, func() error { return ping(s.URI) }); err != nil {
		t.Fatalf("start SecantusDB: %v\n%s", err, s.process.Output())
	}
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
