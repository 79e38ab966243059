package main

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, x := range []struct {
		in   []float64
		want spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{5, 1, 3}, spread{3, 1, 5}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9}},
	} {
		if got := spreadOf(x.in); got != x.want {
			t.Errorf("%v: %v, want %v", x.in, got, x.want)
		}
	}
	if s := spreadOf(nil); !math.IsNaN(s.Median) {
		t.Errorf("of nothing: %v", s)
	}
}

// found is an outcome with so many commands and CPU seconds in each round of one second.
func found(commands, cpu map[string][]float64) *outcome {
	o := &outcome{experiment: experiment{Base: "framing"}, Rounds: map[string][]result{}}
	for _, name := range []string{"framing", "tenantry"} {
		o.Variants = append(o.Variants, variant{Name: name, By: name})
		for i, n := range commands[name] {
			o.Rounds[name] = append(o.Rounds[name], result{Commands: int64(n), Seconds: 1, CPU: cpu[name][i], Rest: 10 << 20, Peak: int64(10+i) << 20})
		}
	}
	return o
}

// TestRatiosAreOfOneRound: a round in which the machine was slow for both changes no ratio.
func TestRatiosAreOfOneRound(t *testing.T) {
	o := found(map[string][]float64{"framing": {1000, 100, 2000}, "tenantry": {900, 90, 1800}},
		map[string][]float64{"framing": {1, 1, 1}, "tenantry": {1, 1, 1}})
	if s := o.ratio("tenantry", "framing", "commands/s"); math.Abs(s.Min-0.9) > 1e-9 || math.Abs(s.Max-0.9) > 1e-9 {
		t.Errorf("commands: %v, want 0.9 in each round", s)
	}
	if s := o.ratio("tenantry", "framing", "CPU"); math.Abs(s.Median-1/0.9) > 1e-9 {
		t.Errorf("CPU: %v", s)
	}
	if wall, cpu := o.noise(); len(wall)+len(cpu) > 0 {
		t.Errorf("noise where every ratio is the same: %v %v", wall, cpu)
	}
}

// TestMemoryIsOverTheFirstRest: what a process keeps of its first round is not at rest.
func TestMemoryIsOverTheFirstRest(t *testing.T) {
	o := found(map[string][]float64{"tenantry": {1, 1, 1}}, map[string][]float64{"tenantry": {1, 1, 1}})
	o.Rounds["tenantry"][2].Rest = 12 << 20
	if got := o.figure("tenantry", "MiB over rest"); !slices.Equal(got, []float64{0, 1, 2}) {
		t.Errorf("%v", got)
	}
}

func TestNoiseIsSaid(t *testing.T) {
	quiet := func() *outcome {
		return found(map[string][]float64{"framing": {1000, 1000}, "tenantry": {900, 900}},
			map[string][]float64{"framing": {1, 1}, "tenantry": {1, 1}})
	}
	for name, x := range map[string]struct {
		disturb   func(*outcome)
		wall, cpu string
	}{
		"others":  {func(o *outcome) { o.Rounds["framing"][1].Others = 0.5 }, "others had up to 0.50 CPUs", ""},
		"stolen":  {func(o *outcome) { o.Rounds["framing"][1].Stolen = 0.5 }, "took 0.50 CPUs away", ""},
		"differs": {func(o *outcome) { o.Rounds["tenantry"][1].Commands = 400 }, "commands of tenantry differ", "CPU of tenantry differs"},
		"CPU":     {func(o *outcome) { o.Rounds["tenantry"][1].CPU = 2 }, "", "CPU of tenantry differs"},
	} {
		o := quiet()
		x.disturb(o)
		wall, cpu := o.noise()
		if w := strings.Join(wall, ";"); !strings.Contains(w, x.wall) || x.wall == "" && w != "" {
			t.Errorf("%s: wall %q, want %q", name, w, x.wall)
		}
		if c := strings.Join(cpu, ";"); !strings.Contains(c, x.cpu) || x.cpu == "" && c != "" {
			t.Errorf("%s: CPU %q, want %q", name, c, x.cpu)
		}
	}
}

func TestVerdicts(t *testing.T) {
	o := found(map[string][]float64{"framing": {1000}, "tenantry": {900}}, map[string][]float64{"framing": {1}, "tenantry": {1.2}})
	o.Targets = []target{
		{"tenantry", "commands/s", "framing", true, 0.92},
		{"tenantry", "commands/s", "framing", true, 0.9},
		{"tenantry", "CPU", "framing", false, 1.15},
		{"tenantry", "MiB over rest", "", false, 4},
		{"tenantry", "commands/s", "haproxy", true, 1}, // which has not run
	}
	var words []string
	for _, v := range o.verdicts() {
		word, _, _ := strings.Cut(v.String(), ":")
		words = append(words, word)
	}
	if got := strings.Join(words, " "); got != "missed met missed met" {
		t.Errorf("%s: %v", got, o.verdicts())
	}
}
