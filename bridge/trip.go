//go:build python && !bridgepanic

package main

// trip is where a test build panics.
func trip(string) {}
