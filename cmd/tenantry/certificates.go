package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/smetasc/tenantry/config"
)

var certificateDesc = prometheus.NewDesc("tenantry_certificate_expiry_timestamp_seconds",
	"When the certificate of a listener, or of admin, expires.", []string{"listener"}, nil)

var listDesc = prometheus.NewDesc("tenantry_crl_expiry_timestamp_seconds",
	"When a list of revoked certificates of a listener, or of admin, is out of date.", []string{"listener"}, nil)

// certificates tells the ends of those that the running configuration has, when it is asked.
type certificates struct{ running func() *config.Config }

func (c certificates) Describe(ch chan<- *prometheus.Desc) {
	ch <- certificateDesc
	ch <- listDesc
}

func (c certificates) Collect(ch chan<- prometheus.Metric) {
	cfg := c.running()
	told := map[string]bool{} // several listeners may leave their port to the system
	one := func(listener string, t *config.TLS) {
		if t != nil && !told[listener] {
			told[listener] = true
			ch <- prometheus.MustNewConstMetric(certificateDesc, prometheus.GaugeValue, float64(t.NotAfter.Unix()), listener)
			if !t.NextList.IsZero() {
				ch <- prometheus.MustNewConstMetric(listDesc, prometheus.GaugeValue, float64(t.NextList.Unix()), listener)
			}
		}
	}
	one("admin", cfg.Admin.TLS)
	for _, l := range cfg.Listeners {
		one(l.Address, l.TLS)
	}
}
