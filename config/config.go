// Package config is the configuration file: one struct, read from TOML, overlaid by the
// environment, completed with defaults and validated as a whole. It constructs nothing: the
// rooms take from it what is theirs. A file is either accepted wholly or refused with every
// mistake named by file, line, key and remedy.
package config

import (
	"io/fs"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Config is one configuration, complete with defaults and validated. It is a value that is
// replaced as a whole and never changed after [Load] returned it.
type Config struct {
	Log         Log
	Listeners   []Listener
	Admin       Admin
	Control     Control
	Clusters    map[string]Cluster // by name
	Routing     Routing
	Modules     []Module // in the order of the file
	Platform    Platform
	TenantsFrom *TenantsCollection // [tenants_collection]; nil where the file alone lists tenants
	Tenants     []Tenant           // [[tenants]], then those of MULTI_DB_TENANT_KEYS that no entry lists
	TenantKeys  []string           // MULTI_DB_TENANT_KEYS as given; nil where it is not set
	Pools       Pools
	Limits      Limits
	Guard       Guard
	Auth        Auth
	Users       []User // of the users file, in its order
	Deny        []Deny

	Certificates []Certificate // [[auth.certificates]]

	files    []string       // that were read, the configuration itself first
	lines    map[string]int // of the keys that RestartNeeded names
	fleetKey *[32]byte      // digest of the fleet key file's content; nil where there is none
}

// Files is the configuration file and the files that it names and that were read with it: what
// [Watch] should look at.
func (c *Config) Files() []string { return slices.Clone(c.files) }

// remember keeps the line of a key for [RestartNeeded].
func (c *Config) remember(at place) {
	if c.lines == nil {
		c.lines = make(map[string]int)
	}
	c.lines[at.path] = at.line
}

// Log is [log].
type Log struct {
	Level  string        // trace, debug, info, warn, error
	Format string        // "" (console on a terminal, else JSON), "console" or "json"
	Slow   time.Duration // commands that took longer are logged; 0 logs none
}

// Listener is one of [[listeners]].
type Listener struct {
	Address      string      // host:port, or the path of a unix socket
	SocketMode   fs.FileMode // permissions of a unix socket: who may write to it may connect; 0 elsewhere
	Presentation string      // "mongos" or "replica-set"
	ReplicaSet   string      // set name of the replica-set presentation
	LoadBalanced bool        // answer loadBalanced=true with a serviceId
	Advertise    string      // host:port that hello names; "" is Address
	Insecure     bool        // an address that is not loopback although clients are not authenticated
	Auth         string      // "scram"; "" where clients are not asked who they are
	Tenant       string      // key of the tenant every connection is bound to; "" for an open listener
	Isolation    string      // "rows" or "database"; only of a bound listener
	Access       string      // "read", "write" or "owner"; only of a bound listener
	TLS          *TLS        // nil: none
}

// Admin is [admin].
type Admin struct {
	Address   string // host:port; "" switches the admin server off
	TokenFile string // path of the bearer token's file; needed on an address that is not loopback
	TLS       *TLS   // nil: none
}

// Control is [control].
type Control struct {
	Enabled      bool
	Database     string // on the home cluster; no client can name it
	FleetKeyFile string // path; "" keeps the key in the control database
}

// Cluster is one of [clusters.NAME]. The URI is a secret: it is redacted wherever a Cluster
// is printed.
type Cluster struct {
	Name string
	URI  Secret
}

// Routing is [routing].
type Routing struct {
	Mode           string // "disabled", "mixed" or "forced"
	Home           string // cluster with the shared databases and the control database
	Databases      []Database
	TenantField    string            // default field that holds a document's tenant
	TenantFields   map[string]string // by collection, or by "database.collection"
	OtherDatabases string            // "pass" or "hide"
	WithoutTenant  string            // "scatter", "shared" or "reject"
	IsolateModules []string          // default modules of isolated tenants; nil is all of them, empty is none
	ScatterWidth   int               // sub-commands at once for one command
	RequireTenant  bool              // require_tenant_on_insert
	MaxScatter     int               // max_scatter_targets; 0 is no limit
	AllowDrop      bool              // allow_drop_database
	StrictUnique   bool              // strict_unique: no write of a bound connection where a duplicate key tells of others
	ShipLimit      int64             // ship_limit: bytes of documents that one pipeline brings together
}

// Database is one logical database: the name clients use, which is also the shared database's,
// and the pattern of the tenants' own, which contains {key} once.
type Database struct {
	Shared string // shared_database, or shared of [[routing.databases]]
	Tenant string // tenant_database, or tenant of [[routing.databases]]
}

// Module is one line of [modules]: collections that move together. An entry is a collection,
// "database.collection", or a prefix pattern that ends with *; [Routing.Entry] takes it apart.
type Module struct {
	Name        string
	Collections []string
}

// Platform is [platform].
type Platform struct {
	Collections []string          // never move; a collection in no module is platform data too
	Bound       map[string]string // what connections with row isolation may do, by collection: "own", "read", "none"
}

// TenantsCollection is [tenants_collection]: the application's own list of tenants.
type TenantsCollection struct {
	Database string
	Name     string
	ID       string // field with the tenant's id as documents carry it
	Key      string // field with the tenant's key
	Mode     string // field with "shared" or "per-tenant"
	Refresh  time.Duration
}

// Tenant is one of [[tenants]].
type Tenant struct {
	ID      bson.RawValue // string, ObjectID, UUID (binary subtype 4), int64
	Key     string
	Mode    string   // "shared", "per-tenant", or "": the tenants collection or the mode's default decides
	Cluster string   // "" is the home cluster
	Modules []string // nil: Routing.IsolateModules; empty is none
	Source  string   // where it was listed, for people: "tenantry.toml:61", "MULTI_DB_TENANT_KEYS"
}

// Pools is [pools].
type Pools struct {
	MaxPerServer int           // sockets per server and credential
	MaxPerTenant int           // of them in use by one tenant at once
	Idle         time.Duration // unused sockets are closed after this
	MaxTenants   int           // tenants with credentials or clusters of their own
}

// Guard is [guard].
type Guard struct {
	MaxTime time.Duration // longest time of a command of a bound connection; 0 is no limit
	Leaks   string        // how much of the replies to bound connections is looked at: "off", "sampled" or "full"
}

// Limits is [limits].
type Limits struct {
	ClientConnections int
	InFlightPerTenant int           // 0 is no limit
	QueueTimeout      time.Duration // longest wait of a held command
	MessageMemory     int64         // bytes of all messages in flight together
	IOUring           bool          // many sockets may read and write by one system call, where the system lets them
}
