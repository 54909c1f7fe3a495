package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The closing note holds what an orderly close knows, and the next open would have to look for in many tables:
//
//	version 1 | state row 149 | sweep row 37 | what the log left, the rest | crc32c of all before 4
//
// and that there is no garbage row. It is a copy: an open that does not find it, or can't use it, reads the rows. It is used only if the
// state row is the same and no write-ahead log has a byte. Invariant: where it lies nothing was written since the close that left it. The
// first write of an open removes it, and that is durable before the write is.
//
// It is not synced: a loss of power leaves it whole, short, or zeros in its place.
const (
	closedFile    = "closed"
	closedVersion = 1
	closedLen     = 1 + stateLen + sweepLen + 4
	maxClosed     = 64 << 10 // far above what a log leaves, its members
)

// closed is a closing note. Its slices are read only.
type closed struct {
	state []byte
	swept swept
	log   []byte
}

func (c *closed) append(dst []byte) []byte {
	start := len(dst)
	dst = append(append(dst, closedVersion), c.state...)
	dst = append(c.swept.append(dst), c.log...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// decodeClosed returns nil for what a loss of power or a newer program left, and an error for damage.
func decodeClosed(v []byte) (*closed, error) {
	if len(v) < closedLen || zero(v) {
		return nil, nil
	}
	end := len(v) - 4
	if len(v) > maxClosed || v[0] == 0 || crc32.Checksum(v[:end], castagnoli) != binary.BigEndian.Uint32(v[end:]) {
		return nil, fmt.Errorf("a closing note of %d bytes: length, version or checksum: %w", len(v), zodb.ErrMalformed)
	}
	if v[0] > closedVersion {
		return nil, nil
	}
	w, err := decodeSwept(v[1+stateLen:][:sweepLen])
	if err != nil {
		return nil, err
	}
	return &closed{state: v[1:][:stateLen], swept: w, log: v[1+stateLen+sweepLen : end]}, nil
}

// findClosed looks for the closing note, last of all.
func (f *found) findClosed(cfg *Config) error {
	if f.noted = slices.Contains(f.names, closedFile); !f.noted {
		return nil
	}
	name := cfg.FS.PathJoin(cfg.Dir, closedFile)
	raw, err := readAll(cfg.FS, name)
	if err != nil {
		return fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	note, err := decodeClosed(raw)
	if err != nil {
		f.damaged = append(f.damaged, Corrupt{File: name, Cause: err})
	}
	if f.logs == 0 {
		f.note = note
	}
	return nil
}

// is says whether the note is of this state.
func (c *closed) is(st *state) bool { return c != nil && bytes.Equal(c.state, st.append(nil)) }

// Left is what Leave was given before the store was closed, if nothing was written since; else nil. It must not be changed.
func (s *Store) Left() []byte { return s.left }

// Leave has Close put log into the closing note, if there is something new to note and nothing else to tell of. Not beside Close.
func (s *Store) Leave(log []byte) { s.leaving = log }

// leave writes the closing note, of a store that was flushed and closed. What can't be written the next open does without.
func (s *Store) leave() {
	sweep, compact := s.Unswept()
	if s.leaving == nil || s.fence.noted.Load() || sweep || compact {
		return
	}
	note := closed{state: s.current.Load().append(nil), swept: *s.swept.Load(), log: s.leaving}
	if len(note.log) > maxClosed-closedLen {
		return
	}
	name := s.fs.PathJoin(s.dir, closedFile)
	f, err := s.fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return
	}
	_, err = f.Write(note.append(nil))
	if errors.Join(err, f.Close()) != nil {
		_ = s.fs.Remove(name) // torn: the next open would do without it anyway
	}
}
