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
//
// Pebble's own checksums cover what lies on disk; the crc covers the way through its buffers and tables, and a row under a wrong key.
const (
	logVersion = 1
	rowLog     = 'l'
	entryHead  = 1 + 1 + 8
	crcLen     = 4
)

var (
	confKey  = []byte{rowLog, 'a'}
	hardKey  = []byte{rowLog, 'b'}
	cutKey   = []byte{rowLog, 'c'}
	entryEnd = []byte{rowLog, 'f'}

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func entryKey(dst []byte, i uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowLog, 'e'), i)
}

func rowSum(key, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(key[1:], castagnoli), castagnoli, v)
}

// seal appends the crc.
func seal(key, v []byte) []byte { return binary.BigEndian.AppendUint32(v, rowSum(key, v)) }

// unseal checks version and crc, and returns what is between them.
func unseal(key, v []byte, least int) ([]byte, error) {
	if len(v) > 0 && v[0] > logVersion {
		return nil, fmt.Errorf("log row %x has version %d, this program knows %d: %w", key, v[0], logVersion, index.ErrNewerFormat)
	}
	n := len(v) - crcLen
	if n < 1+least || v[0] != logVersion || rowSum(key, v[:n]) != binary.BigEndian.Uint32(v[n:]) {
		return nil, corrupt(fmt.Sprintf("log row %x", key), "%d bytes: length or checksum", len(v))
	}
	return v[1:n], nil
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

// setEntry puts an entry's row into a batch.
func setEntry(b *pebble.Batch, e *raftpb.Entry) {
	data := e.GetData()
	op := b.SetDeferred(10, entryHead+len(data)+crcLen)
	entryKey(op.Key[:0], e.GetIndex())
	op.Value[0], op.Value[1] = logVersion, byte(e.GetType())
	binary.BigEndian.PutUint64(op.Value[2:], e.GetTerm())
	copy(op.Value[entryHead:], data)
	n := entryHead + len(data)
	binary.BigEndian.PutUint32(op.Value[n:], rowSum(op.Key, op.Value[:n]))
	_ = op.Finish() // fails only for a batch with an index
}

func decodeEntry(key, v []byte) (*raftpb.Entry, error) {
	if len(key) != 10 {
		return nil, corrupt(fmt.Sprintf("log row %x", key), "no entry's key")
	}
	body, err := unseal(key, v, entryHead-1)
	if err != nil {
		return nil, err
	}
	return &raftpb.Entry{
		Index: proto.Uint64(binary.BigEndian.Uint64(key[2:])), Type: raftpb.EntryType(body[0]).Enum(),
		Term: proto.Uint64(binary.BigEndian.Uint64(body[1:])), Data: append([]byte(nil), body[9:]...),
	}, nil
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
	body, err := unseal(confKey, v, 8)
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
	body, err := unseal(hardKey, v, 24)
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
	body, err := unseal(cutKey, v, 16)
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
