package index

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The rows of a peer's Pebble instance; integers are big-endian. docs/format.md draws them.
//
//	/blobs/ ...               where the chunks of blob files lie, and the nodes above them (internal/blob; go-datastore's keys)
//	/blocks/ ...              blocks that are no records (go-datastore's keys, through go-ds-pebble)
//	b | sha256[:12] | oid | tid   -> nothing            finds a blob's file by the hash in its root CID
//	c | sha256[:12] | oid | tid   -> nothing            finds a record by its hash
//	g | oid                   -> head 8                 objects that a garbage list removed and no sweep has deleted yet
//	l ...                     the log (internal/replica)
//	o | position              -> verdict 1, txn id 16, tid 8       the remembered outcomes
//	p                         -> sweep row (sweep.go)
//	r | oid | ^tid            -> kind 1, sha256 32, with kind 3: root's sha256 32, size 8, then data    revisions, newest first
//	s                         -> state (state.go)
//	t | tid                   -> transaction header (header.go)
const (
	rowBlob    = 'b'
	rowHash    = 'c'
	rowGone    = 'g'
	rowOutcome = 'o'
	rowSweep   = 'p'
	rowRecord  = 'r'
	rowState   = 's'
	rowTxn     = 't'

	// hashPrefix is how much of the hash a 'c' row holds: 96 bits make a wrong candidate improbable, and Find compares
	// the whole hash. 12 bytes, not 16: see docs/adr/0001.
	hashPrefix = 12

	recordKeyLen    = 1 + 8 + 8
	recordPrefixLen = 1 + 8
	recordHeadLen   = 1 + 32
	blobHeadLen     = 32 + 8
	hashKeyLen      = 1 + hashPrefix + 8 + 8
)

func recordKey(dst []byte, oid zodb.Oid, tid zodb.Tid) []byte {
	dst = append(dst, rowRecord)
	dst = binary.BigEndian.AppendUint64(dst, uint64(oid))
	return binary.BigEndian.AppendUint64(dst, ^uint64(tid))
}

func parseRecordKey(k []byte) (zodb.Oid, zodb.Tid, error) {
	if len(k) != recordKeyLen || k[0] != rowRecord {
		return 0, 0, fmt.Errorf("key %x is no record's: %w", k, zodb.ErrMalformed)
	}
	return zodb.Oid(binary.BigEndian.Uint64(k[1:])), zodb.Tid(^binary.BigEndian.Uint64(k[9:])), nil
}

func hashKey(dst []byte, h zodb.Hash, oid zodb.Oid, tid zodb.Tid) []byte {
	dst = append(append(dst, rowHash), h[:hashPrefix]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(oid))
	return binary.BigEndian.AppendUint64(dst, uint64(tid))
}

func blobKey(dst []byte, root zodb.Hash, oid zodb.Oid, tid zodb.Tid) []byte {
	at := len(dst)
	dst = hashKey(dst, root, oid, tid)
	dst[at] = rowBlob
	return dst
}

func txnKey(dst []byte, tid zodb.Tid) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowTxn), uint64(tid))
}

func goneKey(dst []byte, oid zodb.Oid) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowGone), uint64(oid))
}

func outcomeKey(dst []byte, pos Position) []byte {
	return binary.BigEndian.AppendUint64(append(dst, rowOutcome), uint64(pos))
}

// comparer orders keys as bytes. Its Split makes an oid the prefix of its revisions' keys, so that one bloom filter entry
// tells whether an object has any.
func comparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "zodb_dht.1"
	c.Split = func(k []byte) int {
		if len(k) > recordPrefixLen && k[0] == rowRecord {
			return recordPrefixLen
		}
		return len(k)
	}
	c.ComparePointSuffixes = bytes.Compare
	c.CompareRangeSuffixes = bytes.Compare
	return &c
}
