package crash

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A transaction of the committing process is drawn from its name alone, so that the parent knows every byte that it should
// find, though all that it hears is names and tids.

// name names one transaction.
type name struct {
	Seed   uint64
	Round  int
	Thread int
	N      int
}

const (
	sharedOids = 3  // written by every thread: conflicts
	ownOids    = 40 // of each thread
)

func (n name) source() *rand.Rand {
	return rand.New(rand.NewPCG(n.Seed, uint64(n.Round)<<40|uint64(n.Thread)<<32|uint64(n.N)))
}

func (n name) id() (id zodb.TxnID) {
	b := []byte("txn")
	for _, v := range []uint64{n.Seed, uint64(n.Round), uint64(n.Thread), uint64(n.N)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// draw returns the transaction without Floor, Tid and bases. Most objects are small, some half as large as a WAL block (32 KiB), few
// larger. No more: for a damaged block Pebble tries each bit of its first 40 KiB, which takes seconds for a large one, at each read.
func (n name) draw() zodb.Txn {
	r := n.source()
	t := zodb.Txn{ID: n.id(), Status: ' ', User: []byte("crash"), Description: n.bytes(r, r.IntN(40)), Extension: []byte{}}
	seen := map[zodb.Oid]bool{}
	for range 1 + r.IntN(5) {
		oid := zodb.Oid(1000*(n.Thread+1) + r.IntN(ownOids))
		if r.IntN(6) == 0 {
			oid = zodb.Oid(1 + r.IntN(sharedOids))
		}
		if seen[oid] {
			continue
		}
		seen[oid] = true
		size := 20 + r.IntN(600)
		switch r.IntN(100) {
		case 0:
			size = 33_000 + r.IntN(8_000)
		case 1, 2, 3:
			size = 12_000 + r.IntN(8_000)
		}
		data := n.bytes(r, size)
		t.Writes = append(t.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)})
	}
	return t
}

// bytes are half random, half zero: neither incompressible nor empty.
func (n name) bytes(r *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := 0; i+8 <= size/2; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}
