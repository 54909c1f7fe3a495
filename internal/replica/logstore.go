package replica

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The log's rows (integers big-endian):
//
//	l 'a'          -> version 1, raft id 8, ConfState (raftpb, protobuf)       written once, synced, before anything else
//	l 'b'          -> version 1, term 8, vote 8, commit 8                      Raft's hard state
//	l 'c'          -> version 1, index 8, term 8                               the last entry cut off at the front
//	l 'e' index 8  -> version 1, type 1, term 8, data                          an entry; data: see index.AppendCommit
//
// Values carry no checksums of their own: Pebble's write-ahead log and tables have them.
const (
	logVersion = 1
	rowLog     = 'l'
	entryHead  = 10
)

var (
	confKey  = []byte{rowLog, 'a'}
	hardKey  = []byte{rowLog, 'b'}
	cutKey   = []byte{rowLog, 'c'}
	entryEnd = []byte{rowLog, 'f'}
)

func entryKey(dst []byte, i uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowLog, 'e'), i)
}

// keepBytes and keepEntries are what of the applied log is kept, for peers that are a little behind.
const (
	keepBytes   = 1 << 20
	keepEntries = 512
)

// logStore is Raft's storage: rows, mirrored in memory from the first kept entry on (keepBytes and what is not yet applied).
// Raft reads the mirror; the driver alone writes.
type logStore struct {
	*raft.MemoryStorage
	db     *pebble.DB
	id     uint64 // random: an incarnation of this voter
	conf   *raftpb.ConfState
	hard   *raftpb.HardState
	sizes  []int // of the mirrored entries, oldest first
	size   int   // their sum
	key    []byte
	synced *pebble.WriteOptions
}

func openLog(db *pebble.DB, applied uint64) (*logStore, error) {
	l := &logStore{MemoryStorage: raft.NewMemoryStorage(), db: db, synced: pebble.Sync}
	found, err := l.readMeta(applied)
	if err != nil {
		return nil, err
	}
	if !found {
		if applied != 0 {
			return nil, fmt.Errorf("the log is missing, but %d entries are applied: %w", applied, zodb.ErrMalformed)
		}
		return l, l.found()
	}
	return l, l.readEntries(applied)
}

// found makes a group of this one voter.
func (l *logStore) found() error {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	l.id = binary.BigEndian.Uint64(id[:])>>1 | 1 // neither 0 nor one of raft's local threads
	l.conf = &raftpb.ConfState{Voters: []uint64{l.id}}
	l.hard = &raftpb.HardState{}
	conf, err := proto.Marshal(l.conf)
	if err != nil {
		return err
	}
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, l.id)
	return l.db.Set(confKey, append(v, conf...), pebble.Sync)
}

func (l *logStore) readMeta(applied uint64) (bool, error) {
	v, err := l.get(confKey)
	if v == nil || err != nil {
		return false, err
	}
	if len(v) < 9 || v[0] != logVersion {
		return false, fmt.Errorf("the log's first row has %d bytes of version %d: %w", len(v), v[0], zodb.ErrMalformed)
	}
	l.id, l.conf = binary.BigEndian.Uint64(v[1:]), &raftpb.ConfState{}
	if err := proto.Unmarshal(v[9:], l.conf); err != nil {
		return false, fmt.Errorf("the log's members: %w: %w", zodb.ErrMalformed, err)
	}
	l.hard = &raftpb.HardState{}
	if v, err = l.get(hardKey); err != nil {
		return false, err
	}
	if v != nil {
		if len(v) != 25 || v[0] != logVersion {
			return false, fmt.Errorf("the log's hard state has %d bytes: %w", len(v), zodb.ErrMalformed)
		}
		l.hard.Term, l.hard.Vote = proto.Uint64(binary.BigEndian.Uint64(v[1:])), proto.Uint64(binary.BigEndian.Uint64(v[9:]))
		l.hard.Commit = proto.Uint64(binary.BigEndian.Uint64(v[17:]))
	}
	// The commit index is not synced: what is applied was committed all the same.
	l.hard.Commit = proto.Uint64(max(l.hard.GetCommit(), applied))
	if v, err = l.get(cutKey); v == nil || err != nil {
		return true, err
	}
	if len(v) != 17 || v[0] != logVersion {
		return false, fmt.Errorf("the log's beginning has %d bytes: %w", len(v), zodb.ErrMalformed)
	}
	return true, l.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: l.conf, Index: proto.Uint64(binary.BigEndian.Uint64(v[1:])), Term: proto.Uint64(binary.BigEndian.Uint64(v[9:])),
	}})
}

func (l *logStore) get(key []byte) ([]byte, error) {
	v, closer, err := l.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	v = append([]byte{}, v...)
	return v, closer.Close()
}

