package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// zeoServers is the store of ZEO: a directory a database, served on a free port while it is up.
type zeoServers struct {
	directories
	python string
}

func (z zeoServers) up(ctx context.Context, database string) (map[string]any, func() error, error) {
	dir := z.path(database)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	cmd := child(ctx, syscall.SIGTERM, z.python, "-m", "ZEO.runzeo", "-a", address, "-f", filepath.Join(dir, "Data.fs"))
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("ZEO's server: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	down := func() error {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended by itself
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
			return fmt.Errorf("ZEO's server did not end: %s", tail(said.String()))
		}
		return nil
	}
	deadline := time.Now().Add(120 * time.Second) // a large database without an index takes its time
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return map[string]any{"kind": zeo, "host": "127.0.0.1", "port": port}, down, conn.Close()
		}
		select {
		case err := <-ended:
			return nil, nil, fmt.Errorf("ZEO's server ended: %v: %s", err, tail(said.String()))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = down()
			return nil, nil, fmt.Errorf("ZEO's server does not listen on %s", address)
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
