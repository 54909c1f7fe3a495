package replica

import (
	"errors"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What a caller can branch on.
var (
	// ErrUnavailable says that no majority is reachable, or that this process or its disk stood still for as long as an outcome is waited for:
	// nothing was written, try again later.
	ErrUnavailable = errors.New("the log did not answer in time")
	// ErrBusy says that others held the transaction's objects for longer than vote-wait: nothing was written, try again.
	ErrBusy = errors.New("the objects are reserved by others")
	// ErrVoteLost says that the reservation ended before the commit: nothing was written, try again.
	ErrVoteLost = errors.New("the vote was lost; nothing was written")
	// ErrBehind says that the transaction's snapshot lies before a garbage collection, so that it may link what is gone: nothing
	// was written, begin again on a newer one.
	ErrBehind = errors.New("the transaction's snapshot is older than the last pack")
	// ErrClosed says that the replica was closed.
	ErrClosed = errors.New("the replica is closed")
)

// InDoubt says that the outcome of a commit is unknown: it may be in the log or not. Look it up by Txn, never repeat it.
type InDoubt struct {
	Txn   zodb.TxnID
	Cause error
}

func (e *InDoubt) Error() string {
	return fmt.Sprintf("the outcome of transaction %s is unknown: %v", e.Txn, e.Cause)
}

func (e *InDoubt) Unwrap() error { return e.Cause }

// StaleRead says that an object which the transaction declared unchanged has changed.
type StaleRead struct {
	Oid       zodb.Oid
	Serial    zodb.Tid // what the transaction saw
	Committed zodb.Tid // 0: the object does not exist
}

func (e *StaleRead) Error() string {
	return fmt.Sprintf("oid %s was read at tid %s and is now at %s", e.Oid, e.Serial, e.Committed)
}

// Broken says that this node can't commit any more until it is opened again.
type Broken struct{ Cause error }

func (e *Broken) Error() string {
	return fmt.Sprintf("this peer is broken and commits nothing any more: %v", e.Cause)
}

func (e *Broken) Unwrap() error { return e.Cause }
