package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const running = `[[listeners]]
address = "127.0.0.1:27017"
[[listeners]]
address = "127.0.0.1:27018"
[admin]
address = "127.0.0.1:8017"
[control]
database = "tenantry"
[clusters.home]
uri = "mongodb://db.example/"
[clusters.big]
uri = "mongodb://big.example/"
[routing]
home = "home"
`

func TestRestartNeeded(t *testing.T) {
	const remedy = "; restart tenantry for this, or change it back"
	old := mustLoad(t, running)
	for _, tt := range []struct {
		name string
		edit []string
		want []string
	}{
		{"nothing", nil, nil},
		{"the home cluster's URI", []string{"db.example", "new.example"}, nil},
		{"a listener's settings", []string{`27018"`, "27018\"\nload_balanced = true"}, nil},
		{"the order of listeners", []string{"27017", "27018", "27018", "27017"}, nil},
		{"limits, tenants", []string{"[routing]", "[limits]\nclient_connections = 5\n[[tenants]]\nid = \"a\"\n[routing]"}, nil},
		{"a listener moves", []string{"27018", "27019"}, []string{
			`testdata/t.toml: listeners: "127.0.0.1:27018" is gone`,
			`testdata/t.toml:4: listeners[1].address: "127.0.0.1:27019" is new`,
		}},
		{
			"a listener is added",
			[]string{"[admin]", "[[listeners]]\naddress = \"127.0.0.1:27019\"\n[admin]"},
			[]string{`testdata/t.toml:6: listeners[2].address: "127.0.0.1:27019" is new`},
		},
		{"admin", []string{"8017", "8018"}, []string{`testdata/t.toml:6: admin.address: changes from "127.0.0.1:8017" to "127.0.0.1:8018"`}},
		{"admin off", []string{`"127.0.0.1:8017"`, `""`}, []string{`testdata/t.toml:6: admin.address: changes from "127.0.0.1:8017" to nothing`}},
		{"home", []string{`home = "home"`, `home = "big"`}, []string{`testdata/t.toml:14: routing.home: changes from "home" to "big"`}},
		{"control", []string{`"tenantry"`, "\"control\"\nenabled = false\nfleet_key_file = \"fleet.key\""}, []string{
			`testdata/t.toml:8: control.database: changes from "tenantry" to "control"`,
			`testdata/t.toml:9: control.enabled: changes from true to false`,
			`testdata/t.toml:10: control.fleet_key_file: changes from nothing to "testdata/fleet.key"`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got, want []string
			for _, p := range RestartNeeded(old, mustLoad(t, strings.NewReplacer(tt.edit...).Replace(running))) {
				got = append(got, p.String())
			}
			for _, w := range tt.want {
				want = append(want, w+remedy)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestRestartNeededForPermissions(t *testing.T) {
	socket := "[[listeners]]\naddress = \"/run/t.sock\"\nsocket_mode = \"0600\"\n[admin]"
	old := mustLoad(t, strings.Replace(running, "[admin]", socket, 1))
	got := RestartNeeded(old, mustLoad(t, strings.Replace(running, "[admin]", strings.Replace(socket, "0600", "0660", 1), 1)))
	if len(got) != 1 || !strings.HasPrefix(got[0].String(), "testdata/t.toml:7: listeners[2].socket_mode: changes from 0600 to 0660") {
		t.Error(got)
	}
}

func TestRestartNeededForFleetKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.toml")
	key := filepath.Join(filepath.Dir(path), "fleet.key")
	write(t, path, strings.Replace(running, "[control]", "[control]\nfleet_key_file = \"fleet.key\"", 1))
	loadKey := func(text string) *Config {
		if err := os.WriteFile(key, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(path, environment())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, same, other := loadKey("k1"), loadKey("k1\n"), loadKey("k2")
	if got := RestartNeeded(first, same); len(got) != 0 {
		t.Error(got)
	}
	if got := RestartNeeded(first, other); len(got) != 1 || got[0].Key != "control.fleet_key_file" {
		t.Error(got)
	}
}
