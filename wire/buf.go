package wire

import (
	"context"
	"math/bits"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Buf holds one message. Bufs come from pools by size class, so that neither small nor large
// messages allocate; whoever holds one frees it once.
type Buf struct {
	B      []byte
	class  int8
	taken  int64 // bytes of budget given back by Free
	budget *Budget
}

const (
	minClass = 12 // 4 KiB
	maxClass = 26 // 64 MiB, above MaxMessage
)

var pools [maxClass + 1]sync.Pool

// NewBuf returns a buffer with length n and undefined content.
func NewBuf(n int) *Buf {
	class := max(minClass, bits.Len(uint(max(n, 1)-1)))
	if class > maxClass {
		return &Buf{B: make([]byte, n), class: -1}
	}
	b, _ := pools[class].Get().(*Buf)
	if b == nil {
		b = &Buf{B: make([]byte, 1<<class), class: int8(class)}
	}
	b.B = b.B[:n]
	return b
}

// Free gives the buffer back. Nothing that points into it may be used afterwards. Freeing nil
// does nothing.
func (b *Buf) Free() {
	if b == nil {
		return
	}
	if b.budget != nil {
		b.budget.sem.Release(b.taken)
		b.budget, b.taken = nil, 0
	}
	if b.class < 0 {
		return
	}
	b.B = b.B[:cap(b.B)]
	pools[b.class].Put(b)
}

// Budget bounds the memory of all large messages in flight together. Messages below
// [BudgetFloor] are not counted: their number is bounded by that of the connections.
type Budget struct {
	sem *semaphore.Weighted
}

// BudgetFloor is the size in bytes below which a message is not counted.
const BudgetFloor = 64 << 10

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	return &Budget{sem: semaphore.NewWeighted(bytes)}
}

// take returns a buffer of n bytes once the budget has room for it. A nil budget has no limit.
func (g *Budget) take(ctx context.Context, n int) (*Buf, error) {
	if g == nil || n < BudgetFloor {
		return NewBuf(n), nil
	}
	if err := g.sem.Acquire(ctx, int64(n)); err != nil {
		return nil, err
	}
	b := NewBuf(n)
	b.budget, b.taken = g, int64(n)
	return b, nil
}
