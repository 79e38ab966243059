package config

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// validate finds the mistakes that show only in the whole.
func (l *loader) validate() {
	l.checkHome()
	l.checkAddresses()
	l.checkListeners()
	l.checkDatabases()
	l.checkModules()
	l.checkTenants()
	l.checkAuth()
	l.checkCertificates()
}

func (l *loader) checkHome() {
	r, at := &l.cfg.Routing, l.root.key("routing").key("home")
	names := slices.Sorted(maps.Keys(l.cfg.Clusters))
	_, known := l.cfg.Clusters[r.Home]
	switch {
	case len(names) == 0:
		// There is no cluster, which has been said.
	case r.Home == "" && len(names) == 1:
		r.Home = names[0]
	case r.Home == "":
		l.refuse(at, "is missing, and there are several clusters", "name one of "+l.clusterNames())
	case !known:
		l.refuse(at, show(r.Home)+" is not a cluster", "name one of "+l.clusterNames())
	}
}

func (l *loader) clusterNames() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Clusters)) {
		names = append(names, show(name))
	}
	return strings.Join(names, ", ")
}

// address is a listening address that has been parsed.
type address struct {
	host string // "*" is every interface
	port string
	at   place
}

// checkAddresses parses the addresses and finds those that cannot be listened on together.
func (l *loader) checkAddresses() {
	byPort, sockets := make(map[string][]address), make(map[string]place)
	add := func(at place, text string) {
		if isSocket(text) {
			l.checkSocket(at, text, sockets)
			return
		}
		host, port, why := splitAddress(text)
		if why != "" {
			l.refuse(at, why, `write host:port, like "127.0.0.1:27017"`)
			return
		}
		a := address{host: sameHost(host), port: port, at: at}
		if port == "0" {
			return // the system chooses one that is free
		}
		for _, b := range byPort[port] {
			if a.host == b.host || a.host == "*" || b.host == "*" {
				l.refuse(at, show(text)+" is taken by "+b.at.path, "give each its own address")
				return
			}
		}
		byPort[port] = append(byPort[port], a)
	}
	for i, ln := range l.cfg.Listeners {
		if ln.Address != "" {
			add(l.listenerAt[i].key("address"), ln.Address)
		}
	}
	if a := l.cfg.Admin.Address; a != "" {
		if !isSocket(a) {
			add(l.root.key("admin").key("address"), a)
		}
		l.checkAdmin()
	}
}

// maxSocketPath is one byte less than the shortest sun_path of the systems that have unix sockets.
const maxSocketPath = 103

// defaultSocketMode lets only who runs the proxy connect, as mongod does.
const defaultSocketMode fs.FileMode = 0o700

// checkSocket looks at the path of a unix socket. Drivers know a path for one by its end.
//
// https://www.mongodb.com/docs/manual/reference/connection-string-formats/ and the connection string specification
func (l *loader) checkSocket(at place, path string, taken map[string]place) {
	clean := filepath.Clean(path)
	switch other, twice := taken[clean]; {
	case !strings.HasSuffix(path, ".sock"):
		l.refuse(at, show(path)+" does not end in .sock, by which drivers know the path of a unix socket", `write one like "/run/tenantry/mongodb-27017.sock"`)
	case len(path) > maxSocketPath:
		l.refuse(at, fmt.Sprintf("%s has more than %d bytes, for which not every system has room", show(path), maxSocketPath), "choose a shorter path")
	case twice:
		l.refuse(at, show(path)+" is taken by "+other.path, "give each its own address")
	}
	taken[clean] = at
}

// isSocket reports whether an address is the path of a unix socket.
func isSocket(address string) bool { return strings.HasPrefix(address, "/") }

// IsSocket reports whether the listener is a unix socket, which processes of this machine alone reach.
func (ln *Listener) IsSocket() bool { return isSocket(ln.Address) }

func (l *loader) checkAdmin() {
	a, at := l.cfg.Admin, l.root.key("admin")
	if isSocket(a.Address) {
		l.refuse(at.key("address"), show(a.Address)+" is no address of the network", `write host:port, like "127.0.0.1:8017"`)
		return
	}
	host, _, why := splitAddress(a.Address)
	if why != "" || loopback(host) {
		return
	}
	if a.TokenFile == "" {
		l.refuse(at.key("address"), show(a.Address)+" is not a loopback address and there is no token",
			"set token_file, or listen on 127.0.0.1")
	}
	if a.TLS == nil {
		l.warn(at.key("address"), show(a.Address)+" is not a loopback address, and the token passes there for everybody to read",
			"add tls")
	}
}

