package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// neoHint says how NEO comes into the virtualenv.
const neoHint = "NEO's last release runs on Python 2.7 only: pip install six git+https://lab.nexedi.com/nexedi/neoppod.git"

// neoClusters is the store of NEO: a directory a database, served while it is up by a cluster of the smallest kind, one
// master, one storage node on SQLite, and one admin node, on free ports.
type neoClusters struct {
	directories
	python string
}

func (n neoClusters) up(ctx context.Context, database string) (_ map[string]any, _ func() error, err error) {
	dir := n.path(database)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	master, err := freeAddress(ctx)
	if err != nil {
		return nil, nil, err
	}
	admin, err := freeAddress(ctx)
	if err != nil {
		return nil, nil, err
	}
	// NEO's own default is SQLite's rollback journal, as durable and slower.
	file := "file:" + filepath.Join(dir, "neo.sqlite") + "?journal_mode=WAL&synchronous=FULL"
	var nodes []*server
	down := func() error { return n.down(ctx, admin, nodes) }
	for _, args := range [][]string{
		{"neomaster", "-b", master, "-r", "0", "-p", "12"}, // partitions: as in its example of a configuration
		{"neostorage", "-b", "127.0.0.1:0", "-a", "SQLite", "-d", file},
		{"neoadmin", "-b", admin},
	} {
		args := slices.Concat([]string{n.python, "-m", "neo.scripts." + args[0]}, args[1:], []string{"-c", "bench", "-m", master})
		node, err := startServer(ctx, "NEO's "+strings.TrimPrefix(args[2], "neo.scripts."), dir, args...)
		if err != nil {
			return nil, nil, errors.Join(err, down())
		}
		nodes = append(nodes, node)
	}
	if err := n.running(ctx, admin, nodes); err != nil {
		return nil, nil, errors.Join(err, down())
	}
	return map[string]any{"kind": neo, "masters": master, "cluster": "bench"}, down, nil
}

// running waits until a cluster serves; one without data has to be told to.
func (n neoClusters) running(ctx context.Context, admin string, nodes []*server) error {
	deadline := time.Now().Add(120 * time.Second)
	for {
		state, err := n.control(ctx, admin, "print", "cluster")
		if err == nil && state == "RUNNING" {
			return nil
		}
		if err == nil && state == "RECOVERING" {
			_, err = n.control(ctx, admin, "start")
		}
		for _, node := range nodes {
			if err := node.gone(); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("NEO's cluster is %q, not RUNNING", state), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// control asks a cluster's admin node.
func (n neoClusters) control(ctx context.Context, admin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := child(ctx, syscall.SIGKILL, append([]string{n.python, "-m", "neo.scripts.neoctl", "-a", admin}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("neoctl %s: %w: %s", strings.Join(args, " "), err, tail(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// down stops a cluster in NEO's own order, and ends what is left of it.
func (n neoClusters) down(ctx context.Context, admin string, nodes []*server) error {
	_, err := n.control(ctx, admin, "set", "cluster", "STOPPING")
	then := time.Now().Add(serverEnds)
	if err != nil || len(nodes) < 3 { // nobody told them
		then = time.Now()
	}
	for _, node := range nodes {
		err = errors.Join(err, node.end(then))
	}
	return err
}

func freeAddress(ctx context.Context) (string, error) {
	port, err := freePort(ctx)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}
