// Command zodb-dht is the operator's command: it makes a peer directory, tells what is in it, and proves that every byte
// is the one that was written. It works on a directory that no process has open.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// What the peer logs on its way is for a server's log: here the report, or the error, says it all.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
