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
	// While everything is read the groups are of warmOids, and warmBytes: the table blocks at a group's ends hold its neighbours'
	// records, too, and are read once more.
	warmOids  = 2 * aheadOids
	warmBytes = 2 * aheadBytes
	// aheadQueue bounds the groups that wait. When it is full the loads are far ahead of the reader, and asks are dropped.
	aheadQueue = 64
	// aheadTaken is how many groups are remembered, by their number's low bits: 64 KiB.
	aheadTaken = 1 << 13
	// A group costs aheadCost, each of its records that is used earns 1. Without credit only each aheadProbe-th ask is served.
	aheadCost   = 8
	aheadCredit = 64 * aheadCost
	aheadProbe  = 64
	// While everything is read: a load that fetches a table block weighs as much as scatterCost that were read ahead, and mostScattered
	// is how much it takes to find out what loads are like. A catalog's request has fewer than that.
	scatterCost   = 4
	mostScattered = 128 * scatterCost
	// mostStreamed is how many records are read past the cache before everything stops being read ahead.
	mostStreamed = 2000
)

// readahead fills the record cache in a goroutine of its own: while an application unpickles one object, another core reads and
// decompresses the next ones. After the open it reads everything, if the cache is large enough for that; loads that are scattered over the database
// help, since the table block that each had to read holds its neighbours, too. Afterwards the reader brings the neighbours of what
// had to be read from the state, as long as they are used.
type readahead struct {
	cache *recordCache
	state *index.Store

	warming   atomic.Bool               // everything is being read
	scattered atomic.Int64              // scatterCost for each load that fetched a table block, less the records read ahead and used; within mostScattered
	streamed  atomic.Int64              // records that were read past the cache
	asks      chan zodb.Oid             // a group's first oid
	taken     [aheadTaken]atomic.Uint64 // 1 + the number of a group that was asked for, or that somebody reads or has read
	stop      chan struct{}
	done      sync.WaitGroup // the reader; close waits for it

	helpers struct {
		sync.Mutex // guards what follows; never held across I/O
		idle       sync.Cond
		busy       int    // loads that read a group
		rest       []span // what they left to the reader. Bounded by the groups
	}
}

// span is [first, end).
type span struct{ first, end zodb.Oid }

// newReadahead starts it; warm reads everything first.
func newReadahead(cache *recordCache, state *index.Store, warm bool) *readahead {
	a := &readahead{cache: cache, state: state, asks: make(chan zodb.Oid, aheadQueue), stop: make(chan struct{})}
	a.warming.Store(warm)
	a.scattered.Store(-mostScattered)
	a.helpers.idle.L = &a.helpers
	a.done.Go(func() {
		if !warm && a.take(0) { // the root, and what was made with it
			a.read(0, aheadOids, aheadBytes, nil)
		}
		whole := !warm || a.warm()
		a.state.Settle()
		if whole {
			a.follow()
		}
	})
	return a
}

// fits tells whether all current revisions take at most three quarters of the cache, whose shards fill unevenly, and a core is left to read them.
func (c *recordCache) fits(st index.Stats) bool {
	return st.DataSize+st.Objects*entryOverhead <= uint64(c.limit*cacheShards*3/4) && runtime.GOMAXPROCS(0) > 1
}

// missed is told of each oid that was read from the state, and whether a table block was fetched for it. It never waits for the reader.
func (a *readahead) missed(oid zodb.Oid, fetched bool) {
	if a.warming.Load() {
		if fetched && a.scatters() {
			a.help(oid)
		}
		return
	}
	group := uint64(oid) / aheadOids
	if !a.take(group) {
		return
	}
	select {
	case a.asks <- zodb.Oid(group * aheadOids):
	default:
		a.leave(group)
	}
}

// scatters is told of a load that fetched a table block, and tells whether such loads are frequent: then they are scattered over the database,
// the reader comes too late for most of them, and it pays to take all that the block has. Loads of neighbours find most of theirs read ahead, and the
// few others better go on.
func (a *readahead) scatters() bool {
	n := a.scattered.Load() + scatterCost - a.cache.ahead.Swap(0)
	n = min(max(n, -mostScattered), mostScattered)
	a.scattered.Store(n)
	return n > 0
}

