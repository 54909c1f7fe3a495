package main

import (
	"bytes"
	"context"
	"errors"
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
	port, err := freePort(ctx)
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
	ended := make(chan exit, 1)
	go func() { ended <- exit{cmd.Wait()} }()
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
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			return map[string]any{"kind": zeo, "host": "127.0.0.1", "port": port}, down, conn.Close()
		}
		select {
		case how := <-ended:
			return nil, nil, errors.Join(fmt.Errorf("ZEO's server ended: %s", tail(said.String())), how.err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = down()
			return nil, nil, fmt.Errorf("ZEO's server does not listen on %s", address)
		}
	}
}

// exit is how a child ended.
type exit struct{ err error }

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.Join(fmt.Errorf("%s has no port", l.Addr()), l.Close())
	}
	return at.Port, l.Close()
}
