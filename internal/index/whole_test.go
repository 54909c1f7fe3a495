package index_test

import (
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const largeData = 20_000

// create applies a transaction that makes an object of 20,000 bytes that do not compress.
func create(t *testing.T, s *index.Store, oid zodb.Oid) {
	t.Helper()
	draw, data := rand.NewPCG(uint64(oid), 0), make([]byte, largeData)
	for i := range data {
		data[i] = byte(draw.Uint64())
	}
	txn := &zodb.Txn{ID: zodb.TxnID{byte(oid)}, Status: ' ', Tid: s.Stats().LastTid + 1, Writes: []zodb.Write{
		{Oid: oid, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)},
	}}
	o, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn))
	if err != nil || o.Verdict != index.Committed {
		t.Fatal(o, err)
	}
}

// whole opens what is on fs: it is refused as damage, with all files left, or every object is there.
func whole(t *testing.T, fs *vfs.MemFS, objects int) (refused bool) {
	t.Helper()
	before := list(t, fs)
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		var damage *index.Corrupt
		if !errors.As(err, &damage) || damage.File == "" {
			t.Errorf("refused, but not as damage of a file: %v", err)
		}
		after := list(t, fs)
		for _, name := range before {
			if !slices.Contains(after, name) {
				t.Errorf("%s was removed by an open that was refused", name)
			}
		}
		return true
	}
	defer shut(t, s)
	for oid := range objects {
		if _, err := s.Load(zodb.Oid(oid+1), zodb.MaxTid); err != nil {
			t.Errorf("SILENT: oid %d of %d: %v", oid+1, objects, err)
		}
	}
	return false
}

func read(t *testing.T, fs *vfs.MemFS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return raw
}

func rewrite(t *testing.T, fs *vfs.MemFS, name string, raw []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func killed(mem *vfs.MemFS) *vfs.MemFS {
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

// A manifest that is cut before it tells of a table looks as if a crash had torn it. The log that the table came from is gone.
func TestACutManifestIsRefusedWhereATableIsMissing(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openOn(t, mem)
	const objects = 24
	for oid := range objects {
		create(t, s, zodb.Oid(oid+1))
		if oid%2 == 1 && oid+1 < objects { // often enough that Pebble writes its first logs over
			if err := s.DB().Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.DB().LogData(nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	var name string
	for _, n := range list(t, mem) {
		if strings.HasPrefix(n, "MANIFEST-") {
			name = "db/" + n
		}
	}
	raw := read(t, mem, name)
	refused := 0
	for at := 1; at <= len(raw); at += 5 {
		fs := killed(mem)
		rewrite(t, fs, name, raw[:at])
		if whole(t, fs, objects) {
			refused++
		}
	}
	shut(t, s)
	if refused == 0 {
		t.Error("no cut was refused: is the manifest read at all?")
	}
}

// Each log that Pebble replays is needed, not only the last one.
func TestALogThatIsGoneIsTold(t *testing.T) {
	mem, free := vfs.NewCrashableMem(), make(chan struct{})
	s, err := index.Open(index.Config{Dir: "db", Create: true, MemTableBytes: 64 << 10, Logger: slog.New(slog.DiscardHandler),
		FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
				<-free // so that the logs stay
			}
			return nil
		}))})
	if err != nil {
		t.Fatal(err)
	}
	var logs []string
	objects := 0
	for len(logs) < 3 {
		objects++
		create(t, s, zodb.Oid(objects))
		logs = slices.DeleteFunc(list(t, mem), func(n string) bool { return !strings.HasSuffix(n, ".log") })
	}
	objects++
	create(t, s, zodb.Oid(objects))
	if err := s.DB().LogData(nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if whole(t, killed(mem), objects) {
		t.Error("nothing is missing, and it is refused")
	}
	for _, name := range logs[:len(logs)-1] { // of the last one the log's mark tells
		for _, gone := range []bool{true, false} {
			fs := killed(mem)
			if gone {
				if err := fs.Remove("db/" + name); err != nil {
					t.Fatal(err)
				}
			} else {
				rewrite(t, fs, "db/"+name, nil)
			}
			if !whole(t, fs, objects) {
				t.Errorf("%s of %v, gone: %t: it opens", name, logs, gone)
			}
		}
	}
	close(free)
	shut(t, s)
}

// Of a large block Pebble tries, with one checksum of it for each bit of 40 KiB, which bit was flipped.
func TestADamagedLargeRecordIsToldSoon(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	for oid := range 3 { // what an open reads lies in their blocks
		create(t, s, zodb.Oid(oid+1))
	}
	data := make([]byte, 4<<20)
	draw := rand.NewPCG(1, 1)
	for i := range data {
		data[i] = byte(draw.Uint64())
	}
	txn := &zodb.Txn{ID: zodb.TxnID{4}, Status: ' ', Tid: 4, Writes: []zodb.Write{{Oid: 4, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)}}}
	if _, err := s.Apply(4, index.AppendCommit(nil, txn)); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	for _, name := range list(t, mem) {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		if raw := read(t, mem, "db/"+name); len(raw) > len(data) {
			raw[len(raw)/2] ^= 0x81
			rewrite(t, mem, "db/"+name, raw)
		}
	}
	var log strings.Builder
	s, err := index.Open(index.Config{Dir: "db", FS: mem, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s)
	started := time.Now()
	_, err = s.Load(4, zodb.MaxTid)
	var damage *index.Corrupt
	if !errors.As(err, &damage) || damage.Oid != 4 {
		t.Error(err)
	}
	r, err := s.Verify(t.Context(), nil)
	if err != nil || !slices.ContainsFunc(r.Damaged, func(c index.Corrupt) bool { return c.Oid == 4 }) {
		t.Error(r.Damaged, err)
	}
	if _, err := s.Head(4); !errors.As(err, &damage) || damage.Oid != 4 { // what a vote and Apply ask
		t.Errorf("head: %v", err)
	}
	if took := time.Since(started); took > 20*time.Second { // by far: it took minutes
		t.Errorf("it took %s", took)
	}
	// A line that a person can read, and not one for each of these loads.
	if told := log.String(); strings.Count(told, "damaged table") != 1 || !strings.Contains(told, ".sst") || len(told) > 1000 {
		t.Error(told)
	}
}
