// Command references finds the references of records for tests/python/test_references.py: each comes in as a line of hex digits, and a line
// goes out, of the oids, joined, or "?" if they are not known.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<30)
	out := bufio.NewWriter(os.Stdout)
	var scanner zodb.Scanner
	for in.Scan() {
		data, err := hex.DecodeString(in.Text())
		if err != nil {
			fail(err)
		}
		oids, known := scanner.References(nil, data)
		if !known {
			fmt.Fprintln(out, "?")
			continue
		}
		for _, oid := range oids {
			fmt.Fprintf(out, "%016x", uint64(oid))
		}
		fmt.Fprintln(out)
	}
	if err := in.Err(); err != nil {
		fail(err)
	}
	if err := out.Flush(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
