package index

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// compactions lets Pebble run as many compactions as it wants to, but none before it is open: it flushes what a crash left in the
// write-ahead log, and where that makes a compaction due its Open waits for the end of it, for hundreds of milliseconds if the tables
// are large. Afterwards they may have to rest for a while: they would take a processor from who reads everything. It is
// pebble.CompactionScheduler, and the grant of each compaction.
//
// Pebble calls it with its locks held, so mu is never held across a call into Pebble. Its goroutine is joined by Unregister.
type compactions struct {
	db   pebble.DBForCompaction // set by Register, before all else
	kick chan struct{}          // capacity 1: one may have room now
	quit chan struct{}
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex
		opened  bool // none was granted before
		resting bool // none is granted until settle
		ended   bool // nothing is granted any more
		running int  // granted and not done, or about to be granted
	}
}

func newCompactions() *compactions {
	return &compactions{kick: make(chan struct{}, 1), quit: make(chan struct{})}
}

// Register is pebble.CompactionScheduler's.
func (c *compactions) Register(_ int, db pebble.DBForCompaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db = db; c.mu.ended { // whoever opened did not wait for this
		return
	}
	c.wg.Go(func() {
		for {
			select {
			case <-c.kick:
			case <-c.quit:
				return
			}
			for c.grant() {
				continue
			}
		}
	})
}

// Unregister is pebble.CompactionScheduler's, and ends one whose database did not open. More than once is no error.
func (c *compactions) Unregister() {
	c.mu.Lock()
	ended := c.mu.ended
	c.mu.ended = true
	c.mu.Unlock()
	if !ended {
		close(c.quit)
	}
	c.wg.Wait()
}

// open lets compactions run, or rest until settle.
func (c *compactions) open(rest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.opened, c.mu.resting = true, rest
	c.wake()
}

// settle ends the rest after open. It never waits, and may be called at any time.
func (c *compactions) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.opened && c.mu.resting {
		c.mu.resting = false
		c.wake()
	}
}

// take counts one more, if it may run.
func (c *compactions) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.opened || c.mu.resting || c.mu.ended || c.mu.running >= c.db.GetAllowedWithoutPermission() { // it takes no lock
		return false
	}
	c.mu.running++
	return true
}

// grant offers Pebble to run one more; false if it may not or need not.
func (c *compactions) grant() bool {
	if !c.take() {
		return false
	}
	if waiting, _ := c.db.GetWaitingCompaction(); waiting && c.db.Schedule(c) {
		return true
	}
	c.give()
	return false
}

func (c *compactions) give() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.running--
}

func (c *compactions) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// TrySchedule is pebble.CompactionScheduler's.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if c.take() {
		return true, c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.opened {
		c.wake() // it may only have met a grant that nobody took
	}
	return false, nil
}

// UpdateGetAllowedWithoutPermission is pebble.CompactionScheduler's.
func (c *compactions) UpdateGetAllowedWithoutPermission() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.opened {
		c.wake()
	}
}

// Done is pebble.CompactionGrantHandle's.
func (c *compactions) Done() {
	c.give()
	c.wake()
}

// Started is pebble.CompactionGrantHandle's.
func (c *compactions) Started() {}

// MeasureCPU is pebble.CompactionGrantHandle's.
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats is pebble.CompactionGrantHandle's.
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}
