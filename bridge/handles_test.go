package main

import (
	"runtime"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/node"
)

// A thread may hold the handle of a peer that another one closes, whose slot a third one fills.
func TestAHandleNeverNamesAnotherNode(t *testing.T) {
	old, next := new(node.Node), new(node.Node)
	for range 2000 {
		h, err := handleOf(old)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := nodeOf(h); n != nil; n = nodeOf(h) {
				if n != old {
					t.Error("another node")
					return
				}
			}
		})
		runtime.Gosched()
		forget(h, old)
		again, err := handleOf(next)
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if n := nodeOf(again); n != next {
			t.Fatal("not the node")
		}
		forget(again, next)
		if t.Failed() {
			return
		}
	}
}
