package index

import (
	"encoding/binary"
	"hash/crc32"
)

// Leaving says whether a close has come so far that it waits for compactions only.
func (s *Store) Leaving() bool { return s.fence.left.Load() }

// SealNote gives a closing note its checksum.
func SealNote(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}
