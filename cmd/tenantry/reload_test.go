package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

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
	post := func() (status int, body string) {
		t.Helper()
		resp, err := http.Post("http://"+s.admin+"/reload", "", nil)
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
	status, body := post()
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
	if status, _ := post(); status != http.StatusBadGateway {
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
