//go:build python && bridgepanic

package main

import "os"

// trip panics if the file that the environment names holds this name: the test build of tests/ffi.
func trip(name string) {
	if armed, err := os.ReadFile(os.Getenv("ZODB_DHT_PANIC")); err == nil && string(armed) == name {
		panic("as the test wants: " + name)
	}
}
