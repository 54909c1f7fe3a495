package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// emit prints doc as JSON, or lines as they are.
func (a *app) emit(doc any, lines ...string) error {
	if !a.json {
		_, err := fmt.Fprintln(a.stdout, strings.Join(lines, "\n"))
		return err
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// progress returns a reporter of work done and one that clears the line; both do nothing without a terminal.
func (a *app) progress(what string) (report func(done, total uint64), end func()) {
	if !a.terminal {
		return func(uint64, uint64) {}, func() {}
	}
	var bar *progressbar.ProgressBar
	var size uint64
	report = func(done, total uint64) {
		if bar == nil {
			bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(a.stderr),
				progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
				progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
			size = total
		}
		if total != size {
			size = total
			bar.ChangeMax64(int64(total))
		}
		_ = bar.Set64(int64(min(done, total))) // what can fail is drawing
	}
	end = func() {
		if bar != nil {
			_ = bar.Finish()
		}
	}
	return report, end
}

// parseID reads an oid or a tid: 0x and hex digits, exactly sixteen hex digits as ZODB prints them, or decimal.
func parseID(what, s string) (uint64, error) {
	digits, base := s, 10
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = h, 16
	} else if len(s) == 16 {
		base = 16
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		return 0, usageError{fmt.Errorf("%s %q: want 0x2a, 42 or sixteen hex digits", what, s)}
	}
	return n, nil
}

// moment prints the time in a tid.
func moment(t zodb.Tid) string { return t.Time().Format("2006-01-02T15:04:05.000Z") }

// size prints bytes as people read them.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, u := float64(n)/1024, 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[u])
}
