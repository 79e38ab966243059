package main

import (
	"errors"
	"os"
	"strings"
)

// writeConfig writes the proxy's configuration, unless one from an earlier run
// is there: the one line that was edited in it is the point of the demo. One
// for other ports is of no use and is replaced.
func writeConfig(p places) error {
	kept, err := os.ReadFile(p.configFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil && serves(string(kept), p) {
		return nil
	}
	return os.WriteFile(p.configFile(), []byte(configText(p)), 0o644)
}

func serves(text string, p places) bool {
	for _, address := range []string{`"` + p.proxy() + `"`, `"` + p.admin() + `"`, "/" + p.backend() + "/"} {
		if !strings.Contains(text, address) {
			return false
		}
	}
	return true
}

func configText(p places) string {
	return strings.NewReplacer("$PROXY", p.proxy(), "$BACKEND", p.backend(), "$ADMIN", p.admin()).Replace(`# The demo's configuration. Edit and save: tenantry notices and loads it again
# without dropping a connection; a mistake is logged and the old one stays.

[[listeners]]
address = "$PROXY"
presentation = "mongos"

[admin]
address = "$ADMIN"

[clusters.home]
uri = "mongodb://$BACKEND/"         # the embedded server

[routing]
mode = "mixed"
home = "home"
shared_database = "smetasc_shared"
tenant_database = "smetasc_tenant_{key}"
tenant_field = "tenantId"

[modules]
orders = ["orders", "order_items"]
accounting = ["invoices", "transactions"]
hrm = ["employees"]
projects = ["projects", "tasks"]

[platform]
collections = ["tenants", "packages", "users", "roles"]

# The sample's own list of tenants (smetasc_shared.tenants) could decide instead:
# [tenants_collection]
# name = "tenants"

[[tenants]]
id = "acme"
key = "acme"
mode = "per-tenant"                 # in smetasc_tenant_acme

[[tenants]]
id = "globex"
key = "globex"
mode = "shared"

[[tenants]]
id = "initech"
key = "initech"
mode = "shared"

[[tenants]]
id = "umbrella"                     # new: it has no documents yet
key = "umbrella"
mode = "shared"  # umbrella: make this "per-tenant" and save, then insert its first order
`)
}

// umbrellaEdit does with sed what the comment beside umbrella's mode asks for.
func umbrellaEdit(file string) string {
	return `sed -i.bak 's/^mode = "shared"  # umbrella/mode = "per-tenant"  # umbrella/' '` + file + `'`
}
