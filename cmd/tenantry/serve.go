package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
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
	startPatience = 2 * time.Second  // before it is said that the start waits
	reloadTimeout = 20 * time.Second
	drainTimeout  = 20 * time.Second // for commands under way at the end, where no flag says it
	watchInterval = 500 * time.Millisecond
	retryInterval = 5 * time.Second // of a reload that has waited for the home cluster
)

// process is the rooms joined.
type process struct {
	path     string
	drain    time.Duration
	log      zerolog.Logger
	registry *prometheus.Registry
	router   *routing.Router
	clusters *backend.Clusters
	control  *control.Control
	loops    *wire.Loops
	proxy    *proxy.Server
	admin    *admin.Server

	reloads *prometheus.CounterVec
	inForce prometheus.Gauge
	applies sync.Mutex // held while a configuration is put in force, so that the last one stays
	cfg     atomic.Pointer[config.Config]

	unfinished atomic.Bool // the last reload is in force in part, since the home cluster was away
}

func serve(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is said once, by main
	path := flags.String("config", "tenantry.toml", "")
	drain := flags.Duration("drain", drainTimeout, "")
	if err := flags.Parse(args); err != nil {
		return usageError{fmt.Errorf("serve: %w; usage: tenantry serve [--config FILE] [--drain TIME]", err)}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("serve takes no %q; name the file with --config", flags.Arg(0))}
	}
	cfg, warnings, err := config.Load(*path, os.Getenv)
	if err != nil {
		return usageError{err}
	}
	p := newProcess(*path, cfg, stderr)
	p.drain = *drain
	for _, w := range warnings {
		p.log.Warn().Msg(w.String())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return p.run(ctx)
}

func newProcess(path string, cfg *config.Config, stderr io.Writer) *process {
	p := &process{path: path, log: newLogger(cfg.Log, stderr), registry: prometheus.NewRegistry(), router: &routing.Router{}}
	p.cfg.Store(cfg)
	setLogLevel(cfg.Log)
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tenantry_reloads_total", Help: "Reloads of the configuration by result.",
	}, []string{"result"})
	p.inForce = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tenantry_config_in_force", Help: "1 where the file in place is the running configuration, 0 where it was refused.",
	})
	p.registry.MustRegister(p.reloads, p.inForce, certificates{p.cfg.Load})
	p.inForce.Set(1)
	for _, result := range []string{"ok", "partly", "refused"} {
		p.reloads.WithLabelValues(result) // so that the first one is an increase, too
	}
	// A half each: a command that waits for room for its reply holds its request's meanwhile.
	requests, replies := wire.NewBudget(cfg.Limits.MessageMemory/2), wire.NewBudget(cfg.Limits.MessageMemory/2)
	p.clusters = backend.New(backend.Options{
		Log: p.log, Registerer: p.registry, Budget: replies, AppName: "tenantry", Limits: poolLimits(cfg),
		TenantKey: func(num uint32) string {
			if t := p.router.Current(); t != nil {
				return t.Key(num)
			}
			return ""
		},
	})
	var err error
	p.loops, err = wire.NewLoops(runtime.GOMAXPROCS(0), cfg.Limits.IOUring)
	switch {
	case err != nil && p.loops == nil:
		p.log.Warn().Err(err).Msg("clients are waited for by a goroutine each, which costs more")
	case err != nil:
		p.log.Info().Err(err).Msg("each read and write is a system call, which costs more than io_uring; limits.io_uring = false does not try it")
	}
	p.proxy = proxy.New(proxy.Options{
		Log: p.log, Registerer: p.registry, Router: p.router, Clusters: p.clusters, Budget: requests, Loops: p.loops, Version: buildVersion(),
		Resolve:  func(ctx context.Context, v wire.Value) (bool, error) { return p.control.Resolve(ctx, v) },
		Review:   func(ctx context.Context, at time.Time) (time.Time, error) { return p.control.Review(ctx, at) },
		FleetKey: func() []byte { return p.control.FleetKey() },
	})
	p.control = control.New(control.Options{
		Log: p.log, Registerer: p.registry, Clusters: p.clusters, Router: p.router, Drained: p.proxy.Drained,
	})
	p.admin = admin.New(admin.Options{
		Log: p.log, Registry: p.registry, Version: buildVersion(), Ready: p.ready, Reload: p.reload,
		Tenants:   func() any { return p.control.Status() },
		Drift:     func(ctx context.Context) any { return p.control.Drift(ctx) },
		TokenFile: func() string { return p.cfg.Load().Admin.TokenFile },
		TLS:       p.adminTLS,
	})
	return p
}

