// Command zodb-dht is the operator's command: it makes a peer directory, tells what is in it, and proves that every byte
// is the one that was written. It works on a directory that no process has open.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
