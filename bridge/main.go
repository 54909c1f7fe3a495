//go:build !python

package main

import "fmt"

func main() {
	fmt.Println("zodb_dht's bridge is built as a C shared library, with -tags python: see build.sh")
}
