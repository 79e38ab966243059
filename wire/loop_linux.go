package wire

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loop is one epoll instance and the goroutine that asks it. That goroutine waits for the instance by
// Go's own poller, which has an epoll instance too: one that is asked to wait in a system call would keep
// a thread and be handed a processor each time.
type loop struct {
	epoll   *os.File
	fd      int
	raw     syscall.RawConn
	done    sync.WaitGroup
	events  [ringSize]syscall.EpollEvent
	waiters waiters
	turns   Turn
}

// waiters are who waits for a socket, by its number. An event may come for one that has been closed, and
// its number may be another one's then, who is told for nothing.
type waiters struct {
	by atomic.Pointer[[]atomic.Pointer[watched]] // written, and replaced to grow, under mu
	mu sync.Mutex
}

// NewLoops starts n loops; nil where this system has none. With rings, what a [Turn] has been asked for is done
// by io_uring. Where there are loops and an error, it says why that can't be had: each Read and Write is a
// system call then.
func NewLoops(n int, rings bool) (l *Loops, err error) {
	l = &Loops{}
	for range n {
		one, failed := newLoop()
		if failed != nil {
			l.Close()
			return nil, failed
		}
		l.all = append(l.all, one)
		if rings && err == nil {
			one.turns.ring, err = newRing()
		}
	}
	if err != nil {
		for _, one := range l.all {
			one.turns.ring.close()
			one.turns.ring = nil
		}
	}
	for _, one := range l.all {
		one.done.Go(func() { _ = one.raw.Read(one.turn) }) // until it is closed
	}
	return l, err
}

func newLoop() (*loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that Go's poller takes it
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	l := &loop{epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	l.waiters.by.Store(&[]atomic.Pointer[watched]{})
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		_ = l.epoll.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the loops. Those who are watched hear of nothing more.
func (l *Loops) Close() {
	if l == nil {
		return
	}
	for _, one := range l.all {
		_ = one.epoll.Close()
		one.done.Wait()
		one.turns.ring.close()
	}
}

// turn tells those for whom something has come; false waits for more.
func (l *loop) turn(uintptr) bool {
	for {
		n := epollNow(l.fd, l.events[:])
		l.turns.At = time.Now()
		for i := range n {
			w := l.waiters.of(int(l.events[i].Fd))
			if w == nil {
				continue
			}
			if l.events[i].Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
				w.ended.Store(true)
			}
			w.Ready(&l.turns)
		}
		l.turns.Run()
		if n < len(l.events) { // what comes from now on ends the wait
			return false
		}
	}
}

func (l *loop) watch(c *Conn, w Waiter) bool {
	ok := false
	err := c.raw.Control(func(fd uintptr) {
		c.fd, c.watched = int(fd), &watched{Waiter: w, by: l} // before w can be told
		l.waiters.set(c.fd, c.watched)
		if ok = l.control(c, syscall.EPOLL_CTL_ADD, syscall.EPOLLIN|syscall.EPOLLRDHUP); !ok {
			l.forget(c)
		}
	})
	return ok && err == nil
}

// listen says whether the loop is to be told of what comes; what is there already it is told of at once.
func (l *loop) listen(c *Conn, to bool) bool {
	if to {
		return l.control(c, syscall.EPOLL_CTL_MOD, syscall.EPOLLIN|syscall.EPOLLRDHUP)
	}
	return l.control(c, syscall.EPOLL_CTL_MOD, 0)
}

func (l *loop) control(c *Conn, op int, events uint32) bool {
	const edges = 1 << 31 // EPOLLET, which syscall has as a negative number
	return syscall.EpollCtl(l.fd, op, c.fd, &syscall.EpollEvent{Events: events | edges, Fd: int32(c.fd)}) == nil
}

// forget is called before the socket is closed, which takes it from the epoll instance.
func (l *loop) forget(c *Conn) {
	l.waiters.set(c.fd, nil)
	c.watched = nil
}

func (ws *waiters) of(fd int) *watched {
	list := *ws.by.Load()
	if fd >= len(list) {
		return nil
	}
	return list[fd].Load()
}

func (ws *waiters) set(fd int, w *watched) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	list := *ws.by.Load()
	if fd >= len(list) {
		more := make([]atomic.Pointer[watched], 2*fd+64)
		for i := range list {
			more[i].Store(list[i].Load())
		}
		list = more
		ws.by.Store(&more)
	}
	list[fd].Store(w)
}
