package backend

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
)

// What the driver still waits for when its topology is ended ends at once, and it can begin nothing else.
func TestMonitorsEnd(t *testing.T) {
	var ends []net.Conn
	m := newMonitors(func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		ends = append(ends, theirs)
		return ours, nil
	})
	gone, err := m.DialContext(t.Context(), "tcp", "a:1")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	waits, err := m.DialContext(t.Context(), "tcp", "a:1")
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := waits.Read(make([]byte, 1))
		read <- err
	}()
	if len(m.conns) != 1 {
		t.Errorf("%d connections are kept, of which one is closed", len(m.conns))
	}
	m.end()
	if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the read that waited: %v", err)
	}
	if _, err := m.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, ErrClosed) {
		t.Errorf("a dial afterwards: %v", err)
	}
	if _, err := ends[2].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection of that dial is left open: %v", err)
	}
	waits.Close()
}
