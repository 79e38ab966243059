package auth

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var failures = Failures{PerAddress: Limit{Count: 6, Period: time.Minute}, PerUser: Limit{Count: 3, Period: time.Minute}}

func address(n int) string {
	return Network(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
}

// guesses is how many of so many wrong passwords are looked at.
func guesses(t *Throttle, from string, user string, n int, now time.Time) (looked int) {
	for range n {
		if a, ok := t.Try(from, "admin", user, failures, now); ok {
			a.Failed()
			looked++
		}
	}
	return looked
}

func succeed(t testing.TB, th *Throttle, from string, user string, now time.Time) {
	t.Helper()
	a, ok := th.Try(from, "admin", user, failures, now)
	if !ok {
		t.Fatalf("%s from %v is not looked at", user, from)
	}
	a.Succeeded()
}

func TestThrottle(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := NewThrottle()
	if n := guesses(th, address(1), "app", 20, now); n != 3 {
		t.Errorf("%d passwords of one user were looked at", n)
	}
	if n := guesses(th, address(1), "other", 20, now) + guesses(th, address(1), "third", 20, now); n != 3 {
		t.Errorf("%d further passwords from one address were looked at", n)
	}
	if n := guesses(th, address(2), "app", 20, now); n != 3 {
		t.Errorf("%d passwords from another address were looked at", n)
	}
	if n := guesses(th, address(1), "app", 20, now.Add(20*time.Second)); n != 1 {
		t.Errorf("%d passwords were looked at after a third of the period", n)
	}
	var crowd []Attempt // right ones are as many as they are, at once too
	for range 100 {
		a, ok := th.Try(address(3), "app2", "app", failures, now)
		if !ok {
			t.Fatal("a right password is not looked at")
		}
		crowd = append(crowd, a)
	}
	for _, a := range crowd {
		a.Succeeded()
	}
}

// TestNoLockout: guessing a user's password from everywhere, and others' from his address, is
// bounded and does not keep him out where he has been before.
func TestNoLockout(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := NewThrottle()
	home := address(1)
	succeed(t, th, home, "app", now)
	looked := 0
	for n := range 1000 {
		looked += guesses(th, address(1000+n), "app", 5, now)
	}
	if looked != 30 {
		t.Errorf("%d passwords were looked at from everywhere", looked)
	}
	if n := guesses(th, home, "other", 5, now) + guesses(th, home, "third", 5, now); n > 6 {
		t.Errorf("%d passwords from one address were looked at", n)
	}
	succeed(t, th, home, "app", now)
	if guesses(th, address(9), "app", 1, now) != 0 {
		t.Error("one more from a new address was looked at")
	}
	succeed(t, th, address(9), "app", now.Add(10*time.Second)) // it eases as time goes
}

// TestThrottleMemory: floods of addresses and names are forgotten, those near their limit last.
func TestThrottleMemory(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRates(100)
	l := Limit{Count: 10, Period: time.Hour}
	for range 10 {
		r.Take("guessed", l, now)
	}
	for n := range 5000 {
		r.Take(fmt.Sprint(n), l, now)
	}
	if len(r.m) > 100 {
		t.Errorf("%d keys are kept", len(r.m))
	}
	if r.Take("guessed", l, now) {
		t.Error("a flood of other keys made it forget the one at its limit")
	}
}

func TestNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1%eth0": "2001:db8::/64",
	} {
		if got := Network(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
