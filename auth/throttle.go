package auth

import (
	"net/netip"
	"time"
)

// Throttle bounds how many passwords can be tried. What counts is a log-in that fails:
//
//   - of one user from one address;
//   - from one address, whoever is tried;
//   - of one user from everywhere, ten times what is allowed from one address.
//
// The last two do not concern an address from which the user has logged in before: whoever tries a
// user's passwords from elsewhere, or other users' from the same address, does not lock out the
// application at its usual place.
type Throttle struct {
	addresses, users, pairs *Rates
	proven                  *Rates
}

// Failures says what a [Throttle] allows.
type Failures struct{ PerAddress, PerUser Limit }

// throttled is for how many addresses, users and pairs of both each there is room: some megabytes.
const throttled = 1 << 15

// NewThrottle has seen nothing yet.
func NewThrottle() *Throttle {
	return &Throttle{NewRates(throttled), NewRates(throttled), NewRates(throttled), NewRates(throttled)}
}

// Attempt is a password that is about to be looked at.
type Attempt struct {
	t      *Throttle
	counts []count
	pair   string
	at     time.Time
}

// count is what a failure counts for.
type count struct {
	rates *Rates
	key   string
	limit Limit
}

// forever is a mark that stays until there is no room for it.
var forever = Limit{Count: 1, Period: 1 << 62}

// Try says whether a password for the account may be looked at. Only one that is wrong counts: right
// ones come in crowds, when an application starts. address is where it comes from: a [Network], or what else
// tells clients apart.
func (t *Throttle) Try(address, source, account string, f Failures, now time.Time) (a Attempt, ok bool) {
	user := source + "\x00" + account
	a = Attempt{t: t, pair: address + "\x00" + user, at: now}
	a.counts = []count{{t.pairs, a.pair, f.PerUser}}
	if !t.proven.has(a.pair) {
		everywhere := f.PerUser
		everywhere.Count *= 10
		a.counts = append(a.counts, count{t.addresses, address, f.PerAddress}, count{t.users, user, everywhere})
	}
	for _, c := range a.counts {
		if !c.rates.Room(c.key, c.limit, now) {
			return a, false
		}
	}
	return a, true
}

// Failed says that the password was wrong.
func (a Attempt) Failed() {
	for _, c := range a.counts {
		c.rates.Take(c.key, c.limit, a.at)
	}
}

// Succeeded says that the password was right.
func (a Attempt) Succeeded() { a.t.proven.Take(a.pair, forever, a.at) }

// Network is what the clients of an address are counted by: of IPv6 the network of 64 bits.
func Network(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
