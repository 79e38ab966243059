//go:build unix

package backend

import "syscall"

// peek looks at what a read would give, without waiting and without taking it. Nothing there is
// EAGAIN, the end is no error.
func peek(fd uintptr, b []byte) error {
	_, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err
}
