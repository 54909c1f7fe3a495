// Package index keeps a peer's records: rows by oid, transactions, history, changes since a tid.
//
// The caller hands Apply the committed entries of the log in order, each once; after a restart it goes on behind
// Stats().Applied. Apply's verdict (Outcome) is data, alike on all replicas; its error means that this node is broken
// and must not go on. One goroutine calls Apply; reads run beside it from any goroutine, and each reads one state: a
// read bounded by a tid up to the last applied transaction never changes any more, but by a pack.
//
// Carries G1, G3, G4. Bytes and crash cases: docs/format.md.
package index

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// ErrNotFound says that an object does not exist: never written, or deleted at the tid asked for.
var ErrNotFound = errors.New("no such object")

// ErrNoRevision says that the object exists, but has no revision as old as the one asked for.
var ErrNoRevision = errors.New("no revision so early")

// ErrClosed says that the state was closed.
var ErrClosed = errors.New("the peer is closed")

// ErrNewerFormat says that a directory was written by a newer program; nothing in it was touched.
var ErrNewerFormat = errors.New("the peer directory has a newer format than this program knows")

// Corrupt says that bytes on disk are not those that were written. Oid and Tid are zero and File is set where the damage
// can't be given to one record.
type Corrupt struct {
	Oid   zodb.Oid
	Tid   zodb.Tid
	Want  zodb.Hash // the hash in the record's name (its CID)
	Blob  zodb.Blob // set where the damaged bytes are those of a blob's file
	File  string
	Cause error
}

func (c *Corrupt) Error() string {
	cause := strings.ReplaceAll(fmt.Sprint(c.Cause), "\n<corruption detail carrier>", "") // Pebble's; not for people
	if c.Blob.Exists() {
		return fmt.Sprintf("corrupt: the blob of oid %s at tid %s, %s, in %s: %s", c.Oid, c.Tid, c.Blob.CID(), c.File, cause)
	}
	if c.File != "" {
		return fmt.Sprintf("corrupt: %s: %s", c.File, cause)
	}
	if c.Want == (zodb.Hash{}) { // it was lost with the row
		if c.Oid == 0 && c.Tid == 0 {
			return fmt.Sprintf("corrupt: %s", cause)
		}
		return fmt.Sprintf("corrupt: oid %s at tid %s: %s", c.Oid, c.Tid, cause)
	}
	return fmt.Sprintf("corrupt: oid %s at tid %s, sha256 %s: %s", c.Oid, c.Tid, c.Want, cause)
}

func (c *Corrupt) Unwrap() error { return c.Cause }

// CID is the content address of what is damaged, "" where that is lost, too.
func (c *Corrupt) CID() string {
	switch {
	case c.Blob.Exists():
		return c.Blob.CID().String()
	case c.Want != zodb.Hash{}:
		return c.Want.CID().String()
	default:
		return ""
	}
}

// Revision is one revision of one object. The caller owns Data.
type Revision struct {
	Oid  zodb.Oid
	Tid  zodb.Tid
	Next zodb.Tid // the tid of the revision after it; 0 while it is current
	Kind zodb.WriteKind
	Hash zodb.Hash // of Data; zero where a read does not say that it has it
	Size int       // of Data, in bytes; set where Data is left out, too
	Data []byte    // nil for a deletion
	Blob zodb.Blob
}

// RevisionKey names a revision.
type RevisionKey struct {
	Oid zodb.Oid
	Tid zodb.Tid
}

// Header is a transaction without its data.
type Header struct {
	Tid         zodb.Tid
	ID          zodb.TxnID
	Status      byte
	User        []byte
	Description []byte
	Extension   []byte
	Author      []byte
	Digest      zodb.Hash // of the transaction record
	Prev        zodb.Hash // the digest of the record before it; zero for the first
	Packed      bool      // some of its writes are packed away, so that nobody can recompute Digest
	Oids        []zodb.Oid
}