// adminTLS is nil where the admin address has none.
func (p *process) adminTLS() *tls.Config {
	if t := p.cfg.Load().Admin.TLS; t != nil {
		return t.Server()
	}
	return nil
}

func newLogger(l config.Log, w io.Writer) zerolog.Logger {
	f, isFile := w.(*os.File)
	if l.Format == "console" || l.Format == "" && isFile && isatty.IsTerminal(f.Fd()) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).With().Timestamp().Logger()
}

// setLogLevel sets the level of every logger of the process, so that a reload can change it.
func setLogLevel(l config.Log) {
	level, err := zerolog.ParseLevel(l.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	zerolog.SetGlobalLevel(level)
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
	defer p.loops.Close()
	defer p.clusters.Close()
	cfg := p.cfg.Load()
	if err := p.clusters.Apply(clusterSpecs(cfg), poolLimits(cfg)); err != nil {
		return usageError{err}
	}
	p.proxy.Apply(cfg)
	defer p.stop()
	p.applies.Lock() // until start is over, reloads wait
	if err := p.listen(cfg); err != nil {
		p.applies.Unlock()
		return err
	}
	err := p.work(ctx, cancel)
	p.log.Info().Msg("stopping; commands under way are finished")
	return err
}

// listen opens every address before anything else, so that a taken port is said at once.
func (p *process) listen(cfg *config.Config) error {
	if cfg.Admin.Address != "" {
		addr, err := p.admin.Listen(cfg.Admin.Address)
		if err != nil {
			return taken(err, "[admin]")
		}
		p.log.Info().Stringer("address", addr).Msg("admin listens")
	}
	for _, l := range cfg.Listeners {
		addr, err := p.proxy.Listen(l.Address)
		if err != nil {
			return taken(err, "[[listeners]]")
		}
		e := p.log.Info().Stringer("address", addr).Str("presentation", l.Presentation).Bool("tls", l.TLS != nil)
		if l.Tenant != "" {
			e = e.Str("tenant", l.Tenant)
		}
		if l.Auth != "" {
			e = e.Str("auth", l.Auth)
		}
		e.Msg("listening")
	}
	return nil
}

// taken adds to an error of listening what to do about it.
func taken(err error, section string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return fmt.Errorf("%w by another process (another tenantry, a MongoDB); stop it, or choose another address under %s", err, section)
}

// start reads the routes once; where the home cluster is away that goes on in control's own loop,
// and clients are told so meanwhile.
func (p *process) start(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	late := time.AfterFunc(startPatience, func() {
		p.log.Warn().Msg("the home cluster does not answer yet; is its URI right, is it running?")
	})
	defer late.Stop()
	cfg := p.cfg.Load()
	if err := p.control.Apply(limited, cfg, nil); err != nil {
		if ctx.Err() != nil {
			return nil // the process was told to end meanwhile
		}
		return usageError{err}
	}
	p.log.Info().Str("version", buildVersion()).Str("config", p.path).Str("mode", cfg.Routing.Mode).Msg("tenantry serves")
	return nil
}

// work runs the long-lived loops until one fails or the process is told to end. Signals and
// changes of the file count from the beginning, and are obeyed when the start is over. Its caller
// has locked applies.
func (p *process) work(ctx context.Context, cancel context.CancelFunc) error {
	errs := make(chan error, 3)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
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
	loop(func() error { p.watch(ctx); return nil })
	loop(func() error { p.hangups(ctx, hangups); return nil })
	loop(func() error { giveBack(ctx); return nil })
	loop(func() error { p.finish(ctx); return nil })
	loop(func() error { return p.proxy.Run(ctx) })
	loop(func() error {
		err := p.start(ctx)
		p.applies.Unlock()
		if err != nil {
			return err
		}
		return p.control.Run(ctx)
	})
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
	files := func() []string { return p.cfg.Load().Files() }
	config.Watch(ctx, files, watchInterval, func() { _ = p.reload(ctx) })
}

// finish tries a reload again that is in force in part, until the home cluster is back.
func (p *process) finish(ctx context.Context) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if p.unfinished.Load() {
				_ = p.reload(ctx)
			}
		}
	}
}

