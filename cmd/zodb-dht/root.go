package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
)

const helpText = `zodb-dht: make, inspect and check the directory of a ZODB peer

Usage: zodb-dht COMMAND [--json]

  init DIR                   make an empty peer directory
  status DIR                 position, last transaction, objects, bytes
  verify DIR                 read and hash every record and blob, follow the chain of transactions
  pack DIR [--days N]        delete garbage, and revisions superseded N days ago (0); --to TIME, --no-gc
  dump DIR OID [--tid T]     one revision of an object: the current one, or the one T wrote
  history DIR OID [-n N]     the revisions of an object, newest first
  import SOURCE DIR          copy a Data.fs, a URI's or a ZConfig file's storage; zodb-dht import --help
  export DIR DEST            copy a peer to one of these; zodb-dht export --help
  version                    of this program

Oids and tids are written as 0x2a, as 42, or as ZODB's sixteen hex digits; TIME as 2026-01-31T12:00 (UTC).
--json prints one JSON document on stdout; progress and errors go to stderr.
The directory must not be in use: stop the process that serves it first, and run this as its user.

Example:
  $ zodb-dht verify /srv/zope/peer
  /srv/zope/peer: sound: 50921 records, 1209 transactions, 20303 objects, 12 blobs, last 0x040d3bc235555555

Exit: 0 done, 1 failed, 2 usage, 3 no majority, 4 outcome unknown, 5 corrupt
`

// The exit codes are an interface that scripts rely on: docs and help name them.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNoMajority = 3
	exitInDoubt    = 4
	exitCorrupt    = 5
)

// usageError is a mistake on the command line.
type usageError struct{ cause error }

func (e usageError) Error() string { return e.cause.Error() }
func (e usageError) Unwrap() error { return e.cause }

// errDamaged ends a command that has printed what is damaged.
var errDamaged = errors.New("damaged")

// app is what the commands share: where they print, and how.
type app struct {
	stdout, stderr io.Writer
	json           bool
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
	code := exitCode(err)
	switch {
	case errors.Is(err, context.Canceled): // by a signal
		_, _ = fmt.Fprintf(stderr, "zodb-dht: interrupted: %v\n", err)
	case code == exitUsage:
		_, _ = fmt.Fprintf(stderr, "zodb-dht: %v; see zodb-dht help\n", err)
	case err != nil && !errors.Is(err, errDamaged):
		_, _ = fmt.Fprintf(stderr, "zodb-dht: %v\n", err)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "zodb-dht", SilenceErrors: true, SilenceUsage: true,
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
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON document")
	help := func(c *cobra.Command, _ []string) { _, _ = io.WriteString(c.OutOrStdout(), helpText) }
	root.SetHelpFunc(help)
	root.SetHelpCommand(&cobra.Command{Use: "help", Args: cobra.ArbitraryArgs, Run: help})
	root.AddCommand(a.initCommand(), a.statusCommand(), a.verifyCommand(), a.packCommand(), a.dumpCommand(), a.historyCommand(), a.versionCommand(),
		inPython("import"), inPython("export"))
	return root
}

// inPython is a command that the Python package runs, before it starts this program.
func inPython(name string) *cobra.Command {
	return &cobra.Command{Use: name, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error {
		return usageError{fmt.Errorf("%s opens other storages by Python: use the zodb-dht that pip installs", name)}
	}}
}

// exactly refuses any other number of arguments, naming those that a command takes.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s: %s is missing", c.Name(), names[len(args)])}
		case len(args) > len(names):
			return usageError{fmt.Errorf("%s: unexpected argument %q", c.Name(), args[len(names)])}
		}
		return nil
	}
}

// exitCode is the one place that turns an error into an exit code.
func exitCode(err error) int {
	var usage usageError
	var corrupt *index.Corrupt
	var doubt *replica.InDoubt
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, context.Canceled): // by a signal, whatever was waited for
		return exitFailed
	case errors.As(err, &usage), errors.Is(err, node.ErrUsage):
		return exitUsage
	case errors.Is(err, errDamaged), errors.As(err, &corrupt):
		return exitCorrupt
	case errors.As(err, &doubt):
		return exitInDoubt
	case errors.Is(err, replica.ErrUnavailable):
		return exitNoMajority
	}
	return exitFailed
}
