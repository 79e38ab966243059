package proxy

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// gathered is what a registry tells, by name and labels.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]*dto.Metric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.Metric{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			all[name] = m
		}
	}
	return all
}

func counted(t *testing.T) (*metrics, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	return newMetrics(reg, &Server{cursors: newCursors()}), reg
}

// TestTallyIsAHistogram: what a tally tells is what Prometheus' own histogram tells of the same.
func TestTallyIsAHistogram(t *testing.T) {
	var bounds []float64
	for _, b := range commandBounds {
		bounds = append(bounds, b.Seconds())
	}
	reg := prometheus.NewRegistry()
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "theirs", Buckets: bounds})
	reg.MustRegister(theirs)
	m, ours := counted(t)
	find := &routing.Command{Name: "find"}
	for _, took := range []time.Duration{0, 1, 99 * time.Microsecond, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Second, 10 * time.Second, time.Hour} {
		theirs.Observe(took.Seconds())
		m.command(seriesKey{command: find, cluster: "home"}).observe(took, commandBounds)
	}
	want, got := gathered(t, reg)["theirs"].Histogram, gathered(t, ours)["tenantry_command_seconds home find ok"].GetHistogram()
	if got.GetSampleCount() != want.GetSampleCount() || math.Abs(got.GetSampleSum()-want.GetSampleSum()) > 1e-6 || len(got.Bucket) != len(bounds) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i, b := range got.Bucket {
		if b.GetUpperBound() != want.Bucket[i].GetUpperBound() || b.GetCumulativeCount() != want.Bucket[i].GetCumulativeCount() {
			t.Errorf("bucket %v, want %v", b, want.Bucket[i])
		}
	}
}

func TestTenantsAreCountedByOutcome(t *testing.T) {
	m, reg := counted(t)
	acme := &routing.Tenant{Num: 7, Key: "acme"}
	for range 3 {
		m.tenant(acme).observe(0, time.Millisecond)
	}
	m.tenant(acme).observe(wire.Unauthorized, time.Second)
	all := gathered(t, reg)
	if n := all["tenantry_tenant_commands_total ok acme"].GetCounter().GetValue(); n != 3 {
		t.Errorf("%v good ones", n)
	}
	if n := all["tenantry_tenant_commands_total Unauthorized acme"].GetCounter().GetValue(); n != 1 {
		t.Errorf("%v refused ones", n)
	}
	h := all["tenantry_tenant_command_seconds acme"].GetHistogram()
	if h.GetSampleCount() != 4 || math.Abs(h.GetSampleSum()-1.003) > 1e-9 {
		t.Errorf("%v", h)
	}
}

// TestManyTenants: the first thousand have series of their own, the others share one, also with a
// tenant that is called so; and nobody's commands are lost when the list grows meanwhile.
func TestManyTenants(t *testing.T) {
	m, reg := counted(t)
	const tenants, each = 3000, 20
	var wg sync.WaitGroup
	for range each {
		wg.Go(func() {
			for n := range tenants {
				key := fmt.Sprintf("t%d", n)
				if n == 1500 {
					key = otherTenants
				}
				m.tenant(&routing.Tenant{Num: uint32(n + 1), Key: key}).observe(0, time.Millisecond)
				m.command(seriesKey{cluster: fmt.Sprint("c", n%50)}).observe(time.Millisecond, commandBounds)
			}
		})
	}
	wg.Wait()
	total, series, commands := 0.0, 0, uint64(0)
	for name, x := range gathered(t, reg) {
		if x.Counter != nil && len(name) > 30 && name[:30] == "tenantry_tenant_commands_total" {
			total += x.Counter.GetValue()
			series++
		}
		if len(name) > 24 && name[:24] == "tenantry_command_seconds" {
			commands += x.Histogram.GetSampleCount()
		}
	}
	if total != tenants*each || commands != tenants*each || series != maxTenantSeries+1 {
		t.Errorf("%v of the tenants' commands and %d of all in %d series, want %d in %d", total, commands, series, tenants*each, maxTenantSeries+1)
	}
}

// TestTalliesKeepApart: a tenant's tally begins with a line of the cache and ends with one.
func TestTalliesKeepApart(t *testing.T) {
	if n := unsafe.Sizeof(tenantTally{}); n > 192 || n <= 176 { // 192 is a size that the allocator has
		t.Errorf("a tenant's tally has %d bytes", n)
	}
	if n := unsafe.Sizeof(seriesTally{}); n != 192 {
		t.Errorf("a command's has %d bytes", n)
	}
	if len(commandBounds) > maxBounds || len(tenantBounds) > maxBounds {
		t.Error("more bounds than a tally has room for")
	}
}
