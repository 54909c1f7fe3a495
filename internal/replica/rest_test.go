package replica_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// syncedLogs counts syncs of write-ahead logs.
func syncedLogs(fs vfs.FS, n *atomic.Int64) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if isLogSync(op) {
			n.Add(1)
		}
		return nil
	}))
}

// The only voter stands for election when there is something to propose: an open before that leaves the log as it is.
func TestALoneVoterRestsUntilTheFirstProposal(t *testing.T) {
	var syncs atomic.Int64
	fs := syncedLogs(vfs.NewMem(), &syncs)
	p := open(t, fs, true)
	tid := p.commit(t, txn(write(1, 0, "a")))
	was := p.Status()
	p.close(t)
	for range 3 {
		syncs.Store(0)
		p = open(t, fs, false)
		if st := p.Status(); st.Leader != 0 || st.Term != was.Term || st.LastIndex != was.LastIndex || st.Applied != was.Applied {
			t.Errorf("%+v, before %+v", st, was)
		}
		p.close(t)
		if n := syncs.Load(); n > 0 {
			t.Errorf("%d syncs of the log", n)
		}
	}
	p = open(t, fs, false)
	defer p.close(t)
	p.commit(t, txn(write(1, tid, "b")))
	if st := p.Status(); st.Leader != st.ID || st.Term != was.Term+1 {
		t.Errorf("%+v, before %+v", st, was)
	}
}

// What a crash left unapplied is applied by the open, without an election: the only voter's log is a majority's.
func TestALoneVoterAppliesItsLogWithoutAnElection(t *testing.T) {
	mem := vfs.NewCrashableMem()
	p := open(t, mem, true)
	tid := p.commit(t, txn(write(1, 0, "a")))
	tid = p.commit(t, txn(write(1, tid, "b"))) // its Apply is not synced
	was := p.Status()
	crashed, again := mem.CrashClone(vfs.CrashCloneCfg{}), mem.CrashClone(vfs.CrashCloneCfg{})
	p.close(t)
	s, err := index.Open(index.Config{Dir: "db", FS: again, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if left := s.Stats().Applied; uint64(left) >= was.LastIndex {
		t.Errorf("the crash left nothing to apply: %d of %d", left, was.LastIndex)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	var syncs atomic.Int64
	p = open(t, syncedLogs(crashed, &syncs), false)
	defer p.close(t)
	if st := p.Status(); st.Leader != 0 || st.Term != was.Term || st.LastIndex != was.LastIndex || st.Applied != st.LastIndex {
		t.Errorf("%+v, before %+v", st, was)
	}
	if n := syncs.Load(); n > 0 {
		t.Errorf("%d syncs of the log", n)
	}
	rev, err := p.store.Load(1, zodb.MaxTid)
	if err != nil || rev.Tid != tid || string(rev.Data) != "b" {
		t.Error(rev, err)
	}
	if _, err := p.NewOids(context.Background(), 1); err != nil {
		t.Error(err)
	}
}
