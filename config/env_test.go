package config

import (
	"slices"
	"strings"
	"testing"
)

const listed = minimal + `[routing]
mode = "mixed"
shared_database = "app"
tenant_database = "app_tenant_{key}"
[[tenants]]
id = { int = 1 }
key = "acme"
mode = "shared"
[[tenants]]
id = { int = 2 }
key = "beta"
`

func TestModeVariable(t *testing.T) {
	for value, want := range map[string]string{"": "mixed", " forced ": "forced", "disabled": "disabled"} {
		if got := mustLoad(t, listed, "MULTI_DB_MODE", value).Routing.Mode; got != want {
			t.Errorf("%q: %s", value, got)
		}
	}
}

func TestTenantKeysVariable(t *testing.T) {
	c := mustLoad(t, listed, "MULTI_DB_TENANT_KEYS", "beta, acme ,gamma")
	var got []string
	for _, tn := range c.Tenants {
		got = append(got, strings.Join([]string{tn.Key, idText(tn.ID), tn.Mode, tn.Source}, " "))
	}
	want := []string{
		"acme 1 shared testdata/t.toml:9", // the file's own word wins
		"beta 2 per-tenant testdata/t.toml:13",
		`gamma "gamma" per-tenant MULTI_DB_TENANT_KEYS`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(c.TenantKeys, []string{"beta", "acme", "gamma"}) {
		t.Error(c.TenantKeys)
	}
	c = mustLoad(t, listed)
	if c.TenantKeys != nil || c.Tenants[1].Mode != "" {
		t.Error("without the variable nothing is overlaid", c.TenantKeys, c.Tenants[1].Mode)
	}
	if c = mustLoad(t, minimal+"[[listeners]]\naddress = \"127.0.0.1:27018\"\ntenant = \"gamma\"\n", "MULTI_DB_TENANT_KEYS", "gamma"); len(c.Tenants) != 1 {
		t.Error("a listener may be bound to a tenant of the variable")
	}
}

func TestBadVariables(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"MULTI_DB_MODE", "Mixed", `MULTI_DB_MODE: "Mixed" is not a mode; set one of "disabled", "mixed" or "forced"`},
		{"MULTI_DB_TENANT_KEYS", "a,,b", "MULTI_DB_TENANT_KEYS: entry 2 is empty; remove the extra comma"},
		{"MULTI_DB_TENANT_KEYS", "a,a", `MULTI_DB_TENANT_KEYS: "a" is listed twice; list it once`},
		{"MULTI_DB_TENANT_KEYS", "a b", `MULTI_DB_TENANT_KEYS: "a b" contains ' ', which no database name may; choose a key that can be part of a database name`},
		{"MULTI_DB_TENANT_KEYS", "Acme", `MULTI_DB_TENANT_KEYS: "Acme" differs from "acme", the key of tenants[0], only by case, and a server takes both for one database; give each tenant its own key`},
		{"MULTI_DB_TENANT_KEYS", "x\xff", "MULTI_DB_TENANT_KEYS: is not valid UTF-8; choose a key that can be part of a database name"},
	} {
		_, _, err := loadText(listed, tt.name, tt.value)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s=%s: %v", tt.name, tt.value, err)
		}
	}
	_, _, err := loadText(minimal+"[[tenants]]\nid = \"x\"\nkey = \"y\"\n", "MULTI_DB_TENANT_KEYS", "x")
	if err == nil || err.Error() != `MULTI_DB_TENANT_KEYS: "x" is already the id of tenants[0]; list each tenant once` {
		t.Errorf("an id that is listed with another key: %v", err)
	}
}
