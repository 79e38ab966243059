//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// TestUnixSocket: by a socket a client is served as by TCP, large messages too, and the file comes and goes with
// the listener.
func TestUnixSocket(t *testing.T) {
	g := newGround(t, nil)
	path := g.bySocket(t, 0o640)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 || info.Mode().Type() != fs.ModeSocket {
		t.Fatal(info, err)
	}
	nc, err := dialed(path)
	if err != nil {
		t.Fatal(err)
	}
	c := wiretest.NewClient(t, nc)
	if r := c.Run("admin", d("whatsmyuri", 1)); wiretest.Get(r, "you") != "anonymous unix socket" {
		t.Error(r)
	}
	const large = 3 << 20
	n := int32(len(rows(large)))
	for i, coll := range []string{"orders", "users"} { // looked at, and passed on
		if r := g.inserted(c, largeInsert(int32(i), coll, large, 0)); wiretest.Get(r, "n") != n {
			t.Fatal(r)
		}
	}
	if g.count("users") != n || g.server.Dial().Run("app_t_acme", d("count", "orders"))[0].Value != n {
		t.Error("documents are missing")
	}
	g.server.Handle(func(cmd wiretest.Command) wiretest.Reply {
		if cmd.Name != "find" {
			return wiretest.Pass()
		}
		return wiretest.Raw(raw(cmd, largeFind(large, 0, "app_t_acme.orders")))
	})
	for range patience + 10 { // by a loop, and then by a goroutine
		if r := c.Run("app", d("count", "orders", "query", d("tenantId", "acme"))); fmt.Sprint(wiretest.Get(r, "n")) != fmt.Sprint(n) {
			t.Fatal(r)
		}
	}
	for range 3 {
		r := c.Run("app", findOfAcme)
		docs, _ := wiretest.Get(r, "cursor", "firstBatch").(bson.A)
		if fmt.Sprint(wiretest.Get(r, "cursor", "ns")) != "app.orders" || len(docs) != int(n) {
			t.Fatal(len(docs), wiretest.Get(r, "cursor", "ns"))
		}
	}
	if want := fmt.Sprintf("unix socket, uid %d, pid %d", os.Getuid(), os.Getpid()); !strings.Contains(g.log.String(), want) {
		t.Errorf("the log does not say %q", want)
	}
	g.proxy.Shutdown(t.Context())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket's file is left", err)
	}
}

// TestUnixSocketThatIsThere: what a dead process has left is taken over, what a living one has is not, and no
// other file is touched.
func TestUnixSocketThatIsThere(t *testing.T) {
	g := newGround(t, nil)
	path := g.bySocket(t, 0o600)
	if _, err := g.proxy.Listen(path); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), path) {
		t.Error("a second one", err)
	}
	if err := os.Remove(path); err != nil { // by who tidies up
		t.Fatal(err)
	}
	if _, err := g.proxy.Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("a second one, where the first one's file is gone", err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		g.proxy.Shutdown(t.Context())
		if _, err := os.Lstat(path); err != nil {
			t.Error("another's file was removed", err)
		}
		_ = other.Close()
	}()
	dead := filepath.Join(t.TempDir(), "dead.sock")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	file := filepath.Join(t.TempDir(), "file.sock")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign.sock")
	if l, err = net.Listen("unix", foreign); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.sockets(0o600, path, dead, file, foreign)
	if _, err := g.proxy.Listen(foreign); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error(err)
	}
	if _, err := g.proxy.Listen(dead); err != nil {
		t.Error(err)
	}
	if nc, err := dialed(dead); err != nil {
		t.Error(err)
	} else if r := wiretest.NewClient(t, nc).Run("admin", d("ping", 1)); wiretest.Get(r, "ok") != 1.0 {
		t.Error(r)
	}
	if _, err := g.proxy.Listen(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); string(text) != "kept" {
		t.Error(string(text), err)
	}
}

// TestServerByUnixSocket: a server's address may be a unix socket too.
func TestServerByUnixSocket(t *testing.T) {
	g := newGround(t, nil)
	path := filepath.Join(t.TempDir(), "server.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := dialed(g.server.Addr())
			if err != nil {
				_ = near.Close()
				return
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
				}()
			}
		}
	}()
	if err := g.clusters.Apply([]backend.Spec{{Name: "home", URI: "mongodb://" + url.PathEscape(path) + "/?directConnection=true"}}, backend.Limits{}); err != nil {
		t.Fatal(err)
	}
	const large = 3 << 20
	n := int32(len(rows(large)))
	for i, coll := range []string{"orders", "users"} {
		if r := g.inserted(g.client, largeInsert(int32(i), coll, large, 0)); wiretest.Get(r, "n") != n {
			t.Fatal(r)
		}
	}
	var all sync.WaitGroup
	for range crowded + 10 { // so that loops serve them
		c := wiretest.Dial(t, g.addr)
		all.Go(func() {
			for range 20 {
				if r := c.Run("app", d("count", "orders", "query", d("tenantId", "acme"))); fmt.Sprint(wiretest.Get(r, "n")) != fmt.Sprint(n) {
					t.Error(r)
					return
				}
			}
		})
	}
	all.Wait()
	if db := wiretest.Get(g.server.Commands("count")[0].D(), "$db"); db != "app_t_acme" {
		t.Error(db)
	}
}
