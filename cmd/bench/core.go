package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// coreSizes are the numbers that core's --quick changes.
type coreSizes struct{ objects, loads, commits, seconds int }

// coreRun measures the operations of one peer in a directory of its own.
type coreRun struct {
	path string
	peer *node.Node
	size coreSizes
	tid  zodb.Tid // of the last transaction that wrote
	rows []coreRow
}

// coreRow is one figure.
type coreRow struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

func (c *coreRun) add(name, unit string, value float64) {
	c.rows = append(c.rows, coreRow{name, value, unit})
}

func (a *app) coreCommand() *cobra.Command {
	var quick bool
	var file string
	c := &cobra.Command{Use: "core", Args: noArguments, RunE: func(c *cobra.Command, _ []string) error {
		return a.core(c.Context(), quick, file)
	}}
	c.Flags().BoolVar(&quick, "quick", false, "")
	c.Flags().StringVar(&file, "json", "", "")
	return c
}

func (a *app) core(ctx context.Context, quick bool, file string) (err error) {
	dir, err := os.MkdirTemp("", "zodb-dht-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &coreRun{path: filepath.Join(dir, "peer"), size: coreSizes{objects: 100_000, loads: 200_000, commits: 1000, seconds: 2}}
	if quick {
		c.size = coreSizes{objects: 2000, loads: 2000, commits: 30, seconds: 1}
	}
	next, end := a.progress(len(coreSteps()))
	defer end()
	if err := c.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.peer.Close()) }()
	for _, step := range coreSteps() {
		next(step.name)
		if err := errors.Join(ctx.Err(), step.run(ctx, c)); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if file != "" {
		if err := writeJSON(file, c.rows); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, r := range c.rows {
		if _, err := fmt.Fprintf(t, "%s\t%s\t%s\n", r.Name, number(r.Value), r.Unit); err != nil {
			return err
		}
	}
	return t.Flush()
}

func (c *coreRun) open(ctx context.Context) (err error) {
	c.peer, err = node.Open(ctx, node.Config{Path: c.path, Create: true})
	return err
}
