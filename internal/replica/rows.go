package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The log's rows (integers big-endian; crc: crc32c of the key behind its first byte, then of the value before the crc):
//
//	l 'a'          -> version 1 | raft id 8 | ConfState (raftpb, protobuf) | crc 4     written once, synced, before anything else
//	l 'b'          -> version 1 | term 8 | vote 8 | commit 8 | crc 4                   Raft's hard state; its commit may lag
//	l 'c'          -> version 1 | index 8 | term 8 | crc 4                             the last entry cut off at the front
//	l 'e' index 8  -> version 1 | type 1 | term 8 | data | crc 4                       an entry; data: docs/format.md
//	l 'e' index 8  -> version 2 | type 1 | term 8 | size 8 | crc 4                     an entry whose data, of that size, lies in the parts behind it
//	l 'e' index 8 term 8 part 4 -> version 1 | data | crc 4                            its parts, from 0 on, each as long as the first but for the last
//
// Parts are written before the row that they belong to. Without one, with its term, they are what a crash left, and no entry.
//
// Pebble's own checksums cover what lies on disk; the crc covers the way through its buffers and tables, and a row under a wrong key.
const (
	logVersion    = 1
	partedVersion = 2
	rowLog        = 'l'
	entryHead     = 1 + 1 + 8
	crcLen        = 4
	entryKeyLen   = 2 + 8
	partKeyLen    = entryKeyLen + 8 + 4
	partRoom      = partKeyLen + 32 // what a part takes in a batch beside its data, at most
	// wholeBytes is the most that an entry's own row holds of its data, partBytes what a part does. A table block holds at least one row, so a
	// large one goes through flushes and compactions whole: as a batch, a block, a compressor's memory, a copy, several times over. Of what
	// has many, a part fits into a block, whose memory goes round.
	wholeBytes = 1 << 20
	partBytes  = 24 << 10
)

var (
	confKey  = []byte{rowLog, 'a'}
	hardKey  = []byte{rowLog, 'b'}
	cutKey   = []byte{rowLog, 'c'}
	entryEnd = []byte{rowLog, 'f'}

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func rowSum(key, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(key[1:], castagnoli), castagnoli, v)
}

// seal appends the crc.
func seal(key, v []byte) []byte { return binary.BigEndian.AppendUint32(v, rowSum(key, v)) }

// unseal checks version, at most newest, and crc, and returns what is between them.
func unseal(key, v []byte, newest byte, least int) (version byte, body []byte, err error) {
	if len(v) > 0 && v[0] > newest {
		return 0, nil, fmt.Errorf("log row %x has version %d, this program knows %d: %w", key, v[0], newest, index.ErrNewerFormat)
	}
	n := len(v) - crcLen
	if n < 1+least || v[0] == 0 || rowSum(key, v[:n]) != binary.BigEndian.Uint32(v[n:]) {
		return 0, nil, corrupt(fmt.Sprintf("log row %x", key), "%d bytes: length or checksum", len(v))
	}
	return v[0], v[1:n], nil
}

func corrupt(what, format string, args ...any) error {
	return &index.Corrupt{File: what, Cause: fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), zodb.ErrMalformed)}
}

// readError tells damage from other failures of a read.
func readError(err error) error {
	if pebble.IsCorruptionError(err) {
		return &index.Corrupt{File: "the log", Cause: err}
	}
	return fmt.Errorf("read the log: %w", err)
}

func encodeConf(id uint64, conf *raftpb.ConfState) ([]byte, error) {
	raw, err := proto.Marshal(conf)
	if err != nil {
		return nil, err
	}
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, id)
	return seal(confKey, append(v, raw...)), nil
}

func decodeConf(v []byte) (id uint64, conf *raftpb.ConfState, err error) {
	_, body, err := unseal(confKey, v, logVersion, 8)
	if err != nil {
		return 0, nil, err
	}
	conf = &raftpb.ConfState{}
	if err := proto.Unmarshal(body[8:], conf); err != nil {
		return 0, nil, corrupt("the log's members", "%v", err)
	}
	return binary.BigEndian.Uint64(body), conf, nil
}

func encodeHard(h *raftpb.HardState) []byte {
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, h.GetTerm())
	v = binary.BigEndian.AppendUint64(v, h.GetVote())
	return seal(hardKey, binary.BigEndian.AppendUint64(v, h.GetCommit()))
}

func decodeHard(v []byte) (*raftpb.HardState, error) {
	_, body, err := unseal(hardKey, v, logVersion, 24)
	if err != nil {
		return nil, err
	}
	u := func(at int) *uint64 { return proto.Uint64(binary.BigEndian.Uint64(body[at:])) }
	return &raftpb.HardState{Term: u(0), Vote: u(8), Commit: u(16)}, nil
}

func encodeCut(i, term uint64) []byte {
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, i)
	return seal(cutKey, binary.BigEndian.AppendUint64(v, term))
}

func decodeCut(v []byte) (i, term uint64, err error) {
	_, body, err := unseal(cutKey, v, logVersion, 16)
	if err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:]), nil
}

// readRow returns nil if there is no such row.
func readRow(db *pebble.DB, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(err)
	}
	v = append([]byte{}, v...)
	return v, closer.Close()
}
