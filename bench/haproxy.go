package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// haproxyPath is where HAProxy is; "" where it is not installed.
func haproxyPath() string {
	path, _ := exec.LookPath("haproxy")
	return path
}

// haproxyConfig makes it a relay of TCP, with one thread as all that is pinned has. It takes two file
// descriptors for each of maxconn, and does not start where it may not have them.
const haproxyConfig = `global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend clients
  bind %s
  default_backend servers
backend servers
  server canned %s
`

// startHAProxy runs HAProxy as a relay. It can't tell which port it was given, so a free one is
// looked for.
func startHAProxy(cpu int, server string) (*child, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	_ = l.Close()
	dir, err := os.MkdirTemp("", "tenantry-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, address, server), 0o600); err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(haproxyPath(), "-db", "-f", file), address: address}
	c.cmd.Stderr = os.Stderr
	if _, err := c.start(cpu); err != nil {
		return nil, err
	}
	for late := time.Now().Add(10 * time.Second); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if nc, err := net.Dial("tcp", address); err == nil {
			_ = nc.Close()
			return c, nil
		}
	}
	c.stop()
	return nil, fmt.Errorf("%s does not listen", haproxyPath())
}
