package replica

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func openVoter(t *testing.T, fs vfs.FS, left func(*index.Store) []byte) (*Replica, *index.Store) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: true, CacheBytes: 1 << 20, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(context.Background(), Config{DB: s.DB(), FS: fs, Dir: "db", Left: left(s), State: s, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

func closeVoter(t *testing.T, r *Replica, s *index.Store) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.Leave(r.Left())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// By what was left an open knows what it would have read, and no entry has a row.
func TestWhatAClosedVoterLeftIsWhatItsRowsSay(t *testing.T) {
	fs := vfs.NewMem()
	rows := func(*index.Store) []byte { return nil }
	r, s := openVoter(t, fs, rows)
	if left := r.Left(); left != nil {
		t.Errorf("an open voter left %x", left)
	}
	for range 5 {
		if _, err := r.NewOids(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
	}
	closeVoter(t, r, s)
	if r.Left() == nil {
		t.Fatal("nothing was left")
	}
	r, s = openVoter(t, fs, rows)
	byRows := r.Status()
	if len(r.log.shapes) > 0 || byRows.FirstIndex != byRows.LastIndex+1 {
		t.Errorf("%d entries, %+v", len(r.log.shapes), byRows)
	}
	closeVoter(t, r, s)
	left := r.Left()
	r, s = openVoter(t, fs, (*index.Store).Left)
	if openLeft(s.DB(), uint64(s.Stats().Applied), s.Left()) == nil {
		t.Error("what was left is not used")
	}
	if st := r.Status(); st != byRows {
		t.Errorf("by what was left %+v, by the rows %+v", st, byRows)
	}
	closeVoter(t, r, s)
	if again := r.Left(); !bytes.Equal(left, again) {
		t.Errorf("by what was left %x, by the rows %x", again, left)
	}
	r, s = openVoter(t, fs, (*index.Store).Left)
	oid, err := r.NewOids(context.Background(), 1)
	if err != nil || oid != zodb.Oid(6) {
		t.Error(oid, err)
	}
	if st := r.Status(); st.Term != byRows.Term+1 || st.LastIndex != byRows.LastIndex+2 {
		t.Errorf("%+v, before %+v", st, byRows)
	}
	closeVoter(t, r, s)
}

func TestWhatWasLeftIsUsedOnlyWhereItFits(t *testing.T) {
	note := func(conf *raftpb.ConfState, last uint64) []byte {
		c, err := encodeConf(5, conf)
		if err != nil {
			t.Fatal(err)
		}
		hard := encodeHard(&raftpb.HardState{Term: proto.Uint64(3), Vote: proto.Uint64(5), Commit: proto.Uint64(2)})
		return append(append(append([]byte{0, byte(len(c))}, c...), hard...), encodeCut(last, 3)...)
	}
	alone := &raftpb.ConfState{Voters: []uint64{5}}
	good := note(alone, 7)
	l := openLeft(nil, 7, good)
	if l == nil {
		t.Fatal("a good one is not used")
	}
	if last, _ := l.LastIndex(); last != 7 || l.hard.GetCommit() != 7 || l.hard.GetTerm() != 3 || l.id != 5 {
		t.Errorf("%d, %+v", last, l)
	}
	for name, c := range map[string]struct {
		applied uint64
		left    []byte
	}{
		"nothing":             {7, nil},
		"one byte":            {7, good[:1]},
		"a byte too few":      {7, good[:len(good)-1]},
		"a byte too many":     {7, append(bytes.Clone(good), 0)},
		"of another position": {8, good},
		"of an empty log":     {0, note(alone, 0)},
		"of several voters":   {7, note(&raftpb.ConfState{Voters: []uint64{5, 6}}, 7)},
		"of another voter":    {7, note(&raftpb.ConfState{Voters: []uint64{6}}, 7)},
	} {
		if openLeft(nil, c.applied, c.left) != nil {
			t.Errorf("%s is used", name)
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x40
		if openLeft(nil, 7, b) != nil {
			t.Errorf("byte %d is changed, and it is used", i)
		}
	}
}
