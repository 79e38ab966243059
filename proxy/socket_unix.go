//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// socketListener is a unix socket's, which has its path for itself as long as it holds the lock: the file beside
// the socket stays when all is over, since to remove it would take it from who has just opened it.
type socketListener struct {
	*net.UnixListener
	path string
	made os.FileInfo // the socket's file
	lock *os.File
}

// listenSocket opens a unix socket that those may connect to whom its permissions let write. What a process
// that has died has left at the path goes.
func listenSocket(path string, mode fs.FileMode) (net.Listener, error) {
	l, err := lockSocket(path)
	if err != nil {
		return nil, notListening(path, err)
	}
	if err = l.open(mode); err != nil {
		return nil, errors.Join(notListening(path, err), l.lock.Close())
	}
	return l, nil
}

func notListening(path string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("listen unix %s: %w", path, err)
}

// lockSocket takes the path for this process: of two that start at once one would remove the other's socket.
func lockSocket(path string) (*socketListener, error) {
	name := path + ".lock"
	lock, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		lock, err = os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; remove it where another user has left it and no tenantry runs there", err)
	}
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &socketListener{path: path, lock: lock}, nil
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%s is locked: %w", name, syscall.EADDRINUSE)
	}
	return nil, errors.Join(err, lock.Close())
}

func (l *socketListener) open(mode fs.FileMode) error {
	if err := l.dropDead(); err != nil {
		return err
	}
	before := syscall.Umask(0o077) // until its permissions are set nobody else connects
	nl, err := net.Listen("unix", l.path)
	syscall.Umask(before)
	if err != nil {
		return err
	}
	l.UnixListener = nl.(*net.UnixListener)
	l.SetUnlinkOnClose(false) // by another's name, maybe
	if err = os.Chmod(l.path, mode); err == nil {
		l.made, err = os.Lstat(l.path)
	}
	if err != nil {
		return errors.Join(err, nl.Close())
	}
	return nil
}

// dropDead removes a socket that nobody listens on.
func (l *socketListener) dropDead() error {
	info, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket; move it, or choose another path")
	}
	nc, err := net.Dial("unix", l.path)
	switch {
	case err == nil:
		return errors.Join(syscall.EADDRINUSE, nc.Close())
	case errors.Is(err, syscall.EAGAIN): // it has more to accept than it has room for
		return syscall.EADDRINUSE
	case errors.Is(err, syscall.ECONNREFUSED):
		if err = os.Remove(l.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	return err
}

// Close removes the socket's file, where it still is the one that was made. A second one does nothing.
func (l *socketListener) Close() error {
	if err := l.UnixListener.Close(); err != nil {
		return err
	}
	var err error
	if now, gone := os.Lstat(l.path); gone == nil && os.SameFile(l.made, now) {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.lock.Close())
}
