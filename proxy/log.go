package proxy

import "github.com/rs/zerolog"

// connLog begins the lines of the log that are about one connection. What all of them carry is put
// together when a line is written: kept for each connection it would weigh as much as the rest.
type connLog struct{ c *clientConn }

func (l connLog) Debug() *zerolog.Event { return l.about(l.c.srv.log.Debug()) }
func (l connLog) Info() *zerolog.Event  { return l.about(l.c.srv.log.Info()) }
func (l connLog) Warn() *zerolog.Event  { return l.about(l.c.srv.log.Warn()) }
func (l connLog) Error() *zerolog.Event { return l.about(l.c.srv.log.Error()) }

func (l connLog) about(e *zerolog.Event) *zerolog.Event {
	if !e.Enabled() {
		return e
	}
	if l.c.wc == nil { // of nobody's connection
		return e
	}
	e = e.Int32("connection", l.c.id).Str("client", l.c.peer())
	if l.c.bound != nil {
		e = e.Str("tenant", l.c.bound.Key)
	}
	if who := l.c.who.Load(); who != nil && who.User != "" {
		e = e.Str("user", who.User)
	}
	if l.c.application != "" {
		e = e.Str("application", l.c.application)
	}
	return e
}
