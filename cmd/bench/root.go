package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const helpText = `bench: measure zodb_dht

Usage: bench core [--quick] [--json FILE]
       bench compare [flags]

  core      the Go core alone, on a temporary peer
  compare   through Python, beside FileStorage, ZEO, RelStorage and NEO, interleaved

compare:
  --rounds N          rounds, of which the median counts (3)
  --only A,B          these workloads: loads, cold, catalog, commit-sizes, commit-writers, commit-syncs, import, export, blobs,
                      pack, open
  --storages A,B      these storages: dht, filestorage, zeo, postgresql, sqlite, neo
  --quick             small sizes: does it run, not how fast
  --huge              open with 10,000,000 objects, too, and pack 1,000,000
  --python FILE       a Python with zodb_dht and tests/bench/requirements.txt (.venv/bin/python)
  --out DIR           where the files below go (bench-out)
  --json FILE         all figures (OUT/compare.json)
  --chart FILE        the ratios, .svg or .png (OUT/compare.svg and OUT/compare.png)
  --markdown FILE     the table as README shows it
  --keep              leave the databases, and say where they are

Example:
  $ ./build.sh bench compare --rounds 5 --markdown bench-out/table.md

Exit: 0 done (a target that is missed is a result, not a failure), 1 failed, 2 usage
`

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake on the command line.
type usageError struct{ cause error }

func (e usageError) Error() string { return e.cause.Error() }
func (e usageError) Unwrap() error { return e.cause }

// app is what the commands share: where they print.
type app struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is one: progress is shown
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	if f, ok := stderr.(*os.File); ok {
		a.terminal = term.IsTerminal(int(f.Fd()))
	}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(stderr, "bench: %v; see bench help\n", err)
		return exitUsage
	case ctx.Err() != nil:
		_, _ = fmt.Fprintf(stderr, "bench: interrupted: %v\n", err)
		return exitFailed
	}
	_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "bench", SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("a command is missing")}
			}
			return usageError{fmt.Errorf("no command is called %q", args[0])}
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args refuses everything
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	help := func(c *cobra.Command, _ []string) { _, _ = io.WriteString(c.OutOrStdout(), helpText) }
	root.SetHelpFunc(help)
	root.SetHelpCommand(&cobra.Command{Use: "help", Args: cobra.ArbitraryArgs, Run: help})
	root.AddCommand(a.coreCommand(), a.compareCommand())
	return root
}

// noArguments refuses what is no flag.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: unexpected argument %q", c.Name(), args[0])}
	}
	return nil
}
