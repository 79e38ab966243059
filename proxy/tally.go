package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smetasc/tenantry/wire"
)

// tally is a histogram of latencies. To count costs two atomic additions in one or two lines of the
// CPU's cache: with a thousand tenants in turn, each line that is not at hand costs as much as a part
// of the command's work.
type tally struct {
	nanos  atomic.Int64
	counts [maxBounds + 1]atomic.Uint64 // of the latencies up to each bound, and of those beyond
}

const maxBounds = 16

// Bounds of the histograms, at most maxBounds.
var (
	commandBounds = []time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	}
	tenantBounds = []time.Duration{
		time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
		2500 * time.Millisecond, 10 * time.Second,
	}
)

func (t *tally) observe(took time.Duration, bounds []time.Duration) {
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	t.counts[i].Add(1)
	t.nanos.Add(int64(took))
}

// metric is the tally as it is told.
func (t *tally) metric(desc *prometheus.Desc, bounds []time.Duration, labels ...string) prometheus.Metric {
	buckets, n := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, b := range bounds {
		n += t.counts[i].Load()
		buckets[b.Seconds()] = n
	}
	n += t.counts[len(bounds)].Load()
	return prometheus.MustNewConstHistogram(desc, n, time.Duration(t.nanos.Load()).Seconds(), buckets, labels...)
}

// seriesTally is a tally that many CPUs count in at once: no other one shares its last line.
type seriesTally struct {
	tally
	_ [6]uint64
}

// tenantTally is what is counted of one tenant, or of all that have none of their own. What most
// commands change stands in its first line.
type tenantTally struct {
	good atomic.Uint64
	tally
	label string

	mu     sync.Mutex // guards the following
	failed map[wire.Code]uint64
}

func (t *tenantTally) observe(code wire.Code, took time.Duration) {
	t.tally.observe(took, tenantBounds)
	if code == 0 {
		t.good.Add(1)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = map[wire.Code]uint64{}
	}
	t.failed[code]++
}

// outcomes are the commands so far by outcome, those without any left out.
func (t *tenantTally) outcomes() map[string]uint64 {
	m := map[string]uint64{}
	if n := t.good.Load(); n > 0 {
		m["ok"] = n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for code, n := range t.failed {
		m[code.Name()] += n // several codes may have no name
	}
	return m
}

var (
	commandsDesc = prometheus.NewDesc("tenantry_command_seconds",
		"Commands by kind, cluster and outcome, with their latency.", []string{"command", "cluster", "outcome"}, nil)
	tenantsDesc = prometheus.NewDesc("tenantry_tenant_commands_total",
		"Commands by tenant and outcome; tenants beyond the first thousand are \"other\".", []string{"tenant", "outcome"}, nil)
	tenantSecondsDesc = prometheus.NewDesc("tenantry_tenant_command_seconds",
		"Latency of commands by tenant; tenants beyond the first thousand are \"other\".", []string{"tenant"}, nil)
)

// Describe names what Collect tells.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- commandsDesc
	ch <- tenantsDesc
	ch <- tenantSecondsDesc
}

// Collect tells the tallies.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for k, t := range *m.series.Load() {
		name := "unknown"
		if k.command != nil {
			name = k.command.Name
		}
		ch <- t.metric(commandsDesc, commandBounds, name, k.cluster, outcomeName(k.code))
	}
	for _, t := range m.tallies() {
		for outcome, n := range t.outcomes() {
			ch <- prometheus.MustNewConstMetric(tenantsDesc, prometheus.CounterValue, float64(n), t.label, outcome)
		}
		ch <- t.metric(tenantSecondsDesc, tenantBounds, t.label)
	}
}

func (m *metrics) tallies() []*tenantTally {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.named))
}
