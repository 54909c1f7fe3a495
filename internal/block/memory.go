package block

import (
	"bytes"
	"slices"
	"sync"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/go-datastore"
)

// Memory is Records in a map, for tests and as the pattern that the state's are held against.
type Memory struct {
	mu   sync.RWMutex // guards data
	data map[Hash][]byte
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{data: make(map[Hash][]byte)} }

// Keep adds a copy of data under its hash.
func (m *Memory) Keep(data []byte) Hash {
	h := Sum(data)
	m.Set(h, data)
	return h
}

// Set adds a copy of data under whatever hash it is given: the way to damage a record.
func (m *Memory) Set(h Hash, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data[h] = bytes.Clone(data)
}

// Data is Records.Data.
func (m *Memory) Data(h Hash) ([]byte, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	data, ok := m.data[h]
	if !ok {
		return nil, false, nil
	}
	if err := Check(h, data); err != nil {
		return nil, false, err
	}
	return slices.Clone(data), true, nil
}

// Size is Records.Size.
func (m *Memory) Size(h Hash) (int, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	data, ok := m.data[h]
	return len(data), ok, nil
}

// Hashes is Records.Hashes.
func (m *Memory) Hashes(yield func(Hash) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for h := range m.data {
		if !yield(h) {
			break
		}
	}
	return nil
}

// NewOthers makes a store for blocks that are no records on a datastore that any goroutine may use. WriteThrough: without it
// PutMany asks Has for each key.
func NewOthers(ds datastore.Batching) blockstore.Blockstore {
	return blockstore.NewBlockstore(ds, blockstore.WriteThrough(true))
}
