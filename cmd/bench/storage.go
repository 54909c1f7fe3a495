package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// The storages, as --storages names them.
const (
	dht         = "dht"
	filestorage = "filestorage"
	zeo         = "zeo"
	postgresql  = "postgresql"
	sqlite      = "sqlite"
	neo         = "neo"
)

func allStorages() []string { return []string{dht, filestorage, zeo, postgresql, sqlite, neo} }

// modules are what a storage needs of Python.
func modules(storage string) []string {
	return map[string][]string{
		dht:         {"zodb_dht", "ZODB"},
		filestorage: {"ZODB"},
		zeo:         {"ZEO"},
		postgresql:  {"relstorage", "psycopg2"},
		sqlite:      {"relstorage"},
		neo:         {"neo.client.Storage"},
	}[storage]
}

func chooseStorages(names []string) ([]string, error) {
	if len(names) == 0 {
		return allStorages(), nil
	}
	for _, name := range names {
		if !slices.Contains(allStorages(), name) {
			return nil, usageError{fmt.Errorf("no storage is called %q; there are %s", name, strings.Join(allStorages(), ", "))}
		}
	}
	return slices.DeleteFunc(allStorages(), func(s string) bool { return !slices.Contains(names, s) }), nil
}

// store is where one storage's databases live, and the server that some need to be reached.
type store interface {
	// up makes a database reachable and returns the worker's description of it; down ends what up started.
	up(ctx context.Context, database string) (spec map[string]any, down func() error, err error)
	// settled is called after a database was filled, before it is measured.
	settled(ctx context.Context, database string) error
	// size is what a database takes on disk, in bytes; it is down.
	size(ctx context.Context, database string) (int64, error)
	remove(ctx context.Context, database string) error
	// duplicate makes `to` of `from`, in place of one that may be there; both are down.
	duplicate(ctx context.Context, from, to string) error
}

// directories is the store of a storage that is a directory a database, opened by the worker itself.
type directories struct{ kind, root string }

func (d directories) path(database string) string { return filepath.Join(d.root, d.kind, database) }

func (d directories) up(_ context.Context, database string) (map[string]any, func() error, error) {
	err := os.MkdirAll(filepath.Join(d.root, d.kind), 0o755)
	return map[string]any{"kind": d.kind, "path": d.path(database)}, func() error { return nil }, err
}

func (d directories) settled(context.Context, string) error { return nil }

func (d directories) size(_ context.Context, database string) (int64, error) {
	return allocated(d.path(database))
}

func (d directories) remove(_ context.Context, database string) error {
	return os.RemoveAll(d.path(database))
}

func (d directories) duplicate(ctx context.Context, from, to string) error {
	if err := d.remove(ctx, to); err != nil {
		return err
	}
	return os.CopyFS(d.path(to), os.DirFS(d.path(from)))
}

// allocated is what the files below dir take on disk, in bytes: holes count for nothing, preallocated space counts.
func allocated(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: the file system does not tell how many blocks it has", info.Name())
		}
		total += st.Blocks * 512 // st_blocks counts 512 B, whatever the file system's block is
		return nil
	})
	return total, err
}