func (l *logStore) readEntries(applied uint64) (err error) {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(nil, 0), UpperBound: entryEnd})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	next, _ := l.FirstIndex()
	var entries []*raftpb.Entry
	for ok := it.First(); ok; ok = it.Next() {
		e, err := decodeEntry(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if e.GetIndex() < next {
			continue // cut off; the rows' deletion was not yet written
		}
		if e.GetIndex() != next {
			return fmt.Errorf("the log jumps from entry %d to %d: %w", next-1, e.GetIndex(), zodb.ErrMalformed)
		}
		next++
		entries = append(entries, e)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if applied >= next {
		return fmt.Errorf("the log ends at entry %d, but %d are applied: %w", next-1, applied, zodb.ErrMalformed)
	}
	l.hard.Commit = proto.Uint64(min(l.hard.GetCommit(), next-1))
	return l.mirror(entries)
}

func decodeEntry(key, v []byte) (*raftpb.Entry, error) {
	if len(key) != 10 || len(v) < entryHead || v[0] != logVersion {
		return nil, fmt.Errorf("log row %x of %d bytes: %w", key, len(v), zodb.ErrMalformed)
	}
	return &raftpb.Entry{
		Index: proto.Uint64(binary.BigEndian.Uint64(key[2:])), Type: raftpb.EntryType(v[1]).Enum(),
		Term: proto.Uint64(binary.BigEndian.Uint64(v[2:])), Data: append([]byte(nil), v[entryHead:]...),
	}, nil
}

// mirror adds entries behind those in memory; ones that raft replaces go first.
func (l *logStore) mirror(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first, _ := l.FirstIndex()
	if keep := int(entries[0].GetIndex() - first); keep < len(l.sizes) {
		for _, n := range l.sizes[keep:] {
			l.size -= n
		}
		l.sizes = l.sizes[:keep]
	}
	for _, e := range entries {
		l.sizes = append(l.sizes, len(e.GetData()))
		l.size += len(e.GetData())
	}
	return l.Append(entries)
}

// InitialState is raft.Storage's.
func (l *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, l.conf, nil
}

// write makes the messages' entries and hard state durable if sync is set, in one batch. It is the driver's.
func (l *logStore) write(messages []*raftpb.Message, sync bool) error {
	size := 64
	for _, m := range messages {
		for _, e := range m.GetEntries() {
			size += len(e.GetData()) + 32
		}
	}
	b := l.db.NewBatchWithSize(size)
	defer b.Close()
	last, _ := l.LastIndex()
	for _, m := range messages {
		for _, e := range m.GetEntries() {
			data := e.GetData()
			op := b.SetDeferred(10, entryHead+len(data))
			entryKey(op.Key[:0], e.GetIndex())
			op.Value[0], op.Value[1] = logVersion, byte(e.GetType())
			binary.BigEndian.PutUint64(op.Value[2:], e.GetTerm())
			copy(op.Value[entryHead:], data)
			_ = op.Finish()                             // fails only for a batch with an index
			for i := e.GetIndex() + 1; i <= last; i++ { // raft replaced the tail
				if err := b.Delete(entryKey(nil, i), nil); err != nil {
					return err
				}
			}
			last = min(last, e.GetIndex())
		}
		if m.Term != nil && m.Vote != nil && m.Commit != nil {
			l.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
	}
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, l.hard.GetTerm())
	v = binary.BigEndian.AppendUint64(v, l.hard.GetVote())
	v = binary.BigEndian.AppendUint64(v, l.hard.GetCommit())
	if err := b.Set(hardKey, v, nil); err != nil {
		return err
	}
	o := pebble.NoSync
	if sync {
		o = l.synced
	}
	return b.Commit(o)
}

// truncate cuts off applied entries beyond what is kept. Not synced: it stands in the write-ahead log behind the Apply that
// it relies on.
func (l *logStore) truncate(applied uint64) error {
	if l.size <= keepBytes && len(l.sizes) <= keepEntries {
		return nil
	}
	first, _ := l.FirstIndex()
	cut, size, n := first, l.size, 0
	// Down to half of what is kept, so that this is done now and then, not at each commit.
	for cut <= applied && (size > keepBytes/2 || len(l.sizes)-n > keepEntries/2) {
		size -= l.sizes[n]
		n++
		cut++
	}
	if n == 0 {
		return nil
	}
	term, err := l.Term(cut - 1)
	if err != nil {
		return err
	}
	b := l.db.NewBatchWithSize(64 + 24*n)
	defer b.Close()
	for i := first; i < cut; i++ { // single deletes: a range deletion in the memtable would slow every reader
		l.key = entryKey(l.key[:0], i)
		if err := b.Delete(l.key, nil); err != nil {
			return err
		}
	}
	v := binary.BigEndian.AppendUint64([]byte{logVersion}, cut-1)
	if err := b.Set(cutKey, binary.BigEndian.AppendUint64(v, term), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	l.sizes, l.size = append([]int(nil), l.sizes[n:]...), size
	return l.Compact(cut - 1)
}
