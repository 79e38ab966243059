// Package ferret runs FerretDB with SQLite inside our own process: a backend
// that needs nothing but Go. It has no transactions, sessions, users or change
// streams, and few aggregation stages.
package ferret

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/FerretDB/FerretDB/ferretdb"
)

// Server is a running embedded server.
type Server struct {
	URI string

	cancel context.CancelFunc
	done   chan struct{}
}

// Start serves the databases in dir, made if it isn't there, on a free
// loopback port.
func Start(dir string) (*Server, error) { return StartAt(dir, "127.0.0.1:0") }

// StartAt is Start on a given address.
func StartAt(dir, address string) (*Server, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := ferretdb.New(&ferretdb.Config{
		Listener: ferretdb.ListenerConfig{TCP: address},
		// Without one it writes to the default logger, at debug whole messages.
		Logger:  slog.New(slog.DiscardHandler),
		Handler: "sqlite",
		// The ending slash tells FerretDB that this is a folder.
		SQLiteURL: "file:" + strings.TrimSuffix(dir, "/") + "/",
	})
	if err != nil {
		return nil, fmt.Errorf("start FerretDB: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = f.Run(ctx) // nil, or what ended ctx
	}()
	s.URI = f.MongoDBURI()
	return s, nil
}

// Stop ends the server and returns when all of it is closed: at once if the
// clients have disconnected, after about 3 s if not.
func (s *Server) Stop() {
	s.cancel()
	<-s.done
}
