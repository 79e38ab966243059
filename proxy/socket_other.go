//go:build !unix

package proxy

import (
	"errors"
	"io/fs"
	"net"
)

func listenSocket(path string, _ fs.FileMode) (net.Listener, error) {
	return nil, errors.New("listen unix " + path + ": this system has no unix sockets")
}
