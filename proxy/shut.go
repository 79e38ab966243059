package proxy

import (
	"github.com/smetasc/tenantry/auth"
	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// shut says why a client is shut out; nil where it is not.
func (s *settings) shut(c *clientConn) *wire.Error {
	if len(s.deny) == 0 {
		return nil
	}
	address := c.address()
	for i := range s.deny {
		if d := &s.deny[i]; d.Address.IsValid() && d.Address.Contains(address.WithZone("")) {
			return shutBy(d)
		}
	}
	if who := c.who.Load(); who != nil {
		return s.shutPrincipal(who)
	}
	return nil
}

// shutPrincipal says why somebody is shut out wherever he comes from.
func (s *settings) shutPrincipal(p *auth.Principal) *wire.Error {
	for i := range s.deny {
		d := &s.deny[i]
		if d.Tenant != "" && d.Tenant == p.Tenant || d.User != "" && (d.User == p.User || d.User == p.Account()) {
			return shutBy(d)
		}
	}
	return nil
}

func shutBy(d *config.Deny) *wire.Error { return wire.Errorf(wire.Unauthorized, "%s", d.Reason) }

// shutOut closes the idle connections of those whom new settings shut out or know no more. The others
// end when their command is over, and one that comes meanwhile is refused. A client that comes again
// is told why.
func (s *Server) shutOut(set *settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if !c.busy.Load() && (set.shut(c) != nil || c.outdated(set)) {
			s.metrics.shutOut.Inc()
			c.wc.Sever() // the end of TLS may have to be waited for
		}
	}
}