// Stats is what the state knows of itself; exact, and read without a scan. Records and DataSize are this peer's own: they fall
// when it sweeps. All else is the same on every replica at the same position.
type Stats struct {
	Applied  Position
	LastTid  zodb.Tid
	Digest   zodb.Hash // of the last transaction record
	Objects  uint64    // that exist, deleted ones not counted
	Records  uint64    // revisions whose rows are here, packed ones that wait for a sweep, too
	DataSize uint64    // bytes of their data
	NextOid  zodb.Oid  // the first oid never given nor written
	// Horizon is the position that the database is packed to; 0: never. HorizonDigest is that of the last transaction up to
	// it: the chain can be followed from there. A transaction whose snapshot lies before Fence is refused.
	Horizon       zodb.Tid
	HorizonDigest zodb.Hash
	Fence         zodb.Tid
}

// State is what the log's entries make: two implementations, NewMemory and Open, one suite (indextest).
type State interface {
	// Apply makes entry, at pos, part of the state, in one atomic step that survives a crash whole or not at all, but
	// is not yet durable on return: the log is. pos is Stats().Applied+1. The state keeps nothing of entry.
	Apply(pos Position, entry []byte) (Outcome, error)
	// Stats is the state after the last Apply.
	Stats() Stats
	// Load returns the newest revision at or before at: ErrNotFound, ErrNoRevision, *Corrupt. A deletion is ErrNotFound. What
	// is packed is not there, as in all the other reads but LoadPinned.
	Load(oid zodb.Oid, at zodb.Tid) (Revision, error)
	// LoadPinned is Load for a snapshot that was taken before a pack: it sees what is packed for as long as it is not swept.
	LoadPinned(oid zodb.Oid, at zodb.Tid) (Revision, error)
	// LoadSerial returns the revision that tid made, with its hash: ErrNotFound if there is none.
	LoadSerial(oid zodb.Oid, tid zodb.Tid) (Revision, error)
	// Head returns the tid of the current revision, 0 if there is none or it is a deletion. It reads no data.
	Head(oid zodb.Oid) (zodb.Tid, error)
	// Heads is Head for many; rising oids are fastest. It calls each with every one's, in order.
	Heads(oids []zodb.Oid, each func(i int, serial zodb.Tid)) error
	// History returns up to n revisions, newest first, with their hashes and without data.
	History(oid zodb.Oid, n int) ([]Revision, error)
	// Transactions calls yield for each transaction with from <= tid <= to, oldest first, until it returns false. Up to the
	// horizon their status is 'p', and those without records are left out.
	Transactions(from, to zodb.Tid, yield func(Header) bool) error
	// TransactionsBackwards is Transactions, newest first.
	TransactionsBackwards(from, to zodb.Tid, yield func(Header) bool) error
	// Current calls yield for each object from oid `from` on that exists at `at`, in order of oid, with its data and without
	// Next, until it returns false.
	Current(from zodb.Oid, at zodb.Tid, yield func(Revision) bool) error
	// Repeats returns the newest older revision of oid with the data that tid's has, as an undo's: 0 if there is none or
	// tid's is a deletion, ErrNotFound if there is no tid's.
	Repeats(oid zodb.Oid, tid zodb.Tid) (zodb.Tid, error)
	// Outcome looks a transaction up: false if it is unknown, or its outcome too old to be remembered.
	Outcome(id zodb.TxnID) (Outcome, bool, error)
	// Find returns a record with this hash: ErrNotFound, or *Corrupt where a record should have it and does not.
	Find(h zodb.Hash) (Revision, error)
	// Blobs calls yield for each revision that has a blob's file with this root, with any if root is zero, in no order that
	// counts, without data, until it returns false.
	Blobs(root zodb.Hash, yield func(Revision, error) bool) error
	// Records calls yield for each revision in order of oid, newest first, with data and hash; unreadable ones with their error.
	Records(yield func(Revision, error) bool) error
	// Sweep deletes the rows of what is packed, with the help of s (nil: it looks for them), and reports how far it is. It runs
	// beside Apply and reads; what it has done when ctx ends stays done.
	Sweep(ctx context.Context, s *Survey, progress func(done, total uint64)) error
	Close() error
}
