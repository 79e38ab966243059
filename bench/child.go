package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// child is a process of the bench.
type child struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	address string // where it listens
}

// self starts a part of the bench that listens.
func self(cpu int, args ...string) (*child, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(path, args...)}
	c.cmd.Stderr = os.Stderr
	out, err := c.start(cpu)
	if err != nil {
		return nil, err
	}
	c.address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("%v: no address: %w", args, err)
	}
	c.address = c.address[:len(c.address)-1]
	return c, nil
}

func (c *child) start(cpu int) (out io.Reader, err error) {
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return out, startOn(cpu, c.cmd)
}

// stop ends the process, by force where it takes its time.
func (c *child) stop() {
	if c == nil || c.cmd.Process == nil {
		return
	}
	_ = c.stdin.Close()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	_ = c.cmd.Wait()
}

// generate runs a load in a process of its own.
func generate(cpu int, l load) (r result, err error) {
	path, err := os.Executable()
	if err != nil {
		return r, err
	}
	spec, err := json.Marshal(l)
	if err != nil {
		return r, err
	}
	c := &child{cmd: exec.Command(path, "load", string(spec))}
	c.cmd.Stderr = os.Stderr
	out, err := c.start(cpu)
	if err != nil {
		return r, err
	}
	late := time.AfterFunc(l.Warm+l.For+2*time.Minute, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	decode := json.NewDecoder(out).Decode(&r)
	if err := c.cmd.Wait(); err != nil {
		return r, errors.Join(fmt.Errorf("the generator has failed: %w", err), decode)
	}
	return r, decode
}
