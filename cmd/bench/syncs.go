package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"syscall"
)

// commitMark is tests/bench/commits.py's: an access() of it begins and ends the measured commits.
const commitMark = "/zodb-dht-bench-mark"

// tracer is the command that writes the system calls of a worker to file.
func tracer(file string) []string {
	return []string{"strace", "-f", "-y", "-o", file, "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync,access,faccessat,faccessat2"}
}

// canTrace says why there is no counting of fsyncs; nil if there is.
func canTrace(ctx context.Context) error {
	if _, err := exec.LookPath("strace"); err != nil {
		return errors.New("strace is not installed")
	}
	if out, err := child(ctx, syscall.SIGKILL, "strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("strace does not work here: %w: %s", err, tail(string(out)))
	}
	return nil
}

var syncCall = regexp.MustCompile(`^\d+\s+(fsync|fdatasync|sync_file_range|syncfs|sync|msync)\(`)

// backgroundCall is a sync that is no commit's own: of a peer's tables, the list of them, their directory. One that needs a new log
// waits for the directory's.
var backgroundCall = regexp.MustCompile(`\(\d+<[^>]*(\.sst|/MANIFEST-\d+|/OPTIONS-\d+|/db)>`)

// countSyncs counts the calls between the two marks of a trace, those of the background apart. A call that another thread
// interrupts has two lines, of which only the first counts.
func countSyncs(trace io.Reader) (syncs, background int, err error) {
	lines := bufio.NewScanner(trace)
	mark := regexp.MustCompile(`access\w*\(.*` + regexp.QuoteMeta(commitMark))
	marks := 0
	for lines.Scan() {
		switch {
		case mark.Match(lines.Bytes()):
			marks++
		case marks != 1 || !syncCall.Match(lines.Bytes()):
		case backgroundCall.Match(lines.Bytes()):
			background++
		default:
			syncs++
		}
	}
	if err := lines.Err(); err != nil {
		return 0, 0, err
	}
	if marks != 2 {
		return 0, 0, fmt.Errorf("the trace has %d marks instead of 2", marks)
	}
	return syncs, background, nil
}
