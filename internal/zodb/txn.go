package zodb

import "github.com/ipfs/go-cid"

// WriteKind says what a transaction did to an object.
type WriteKind uint8

// The kinds of a write. Their numbers are on disk.
const (
	WriteData   WriteKind = 1 // a new revision with data
	WriteDelete WriteKind = 2 // the object is gone from here on (an undone creation, an external GC)
)

// Write is one object of a transaction: the revision it makes, from the one it was made of.
type Write struct {
	Oid  Oid
	Base Tid // the serial that the client saw; 0 for a new object
	Kind WriteKind
	Hash Hash   // of Data; zero for WriteDelete
	Data []byte // nil for WriteDelete
	// Blob is the file beside the record of a ZODB blob; no file for every other object.
	Blob Blob
}

// Blob names the content of a blob's file. The file itself is never a block, a record or part of the log.
type Blob struct {
	Root Hash  // of the root of its UnixFS tree; zero: there is no file
	Size int64 // in bytes
}

// Exists tells whether there is a file.
func (b Blob) Exists() bool { return b.Root != Hash{} }

// CID is what `ipfs add --cid-version=1` prints for the file.
func (b Blob) CID() cid.Cid { return b.Root.FileCID(b.Size) }

// Read is an object that a transaction declared unchanged (ReadVerifyingStorage.checkCurrentSerialInTransaction).
type Read struct {
	Oid    Oid
	Serial Tid
}

// Txn is a transaction as a client proposes it.
type Txn struct {
	ID TxnID
	// Floor is the log position that the peer had applied when it voted: the transaction is refused by an Apply that
	// no longer remembers the outcomes from there on.
	Floor uint64
	// Tid is the leader's suggestion, or with Restore the tid of the source, to be kept.
	Tid Tid
	// Thread is the client's, 0: not known. It is not written anywhere: a pack that this thread asks for does not wait for it.
	Thread uint64
	// Snapshot is the transaction that the client's snapshot ended with; 0 if it declares none. One that lies before a garbage
	// collection is refused, since it may link what is gone.
	Snapshot    Tid
	Restore     bool // no serial is checked; Tid is kept or the transaction refused (IStorageRestoreable)
	Status      byte // ' ' or, in a restored packed transaction, 'p'
	User        []byte
	Description []byte
	Extension   []byte // a pickle, as ZODB hands it over
	Author      []byte // the peer that proposed it
	Reads       []Read
	Writes      []Write // Invariant: at most one write an oid
}
