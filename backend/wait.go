package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smetasc/tenantry/wire"
)

// waiter is somebody who waits for a connection of a pool: a goroutine, or a [Borrower], who has none.
type waiter struct {
	seq   uint64 // order of arrival
	share *share // of the tenant; nil: unlimited
	conn  *Conn  // what was delivered
	err   error
	ready chan struct{} // holds one; nil of a borrower's
	late  *time.Timer   // made once: a context with a deadline costs as much as the rest of a wait
	in    *queue        // nil once delivered
	next  *waiter
	prev  *waiter
	pool  *pool

	borrower Borrower // who has no goroutine; with the following
	since    time.Time
}

var (
	waiters  = sync.Pool{New: func() any { return newWaiter() }}
	arrivals atomic.Uint64
)

func newWaiter() *waiter {
	w := &waiter{ready: make(chan struct{}, 1), late: time.NewTimer(time.Hour)}
	w.late.Stop()
	return w
}

// deliver ends the wait. The waiter is in no queue any more; the pool's mutex is held, and a borrower is
// told when it is not any more.
func (w *waiter) deliver(c *Conn, err error) {
	w.conn, w.err = c, err
	if w.borrower == nil {
		w.ready <- struct{}{}
		return
	}
	w.next, w.pool.lent = w.pool.lent, w
}

// queue is a list of waiters in order of arrival; the pool's mutex guards it.
type queue struct {
	head, tail *waiter
	len        int
}

// insert puts a waiter where its arrival belongs, seen from the end.
func (q *queue) insert(w *waiter) {
	after := q.tail
	for after != nil && after.seq > w.seq {
		after = after.prev
	}
	w.in, w.prev = q, after
	if after == nil {
		w.next, q.head = q.head, w
	} else {
		w.next, after.next = after.next, w
	}
	if w.next == nil {
		q.tail = w
	} else {
		w.next.prev = w
	}
	q.len++
	w.pool.waits.Add(1)
}

// pop takes the first waiter; nil if there is none.
func (q *queue) pop() *waiter {
	w := q.head
	if w != nil {
		q.remove(w)
	}
	return w
}

func (q *queue) remove(w *waiter) {
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.in, w.prev, w.next = nil, nil, nil
	q.len--
	w.pool.waits.Add(-1)
}

// wait waits for a connection, at most until late.
func (p *pool) wait(ctx context.Context, late time.Time, tenant uint32) (*Conn, error) {
	w := waiters.Get().(*waiter)
	if err := p.enqueue(nil, w, tenant, late); err != nil {
		waiters.Put(w)
		return nil, err
	}
	served := false
	select {
	case <-w.ready:
		served = true
	case <-w.late.C:
	case <-ctx.Done():
	}
	w.late.Stop()
	if !served {
		if err := p.giveUp(w); err != nil {
			w.pool, w.share = nil, nil
			waiters.Put(w)
			return nil, err
		}
		<-w.ready // it came at the last moment
	}
	c, err := w.conn, w.err
	w.pool, w.conn, w.err, w.share = nil, nil, nil, nil
	waiters.Put(w)
	return c, err
}

// enqueue makes w wait; t is the turn that it waits in, if it is a borrower's.
func (p *pool) enqueue(t *wire.Turn, w *waiter, tenant uint32, late time.Time) error {
	p.mu.Lock()
	defer p.unlock(t)
	if p.retired {
		return errReselect
	}
	if err := p.refused(); err != nil {
		return err
	}
	w.pool, w.seq, w.share = p, arrivals.Add(1), p.share(tenant)
	w.late.Reset(time.Until(late))
	if w.share != nil && w.share.claimed >= p.perTenant {
		w.share.blocked.insert(w)
		return nil
	}
	if w.share != nil {
		w.share.claimed++
	}
	p.queue.insert(w)
	p.serve()
	return nil
}

// giveUp takes a waiter out of its queue; no error means that it was served meanwhile.
func (p *pool) giveUp(w *waiter) error {
	p.mu.Lock()
	defer p.unlock(nil)
	return p.withdraw(w)
}

// withdraw is giveUp with the mutex held.
func (p *pool) withdraw(w *waiter) error {
	if w.in == nil {
		return nil
	}
	claimed := w.in == &p.queue
	w.in.remove(w)
	if claimed {
		p.unclaim(w.share)
		p.serve()
	}
	return &selectionError{kind: ErrBusy, want: "a connection", last: p.dialError}
}
