package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

type revision struct {
	Oid         string `json:"oid"`
	Tid         string `json:"tid"`
	Time        string `json:"time"`
	Next        string `json:"next_tid,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
	CID         string `json:"cid,omitempty"`
	Size        int    `json:"size"`
	User        string `json:"user,omitempty"`
	Description string `json:"description,omitempty"`
	Class       string `json:"class,omitempty"`
	Data        []byte `json:"data,omitempty"` // base64
	Blob        *file  `json:"blob,omitempty"` // nil unless the revision has one
}

// file is a blob's.
type file struct {
	CID  string `json:"cid"` // as `ipfs add --cid-version=1` prints it
	Size int64  `json:"size"`
}

func describe(r index.Revision) revision {
	d := revision{Oid: r.Oid.String(), Tid: r.Tid.String(), Time: moment(r.Tid), Size: r.Size, Deleted: r.Kind == zodb.WriteDelete}
	if r.Next != 0 {
		d.Next = r.Next.String()
	}
	if !d.Deleted {
		if r.Data != nil {
			r.Hash = block.Sum(r.Data)
		}
		d.CID = r.Hash.CID().String()
	}
	if r.Blob.Exists() {
		d.Blob = &file{CID: r.Blob.CID().String(), Size: r.Blob.Size}
	}
	if r.Data != nil {
		d.Size, d.Data, d.Class = len(r.Data), r.Data, className(r.Data)
	}
	return d
}

func (a *app) dumpCommand() *cobra.Command {
	var at string
	c := &cobra.Command{Use: "dump", Args: exactly("DIR", "OID"), RunE: func(c *cobra.Command, args []string) error {
		oid, err := parseID("oid", args[1])
		if err != nil {
			return err
		}
		var tid uint64
		if c.Flags().Changed("tid") {
			if tid, err = parseID("tid", at); err != nil {
				return err
			}
		}
		return a.inspect(c.Context(), args[0], func(n *node.Node) error {
			return a.dump(c.Context(), n, zodb.Oid(oid), zodb.Tid(tid), c.Flags().Changed("tid"))
		})
	}}
	c.Flags().StringVar(&at, "tid", "", "the transaction that wrote the revision; without it the current one")
	return c
}

func (a *app) dump(ctx context.Context, n *node.Node, oid zodb.Oid, tid zodb.Tid, exact bool) error {
	var r index.Revision
	var err error
	if exact {
		r, err = n.LoadSerial(ctx, oid, tid)
	} else {
		r, err = n.Load(ctx, oid, zodb.MaxTid)
	}
	if err != nil {
		return fmt.Errorf("dump oid %s: %w", oid, err)
	}
	d := describe(r)
	lines := []string{"oid    " + d.Oid, "tid    " + d.Tid + "  " + d.Time, fmt.Sprintf("size   %d", d.Size)}
	if d.Next != "" {
		lines = append(lines, "until  "+d.Next)
	}
	lines = append(lines, "cid    "+d.CID, "class  "+d.Class)
	if d.Blob != nil {
		lines = append(lines, fmt.Sprintf("blob   %s  %d B", d.Blob.CID, d.Blob.Size))
	}
	lines = append(lines, strings.TrimSuffix(hex.Dump(r.Data), "\n"))
	return a.emit(d, lines...)
}

func (a *app) historyCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "history", Args: exactly("DIR", "OID"), RunE: func(c *cobra.Command, args []string) error {
		oid, err := parseID("oid", args[1])
		if err != nil {
			return err
		}
		if limit < 1 {
			return usageError{fmt.Errorf("-n %d: want at least 1", limit)}
		}
		return a.inspect(c.Context(), args[0], func(n *node.Node) error {
			return a.history(c.Context(), n, zodb.Oid(oid), limit)
		})
	}}
	c.Flags().IntVarP(&limit, "limit", "n", 100, "at most so many revisions")
	return c
}

func (a *app) history(ctx context.Context, n *node.Node, oid zodb.Oid, limit int) error {
	revs, err := n.History(ctx, oid, limit)
	if err == nil && len(revs) == 0 {
		err = index.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("history of oid %s: %w", oid, err)
	}
	docs, lines := make([]revision, len(revs)), make([]string, len(revs))
	for i, r := range revs {
		r.Oid = oid
		d := describe(r)
		headers, err := n.Transactions(ctx, r.Tid, r.Tid, 1)
		if err != nil {
			return fmt.Errorf("history of oid %s: transaction %s: %w", oid, r.Tid, err)
		}
		if len(headers) != 1 {
			return fmt.Errorf("history of oid %s: %w", oid, &index.Corrupt{Oid: oid, Tid: r.Tid, Want: r.Hash,
				Cause: errors.New("its transaction is missing")})
		}
		d.User, d.Description = string(headers[0].User), string(headers[0].Description)
		what := fmt.Sprintf("%8d B", d.Size)
		if d.Deleted {
			what = "   deleted"
		}
		if d.Blob != nil {
			what += fmt.Sprintf("  blob %s  %d B", d.Blob.CID, d.Blob.Size)
		}
		lines[i] = strings.TrimRight(fmt.Sprintf("%s  %s  %s  %s  %s", d.Tid, d.Time, what, oneLine(d.User), oneLine(d.Description)), " ")
		docs[i] = d
	}
	return a.emit(docs, lines...)
}

// oneLine keeps control characters, which a user or a description may hold, away from the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// className reads the class that a ZODB pickle begins with (persistent objects: protocol 3, GLOBAL, maybe in a tuple with
// its arguments); "" if it begins otherwise. Nothing is unpickled.
func className(data []byte) string {
	if len(data) < 3 || data[0] != 0x80 {
		return ""
	}
	rest := bytes.TrimLeft(data[2:], "(")
	if len(rest) == 0 || rest[0] != 'c' {
		return ""
	}
	module, rest, ok := bytes.Cut(rest[1:], []byte("\n"))
	name, _, ok2 := bytes.Cut(rest, []byte("\n"))
	if !ok || !ok2 || len(module) > 200 || len(name) > 200 {
		return ""
	}
	return oneLine(string(module) + "." + string(name))
}
