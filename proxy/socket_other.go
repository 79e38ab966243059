//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package proxy

import (
	"errors"
	"io/fs"
	"net"
)

func listenSocket(path string, _ fs.FileMode) (net.Listener, error) {
	return nil, errors.New("listen unix " + path + ": unix sockets are not offered on this system")
}
