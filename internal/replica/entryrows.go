package replica

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// shape is what an entry's rows look like.
type shape struct {
	term uint64
	size int // of the data, in bytes
}

// parts is how many rows hold the data beside the entry's own; 0: that has it.
func (s shape) parts() int {
	if s.size <= wholeBytes {
		return 0
	}
	return (s.size + partBytes - 1) / partBytes
}

// rows is how many there are.
func (s shape) rows() int { return 1 + s.parts() }

func shapeOf(e *raftpb.Entry) shape { return shape{term: e.GetTerm(), size: len(e.GetData())} }

func entryKey(dst []byte, i uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowLog, 'e'), i)
}

func partKey(dst []byte, i, term uint64, part int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(entryKey(dst, i), term), uint32(part)) // fewer than 2^32 of partBytes
}

// setEntry puts an entry's row into a batch; setPart has put its parts into earlier ones, if it has parts.
func setEntry(b *pebble.Batch, e *raftpb.Entry) {
	data, parted := e.GetData(), shapeOf(e).parts() > 0
	n := len(data)
	if parted {
		n = 8
	}
	op := b.SetDeferred(entryKeyLen, entryHead+n+crcLen)
	entryKey(op.Key[:0], e.GetIndex())
	op.Value[0], op.Value[1] = logVersion, byte(e.GetType())
	binary.BigEndian.PutUint64(op.Value[2:], e.GetTerm())
	if parted {
		op.Value[0] = partedVersion
		binary.BigEndian.PutUint64(op.Value[entryHead:], uint64(len(data)))
	} else {
		copy(op.Value[entryHead:], data)
	}
	sealDeferred(op)
}

// setPart puts an entry's part into a batch.
func setPart(b *pebble.Batch, e *raftpb.Entry, part int) {
	data := e.GetData()[part*partBytes:]
	data = data[:min(len(data), partBytes)]
	op := b.SetDeferred(partKeyLen, 1+len(data)+crcLen)
	partKey(op.Key[:0], e.GetIndex(), e.GetTerm(), part)
	op.Value[0] = logVersion
	copy(op.Value[1:], data)
	sealDeferred(op)
}

func sealDeferred(op *pebble.DeferredBatchOp) {
	n := len(op.Value) - crcLen
	binary.BigEndian.PutUint32(op.Value[n:], rowSum(op.Key, op.Value[:n]))
	_ = op.Finish() // fails only for a batch with an index
}

// deleteEntry takes an entry's row out, deleteParts its parts.
func deleteEntry(b *pebble.Batch, key []byte, i uint64) error {
	return b.Delete(entryKey(key[:0], i), nil)
}

func deleteParts(b *pebble.Batch, key []byte, i uint64, s shape) error {
	for part := range s.parts() {
		if err := b.Delete(partKey(key[:0], i, s.term, part), nil); err != nil {
			return err
		}
	}
	return nil
}

// entryReader puts entries together from their rows, which come in the order of keys.
type entryReader struct {
	next    uint64          // the index of the entry that is to come
	entries []*raftpb.Entry // the last of them may lack parts
	lacks   int             // so many bytes
	part    int             // how long its parts are; 0: none came yet
	stray   [][]byte        // keys of parts that belong to no entry
}

// row takes the next one.
func (r *entryReader) row(key, v []byte) error {
	switch len(key) {
	case partKeyLen:
		return r.take(key, v)
	case entryKeyLen:
		return r.entry(key, v)
	}
	return corrupt(fmt.Sprintf("log row %x", key), "no entry's key")
}

func (r *entryReader) entry(key, v []byte) error {
	if err := r.end(); err != nil {
		return err
	}
	version, body, err := unseal(key, v, partedVersion, entryHead-1)
	if err != nil {
		return err
	}
	i := binary.BigEndian.Uint64(key[2:])
	if i != r.next {
		return corrupt("the log", "it jumps from entry %d to %d", r.next-1, i)
	}
	e := &raftpb.Entry{Index: proto.Uint64(i), Type: raftpb.EntryType(body[0]).Enum(), Term: proto.Uint64(binary.BigEndian.Uint64(body[1:]))}
	if body = body[9:]; version == logVersion {
		e.Data = bytes.Clone(body)
	} else {
		if len(body) != 8 || binary.BigEndian.Uint64(body) <= wholeBytes || binary.BigEndian.Uint64(body) > partBytes<<32 {
			return corrupt(fmt.Sprintf("log row %x", key), "%x is no size of an entry in parts", body)
		}
		r.lacks, r.part = int(binary.BigEndian.Uint64(body)), 0
		e.Data = make([]byte, 0, min(r.lacks, index.MaxTxnSize))
	}
	r.next++
	r.entries = append(r.entries, e)
	return nil
}

func (r *entryReader) take(key, v []byte) error {
	if r.lacks == 0 || !bytes.HasPrefix(key, partKey(nil, r.next-1, r.entries[len(r.entries)-1].GetTerm(), 0)[:partKeyLen-4]) {
		r.stray = append(r.stray, bytes.Clone(key))
		return nil
	}
	_, data, err := unseal(key, v, logVersion, 0)
	if err != nil {
		return err
	}
	e := r.entries[len(r.entries)-1]
	if r.part == 0 {
		r.part = max(len(data), 1)
	}
	if int(binary.BigEndian.Uint32(key[partKeyLen-4:])) != len(e.Data)/r.part || len(data) != min(r.lacks, r.part) {
		return corrupt(fmt.Sprintf("log row %x", key), "%d bytes are not the next part of entry %d", len(data), e.GetIndex())
	}
	e.Data = append(e.Data, data...)
	r.lacks -= len(data)
	return nil
}

// end is called when no row of the last entry is left.
func (r *entryReader) end() error {
	if r.lacks > 0 {
		return corrupt("the log", "%d bytes of entry %d are missing", r.lacks, r.next-1)
	}
	return nil
}
