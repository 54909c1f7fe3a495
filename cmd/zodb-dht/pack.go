package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// packed is what `pack` prints; python/zodb_dht/cli_pack.py prints the same.
type packed struct {
	Path    string `json:"path"`
	Packed  bool   `json:"packed"` // false: there was nothing to do
	To      string `json:"to"`
	GC      bool   `json:"gc"`
	Objects uint64 `json:"objects"`
	Records uint64 `json:"records"`
	Before  uint64 `json:"size_before"`
	After   uint64 `json:"size_after"`
}

func (a *app) packCommand() *cobra.Command {
	var days float64
	var to string
	var noGC bool
	c := &cobra.Command{Use: "pack", Args: exactly("DIR"), RunE: func(c *cobra.Command, args []string) error {
		if !noGC {
			return usageError{errors.New("pack: garbage collection reads pickles, which the zodb-dht of a Python installation does (pip install zodb_dht); " +
				"this program packs with --no-gc")}
		}
		at, err := packTime(c, days, to)
		if err != nil {
			return err
		}
		return a.open(c.Context(), node.Config{Path: args[0]}, func(n *node.Node) error { return a.pack(c.Context(), n, args[0], at) })
	}}
	c.Flags().Float64Var(&days, "days", 0, "keep what was current so many days ago")
	c.Flags().StringVar(&to, "to", "", "keep what was current at that time")
	c.Flags().BoolVar(&noGC, "no-gc", false, "remove old revisions only")
	return c
}

// packTime reads --days and --to; the present is the default.
func packTime(c *cobra.Command, days float64, to string) (time.Time, error) {
	switch now := time.Now(); {
	case c.Flags().Changed("days") && c.Flags().Changed("to"):
		return now, usageError{errors.New("pack: --days and --to exclude each other")}
	case !(days >= 0) || math.IsInf(days, 0): // NaN, too: what it is as a duration is the processor's choice
		return now, usageError{fmt.Errorf("pack: --days %g: want a number of days", days)}
	case !c.Flags().Changed("to"):
		return now.Add(-time.Duration(days * 24 * float64(time.Hour))), nil
	}
	iso := strings.Replace(to, " ", "T", 1) // as Python reads it
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, iso); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("pack: --to %q: want 2026-01-31 or 2026-01-31T12:00, in UTC", to)}
}

func (a *app) pack(ctx context.Context, n *node.Node, dir string, at time.Time) error {
	doc := packed{Path: dir, Before: n.DiskSize()}
	var err error
	if doc.Packed, err = n.PackBegin(ctx, zodb.TidFromTime(at), node.NoReferences, 0); err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	defer n.PackEnd()
	for step := (node.PackStep{Finished: !doc.Packed}); !step.Finished; {
		progress, end := a.progress("pack: " + step.Phase)
		for phase := step.Phase; !step.Finished && step.Phase == phase; {
			if step, err = n.PackStep(ctx, nil); err != nil {
				end()
				return fmt.Errorf("pack %s: %w", dir, err)
			}
			progress(step.Done, max(step.Total, 1))
		}
		end()
	}
	st := n.Stats()
	doc.To, doc.Objects, doc.Records, doc.After = st.Horizon.String(), st.Objects, st.Records, n.DiskSize()
	what := "packed to " + moment(st.Horizon)
	if !doc.Packed {
		what = "nothing to pack since " + moment(st.Horizon)
	}
	return a.emit(doc, fmt.Sprintf("%s: %s: %d records of %d objects, %s of %s", dir, what, doc.Records, doc.Objects, size(doc.After), size(doc.Before)))
}
