package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/admin"
	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/control"
	"github.com/smetasc/tenantry/proxy"
	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

const (
	startTimeout  = 10 * time.Second // for reading the routes before the first client is served
	reloadTimeout = 20 * time.Second
	drainTimeout  = 20 * time.Second // for commands under way at the end
	watchInterval = 500 * time.Millisecond
)

// process is the rooms joined.
type process struct {
	path     string
	log      zerolog.Logger
	registry *prometheus.Registry
	router   *routing.Router
	clusters *backend.Clusters
	control  *control.Control
	proxy    *proxy.Server
	admin    *admin.Server

	reloads *prometheus.CounterVec
	mu      sync.Mutex // guards the following; held for a whole reload
	cfg     *config.Config
	refused string // why the file in place is not the running one
}

func serve(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "tenantry.toml", "configuration file")
	if err := flags.Parse(args); err != nil {
		return usageError{err}
	}
	cfg, warnings, err := config.Load(*path, os.Getenv)
	if err != nil {
		return usageError{err}
	}
	p := newProcess(*path, cfg, stderr)
	for _, w := range warnings {
		p.log.Warn().Msg(w.String())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return p.run(ctx)
}

func newProcess(path string, cfg *config.Config, stderr io.Writer) *process {
	p := &process{path: path, cfg: cfg, log: newLogger(cfg.Log, stderr), registry: prometheus.NewRegistry(), router: &routing.Router{}}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tenantry_reloads_total", Help: "Reloads of the configuration by result.",
	}, []string{"result"})
	p.registry.MustRegister(p.reloads)
	budget := wire.NewBudget(cfg.Limits.MessageMemory)
	p.clusters = backend.New(backend.Options{
		Log: p.log, Registerer: p.registry, Budget: budget, AppName: "tenantry", Limits: poolLimits(cfg),
	})
	p.proxy = proxy.New(proxy.Options{
		Log: p.log, Registerer: p.registry, Router: p.router, Clusters: p.clusters, Budget: budget, Version: buildVersion(),
		Resolve:  func(ctx context.Context, v wire.Value) (bool, error) { return p.control.Resolve(ctx, v) },
		FleetKey: func() []byte { return p.control.FleetKey() },
	})
	p.control = control.New(control.Options{
		Log: p.log, Registerer: p.registry, Clusters: p.clusters, Router: p.router, Drained: p.proxy.Drained,
	})
	p.admin = admin.New(admin.Options{
		Log: p.log, Registry: p.registry, Version: buildVersion(), Ready: p.ready, Reload: p.reload,
		Tenants: func() any { return p.control.Status() }, TokenFile: cfg.Admin.TokenFile,
	})
	return p
}

