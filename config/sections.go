package config

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// sections reads the whole file: values and their types here, what depends on several of them in
// validate.
func (l *loader) sections(root *table) {
	l.log(root.table("log"))
	l.listeners(root)
	l.admin(root.table("admin"))
	l.control(root.table("control"))
	l.clusters(root)
	l.routing(root.table("routing"))
	l.modules(root.table("modules"))
	l.platform(root.table("platform"))
	if root.has("tenants_collection") {
		l.tenantsCollection(root.table("tenants_collection"))
	} else {
		root.known = append(root.known, "tenants_collection")
	}
	for _, t := range root.tables("tenants") {
		l.tenant(t)
	}
	l.pools(root.table("pools"))
	l.limits(root.table("limits"))
	l.guard(root.table("guard"))
	l.auth(root.table("auth"))
	for _, t := range root.tables("deny") {
		l.deny(t)
	}
	root.done()
}

func (l *loader) log(t *table) {
	l.cfg.Log = Log{
		Level:  t.oneOf("level", "info", "trace", "debug", "info", "warn", "error"),
		Format: t.oneOf("format", "", "console", "json"),
		Slow:   t.duration("slow", 100*time.Millisecond, true),
	}
	t.done()
}

func (l *loader) listeners(root *table) {
	subs := root.tables("listeners")
	v, ok := root.values["listeners"]
	if empty, isArray := v.([]any); !ok || isArray && len(empty) == 0 {
		root.refuse("listeners", "there is none", `add [[listeners]] with address = "127.0.0.1:27017"`)
	}
	for _, t := range subs {
		l.listener(t)
	}
}

func (l *loader) listener(t *table) {
	var ln Listener
	ln.Address, _ = t.required("address", `write host:port, like "127.0.0.1:27017"`)
	ln.Presentation = t.oneOf("presentation", "mongos", "mongos", "replica-set")
	ln.ReplicaSet = t.optional("replica_set", "")
	ln.LoadBalanced = t.boolean("load_balanced", false)
	ln.Advertise = t.optional("advertise", "")
	ln.Insecure = t.boolean("insecure", false)
	ln.Tenant = t.optional("tenant", "")
	if ln.Tenant != "" {
		ln.Isolation = t.oneOf("isolation", "rows", "rows", "database")
		ln.Access = t.oneOf("access", "write", "read", "write", "owner")
	}
	l.openListener(t)
	if ln.IsSocket() {
		l.socketListener(t, &ln)
	} else {
		l.networkListener(t, &ln)
	}
	l.listenerAuth(t, &ln)
	t.later("proxy_protocol", "proxy_protocol on listeners")
	t.done()
	l.cfg.Listeners = append(l.cfg.Listeners, ln)
	l.listenerAt = append(l.listenerAt, t.at)
	l.cfg.remember(t.at.key("address"))
}

// networkListener is the other kind.
func (l *loader) networkListener(t *table, ln *Listener) {
	ln.TLS = l.tls(t)
	_, given := t.take("socket_mode")
	if _, _, why := splitAddress(ln.Address); given && why == "" { // else something else is meant
		t.refuse("socket_mode", "has a meaning for unix sockets alone", "remove it")
	}
}

// socketListener reads what a unix socket has of its own, and refuses what has no meaning there.
func (l *loader) socketListener(t *table, ln *Listener) {
	ln.SocketMode = t.permissions("socket_mode", defaultSocketMode)
	l.cfg.remember(t.at.key("socket_mode"))
	if _, ok := t.take("tls"); ok {
		t.refuse("tls", "keeps a network out, and a unix socket has none", "remove it")
	}
	if ln.Insecure {
		t.refuse("insecure", "is of addresses of the network", "remove it; who may connect socket_mode says")
	}
	if ln.Presentation == "replica-set" {
		t.refuse("presentation", "hello would name a unix socket as a member of the set, which drivers go on with as with a host",
			`use "mongos", and leave replicaSet= out of the connection string`)
	}
}

