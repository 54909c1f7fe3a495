package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/zodb-dht/zodb_dht/internal/node"
)

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{Use: "init", Args: exactly("DIR"), RunE: func(c *cobra.Command, args []string) error {
		dir := args[0]
		// No application could open it: Python's side takes no other path.
		if path, err := filepath.Abs(dir); err != nil || !utf8.ValidString(path) {
			return usageError{errors.Join(fmt.Errorf("init %q: not a path in UTF-8", dir), err)}
		}
		// Anything in the way stays as it is: an existing peer is opened by an application, never initialized again.
		if err := vacant(dir); err != nil {
			return fmt.Errorf("init %s: %w", dir, err)
		}
		return a.open(c.Context(), node.Config{Path: dir, Create: true}, func(n *node.Node) error {
			return a.emit(map[string]any{"path": dir, "created": true}, dir+": made an empty peer directory")
		})
	}}
}

// vacant refuses a path that holds anything.
func vacant(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // opened for reading
	switch _, err := f.ReadDir(1); {
	case err == nil:
		return errors.New("exists and is not empty; nothing was changed")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// open gives do an open peer and closes it; an error of Close counts, since it may be the first to tell of a failed write.
func (a *app) open(ctx context.Context, cfg node.Config, do func(*node.Node) error) error {
	n, err := node.Open(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(do(n), n.Close())
}

// inspect opens an existing peer for reading.
func (a *app) inspect(ctx context.Context, dir string, do func(*node.Node) error) error {
	return a.open(ctx, node.Config{Path: dir, ReadOnly: true}, do)
}

type status struct {
	Path     string `json:"path"`
	Position uint64 `json:"position"`
	LastTid  string `json:"last_tid"`
	LastTime string `json:"last_time,omitempty"`
	Digest   string `json:"digest"`
	Objects  uint64 `json:"objects"`
	Records  uint64 `json:"records"`
	DataSize uint64 `json:"data_size"`
	DiskSize uint64 `json:"disk_size"`
	NextOid  string `json:"next_oid"`
	Horizon  string `json:"horizon,omitempty"`
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Args: exactly("DIR"), RunE: func(c *cobra.Command, args []string) error {
		dir := args[0]
		return a.inspect(c.Context(), dir, func(n *node.Node) error {
			st := n.Stats()
			disk, err := diskSize(dir, n.BlobDir())
			if err != nil {
				return fmt.Errorf("status: %w", err)
			}
			doc := status{
				Path: dir, Position: uint64(st.Applied), LastTid: st.LastTid.String(), Digest: st.Digest.String(),
				Objects: st.Objects, Records: st.Records, DataSize: st.DataSize, DiskSize: disk, NextOid: st.NextOid.String(),
			}
			last := "none"
			if st.LastTid != 0 {
				doc.LastTime = moment(st.LastTid)
				last = doc.LastTid + "  " + doc.LastTime
			}
			packed := "never"
			if st.Horizon != 0 {
				doc.Horizon, packed = st.Horizon.String(), st.Horizon.String()+"  "+moment(st.Horizon)
			}
			return a.emit(doc,
				"directory         "+dir,
				fmt.Sprintf("log position      %d", doc.Position),
				"last transaction  "+last,
				"packed to         "+packed,
				"history digest    "+doc.Digest,
				fmt.Sprintf("objects           %d, next oid %s", doc.Objects, doc.NextOid),
				fmt.Sprintf("records           %d, %s of data", doc.Records, size(doc.DataSize)),
				"on disk           "+size(disk))
		})
	}}
}

// diskSize is what a peer's files take, also those of blobs that lie elsewhere.
func diskSize(dir, blobs string) (uint64, error) {
	dir, err := filepath.EvalSymlinks(dir) // WalkDir follows none
	if err != nil {
		return 0, err
	}
	if blobs, err = filepath.EvalSymlinks(blobs); err != nil {
		return 0, err
	}
	total, err := sizeOf(dir)
	if within, outside := filepath.Rel(dir, blobs); err != nil || outside == nil && filepath.IsLocal(within) {
		return total, err
	}
	more, err := sizeOf(blobs)
	return total + more, err
}

// sizeOf is what a directory's files take. Files that vanish meanwhile (a compaction's input) count as nothing.
func sizeOf(dir string) (uint64, error) {
	var total uint64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				total += uint64(info.Size())
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return total, err
}

type damage struct {
	Oid   string `json:"oid,omitempty"`
	Tid   string `json:"tid,omitempty"`
	CID   string `json:"cid,omitempty"`
	File  string `json:"file,omitempty"`
	Error string `json:"error"`
}

type report struct {
	Path         string   `json:"path"`
	Sound        bool     `json:"sound"`
	Records      uint64   `json:"records"`
	Transactions uint64   `json:"transactions"`
	Objects      uint64   `json:"objects"`
	LastTid      string   `json:"last_tid"`
	Digest       string   `json:"digest"`
	Horizon      string   `json:"horizon,omitempty"` // the chain is followed from here
	Packed       uint64   `json:"packed,omitempty"`  // transactions of which a pack left a part
	Blobs        uint64   `json:"blobs"`
	BlobSize     uint64   `json:"blob_size"`
	Orphans      []string `json:"orphans"`        // files that no revision has
	Torn         string   `json:"torn,omitempty"` // what a crash left of a write, and the open cut off: no damage
	Damaged      []damage `json:"damaged"`
}

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{Use: "verify", Args: exactly("DIR"), RunE: func(c *cobra.Command, args []string) error {
		dir := args[0]
		progress, end := a.progress("verify")
		r, err := node.Verify(c.Context(), dir, progress)
		end()
		if err != nil {
			return fmt.Errorf("verify %s: %w", dir, err)
		}
		doc := report{
			Path: dir, Sound: len(r.Damaged) == 0, Records: r.Records, Transactions: r.Transactions, Objects: r.Objects,
			LastTid: r.LastTid.String(), Digest: r.Digest.String(), Damaged: []damage{},
			Blobs: r.Blobs, BlobSize: r.BlobSize, Orphans: append([]string{}, r.Orphans...),
		}
		var lines []string
		for i := range r.Damaged {
			d := &r.Damaged[i]
			found := damage{File: d.File, CID: d.CID(), Error: d.Error()}
			if d.File == "" || d.Blob.Exists() {
				found.Oid, found.Tid = d.Oid.String(), d.Tid.String()
			}
			doc.Damaged = append(doc.Damaged, found)
			lines = append(lines, line(found))
		}
		verdict := "sound"
		if !doc.Sound {
			verdict = fmt.Sprintf("DAMAGED in %d places", len(r.Damaged))
		}
		for _, name := range r.Orphans {
			lines = append(lines, "orphan: "+name+": no revision has this file")
		}
		if r.Torn != nil {
			doc.Torn = r.Torn.String()
			lines = append(lines, "torn: "+doc.Torn+"; nothing relied on it")
		}
		since := ""
		if r.Horizon != 0 {
			doc.Horizon, doc.Packed = r.Horizon.String(), r.Packed
			since = fmt.Sprintf("; packed: the chain is followed from %s on, %d transactions before it are in part", r.Horizon, r.Packed)
		}
		lines = append(lines, fmt.Sprintf("%s: %s: %d records, %d transactions, %d objects, %d blobs, last %s%s",
			dir, verdict, r.Records, r.Transactions, r.Objects, r.Blobs, r.LastTid, since))
		if err := a.emit(doc, lines...); err != nil {
			return err
		}
		if !doc.Sound {
			return errDamaged
		}
		return nil
	}}
}

// line is one line about one damage, with the CID by which another peer can be asked for the record.
func line(d damage) string {
	if d.CID == "" {
		return d.Error
	}
	return d.Error + "; " + d.CID
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Args: exactly(), RunE: func(*cobra.Command, []string) error {
		v, goVersion, revision := version, "", ""
		if info, ok := debug.ReadBuildInfo(); ok {
			goVersion = info.GoVersion
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					revision = s.Value
				}
			}
			if v == "" && info.Main.Version != "" && info.Main.Version != "(devel)" {
				v = info.Main.Version
			}
		}
		if v == "" {
			v = "unreleased"
		}
		return a.emit(map[string]string{"version": v, "go": goVersion, "revision": revision}, "zodb-dht "+v+" "+goVersion)
	}}
}

// version is the Python package's, which setup.py has the linker set (-X main.version=…). Without it the module's is told, if `go install`
// knew one: `go run` and `go build` in a directory that is no release do not.
var version string
