// Package admin is the HTTP side: metrics, health, and what a running proxy can be asked and told.
// It holds nothing; it asks the rooms through the functions that it is given.
package admin

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

// Options is what the server is joined with.
type Options struct {
	Log       zerolog.Logger
	Registry  *prometheus.Registry
	Version   string
	Ready     func() error                    // nil: everything can be served
	Reload    func(ctx context.Context) error // the file is put in force, or why not
	Tenants   func() any                      // marshalled as JSON
	Drift     func(ctx context.Context) any   // the same, with what differs from shared
	TLS       func() *tls.Config              // of new connections; nil for plain ones
	TokenFile func() string                   // bearer token for all but /healthz and /readyz; "" for none
}

// Server is the HTTP server.
type Server struct {
	opts   Options
	http   *http.Server
	serves sync.WaitGroup
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	s := &Server{opts: o}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.guarded(promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("POST /reload", s.guarded(http.HandlerFunc(s.reload)))
	mux.Handle("GET /tenants", s.guarded(http.HandlerFunc(s.tenants)))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ErrorLog: log.New(o.Log, "", 0)}
	return s
}

// Listen opens the address and serves until Shutdown.
func (s *Server) Listen(address string) (net.Addr, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err // it names the address
	}
	s.serves.Go(func() {
		if err := s.http.Serve(listener{l, s.opts.TLS}); !errors.Is(err, http.ErrServerClosed) {
			s.opts.Log.Error().Err(err).Msg("admin stopped")
		}
	})
	return l.Addr(), nil
}

// Shutdown ends the server; requests under way have until ctx ends.
func (s *Server) Shutdown(ctx context.Context) {
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
	s.serves.Wait()
}

// ErrPartly is what a reload's error wraps of which a part is in force, and says which.
var ErrPartly = errors.New("who may connect is in force ([[listeners]], [admin], [auth], users, certificates, [[deny]]); " +
	"the rest is not, and the running configuration stays for it")

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text)
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.opts.Ready(); err != nil {
		answer(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(w, http.StatusOK, "ready")
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	err := s.opts.Reload(r.Context())
	switch {
	case err == nil:
		answer(w, http.StatusOK, "reloaded")
	case errors.Is(err, ErrPartly):
		answer(w, http.StatusBadGateway, err.Error())
	default:
		answer(w, http.StatusUnprocessableEntity, "refused; the running configuration stays:\n"+err.Error())
	}
}

func (s *Server) tenants(w http.ResponseWriter, r *http.Request) {
	var list any
	if r.URL.Query().Get("drift") != "" {
		list = s.opts.Drift(r.Context())
	} else {
		list = s.opts.Tenants()
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		s.opts.Log.Debug().Err(err).Msg("admin answer not written")
	}
}

// guarded asks for the bearer token where there is one.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.admits(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			answer(w, http.StatusUnauthorized, "a bearer token is needed")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// admits compares the request's token with the file's. That is read each time, so that a changed
// token holds at once; where it cannot be read nobody is let in.
func (s *Server) admits(r *http.Request) bool {
	path := s.opts.TokenFile()
	if path == "" {
		return true
	}
	text, err := os.ReadFile(path)
	token := strings.TrimSpace(string(text))
	if err != nil || token == "" {
		s.opts.Log.Warn().AnErr("error", err).Str("file", path).Msg("the admin token is not readable or empty; nobody is let in")
		return false
	}
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(got), []byte(token)) == 1
}
