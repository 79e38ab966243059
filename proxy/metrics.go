package proxy

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// outcome is what is told of a command when it is over.
type outcome struct {
	code   wire.Code // 0 is success
	target *routing.Target
	tenant *routing.Tenant
	waits  bool // for events that come when they come: it is not slow
}

// metrics counts what the room does. A command's series are found by one look-up in a map that is
// replaced when a new one comes, a tenant's by its number.
type metrics struct {
	turnedAway prometheus.Counter
	malformed  prometheus.Counter
	panics     prometheus.Counter
	held       prometheus.Counter
	lost       *prometheus.CounterVec
	leaks      *prometheus.CounterVec
	logins     *prometheus.CounterVec
	shutOut    prometheus.Counter

	series  atomic.Pointer[map[seriesKey]*seriesTally]    // never changed, but replaced under mu
	tenants atomic.Pointer[[]atomic.Pointer[tenantTally]] // by number; written, and replaced to grow, under mu
	mu      sync.Mutex                                    // guards the following
	named   map[string]*tenantTally                       // by label: tenants with series of their own, and otherTenants
}

type seriesKey struct {
	command *routing.Command
	cluster string
	code    wire.Code
}

// maxTenantSeries bounds the tenants that have series of their own; the others share one.
const (
	maxTenantSeries = 1000
	otherTenants    = "other"
)

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	m := &metrics{
		turnedAway: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_clients_turned_away_total", Help: "Connections closed because limits.client_connections was reached.",
		}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_malformed_messages_total", Help: "Connections closed because what came was no message.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_panics_total", Help: "Connections closed because serving them panicked; report each.",
		}),
		held: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_held_commands_total", Help: "Commands that waited for their tenant to be looked at.",
		}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_unreachable_total", Help: "Commands that failed because their cluster could not be reached.",
		}, []string{"cluster"}),
		leaks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_leaks_stopped_total", Help: "Replies withheld because a document was another tenant's; report each.",
		}, []string{"tenant"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_logins_total", Help: "Log-ins by result: ok, failed, throttled (too many had failed), refused (the password was right).",
		}, []string{"result"}),
		shutOut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_shut_out_total", Help: "Commands refused and connections closed because of [[deny]] or a user who was changed or removed.",
		}),
		named: map[string]*tenantTally{},
	}
	for _, result := range []string{"ok", "failed", "throttled", "refused"} {
		m.logins.WithLabelValues(result) // so that the first one is an increase, too
	}
	m.series.Store(&map[seriesKey]*seriesTally{})
	m.tenants.Store(&[]atomic.Pointer[tenantTally]{})
	if reg == nil {
		return m
	}
	reg.MustRegister(m, clientCollector{s}, m.turnedAway, m.malformed, m.panics, m.held, m.lost, m.leaks, m.logins, m.shutOut,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tenantry_cursors", Help: "Cursors open now."},
			func() float64 { return float64(s.cursors.open()) }))
	return m
}

// observe counts the command that is over, and logs it where it was slow.
func (c *clientConn) observe() {
	took := time.Since(c.start)
	o := &c.outcome
	cluster := ""
	if o.target != nil {
		cluster = o.target.Cluster
	}
	c.srv.metrics.command(seriesKey{c.req.Cmd, cluster, o.code}).observe(took, commandBounds)
	if o.tenant != nil {
		c.srv.metrics.tenant(o.tenant).observe(o.code, took)
	}
	if slow := c.srv.settings.Load().slow; slow > 0 && took >= slow && !o.waits && c.req.Cmd != nil && c.req.Cmd.Access != routing.None {
		e := c.log.Info().Str("command", c.req.Cmd.Name).Bytes("database", c.req.DB).Bytes("collection", c.req.Coll()).
			Dur("took", took).Str("outcome", outcomeName(o.code))
		if o.tenant != nil {
			e = e.Str("tenant", o.tenant.Key)
		}
		if c.viewed.is && c.viewed.coll != string(c.req.Coll()) {
			e = e.Str("view", c.viewed.coll)
		}
		e.Msg("slow command")
	}
}

func (m *metrics) command(k seriesKey) *seriesTally {
	if t := (*m.series.Load())[k]; t != nil {
		return t
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := (*m.series.Load())[k]; t != nil {
		return t
	}
	t, more := &seriesTally{}, maps.Clone(*m.series.Load())
	more[k] = t
	m.series.Store(&more)
	return t
}

func (m *metrics) tenant(t *routing.Tenant) *tenantTally {
	if list := *m.tenants.Load(); int(t.Num) < len(list) {
		if x := list[t.Num].Load(); x != nil {
			return x
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := *m.tenants.Load()
	if int(t.Num) >= len(list) {
		more := make([]atomic.Pointer[tenantTally], 2*int(t.Num)+64)
		for i := range list {
			more[i].Store(list[i].Load())
		}
		list = more
		m.tenants.Store(&more)
	}
	x := m.tallyFor(t.Key)
	list[t.Num].Store(x)
	return x
}

// tallyFor is the key's own tally while there are few enough. The caller holds the mutex.
func (m *metrics) tallyFor(key string) *tenantTally {
	if m.named[key] == nil && len(m.named) >= maxTenantSeries {
		key = otherTenants
	}
	t := m.named[key]
	if t == nil {
		t = &tenantTally{label: key}
		m.named[key] = t
	}
	return t
}

// label is what a tenant is called in the metrics.
func (m *metrics) label(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tallyFor(key).label
}

// outcomeName is an outcome as logs and metrics call it.
func outcomeName(code wire.Code) string {
	if code == 0 {
		return "ok"
	}
	return code.Name()
}

// outageLines bounds the lines about one cluster: while it is away every command has one.
var outageLines = auth.Limit{Count: 10, Period: 10 * time.Second}

// unreachable counts and logs a command that its cluster did not answer.
func (s *Server) unreachable(c *clientConn, cluster string, err error) {
	s.metrics.lost.WithLabelValues(cluster).Inc()
	e := c.log.Warn()
	switch {
	case errors.Is(err, backend.ErrClosed):
		e = c.log.Debug()
	case !s.outages.take(cluster, outageLines, time.Now()):
		return
	default:
		e = s.outages.mark(e)
	}
	e.Err(err).Str("cluster", cluster).Bytes("command", c.req.Name).Msg("no answer from the cluster")
}

var clientsDesc = prometheus.NewDesc("tenantry_client_connections",
	"Clients connected now, by the tenant that they are bound to; none for those that carry all tenants, and before they authenticate.", []string{"tenant"}, nil)

// clientCollector counts the connected clients when it is asked.
type clientCollector struct{ s *Server }

func (c clientCollector) Describe(ch chan<- *prometheus.Desc) { ch <- clientsDesc }

func (c clientCollector) Collect(ch chan<- prometheus.Metric) {
	n := map[string]int{"": 0}
	c.s.mu.Lock()
	for x := range c.s.clients {
		tenant := ""
		if who := x.who.Load(); who != nil && who.Tenant != "" {
			tenant = c.s.metrics.label(who.Tenant)
		}
		n[tenant]++
	}
	c.s.mu.Unlock()
	for tenant, n := range n {
		ch <- prometheus.MustNewConstMetric(clientsDesc, prometheus.GaugeValue, float64(n), tenant)
	}
}
