package index

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble writes its options to a new file in each open, syncs it, and removes the old one, though they hardly ever change. Here
// the old file gets the new name instead, if it says the same.
const (
	optionsPrefix = "OPTIONS-"
	draftSuffix   = ".dbtmp" // of what becomes the options file by a rename: Pebble has no other use for it
)

// options is used by the goroutine that opens Pebble only.
type options struct {
	last  string // the file that Pebble read; "": there is none
	draft string // of the next one, and says what last says; "": none does
}

// note is called for each file that is opened for reading.
func (o *options) note(name string) {
	if strings.HasPrefix(filepath.Base(name), optionsPrefix) {
		o.last = name
	}
}

// blame gives an error of Pebble's about the options file that file's name, which Pebble leaves out.
func (o *options) blame(err error) error {
	if o.last != "" && (strings.Contains(err.Error(), "key=value syntax") || strings.Contains(err.Error(), "name from file")) {
		return &Corrupt{File: o.last, Cause: fmt.Errorf("%w; without it the database opens, and Pebble writes a new one", err)}
	}
	return err
}

// rename gives a draft its name, or that name to the file that says the same.
func (o *options) rename(fsys vfs.FS, draft, name string) error {
	if o.draft == "" || draft != o.draft {
		return fsys.Rename(draft, name)
	}
	last := o.last
	o.last, o.draft = name, ""
	if err := fsys.Rename(last, name); err != nil {
		return err
	}
	return fsys.Remove(draft)
}

// fencedDraft is a file of options that has no name so far.
type fencedDraft struct {
	vfs.File
	fsys    vfs.FS
	name    string
	options *options
	text    []byte
}

func (d *fencedDraft) Write(p []byte) (int, error) {
	d.text = append(d.text, p...)
	return d.File.Write(p)
}

// Sync does nothing for a draft that will be thrown away.
func (d *fencedDraft) Sync() error {
	if d.options.last != "" {
		before, err := readAll(d.fsys, d.options.last)
		if err != nil {
			return err
		}
		if bytes.Equal(before, d.text) {
			d.options.draft = d.name
			return nil
		}
	}
	return d.File.Sync()
}
