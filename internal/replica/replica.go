// Package replica keeps one totally ordered log that a majority of the voters agree on, and applies it to a state.
//
// A transaction is voted (its objects reserved, in memory, at the leader), then finished (one log entry, durable on a majority,
// applied). Safety rests on Apply, which judges each entry again; reservations only keep transactions from failing late.
//
// Any goroutine may call any method. Raft itself is go.etcd.io/raft, without I/O of its own; one goroutine drives it: writes to disk
// and applies. What is proposed while it waits for a sync is one append with one sync afterwards, and what that sync made committed is
// applied while the next one runs. A failed write, a failed sync or a panic poisons the replica: nothing is acknowledged any
// more, and no write is repeated. A disk that hangs holds the driver, and everybody else until his timeout.
//
// Carries G1, G2, G7. Bytes and crash cases: docs/format.md. (The Raft paper: https://raft.github.io/raft.pdf)
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Transport carries messages between voters. Send must not block: a message that can't be sent is lost, and Raft sends it again.
type Transport interface {
	Send(m *raftpb.Message)
}

// Config says what a replica works on.
type Config struct {
	DB        *pebble.DB  // the log's rows begin with 'l'; the caller closes it after Close
	Left      []byte      // what Replica.Left gave, if nothing was written to DB since; nil: the rows are read
	FS        vfs.FS      // where the mark lies; nil is the operating system's
	Dir       string      // holds the mark, the last entry promised to be durable; "": none is kept, and damage to the end of the log looks torn
	State     index.State // applied to by this replica alone
	Transport Transport   // nil: a group of one voter
	// Applied is called after each Apply, in order, before the proposer gets its answer. It must not call the replica.
	Applied func(index.Outcome)
	// Told is called after the proposer got its answer to what Applied was told, before the next Apply. It must not call the replica.
	Told func(index.Outcome)
	// Parked is closed when a call into Pebble will never come back: Close does not wait for the driver then. nil: never.
	Parked <-chan struct{}
	// Poisoned is called once, with what broke the replica.
	Poisoned func(error)
	// VoteWait bounds a vote's wait for others' reservations. 0 means 10s.
	VoteWait time.Duration
	// Lease is how long a vote is kept after its client's last sign of life. 0 means 10s. This process is the client of every vote
	// so far: it renews them while its clock runs, up to maxLease.
	Lease time.Duration
	// FinishTimeout is how long Finish waits for an outcome before it is in doubt. 0 means 30s.
	FinishTimeout time.Duration
	// Frozen opens a voter that rests and is never roused, where nothing can be written.
	Frozen bool
	// Tick is Raft's unit of time; elections take 10 of them. 0 means 100ms.
	Tick time.Duration
	// Clock gives tids and the age of votes. nil: time.Now.
	Clock  func() time.Time
	Logger *slog.Logger
}

const (
	// maxLease ends even a living client's vote: a thread that voted and hangs must not hold its objects for good.
	maxLease = 10 * time.Minute
	// maxUncommitted bounds the entries that raft holds and that are not committed; above it proposals wait.
	maxUncommitted = 256 << 20
	// maxRestoring bounds the bytes of restored transactions under way. What is under way when a memtable is flushed lies in a table
	// twice until a compaction, as an entry and as rows.
	maxRestoring = 2 << 20
	// maxRound bounds the entries that one append and one sync take together, and with maxRestoring what a flush finds under way.
	maxRound = 512 << 10
)

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.VoteWait, 10*time.Second)
	set(&c.Lease, 10*time.Second)
	set(&c.FinishTimeout, 30*time.Second)
	set(&c.Tick, 100*time.Millisecond)
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// validate names everything that is wrong; it changes nothing.
func (c Config) validate() error {
	var errs []error
	if c.DB == nil || c.State == nil {
		errs = append(errs, errors.New("replica: DB and State must be given"))
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"VoteWait", c.VoteWait}, {"Lease", c.Lease}, {"FinishTimeout", c.FinishTimeout}, {"Tick", c.Tick}} {
		if d.v < 0 {
			errs = append(errs, fmt.Errorf("replica: %s %s is negative", d.name, d.v))
		}
	}
	return errors.Join(errs...)
}

// Replica is one voter.
type Replica struct {
	cfg   Config
	log   *logStore // the driver's
	table *table

	kick   chan struct{} // capacity 1: there is work for the driver
	opened chan struct{} // closed when the voter knows its leader and has applied what was committed before
	dead   chan struct{} // closed when poisoned
	driven chan struct{} // closed when the driver has ended
	cancel context.CancelFunc
	wg     sync.WaitGroup // the clock; Close cancels it, then waits
	leads  atomic.Bool

	// resting: the only voter of a group has not stood for election in this open. Nobody else could lead, and what its log holds is
	// committed, so it does when the first entry is proposed: an open that commits nothing writes nothing. Invariant: never set again.
	resting atomic.Bool

	// mu guards raft and what waits for it. Never held across I/O, Apply or a callback. After the table's.
	mu struct {
		sync.Mutex
		raw       *raft.RawNode
		term      uint64                   // raft's, as last seen
		elected   bool                     // proposals of earlier terms were proposed again in this one
		queue     []*proposal              // to be proposed
		waiting   map[zodb.TxnID]*proposal // without an outcome so far, chained by next
		proposed  uint64                   // how many proposals there were
		appends   []*raftpb.Message        // for the driver, in order
		applies   []*raftpb.Message        // for the driver, in order
		lastTid   zodb.Tid                 // the highest suggested
		err       error                    // *Broken or ErrClosed
		restoring int                      // bytes
		restored  error                    // the first failure of a restore, until it is told
		idle      sync.Cond                // signalled when restoring falls or err is set
	}
}

