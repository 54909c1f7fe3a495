package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
)

// keepBytes and keepEntries are what of the applied log is kept, for peers that are a little behind. They are few so that an
// entry and its deletion mostly meet in one memtable and never reach a table.
const (
	keepBytes   = 256 << 10
	keepEntries = 512
)

// begin writes the messages' entries and hard state in one batch, the parts of large entries before it. If raft's answers rely on it
// (or on an earlier one) the batch is returned while it is being synced, and end must be called; else nil.
func (l *logStore) begin(messages []*raftpb.Message) (*pebble.Batch, error) {
	if len(messages) > 0 {
		if err := l.sweep(); err != nil {
			return nil, err
		}
	}
	answers := false
	for _, m := range messages {
		answers = answers || len(m.GetResponses()) > 0
	}
	entries, size := merged(messages), 64
	if n := len(entries); n > 0 {
		if err := l.mark.lower(entries[n-1].GetIndex()); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		size += 40
		if n := shapeOf(e).parts(); n == 0 {
			size += len(e.GetData())
		} else if err := l.writeParts(e, n); err != nil {
			return nil, err
		}
	}
	b := l.db.NewBatchWithSize(size)
	if err := l.fill(b, messages, entries, answers); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if b.Empty() {
		return nil, b.Close()
	}
	if !answers {
		l.unsynced = true
		return nil, errors.Join(b.Commit(pebble.NoSync), b.Close())
	}
	// Commit(Sync) would hand a failed sync to Pebble's Logger.Fatalf, from which nobody returns. SyncWait returns it.
	if err := l.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return nil, err
	}
	return b, nil
}

// sweep deletes what crashes left. Before anything else is written: the same part may come again, and the next open does not
// look in front of the cut.
func (l *logStore) sweep() error {
	if len(l.stray) == 0 {
		return nil
	}
	b := l.db.NewBatch()
	defer b.Close()
	for _, key := range l.stray {
		if err := b.Delete(key, nil); err != nil {
			return err
		}
	}
	l.stray = nil
	return b.Commit(pebble.NoSync)
}

// writeParts is not synced: the entry's row stands behind it in the write-ahead log. Many parts are a batch.
func (l *logStore) writeParts(e *raftpb.Entry, n int) error {
	const room = wholeBytes // Pebble uses a batch's memory again up to this size
	for part := 0; part < n; {
		b := l.db.NewBatchWithSize(room)
		for ; part < n && b.Len()+partBytes+partRoom <= room; part++ {
			setPart(b, e, part)
		}
		if err := errors.Join(b.Commit(pebble.NoSync), b.Close()); err != nil {
			return err
		}
	}
	return nil
}

// end waits until a batch of begin is durable.
func (l *logStore) end(b *pebble.Batch) error {
	if err := b.SyncWait(); err != nil {
		return err // the batch is left to the collector: Pebble may still hold it
	}
	l.unsynced = false
	return b.Close()
}

func (l *logStore) fill(b *pebble.Batch, messages []*raftpb.Message, entries []*raftpb.Entry, answers bool) error {
	if len(entries) > 0 {
		if err := l.replace(b, entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		setEntry(b, e)
	}
	voted := answers && l.unsynced // a row to sync, for the sake of those before it
	for _, m := range messages {
		if m.GetSnapshot().GetMetadata().GetIndex() != 0 {
			return fmt.Errorf("a snapshot came, of entry %d: none is ever sent", m.GetSnapshot().GetMetadata().GetIndex())
		}
		if m.Term == nil || m.Vote == nil || m.Commit == nil {
			continue
		}
		// A new commit index alone is not worth a row: after a restart it is found anew.
		voted = voted || m.GetTerm() != l.hard.GetTerm() || m.GetVote() != l.hard.GetVote()
		l.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if !voted {
		return nil
	}
	return b.Set(hardKey, encodeHard(l.hard), nil)
}

// merged is what is left of the messages' entries behind the last message: each replaces those from its first index on. A follower
// may be told of an entry, of another in its place and of the first again, by leaders that take turns, while one sync lasts.
func merged(messages []*raftpb.Message) (entries []*raftpb.Entry) {
	for _, m := range messages {
		if len(m.GetEntries()) == 0 {
			continue
		}
		keep := 0
		if len(entries) > 0 {
			first := entries[0].GetIndex()
			keep = int(max(m.GetEntries()[0].GetIndex(), first) - first)
		}
		if keep == 0 {
			entries = m.GetEntries()
		} else {
			entries = append(entries[:keep:keep], m.GetEntries()...) // a copy: the slice is raft's
		}
	}
	return entries
}

// replace has the rows end with entries. Those that they replace go, but not ones that come again.
func (l *logStore) replace(b *pebble.Batch, entries []*raftpb.Entry) error {
	first, _ := l.FirstIndex()
	from := entries[0].GetIndex()
	keep := int(from - first)
	for n, s := range l.shapes[keep:] {
		l.size -= s.size
		if n < len(entries) && entries[n].GetTerm() == s.term {
			continue
		}
		if err := deleteParts(b, l.key, from+uint64(n), s); err != nil {
			return err
		}
		if n < len(entries) {
			continue // its row is overwritten
		}
		if err := deleteEntry(b, l.key, from+uint64(n)); err != nil {
			return err
		}
	}
	l.shapes = l.shapes[:keep]
	for _, e := range entries {
		l.shapes = append(l.shapes, shapeOf(e))
		l.size += len(e.GetData())
	}
	return nil
}

// truncate cuts off applied entries beyond what is kept. Not synced: it stands in the write-ahead log behind the Apply that
// it relies on.
func (l *logStore) truncate(applied uint64) error {
	if l.size <= keepBytes && len(l.shapes) <= keepEntries {
		return nil
	}
	first, _ := l.FirstIndex()
	cut, size, n, rows := first, l.size, 0, 0
	// Down to half of what is kept, so that this is done now and then, not at each commit.
	for cut <= applied && (size > keepBytes/2 || len(l.shapes)-n > keepEntries/2) {
		size -= l.shapes[n].size
		rows += l.shapes[n].rows()
		n++
		cut++
	}
	return l.cut(n, rows, size)
}

// cut cuts off the first n entries, which have so many rows; size is what is left of their data.
func (l *logStore) cut(n, rows, size int) error {
	if n == 0 {
		return nil
	}
	first, _ := l.FirstIndex()
	cut := first + uint64(n)
	if err := l.sweep(); err != nil {
		return err
	}
	term, err := l.Term(cut - 1)
	if err != nil {
		return err
	}
	b := l.db.NewBatchWithSize(64 + 24*rows)
	defer b.Close()
	for i := first; i < cut; i++ { // single deletes: a range deletion in the memtable would slow every reader
		if err := errors.Join(deleteEntry(b, l.key, i), deleteParts(b, l.key, i, l.shapes[i-first])); err != nil {
			return err
		}
	}
	if err := b.Set(cutKey, encodeCut(cut-1, term), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	l.shapes, l.size = append([]shape(nil), l.shapes[n:]...), size
	return l.Compact(cut - 1)
}
