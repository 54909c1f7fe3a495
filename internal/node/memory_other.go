//go:build !linux

package node

// mapMemory has nothing outside of Go's heap here.
func mapMemory(int) []byte { return nil }

func touchMemory([]byte) {}

func unmapMemory([]byte) {}
