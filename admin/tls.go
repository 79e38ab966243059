package admin

import (
	"crypto/tls"
	"net"
)

// listener puts TLS on what it accepts, by the settings of that moment. The HTTP server does the
// handshake, in the connection's own goroutine and within the time for a request's header.
type listener struct {
	net.Listener
	settings func() *tls.Config
}

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if c := l.settings(); c != nil {
		return tls.Server(nc, c), nil
	}
	return nc, nil
}
