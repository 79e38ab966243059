//go:build race

package wire

import "syscall"

// epollNow asks an epoll instance without waiting.
func epollNow(fd int, events []syscall.EpollEvent) int {
	for {
		n, err := syscall.EpollWait(fd, events, 0)
		if err == nil {
			return n
		}
		if err != syscall.EINTR {
			return 0
		}
	}
}
