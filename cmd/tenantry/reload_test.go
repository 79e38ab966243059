package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

// reload asks for one, and returns what is answered.
func (s *serving) reload(t *testing.T) (status int, body string) {
	t.Helper()
	return answered(t, func() (*http.Response, error) { return http.Post("http://"+s.admin+"/reload", "", nil) })
}

// ready asks whether the proxy serves everything.
func (s *serving) ready(t *testing.T) (status int, body string) {
	t.Helper()
	return answered(t, func() (*http.Response, error) { return http.Get("http://" + s.admin + "/readyz") })
}

func answered(t *testing.T, ask func() (*http.Response, error)) (status int, body string) {
	t.Helper()
	resp, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

// TestReloadWithoutHome: who may connect is in force at once while the home cluster is away, nothing else is,
// and all of it when the cluster is back.
func TestReloadWithoutHome(t *testing.T) {
	home := wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member("rs0"), wiretest.Stored())
	text := func(more, field string) string {
		return fmt.Sprintf(`
[[listeners]]
address = "127.0.0.1:0"
tenant = "acme"
[admin]
address = "127.0.0.1:0"
[clusters.home]
uri = "mongodb://%s/?replicaSet=rs0&serverSelectionTimeoutMS=500"
[routing]
mode = "mixed"
home = "home"
shared_database = "app"
tenant_database = "app_t_{key}"
tenant_field = %q
[modules]
orders = ["orders"]
[[tenants]]
id = "acme"
key = "acme"
%s`, home.Addr(), field, more)
	}
	file := newFile(t, text("", "tenantId"))
	s := serveFile(t, file)
	s.until(t, "tenantry serves")
	find := bson.D{{Key: "count", Value: "orders"}}
	stored := func() string { // what a document of this tenant has
		t.Helper()
		client := wiretest.Dial(t, s.client)
		r := client.Run("app", find)
		return fmt.Sprint(wiretest.Get(r, "errmsg"), wiretest.Get(r, "n"))
	}
	if got := stored(); strings.Contains(got, "bill") {
		t.Fatal(got)
	}
	metrics := func() string {
		t.Helper()
		resp, err := http.Get("http://" + s.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, _ := io.ReadAll(resp.Body)
		return string(all)
	}

	home.Kill()
	deny := "[[deny]]\ntenant = \"acme\"\nreason = \"bill\"\n"
	if err := os.WriteFile(file, []byte(text(deny, "owner")), 0o600); err != nil {
		t.Fatal(err)
	}
	status, body := s.reload(t)
	if status != http.StatusBadGateway || !strings.Contains(body, "who may connect is in force") || !strings.Contains(body, "home") {
		t.Errorf("%d %s", status, body)
	}
	s.until(t, "reloaded in part")
	if got := stored(); !strings.Contains(got, "bill") {
		t.Errorf("the tenant is not shut out: %s", got)
	}
	if page := metrics(); !strings.Contains(page, `tenantry_reloads_total{result="partly"} `) || strings.Contains(page, `result="partly"} 0`) || !strings.Contains(page, "tenantry_config_in_force 0") {
		t.Error("the metrics do not tell")
	}

	if err := os.WriteFile(file, []byte(text("", "owner")), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _ := s.reload(t); status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	for quiet := false; !quiet; { // then the change of the file has been noticed, too
		select {
		case <-s.lines:
		case <-time.After(2 * time.Second):
			quiet = true
		}
	}
	home.Restart()
	home.SetRole(wiretest.Primary)
	s.until(t, "configuration reloaded") // without being asked
	home.Forget()
	if got := stored(); strings.Contains(got, "bill") {
		t.Errorf("the tenant is still shut out: %s", got)
	}
	if seen := home.Commands("count", "aggregate"); len(seen) != 1 || !strings.Contains(bson.Raw(seen[0].Body).String(), "owner") {
		t.Errorf("the tenant's field is not the new one: %v", seen)
	}
	if !strings.Contains(metrics(), "tenantry_config_in_force 1") {
		t.Error("the metrics do not tell")
	}
}

// TestReloadOtherServers: a configuration that names other servers for its clusters serves no command by them
// before it is accepted, however long that takes, and never where it is refused.
func TestReloadOtherServers(t *testing.T) {
	server := func() *wiretest.Server {
		return wiretest.NewServer(t, wiretest.As(wiretest.Primary), wiretest.Member("rs0"), wiretest.Stored())
	}
	home, east, other := server(), server(), server()
	text := func(home, east, orders, platform string) string {
		return fmt.Sprintf(`
[[listeners]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[clusters.home]
uri = "mongodb://%s/?replicaSet=rs0&serverSelectionTimeoutMS=700"
[clusters.east]
uri = "mongodb://%s/?replicaSet=rs0"
[routing]
mode = "mixed"
home = "home"
shared_database = "app"
tenant_database = "app_t_{key}"
tenant_field = "tenantId"
[modules]
orders = ["lines"%s]
[platform]
collections = ["users"%s]
[[tenants]]
id = "acme"
mode = "per-tenant"
cluster = "east"
`, home, east, orders, platform)
	}
	good := text(home.Addr(), east.Addr(), `, "orders"`, "")
	file := newFile(t, good)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := serveFile(t, file)
	s.until(t, "tenantry serves")
	client, written := wiretest.Dial(t, s.client), 0
	insert := func() {
		t.Helper()
		r := client.Run("app", bson.D{{Key: "insert", Value: "orders"}, {Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: written}, {Key: "tenantId", Value: "acme"}}}}})
		if wiretest.Get(r, "ok") != 1.0 {
			t.Fatal(r)
		}
		written++
		if docs := east.Docs("app_t_acme", "orders"); len(docs) != written {
			t.Errorf("of %d acknowledged documents %d are where the configuration in force says", written, len(docs))
		}
	}
	insert()

	release := func() {}
	// refuse reloads the text while commands go on, and expects it to be refused.
	refuse := func(text, why string) {
		t.Helper()
		put(text)
		done := make(chan string, 1)
		go func() {
			status, body := s.reload(t)
			done <- fmt.Sprint(status, " ", body)
		}()
		for i, over := 0, false; !over; i++ {
			insert()
			if r := client.Run("app", bson.D{{Key: "count", Value: "users"}}); wiretest.Get(r, "ok") != 1.0 {
				t.Error(r)
			}
			if status, body := s.ready(t); status != http.StatusOK {
				t.Errorf("%d %s", status, body)
			}
			if i == 20 {
				release()
			}
			select {
			case got := <-done:
				if !strings.HasPrefix(got, "502 ") || !strings.Contains(got, why) {
					t.Error(got)
				}
				over = true
			case <-time.After(10 * time.Millisecond):
			}
		}
		insert()
	}
	held := make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	defer release()
	home.Handle(func(c wiretest.Command) wiretest.Reply {
		if c.Name == "find" && c.Collection() == "routes" {
			return wiretest.Pass().After(held)
		}
		return wiretest.Pass()
	})
	refuse(text(home.Addr(), other.Addr(), "", `, "orders"`), "[platform] lists now")
	refuse(text("127.0.0.1:1", east.Addr(), `, "orders"`, ""), "cluster home")
	if seen := other.Commands(); len(seen) > 0 {
		t.Errorf("a server that was never in force has seen %v", seen[0].Body)
	}

	put(text(home.Addr(), other.Addr(), `, "orders"`, ""))
	if status, body := s.reload(t); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	client.Run("app", bson.D{{Key: "insert", Value: "orders"}, {Key: "documents", Value: bson.A{bson.D{{Key: "tenantId", Value: "acme"}}}}})
	if docs := other.Docs("app_t_acme", "orders"); len(docs) != 1 {
		t.Errorf("%d documents are where the configuration in force says", len(docs))
	}
}
