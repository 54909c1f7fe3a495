package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postgres is a server of the benchmark's own, reached through a Unix socket in its directory, and the store of
// RelStorage's databases in it.
type postgres struct {
	bin, dir string
	temp     string              // on a tmpfs, for temporary tables; "" if there is none
	owner    *syscall.Credential // nil: this process's
	cmd      *exec.Cmd
	said     bytes.Buffer
	ended    chan exit
}

// postgresSettings: every commit is on disk when it returns, caches are ample.
func postgresSettings() []string {
	return []string{
		"listen_addresses=", "fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=512MB", "max_wal_size=4GB", "max_connections=100",
	}
}

// findPostgres returns the directory of the server's programs; root on Debian installs them.
func findPostgres(ctx context.Context) (string, error) {
	if bin, ok := postgresBin(); ok {
		return bin, nil
	}
	apt, err := exec.LookPath("apt-get")
	if os.Geteuid() != 0 || err != nil {
		return "", errors.New("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
	}
	cmd := child(ctx, syscall.SIGTERM, apt, "install", "-y", "-q", "--no-install-recommends", "postgresql")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get install postgresql: %w: %s", err, tail(string(out)))
	}
	if bin, ok := postgresBin(); ok {
		return bin, nil
	}
	return "", errors.New("apt-get install postgresql brought no server")
}

func postgresBin() (string, bool) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well-formed
	if len(found) > 0 {
		slices.Sort(found)
		return filepath.Dir(found[len(found)-1]), true
	}
	exe, err := exec.LookPath("postgres")
	return filepath.Dir(exe), err == nil
}

// startPostgres makes a cluster in dir and serves it; with a tmpfs its temporary tables lie there.
func startPostgres(ctx context.Context, dir, tmpfs string) (_ *postgres, err error) {
	bin, err := findPostgres(ctx)
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, dir: dir, ended: make(chan exit, 1)}
	if err := p.prepare(tmpfs); err != nil {
		return nil, errors.Join(err, p.clean())
	}
	data := filepath.Join(dir, "data")
	if err := p.tool(ctx, "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, errors.Join(err, p.clean())
	}
	args := []string{filepath.Join(bin, "postgres"), "-D", data, "-k", dir}
	for _, s := range postgresSettings() {
		args = append(args, "-c", s)
	}
	// SIGINT is PostgreSQL's fast shutdown: it ends its sessions and its children by itself.
	p.cmd = child(ctx, syscall.SIGINT, args...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGINT) }
	p.as(p.cmd)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("PostgreSQL: %w", err), p.clean())
	}
	go func() { p.ended <- exit{p.cmd.Wait()} }()
	if err := p.ready(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// prepare makes the directories and gives them to the user that the server runs as: PostgreSQL refuses to be root.
func (p *postgres) prepare(tmpfs string) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if tmpfs != "" {
		temp, err := os.MkdirTemp(tmpfs, "zodb-dht-bench-")
		if err != nil {
			return err
		}
		p.temp = temp
	}
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	p.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, dir := range []string{p.dir, p.temp} {
		if dir == "" {
			continue
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func (p *postgres) as(cmd *exec.Cmd) {
	cmd.SysProcAttr.Credential = p.owner
	cmd.Dir = p.dir
}

// tool runs one of PostgreSQL's programs to its end.
func (p *postgres) tool(ctx context.Context, name string, args ...string) error {
	_, err := p.answer(ctx, name, args...)
	return err
}

func (p *postgres) answer(ctx context.Context, name string, args ...string) (string, error) {
	cmd := child(ctx, syscall.SIGKILL, append([]string{filepath.Join(p.bin, name)}, args...)...)
	p.as(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, tail(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// query runs one statement and returns its answer.
func (p *postgres) query(ctx context.Context, database, statement string) (string, error) {
	return p.answer(ctx, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", p.dir, "-U", "bench", "-d", database, "-c", statement)
}

// ready waits until the server answers, then moves its temporary tables to the tmpfs.
func (p *postgres) ready(ctx context.Context) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, err := p.query(ctx, "postgres", "SELECT 1")
		if err == nil {
			break
		}
		select {
		case ended := <-p.ended:
			p.ended <- ended // for close
			return errors.Join(fmt.Errorf("PostgreSQL ended: %s", tail(p.said.String())), ended.err)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		}
	}
	if p.temp == "" {
		return nil
	}
	for _, s := range []string{
		"CREATE TABLESPACE bench_temp LOCATION '" + p.temp + "'", "ALTER SYSTEM SET temp_tablespaces = 'bench_temp'", "SELECT pg_reload_conf()",
	} {
		if _, err := p.query(ctx, "postgres", s); err != nil {
			return err
		}
	}
	return nil
}

func (p *postgres) close() error {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGINT) // it may have ended by itself
		select {
		case <-p.ended:
		case <-time.After(60 * time.Second):
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.ended
		}
	}
	return p.clean()
}

func (p *postgres) clean() error {
	if p.temp == "" {
		return nil
	}
	return os.RemoveAll(p.temp)
}

// name is the database's in PostgreSQL, where a minus would need quotes.
func (p *postgres) name(database string) string { return strings.ReplaceAll(database, "-", "_") }

func (p *postgres) up(ctx context.Context, database string) (map[string]any, func() error, error) {
	name := p.name(database)
	there, err := p.query(ctx, "postgres", "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'")
	if err == nil && there == "0" {
		_, err = p.query(ctx, "postgres", "CREATE DATABASE "+name)
	}
	spec := map[string]any{"kind": postgresql, "dsn": fmt.Sprintf("host='%s' user='bench' dbname='%s'", p.dir, name)}
	return spec, func() error { return nil }, err
}

// settled does what a server's autovacuum would have done by the time that a database is in use.
func (p *postgres) settled(ctx context.Context, database string) error {
	if _, err := p.query(ctx, p.name(database), "VACUUM ANALYZE"); err != nil {
		return err
	}
	_, err := p.query(ctx, p.name(database), "CHECKPOINT")
	return err
}

func (p *postgres) size(ctx context.Context, database string) (int64, error) {
	s, err := p.query(ctx, "postgres", "SELECT pg_database_size('"+p.name(database)+"')")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(s, 10, 64)
}

func (p *postgres) remove(ctx context.Context, database string) error {
	_, err := p.query(ctx, "postgres", "DROP DATABASE IF EXISTS "+p.name(database)+" WITH (FORCE)")
	return err
}

func (p *postgres) duplicate(ctx context.Context, from, to string) error {
	if err := p.remove(ctx, to); err != nil {
		return err
	}
	_, err := p.query(ctx, "postgres", "CREATE DATABASE "+p.name(to)+" TEMPLATE "+p.name(from))
	return err
}
