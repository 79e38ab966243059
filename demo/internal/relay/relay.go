// Package relay is a TCP relay between a test's client and the proxy, or between
// the proxy and its server. It counts what the client does (connections,
// compressed messages) and can cut them off, as a network does: at once, after a
// request has gone through and before its reply does, or for a while.
package relay

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	headerLen     = 16
	compressedLen = headerLen + 9 // with the original op code, its size and the compressor's id
	opCompressed  = 2012
	shown         = 256 // bytes of a message that decide about it
)

// Relay is a running relay.
type Relay struct {
	Addr string

	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the following fields
	to     string
	opened []time.Time
	ended  int // connections that either side has closed
	pipes  map[net.Conn]struct{}
	sent   map[byte]int // compressed messages from clients, by compressor
	got    map[byte]int // and to clients
	lose   func(request []byte) bool
	lost   int
	down   bool
	closed bool
}

// Start relays to an address, which [Relay.To] may name later, until the test ends.
func Start(t testing.TB, to string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: l.Addr().String(), listener: l, to: to, pipes: map[net.Conn]struct{}{}, sent: map[byte]int{}, got: map[byte]int{}}
	r.wg.Go(r.accept)
	t.Cleanup(r.stop)
	return r
}

// To names the address that further connections go to.
func (r *Relay) To(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = addr
}

// Opened is how many connections clients have opened, and how many of them since a time.
func (r *Relay) Opened(since time.Time) (all, recent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.opened {
		if at.After(since) {
			recent++
		}
	}
	return len(r.opened), recent
}

// Ended is how many connections have been closed, by the client or the server.
func (r *Relay) Ended() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// Compressed counts the messages that came through compressed by the compressor
// with the id, from clients and to them.
func (r *Relay) Compressed(id byte) (sent, got int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[id], r.got[id]
}

// Lose names the requests whose replies are lost: each goes through, and when
// its reply comes the connection is cut. The function sees the first 256 bytes.
func (r *Relay) Lose(which func(request []byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = which
}

// Lost is how many replies have been lost.
func (r *Relay) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Down cuts all connections and refuses further ones until it is called with false.
func (r *Relay) Down(down bool) {
	r.mu.Lock()
	r.down = down
	r.mu.Unlock()
	if down {
		r.Cut()
	}
}

// Cut closes all connections that are open now.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for nc := range r.pipes {
		nc.Close()
	}
}

func (r *Relay) stop() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Cut()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		to, down := r.to, r.down
		r.opened = append(r.opened, time.Now())
		r.mu.Unlock()
		if down {
			client.Close()
			continue
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			client.Close()
			continue
		}
		r.join(client, server)
	}
}

// join copies both ways until one side ends, then closes both.
func (r *Relay) join(client, server net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		client.Close()
		server.Close()
		return
	}
	r.pipes[client], r.pipes[server] = struct{}{}, struct{}{}
	end := func() {
		client.Close()
		server.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, open := r.pipes[client]; open {
			r.ended++
		}
		delete(r.pipes, client)
		delete(r.pipes, server)
	}
	var doomed atomic.Bool // the next reply is lost
	r.wg.Go(func() {
		defer end()
		r.copy(server, client, r.sent, func(request []byte) bool {
			if r.loses(request) {
				doomed.Store(true)
			}
			return true
		})
	})
	r.wg.Go(func() {
		defer end()
		r.copy(client, server, r.got, func([]byte) bool { return !doomed.Load() })
	})
}

func (r *Relay) loses(request []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lose == nil || !r.lose(request) {
		return false
	}
	r.lost++
	return true
}

// copy passes message after message on, as long as pass says so.
func (r *Relay) copy(dst io.Writer, src io.Reader, count map[byte]int, pass func(start []byte) bool) {
	in := bufio.NewReader(src)
	for {
		header, err := in.Peek(headerLen)
		if err != nil {
			return
		}
		length := binary.LittleEndian.Uint32(header)
		if binary.LittleEndian.Uint32(header[12:]) == opCompressed {
			if header, err = in.Peek(compressedLen); err != nil {
				return
			}
			r.mu.Lock()
			count[header[compressedLen-1]]++
			r.mu.Unlock()
		}
		start, err := in.Peek(min(int(length), shown))
		if err != nil || !pass(start) {
			return
		}
		if _, err := io.CopyN(dst, in, int64(length)); err != nil {
			return
		}
	}
}
