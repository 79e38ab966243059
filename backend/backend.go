// Package backend is the clusters behind the proxy: it knows which servers there are and what
// they are, picks one for a command, lends a connection to it, and carries one frame there and
// one back. It does not look into commands, and it never sends one twice.
//
// Discovery, monitoring and elections are the Go driver's (x/mongo/driver/topology), and so is
// the log-in (x/mongo/driver/auth); this is the only room that imports them. The driver's pools
// stay unused: the connections here are our own, and once one has been handshaken the driver is
// not on the path of a command.
//
//	topology ──▶ table (immutable, swapped whole) ──▶ pick ──▶ pool ──▶ Conn
//	   ▲                                                        │
//	   └──────────── errors of connections in use ◀─────────────┘
//
// How to work with the driver's topology from outside of a mongo.Client, and which of its habits
// must be respected, stands beside the code that does: topology.go, dial.go, pool.go (report).
package backend

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/wire"
)

// Spec is one cluster as configured.
type Spec struct {
	Name string
	URI  string // with its credentials; shown nowhere
}

// Limits bounds what is kept open.
type Limits struct {
	MaxPerServer    int           // connections to one server; 0: 100
	MaxPerTenant    int           // of them in use by one tenant at once; 0: no limit
	Idle            time.Duration // an idle connection is closed after this; 0: 5 minutes
	MaxIdleClusters int           // clusters kept running beyond those in use; 0: all
}

const (
	defaultMaxPerServer = 100
	defaultIdle         = 5 * time.Minute
)

func (l Limits) withDefaults() Limits {
	if l.MaxPerServer <= 0 {
		l.MaxPerServer = defaultMaxPerServer
	}
	if l.MaxPerTenant <= 0 || l.MaxPerTenant > l.MaxPerServer {
		l.MaxPerTenant = l.MaxPerServer
	}
	if l.Idle <= 0 {
		l.Idle = defaultIdle
	}
	return l
}

// Options is what all clusters share.
type Options struct {
	Log        zerolog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Budget     *wire.Budget          // bounds the memory of large replies; nil: no bound
	AppName    string                // announced to servers where the URI names none
	Limits     Limits
	// TenantKey names a tenant in the metrics; nil: they tell none.
	TenantKey func(tenant uint32) string
}
