package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/address"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/auth"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/mnet"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/ocsp"

	"github.com/smetasc/tenantry/wire"
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialError is a dial or handshake that the network or the server broke off: it may go better
// another time. A refused log-in or certificate is none.
type dialError struct {
	addr string
	err  error
}

func (e *dialError) Error() string { return fmt.Sprintf("connect to %s: %v", e.addr, e.err) }

func (e *dialError) Unwrap() error { return e.err }

// dial opens a connection to the pool's server and logs in.
func (d *deployment) dial(p *pool) (*Conn, error) {
	t := d.target()
	ctx, cancel := context.WithTimeout(d.ctx, t.connectTimeout)
	defer cancel()
	generation := p.generation.Load()
	addr := address.Address(p.addr).Canonicalize()
	socket, err := t.dial(ctx, addr.Network(), addr.String())
	if err != nil {
		return nil, &dialError{p.addr, err}
	}
	stream, err := t.secure(ctx, socket, p.addr)
	if err != nil {
		_ = socket.Close()
		return nil, dialFailure(p.addr, err)
	}
	wc := wire.NewConn(stream)
	wc.Budget, wc.Wait = d.cluster.all.opts.Budget, budgetWait
	desc, err := t.handshake(ctx, addr, wc)
	if err != nil {
		wc.Release()
		_ = socket.Close()
		return nil, dialFailure(p.addr, err)
	}
	return newConn(p, wc, socket, desc, generation), nil
}

// budgetWait is for how long a large reply waits for memory.
const budgetWait = 10 * time.Second

func newConn(p *pool, wc *wire.Conn, socket net.Conn, desc *described, generation uint64) *Conn {
	c := &Conn{pool: p, wire: wc, socket: socket, desc: desc, generation: generation}
	c.live.watch(socket)
	c.limit = wire.MaxMessage + replyRoom
	if n := int(desc.server.MaxMessageSize); n > 0 {
		c.limit = n + replyRoom
	}
	c.compressor = agree(p.d.target().compressors, desc.server.Compression)
	return c
}

// dialFailure tells a failure of the network from a refusal.
func dialFailure(addr string, err error) error {
	var refused driver.Error
	var network net.Error
	switch {
	case errors.As(err, &refused) && refused.Code != 0:
		return fmt.Errorf("log in to %s: %w", addr, err)
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &dialError{addr, err}
	}
	return fmt.Errorf("connect to %s: %w", addr, err)
}

// secure puts TLS on a socket where the URI wants it, and asks whether the certificate was
// revoked as the driver does.
func (t *target) secure(ctx context.Context, socket net.Conn, addr string) (net.Conn, error) {
	if t.tls == nil {
		return socket, nil
	}
	cfg := t.tls.Clone()
	if cfg.ServerName == "" {
		host := addr
		if h, _, err := net.SplitHostPort(addr); err == nil {
			host = h
		}
		cfg.ServerName = strings.Trim(host, "[]")
	}
	client := tls.Client(socket, cfg)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if t.ocsp != nil {
		if err := ocsp.Verify(ctx, client.ConnectionState(), t.ocsp); err != nil {
			return nil, err
		}
	}
	return client, nil
}

// handshake says hello and logs in.
func (t *target) handshake(ctx context.Context, addr address.Address, wc *wire.Conn) (*described, error) {
	desc := &described{id: connections.Add(1), addr: addr}
	g := &greeting{described: desc, wc: wc}
	mc := mnet.NewConnection(g)
	hs := t.handshaker()
	found, err := hs.GetHandshakeInformation(ctx, addr, mc)
	if err != nil {
		return nil, g.cause(ctx, err)
	}
	desc.server, desc.serverID = found.Description, found.ServerConnectionID
	if err := hs.FinishHandshake(ctx, mc); err != nil {
		return nil, g.cause(ctx, err)
	}
	return desc, wc.SetDeadline(time.Time{})
}

// handshaker makes what one connection's handshake needs: it holds the conversation and is never
// shared, while the authenticator inside is.
func (t *target) handshaker() driver.Handshaker {
	return auth.Handshaker(nil, &auth.HandshakeOptions{
		AppName:          t.appName,
		Authenticator:    t.authenticator,
		Compressors:      t.compressors,
		DBUser:           t.dbUser,
		ServerAPI:        t.serverAPI,
		OuterLibraryName: "tenantry",
	})
}
