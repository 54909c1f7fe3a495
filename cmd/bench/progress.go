package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress returns a reporter of the next step and one that clears the line; both do nothing without a terminal.
func (a *app) progress(steps int) (next func(what string), end func()) {
	if !a.terminal {
		return func(string) {}, func() {}
	}
	bar := progressbar.NewOptions(steps, progressbar.OptionSetWriter(a.stderr), progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
	begun := false
	next = func(what string) {
		if begun {
			_ = bar.Add(1) // what can fail is drawing
		}
		begun = true
		bar.Describe(what)
	}
	return next, func() { _ = bar.Finish() }
}
