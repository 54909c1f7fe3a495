package node

import (
	"context"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Operations is what a storage asks of a peer; Node (embedded) is its first implementation. Any goroutine may call any
// method. Waits for others, for the log and for a pack end with ctx's deadline at the latest; a read of the disk is not
// interrupted. Byte slices passed in are not kept after the call returns, those returned belong to the caller.
type Operations interface {
	// TryLoad copies the newest revision at or before at into buf if it is in memory and fits; it never waits, allocates
	// nothing. size is the data's length; ok is false if the caller must Load.
	TryLoad(oid zodb.Oid, at zodb.Tid, buf []byte) (size int, tid zodb.Tid, ok bool)
	// Load: see index.State. Revision.Next tells the successor (0: current).
	Load(ctx context.Context, oid zodb.Oid, at zodb.Tid) (index.Revision, error)
	// LoadTo is LoadPinned with the data copied into buf: nothing is copied if size, the data's length, exceeds it.
	LoadTo(ctx context.Context, oid zodb.Oid, at zodb.Tid, buf []byte) (size int, tid zodb.Tid, err error)
	// LoadPinned is Load for a view's snapshot: what a pack has taken since is there until it is swept, then *PackedAway.
	LoadPinned(ctx context.Context, oid zodb.Oid, at zodb.Tid) (index.Revision, error)
	// Prefetch brings what a view's snapshot sees into memory, as far as that has room; what is not there is no error.
	Prefetch(ctx context.Context, oids []zodb.Oid, at zodb.Tid) error
	// LoadBatch loads many at once; revs[i] or errs[i] for oids[i].
	LoadBatch(ctx context.Context, oids []zodb.Oid, at zodb.Tid) (revs []index.Revision, errs []error)
	// LoadSerial returns the revision that tid made; see index.State.
	LoadSerial(ctx context.Context, oid zodb.Oid, tid zodb.Tid) (index.Revision, error)
	// LoadRevisions returns the named revisions, or, if their data exceeds limit bytes, the first of them, at least one. A deletion has
	// no data; Kind is 0 where there is no such revision. With repeats it returns what index.State.Repeats does for each, too. Nothing of it is cached:
	// it serves reading a whole database.
	LoadRevisions(ctx context.Context, keys []index.RevisionKey, limit int, repeats bool) ([]index.Revision, []zodb.Tid, error)
	// History returns up to n revisions, newest first, without data: index.ErrNotFound if the object never existed.
	History(ctx context.Context, oid zodb.Oid, n int) ([]index.Revision, error)
	// Transactions returns headers with from <= tid <= to, oldest first, at most n.
	Transactions(ctx context.Context, from, to zodb.Tid, n int) ([]index.Header, error)
	// TransactionsBackwards returns them newest first.
	TransactionsBackwards(ctx context.Context, from, to zodb.Tid, n int) ([]index.Header, error)
	// Current returns the objects that exist now, from oid `from` on, in order of oid: at most n, and no more once their
	// data exceeds 4 MiB. None says that there are no more.
	Current(ctx context.Context, from zodb.Oid, n int) ([]index.Revision, error)

	// Visible is the last transaction that readers see. It only rises.
	Visible() zodb.Tid
	// Advance returns the position to read from now on, and the oids written in (prev, now], each with the tid of its last
	// write there; known is false if they are too many (more than 100,000).
	Advance(ctx context.Context, prev zodb.Tid) (now zodb.Tid, changed []index.Change, known bool, err error)
	// Pin is Advance of a reader with an identity of its own, whose first prev is above MaxTid: its snapshot is kept from being packed away,
	// for at most pack-wait, until it is moved on or Unpin. thread says who reads: a pack does not wait for its own caller.
	Pin(ctx context.Context, reader, thread uint64, prev zodb.Tid) (now zodb.Tid, changed []index.Change, known bool, err error)
	// Unpin lets a reader's snapshot go; an unknown reader is no error.
	Unpin(reader uint64)
	// Stats: see index.State. It blocks nothing.
	Stats() index.Stats

	// NewOids reserves count oids through the log; they are first, first+1, ...
	NewOids(ctx context.Context, count int) (first zodb.Oid, err error)
	// StageBlob takes the file at path over, to be the blob of a transaction's write of oid: by a rename where that is possible. With keep
	// it stays there, too, and is linked or copied. A small one is read now, and synced by Vote or Restore together with the transaction's others; a large
	// one is read and synced in the background, and they wait for that. Abort removes it. Files are found by the transaction's ID. A context
	// that has ended takes what needs no copy, else replica.ErrBusy.
	StageBlob(ctx context.Context, id zodb.TxnID, oid zodb.Oid, path string, keep bool) error
	// BlobFile returns the name of the file of a blob's revision: index.ErrNotFound if the revision has none, *index.Corrupt if it should
	// have one and it is missing, or of another length; with whole, after reading it to its end, if any byte is another one. It stays there
	// until a pack removes the revision.
	BlobFile(ctx context.Context, oid zodb.Oid, tid zodb.Tid, whole bool) (string, error)
	// Vote stages the transaction and reserves its objects. stale lists the written objects that are no longer at their
	// base, with their committed serial and data, and the base's data, all of them reserved too: the caller resolves
	// them and votes again with the same ID, or aborts. A stale read is a *replica.StaleRead error. Blocks at most vote-wait.
	Vote(ctx context.Context, txn *zodb.Txn) (stale []Conflict, err error)
	// Finish commits what was voted; on return the transaction is durable and, unless hold, visible to readers. With hold
	// it becomes visible by Publish(tid), or by itself when the transaction's lease ends. Readers see transactions in order, so
	// a Finish without hold waits for those that are held before it, whatever ctx says: for a lease at most.
	Finish(ctx context.Context, id zodb.TxnID, hold bool) (zodb.Tid, error)
	// StartFinish is Finish for a caller who waits in his own way: done is called once, by the latest after finish-timeout and a
	// lease, from any goroutine or before StartFinish returns. It may neither block nor call the node.
	StartFinish(id zodb.TxnID, hold bool, done func(zodb.Tid, error))
	// Publish ends the hold on tid: readers see it as soon as nothing before it is held. It does not wait.
	Publish(tid zodb.Tid)
	// Abort forgets a transaction; unknown ids are no error.
	Abort(ctx context.Context, id zodb.TxnID) error
	// Restore commits a copy of a transaction with its tid, asynchronously: durable after Drain. Errors of earlier ones
	// surface in later calls and in Drain. (IStorageRestoreable through copyTransactionsFrom.)
	Restore(ctx context.Context, txn *zodb.Txn) error
	// Drain waits until all that was restored is durable, and returns the first failure.
	Drain(ctx context.Context) error
	// Outcome looks up a transaction of unknown outcome.
	Outcome(ctx context.Context, id zodb.TxnID) (index.Outcome, bool, error)
	// PackBegin starts a pack; PackStep drives it to its end, PackEnd gives it up. See pack.go.
	PackBegin(ctx context.Context, to zodb.Tid, refs References, thread uint64) (begun bool, err error)
	PackStep(ctx context.Context, refs []zodb.Oid) (PackStep, error)
	PackEnd()
	Close() error
}

// Conflict is one written object that others changed meanwhile.
type Conflict struct {
	Oid       zodb.Oid
	Base      zodb.Tid // what the client saw
	Committed zodb.Tid // what is current; 0 if the object does not exist (any more)
	// CommittedData and BaseData are the pickles for tryToResolveConflict; BaseData is nil if there is no such revision.
	CommittedData []byte
	BaseData      []byte
}
