package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// TornTail is a write that a crash cut short, at the end of the newest write-ahead log. Pebble drops it without a word. It was
// never acknowledged: the log, which keeps a mark of its last promise, refuses to open if anything promised is missing.
type TornTail struct {
	File   string
	Offset int64 // of the first record that is not whole
}

func (t *TornTail) String() string {
	return fmt.Sprintf("%s ended within a write at offset %d, and was cut there", t.File, t.Offset)
}

// A write-ahead log consists of blocks; each holds chunks, which begin with crc 4 | length 2 | type 1 | low bits of the log's number 4
// (little-endian; see the package pebble/v2/record). What can't hold a chunk at a block's end is zero.
const (
	walBlock   = 32 << 10
	chunkHead  = 11
	syncedHead = 19 // the chunks that Pebble writes since it tells how far it has synced
)

// isLog says whether this is a write-ahead log's name.
func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// findTornTail looks at the newest write-ahead log before Pebble opens the directory; nil if it ends in order. A log that is
// recycled or preallocated goes on behind its end with zeros or with chunks of an older log: that is no torn write.
// Damage of any other kind is Pebble's to report.
func findTornTail(cfg *Config, names []string) (_ *TornTail, err error) {
	if !slices.ContainsFunc(names, isLog) {
		return nil, nil
	}
	fsys := cfg.FS
	logs, err := wal.Scan(wal.Dir{FS: fsys, Dirname: cfg.Dir})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	if len(logs) == 0 {
		return nil, nil
	}
	last := logs[len(logs)-1]
	r := last.OpenForRead()
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		_, at, e := r.NextRecord()
		if e == nil {
			continue
		}
		if errors.Is(e, io.EOF) || at.PhysicalFile == "" {
			return nil, nil
		}
		ours, err := chunkAt(fsys, at.PhysicalFile, at.Physical, uint32(last.Num))
		if !ours {
			return nil, err
		}
		return &TornTail{File: at.PhysicalFile, Offset: at.Physical}, nil
	}
}

// chunkAt says whether a chunk of this log, whole or not, begins at off.
func chunkAt(fsys vfs.FS, name string, off int64, log uint32) (ours bool, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return false, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if left := walBlock - off%walBlock; left < syncedHead {
		off += left
	}
	var head [chunkHead]byte
	n, err := f.ReadAt(head[:], off)
	switch {
	case errors.Is(err, io.EOF):
		// The file ends in order, or within a chunk's head.
		return n > 0 && head != [chunkHead]byte{}, nil
	case err != nil:
		return false, fmt.Errorf("read %s: %w", name, err)
	default:
		return head != [chunkHead]byte{} && binary.LittleEndian.Uint32(head[7:]) == log, nil
	}
}
