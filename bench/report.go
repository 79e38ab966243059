package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// table writes what an experiment has found, for people.
func (o *outcome) table(w io.Writer) {
	fmt.Fprintf(w, "\n%s  (%s)\n", o.Title, o.Name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tcommands/s\t× %s\tCPU µs\t× %[1]s\tp50 µs\tp99 µs\tmemory\n", o.Base)
	for _, v := range o.Variants {
		fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%.0f\t%.0f\t%s\n", v.Name,
			o.median(v.Name, "commands/s"), o.compared(v.Name, "commands/s"),
			number("%.1f", 1e6*o.median(v.Name, "CPU")), o.compared(v.Name, "CPU"),
			o.median(v.Name, "p50"), o.median(v.Name, "p99"), o.memory(v))
	}
	_ = t.Flush()
	for _, v := range o.verdicts() {
		fmt.Fprintf(w, "  %s\n", v)
	}
	wall, cpu := o.noise()
	if len(wall) > 0 {
		fmt.Fprintf(w, "  noisy: commands a second and latency are not to be trusted (%s)\n", strings.Join(wall, "; "))
	}
	if len(cpu) > 0 {
		fmt.Fprintf(w, "  noisy: CPU is not to be trusted (%s)\n", strings.Join(cpu, "; "))
	}
}

func (o *outcome) median(name, figure string) float64 { return spreadOf(o.figure(name, figure)).Median }

// compared is a ratio to the base, empty for the base itself and where there is none.
func (o *outcome) compared(name, figure string) string {
	s := o.ratio(name, o.Base, figure)
	if name == o.Base || math.IsNaN(s.Median) || math.IsInf(s.Median, 0) || s.Max == 0 {
		return ""
	}
	return s.String()
}

func (o *outcome) memory(v variant) string {
	switch {
	case v.By == "direct":
		return ""
	case v.Load.Idle:
		return fmt.Sprintf("%.1f KiB per client", o.median(v.Name, "KiB per client"))
	}
	return fmt.Sprintf("%.1f MiB over rest", o.median(v.Name, "MiB over rest"))
}

func number(format string, x float64) string {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return ""
	}
	return fmt.Sprintf(format, x)
}
