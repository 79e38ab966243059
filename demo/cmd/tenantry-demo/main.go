// Command tenantry-demo shows tenantry at work with nothing installed: it
// serves a small multi-tenant database from an embedded FerretDB, puts the
// proxy in front of it and says what to try.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	mongooptions "go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/ferret"
	"github.com/smetasc/tenantry/demo/internal/tree"
)

const (
	host       = "127.0.0.1" // nothing here has a log-in
	startLimit = 30 * time.Second
	seedLimit  = 30 * time.Second
)

// places is where the demo's parts are.
type places struct {
	tenantry string // the proxy's binary
	dir      string // all that the demo keeps

	proxyPort, backendPort, adminPort int
}

func (p places) proxy() string      { return address(p.proxyPort) }
func (p places) backend() string    { return address(p.backendPort) }
func (p places) admin() string      { return address(p.adminPort) }
func (p places) configFile() string { return filepath.Join(p.dir, "tenantry.toml") }
func (p places) logFile() string    { return filepath.Join(p.dir, "tenantry.log") }
func (p places) dataDir() string    { return filepath.Join(p.dir, "data") }

func address(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func main() {
	p, err := flags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tenantry-demo:", err)
		os.Exit(1)
	}
}

func flags(args []string) (places, error) {
	var p places
	set := flag.NewFlagSet("tenantry-demo", flag.ContinueOnError)
	set.StringVar(&p.tenantry, "tenantry", "tenantry", "the proxy's `binary`")
	set.StringVar(&p.dir, "dir", "", "`folder` for data, configuration and log (default .cache/demo in the repository)")
	set.IntVar(&p.proxyPort, "proxy-port", 27017, "`port` of the proxy")
	set.IntVar(&p.backendPort, "backend-port", 27117, "`port` of the embedded server behind it")
	set.IntVar(&p.adminPort, "admin-port", 8017, "`port` of the proxy's metrics and health")
	if err := set.Parse(args); err != nil {
		return p, err
	}
	if p.dir == "" {
		root, err := tree.Root()
		if err != nil {
			fmt.Fprintln(os.Stderr, "tenantry-demo: name a folder with --dir:", err)
			return p, err
		}
		p.dir = filepath.Join(root, ".cache", "demo")
	}
	return p, nil
}

// run is the demo from the first to the last of its life.
func run(ctx context.Context, p places, out io.Writer) error {
	if err := portsFree(p); err != nil {
		return err
	}
	server, err := ferret.StartAt(p.dataDir(), p.backend())
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := seed(ctx, p.backend(), sharedSample); err != nil {
		return fmt.Errorf("fill the sample: %w", err)
	}
	if err := writeConfig(p); err != nil {
		return err
	}
	proxy, err := startProxy(ctx, p)
	if err != nil {
		return err
	}
	defer func() { _ = proxy.Stop() }() // how it ended is in its log
	// Only now, and through the proxy: a tenant that is isolated before its
	// first document needs no move.
	if err := seed(ctx, p.proxy(), isolatedSample); err != nil {
		return fmt.Errorf("write acme's documents through the proxy (its log: %s): %w", p.logFile(), err)
	}
	guide(out, p)
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nstopping")
		return nil
	case <-proxy.Done():
		return fmt.Errorf("the proxy has ended: %v\n%s", proxy.Err(), tail(proxy.Output()))
	}
}

func portsFree(p places) error {
	for _, use := range []struct {
		port       int
		what, flag string
	}{
		{p.proxyPort, "the proxy", "--proxy-port"},
		{p.backendPort, "the embedded server", "--backend-port"},
		{p.adminPort, "metrics and health", "--admin-port"},
	} {
		l, err := net.Listen("tcp", address(use.port))
		if err != nil {
			return fmt.Errorf("port %d, meant for %s, cannot be had (%w): is a MongoDB or another demo running? Choose another port: make run ARGS='%s PORT'",
				use.port, use.what, err, use.flag)
		}
		l.Close()
	}
	return nil
}

func startProxy(ctx context.Context, p places) (*child.Process, error) {
	log, err := os.Create(p.logFile())
	if err != nil {
		return nil, err
	}
	proxy, err := child.Start(exec.Command(p.tenantry, "serve", "--config", p.configFile()), log)
	if err != nil {
		return nil, fmt.Errorf("start the proxy (name its binary with --tenantry): %w", err)
	}
	err = proxy.WaitUntil(startLimit, func() error { return ready(ctx, p.admin()) })
	if err != nil {
		_ = proxy.Stop()
		return nil, fmt.Errorf("the proxy: %w\n%s", err, tail(proxy.Output()))
	}
	return proxy, nil
}

func ready(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz says %s", reply.Status)
	}
	return nil
}

// seed connects, writes and disconnects: the embedded server stops at once
// only when no client is left.
func seed(ctx context.Context, address string, write func(context.Context, *mongo.Database) error) error {
	ctx, cancel := context.WithTimeout(ctx, seedLimit)
	defer cancel()
	// The embedded server has no retryable writes.
	client, err := mongo.Connect(mongooptions.Client().ApplyURI("mongodb://" + address + "/").SetRetryWrites(false))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	return write(ctx, client.Database(sharedDatabase))
}

func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
