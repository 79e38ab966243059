package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
)

func TestMain(m *testing.M) {
	code := m.Run()
	proxy.RemoveBinary()
	os.Exit(code)
}

// What the guide promises, with the very edit that it prints: umbrella's first
// order goes to a database of its own. globex, edited the same way, has orders
// already, and loses sight of none.
func TestGuideKeepsItsWord(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole demo: not with -short")
	}
	p := startDemo(t)
	app, server := open(t, p.proxy()), open(t, p.backend())

	shell(t, umbrellaEdit(p.configFile()))
	reload(t, p)
	order(t, app, "umbrella")
	wantOrders(t, server, "smetasc_tenant_umbrella", "umbrella", 1)
	wantOrders(t, server, sharedDatabase, "umbrella", 0)
	wantState(t, p, "umbrella", "isolated", "")

	text, err := os.ReadFile(p.configFile())
	if err != nil {
		t.Fatal(err)
	}
	globex := "key = \"globex\"\nmode = "
	edited := strings.Replace(string(text), globex+`"shared"`, globex+`"per-tenant"`, 1)
	if err := os.WriteFile(p.configFile(), []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	reload(t, p)
	order(t, app, "globex")
	wantOrders(t, app, sharedDatabase, "globex", 5)
	wantOrders(t, server, sharedDatabase, "globex", 5)
	wantState(t, p, "globex", "refused", "smetasc_shared.orders")
}

// startDemo runs the demo as main does until the test ends.
func startDemo(t *testing.T) places {
	t.Helper()
	p := places{tenantry: proxy.Binary(t), dir: t.TempDir()}
	for _, port := range []*int{&p.proxyPort, &p.backendPort, &p.adminPort} {
		var err error
		if *port, err = freePort(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, p, in)
		in.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the demo: %v", err)
		}
	})
	first := make([]byte, 64<<10)
	n, err := out.Read(first) // the guide is written at once
	if err != nil || !strings.Contains(string(first[:n]), "tenantry runs") {
		t.Fatalf("the demo says %q (%v)", first[:n], err)
	}
	go io.Copy(io.Discard, out) // ends with run
	return p
}

func freePort() (int, error) {
	address, err := child.FreeAddress()
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

func open(t *testing.T, address string) *mongo.Client {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + address + "/").SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	// Registered after the demo's own end, so run before it.
	t.Cleanup(func() { client.Disconnect(context.Background()) })
	return client
}

func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func reload(t *testing.T, p places) {
	t.Helper()
	reply, err := http.Post("http://"+p.admin()+"/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if text, _ := io.ReadAll(reply.Body); reply.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s: %s", reply.Status, text)
	}
}

func order(t *testing.T, app *mongo.Client, tenant string) {
	t.Helper()
	_, err := app.Database(sharedDatabase).Collection("orders").InsertOne(t.Context(), bson.D{{Key: "tenantId", Value: tenant}, {Key: "number", Value: 100}})
	if err != nil {
		t.Fatal(err)
	}
}

func wantOrders(t *testing.T, client *mongo.Client, database, tenant string, want int64) {
	t.Helper()
	n, err := client.Database(database).Collection("orders").CountDocuments(t.Context(), bson.D{{Key: "tenantId", Value: tenant}})
	if err != nil || n != want {
		t.Errorf("%s holds %d orders of %s, want %d (%v)", database, n, tenant, want, err)
	}
}

// wantState is what `tenantry tenants` prints of one.
func wantState(t *testing.T, p places, key, state, why string) {
	t.Helper()
	reply, err := http.Get("http://" + p.admin() + "/tenants")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	var list []struct{ Key, State, Why string }
	if err := json.NewDecoder(reply.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range list {
		if tenant.Key == key && tenant.State == state && strings.Contains(tenant.Why, why) {
			return
		}
	}
	t.Errorf("no tenant %s in state %s, with %q among the reasons: %+v", key, state, why, list)
}
