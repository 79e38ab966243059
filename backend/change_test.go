package backend

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestChange: what a change brings is asked by who prepares it and by nobody else, is dropped without a trace
// where it is not committed, and is in force as a whole where it is.
func TestChange(t *testing.T) {
	one, two, three := newScripted(t, standalone()), newScripted(t, standalone()), newScripted(t, standalone())
	cs, c := open(t, "mongodb://"+one.addr, Limits{})
	at := func(c *Cluster) string {
		t.Helper()
		conn := acquire(t, c, write, 0)
		defer conn.Release()
		return conn.Address()
	}
	prepare := func(specs ...Spec) *Change {
		t.Helper()
		ch, err := cs.Prepare(specs, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	moved, added := Spec{"c", "mongodb://" + two.addr}, Spec{"new", "mongodb://" + three.addr}

	ch := prepare(moved, added)
	asked := ch.Get("c")
	if got := at(asked); got != two.addr {
		t.Errorf("the change asks %s", got)
	}
	if cs.Get("c") != c || at(c) != one.addr {
		t.Error("a change that is not committed replaces what runs")
	}
	if ch.Get("new") == nil || ch.Get("new") != cs.Get("new") || at(cs.Get("new")) != three.addr {
		t.Error("a new name is not there before the commit")
	}
	if ch.Get("none") != nil {
		t.Error("a name that nobody gave is found")
	}
	if _, err := cs.Prepare(nil, Limits{}); !errors.Is(err, errOneChange) {
		t.Error(err)
	}
	ch.Close()
	ch.Close()
	if _, err := asked.Acquire(within(t, time.Second), write, 0); !errors.Is(err, ErrClosed) {
		t.Error("what was asked is still there:", err)
	}
	if cs.Get("new") != nil || len(cs.All()) != 1 || at(c) != one.addr {
		t.Error("the change has left something behind")
	}

	ch = prepare(added)
	if ch.Get("c") != nil || at(cs.Get("c")) != one.addr {
		t.Error("what is to go has gone already, or stays")
	}
	ch.Commit()
	ch.Close()
	if cs.Get("c") != nil || at(cs.Get("new")) != three.addr {
		t.Error("not in force")
	}

	kept := cs.Get("new")
	ch = prepare(Spec{"new", "mongodb://" + two.addr})
	at(ch.Get("new"))
	ch.Commit()
	ch.Close()
	if cs.Get("new") != kept || at(kept) != two.addr {
		t.Error("the URI is not in force, or who held the cluster does not follow")
	}
}

// TestCloseDuringChange: who asks clusters of a change is told when all is closed.
func TestCloseDuringChange(t *testing.T) {
	one, two := newScripted(t, standalone()), newScripted(t, standalone())
	two.kill()
	cs, _ := open(t, "mongodb://"+one.addr, Limits{})
	ch, err := cs.Prepare([]Spec{{"c", "mongodb://" + two.addr}}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := ch.Get("c").Acquire(context.Background(), write, 0)
		failed <- err
	}()
	eventually(t, "waiting", func() bool { d := ch.Get("c").current.Load(); return d != nil && d.waiting.Load() == 1 })
	begin := time.Now()
	cs.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) || time.Since(begin) > time.Second {
		t.Error(err, time.Since(begin))
	}
	ch.Commit()
	ch.Close()
	if _, err := cs.Prepare(nil, Limits{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