func splitAddress(text string) (host, port, why string) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsAny(host, " /\t") {
		return "", "", show(text) + " is not an address"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", "", show(text) + " has no port between 0 and 65535"
	}
	return host, port, ""
}

// sameHost gives hosts that are one address the same text.
func sameHost(host string) string {
	if strings.EqualFold(host, "localhost") {
		return "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified():
		return "*"
	case err == nil:
		return ip.Unmap().String()
	}
	return strings.ToLower(host)
}

// loopback is false for other names than localhost, since they may resolve to anything.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func (l *loader) checkListeners() {
	keys := make(map[string]bool, len(l.cfg.Tenants))
	for _, t := range l.cfg.Tenants {
		keys[t.Key] = true
	}
	for i, ln := range l.cfg.Listeners {
		at := l.listenerAt[i]
		l.checkPresentation(at, ln)
		if ln.IsSocket() && ln.SocketMode&0o002 != 0 && ln.Auth == "" {
			l.warn(at.key("socket_mode"), "every user of the machine may do what this listener may", "set auth, or let its owner and a group write alone")
		}
		host, _, why := splitAddress(ln.Address)
		if why == "" && !loopback(host) && !ln.Insecure && ln.Auth == "" {
			l.refuse(at.key("address"), show(ln.Address)+" is not a loopback address and the listener has no authentication",
				"set auth, listen on 127.0.0.1, or set insecure = true if the network keeps everybody else out")
		}
		if why == "" && !loopback(host) && ln.Insecure {
			l.warn(at.key("insecure"), "whoever reaches "+show(ln.Address)+" may do what this listener may", "make sure that the network keeps everybody else out")
		}
		if ln.Tenant == "" {
			continue
		}
		if !keys[ln.Tenant] && l.cfg.TenantsFrom == nil {
			l.refuse(at.key("tenant"), show(ln.Tenant)+" is not the key of a tenant",
				"add it to [[tenants]], or configure [tenants_collection]")
		}
	}
}

func (l *loader) checkPresentation(at place, ln Listener) {
	switch {
	case ln.Presentation == "replica-set" && ln.ReplicaSet == "":
		l.refuse(at.key("presentation"), `"replica-set" needs the name of the set`,
			`add replica_set = "rs0" with the name that the clients' URIs carry`)
	case ln.Presentation != "replica-set" && ln.ReplicaSet != "":
		l.refuse(at.key("replica_set"), "has no meaning for presentation = "+show(ln.Presentation),
			`set presentation = "replica-set" or remove it`)
	}
	if ln.Advertise == "" {
		return
	}
	if host, port, why := splitAddress(ln.Advertise); why != "" || host == "" || port == "0" {
		l.refuse(at.key("advertise"), show(ln.Advertise)+" is not an address that clients could connect to",
			`write host:port, like "proxy1.example:27017"`)
	}
}

// fixedName is a physical database that exists whatever tenants there are.
type fixedName struct {
	name string
	what string
	at   place
}

// checkDatabases refuses names of which two could be one physical database: a tenant would see
// another's documents. All tenants may come to the home cluster, so it does not matter where
// those of the file are now.
func (l *loader) checkDatabases() {
	r := l.cfg.Routing
	if len(r.Databases) == 0 && r.Mode != "disabled" {
		l.refuse(l.root.key("routing"), "names no logical database, which the mode "+show(r.Mode)+" needs",
			`set shared_database and tenant_database`)
	}
	fixed := make(map[string]fixedName)
	for _, name := range serverDatabases {
		fixed[name] = fixedName{name: name, what: "the server's own database " + show(name)}
	}
	add := func(name string, at place) {
		if f, ok := fixed[fold(name)]; ok {
			l.refuse(at, show(name)+" is "+f.what+" as well", "give it a name of its own")
			return
		}
		fixed[fold(name)] = fixedName{name: name, what: show(name) + " of " + at.path, at: at}
	}
	if l.cfg.Control.Enabled {
		add(l.cfg.Control.Database, l.root.key("control").key("database"))
	}
	for i, d := range r.Databases {
		if d.Shared != "" {
			add(d.Shared, l.databaseAt[i].shared)
		}
	}
	l.checkPatterns(slices.SortedFunc(maps.Values(fixed), func(a, b fixedName) int { return strings.Compare(a.name, b.name) }))
}

