package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// victim is a peer directory with history in tables and in the write-ahead log, as a kill leaves it, and its model.
type victim struct {
	dir string
	m   *model
}

func newVictim(t *testing.T, s uint64) victim {
	t.Helper()
	v := victim{filepath.Join(t.TempDir(), "victim"), newModel()}
	for round, commits := range []int{60, 60, 40} {
		o := order{Dir: v.dir, Seed: s, Round: round, Threads: 3, Commits: commits}
		cmd, err := command(t, o)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("the committing process: %v", err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n")[1:] {
			if err := v.m.hear(o, line); err != nil {
				t.Fatal(err)
			}
		}
		if round == 2 { // the last one stays in the log; the model learns it from a copy
			break
		}
		v.adopt(t, v.dir)
	}
	v.adopt(t, v.copy(t))
	return v
}

func (v victim) adopt(t *testing.T, dir string) {
	t.Helper()
	n, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.m.check(n), n.Close()); err != nil {
		t.Fatal(err)
	}
}

func (v victim) copy(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(v.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// kinds gives the directory's files by kind: numbers in names do not count.
func (v victim) kinds(t *testing.T) map[string][]string {
	t.Helper()
	kinds := map[string][]string{}
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		name, err := filepath.Rel(v.dir, path)
		kind := regexp.MustCompile(`\d+`).ReplaceAllString(name, "#")
		kinds[kind] = append(kinds[kind], name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// finding is what an operator and an application see of damage.
type finding struct {
	opened   error // by open
	verified error // by verify
	torn     bool  // verify tells of a write that was cut off: one that nothing relied on, if nothing is wrong
	wrong    error // acknowledged data that is gone or changed, though open reported nothing; never allowed without a report
	corrupt  int   // loads that said so
	readable int
}

func (f *finding) reported() bool { return f.opened != nil || f.verified != nil || f.corrupt > 0 }

// examine opens, reads everything that was acknowledged, and verifies a copy: an open mends what it can do without, and tells its log.
func (v victim) examine(t *testing.T, dir string) (f finding) {
	t.Helper()
	ctx := context.Background()
	untouched := dir + "-untouched"
	if err := os.CopyFS(untouched, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(untouched) }()
	var n *node.Node
	if n, f.opened = open(dir); f.opened == nil {
		for _, tx := range v.m.found {
			txn := tx.name.draw()
			for i := range txn.Writes {
				f.load(ctx, n, txn.Writes[i], tx.tid)
			}
		}
		if st := n.Stats(); f.wrong == nil && f.corrupt == 0 && st.Digest != v.m.replay.Stats().Digest {
			f.wrong = fmt.Errorf("another history: last %s, want %s", st.LastTid, v.m.last())
		}
		_ = n.Close() // may well fail on damage
	}
	r, err := node.Verify(ctx, untouched, func(uint64, uint64) {})
	if f.verified = err; err == nil && len(r.Damaged) > 0 {
		f.verified = &r.Damaged[0]
	}
	f.torn = r.Torn != nil
	return f
}

func (f *finding) load(ctx context.Context, n *node.Node, w zodb.Write, tid zodb.Tid) {
	rev, err := n.LoadSerial(ctx, w.Oid, tid)
	var c *index.Corrupt
	switch {
	case errors.As(err, &c):
		f.corrupt++
	case err != nil:
		f.wrong = fmt.Errorf("oid %s at %s: %w", w.Oid, tid, err)
	case !bytes.Equal(rev.Data, w.Data):
		f.wrong = fmt.Errorf("oid %s at %s: wrong bytes were returned", w.Oid, tid)
	default:
		f.readable++
	}
}

// Every flip is refused by the open, or reported by verify, or in bytes that docs/format.md calls meaningless.
func TestAFlippedByteIsReported(t *testing.T) {
	s := seed(t)
	flips := int(envInt(t, "ZODB_DHT_SOAK_FLIPS", 12)) // of each kind of file
	v := newVictim(t, s)
	kinds := v.kinds(t)
	for _, must := range []string{"format", "db/#.log", "db/#.sst", "db/MANIFEST-#"} {
		if len(kinds[must]) == 0 {
			t.Fatalf("no file %s among %v: the victim is not what it should be", must, kinds)
		}
	}
	total, live := len(v.m.revisions()), v.live(t, kinds["db/#.log"])
	for kind, files := range kinds {
		t.Run(kind, func(t *testing.T) {
			draw, flips := rand.New(rand.NewPCG(s, uint64(len(kind)))), flips
			if strings.HasSuffix(kind, ".sst") {
				flips = (flips + 3) / 4 // see draw: they are slow
			}
			opened, verified, loads, meaningless := 0, 0, 0, 0
			for range flips {
				dir := v.copy(t)
				file := files[draw.IntN(len(files))]
				at, where := flip(t, filepath.Join(dir, file), draw)
				f := v.examine(t, dir)
				switch {
				case f.wrong != nil && !f.reported():
					t.Errorf("seed %d, %s: SILENT: %v", s, where, f.wrong)
				case f.opened != nil:
					opened++
				case f.corrupt > 0:
					loads++
					if f.verified == nil {
						t.Errorf("seed %d, %s: %d loads are corrupt, and verify finds nothing", s, where, f.corrupt)
					}
					if f.wrong != nil || f.readable < total/2 {
						t.Errorf("seed %d, %s: %d of %d records stay readable: %v", s, where, f.readable, total, f.wrong)
					}
				case f.verified != nil, f.torn:
					verified++
				case kind == "lock", kind == "db/OPTIONS-#", kind == "db/#.log" && at >= live[file]:
					meaningless++ // docs/format.md says why
				default:
					t.Errorf("seed %d, %s: nobody tells", s, where)
				}
				_ = os.RemoveAll(dir)
			}
			t.Logf("%d flips: %d refused by open, %d by loads and verify, %d by verify alone, %d in bytes without a meaning",
				flips, opened, loads, verified, meaningless)
		})
	}
}

func (m *model) revisions() (all []zodb.Oid) {
	for _, tx := range m.found {
		for _, w := range tx.name.draw().Writes {
			all = append(all, w.Oid)
		}
	}
	return all
}

// live tells how many bytes of each write-ahead log count: none of one that was flushed and is only kept, those up to its last record of
// the others. What lies behind it in a recycled file is an older log's.
func (v victim) live(t *testing.T, logs []string) map[string]int64 {
	t.Helper()
	live := map[string]int64{}
	for _, name := range logs {
		dir := v.copy(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if f := v.examine(t, dir); f.wrong == nil && !f.reported() {
			continue
		}
		found, err := wal.Scan(wal.Dir{FS: vfs.Default, Dirname: filepath.Join(v.dir, "db")})
		if err != nil {
			t.Fatal(err)
		}
		for _, log := range found {
			if fmt.Sprintf("%06d.log", log.Num) == filepath.Base(name) {
				live[name] = endOf(t, log)
			}
		}
	}
	if len(live) == 0 {
		t.Fatalf("nothing is in %v: the victim is not what it should be", logs)
	}
	return live
}

func endOf(t *testing.T, log wal.LogicalLog) (end int64) {
	t.Helper()
	r := log.OpenForRead()
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	for {
		_, at, err := r.NextRecord()
		if err != nil {
			return max(end, at.Physical)
		}
		end = at.Physical
	}
}

// flip changes one bit of a byte.
func flip(t *testing.T, path string, draw *rand.Rand) (offset int64, where string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at, bit := draw.IntN(len(b)), byte(1)<<draw.IntN(8)
	b[at] ^= bit
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return int64(at), fmt.Sprintf("%s, offset %d of %d, bit %#x", filepath.Base(path), at, len(b), bit)
}

// Bytes cut off the log's end were promised: open refuses, by the mark. Without the mark, as its error proposes, the directory opens
// with a shorter history: nothing but a tail is gone, the rest is sound, and what is gone is not half there.
func TestACutLogIsRefusedAndWithoutItsMarkLosesATailOnly(t *testing.T) {
	s := seed(t)
	v := newVictim(t, s)
	logs := v.kinds(t)["db/#.log"]
	slices.Sort(logs)
	draw := rand.New(rand.NewPCG(s, 2))
	refused, shorter := 0, 0
	for range int(envInt(t, "ZODB_DHT_SOAK_FLIPS", 12)) {
		dir := v.copy(t)
		path := filepath.Join(dir, logs[len(logs)-1])
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		to := draw.Int64N(info.Size())
		if err := os.Truncate(path, to); err != nil {
			t.Fatal(err)
		}
		n, err := open(dir)
		var c *index.Corrupt
		switch {
		case err == nil:
			whole := n.Stats().LastTid == v.m.last()
			if err := n.Close(); err != nil || !whole {
				t.Errorf("seed %d, cut to %d of %d bytes: SILENT: up to %s is left, %s was acknowledged; %v", s, to, info.Size(), n.Stats().LastTid, v.m.last(), err)
			}
		case !errors.As(err, &c):
			t.Errorf("seed %d, cut to %d of %d bytes: refused, but not as damage: %v", s, to, info.Size(), err)
		default:
			refused++
		}
		if err := os.Remove(filepath.Join(dir, "db", "mark")); err != nil {
			t.Fatal(err)
		}
		lost, err := v.prefix(dir)
		switch {
		case lost > 0 && err == nil:
			shorter++
		case err != nil:
			t.Errorf("seed %d, cut to %d of %d bytes: %v", s, to, info.Size(), err)
		}
		_ = os.RemoveAll(dir)
	}
	if refused == 0 || shorter == 0 {
		t.Errorf("%d cuts were refused, %d left a sound, shorter history: is anything cut at all?", refused, shorter)
	}
	t.Logf("%d cuts were refused, %d left a sound, shorter history", refused, shorter)
}

// prefix opens a cut directory: how many transactions are gone from its end (-1: it does not open), and whether all before them is whole.
func (v victim) prefix(dir string) (int, error) {
	n, err := open(dir)
	if err != nil {
		return -1, err
	}
	last := n.Stats().LastTid
	lost := 0
	var f finding
	for _, tx := range v.m.found {
		if tx.tid > last {
			lost++
			continue
		}
		txn := tx.name.draw()
		for i := range txn.Writes {
			f.load(context.Background(), n, txn.Writes[i], tx.tid)
		}
	}
	err = errors.Join(f.wrong, n.Close())
	if f.corrupt > 0 {
		err = errors.Join(err, fmt.Errorf("%d loads are corrupt", f.corrupt))
	}
	r, e := node.Verify(context.Background(), dir, func(uint64, uint64) {})
	if e != nil || len(r.Damaged) > 0 {
		err = errors.Join(err, fmt.Errorf("verify: %+v, %w", r.Damaged, errors.Join(e)))
	}
	return lost, err
}
