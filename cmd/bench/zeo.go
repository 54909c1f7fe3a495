package main

import (
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
	serves, err := startServer(ctx, "ZEO's server", dir, z.python, "-m", "ZEO.runzeo", "-a", address, "-f", filepath.Join(dir, "Data.fs"))
	if err != nil {
		return nil, nil, err
	}
	down := func() error {
		_ = syscall.Kill(-serves.pid, syscall.SIGTERM) // it may have ended by itself
		return serves.end(time.Now().Add(serverEnds))
	}
	deadline := time.Now().Add(120 * time.Second) // a large database without an index takes its time
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			return map[string]any{"kind": zeo, "host": "127.0.0.1", "port": port}, down, conn.Close()
		}
		if err := serves.gone(); err != nil {
			return nil, nil, err
		}
		time.Sleep(20 * time.Millisecond)
		if time.Now().After(deadline) {
			_ = down()
			return nil, nil, fmt.Errorf("ZEO's server does not listen on %s", address)
		}
	}
}

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