func (l *loader) checkPatterns(fixed []fixedName) {
	var earlier []pattern
	var earlierAt []place
	for i, d := range l.cfg.Routing.Databases {
		p, ok := splitPattern(d.Tenant)
		if !ok {
			continue // which has been said
		}
		at := l.databaseAt[i].tenant
		for _, f := range fixed {
			if p.gives(f.name) {
				l.refuse(at, show(d.Tenant)+" could give "+f.what,
					"rename one of the two, or begin this with text that no other name begins with")
			}
		}
		for j, q := range earlier {
			if p.meets(q) {
				l.refuse(at, show(d.Tenant)+" and "+earlierAt[j].path+" could give one database",
					"let them begin differently, neither with the whole beginning of the other")
			}
		}
		earlier, earlierAt = append(earlier, p), append(earlierAt, at)
	}
}

// listedEntry is an entry of [modules] or [platform] with where it stands.
type listedEntry struct {
	Entry
	text   string
	module string // "" is [platform]
	at     place
}

func (e listedEntry) owner() string {
	if e.module == "" {
		return "[platform]"
	}
	return "module " + keyText(e.module)
}

// checkModules refuses a collection that would be in two places.
func (l *loader) checkModules() {
	names := make(map[string]bool, len(l.cfg.Modules))
	var entries []listedEntry
	at := l.root.key("modules")
	for _, m := range l.cfg.Modules {
		names[m.Name] = true
		entries = append(entries, l.entries(m.Name, m.Collections, at.key(m.Name))...)
	}
	entries = append(entries, l.entries("", l.cfg.Platform.Collections, l.root.key("platform").key("collections"))...)
	l.checkOverlaps(entries)
	l.checkTenantsList(entries)
	l.checkModuleNames(names)
}

// entries takes a list apart and refuses what is no collection and no pattern.
func (l *loader) entries(module string, texts []string, at place) []listedEntry {
	var entries []listedEntry
	for i, text := range texts {
		if text == "" {
			continue // which has been said
		}
		e := listedEntry{Entry: l.cfg.Routing.Entry(text), text: text, module: module, at: at.item(i)}
		if why, remedy := badEntry(e); why != "" {
			l.refuse(e.at, why, remedy)
			continue
		}
		entries = append(entries, e)
	}
	return entries
}

func badEntry(e listedEntry) (why, remedy string) {
	switch {
	case strings.Contains(e.Name, "*"):
		return show(e.text) + " is not a pattern", `write "*" or "prefix*", with one star at the end`
	case e.Prefix && e.module == "":
		return show(e.text) + " is a pattern, which [platform] does not take",
			"name each collection; those in no module are platform data anyway"
	case e.Prefix && (e.Name == "" || badCollection(e.Name+"x") == ""):
		return "", ""
	}
	return badCollection(e.Name), "name a collection"
}

// checkOverlaps compares equal names through a map, since there may be thousands, and only the
// patterns with everything.
func (l *loader) checkOverlaps(entries []listedEntry) {
	byName := make(map[string][]int, len(entries))
	var patterns []int
	for i, e := range entries {
		if e.Prefix {
			for j := range i {
				l.checkOverlap(entries[j], e)
			}
			patterns = append(patterns, i)
			continue
		}
		for _, j := range patterns {
			l.checkOverlap(entries[j], e)
		}
		for _, j := range byName[e.Name] {
			if l.checkOverlap(entries[j], e) {
				break
			}
		}
		byName[e.Name] = append(byName[e.Name], i)
	}
}

func (l *loader) checkOverlap(first, e listedEntry) bool {
	everything := first.Prefix && first.Name == "" && e.module == ""
	if everything || !first.overlaps(e.Entry) {
		return false
	}
	text := show(e.text) + " is in " + first.owner() + " already"
	if first.text != e.text {
		text = show(e.text) + " and " + show(first.text) + " of " + first.owner() + " mean the same collection"
		if first.Prefix || e.Prefix {
			text = show(e.text) + " and " + show(first.text) + " of " + first.owner() + " have collections in common"
		}
	}
	remedy := "list each collection once"
	if first.module != e.module {
		remedy = "a collection is in one module or in [platform]; remove it from one of the two"
	}
	l.refuse(e.at, text, remedy)
	return true
}

