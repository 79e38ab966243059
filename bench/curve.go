package main

import "fmt"

// curveClients are those that the latency under load is measured with.
const curveClients = 64

// steps are the loads, as parts of what the framing floor can do at most.
var steps = []float64{0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9}

// colors of the ways in the picture.
var colors = map[string]string{"direct": "#888888", "framing": "#1f77b4", "copy": "#2ca02c", "haproxy": "#9467bd", "before": "#ff7f0e", "tenantry": "#d62728"}

// latencyAgainstLoad measures an open loop at several loads: each command is due at a time that no
// answer can put off.
func latencyAgainstLoad(s settings) (list []*outcome, p *plot, err error) {
	l := load{Command: "find", Collection: "orders", Tenants: tenants, Reply: 200, Clients: curveClients}
	most, err := experiment{Name: "load-most", Title: "small find, 64 clients, as many as go", Base: "framing", Variants: through(l)}.run(s)
	if err != nil {
		return nil, nil, err
	}
	list = append(list, most)
	full := most.median("framing", "commands/s")
	for _, step := range steps {
		l.Rate = step * full
		e := experiment{
			Name:  fmt.Sprintf("load-%.0f", 100*step),
			Title: fmt.Sprintf("small find, 64 clients, %.0f commands a second (%.0f %% of what framing can do)", l.Rate, 100*step),
			Base:  "framing", Variants: through(l),
		}
		o, err := e.run(s)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, o)
	}
	return list, drawn(list), nil
}

// drawn is the picture of latency against load: the median and, dashed, the 99th percentile.
func drawn(list []*outcome) *plot {
	p := &plot{Title: "Latency against load: small find, 64 clients, open loop", X: "commands a second", Y: "µs"}
	for _, v := range list[0].Variants {
		for _, figure := range []string{"p50", "p99"} {
			c := curve{Name: v.Name + " " + figure, Dashed: figure == "p99", Color: colors[v.Name]}
			for _, o := range list[1:] {
				c.Points = append(c.Points, point{o.median(v.Name, "commands/s"), o.median(v.Name, figure)})
			}
			p.Curves = append(p.Curves, c)
		}
	}
	return p
}
