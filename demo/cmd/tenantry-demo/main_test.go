package main

import (
	"net"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/demo/internal/ferret"
)

func TestConfigLoads(t *testing.T) {
	p := places{dir: t.TempDir(), proxyPort: 27017, backendPort: 27117, adminPort: 8017}
	if err := writeConfig(p); err != nil {
		t.Fatal(err)
	}
	cfg, problems, err := config.Load(p.configFile(), func(string) string { return "" })
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if n := len(cfg.Tenants); n != 4 {
		t.Errorf("%d tenants, want 4", n)
	}
}

func TestConfigIsKeptUnlessForOtherPorts(t *testing.T) {
	p := places{dir: t.TempDir(), proxyPort: 27017, backendPort: 27117, adminPort: 8017}
	edited := strings.Replace(configText(p), `mode = "shared"  # umbrella`, `mode = "per-tenant"  # umbrella`, 1)
	if edited == configText(p) {
		t.Fatal("umbrella's line is not the one that the guide edits")
	}
	if err := os.WriteFile(p.configFile(), []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		proxyPort int
		kept      bool
	}{{27017, true}, {37017, false}} {
		p.proxyPort = c.proxyPort
		if err := writeConfig(p); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(p.configFile())
		if err != nil {
			t.Fatal(err)
		}
		if kept := string(text) == edited; kept != c.kept {
			t.Errorf("port %d: kept is %v, want %v", c.proxyPort, kept, c.kept)
		}
	}
}

func TestSampleIsWrittenOnce(t *testing.T) {
	s, err := ferret.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	address := strings.Trim(strings.TrimPrefix(s.URI, "mongodb://"), "/")
	for range 2 {
		for _, sample := range []func() error{
			func() error { return seed(t.Context(), address, sharedSample) },
			func() error { return seed(t.Context(), address, isolatedSample) },
		} {
			if err := sample(); err != nil {
				t.Fatal(err)
			}
		}
	}
	client, err := mongo.Connect(options.Client().ApplyURI(s.URI))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(t.Context())
	for coll, want := range map[string]int64{"tenants": 3, "users": 6, "orders": 12, "order_items": 24, "tasks": 9} {
		got, err := client.Database(sharedDatabase).Collection(coll).CountDocuments(t.Context(), bson.D{})
		if err != nil || got != want {
			t.Errorf("%s: %d documents, want %d (%v)", coll, got, want, err)
		}
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := places{adminPort: l.Addr().(*net.TCPAddr).Port}
	if err := portsFree(p); err == nil || !strings.Contains(err.Error(), "--admin-port") {
		t.Errorf("portsFree says %v", err)
	}
}
