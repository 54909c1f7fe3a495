package index

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// names knows which directories hold names that are not durable yet. Pebble syncs its directory, and the one above it, four times in
// each open. Two kinds of names can wait until something relies on them:
//
//   - a write-ahead log's, until the log is synced for the first time: without it nothing in the log was acknowledged;
//   - the options', which an open does without: the file is either the one that was there before or was synced, see options.
//
// Tables, manifests and markers can't. What an earlier process made and did not sync waits for the first log's sync, too: what was
// acknowledged relied on that process' own. So an open that commits nothing need sync nothing.
type names struct {
	mu   sync.Mutex // guards all below; never held across I/O
	dirs map[string]named
}

// named are a directory's names, counted.
type named struct {
	made    uint64 // so far; the first one stands for all that were there before
	presses uint64 // the last one that can't wait
	durable uint64 // Invariant: the first so many are
}

// add is called when a name was made.
func (n *names) add(path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.look(filepath.Dir(path))
	d.made++
	if name := filepath.Base(path); !isLog(name) && !strings.HasPrefix(name, optionsPrefix) {
		d.presses = d.made
	}
	n.dirs[filepath.Dir(path)] = d
}

// gone is called when a name that can wait was taken away.
func (n *names) gone(path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.look(filepath.Dir(path))
	d.made++
	n.dirs[filepath.Dir(path)] = d
}

// look is what is known of a directory, now on. REQUIRES: n.mu.
func (n *names) look(dir string) named {
	if n.dirs == nil {
		n.dirs = make(map[string]named)
	}
	d, known := n.dirs[dir]
	if !known {
		d.made = 1
		n.dirs[dir] = d
	}
	return d
}

// sync is called where Pebble wants a directory's names to be durable.
func (n *names) sync(dir vfs.File, path string) error {
	n.mu.Lock()
	d := n.look(filepath.Clean(path))
	n.mu.Unlock()
	if d.presses <= d.durable {
		return nil
	}
	return n.synced(dir, path, d.made)
}

func (n *names) synced(dir vfs.File, path string, made uint64) error {
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.look(filepath.Clean(path))
	d.durable = max(d.durable, made)
	n.dirs[filepath.Clean(path)] = d
	return nil
}

// settle makes all names durable that were made before.
func (n *names) settle(fsys vfs.FS) error {
	n.mu.Lock()
	dirs := maps.Clone(n.dirs)
	n.mu.Unlock()
	for path, d := range dirs {
		if d.durable >= d.made {
			continue
		}
		dir, err := fsys.OpenDir(path)
		if err != nil {
			return fmt.Errorf("open directory %s: %w", path, err)
		}
		if err := errors.Join(n.synced(dir, path, d.made), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}