func (l *loader) listenerAuth(t *table, ln *Listener) {
	switch auth := t.text("auth", "none"); auth {
	case "none":
	case "x509":
		ln.Auth = auth
		of, _ := t.values["tls"].(map[string]any)
		switch {
		case ln.IsSocket():
			t.refuse("auth", `"x509" is by the certificate of a TLS connection, which a unix socket has not`, `write "scram"`)
		case of["client_ca"] == nil:
			t.refuse("auth", `"x509" needs tls with client_ca`, `add tls = { cert = "server.pem", key = "server.key", client_ca = "ca.pem" }`)
		}
	case "scram":
		ln.Auth = auth
	default:
		t.refuse("auth", show(auth)+" is not a choice", `write "none", "scram" or "x509"`)
	}
}

// openListener refuses what only has a meaning on a listener that is bound to a tenant.
func (l *loader) openListener(t *table) {
	for _, key := range []string{"isolation", "access"} {
		t.known = append(t.known, key)
		if t.has(key) && !t.has("tenant") {
			t.refuse(key, "has no meaning without tenant", "name the listener's tenant or remove it")
		}
	}
}

func (l *loader) admin(t *table) {
	a := Admin{Address: t.text("address", "127.0.0.1:8017")}
	if name := t.optional("token_file", ""); name != "" {
		a.TokenFile, _, _ = l.file(t.at.key("token_file"), name)
	}
	a.TLS = l.tls(t)
	t.done()
	l.cfg.Admin = a
	l.cfg.remember(t.at.key("address"))
}

func (l *loader) control(t *table) {
	c := Control{
		Enabled:  t.boolean("enabled", true),
		Database: t.text("database", "tenantry"),
	}
	if why := badDatabase(c.Database); why != "" {
		t.refuse("database", why, "choose a name that a server accepts")
	}
	if name := t.optional("fleet_key_file", ""); name != "" {
		path, key, ok := l.file(t.at.key("fleet_key_file"), name)
		if c.FleetKeyFile = path; ok {
			sum := sha256.Sum256(key)
			l.cfg.fleetKey = &sum
		}
	}
	t.done()
	l.cfg.Control = c
	for _, key := range []string{"enabled", "database", "fleet_key_file"} {
		l.cfg.remember(t.at.key(key))
	}
}

func (l *loader) clusters(root *table) {
	t := root.table("clusters")
	if len(t.values) == 0 && (t.values != nil || !root.has("clusters")) {
		root.refuse("clusters", "there is none", "add [clusters.home] with the uri of your server")
	}
	l.cfg.Clusters = make(map[string]Cluster, len(t.values))
	for _, name := range t.names() {
		if name == "" {
			t.refuse(name, "a cluster needs a name", "write [clusters.NAME]")
		}
		uri := l.uri(t.table(name))
		l.cfg.Clusters[name] = Cluster{Name: name, URI: uri}
	}
}

// uri takes a cluster's connection string from the one place that the file names. No message
// shows any part of it.
func (l *loader) uri(t *table) Secret {
	defer t.done()
	var given []string
	for _, key := range []string{"uri", "uri_env", "uri_file"} {
		t.known = append(t.known, key)
		if t.has(key) {
			given = append(given, key)
		}
	}
	switch {
	case t.values == nil:
		return "" // not a table, which has been said
	case len(given) == 0:
		l.refuse(t.at, "has no uri", "give it one of uri, uri_env or uri_file")
		return ""
	case len(given) > 1:
		l.refuse(t.at, "has "+strings.Join(given, " and "), "keep one of them")
		return ""
	}
	uri, ok := t.required(given[0], "give it a value")
	if !ok {
		return ""
	}
	if uri, ok = l.uriFrom(t.at.key(given[0]), given[0], uri); !ok {
		return ""
	}
	l.checkURI(t.at.key(given[0]), uri)
	return Secret(uri)
}

func (l *loader) uriFrom(p place, key, value string) (string, bool) {
	switch key {
	case "uri_env":
		uri := strings.TrimSpace(l.env(value))
		if uri == "" {
			l.refuse(p, "the environment variable "+show(value)+" is not set or empty", "set it to the cluster's URI")
		}
		return uri, uri != ""
	case "uri_file":
		_, text, ok := l.file(p, value)
		return string(text), ok
	}
	return value, true
}

