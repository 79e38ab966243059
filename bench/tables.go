package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/control"
)

// tableCost is what a table of so many tenants costs.
type tableCost struct {
	Tenants     int
	Read, Build float64 // seconds, in this process: the TOML, and the table made of it
	Reload      float64 // seconds until a running proxy has put it in force, reading included
	P50, P99    float64 // µs of clients' commands meanwhile
	Max         float64
}

// sizes of the tables.
var sizes = []int{10, 1000, 10_000, 100_000}

// tableCosts builds tables, and has a running proxy take each while clients send commands.
func tableCosts(s settings) (costs []tableCost, err error) {
	server, err := self(-1, "server")
	if err != nil {
		return nil, err
	}
	defer server.stop()
	for _, n := range sizes {
		c := tableCost{Tenants: n}
		text := proxyConfig(&variant{Tenants: n, Isolated: n / 2, Pool: pool}, server.address, tcpListener)
		if c.Read, c.Build, err = buildTable(text); err != nil {
			return nil, err
		}
		if err := c.swap(s, text); err != nil {
			return nil, err
		}
		costs = append(costs, c)
	}
	return costs, nil
}

func buildTable(text string) (read, build float64, err error) {
	dir, err := os.MkdirTemp("", "tenantry-bench")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "tenantry.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	cfg, _, err := config.Load(file, func(string) string { return "" })
	if err != nil {
		return 0, 0, err
	}
	loaded := time.Now()
	_, err = control.FileTable(cfg)
	return loaded.Sub(start).Seconds(), time.Since(loaded).Seconds(), err
}

// swap has a proxy with that table take it anew, with one tenant more, under an open loop.
func (c *tableCost) swap(s settings, text string) error {
	t, err := startTenantry(-1, s.binary, text)
	if err != nil {
		return err
	}
	defer t.stop()
	const settle = 500 * time.Millisecond
	l := load{
		Address: t.address, Command: "find", Collection: "orders", Tenants: 10, Reply: 200, Clients: 8, Rate: 1000,
		Warm: settle, For: 2*time.Second + time.Duration(c.Tenants)*30*time.Microsecond,
	}
	reloaded := make(chan error, 1)
	time.AfterFunc(2*settle, func() {
		start := time.Now()
		err := t.reload(text + fmt.Sprintf("[[tenants]]\nid = %q\nkey = %[1]q\n", tenantID(c.Tenants+1)))
		c.Reload = time.Since(start).Seconds()
		reloaded <- err
	})
	r, err := generate(-1, l)
	if bad := <-reloaded; bad != nil {
		return bad
	}
	c.P50, c.P99, c.Max = r.Latency.P50, r.Latency.P99, r.Latency.Max
	return err
}

func writeTableCosts(w io.Writer, costs []tableCost) {
	fmt.Fprintf(w, "\ntables of several sizes, and a running proxy that takes one under 1,000 finds a second  (tables)\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "tenants\tread s\tbuild s\treload s\tp50 µs\tp99 µs\tlongest µs")
	for _, c := range costs {
		fmt.Fprintf(t, "%d\t%.3f\t%.3f\t%.3f\t%.0f\t%.0f\t%.0f\n", c.Tenants, c.Read, c.Build, c.Reload, c.P50, c.P99, c.Max)
	}
	_ = t.Flush()
}
