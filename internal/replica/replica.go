// Package replica keeps one totally ordered log that a majority of the voters agree on, and applies it to a state.
//
// A transaction is voted (its objects reserved, in memory, at the leader), then finished (one log entry, durable on a majority,
// applied). Safety rests on Apply, which judges each entry again; reservations only keep transactions from failing late.
//
// Any goroutine may call any method. Raft itself is go.etcd.io/raft, without I/O of its own. Whoever proposes while nobody writes
// becomes the driver: it appends, syncs and applies on its own goroutine, since each hand-over would cost a commit 2-10
// µs; what is proposed meanwhile is gathered into the next append by the run loop. A failed write, a failed sync or a
// panic poisons the replica: nothing is acknowledged any more, and no write is repeated.
//
// Carries G1, G2, G7. Bytes and crash cases: docs/format.md. (The Raft paper: https://raft.github.io/raft.pdf)
package replica

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
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
	State     index.State // applied to by this replica alone
	Transport Transport   // nil: a group of one voter
	// Applied is called after each Apply, in order, before the proposer gets its answer. It must not call the replica.
	Applied func(index.Outcome)
	// Poisoned is called once, with what broke the replica.
	Poisoned func(error)
	// VoteWait bounds a vote's wait for others' reservations. 0 means 10s.
	VoteWait time.Duration
	// Lease is how long a vote of a client that is gone is kept. 0 means 10s. A client in this process lives as long as
	// the replica: its votes are kept for maxLease.
	Lease time.Duration
	// FinishTimeout is how long Finish waits for an outcome before it is in doubt. 0 means 30s.
	FinishTimeout time.Duration
	// Tick is Raft's unit of time; elections take 10 of them. 0 means 100ms.
	Tick   time.Duration
	Logger *slog.Logger
}

const (
	// maxLease ends even a living client's vote: a thread that voted and hangs must not hold its objects for good.
	maxLease = 10 * time.Minute
	// maxUncommitted bounds the entries that raft holds and that are not committed; above it proposals wait.
	maxUncommitted = 256 << 20
	// maxRestoring bounds the bytes of restored transactions under way.
	maxRestoring = 16 << 20
	// maxRound bounds the entries that one append and one sync take together.
	maxRound = 8 << 20
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
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if c.DB == nil || c.State == nil {
		return fmt.Errorf("replica: DB and State must be given")
	}
	for name, d := range map[string]time.Duration{"VoteWait": c.VoteWait, "Lease": c.Lease, "FinishTimeout": c.FinishTimeout, "Tick": c.Tick} {
		if d < 0 {
			return fmt.Errorf("replica: %s is negative", name)
		}
	}
	return nil
}

// Replica is one voter.
type Replica struct {
	cfg   Config
	log   *logStore
	table *table

	dead   chan struct{} // closed when poisoned or closed
	kick   chan struct{} // capacity 1: the run loop shall drive
	cancel context.CancelFunc
	wg     sync.WaitGroup // the run loop; Close waits for it

	// mu guards raft and what is waiting for it. Never held across I/O, Apply or a callback.
	mu struct {
		sync.Mutex
		raw       *raft.RawNode
		queue     []*proposal // not yet proposed
		waiting   map[zodb.TxnID]*proposal
		appends   []*raftpb.Message // in order
		applies   []*raftpb.Message // in order
		driving   bool              // somebody is the driver; only it touches appends' and applies' I/O
		lastTid   zodb.Tid          // the highest suggested
		err       error             // what poisoned the replica, or ErrClosed
		restoring int               // bytes
		restored  error             // the first failure of a restore, until it is told
		idle      sync.Cond         // signalled when restoring falls, or err is set
	}
}

// proposal is an entry on its way through the log.
type proposal struct {
	id      zodb.TxnID
	entry   []byte
	commit  bool               // a commit entry, whose tid is suggested when it is proposed
	restore bool               // nobody waits
	done    chan index.Outcome // capacity 1
}

// Open starts the voter that lives in cfg.DB, making one in a group of its own if there is none, and returns when it leads
// and has applied all that its log holds.
func Open(ctx context.Context, cfg Config) (*Replica, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &Replica{cfg: cfg, table: newTable(), dead: make(chan struct{}), kick: make(chan struct{}, 1)}
	r.mu.waiting = make(map[zodb.TxnID]*proposal)
	r.mu.idle.L = &r.mu.Mutex
	stats := cfg.State.Stats()
	r.mu.lastTid = stats.LastTid
	var err error
	if r.log, err = openLog(cfg.DB, uint64(stats.Applied)); err != nil {
		return nil, err
	}
	r.mu.raw, err = raft.NewRawNode(&raft.Config{
		ID: r.log.id, ElectionTick: 10, HeartbeatTick: 1, Storage: r.log, Applied: uint64(stats.Applied),
		AsyncStorageWrites: true, MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 64 << 20,
		MaxUncommittedEntriesSize: maxUncommitted, MaxInflightMsgs: 256, MaxInflightBytes: 64 << 20,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: raftLog{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	run, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.wg.Add(1)
	go r.run(run)
	if err := r.lead(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// lead waits until this voter leads and everything in its log is applied. A voter alone campaigns at once.
func (r *Replica) lead(ctx context.Context) error {
	r.mu.Lock()
	err := r.mu.raw.Campaign()
	r.collect()
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	r.wake()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		st := r.mu.raw.BasicStatus()
		r.mu.Unlock()
		last, _ := r.log.LastIndex()
		if st.RaftState == raft.StateLeader && uint64(r.cfg.State.Stats().Applied) >= last {
			return nil
		}
		select {
		case <-tick.C:
		case <-r.dead:
			return r.failure()
		case <-ctx.Done():
			return fmt.Errorf("open: %w", ctx.Err())
		}
	}
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

// Poison ends all acknowledgements, for good. It waits for nothing and may be called from anywhere, more than once.
func (r *Replica) Poison(err error) { r.end(&Broken{Cause: err}) }

// end stores why the replica stopped and wakes whoever waits.
func (r *Replica) end(err error) {
	r.mu.Lock()
	if r.mu.err != nil {
		r.mu.Unlock()
		return
	}
	r.mu.err = err
	r.mu.idle.Broadcast()
	close(r.dead)
	r.mu.Unlock()
	r.table.close()
	if b, ok := err.(*Broken); ok && r.cfg.Poisoned != nil {
		r.cfg.Poisoned(b.Cause)
	}
}

// failure returns why the replica stopped, nil if it runs.
func (r *Replica) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.err
}

// Close stops the voter. Commits under way are in doubt for their callers; the log knows. The driver's write, if one is under way,
// is waited for, unless the replica is broken: then it may never come back.
func (r *Replica) Close() error {
	r.end(ErrClosed)
	r.cancel()
	if _, broken := r.failure().(*Broken); broken {
		return nil
	}
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.kick: // handed over to a run loop that had ended
		r.mu.driving = false
	default:
	}
	for r.mu.driving {
		r.mu.idle.Wait()
	}
	return nil
}
