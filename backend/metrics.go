package backend

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

func (d *deployment) log() *zerolog.Logger {
	l := d.cluster.all.opts.Log.With().Str("cluster", d.cluster.name).Logger()
	return &l
}

// waitMetrics counts waits for connections, per cluster.
type waitMetrics struct {
	seconds  *prometheus.HistogramVec
	timeouts *prometheus.CounterVec
}

// clusterWaits is one cluster's children of waitMetrics.
type clusterWaits struct {
	seconds  prometheus.Observer
	timeouts prometheus.Counter
}

func newWaitMetrics() *waitMetrics {
	return &waitMetrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tenantry_backend_wait_seconds",
			Help:    "Time spent waiting for a connection where none was idle.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"cluster"}),
		timeouts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_backend_wait_timeouts_total",
			Help: "Waits for a connection that ended without one.",
		}, []string{"cluster"}),
	}
}

func (m *waitMetrics) of(cluster string) *clusterWaits {
	return &clusterWaits{m.seconds.WithLabelValues(cluster), m.timeouts.WithLabelValues(cluster)}
}

func (m *waitMetrics) drop(cluster string) {
	m.seconds.DeleteLabelValues(cluster)
	m.timeouts.DeleteLabelValues(cluster)
}

func (w *clusterWaits) observe(d time.Duration, err error) {
	w.seconds.Observe(d.Seconds())
	if errors.Is(err, ErrBusy) {
		w.timeouts.Inc()
	}
}

var (
	connectionsDesc = prometheus.NewDesc("tenantry_backend_connections",
		"Connections by state.", []string{"cluster", "server", "state"}, nil)
	tenantDesc = prometheus.NewDesc("tenantry_backend_tenant_connections",
		"Connections in use, and places in the queue for one, by tenant; who has neither is not listed.",
		[]string{"cluster", "server", "tenant"}, nil)
	waitingDesc = prometheus.NewDesc("tenantry_backend_waiting",
		"Acquires that wait for a connection now.", []string{"cluster", "server"}, nil)
	dialsDesc = prometheus.NewDesc("tenantry_backend_dials_total",
		"Connections tried to open.", []string{"cluster", "server"}, nil)
	failuresDesc = prometheus.NewDesc("tenantry_backend_dial_failures_total",
		"Connections that could not be opened or logged in.", []string{"cluster", "server"}, nil)
	clearsDesc = prometheus.NewDesc("tenantry_backend_pool_clears_total",
		"Times that all connections to a server were given up.", []string{"cluster", "server"}, nil)
	readyDesc = prometheus.NewDesc("tenantry_backend_topology_ready",
		"1 while a server that takes writes is known.", []string{"cluster"}, nil)
)

// collector reads the pools when it is asked, so that lending a connection counts nothing.
type collector struct{ cs *Clusters }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, tenantDesc, waitingDesc, dialsDesc, failuresDesc, clearsDesc, readyDesc} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, cluster := range c.cs.All() {
		ready := 0.0
		if cluster.Ready() {
			ready = 1
		}
		ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready, cluster.name)
		if d := cluster.current.Load(); d != nil {
			for _, p := range d.allPools() {
				p.collect(ch, cluster.name, c.cs.opts.TenantKey)
			}
		}
	}
}

func (p *pool) collect(ch chan<- prometheus.Metric, cluster string, key func(uint32) string) {
	claimed := map[string]int{}
	p.mu.Lock()
	idle, inUse, dialing, waiting := len(p.idle), int(p.inUse.Load()), p.dialing, int(p.waits.Load())
	for tenant, s := range p.shares() {
		if s.claimed > 0 && key != nil {
			claimed[key(tenant)] += s.claimed
		}
	}
	p.mu.Unlock()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), append([]string{cluster, p.addr}, labels...)...)
	}
	gauge(connectionsDesc, idle, "idle")
	gauge(connectionsDesc, inUse, "in_use")
	gauge(connectionsDesc, dialing, "dialing")
	gauge(waitingDesc, waiting)
	for tenant, n := range claimed {
		gauge(tenantDesc, n, tenant)
	}
	count := func(d *prometheus.Desc, n *atomic.Int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), cluster, p.addr)
	}
	count(dialsDesc, &p.dials)
	count(failuresDesc, &p.failures)
	count(clearsDesc, &p.clears)
}

func (cs *Clusters) collectors() []prometheus.Collector {
	return []prometheus.Collector{collector{cs}, cs.waits.seconds, cs.waits.timeouts}
}

func (cs *Clusters) register(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range cs.collectors() {
		if err := r.Register(c); err != nil {
			cs.opts.Log.Error().Err(err).Msg("backend metrics cannot be registered")
		}
	}
}

func (cs *Clusters) unregister() {
	if r := cs.opts.Registerer; r != nil {
		for _, c := range cs.collectors() {
			r.Unregister(c)
		}
	}
}
