// Package zodb holds the words of ZODB: object ids, transaction ids, and the transaction record with its canonical
// encoding. It is pure: no I/O, no clock of its own, no goroutine; every value may be shared between goroutines
// as long as nobody writes to the byte slices in it.
package zodb

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// ErrMalformed says that bytes are not what they claim to be: a wrong length, version, order or value.
var ErrMalformed = errors.New("malformed")

// Oid names an object; ZODB's eight bytes, big-endian. The root object is 0.
type Oid uint64

// MaxOid is the largest oid that is written or given: a counter above all of them, and the range it gives next, never wrap.
const MaxOid Oid = math.MaxUint64 - 1<<32

// Tid names a transaction and orders it; ZODB's eight bytes, big-endian (persistent.timestamp.TimeStamp).
// 0 is no transaction. Tids from MaxTid on are never given: ZODB reads "the newest" as loadBefore(MaxTid).
type Tid uint64

// MaxTid is ZODB.utils.maxtid.
const MaxTid Tid = math.MaxInt64

// TxnID names one attempt to commit, drawn at random by the client; an outcome is looked up by it.
type TxnID [16]byte

// Hash is the sha2-256 of a record's data as ZODB hands it over, or of an encoded transaction record.
type Hash = block.Hash

// Bytes returns ZODB's form of the oid.
func (o Oid) Bytes() []byte { return binary.BigEndian.AppendUint64(nil, uint64(o)) }

// String returns the form that ZODB's tools print, such as 0x2a.
func (o Oid) String() string { return fmt.Sprintf("0x%02x", uint64(o)) }

// Bytes returns ZODB's form of the tid.
func (t Tid) Bytes() []byte { return binary.BigEndian.AppendUint64(nil, uint64(t)) }

// String returns sixteen hex digits, as ZODB's tools print a tid.
func (t Tid) String() string { return fmt.Sprintf("0x%016x", uint64(t)) }

func (id TxnID) String() string { return hex.EncodeToString(id[:]) }

// OidFromBytes reads ZODB's eight bytes.
func OidFromBytes(b []byte) (Oid, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("an oid has 8 bytes, not %d: %w", len(b), ErrMalformed)
	}
	return Oid(binary.BigEndian.Uint64(b)), nil
}

// TidFromBytes reads ZODB's eight bytes.
func TidFromBytes(b []byte) (Tid, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a tid has 8 bytes, not %d: %w", len(b), ErrMalformed)
	}
	return Tid(binary.BigEndian.Uint64(b)), nil
}

// ticksPerMinute is the resolution of the lower half of a TimeStamp: 2^32 parts of a minute.
const ticksPerMinute = 1 << 32

// TidFromTime encodes a moment as persistent.timestamp.TimeStamp does: the upper half counts minutes in months of 31
// days since 1900, the lower one parts of a minute. Moments before 1900 give 0.
func TidFromTime(t time.Time) Tid {
	t = t.UTC()
	if t.Year() < 1900 {
		return 0
	}
	days := (uint64(t.Year()-1900)*12+uint64(t.Month()-1))*31 + uint64(t.Day()-1)
	minutes := (days*24+uint64(t.Hour()))*60 + uint64(t.Minute())
	nanos := uint64(t.Second())*uint64(time.Second) + uint64(t.Nanosecond())
	// 60e9 * 2^32 exceeds 64 bits: scale in two steps, seconds and the rest.
	const second = uint64(time.Second)
	low := nanos/second*ticksPerMinute/60 + nanos%second*(ticksPerMinute/60)/second
	return Tid(minutes<<32 | low)
}

// Time is the moment that a tid encodes, in UTC; the inverse of TidFromTime up to its resolution of 14 ns.
func (t Tid) Time() time.Time {
	minutes, low := uint64(t)>>32, uint64(t)&(ticksPerMinute-1)
	days := minutes / (24 * 60)
	months := days / 31
	nanos := uint64(float64(low) / ticksPerMinute * 60 * float64(time.Second))
	return time.Date(1900+int(months/12), time.Month(months%12+1), int(days%31)+1,
		int(minutes/60%24), int(minutes%60), 0, int(nanos), time.UTC)
}
