package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// What the only voter of a group leaves when it is closed in order, all of its log applied and cut off: copies of the rows that are left.
//
//	length of the next 2 | conf row | hard state row | cut row
//
// So the next open need not look for them, nor for entries, in the tables. Who keeps it knows whether something was written since.
const (
	hardLen = 1 + 24 + crcLen
	cutLen  = 1 + 16 + crcLen
)

// leave cuts the whole log off when the voter was closed: in a group of one nobody will ask for what is applied. The driver's.
func (r *Replica) leave() error {
	last, _ := r.log.LastIndex()
	if r.resting.Load() || !r.log.alone() || uint64(r.cfg.State.Stats().Applied) != last {
		return nil
	}
	rows := 0
	for _, s := range r.log.shapes {
		rows += s.rows()
	}
	if err := r.log.cut(len(r.log.shapes), rows, 0); err != nil {
		return fmt.Errorf("cut off the log: %w", err)
	}
	return nil
}

// Left is what a closed voter left, for the next Open's Config; nil: that has to read the rows. Blocks nothing; meaningless before Close.
func (r *Replica) Left() []byte {
	select {
	case <-r.driven:
	default:
		return nil
	}
	first, _ := r.log.FirstIndex()
	last, _ := r.log.LastIndex()
	var broken *Broken
	if errors.As(r.failure(), &broken) || !r.log.alone() || last == 0 || first != last+1 || uint64(r.cfg.State.Stats().Applied) != last || len(r.log.stray) > 0 {
		return nil
	}
	term, err := r.log.Term(last)
	if err != nil {
		return nil
	}
	conf, err := encodeConf(r.log.id, r.log.conf)
	if err != nil || len(conf) > 1<<16-1 {
		return nil
	}
	v := binary.BigEndian.AppendUint16(nil, uint16(len(conf)))
	return append(append(append(v, conf...), encodeHard(r.log.hard)...), encodeCut(last, term)...)
}

// openLeft is openLog for a log of which this was left; nil: it is not that, or not of this log.
func openLeft(db *pebble.DB, applied uint64, left []byte) *logStore {
	if len(left) < 2 {
		return nil
	}
	n := int(binary.BigEndian.Uint16(left))
	if left = left[2:]; len(left) != n+hardLen+cutLen {
		return nil
	}
	l := &logStore{MemoryStorage: raft.NewMemoryStorage(), db: db, key: make([]byte, 0, partKeyLen)}
	var err error
	if l.id, l.conf, err = decodeConf(left[:n]); err != nil || !l.alone() {
		return nil
	}
	if l.hard, err = decodeHard(left[n:][:hardLen]); err != nil {
		return nil
	}
	last, term, err := decodeCut(left[n+hardLen:])
	if err != nil || last != applied || last == 0 {
		return nil
	}
	l.hard.Commit = proto.Uint64(last) // the row's may be older
	if err := l.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: l.conf, Index: proto.Uint64(last), Term: proto.Uint64(term),
	}}); err != nil {
		return nil
	}
	return l
}
