package proxy

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// metrics counts what the room does. Series are resolved once and kept, so that a command costs
// two map look-ups and no formatting.
type metrics struct {
	commands   *prometheus.HistogramVec
	tenants    *prometheus.CounterVec
	latency    *prometheus.HistogramVec
	turnedAway prometheus.Counter
	malformed  prometheus.Counter
	panics     prometheus.Counter
	held       prometheus.Counter
	lost       *prometheus.CounterVec
	leaks      *prometheus.CounterVec
	logins     *prometheus.CounterVec
	shutOut    prometheus.Counter

	series    sync.Map // seriesKey → prometheus.Observer
	perTenant sync.Map // tenantKey → *tenantSeries
	mu        sync.Mutex
	named     map[string]bool // tenants with series of their own
}

type seriesKey struct {
	command *routing.Command
	cluster string
	outcome string
}

type tenantKey struct {
	tenant  uint32
	outcome string
}

// tenantSeries are a tenant's; its latency is the same for every outcome.
type tenantSeries struct {
	commands prometheus.Counter
	seconds  prometheus.Observer
}

// maxTenantSeries bounds the tenants that have series of their own; the others share one.
const maxTenantSeries = 1000

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	m := &metrics{
		commands: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantry_command_seconds", Help: "Commands by kind, cluster and outcome, with their latency.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"command", "cluster", "outcome"}),
		tenants: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_tenant_commands_total", Help: "Commands by tenant and outcome; tenants beyond the first thousand are \"other\".",
		}, []string{"tenant", "outcome"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tenantry_tenant_command_seconds", Help: "Latency of commands by tenant; tenants beyond the first thousand are \"other\".",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"tenant"}),
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
		named: map[string]bool{},
	}
	for _, result := range []string{"ok", "failed", "throttled", "refused"} {
		m.logins.WithLabelValues(result) // so that the first one is an increase, too
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.commands, m.tenants, m.latency, clientCollector{s}, m.turnedAway, m.malformed, m.panics, m.held, m.lost, m.leaks, m.logins, m.shutOut,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tenantry_cursors", Help: "Cursors open now."},
			func() float64 { return float64(s.cursors.count()) }))
	return m
}

// observe counts the command that is over, and logs it where it was slow.
func (c *clientConn) observe() {
	took := time.Since(c.start)
	o := &c.outcome
	word := "ok"
	if o.code != 0 {
		word = o.code.Name()
	}
	cluster := ""
	if o.target != nil {
		cluster = o.target.Cluster
	}
	c.srv.metrics.command(seriesKey{c.req.Cmd, cluster, word}).Observe(took.Seconds())
	if o.tenant != nil {
		x := c.srv.metrics.tenant(o.tenant, word)
		x.commands.Inc()
		x.seconds.Observe(took.Seconds())
	}
	if slow := c.srv.settings.Load().slow; slow > 0 && took >= slow && !o.waits && c.req.Cmd != nil && c.req.Cmd.Access != routing.None {
		e := c.log.Info().Str("command", c.req.Cmd.Name).Bytes("database", c.req.DB).Bytes("collection", c.req.Coll()).
			Dur("took", took).Str("outcome", word)
		if o.tenant != nil {
			e = e.Str("tenant", o.tenant.Key)
		}
		e.Msg("slow command")
	}
}

func (m *metrics) command(k seriesKey) prometheus.Observer {
	if o, ok := m.series.Load(k); ok {
		return o.(prometheus.Observer)
	}
	name := "unknown"
	if k.command != nil {
		name = k.command.Name
	}
	o, _ := m.series.LoadOrStore(k, m.commands.WithLabelValues(name, k.cluster, k.outcome))
	return o.(prometheus.Observer)
}

func (m *metrics) tenant(t *routing.Tenant, outcome string) *tenantSeries {
	k := tenantKey{t.Num, outcome}
	if o, ok := m.perTenant.Load(k); ok {
		return o.(*tenantSeries)
	}
	label := m.label(t.Key)
	o, _ := m.perTenant.LoadOrStore(k, &tenantSeries{m.tenants.WithLabelValues(label, outcome), m.latency.WithLabelValues(label)})
	return o.(*tenantSeries)
}

// label is the tenant's key while there are few enough.
func (m *metrics) label(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.named[key] {
		return key
	}
	if len(m.named) >= maxTenantSeries {
		return "other"
	}
	m.named[key] = true
	return key
}

// unreachable counts and logs a command that its cluster did not answer.
func (s *Server) unreachable(c *clientConn, cluster string, err error) {
	s.metrics.lost.WithLabelValues(cluster).Inc()
	e := c.log.Warn()
	if errors.Is(err, backend.ErrClosed) {
		e = c.log.Debug()
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
