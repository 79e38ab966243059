//go:build linux && !race

package wire

import (
	"syscall"
	"unsafe"
)

// sysRead and sysWrite are read(2) and write(2) of a socket that does not block, at most a small message,
// and not told to Go's scheduler: it takes the processor away from one that is longer in a system call
// than 20 µs, which on a busy machine a write is whenever it wakes who reads, and gives it to another
// thread. A tenth and more of a command's CPU time went there.
func sysRead(fd int, b []byte) (int, syscall.Errno) { return sys(syscall.SYS_READ, fd, b) }

func sysWrite(fd int, b []byte) (int, syscall.Errno) { return sys(syscall.SYS_WRITE, fd, b) }

func sys(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	n, _, err := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if err != 0 {
		return -1, err
	}
	return int(n), 0
}

// epollNow is epoll_pwait(2) without a wait.
func epollNow(fd int, events []syscall.EpollEvent) int {
	for {
		n, _, err := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		if err == 0 {
			return int(n)
		}
		if err != syscall.EINTR {
			return 0
		}
	}
}
