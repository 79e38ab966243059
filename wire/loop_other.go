//go:build !linux

package wire

// loop is of systems with epoll.
type loop struct{}

// NewLoops starts n loops; nil where this system has none.
func NewLoops(int, bool) (*Loops, error) { return nil, nil }

// Close ends the loops. Those who are watched hear of nothing more.
func (*Loops) Close() {}

func (*loop) watch(*Conn, Waiter) bool { return false }

func (*loop) forget(*Conn) {}

func (*loop) listen(*Conn, bool) bool { return true }
