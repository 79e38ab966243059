//go:build unix && (!linux || race)

package wire

import (
	"errors"
	"syscall"
)

// The race detector has to see what is handed over by a socket, as of Go's own calls it does.

func sysRead(fd int, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(fd, b)
	return n, number(err)
}

func sysWrite(fd int, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(fd, b)
	return n, number(err)
}

func number(err error) (e syscall.Errno) {
	errors.As(err, &e)
	return e
}
