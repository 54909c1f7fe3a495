package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// options are compare's flags.
type options struct {
	rounds                int
	only, storages        []string
	quick, huge, keep     bool
	python, out           string
	json, chart, markdown string
}

func (a *app) compareCommand() *cobra.Command {
	var o options
	c := &cobra.Command{Use: "compare", Args: noArguments, RunE: func(c *cobra.Command, _ []string) error {
		return a.compare(c.Context(), o)
	}}
	f := c.Flags()
	f.IntVar(&o.rounds, "rounds", 3, "")
	f.StringSliceVar(&o.only, "only", nil, "")
	f.StringSliceVar(&o.storages, "storages", nil, "")
	f.BoolVar(&o.quick, "quick", false, "")
	f.BoolVar(&o.huge, "huge", false, "")
	f.BoolVar(&o.keep, "keep", false, "")
	f.StringVar(&o.python, "python", ".venv/bin/python", "")
	f.StringVar(&o.out, "out", "bench-out", "")
	f.StringVar(&o.json, "json", "", "")
	f.StringVar(&o.chart, "chart", "", "")
	f.StringVar(&o.markdown, "markdown", "", "")
	return c
}

// check refuses what can't be meant, before anything is started.
func (o *options) check() error {
	if o.rounds < 1 {
		return usageError{fmt.Errorf("--rounds %d: want 1 or more", o.rounds)}
	}
	if o.chart != "" && !slices.Contains([]string{".svg", ".png"}, filepath.Ext(o.chart)) {
		return usageError{fmt.Errorf("--chart %s: want a name that ends in .svg or .png", o.chart)}
	}
	return nil
}

func (o *options) sizes() sizes {
	s := fullSizes()
	if o.quick {
		s = quickSizes()
	}
	if o.huge {
		s.opens = append(s.opens, 10_000_000)
		s.packs = append(s.packs, 1_000_000)
	}
	return s
}

func (a *app) compare(ctx context.Context, o options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	s := o.sizes()
	chosen, err := choose(workloads(s), o.only)
	if err != nil {
		return err
	}
	storages, err := chooseStorages(o.storages)
	if err != nil {
		return err
	}
	exe, err := filepath.Abs(o.python)
	if err != nil {
		return err
	}
	scripts, err := filepath.Abs(filepath.Join("tests", "bench"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	rep := newReport(o)
	c := &comparison{py: python{exe, scripts}, sizes: s, report: &rep, stores: map[string]store{}, figures: figures{}, filled: map[string]bool{}, soiled: map[int]string{}}
	if c.dir, err = os.MkdirTemp("", "zodb-dht-bench-"); err != nil {
		return err
	}
	if o.keep {
		_, _ = fmt.Fprintf(a.stderr, "bench: the databases are in %s\n", c.dir)
	}
	defer func() { err = errors.Join(err, c.close(o.keep)) }()
	if err := os.Chmod(c.dir, 0o755); err != nil { // PostgreSQL's user passes through
		return err
	}
	if err := c.open(ctx, storages); err != nil {
		return err
	}
	chosen = c.possible(ctx, chosen)
	if err := c.run(ctx, a, plan(o.rounds, chosen, rep.Storages)); err != nil {
		return err
	}
	rep.Metrics = metrics(c.order, c.figures)
	rep.Verdicts = judge(targets(s), c.figures)
	if err := rep.text(a.stdout); err != nil {
		return err
	}
	return rep.write(o)
}

// write puts the report into the files that the options name.
func (r *report) write(o options) error {
	file := o.json
	if file == "" {
		file = filepath.Join(o.out, "compare.json")
	}
	if err := writeJSON(file, r); err != nil {
		return err
	}
	if o.markdown != "" {
		if err := os.WriteFile(o.markdown, []byte(r.markdown()), 0o644); err != nil {
			return err
		}
	}
	charts := []string{o.chart}
	if o.chart == "" {
		charts = []string{filepath.Join(o.out, "compare.svg"), filepath.Join(o.out, "compare.png")}
	}
	for _, chart := range charts {
		if err := drawChart(chart, r); err != nil {
			return fmt.Errorf("chart %s: %w", chart, err)
		}
	}
	return nil
}