func newLogger(l config.Log, w io.Writer) zerolog.Logger {
	f, isFile := w.(*os.File)
	if l.Format == "console" || l.Format == "" && isFile && isatty.IsTerminal(f.Fd()) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	level, err := zerolog.ParseLevel(l.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

func poolLimits(cfg *config.Config) backend.Limits {
	return backend.Limits{
		MaxPerServer: cfg.Pools.MaxPerServer, MaxPerTenant: cfg.Pools.MaxPerTenant, Idle: cfg.Pools.Idle,
		MaxIdleClusters: cfg.Pools.MaxTenants,
	}
}

func clusterSpecs(cfg *config.Config) []backend.Spec {
	var specs []backend.Spec
	for name, c := range cfg.Clusters {
		specs = append(specs, backend.Spec{Name: name, URI: c.URI.Reveal()})
	}
	return specs
}

// run starts everything, waits for the end, and stops everything in the reverse order.
func (p *process) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer p.clusters.Close()
	if err := p.clusters.Apply(clusterSpecs(p.cfg), poolLimits(p.cfg)); err != nil {
		return usageError{err}
	}
	p.proxy.Apply(p.cfg)
	if err := p.listen(); err != nil {
		p.stop()
		return err
	}
	if err := p.start(ctx); err != nil {
		p.stop()
		return err
	}
	p.log.Info().Str("version", buildVersion()).Str("config", p.path).Str("mode", p.cfg.Routing.Mode).Msg("tenantry serves")
	err := p.work(ctx, cancel)
	p.log.Info().Msg("stopping; commands under way are finished")
	p.stop()
	return err
}

// listen opens every address before anything else, so that a taken port is said at once.
func (p *process) listen() error {
	if p.cfg.Admin.Address != "" {
		addr, err := p.admin.Listen(p.cfg.Admin.Address)
		if err != nil {
			return err
		}
		p.log.Info().Stringer("address", addr).Msg("admin listens")
	}
	for _, l := range p.cfg.Listeners {
		addr, err := p.proxy.Listen(l.Address)
		if err != nil {
			return err
		}
		e := p.log.Info().Stringer("address", addr).Str("presentation", l.Presentation)
		if l.Tenant != "" {
			e = e.Str("tenant", l.Tenant)
		}
		e.Msg("listening")
	}
	return nil
}

// start reads the routes once; where the home cluster is away that goes on in control's own loop,
// and clients are told so meanwhile.
func (p *process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.control.Apply(ctx, p.cfg); err != nil {
		return usageError{err}
	}
	return nil
}

// work runs the long-lived loops until one fails or the process is told to end.
func (p *process) work(ctx context.Context, cancel context.CancelFunc) error {
	errs := make(chan error, 3)
	var wg sync.WaitGroup
	loop := func(f func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f(); err != nil {
				errs <- err
				cancel()
			}
		}()
	}
	loop(func() error { return p.control.Run(ctx) })
	loop(func() error { return p.proxy.Run(ctx) })
	loop(func() error { p.watch(ctx); return nil })
	loop(func() error { p.hangups(ctx); return nil })
	<-ctx.Done()
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (p *process) watch(ctx context.Context) {
	files := func() []string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cfg.Files()
	}
	config.Watch(ctx, files, watchInterval, func() { _ = p.reload(ctx) })
}

// hangups reloads at SIGHUP.
func (p *process) hangups(ctx context.Context) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	defer signal.Stop(ch)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ch:
			_ = p.reload(ctx)
		}
	}
}

// reload puts the file in force, or keeps the running configuration whole and says why.
func (p *process) reload(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	if err := p.replace(ctx); err != nil {
		p.refused = err.Error()
		p.reloads.WithLabelValues("refused").Inc()
		p.log.Error().Err(err).Msg("reload refused; the running configuration stays")
		return err
	}
	p.refused = ""
	p.reloads.WithLabelValues("ok").Inc()
	p.log.Info().Uint64("table", p.router.Current().Version).Msg("configuration reloaded")
	return nil
}

func (p *process) replace(ctx context.Context) error {
	cfg, warnings, err := config.Load(p.path, os.Getenv)
	if err != nil {
		return err
	}
	if problems := config.RestartNeeded(p.cfg, cfg); len(problems) > 0 {
		return config.Errors(problems)
	}
	for _, w := range warnings {
		p.log.Warn().Msg(w.String())
	}
	// Clusters first: a table may name new ones. The old ones go when the table is in force.
	if err := p.clusters.Apply(append(clusterSpecs(cfg), goneClusters(p.cfg, cfg)...), poolLimits(cfg)); err != nil {
		return err
	}
	if err := p.control.Apply(ctx, cfg); err != nil {
		if back := p.clusters.Apply(clusterSpecs(p.cfg), poolLimits(p.cfg)); back != nil {
			return fmt.Errorf("%w; and the clusters could not be put back: %w", err, back)
		}
		return err
	}
	p.proxy.Apply(cfg)
	p.cfg = cfg
	return p.clusters.Apply(clusterSpecs(cfg), poolLimits(cfg))
}

// goneClusters are those of the old configuration that the new one lacks.
func goneClusters(old, cfg *config.Config) []backend.Spec {
	var specs []backend.Spec
	for _, s := range clusterSpecs(old) {
		if _, kept := cfg.Clusters[s.Name]; !kept {
			specs = append(specs, s)
		}
	}
	return specs
}

// ready says why the process can not serve everything yet; nil when it can.
func (p *process) ready() error {
	if err := p.control.Ready(); err != nil {
		return err
	}
	for _, c := range p.clusters.All() {
		if !c.Ready() {
			return fmt.Errorf("cluster %s has no server that takes writes", c.Name())
		}
	}
	return nil
}

func (p *process) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	p.proxy.Shutdown(ctx)
	p.admin.Shutdown(ctx)
}
