//go:build unix

package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// listenSocket opens a unix socket that those may connect to whom its permissions let write. What a process
// that has died has left at the path goes.
func listenSocket(path string, mode fs.FileMode) (net.Listener, error) {
	if err := dropDead(path); err != nil {
		return nil, err
	}
	before := syscall.Umask(0o077) // until its permissions are set nobody else connects
	l, err := net.Listen("unix", path)
	syscall.Umask(before)
	if err != nil {
		return nil, err // it names the path
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// dropDead removes a socket that nobody listens on.
func dropDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen unix %s: there is a file that is no socket; move it, or choose another path", path)
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		_ = nc.Close()
		return &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
