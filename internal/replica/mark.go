package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The mark names the last entry that this voter promised to keep. A write-ahead log can't tell damage to its last records from a
// write that a crash tore: with the mark, a log that ends before what was promised is damage, and one that ends behind it was torn.
//
//	slot: version 1 | zero 3 | count 8 | entry 8 | crc32c of the 20 bytes before 4        two of them, written in turn; the higher count is the newer
//
// It is written after the sync it tells of and before anything is acknowledged, and not synced itself: a kill keeps it, a loss of
// power may lose the latest ones, and the log is then held to a little less. Only where another leader's entries make the log shorter it is
// lowered before they are written, and synced: a crash in between must not find it above their end.
const (
	markFile    = "mark"
	markVersion = 1
	markSlot    = 24
)

type mark struct {
	file vfs.File
	name string
	last uint64 // the entry promised; lower than before where raft replaced entries
	n    uint64 // the count of the slot that says so; the next goes to slot (n+1) mod 2
	buf  [markSlot]byte
}

func encodeMark(b []byte, count, last uint64) {
	clear(b[:4])
	b[0] = markVersion
	binary.BigEndian.PutUint64(b[4:], count)
	binary.BigEndian.PutUint64(b[12:], last)
	binary.BigEndian.PutUint32(b[20:], crc32.Checksum(b[:20], castagnoli))
}

func decodeMark(b []byte) (count, last uint64, ok bool) {
	ok = b[0] == markVersion && crc32.Checksum(b[:20], castagnoli) == binary.BigEndian.Uint32(b[20:])
	return binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]), ok
}

// openMark opens the mark in dir, making it if there is none. sound is false if a slot is unreadable: a loss of power tears a slot
// at most, and its neighbour, one promise older, is used. frozen writes nothing: nil where there is none.
func openMark(fsys vfs.FS, dir string, frozen bool) (m *mark, sound bool, err error) {
	m = &mark{name: fsys.PathJoin(dir, markFile)}
	if frozen {
		m.file, err = fsys.Open(m.name)
	} else {
		m.file, err = fsys.OpenReadWrite(m.name, vfs.WriteCategoryUnspecified)
	}
	if frozen && errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open %s: %w", m.name, err)
	}
	var slots [2 * markSlot]byte
	switch n, err := m.file.ReadAt(slots[:], 0); {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, false, errors.Join(fmt.Errorf("read %s: %w", m.name, err), m.file.Close())
	case n == 0 && frozen:
		return m, false, nil
	case n == 0: // it was not there
		if err := m.make(fsys, dir); err != nil {
			return nil, false, errors.Join(err, m.file.Close())
		}
		return m, true, nil
	default:
		sound = n == len(slots)
	}
	for i := range 2 {
		count, last, ok := decodeMark(slots[i*markSlot:][:markSlot])
		sound = sound && ok
		if ok && count >= m.n {
			m.n, m.last = count, last
		}
	}
	return m, sound, nil
}

// make writes both slots, durably.
func (m *mark) make(fsys vfs.FS, dir string) error {
	if err := m.mend(0); err != nil {
		return err
	}
	parent, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(m.file.Sync(), parent.Sync(), parent.Close())
}

// promise is called when the log up to entry last is durable, before anybody is told.
func (m *mark) promise(last uint64) error {
	if m == nil || last == 0 || last == m.last {
		return nil
	}
	return m.write(last)
}

// lower is called before the log is made to end at entry last, if it went further.
func (m *mark) lower(last uint64) error {
	if m == nil || last >= m.last {
		return nil
	}
	if err := m.write(last); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", m.name, err)
	}
	return nil
}

// mend writes both slots anew, when all up to entry last is durable. As a promise, it is not synced.
func (m *mark) mend(last uint64) error {
	return errors.Join(m.write(last), m.write(last))
}

func (m *mark) write(last uint64) error {
	encodeMark(m.buf[:], m.n+1, last)
	if _, err := m.file.WriteAt(m.buf[:], int64((m.n+1)%2)*markSlot); err != nil {
		return fmt.Errorf("write %s: %w", m.name, err)
	}
	m.n, m.last = m.n+1, last
	return nil
}

func (m *mark) close() error {
	if m == nil {
		return nil
	}
	return m.file.Close()
}
