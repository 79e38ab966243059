package control

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what this room counts.
type metrics struct {
	version, epoch prometheus.Gauge
	tenants        *prometheus.GaugeVec
	leftOut        prometheus.Gauge
	flips          *prometheus.CounterVec
	refreshErrors  prometheus.Counter
	telling        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		version: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tenantry_control_table_version", Help: "Version of the current table.",
		}),
		epoch: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tenantry_control_table_epoch", Help: "Epoch of the current table.",
		}),
		tenants: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tenantry_control_tenants", Help: "Tenants of the current table by state.",
		}, []string{"state"}),
		leftOut: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tenantry_control_tenants_left_out", Help: "Listed tenants that can not be used, or say what can not be understood.",
		}),
		flips: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_control_flips_total", Help: "Flips of tenants by direction and outcome.",
		}, []string{"direction", "outcome"}),
		refreshErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantry_control_refresh_errors_total", Help: "Readings of tenants and routes that failed.",
		}),
		telling: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tenantry_control_telling_indexes", Help: "Unique indexes of shared that tell tenants of each other, where connections with row isolation are configured.",
		}),
	}
	if r != nil {
		r.MustRegister(m.version, m.epoch, m.tenants, m.leftOut, m.flips, m.refreshErrors, m.telling)
	}
	return m
}

func (m *metrics) table(version, epoch uint64) {
	m.version.Set(float64(version))
	m.epoch.Set(float64(epoch))
}

// counts is how many tenants are in which state, and how many problems there are.
type counts struct {
	byState map[string]int
	leftOut int
}

func (m *metrics) count(n counts) {
	for _, s := range []string{StateShared, StateIsolated, StatePending, StatePaused, StateRefused} {
		m.tenants.WithLabelValues(s).Set(float64(n.byState[s]))
	}
	m.leftOut.Set(float64(n.leftOut))
}

// every lets one log line per text through in a minute, and not many lines in all.
type every struct {
	mu    sync.Mutex
	since time.Time
	said  map[string]bool // since then
}

func (e *every) allows(what string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); e.said == nil || now.Sub(e.since) >= time.Minute {
		e.since, e.said = now, map[string]bool{}
	}
	if e.said[what] || len(e.said) >= 50 {
		return false
	}
	e.said[what] = true
	return true
}
