package replica

import (
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// logStore is Raft's storage: rows, mirrored in memory from the first kept entry on (keepBytes, and what is not yet applied).
// Raft reads the mirror; the driver alone writes. Invariant: what the mirror holds is durable, whatever raft asks is answered from it.
type logStore struct {
	*raft.MemoryStorage
	db       *pebble.DB
	mark     *mark  // nil: none is kept
	damaged  error  // the mark, as Open found it
	id       uint64 // random: an incarnation of this voter
	conf     *raftpb.ConfState
	hard     *raftpb.HardState // what the row says, or is about to
	unsynced bool              // a write that answers will rely on is not durable yet
	shapes   []shape           // of the entries that have rows, oldest first: the mirrored ones, and those that are being written
	size     int               // their data's, in bytes
	stray    [][]byte          // keys of parts that a crash left without their entry's row
	key      []byte
}

func openLog(db *pebble.DB, applied uint64) (*logStore, error) {
	l := &logStore{MemoryStorage: raft.NewMemoryStorage(), db: db, hard: &raftpb.HardState{}, key: make([]byte, 0, partKeyLen)}
	v, err := readRow(db, confKey)
	if err != nil {
		return nil, err
	}
	if v == nil {
		if applied != 0 {
			return nil, corrupt("the log", "it is missing, but %d entries are applied", applied)
		}
		return l, l.found()
	}
	if l.id, l.conf, err = decodeConf(v); err != nil {
		return nil, err
	}
	if err := l.readCut(); err != nil {
		return nil, err
	}
	if err := l.readEntries(applied); err != nil {
		return nil, err
	}
	return l, l.readHard(applied)
}

// openMark holds the log against what was promised of it.
func (l *logStore) openMark(cfg Config) error {
	if cfg.Dir == "" {
		return nil
	}
	m, sound, err := openMark(cfg.FS, cfg.Dir, cfg.Frozen)
	if m == nil || err != nil {
		return err
	}
	last, _ := l.LastIndex()
	if m.last > last {
		return errors.Join(corrupt(cfg.Dir, "the log ends at entry %d, but entries up to %d were acknowledged: a write-ahead log (*.log), or the manifest, is damaged"+
			" or cut; to go on with what is left, remove %s", last, m.last, m.name), m.close())
	}
	if !sound {
		l.damaged = corrupt(m.name, "a slot of the log's mark is unreadable; the log was held to the promise before it, entry %d", m.last)
		cfg.Logger.Warn("damage that loses nothing", "error", l.damaged, "last", last)
		if !cfg.Frozen {
			if err := m.mend(last); err != nil {
				return errors.Join(err, m.close())
			}
		}
	}
	l.mark = m
	return nil
}

// found makes a group of this one voter.
func (l *logStore) found() error {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	l.id = binary.BigEndian.Uint64(id[:])>>1 | 1 // neither 0 nor one of raft's local threads
	l.conf = &raftpb.ConfState{Voters: []uint64{l.id}}
	v, err := encodeConf(l.id, l.conf)
	if err != nil {
		return err
	}
	b := l.db.NewBatch()
	if err := b.Set(confKey, v, nil); err != nil {
		return errors.Join(err, b.Close())
	}
	// As in begin: of Commit(Sync) nobody would hear that it failed.
	if err := l.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return err
	}
	return l.end(b)
}

func (l *logStore) readCut() error {
	v, err := readRow(l.db, cutKey)
	if v == nil || err != nil {
		return err
	}
	i, term, err := decodeCut(v)
	if err != nil {
		return err
	}
	return l.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: l.conf, Index: proto.Uint64(i), Term: proto.Uint64(term),
	}})
}

func (l *logStore) readEntries(applied uint64) (err error) {
	next, _ := l.FirstIndex()
	// Not from 0: the deletions of all that was cut off lie there, and an iterator goes through them.
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(nil, next), UpperBound: entryEnd})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	r := entryReader{next: next}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		if err := r.row(it.Key(), v); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	if err := r.end(); err != nil {
		return err
	}
	if applied+1 < next {
		return corrupt("the log", "it begins behind entry %d, but only %d are applied", next-1, applied)
	}
	if applied >= r.next {
		return corrupt("the log", "it ends at entry %d, but %d are applied", r.next-1, applied)
	}
	for _, e := range r.entries {
		l.shapes = append(l.shapes, shapeOf(e))
		l.size += len(e.GetData())
	}
	l.stray = r.stray
	return l.Append(r.entries)
}

func (l *logStore) readHard(applied uint64) error {
	v, err := readRow(l.db, hardKey)
	if err != nil {
		return err
	}
	if v != nil {
		if l.hard, err = decodeHard(v); err != nil {
			return err
		}
	}
	last, _ := l.LastIndex()
	if last > 0 && v == nil {
		return corrupt("the log", "%d entries and no hard state", last)
	}
	// The row's commit index is as old as the last election: what is applied was committed.
	l.hard.Commit = proto.Uint64(max(l.hard.GetCommit(), applied))
	if l.alone() {
		// Its log is all of the majority's, and durable: Pebble flushes what it replays. No election could decide otherwise.
		l.hard.Commit = proto.Uint64(max(l.hard.GetCommit(), last))
	}
	if l.hard.GetCommit() > last {
		return corrupt("the log", "it ends at entry %d, but %d are committed", last, l.hard.GetCommit())
	}
	return nil
}

// alone tells whether this is the only voter of its group.
func (l *logStore) alone() bool {
	voters := l.conf.GetVoters()
	return len(voters) == 1 && voters[0] == l.id
}

// InitialState is raft.Storage's.
func (l *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, l.conf, nil
}

// Snapshot is raft.Storage's: a voter that needs entries which are cut off has to wait until one can be made.
func (l *logStore) Snapshot() (*raftpb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}
