package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// listen serves each connection on a goroutine of its own, after it has told the address on out, and
// until the listener is closed; then it closes the connections and waits.
func listen(l net.Listener, out io.Writer, serve func(net.Conn) error) error {
	if _, err := fmt.Fprintln(out, l.Addr()); err != nil {
		return err
	}
	s := &served{open: map[net.Conn]bool{}}
	defer s.end()
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s.begin(nc, serve)
	}
}

// served is the connections that are served now.
type served struct {
	wg   sync.WaitGroup
	mu   sync.Mutex // guards open
	open map[net.Conn]bool
}

func (s *served) begin(nc net.Conn, serve func(net.Conn) error) {
	s.mu.Lock()
	s.open[nc] = true
	s.mu.Unlock()
	s.wg.Go(func() {
		_ = serve(nc) // how it ended, the generator sees
		_ = nc.Close()
		s.mu.Lock()
		delete(s.open, nc)
		s.mu.Unlock()
	})
}

func (s *served) end() {
	s.mu.Lock()
	for nc := range s.open {
		_ = nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// listenUntilEOF is listen on an address that the system chooses, and on the unix sockets of these paths, until
// what started this process closes its standard input or has died.
func listenUntilEOF(serve func(net.Conn) error, sockets ...string) error {
	l, err := net.Listen("tcp", tcpListener)
	if err != nil {
		return err
	}
	all := []net.Listener{l}
	closeAll := func() {
		for _, l := range all {
			_ = l.Close()
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, path := range sockets {
		u, err := net.Listen("unix", path)
		if err != nil {
			closeAll()
			return err
		}
		all = append(all, u)
		wg.Go(func() { _ = listen(u, io.Discard, serve) }) // which ends as the other one does
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		closeAll()
	}()
	return listen(l, os.Stdout, serve)
}

// network is that of an address: the path of a unix socket, or host and port.
func network(address string) string {
	if filepath.IsAbs(address) {
		return "unix"
	}
	return "tcp"
}
