package proxy

import (
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/wire"
)

// thinned are lines of the log that are limited by what they are about; those that are left out are counted.
type thinned struct {
	rates *auth.Rates
	left  atomic.Int64 // since the last one that was not
}

// newThinned tells so many things apart that lines are about.
func newThinned(most int) *thinned { return &thinned{rates: auth.NewRates(most)} }

// take reports whether a line may be written now; else it is left out.
func (l *thinned) take(key string, limit auth.Limit, now time.Time) bool {
	ok := l.rates.Take(key, limit, now)
	if !ok {
		l.left.Add(1)
	}
	return ok
}

// mark lets a line say how many were left out before it.
func (l *thinned) mark(e *zerolog.Event) *zerolog.Event {
	if n := l.left.Swap(0); n > 0 {
		e = e.Int64("left_out", n)
	}
	return e
}

// audits writes what an operator may be asked about later: log-ins, and commands that were refused.
// Lines are of the ordinary log, marked "audit": true, and stand above every level. What one address
// causes of one kind is limited, and so is the whole; the lines that are left out are counted.
type audits struct {
	log   zerolog.Logger
	lines *thinned
}

var (
	auditEach = auth.Limit{Count: 20, Period: 10 * time.Second}
	auditAll  = auth.Limit{Count: 1000, Period: 10 * time.Second}
)

func newAudits(log zerolog.Logger) *audits { return &audits{log: log, lines: newThinned(1 << 14)} }

// line begins a line; nil, which all of its methods take, where it is left out.
func (a *audits) line(key string, now time.Time) *zerolog.Event {
	if !a.lines.take(key, auditEach, now) || !a.lines.take("", auditAll, now) {
		return nil
	}
	return a.mark(a.log.Log())
}

func (a *audits) mark(e *zerolog.Event) *zerolog.Event { return a.lines.mark(e.Bool("audit", true)) }

// flush says how many lines were left out, where no line has come since to say it.
func (a *audits) flush() {
	if a.lines.left.Load() > 0 {
		a.mark(a.log.Log()).Msg("audit lines were left out")
	}
}

// audit begins a line about the client; user, whose password it knew, tells apart what would else be
// limited together.
func (c *clientConn) audit(event, user string) *zerolog.Event {
	e := c.srv.audits.line(event+"\x00"+user+"\x00"+c.origin(), time.Now())
	return c.log.about(e).Str("event", event)
}

// auditLogin begins a line about a log-in, by what the client says of itself.
func (c *clientConn) auditLogin(event, user, name, source string) *zerolog.Event {
	const most = 512 // bytes; no user's name is longer
	return c.audit(event, user).Str("login", name[:min(len(name), most)]).Str("source", source[:min(len(source), most)])
}

// auditRefusal notes a command that was refused for what the client may not do.
func (c *clientConn) auditRefusal(e *wire.Error) {
	if e.Code != wire.Unauthorized && e.Code != wire.ImmutableField || c.work == nil || c.msg.Body == nil {
		return
	}
	if cmd := c.req.Cmd; cmd != nil && (cmd.Name == "saslStart" || cmd.Name == "saslContinue") {
		return // said by what refused the log-in
	}
	line := c.audit("command refused", c.principal)
	if line == nil {
		return
	}
	if t := c.outcome.tenant; t != nil && c.bound == nil {
		line = line.Str("tenant", t.Key)
	}
	line.Int32("code", int32(e.Code)).Str("code_name", e.Code.Name()).Bytes("command", c.req.Name).
		Bytes("database", c.req.DB).Bytes("collection", c.req.Coll()).Str("shape", shapeOf(&c.msg)).Msg("a command was refused")
}
