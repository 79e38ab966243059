package main

import (
	"fmt"
	"math"
	"slices"
)

// figures are what a round tells, by the names that targets use. Rest is the process's memory before
// its first round: what it keeps of one is not the rest of the next.
var figures = map[string]func(l load, r result, rest int64) float64{
	"commands/s":    func(_ load, r result, _ int64) float64 { return float64(r.Commands) / r.Seconds },
	"CPU":           func(_ load, r result, _ int64) float64 { return r.CPU / float64(r.Commands) },
	"p50":           func(_ load, r result, _ int64) float64 { return r.Latency.P50 },
	"p99":           func(_ load, r result, _ int64) float64 { return r.Latency.P99 },
	"MiB over rest": func(_ load, r result, rest int64) float64 { return float64(r.Peak-rest) / (1 << 20) },
	"KiB per client": func(l load, r result, rest int64) float64 {
		return float64(r.After-rest) / (1 << 10) / float64(l.Clients)
	},
}

// spread is a figure over several rounds.
type spread struct{ Median, Min, Max float64 }

func spreadOf(xs []float64) spread {
	if len(xs) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	s := slices.Clone(xs)
	slices.Sort(s)
	m := s[len(s)/2]
	if len(s)%2 == 0 {
		m = (s[len(s)/2-1] + m) / 2
	}
	return spread{m, s[0], s[len(s)-1]}
}

// width is by how much the rounds differ, as a part of the median.
func (s spread) width() float64 { return (s.Max - s.Min) / s.Median }

func (s spread) String() string { return fmt.Sprintf("%.2f [%.2f–%.2f]", s.Median, s.Min, s.Max) }

// figure is a variant's figure in each round.
func (o *outcome) figure(name, figure string) []float64 {
	i := slices.IndexFunc(o.Variants, func(v variant) bool { return v.Name == name })
	var xs []float64
	for _, r := range o.Rounds[name] {
		xs = append(xs, figures[figure](o.Variants[i].Load, r, o.Rounds[name][0].Rest))
	}
	return xs
}

// ratio compares a figure of two variants within each round, so that what disturbed a round is in
// both.
func (o *outcome) ratio(name, over, figure string) spread {
	a, b := o.figure(name, figure), o.figure(over, figure)
	var xs []float64
	for i := range min(len(a), len(b)) {
		xs = append(xs, a[i]/b[i])
	}
	return spreadOf(xs)
}

// Limits of what is taken for a quiet machine.
const (
	quietOthers = 0.10 // CPUs in use by others
	quietStolen = 0.02
	quietWidth  = 0.20 // by which a ratio's rounds differ
)

// noise says why the outcome is not to be trusted; nothing where it is. What others use of the
// machine shifts the commands a second and the latency; the CPU time a command takes much less, so
// that is told apart.
func (o *outcome) noise() (wall, cpu []string) {
	others, stolen := 0.0, 0.0
	for _, rounds := range o.Rounds {
		for _, r := range rounds {
			others, stolen = max(others, r.Others), max(stolen, r.Stolen)
		}
	}
	if others > quietOthers {
		wall = append(wall, fmt.Sprintf("others had up to %.2f CPUs in use", others))
	}
	if stolen > quietStolen {
		wall = append(wall, fmt.Sprintf("the host took %.2f CPUs away", stolen))
	}
	for _, v := range o.Variants {
		if v.Name == o.Base {
			continue
		}
		if w := o.ratio(v.Name, o.Base, "commands/s").width(); w > quietWidth {
			wall = append(wall, fmt.Sprintf("the commands of %s differ by %.0f %% between rounds", v.Name, 100*w))
		}
		if w := o.ratio(v.Name, o.Base, "CPU").width(); w > quietWidth {
			cpu = append(cpu, fmt.Sprintf("the CPU of %s differs by %.0f %% between rounds", v.Name, 100*w))
		}
	}
	return wall, cpu
}

// verdict is a target beside what was measured.
type verdict struct {
	target
	Measured spread
	Met      bool
}

func (o *outcome) verdicts() (list []verdict) {
	for _, t := range o.Targets {
		var m spread
		if t.Over == "" {
			m = spreadOf(o.figure(t.Variant, t.Figure))
		} else {
			m = o.ratio(t.Variant, t.Over, t.Figure)
		}
		if math.IsNaN(m.Median) || math.IsInf(m.Median, 0) {
			continue
		}
		list = append(list, verdict{t, m, m.Median <= t.Bound && !t.Least || m.Median >= t.Bound && t.Least})
	}
	return list
}

func (v verdict) String() string {
	bound, word := "≤", "missed"
	if v.Least {
		bound = "≥"
	}
	if v.Met {
		word = "met"
	}
	over := ""
	if v.Over != "" {
		over = "× " + v.Over
	}
	return fmt.Sprintf("%s: %s of %s %s %g%s, measured %s", word, v.Figure, v.Variant, bound, v.Bound, over, v.Measured)
}
