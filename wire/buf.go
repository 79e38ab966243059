package wire

import (
	"context"
	"errors"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Buf holds one message. Bufs come from pools by size class, so that neither small nor large
// messages allocate; whoever holds one frees it once.
type Buf struct {
	B      []byte
	class  int8
	freed  bool
	taken  int64 // bytes of budget given back by Free
	budget *Budget
}

// Classes are powers of two up to 1 MiB, and from there on sixteenths of the next one: a large buffer that is used
// again is cleared by the runtime as a whole, and must not be much larger than what it holds.
const (
	minClass   = 12 // 4 KiB
	coarse     = 20 // 1 MiB
	fineBits   = 4
	maxDoubled = 26 // 64 MiB, above MaxMessage
	maxClass   = coarse + (maxDoubled-coarse)<<fineBits
)

var pools [maxClass + 1]sync.Pool

// sizeClass is the class of buffers for n bytes.
func sizeClass(n int) int {
	doubled := bits.Len(uint(max(n, 1) - 1)) // n is at most 1 << doubled
	if doubled <= coarse {
		return max(minClass, doubled)
	}
	below := doubled - 1
	steps := (n - 1 - 1<<below) >> (below - fineBits) // whole ones above the power of two below n
	return coarse + (below-coarse)<<fineBits + steps + 1
}

// classSize is how many bytes a buffer of the class has.
func classSize(class int) int {
	if class <= coarse {
		return 1 << class
	}
	below, steps := coarse+(class-coarse-1)>>fineBits, (class-coarse-1)&(1<<fineBits-1)
	return 1<<below + (steps+1)<<(below-fineBits)
}

// NewBuf returns a buffer with length n and undefined content.
func NewBuf(n int) *Buf {
	class := sizeClass(n)
	if class > maxClass {
		return &Buf{B: make([]byte, n), class: -1}
	}
	b, _ := pools[class].Get().(*Buf)
	if b == nil {
		b = &Buf{B: make([]byte, classSize(class)), class: int8(class)}
	}
	b.B, b.freed = b.B[:n], false
	return b
}

// Free gives the buffer back. Nothing that points into it may be used afterwards. Freeing nil
// does nothing; freeing twice panics where it is noticed, since two messages would share memory.
func (b *Buf) Free() {
	if b == nil {
		return
	}
	if b.freed {
		panic("wire: Buf freed twice")
	}
	b.freed = true
	b.budget.release(b.taken)
	b.budget, b.taken = nil, 0
	if b.class < minClass || cap(b.B) < classSize(int(b.class)) { // of no pool, or someone cut its front off
		return
	}
	b.B = b.B[:cap(b.B)]
	pools[b.class].Put(b)
}

// share gives of b's share in the budget what out costs.
func (b *Buf) share(out *Buf) {
	if b.taken == 0 {
		return
	}
	out.budget, out.taken = b.budget, min(b.taken, cost(len(out.B)))
	b.taken -= out.taken
}

// Budget bounds the memory of all large messages in flight together. Messages below
// [BudgetFloor] are not counted: their number is bounded by that of the connections. Who holds a
// counted message and waits for another one may wait for a like-minded other: give requests and
// replies a budget each, free the one before reading the other, or set [Conn.Wait].
type Budget struct {
	sem  *semaphore.Weighted
	size int64
}

// BudgetFloor is the size in bytes below which a message is not counted.
const BudgetFloor = 64 << 10

// ErrBudget says that the budget had no room for a large message within [Conn.Wait]. The message
// is still unread: it can be read later, or the connection closed.
var ErrBudget = errors.New("no memory for a large message in time")

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	return &Budget{sem: semaphore.NewWeighted(bytes), size: bytes}
}

// cost is what a message of n bytes counts: its buffer, which is of a size class.
func cost(n int) int64 {
	switch class := sizeClass(n); {
	case n < BudgetFloor:
		return 0
	case class > maxClass:
		return int64(n)
	default:
		return int64(classSize(class))
	}
}

// take waits until the budget has room and returns how much was taken: what costs more than the
// whole budget takes all of it and is alone. A nil budget has no limit, wait 0 no end.
func (g *Budget) take(cost int64, wait time.Duration) (int64, error) {
	if g == nil || cost == 0 {
		return 0, nil
	}
	cost = min(cost, g.size)
	if g.sem.TryAcquire(cost) {
		return cost, nil
	}
	ctx := context.Background()
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	if g.sem.Acquire(ctx, cost) != nil {
		return 0, ErrBudget
	}
	return cost, nil
}

func (g *Budget) release(taken int64) {
	if taken > 0 {
		g.sem.Release(taken)
	}
}