// instead is asked by a load that is about to read the state. While everything is being read ahead and loads are scattered it reads all of
// oid's group into the cache, and what the load wants with it; the load then counts as one that fetched a table block. false: nothing was read,
// since somebody else has the group or it does not pay.
func (a *readahead) instead(oid zodb.Oid) bool {
	if !a.warming.Load() || a.scattered.Load() <= 0 || !a.help(oid) {
		return false
	}
	a.scatters()
	return true
}

// help reads oid's group in the caller's place, while everything is being read and nobody has taken it (else false).
func (a *readahead) help(oid zodb.Oid) bool {
	if !a.warming.Load() {
		return false
	}
	group := uint64(oid) / warmOids
	h := &a.helpers
	h.Lock()
	mine := a.warming.Load() && a.take(group)
	if mine {
		h.busy++
	}
	h.Unlock()
	if !mine {
		return false
	}
	s := span{zodb.Oid(group * warmOids), zodb.Oid((group + 1) * warmOids)}
	var more bool
	s.first, more = a.read(s.first, s.end, warmBytes, nil)
	h.Lock()
	if h.busy--; more {
		h.rest = append(h.rest, s)
	}
	h.Unlock()
	h.idle.Signal()
	return true
}

// finish reads what helpers left, and ends their time when there is nothing more. False: it was stopped.
func (a *readahead) finish() bool {
	h := &a.helpers
	for {
		h.Lock()
		for len(h.rest) == 0 && h.busy > 0 {
			h.idle.Wait()
		}
		rest := h.rest
		h.rest = nil
		if len(rest) == 0 {
			a.warming.Store(false)
		}
		h.Unlock()
		if len(rest) == 0 {
			return true
		}
		for _, s := range rest {
			for next, more := s.first, true; more; {
				if a.stopped() {
					return false
				}
				next, more = a.read(next, s.end, warmBytes, nil)
			}
		}
	}
}

func (a *readahead) stopped() bool {
	select {
	case <-a.stop:
		return true
	default:
		return false
	}
}

// take tells whether a group is the caller's to ask for or to read, as far as that is remembered.
func (a *readahead) take(group uint64) bool {
	slot := &a.taken[group%aheadTaken]
	had := slot.Load()
	return had != group+1 && slot.CompareAndSwap(had, group+1)
}

// leave undoes take.
func (a *readahead) leave(group uint64) { a.taken[group%aheadTaken].CompareAndSwap(group+1, 0) }

// passed is told of records that were read past the cache: by a copy of the whole database, which has use for the core, not for the cache.
func (a *readahead) passed(records int) { a.streamed.Add(int64(records)) }

// warm reads everything in the order of oids, but for what loads have read, and gives up for a copy. False: it was stopped.
func (a *readahead) warm() bool {
	defer a.state.ReadOnce()()
	a.cache.expect(a.state.Stats().Objects)
	own := ^uint64(0) // the group that it is in
	for next, more := zodb.Oid(0), true; more && a.streamed.Load() < mostStreamed; {
		if a.stopped() {
			return false
		}
		next, more = a.read(next, ^zodb.Oid(0), warmBytes, &own)
	}
	return a.finish()
}

// follow reads the groups that loads ask for.
func (a *readahead) follow() {
	a.cache.ahead.Store(0)
	for i := range a.taken { // its groups are smaller, and what was read may have to leave the cache, and be asked for then
		a.taken[i].Store(0)
	}
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
		a.read(first, first+aheadOids, aheadBytes, nil)
	}
}

// read takes a part of [first, end) into the cache, at most about so many bytes; next is where it goes on, before its end if more. With own
// it goes from group to group, the last of them in *own, up to one that somebody else has taken. An error is left to the load that
// will meet it, too, and name it.
func (a *readahead) read(first, end zodb.Oid, bytes int, own *uint64) (next zodb.Oid, more bool) {
	begun := a.cache.beginAll()
	size := 0
	_ = a.state.Newest(first, end, func(rev index.Revision) bool {
		if group := uint64(rev.Oid) / warmOids; own != nil && group != *own {
			if !a.take(group) {
				next, more = zodb.Oid((group+1)*warmOids), true
				return false
			}
			*own = group
		}
		size += len(rev.Data)
		next, more = rev.Oid+1, size >= bytes
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
