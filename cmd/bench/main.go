// Command bench measures zodb_dht: `core` the Go core alone, `compare` through Python beside the storages that ZODB's
// users have today. What it starts it ends, and what it writes outside --out it removes, also after Ctrl-C.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the peer's log would stand between the figures
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
