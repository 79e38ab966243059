package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// handshakeLimit is how long a client has from its connection to the end of its handshake.
const handshakeLimit = 10 * time.Second

// handshakes bounds the work of handshakes, each of which costs as much as some hundred commands:
// when every client comes at once, those that are connected already go on being served.
type handshakes struct {
	slots  chan struct{}
	failed *prometheus.CounterVec
	said   *auth.Rates // of the log, by what a line is about
}

// saidEach lets one line of the log through in a minute.
var saidEach = auth.Limit{Count: 1, Period: time.Minute}

func newHandshakes(reg prometheus.Registerer) *handshakes {
	h := &handshakes{
		slots: make(chan struct{}, runtime.GOMAXPROCS(0)),
		said:  auth.NewRates(1 << 10),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantry_tls_handshakes_failed_total", Help: "Connections closed because their TLS handshake did not succeed, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{"plain", "timeout", "certificate", "other"} {
		h.failed.WithLabelValues(reason) // so that the first one is an increase, too
	}
	if reg != nil {
		reg.MustRegister(h.failed)
	}
	return h
}

// serverTLS are the settings by which the listener's handshakes are done; those of the old settings
// where they say the same, since sessions can be resumed by them and by no others.
func serverTLS(l *config.Listener, old *settings) *tls.Config {
	if was := old.listeners[l.Address]; was != nil && was.TLS.Same(l.TLS) {
		return old.tls[l.Address]
	}
	return l.TLS.Server()
}

// socket is what lies under a client's TLS. Until the handshake is over its work needs a slot, which
// is given back whenever it waits for the client: who stops in a handshake keeps nobody out.
type socket struct {
	net.Conn
	slots chan struct{}   // nil when the handshake is over
	late  <-chan struct{} // closed when the handshake has taken too long
	holds bool            // a slot
	first [3]byte         // that the client sent
	seen  int8            // of these
}

// NetConn is what lies under it, for [wire.NewConn] to find.
func (s *socket) NetConn() net.Conn { return s.Conn }

var errPlain = errors.New("the client does not speak TLS")

// Read ends at once who speaks something else: some messages would look like the beginning of a long
// record, of which the rest never comes.
func (s *socket) Read(b []byte) (int, error) {
	s.end()
	n, err := s.Conn.Read(b)
	if int(s.seen) < len(s.first) {
		s.seen += int8(copy(s.first[s.seen:], b[:n]))
		if int(s.seen) == len(s.first) && !wire.IsTLS(s.first[:]) {
			return 0, errPlain
		}
	}
	if err == nil {
		err = s.begin()
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	s.end()
	return s.Conn.Write(b)
}

// begin waits for a slot.
func (s *socket) begin() error {
	if s.slots == nil {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
		s.holds = true
		return nil
	case <-s.late:
		return context.DeadlineExceeded
	}
}

func (s *socket) end() {
	if s.holds {
		s.holds = false
		<-s.slots
	}
}

// secured puts TLS on a client's connection; nil settings are none.
func (s *Server) secured(nc net.Conn, c *tls.Config) net.Conn {
	if c == nil {
		return nc
	}
	return tls.Server(&socket{Conn: nc}, c)
}

// secure does the handshake of a client and then serves it. A handshake makes its goroutine's stack
// grow, so the connection goes on with another one.
func (s *Server) secure(c *clientConn, t *tls.Conn) {
	under := t.NetConn().(*socket)
	ctx, cancel := context.WithTimeout(s.ctx, handshakeLimit)
	under.slots, under.late = s.handshakes.slots, ctx.Done()
	err := t.HandshakeContext(ctx)
	cancel()
	under.end()
	under.slots, under.late = nil, nil
	if err == nil {
		c.checked = nil // a reload of meanwhile may have revoked its certificate
		c.shaken.Store(true)
		go s.attend(c, nil)
		return
	}
	if !errors.Is(err, io.EOF) || under.seen > 0 { // else who only looks whether somebody listens
		c.handshakeFailed(err)
	}
	c.close()
	s.left(c)
}

// handshakeFailed counts and logs it: what the operator has to know, not what scanners of ports do.
func (c *clientConn) handshakeFailed(err error) {
	h := c.srv.handshakes
	reason, text := "other", "TLS handshake failed"
	var untrusted *tls.CertificateVerificationError
	var revoked config.RevokedError
	switch {
	case c.srv.stopping(), errors.Is(err, net.ErrClosed):
		return
	case errors.Is(err, errPlain):
		reason, text = "plain", "a client without TLS came to a listener with TLS; its connection string needs tls=true"
	case errors.Is(err, context.DeadlineExceeded):
		reason, text = "timeout", "TLS handshake did not end in time"
	case errors.As(err, &untrusted):
		reason, text = "certificate", "a client's certificate is not accepted; was it made by an authority of client_ca?"
	case errors.As(err, &revoked):
		reason, text = "certificate", "a client's certificate is not accepted by the lists of client_crl"
	}
	h.failed.WithLabelValues(reason).Inc()
	if h.said.Take(c.listener.Address+reason, saidEach, time.Now()) {
		c.log.Warn().Err(err).Str("listener", c.listener.Address).Msg(text + "; further ones are counted, and logged once a minute")
	}
}

// handshakeUnwanted is the reverse: a client with TLS, a listener without.
func (c *clientConn) handshakeUnwanted() {
	c.srv.metrics.malformed.Inc()
	if c.srv.handshakes.said.Take(c.listener.Address, saidEach, time.Now()) {
		remedy := "give the listener tls, or leave tls=true out of the client's connection string"
		if c.listener.IsSocket() {
			remedy = "leave tls=true out of the client's connection string: a unix socket has none"
		}
		c.log.Warn().Str("listener", c.listener.Address).Msg("a client with TLS came to a listener without it; " + remedy)
	}
}

// revoked reports whether the certificate that the client has shown is on a list of revoked ones by now.
func (c *clientConn) revoked(set *settings) bool {
	l := set.listeners[c.listener.Address]
	t, _ := c.wc.Conn.(*tls.Conn)
	if t == nil || l == nil || !l.TLS.ListsRevoked() || !c.shaken.Load() { // its state is locked in a handshake
		return false
	}
	return l.TLS.Revoked(t.ConnectionState().VerifiedChains) != nil
}