// hangups reloads at each signal.
func (p *process) hangups(ctx context.Context, ch <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ch:
			_ = p.reload(ctx)
		}
	}
}

// reload puts the file in force, or keeps the running configuration and says why: the whole of it where the
// file has a mistake, all but who may connect where the routes can not be read or contradict it.
func (p *process) reload(ctx context.Context) error {
	p.applies.Lock()
	defer p.applies.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	err := p.replace(ctx)
	p.unfinished.Store(errors.Is(err, admin.ErrPartly) && control.Away(err))
	switch {
	case errors.Is(err, admin.ErrPartly):
		p.inForce.Set(0)
		p.reloads.WithLabelValues("partly").Inc()
		p.log.Error().Err(err).Msg("reloaded in part")
		return err
	case err != nil:
		p.inForce.Set(0)
		p.reloads.WithLabelValues("refused").Inc()
		p.log.Error().Err(err).Msg("reload refused; the running configuration stays")
		return err
	}
	p.inForce.Set(1)
	p.reloads.WithLabelValues("ok").Inc()
	done := p.log.Info()
	if table := p.router.Current(); table != nil { // there is none while the home cluster is away
		done = done.Uint64("table", table.Version)
	}
	done.Msg("configuration reloaded")
	return nil
}

func (p *process) replace(ctx context.Context) error {
	cfg, warnings, err := config.Load(p.path, os.Getenv)
	if err != nil {
		return err
	}
	old := p.cfg.Load()
	if problems := config.RestartNeeded(old, cfg); len(problems) > 0 {
		return config.Errors(problems)
	}
	for _, w := range warnings {
		p.log.Warn().Msg(w.String())
	}
	change, err := p.clusters.Prepare(clusterSpecs(cfg), poolLimits(cfg))
	if err != nil {
		return err
	}
	defer change.Close()
	// Who is shut out is so at once, however long the home cluster takes, and whatever it says.
	access := old.WithAccess(cfg)
	p.proxy.Apply(access)
	p.cfg.Store(access)
	if err := p.control.Apply(ctx, cfg, change); err != nil {
		return fmt.Errorf("%w: %w", admin.ErrPartly, err)
	}
	p.proxy.Apply(cfg)
	setLogLevel(cfg.Log)
	p.cfg.Store(cfg)
	p.logUnchanged(old, cfg)
	return nil
}

// logUnchanged names the settings that were changed and hold from the next start only. They do no
// harm meanwhile, so a reload is not refused for them.
func (p *process) logUnchanged(old, cfg *config.Config) {
	say := func(key string) { p.log.Warn().Str("key", key).Msg("the changed setting holds from the next start") }
	if old.Log.Format != cfg.Log.Format {
		say("log.format")
	}
	if old.Limits.MessageMemory != cfg.Limits.MessageMemory {
		say("limits.message_memory")
	}
	if old.Limits.IOUring != cfg.Limits.IOUring {
		say("limits.io_uring")
	}
}

// ready says why the process can not serve everything yet; nil when it can.
func (p *process) ready() error {
	inForce := p.cfg.Load().Clusters     // a reload under way may have brought others already
	for _, c := range p.clusters.All() { // first: without them there are no routes either
		if _, serves := inForce[c.Name()]; serves && !c.Ready() {
			return fmt.Errorf("cluster %s has no server that takes writes", c.Name())
		}
	}
	return p.control.Ready()
}

func (p *process) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), p.drain)
	defer cancel()
	p.proxy.Shutdown(ctx)
	p.admin.Shutdown(ctx)
}
