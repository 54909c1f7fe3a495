package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The state row (integers big-endian):
//
//	0  version 1        9  last tid 8       49  objects 8     65  data size 8   81  highest oid + 1, written 8
//	1  applied 8       17  digest 32        57  records 8     73  next oid 8    89  horizon 8
//	97  digest of the last transaction up to the horizon 32   129  fence 8     137  last undeclared 8    145  crc32c of all before 4
//
// It is the same on all replicas at the same position. So its records and data size count all that was ever written; what
// this peer has deleted of it since is in the sweep row (sweep.go).
const (
	stateVersion = 1
	stateLen     = 149
)

// state is what Apply carries from entry to entry.
type state struct {
	Stats
	written    zodb.Oid // Invariant: no oid at or above it has a row
	undeclared zodb.Tid // the last transaction that declared no snapshot
}

func (s *state) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, stateVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Applied))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.LastTid))
	dst = append(dst, s.Digest[:]...)
	for _, n := range [...]uint64{s.Objects, s.Records, s.DataSize, uint64(s.NextOid), uint64(s.written)} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Horizon))
	dst = append(dst, s.HorizonDigest[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Fence))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.undeclared))
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func decodeState(v []byte) (s state, err error) {
	if len(v) != stateLen || crc32.Checksum(v[:stateLen-4], castagnoli) != binary.BigEndian.Uint32(v[stateLen-4:]) {
		return s, fmt.Errorf("state row of %d bytes: length or checksum: %w", len(v), zodb.ErrMalformed)
	}
	if v[0] != stateVersion {
		return s, fmt.Errorf("state row of version %d, this program knows %d: %w", v[0], stateVersion, ErrNewerFormat)
	}
	s.Applied = Position(binary.BigEndian.Uint64(v[1:]))
	s.LastTid = zodb.Tid(binary.BigEndian.Uint64(v[9:]))
	copy(s.Digest[:], v[17:])
	u := func(at int) uint64 { return binary.BigEndian.Uint64(v[at:]) }
	s.Objects, s.Records, s.DataSize = u(49), u(57), u(65)
	s.NextOid, s.written = zodb.Oid(u(73)), zodb.Oid(u(81))
	s.Horizon, s.Fence, s.undeclared = zodb.Tid(u(89)), zodb.Tid(u(129)), zodb.Tid(u(137))
	copy(s.HorizonDigest[:], v[97:])
	return s, nil
}

// outcomeWindow is how many positions' outcomes are remembered: at 4,000 commits a second the default finish-timeout of
// 30 s. A row is 34 bytes; the ids in memory take about 5 MiB.
const outcomeWindow = 1 << 17

func appendOutcome(dst []byte, o *Outcome) []byte {
	dst = append(append(dst, byte(o.Verdict)), o.TxnID[:]...)
	return binary.BigEndian.AppendUint64(dst, uint64(o.Tid))
}

func decodeOutcome(pos Position, v []byte) (Outcome, error) {
	if len(v) != 25 || v[0] < byte(Committed) || v[0] > byte(Behind) {
		return Outcome{}, fmt.Errorf("outcome row %d of %d bytes: %w", pos, len(v), zodb.ErrMalformed)
	}
	return Outcome{
		Position: pos, Verdict: Verdict(v[0]), TxnID: zodb.TxnID(v[1:17]), Tid: zodb.Tid(binary.BigEndian.Uint64(v[17:])),
	}, nil
}
