// Package child runs the other programs of a test or of the demo: one process
// each, its output kept, ended by its own process id and never by name.
package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const stopGrace = 10 * time.Second

// Process is a running program.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   output
	done  chan struct{}
	err   error // why it ended; read after done
}

// Start runs cmd with its output kept and, if tee is not nil, copied there.
// The child's standard input stays open until Stop: a program that watches it
// notices when this one is gone.
func Start(cmd *exec.Cmd, tee io.Writer) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	p.out.tee = tee
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is why an ended process ended, nil for success.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Output is what it has written so far, both streams in one.
func (p *Process) Output() string { return p.out.String() }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the process at once, as a power cut would, and waits until it has
// ended.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end and kills it when it doesn't in time.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	p.stdin.Close()
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopGrace):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %v and was killed", p.cmd.Path, stopGrace)
	}
}

// WaitUntil asks ready again and again until it says yes, the process has
// ended or the time is over.
func (p *Process) WaitUntil(limit time.Duration, ready func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v: %w", limit, err)
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended before it was ready: %v", p.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// addresses are those that FreeAddress has given.
var addresses sync.Map

// FreeAddress is a loopback address that nobody listened on a moment ago; never the same twice.
func FreeAddress() (string, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		l.Close()
		if _, given := addresses.LoadOrStore(addr, true); !given {
			return addr, nil
		}
	}
}

// output is a buffer that is written and read from different goroutines.
type output struct {
	tee io.Writer // set once, before use

	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tee != nil {
		_, _ = o.tee.Write(b)
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