// checkTenantsList refuses to let the list of tenants move away with one of them.
func (l *loader) checkTenantsList(entries []listedEntry) {
	c := l.cfg.TenantsFrom
	if c == nil || !l.cfg.Routing.logical(c.Database) {
		return
	}
	for _, e := range entries {
		if e.module == "" && e.Has(c.Database, c.Name) {
			return
		}
	}
	for _, e := range entries {
		if e.Has(c.Database, c.Name) {
			l.refuse(e.at, show(e.text)+" contains the list of tenants that [tenants_collection] names",
				"list "+show(c.Name)+" in [platform]")
		}
	}
}

// checkModuleNames refuses unknown modules and repeated ones wherever modules are named.
func (l *loader) checkModuleNames(names map[string]bool) {
	check := func(modules []string, at func() place) {
		for i, name := range modules {
			switch {
			case name == "":
			case !names[name]:
				l.refuse(at().item(i), show(name)+" is not a module", l.moduleRemedy(name))
			case slices.Contains(modules[:i], name):
				l.refuse(at().item(i), show(name)+" is listed twice", "list it once")
			}
		}
	}
	check(l.cfg.Routing.IsolateModules, func() place { return l.root.key("routing").key("isolate_modules") })
	for i, t := range l.cfg.Tenants {
		check(t.Modules, func() place { return l.tenantAt[i].key("modules") })
	}
}

func (l *loader) moduleRemedy(name string) string {
	var known []string
	for _, m := range l.cfg.Modules {
		known = append(known, m.Name)
	}
	if near := nearest(name, known); near != "" {
		return "did you mean " + show(near) + "?"
	}
	return "add it to [modules] or remove it"
}

// checkTenants compares tenants through maps: there may be a hundred thousand.
func (l *loader) checkTenants() {
	tenants := l.cfg.Tenants
	byKey := make(map[string]int, len(tenants))
	byID := make(map[string]int, len(tenants))
	for i, t := range tenants {
		if t.Key != "" {
			l.checkKey(i, byKey)
		}
		if !t.ID.IsZero() {
			id := string(t.ID.Type) + string(t.ID.Value)
			if first, ok := byID[id]; ok {
				l.refuse(l.tenantKey(i, "id"), idText(t.ID)+" is already the id of "+l.tenantAt[first].path, "list each tenant once")
			} else {
				byID[id] = i
			}
		}
		if _, ok := l.cfg.Clusters[t.Cluster]; t.Cluster != "" && !ok {
			l.refuse(l.tenantKey(i, "cluster"), show(t.Cluster)+" is not a cluster", "name one of "+l.clusterNames())
		}
	}
}

// tenantKey is where a tenant's setting stands; of one from the environment the variable.
func (l *loader) tenantKey(i int, key string) place {
	if l.tenantAt[i].file == "" {
		return l.tenantAt[i]
	}
	return l.tenantAt[i].key(key)
}

// checkKey looks at one tenant's key; byKey has the keys before it, folded.
func (l *loader) checkKey(i int, byKey map[string]int) {
	key := l.cfg.Tenants[i].Key
	if first, ok := byKey[fold(key)]; ok {
		other, path := l.cfg.Tenants[first].Key, l.tenantAt[first].path
		if other == key {
			l.refuse(l.tenantKey(i, "key"), show(key)+" is already the key of "+path, "give each tenant its own key")
		} else {
			l.refuse(l.tenantKey(i, "key"), show(key)+" differs from "+show(other)+", the key of "+path+
				", only by case, and a server takes both for one database", "give each tenant its own key")
		}
		return
	}
	byKey[fold(key)] = i
	if why := badDatabaseText(key); why != "" {
		l.refuse(l.tenantKey(i, "key"), why, "choose a key that can be part of a database name")
		return
	}
	for _, d := range l.cfg.Routing.Databases {
		if n := len(d.Tenant) - len(keySlot) + len(key); n > maxDatabaseName {
			l.refuse(l.tenantKey(i, "key"), fmt.Sprintf("%s makes the database name %s, which has %d bytes; a server allows %d",
				show(key), show(d.Name(key)), n, maxDatabaseName), "choose a shorter key, or shorten tenant_database")
		}
	}
}