// Open starts the voter that lives in cfg.DB, making one in a group of its own if there is none, and returns when it has applied all that
// was committed and, in a group of several, leads or follows.
func Open(ctx context.Context, cfg Config) (*Replica, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	stats := cfg.State.Stats()
	log := openLeft(cfg.DB, uint64(stats.Applied), cfg.Left)
	if log == nil {
		var err error
		if log, err = openLog(cfg.DB, uint64(stats.Applied)); err != nil {
			return nil, err
		}
	}
	if err := log.openMark(cfg); err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, log: log, table: newTable(cfg.Clock), kick: make(chan struct{}, 1), opened: make(chan struct{}),
		dead: make(chan struct{}), driven: make(chan struct{}),
	}
	r.mu.waiting = make(map[zodb.TxnID]*proposal)
	r.mu.idle.L = &r.mu.Mutex
	r.mu.lastTid = stats.LastTid
	var err error
	r.mu.raw, err = raft.NewRawNode(&raft.Config{
		ID: log.id, ElectionTick: 10, HeartbeatTick: 1, Storage: log, Applied: uint64(stats.Applied),
		AsyncStorageWrites: true, MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 64 << 20,
		MaxUncommittedEntriesSize: maxUncommitted, MaxInflightMsgs: 256, MaxInflightBytes: 64 << 20,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: raftLog{cfg.Logger},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), log.mark.close())
	}
	r.resting.Store(log.alone())
	run, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.serve()
	r.wg.Go(func() { r.tick(run) })
	if err := r.join(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// join waits until this voter has its place in the group.
func (r *Replica) join(ctx context.Context) error {
	if err := r.locked(func() error { r.placed(); return nil }); err != nil { // what is committed is to be applied
		return err
	}
	select {
	case <-r.opened:
		return nil
	case <-r.dead:
		err := r.failure()
		var damage *index.Corrupt
		if errors.As(err, &damage) {
			return fmt.Errorf("apply what the log holds: %w", damage) // nobody has a broken peer: it does not open
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("no leader was found: %w: %w", ErrUnavailable, ctx.Err())
	}
}

// rouse lets a voter that rests stand for election: at once, since nobody else could.
func (r *Replica) rouse() error {
	if !r.resting.Load() || !r.resting.CompareAndSwap(true, false) {
		return nil
	}
	if err := r.locked(r.mu.raw.Campaign); err != nil {
		err = fmt.Errorf("campaign: %w", err)
		r.end(&Broken{Cause: err})
		return err
	}
	return nil
}

// Status is what an operator asks of a voter.
type Status struct {
	ID, Leader            uint64
	Term, Commit, Applied uint64
	FirstIndex, LastIndex uint64
	Reservations          int
}

// Status is a snapshot; it reads memory only.
func (r *Replica) Status() Status {
	r.mu.Lock()
	st := r.mu.raw.BasicStatus()
	r.mu.Unlock()
	first, _ := r.log.FirstIndex()
	last, _ := r.log.LastIndex()
	return Status{
		ID: st.ID, Leader: st.Lead, Term: st.GetTerm(), Commit: st.GetCommit(), Applied: uint64(r.cfg.State.Stats().Applied),
		FirstIndex: first, LastIndex: last, Reservations: r.table.size(),
	}
}

// Damaged is what Open found of the log's files: it goes on without, and verify tells. nil: nothing.
func (r *Replica) Damaged() error { return r.log.damaged }

// Poison ends all acknowledgements, for good. It waits for nothing and may be called from anywhere, more than once, also by
// one that Pebble will never let return.
func (r *Replica) Poison(err error) { r.end(&Broken{Cause: err}) }

// end stores why the replica stopped and wakes whoever waits.
func (r *Replica) end(err error) {
	var broken *Broken
	r.mu.Lock()
	errors.As(err, &broken)
	if r.mu.err == nil || errors.Is(r.mu.err, ErrClosed) && broken != nil {
		r.mu.err = err
		r.mu.idle.Broadcast()
		if broken != nil {
			close(r.dead)
		}
	} else {
		broken = nil // told already
	}
	r.mu.Unlock()
	r.table.close()
	if broken == nil {
		return
	}
	if r.cfg.Poisoned != nil {
		r.cfg.Poisoned(broken.Cause)
	}
	r.giveUpAll(time.Time{}, broken)
}

// failure returns why the replica stopped, nil if it runs.
func (r *Replica) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.err
}

// Close stops the voter: what was proposed is written and applied to the end, what was not is refused. A broken replica's driver
// is waited for unless a call into Pebble was parked, perhaps the driver's.
func (r *Replica) Close() error {
	r.end(ErrClosed)
	r.cancel()
	r.wg.Wait()
	r.wake()
	select {
	case <-r.driven:
	case <-r.cfg.Parked:
		return nil // the driver may still write the mark
	}
	return r.log.mark.close()
}
