package node

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const (
	// aheadOids is how many neighbouring oids are read at once. A table block holds about 50 records of a catalog; what an
	// application created together it reads together.
	aheadOids = 256
	// aheadBytes bounds the data of one such group: large records have fewer neighbours worth having.
	aheadBytes = 256 << 10
	// aheadQueue bounds the groups that wait. When it is full the loads are far ahead of the reader, and asks are dropped.
	aheadQueue = 64
	// aheadAsked is how many groups are remembered as asked for, by their number's low bits: 64 KiB.
	aheadAsked = 1 << 13
	// A group costs aheadCost, each of its records that is used earns 1. Without credit only each aheadProbe-th ask is served.
	aheadCost   = 8
	aheadCredit = 64 * aheadCost
	aheadProbe  = 64
)

// readahead fills the record cache in a goroutine of its own: while an application unpickles one object, another core reads and
// decompresses the next ones. After the open it reads everything, if the cache is large enough for that; afterwards the neighbours
// of what had to be read from the state, as long as they are used.
type readahead struct {
	cache *recordCache
	state *index.Store

	asks  chan zodb.Oid // a group's first oid
	asked [aheadAsked]atomic.Uint64
	stop  chan struct{}
	done  sync.WaitGroup // the reader; close waits for it
}

// newReadahead starts it; warm reads everything first.
func newReadahead(cache *recordCache, state *index.Store, warm bool) *readahead {
	a := &readahead{cache: cache, state: state, asks: make(chan zodb.Oid, aheadQueue), stop: make(chan struct{})}
	a.done.Go(func() {
		if !warm || a.warm() {
			a.follow()
		}
	})
	return a
}

// fits tells whether all current revisions take at most half of the cache, and a core is left to read them.
func (c *recordCache) fits(st index.Stats) bool {
	return st.DataSize+st.Objects*entryOverhead <= uint64(c.limit*cacheShards/2) && runtime.GOMAXPROCS(0) > 1
}

// missed is told of each oid that was read from the state. It never waits.
func (a *readahead) missed(oid zodb.Oid) {
	group := uint64(oid) / aheadOids
	slot := &a.asked[group%aheadAsked]
	if slot.Load() == group+1 {
		return
	}
	select {
	case a.asks <- zodb.Oid(group * aheadOids):
		slot.Store(group + 1)
	default:
	}
}

// warm reads everything in the order of oids, what is asked for in between first. False: it was stopped.
func (a *readahead) warm() bool {
	done := map[zodb.Oid]bool{} // groups that were asked for
	for next, more := zodb.Oid(0), true; more; {
		select {
		case <-a.stop:
			return false
		case first := <-a.asks:
			if first >= next && !done[first] {
				if _, more := a.read(first, first+aheadOids, nil); !more {
					done[first] = true
				}
			}
		default:
			next, more = a.read(next, ^zodb.Oid(0), done)
		}
	}
	return true
}

// follow reads the groups that loads ask for.
func (a *readahead) follow() {
	a.cache.ahead.Store(0)
	credit, skipped := int64(aheadCredit), 0
	for {
		var first zodb.Oid
		select {
		case <-a.stop:
			return
		case first = <-a.asks:
		}
		credit = min(credit+a.cache.ahead.Swap(0), aheadCredit)
		if credit <= 0 {
			if skipped++; skipped%aheadProbe != 0 {
				continue
			}
		}
		credit = max(credit-aheadCost, -aheadCredit)
		a.read(first, first+aheadOids, nil)
	}
}

// read takes a part of [first, end) into the cache, at most about aheadBytes and up to a group that is done; next is where it goes
// on, before its end if more. An error is left to the load that will meet it, too, and name it.
func (a *readahead) read(first, end zodb.Oid, done map[zodb.Oid]bool) (next zodb.Oid, more bool) {
	begun := a.cache.beginAll()
	size, last := 0, ^zodb.Oid(0)
	_ = a.state.Newest(first, end, func(rev index.Revision) bool {
		if group := rev.Oid / aheadOids * aheadOids; group != last && len(done) > 0 {
			if done[group] {
				next, more = group+aheadOids, true
				return false
			}
			last = group
		}
		size += len(rev.Data)
		next, more = rev.Oid+1, size >= aheadBytes
		a.cache.fillAhead(&rev, &begun)
		return !more
	})
	return next, more
}

// close ends the reader; the state may be closed after it.
func (a *readahead) close() {
	close(a.stop)
	a.done.Wait()
}
