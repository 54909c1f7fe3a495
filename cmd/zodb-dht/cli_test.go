package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // as main does
	os.Exit(m.Run())
}

// command runs one command line.
func command(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

// must runs a command line that has to succeed, and reads its JSON if doc is not nil.
func must(t *testing.T, doc any, args ...string) string {
	t.Helper()
	code, out, stderr := command(args...)
	if code != exitDone || stderr != "" {
		t.Fatalf("%v: exit %d, %s", args, code, stderr)
	}
	if doc != nil {
		if err := json.Unmarshal([]byte(out), doc); err != nil {
			t.Fatalf("%v printed %q: %v", args, out, err)
		}
	}
	return out
}

const person = "\x80\x03cmyapp.people\nPerson\nq\x00.\x80\x03}q\x01."

// filled makes a peer with two revisions of oid 7, of which the second also writes oid 300; it returns their tids.
func filled(t *testing.T, dir string) []zodb.Tid {
	t.Helper()
	ctx := context.Background()
	n, err := node.Open(ctx, node.Config{Path: dir, Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var tids []zodb.Tid
	for i, data := range []string{"first", person} {
		txn := zodb.Txn{ID: zodb.TxnID{byte(i + 1)}, Floor: uint64(n.Stats().Applied), Status: ' ', User: []byte([]string{"ada", "eve\x1b\u009b"}[i]),
			Description: []byte("revision\n" + strconv.Itoa(i)), Writes: []zodb.Write{write(7, data)}}
		if i > 0 {
			txn.Writes[0].Base = tids[0]
			txn.Writes = append(txn.Writes, write(300, "other"))
		}
		if stale, err := n.Vote(ctx, &txn); err != nil || len(stale) > 0 {
			t.Fatal(stale, err)
		}
		tid, err := n.Finish(ctx, txn.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, tid)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return tids
}

func write(oid zodb.Oid, data string) zodb.Write {
	return zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: []byte(data), Hash: block.Sum([]byte(data))}
}

func TestInitMakesAPeerOnceAndChangesNothingTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	must(t, nil, "init", dir)
	var st status
	must(t, &st, "status", dir, "--json")
	if st.Objects != 0 || st.DiskSize == 0 || st.Path != dir {
		t.Errorf("status: %+v", st)
	}
	if code, _, msg := command("init", dir); code != exitFailed || !strings.Contains(msg, "not empty") {
		t.Errorf("second init: %d %s", code, msg)
	}
	if code, _, msg := command("status", filepath.Join(dir, "nothing")); code != exitFailed || msg == "" {
		t.Errorf("status of nothing: %d %s", code, msg)
	}
}

func TestStatusAndVerifyTellWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	tids := filled(t, dir)
	var st status
	must(t, &st, "status", dir, "--json")
	if st.Objects != 2 || st.Records != 3 || st.LastTid != tids[1].String() || st.DataSize != uint64(len("first"+person+"other")) {
		t.Errorf("status: %+v", st)
	}
	link := dir + "-link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	var linked status
	if must(t, &linked, "status", link, "--json"); linked.DiskSize == 0 {
		t.Errorf("by a link: %+v", linked)
	}
	var r report
	must(t, &r, "verify", dir, "--json")
	if !r.Sound || r.Records != 3 || r.Transactions != 2 || r.Objects != 2 || r.LastTid != tids[1].String() || r.Digest != st.Digest {
		t.Errorf("verify: %+v", r)
	}
	line := must(t, nil, "verify", dir)
	if want := dir + ": sound: 3 records, 2 transactions, 2 objects, 0 blobs, last " + tids[1].String() + "\n"; line != want {
		t.Errorf("verify says %q, want %q", line, want)
	}
}

func TestStatusCountsBlobsThatLieElsewhere(t *testing.T) {
	root := t.TempDir()
	dir, blobs := filepath.Join(root, "peer"), filepath.Join(root, "blobs")
	n, err := node.Open(t.Context(), node.Config{Path: dir, BlobDir: blobs, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	const large = 1 << 20
	if err := os.WriteFile(filepath.Join(blobs, "a revision"), make([]byte, large), 0o600); err != nil {
		t.Fatal(err)
	}
	size := func() uint64 {
		var st status
		must(t, &st, "status", dir, "--json")
		return st.DiskSize
	}
	if size() < large {
		t.Errorf("a file of %d bytes is missing in %d", large, size())
	}
	if err := os.Rename(blobs, filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "blob-dir")); err != nil {
		t.Fatal(err)
	}
	if s := size(); s < large || s >= 2*large {
		t.Errorf("a file of %d bytes is counted as %d", large, s)
	}
}

func TestDumpAndHistoryShowRevisions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	tids := filled(t, dir)
	for _, form := range []string{"7", "0x7", "0x07", "0000000000000007"} {
		var d revision
		must(t, &d, "dump", dir, form, "--json")
		if string(d.Data) != person || d.Class != "myapp.people.Person" || d.Tid != tids[1].String() {
			t.Errorf("dump of %s: %+v", form, d)
		}
		if want := block.Sum([]byte(person)).CID().String(); d.CID != want {
			t.Errorf("cid %s, want %s", d.CID, want)
		}
	}
	if out := must(t, nil, "dump", dir, "7", "--tid", tids[0].String()); !strings.Contains(out, "|first|") {
		t.Errorf("dump of the first revision: %s", out)
	}
	var h []revision
	must(t, &h, "history", dir, "7", "--json")
	if len(h) != 2 || h[0].Tid != tids[1].String() || h[1].Tid != tids[0].String() || h[1].Size != 5 || h[1].User != "ada" || h[1].Data != nil {
		t.Errorf("history: %+v", h)
	}
	if out := must(t, nil, "history", dir, "7", "-n", "1"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "revision 1") {
		t.Errorf("history of one: %q", out)
	}
	if out := must(t, nil, "history", dir, "7"); strings.ContainsFunc(strings.ReplaceAll(out, "\n", ""), unicode.IsControl) || !strings.Contains(out, "eve") {
		t.Errorf("control characters for the terminal: %q", out)
	}
	for _, args := range [][]string{{"dump", dir, "8"}, {"history", dir, "8"}, {"dump", dir, "300", "--tid", tids[0].String()}} {
		if code, _, msg := command(args...); code != exitFailed || !strings.Contains(msg, "no such object") {
			t.Errorf("%v: %d %s", args, code, msg)
		}
	}
}

func TestADirectoryInUseNamesItsProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	n, err := node.Open(context.Background(), node.Config{Path: dir, Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, args := range [][]string{{"status", dir}, {"verify", dir}, {"dump", dir, "0"}} {
		if code, _, msg := command(args...); code != exitFailed || !strings.Contains(msg, strconv.Itoa(os.Getpid())) {
			t.Errorf("%v: %d %s", args, code, msg)
		}
	}
}

func TestDamageIsExit5(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	filled(t, dir)
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no table to damage: %v", err)
	}
	for _, name := range tables {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[20] ^= 1
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, out, stderr := command("verify", dir)
	if code != exitCorrupt || strings.Contains(out, "sound") {
		t.Errorf("verify: exit %d, %s%s", code, out, stderr)
	}
}

func TestMistakesAreExit2AndSayWhat(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "a command is missing"},
		{[]string{"frobnicate"}, `no command is called "frobnicate"`},
		{[]string{"verify"}, "DIR is missing"},
		{[]string{"dump", "d"}, "OID is missing"},
		{[]string{"status", "d", "e"}, `unexpected argument "e"`},
		{[]string{"status", "d", "--jsn"}, "--jsn"},
		{[]string{"dump", "d", "0xzz"}, `oid "0xzz"`},
		{[]string{"dump", "d", "-1"}, "-1"},
		{[]string{"dump", "d", "1", "--tid", "x"}, `tid "x"`},
		{[]string{"history", "d", "1", "-n", "0"}, "at least 1"},
		{[]string{"dump", "d", "18446744073709551616"}, "want 0x2a"},
		{[]string{"pack", "d", "--no-gc", "--days", "nan"}, "a number of days"},
		{[]string{"pack", "d", "--no-gc", "--days", "inf"}, "a number of days"},
		{[]string{"pack", "d", "--no-gc", "--days", "-1"}, "a number of days"},
		{[]string{"import", "Data.fs", "d", "--verify"}, "the zodb-dht that pip installs"},
	} {
		code, out, msg := command(c.args...)
		if code != exitUsage || out != "" || !strings.Contains(msg, c.want) {
			t.Errorf("%v: exit %d, %q, %q", c.args, code, out, msg)
		}
	}
}

func TestHelpFitsOnOneScreenWithAnExample(t *testing.T) {
	help := must(t, nil, "help")
	for _, same := range [][]string{{"--help"}, {"verify", "--help"}, {"help", "dump"}} {
		if must(t, nil, same...) != help {
			t.Errorf("%v prints another help", same)
		}
	}
	lines := strings.Split(help, "\n")
	if len(lines) > 24 || !strings.Contains(help, "$ zodb-dht verify") {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) > 110 {
			t.Errorf("too long: %s", l)
		}
	}
}

func TestVersionIsJSONToo(t *testing.T) {
	var v map[string]string
	must(t, &v, "version", "--json")
	if v["version"] == "" || v["go"] == "" {
		t.Error(v)
	}
}

func TestASignalIsToldAsOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	filled(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	code := run(ctx, []string{"verify", dir}, &out, &err)
	if code != exitFailed || !strings.HasPrefix(err.String(), "zodb-dht: interrupted: verify "+dir) || strings.Count(err.String(), "\n") != 1 {
		t.Errorf("exit %d, %q", code, err.String())
	}
	must(t, nil, "verify", dir)
}
