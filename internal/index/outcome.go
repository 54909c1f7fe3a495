package index

import "github.com/zodb-dht/zodb_dht/internal/zodb"

// Position is a place in the ordered log: the index of an entry. Positions rise by one.
type Position uint64

// Verdict is what Apply found an entry to be; the same on every replica.
type Verdict uint8

// The verdicts. Their numbers are on disk.
const (
	Nothing   Verdict = 0 // an entry without effect on the objects (an empty entry of Raft, a configuration change)
	Committed Verdict = 1
	Stale     Verdict = 2 // an object was no longer at the serial that the transaction saw
	TooOld    Verdict = 3 // its floor lies below the remembered outcomes, so "not yet applied" can't be told
	Aborted   Verdict = 4 // a tombstone for this transaction came first in the log
	Regressed Verdict = 5 // a restored tid does not rise above the last one
	OidsGiven Verdict = 6 // a range of oids was reserved: FirstOid, Count
	Behind    Verdict = 7 // its snapshot lies before a garbage collection: what it saw may be gone

	Packed    Verdict = 8  // the horizon is at Tid or beyond
	Rescan    Verdict = 9  // a garbage list was overtaken by transactions, up to Tid: scan them first
	Collected Verdict = 10 // a garbage list was accepted: Oids are gone
)

// Outcome is Apply's verdict on one entry. It is data, not an error: a replica that finds a transaction stale is well.
type Outcome struct {
	Verdict  Verdict
	Position Position
	TxnID    zodb.TxnID
	Tid      zodb.Tid   // Committed: the transaction's tid; Behind: the fence; Packed, Rescan: above
	Oids     []zodb.Oid // Committed: the oids written; Collected: the objects removed
	// Writes is what an entry committed that is no copy of another storage's transaction. Its bytes are the entry's.
	Writes   []zodb.Write
	StaleOid zodb.Oid // Stale: the first such object, in the transaction's order, reads first
	Serial   zodb.Tid // Stale: its committed serial; 0 if it does not exist
	FirstOid zodb.Oid // OidsGiven
	Count    uint64   // OidsGiven
	Repeated bool     // the transaction's outcome was already known: this entry changed nothing
}

// Change is an object and the transaction that wrote it last.
type Change struct {
	Oid zodb.Oid
	Tid zodb.Tid
}
