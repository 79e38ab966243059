package main

import (
	"io"
	"net"
	"sync"
)

// The floors. Each connects to the server once per client, and nothing of theirs looks into a message.

// framing reads a whole message, writes it on, and does the same with the reply, in one goroutine:
// the least that a proxy does which knows where messages end. A message larger than the buffer of 16
// KiB gets memory of its own, as in proxies that do so for all.
func framing(client, server net.Conn) error {
	in, back := newFramer(client), newFramer(server)
	for {
		if err := pass(in, server); err != nil {
			return err
		}
		if err := pass(back, client); err != nil {
			return err
		}
	}
}

func pass(from *framer, to io.Writer) error {
	m, err := from.next()
	if err != nil {
		return err
	}
	_, err = to.Write(m)
	return err
}

// copying moves bytes both ways by io.Copy, in two goroutines; on Linux the kernel moves them then,
// from socket to socket, which no proxy can have that changes any.
func copying(client, server net.Conn) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, err := io.Copy(client, server)
	_ = client.Close()
	wg.Wait()
	return err
}

// relayTo serves clients by one of the floors.
func relayTo(address string, serve func(client, server net.Conn) error) func(net.Conn) error {
	return func(client net.Conn) error {
		server, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer server.Close()
		return serve(client, server)
	}
}
