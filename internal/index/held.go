package index

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// held is what Pebble did while it opened a directory after a crash, and what must not reach the disk in any other order: it writes what it
// replayed to a table, tells of that in a new manifest, points the marker to it, begins a write-ahead log and removes the old files. An
// open need not wait for the disk there: until settle is done the directory opens as it was before. For that
//
//   - the marker and the new log have the names of drafts, which an open removes;
//   - the old logs, manifest and marker are not removed, nor tables that nobody names: where the manifest is cut they are somebody's;
//   - nothing that comes later is made, renamed or synced: whoever does settles first.
//
// Invariant: a log that has its own name is never there together with an older one that a manifest in force still needs, since Pebble
// reads only the last one up to where a crash cut it.
type held struct {
	fsys vfs.FS

	mu sync.Mutex // guards all below; held across settle's I/O, never while Pebble is called
	// opening: Pebble opens a directory that was there before.
	opening bool
	syncs   []string // files to sync, and then the directory
	dir     string   // theirs
	marker  draft    // of the manifest's marker
	log     draft
	removed []string
	err     error // of settle: it is not tried again
}

// draft is a file and the name that it is to have; zero: there is none.
type draft struct{ now, name string }

// manifestMarker begins the name of the file that names the manifest in force.
const manifestMarker = "marker.manifest."

// draftPrefix, a number and draftSuffix are a name that Pebble removes in an open as what a crash left; it makes one of its options only.
const draftPrefix = "temporary."

// markerDraft has a number that no file has.
const markerDraft = draftPrefix + "000000" + draftSuffix

// begin is called before Pebble opens. A directory that it is about to make waits for nothing.
func (h *held) begin(fsys vfs.FS, dir string, names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fsys, h.dir = fsys, dir
	h.opening = slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, manifestMarker) })
}

// end is called when Pebble is open. It reports whether there is anything to settle.
func (h *held) end() bool {
	h.mu.Lock()
	h.opening = false
	waits := h.marker.now != ""
	h.mu.Unlock()
	if !waits {
		_ = h.settle() // there is nothing that could fail
	}
	return waits
}

// sync takes the sync of a file over, if Pebble opens.
func (h *held) sync(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opening {
		h.syncs = append(h.syncs, name)
	}
	return h.opening
}

// syncDir takes the sync of the directory over, if Pebble opens.
func (h *held) syncDir(path string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opening && filepath.Clean(path) == filepath.Clean(h.dir)
}

// draft returns the name that a file is made by: its own, unless it has to wait.
func (h *held) draft(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.opening:
	case strings.HasPrefix(filepath.Base(name), manifestMarker):
		h.marker = draft{filepath.Join(filepath.Dir(name), markerDraft), name}
		return h.marker.now
	case isLog(name) && h.marker.now != "":
		number := strings.TrimSuffix(filepath.Base(name), ".log")
		h.log = draft{filepath.Join(filepath.Dir(name), draftPrefix+number+draftSuffix), name}
		return h.log.now
	}
	return name
}

// remove takes the removal of a file over that the directory may need to open as it was.
func (h *held) remove(name string) bool {
	base := filepath.Base(name)
	if !isLog(base) && !strings.HasSuffix(base, ".sst") &&
		!strings.HasPrefix(base, "MANIFEST-") && !strings.HasPrefix(base, "marker.") {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opening || h.marker.now != "" {
		h.removed = append(h.removed, name)
		return true
	}
	return false
}

// settle lets what Pebble did take its place, durably. Who calls it a second time waits for the first. While Pebble opens it does nothing.
func (h *held) settle() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opening || h.err != nil {
		return h.err
	}
	if h.marker.now != "" {
		if h.err = h.place(); h.err != nil {
			return h.err
		}
	}
	for _, name := range h.removed {
		_ = h.fsys.Remove(name) // what can't be removed the next open removes
	}
	h.removed = nil
	return nil
}

// place makes everything durable in order. REQUIRES: h.mu.
func (h *held) place() error {
	for _, name := range h.syncs {
		if err := syncFile(h.fsys.Open(name)); err != nil {
			return fmt.Errorf("sync %s: %w", name, err)
		}
	}
	if err := syncFile(h.fsys.OpenDir(h.dir)); err != nil {
		return fmt.Errorf("sync directory %s: %w", h.dir, err)
	}
	if err := h.fsys.Rename(h.marker.now, h.marker.name); err != nil {
		return fmt.Errorf("rename %s: %w", h.marker.now, err)
	}
	if err := syncFile(h.fsys.OpenDir(h.dir)); err != nil {
		return fmt.Errorf("sync directory %s: %w", h.dir, err)
	}
	if h.log.now != "" { // this name waits for the log's first sync, as in any open
		if err := h.fsys.Rename(h.log.now, h.log.name); err != nil {
			return fmt.Errorf("rename %s: %w", h.log.now, err)
		}
	}
	h.syncs, h.marker, h.log = nil, draft{}, draft{}
	return nil
}

func syncFile(f vfs.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// heldFile is a table or a manifest that was made while Pebble opened.
type heldFile struct {
	vfs.File
	name  string
	fence *fence
}

// Sync is vfs.File's.
func (f *heldFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData is vfs.File's.
func (f *heldFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *heldFile) sync(sync func() error) error {
	if f.fence.held.sync(f.name) {
		return nil
	}
	if err := f.fence.settle(); err != nil {
		return err
	}
	return sync()
}
