package main

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// experiment is one question: the same work done in several ways, which take turns.
type experiment struct {
	Name     string
	Title    string
	Pinned   bool // every process on the same CPU
	Base     string
	Variants []variant
	Targets  []target
}

// variant is one way to do the work.
type variant struct {
	Name     string
	By       string // direct, framing, copy, haproxy or tenantry
	Binary   string // of tenantry, where it is not the one under test
	Tenants  int    // in tenantry's table
	Isolated int    // of them
	Pool     int    // connections to the server at most
	Unix     string // of tenantry: what goes by unix sockets, "clients", "all" or ""
	Listener string // lines of its configuration
	Calls    bool   // tenantry makes a system call for each read and write
	Second   bool   // tenantry knows of a second cluster, which is the same server and has nobody's documents
	Load     load
}

// target is what a figure of a variant should be, as a ratio to the same of another variant.
type target struct {
	Variant string
	Figure  string // of figures
	Over    string // variant; "" for the figure itself
	Least   bool   // the bound is the least, else the most
	Bound   float64
}

// besides is the experiment with another build of tenantry taking its turns, to which all is compared:
// two builds measured one after the other differ by what else the machine did meanwhile.
func (e experiment) besides(binary string) experiment {
	i := slices.IndexFunc(e.Variants, func(v variant) bool { return v.Name == "tenantry" })
	if binary == "" || i < 0 {
		return e
	}
	v := e.Variants[i]
	v.Name, v.Binary = "before", binary
	e.Variants, e.Base = append(slices.Clone(e.Variants), v), v.Name
	return e
}

// outcome is what an experiment has found: for each variant its rounds.
type outcome struct {
	experiment
	Rounds map[string][]result
}

// settings are those of a whole run of the bench.
type settings struct {
	binary string // of tenantry
	before string // another build, to compare with; "" for none
	rounds int
	length time.Duration
	cpu    int // of pinned experiments
}

// run starts what the experiment needs and measures.
func (e experiment) run(s settings) (*outcome, error) {
	e = e.besides(s.before)
	cpu := -1
	if e.Pinned {
		cpu = s.cpu
	}
	g := &ground{settings: s, cpu: cpu, relays: map[string]*child{}, proxies: map[string]*tenantry{}}
	defer g.stop()
	if err := g.start(e); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	o := &outcome{experiment: e, Rounds: map[string][]result{}}
	for round := range s.rounds {
		for i := range e.Variants {
			v := &e.Variants[(i+round)%len(e.Variants)] // none is always behind the same
			r, err := generate(cpu, g.loadFor(v))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", e.Name, v.Name, err)
			}
			o.Rounds[v.Name] = append(o.Rounds[v.Name], r)
		}
	}
	return o, nil
}

// ground is the processes of an experiment.
type ground struct {
	settings
	cpu     int
	dir     string // of unix sockets
	server  *child
	relays  map[string]*child
	proxies map[string]*tenantry // by what their configuration depends on
}

func (g *ground) start(e experiment) (err error) {
	if g.dir, err = os.MkdirTemp("", "tenantry-bench"); err != nil {
		return err
	}
	if g.server, err = self(g.cpu, "server", g.socket()); err != nil {
		return err
	}
	for i := range e.Variants {
		if err := g.startFor(&e.Variants[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *ground) startFor(v *variant) (err error) {
	switch v.By {
	case "direct":
	case "tenantry":
		if g.proxies[v.table()] == nil {
			var t *tenantry
			t, err = startTenantry(g.cpu, cmp.Or(v.Binary, g.binary), g.configFor(v))
			if err == nil {
				g.proxies[v.table()] = t
			}
		}
	case "haproxy":
		g.relays[v.By], err = startHAProxy(g.cpu, g.server.address)
	default:
		g.relays[v.By], err = self(g.cpu, "relay", v.By, g.server.address)
	}
	return err
}

func (v *variant) table() string {
	return fmt.Sprint(v.Binary, v.Listener, v.Calls, v.Second, v.Tenants, v.Isolated, v.Pool, v.Unix)
}

// configFor is the configuration of a variant's proxy.
func (g *ground) configFor(v *variant) string {
	server, listener := g.server.address, tcpListener
	if v.Unix != "" {
		listener = filepath.Join(g.dir, fmt.Sprintf("tenantry-%s.sock", v.Unix))
	}
	if v.Unix == "all" {
		server = url.PathEscape(g.socket())
	}
	return proxyConfig(v, server, listener)
}

// socket is where the canned server listens besides.
func (g *ground) socket() string { return filepath.Join(g.dir, "server.sock") }

// loadFor is the variant's load with where it goes.
func (g *ground) loadFor(v *variant) load {
	l := v.Load
	if l.For == 0 {
		l.For = g.length
	}
	if l.Warm == 0 {
		l.Warm = l.For / 5
	}
	c := g.server
	switch {
	case v.By == "tenantry":
		c = g.proxies[v.table()].child
	case g.relays[v.By] != nil:
		c = g.relays[v.By]
	}
	l.Address = c.address
	if c != g.server {
		l.Process = c.cmd.Process.Pid
	}
	return l
}

func (g *ground) stop() {
	for _, t := range g.proxies {
		t.stop()
	}
	for _, c := range g.relays {
		c.stop()
	}
	g.server.stop()
	_ = os.RemoveAll(g.dir)
}
