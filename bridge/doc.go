// The bridge is the CPython extension zodb_dht._core: it decodes a call, makes it, encodes the answer. No logic lives here.
//
// module.c and the C files it leads to hold Python's side (limited API of 3.10), exports.go Go's; they share the handles of open
// nodes, never a pointer of Go's. Files that need Python or cgo have the build tag "python", so that `go test ./...` needs neither.
package main