func (l *loader) checkURI(p place, uri string) {
	rest, ok := strings.CutPrefix(uri, "mongodb://")
	if !ok {
		rest, ok = strings.CutPrefix(uri, "mongodb+srv://")
	}
	switch {
	case !ok:
		l.refuse(p, "the URI does not begin with mongodb:// or mongodb+srv://", "write the cluster's connection string")
	case rest == "":
		l.refuse(p, "the URI names no host", "write the cluster's connection string")
	case strings.ContainsAny(uri, " \t\r\n\x00"):
		l.refuse(p, "the URI contains blanks or line ends", "write one connection string on one line, other characters as %XX")
	}
}

func (l *loader) routing(t *table) {
	r := Routing{
		Mode:           t.oneOf("mode", "disabled", modes...),
		Home:           t.optional("home", ""),
		TenantField:    t.text("tenant_field", "tenantId"),
		OtherDatabases: t.oneOf("other_databases", "pass", "pass", "hide"),
		WithoutTenant:  t.oneOf("without_tenant", "scatter", "scatter", "shared", "reject"),
		IsolateModules: t.list("isolate_modules"),
		ScatterWidth:   t.number("scatter_width", 16, 1),
		RequireTenant:  t.boolean("require_tenant_on_insert", false),
		MaxScatter:     t.number("max_scatter_targets", 0, 0),
		AllowDrop:      t.boolean("allow_drop_database", false),
		ShipLimit:      t.size("ship_limit", 16<<20),
		StrictUnique:   t.boolean("strict_unique", false),
	}
	if why := badField(r.TenantField); why != "" {
		t.refuse("tenant_field", why, "write the field that holds a document's tenant")
	}
	r.TenantFields = l.tenantFields(t.table("tenant_fields"))
	r.Databases = l.databases(t)
	t.done()
	l.cfg.Routing = r
	l.cfg.remember(t.at.key("home"))
}

func (l *loader) tenantFields(t *table) map[string]string {
	var fields map[string]string
	for _, name := range t.names() {
		if _, nested := t.values[name].(map[string]any); nested {
			t.refuse(name, "found a table", `write a name with a dot in quotes, like "database.collection" = "field"`)
			continue
		}
		field, ok := as[string](t, name, "the field's name in quotes")
		if why := badField(field); ok && why != "" {
			t.refuse(name, why, "write the field that holds the tenant in this collection")
		}
		if why := badCollection(name); why != "" {
			t.refuse(name, why, "name a collection")
		} else if strings.Contains(name, "*") {
			t.refuse(name, "a pattern has no field of its own", "name each collection")
		}
		if fields == nil {
			fields = make(map[string]string, len(t.values))
		}
		fields[name] = field
	}
	return fields
}

// databases is the logical databases: the one of [routing] itself, then [[routing.databases]].
func (l *loader) databases(t *table) []Database {
	var all []Database
	if t.has("shared_database") || t.has("tenant_database") {
		all = append(all, l.database(t, "shared_database", "tenant_database"))
	} else {
		t.known = append(t.known, "shared_database", "tenant_database")
	}
	for _, sub := range t.tables("databases") {
		all = append(all, l.database(sub, "shared", "tenant"))
		sub.done()
	}
	return all
}

func (l *loader) database(t *table, sharedKey, tenantKey string) Database {
	l.databaseAt = append(l.databaseAt, databasePlace{t.at.key(sharedKey), t.at.key(tenantKey)})
	var d Database
	var ok bool
	if d.Shared, ok = t.required(sharedKey, "name the database that clients use"); ok {
		if why := badDatabase(d.Shared); why != "" {
			t.refuse(sharedKey, why, "choose a name that a server accepts")
		}
	}
	if d.Tenant, ok = t.required(tenantKey, `write the name of the tenants' databases, like "app_tenant_{key}"`); ok {
		l.tenantPattern(t, tenantKey, d.Tenant)
	}
	return d
}

