//go:build linux && !race

package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is an io_uring, by which many sockets read and write with one system call. It is used as if that call
// had been made for each: nothing of what it was given is under way when it returns. See io_uring(7),
// io_uring_setup(2) and io_uring_enter(2).
type ring struct {
	fd             int
	mem            []byte // the heads, tails and completions, which are shared with the system
	requests       []ringRequest
	requestMem     []byte
	sqHead, sqTail *uint32
	cqHead, cqTail *uint32
	cqMask         uint32
	completions    []ringCompletion
}

// The system's numbers and structures, from linux/io_uring.h.
const (
	ringOpSend = 26
	ringOpRecv = 27

	ringMemory   = 0          // what mmap is to map: heads, tails and completions,
	ringRequests = 0x10000000 // or requests

	ringGetEvents = 1 << 0 // a flag of io_uring_enter: wait for completions

	ringSingleMmap = 1 << 0 // features: of Linux 5.4
	ringFastPoll   = 1 << 5 // of 5.7, which has both operations, and heeds MSG_DONTWAIT
)

type ringRequest struct {
	op       uint8
	flags    uint8
	priority uint16
	fd       int32
	offset   uint64
	addr     uint64
	len      uint32
	msgFlags uint32
	data     uint64
	_        [3]uint64
}

type ringCompletion struct {
	data  uint64
	res   int32
	flags uint32
}

type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, workers uint32
	_                                                         [3]uint32
	sq                                                        struct {
		head, tail, mask, entries, flags, dropped, array uint32
		_                                                [3]uint32
	}
	cq struct {
		head, tail, mask, entries, overflow, completions, flags uint32
		_                                                       [3]uint32
	}
}

// newRing makes one, where the system has what it needs and lets this process use it.
func newRing() (*ring, error) {
	var p ringParams
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, ringSize, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd)}
	if err := r.open(&p); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) open(p *ringParams) (err error) {
	if need := uint32(ringSingleMmap | ringFastPoll); p.features&need != need {
		return fmt.Errorf("io_uring of Linux before 5.7: %w", errors.ErrUnsupported)
	}
	size := max(p.sq.array+4*p.sqEntries, p.cq.completions+uint32(unsafe.Sizeof(ringCompletion{}))*p.cqEntries)
	if r.mem, err = r.mmap(ringMemory, int(size)); err != nil {
		return err
	}
	if r.requestMem, err = r.mmap(ringRequests, int(p.sqEntries)*int(unsafe.Sizeof(ringRequest{}))); err != nil {
		return err
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[offset])) }
	r.sqHead, r.sqTail = at(p.sq.head), at(p.sq.tail)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.requests = unsafe.Slice((*ringRequest)(unsafe.Pointer(&r.requestMem[0])), p.sqEntries)
	r.completions = unsafe.Slice((*ringCompletion)(unsafe.Pointer(&r.mem[p.cq.completions])), p.cqEntries)
	order := unsafe.Slice(at(p.sq.array), p.sqEntries)
	for i := range order {
		order[i] = uint32(i)
	}
	return nil
}

func (r *ring) mmap(what int64, size int) ([]byte, error) {
	b, err := syscall.Mmap(r.fd, what, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
	return b, os.NewSyscallError("mmap", err)
}

func (r *ring) close() {
	if r == nil {
		return
	}
	if r.mem != nil {
		_ = syscall.Munmap(r.mem)
	}
	if r.requestMem != nil {
		_ = syscall.Munmap(r.requestMem)
	}
	_ = syscall.Close(r.fd)
}

// do does them all.
func (r *ring) do(ops []op) {
	for len(ops) > 0 {
		n := min(len(ops), ringSize)
		if r == nil || n == 1 {
			for i := range ops[:n] {
				ops[i].alone()
			}
		} else {
			r.together(ops[:n])
		}
		ops = ops[n:]
	}
}

func (r *ring) together(ops []op) {
	head := *r.sqTail // the system has taken all that were given
	tail := head
	for i := range ops {
		o := &ops[i]
		if o.idle() {
			continue
		}
		q := &r.requests[tail%ringSize]
		tail++
		q.fd, q.data = int32(o.conn.fd), uint64(i)
		q.msgFlags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
		b := o.out
		if q.op = ringOpSend; len(b) == 0 {
			o.in = NewBuf(readSize)
			q.op, b = ringOpRecv, o.in.B
		}
		q.addr, q.len = uint64(uintptr(unsafe.Pointer(&b[0]))), uint32(len(b))
	}
	if tail == head {
		return
	}
	atomic.StoreUint32(r.sqTail, tail)
	_ = r.enter(tail-head, 0) // what it has taken its head tells
	taken := atomic.LoadUint32(r.sqHead)
	for done := uint32(0); ; {
		first, end := *r.cqHead, atomic.LoadUint32(r.cqTail)
		for at := first; at != end; at++ {
			c := &r.completions[at&r.cqMask]
			ops[c.data].done(c.res)
		}
		atomic.StoreUint32(r.cqHead, end)
		if done += end - first; done == taken-head {
			break
		}
		if err := r.enter(0, taken-head-done); err != 0 && err != syscall.EINTR {
			panic("io_uring has taken requests and does not complete them: " + err.Error()) // whether a write was made, nobody knows
		}
	}
	*r.sqTail = taken
	for ; tail != taken; tail-- { // what it has not taken
		ops[r.requests[(tail-1)%ringSize].data].done(-int32(syscall.EINTR))
	}
	runtime.KeepAlive(ops) // of whose buffers the system alone knew
}

// enter gives requests to the system, and waits for completions. An error says that it has taken no request, or
// has not waited.
func (r *ring) enter(requests, completions uint32) syscall.Errno {
	flags := uintptr(0)
	if completions > 0 {
		flags = ringGetEvents
	}
	_, _, err := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(requests), uintptr(completions), flags, 0, 0)
	return err
}

// done takes what the system says: how many bytes, or an error's number.
func (o *op) done(res int32) {
	c, in, errno := o.conn, o.in, syscall.Errno(max(-res, 0))
	o.in = nil
	switch errno {
	case syscall.EINTR, syscall.ECANCELED, syscall.EINVAL, syscall.EOPNOTSUPP, syscall.ENOMEM: // maybe of the ring: nothing was done
		in.Free()
		o.alone()
		return
	}
	if in == nil {
		c.written = int(max(res, 0))
	} else {
		c.took(in, int(res), errno)
	}
}
