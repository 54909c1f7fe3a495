package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
)

// A manifest consists of blocks as a write-ahead log does (walBlock); its chunks begin with crc 4 | length 2 | type 1, little-endian. The
// crc is of what follows the length, masked as in LevelDB. Types: 1 whole record, 2 first part, 3 middle, 4 last.
const manifestHead = 7

// checkManifests looks at the manifests before Pebble opens the directory. Pebble reads the one in force up to the first chunk that is not
// sound and takes what comes before for all: right where a crash tore the last write, which nothing relied on. Where it is damage, tables
// that later records name are forgotten, and removed, though their logs are gone: what was committed in between would be missing without a
// word. So such a directory is not opened. Of the others, which Pebble keeps and does not read, damage is told.
func checkManifests(cfg *Config, names []string) (others []Corrupt, err error) {
	marker, inForce, err := atomicfs.LocateMarkerInListing(cfg.FS, cfg.Dir, "manifest", names)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = marker.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "MANIFEST-") {
			continue
		}
		raw, err := readAll(cfg.FS, cfg.FS.PathJoin(cfg.Dir, name))
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
		}
		off := damagedChunk(raw)
		if off < 0 {
			continue
		}
		damage := Corrupt{File: cfg.FS.PathJoin(cfg.Dir, name), Cause: fmt.Errorf("the record at offset %d is damaged", off)}
		if name == inForce {
			return nil, fmt.Errorf("open %s: %w", cfg.Dir, &damage)
		}
		others = append(others, damage)
	}
	return others, nil
}

func readAll(fsys vfs.FS, name string) (raw []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

// damagedChunk returns the offset of the first chunk that is not sound, -1 if there is none or it is what a crash leaves of a write.
func damagedChunk(raw []byte) int {
	within := false // a record that goes on
	for off := 0; off < len(raw); {
		block := min(len(raw), (off/walBlock+1)*walBlock)
		if (off/walBlock+1)*walBlock-off < manifestHead {
			if !zero(raw[off:block]) {
				return off
			}
			off = block
			continue
		}
		end, sound := chunkEnd(raw, off, block)
		if !sound && torn(raw, off) {
			return -1
		}
		if !sound {
			return off
		}
		first := raw[off+6] <= 2
		if first == within {
			return off
		}
		within = raw[off+6] == 2 || raw[off+6] == 3
		off = end
	}
	return -1
}

// chunkEnd says whether a sound chunk begins at off, and where it ends; block is where it has to.
func chunkEnd(raw []byte, off, block int) (end int, sound bool) {
	if off+manifestHead > block {
		return 0, false
	}
	end = off + manifestHead + int(binary.LittleEndian.Uint16(raw[off+4:]))
	if end > block || raw[off+6] < 1 || raw[off+6] > 4 {
		return 0, false
	}
	return end, binary.LittleEndian.Uint32(raw[off:]) == masked(crc32.Checksum(raw[off+6:end], castagnoli))
}

// torn says whether a crash explains the chunk at off: the file ends within it, or its last sectors were never written.
func torn(raw []byte, off int) bool {
	const sector = 512
	if last := (len(raw) - 1) / sector * sector; last > off && zero(raw[last:]) || zero(raw[off:]) {
		return true
	}
	if off+manifestHead > len(raw) {
		return true
	}
	end := off + manifestHead + int(binary.LittleEndian.Uint16(raw[off+4:]))
	if end <= len(raw) || end > (off/walBlock+1)*walBlock {
		return false
	}
	// A length that points behind the file's end may be the damage itself: then the checksum, which is not of the length, is found.
	want, sum := binary.LittleEndian.Uint32(raw[off:]), uint32(0)
	for i := off + 6; i < len(raw); i++ {
		if sum = crc32.Update(sum, castagnoli, raw[i:i+1]); masked(sum) == want {
			return false
		}
	}
	return true
}

// masked is how LevelDB stores a checksum.
func masked(sum uint32) uint32 { return bits.RotateLeft32(sum, -15) + 0xa282ead8 }

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