func (l *loader) tenantPattern(t *table, key, text string) {
	if n := strings.Count(text, keySlot); n != 1 {
		t.refuse(key, show(text)+" must contain {key} exactly once", `write {key} where the tenant's key goes, like "app_tenant_{key}"`)
		return
	}
	why := badDatabaseText(text)
	if why == "" && len(text)-len(keySlot) >= maxDatabaseName {
		why = show(text) + " leaves no room for a key in the 63 bytes of a database name"
	}
	if why != "" {
		t.refuse(key, why, "choose a name that a server accepts")
	}
}

func (l *loader) modules(t *table) {
	for _, name := range t.names() {
		if name == "" {
			t.refuse(name, "a module needs a name", `write NAME = ["collection"]`)
		}
		collections := t.list(name)
		if _, ok := t.values[name].([]any); ok && len(collections) == 0 {
			t.refuse(name, "the module has no collections", "list some or remove it")
		}
		l.cfg.Modules = append(l.cfg.Modules, Module{Name: name, Collections: collections})
	}
}

func (l *loader) platform(t *table) {
	l.cfg.Platform.Collections = t.list("collections")
	bound := t.table("bound")
	for _, name := range bound.names() {
		word := bound.oneOf(name, "none", "none", "own", "read")
		if !slices.Contains(l.cfg.Platform.Collections, name) {
			bound.refuse(name, "is not listed in [platform] collections", "add it there, or remove it here")
			continue
		}
		if l.cfg.Platform.Bound == nil {
			l.cfg.Platform.Bound = map[string]string{}
		}
		l.cfg.Platform.Bound[name] = word
	}
	bound.done()
	t.done()
}

func (l *loader) guard(t *table) {
	l.cfg.Guard = Guard{MaxTime: t.duration("max_time", 0, true), Leaks: t.oneOf("leaks", "sampled", "off", "sampled", "full")}
	t.done()
}

func (l *loader) tenantsCollection(t *table) {
	first := ""
	if len(l.cfg.Routing.Databases) > 0 {
		first = l.cfg.Routing.Databases[0].Shared
	}
	c := &TenantsCollection{
		Database: t.text("database", first),
		Name:     t.text("name", "tenants"),
		ID:       t.text("id", "_id"),
		Key:      t.text("key", "slug"),
		Mode:     t.text("mode", "dbMode"),
		Refresh:  t.duration("refresh", 2*time.Second, false),
	}
	if why := badDatabase(c.Database); why != "" && t.has("database") {
		t.refuse("database", why, "name the database that holds the list of tenants")
	} else if c.Database == "" {
		t.refuse("database", "is missing, and [routing] has no shared_database to look in", "name the database that holds the list of tenants")
	}
	if why := badCollection(c.Name); why != "" {
		t.refuse("name", why, "name the collection that lists the tenants")
	}
	for key, field := range map[string]string{"id": c.ID, "key": c.Key, "mode": c.Mode} {
		if why := badField(field); why != "" {
			t.refuse(key, why, "name a field of that collection")
		}
	}
	t.done()
	l.cfg.TenantsFrom = c
}

func (l *loader) pools(t *table) {
	l.cfg.Pools = Pools{
		MaxPerServer: t.number("max_per_server", 100, 1),
		MaxPerTenant: t.number("max_per_tenant", 20, 1),
		Idle:         t.duration("idle", 5*time.Minute, false),
		MaxTenants:   t.number("max_tenants", 1000, 1),
	}
	t.done()
}

func (l *loader) limits(t *table) {
	l.cfg.Limits = Limits{
		ClientConnections: t.number("client_connections", 20000, 1),
		InFlightPerTenant: t.number("in_flight_per_tenant", 0, 0),
		QueueTimeout:      t.duration("queue_timeout", 5*time.Second, false),
		MessageMemory:     t.size("message_memory", 1<<30),
		IOUring:           t.boolean("io_uring", true),
	}
	t.done()
}
