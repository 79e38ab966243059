package backend

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/address"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/description"

	"github.com/smetasc/tenantry/wire"
)

var connections atomic.Int64

// described is what the driver wants to know of one of our connections.
type described struct {
	id       int64
	addr     address.Address
	server   description.Server // as its own hello said; it does not change
	serverID *int64
	oidc     uint64
}

func (d *described) Description() description.Server { return d.server }

// ID names the connection in error texts.
func (d *described) ID() string { return fmt.Sprintf("%s[-%d]", d.addr, d.id) }

func (d *described) ServerConnectionID() *int64  { return d.serverID }
func (d *described) DriverConnectionID() int64   { return d.id }
func (d *described) Address() address.Address    { return d.addr }
func (d *described) OIDCTokenGenID() uint64      { return d.oidc }
func (d *described) SetOIDCTokenGenID(id uint64) { d.oidc = id }

// Stale is always false: the pool compares generations before it reports.
func (d *described) Stale() bool { return false }

// greeting is a connection during its handshake, as the driver's authenticators want it.
type greeting struct {
	*described
	wc  *wire.Conn
	err error // the first of the network: the driver wraps errors beyond recognition
}

// greetingLimit bounds the replies to hello and to log-in.
const greetingLimit = 1 << 20

// Read reads one message.
func (g *greeting) Read(ctx context.Context) ([]byte, error) {
	defer g.until(ctx)()
	b, err := g.wc.ReadMessage(greetingLimit)
	if err != nil {
		return nil, g.note(err)
	}
	defer b.Free()
	return append([]byte(nil), b.B...), nil
}

// Write writes one message.
func (g *greeting) Write(ctx context.Context, message []byte) error {
	defer g.until(ctx)()
	_, err := g.wc.Write(message)
	return g.note(err)
}

// Close does nothing: the driver's operations close their connection after each command.
func (g *greeting) Close() error { return nil }

// until makes the context end what follows, by its deadline and by its being cancelled.
func (g *greeting) until(ctx context.Context) (done func() bool) {
	deadline, _ := ctx.Deadline()
	_ = g.wc.SetDeadline(deadline)
	return context.AfterFunc(ctx, func() { _ = g.wc.SetDeadline(time.Unix(1, 0)) })
}

func (g *greeting) note(err error) error {
	if err != nil && g.err == nil {
		g.err = err
	}
	return err
}

// cause prefers the network's own error to what became of it.
func (g *greeting) cause(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case g.err != nil:
		return g.err
	}
	return err
}
