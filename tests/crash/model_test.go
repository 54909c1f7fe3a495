package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// model is what the parent knows: the transactions that were begun, those acknowledged with their tids, and the state that
// results when all that were found are replayed, in order, into an empty one.
type model struct {
	begun    map[zodb.TxnID]name     // neither found nor ruled out so far
	acked    map[zodb.TxnID]zodb.Tid // not found so far
	found    []found                 // in order of tid
	replay   *index.Memory
	position index.Position // of replay
}

type found struct {
	name name
	tid  zodb.Tid
}

func newModel() *model {
	return &model{begun: map[zodb.TxnID]name{}, acked: map[zodb.TxnID]zodb.Tid{}, replay: index.NewMemory()}
}

func (m *model) last() zodb.Tid { return m.replay.Stats().LastTid }

// check holds an open peer against the model: nothing acknowledged is missing, what was in flight is there whole or not at
// all, nothing else is there, and the state is the replayed one.
func (m *model) check(n *node.Node) error {
	if err := m.adopt(n); err != nil {
		return err
	}
	for id, tid := range m.acked {
		return fmt.Errorf("LOST: transaction %s was acknowledged with tid %s", id, tid)
	}
	for id, nm := range m.begun {
		o, known, err := n.Outcome(context.Background(), id)
		if err != nil {
			return fmt.Errorf("outcome of %v: %w", nm, err)
		}
		if known && o.Verdict == index.Committed {
			return fmt.Errorf("transaction %v is called committed at %s, but it is not there", nm, o.Tid)
		}
	}
	clear(m.begun)
	return m.compare(n)
}

// adopt takes over the transactions that came since the last check.
func (m *model) adopt(n *node.Node) error {
	ctx := context.Background()
	for {
		headers, err := n.Transactions(ctx, m.last()+1, zodb.MaxTid, 1000)
		if err != nil {
			return fmt.Errorf("transactions above %s: %w", m.last(), err)
		}
		for _, h := range headers {
			if err := m.adoptOne(ctx, n, h); err != nil {
				return err
			}
		}
		if len(headers) == 0 {
			return nil
		}
	}
}

func (m *model) adoptOne(ctx context.Context, n *node.Node, h index.Header) error {
	nm, ok := m.begun[h.ID]
	if !ok {
		return fmt.Errorf("tid %s is of transaction %s, which nobody finished", h.Tid, h.ID)
	}
	if tid, ok := m.acked[h.ID]; ok && tid != h.Tid {
		return fmt.Errorf("%v was acknowledged with tid %s and has %s", nm, tid, h.Tid)
	}
	txn := nm.draw()
	txn.Tid, txn.Author, txn.Floor = h.Tid, h.Author, uint64(m.position)
	if len(h.Oids) != len(txn.Writes) {
		return fmt.Errorf("%v at %s is there in part: %d objects of %d", nm, h.Tid, len(h.Oids), len(txn.Writes))
	}
	for i := range txn.Writes {
		w := &txn.Writes[i]
		rev, err := n.LoadSerial(ctx, w.Oid, h.Tid)
		if err != nil {
			return fmt.Errorf("%v: oid %s at %s: %w", nm, w.Oid, h.Tid, err)
		}
		if !bytes.Equal(rev.Data, w.Data) {
			return fmt.Errorf("%v: oid %s at %s has other bytes", nm, w.Oid, h.Tid)
		}
		if w.Base, err = m.replay.Head(w.Oid); err != nil {
			return err
		}
	}
	m.position++
	o, err := m.replay.Apply(m.position, index.AppendCommit(nil, &txn))
	if err != nil || o.Verdict != index.Committed || o.Tid != h.Tid {
		return fmt.Errorf("%v at %s does not replay: %+v, %w", nm, h.Tid, o, errors.Join(err))
	}
	m.found = append(m.found, found{nm, h.Tid})
	delete(m.begun, h.ID)
	delete(m.acked, h.ID)
	return nil
}

// compare holds the peer's state against the replayed one: sums, digest of the history, and the head of every object.
func (m *model) compare(n *node.Node) error {
	got, want := n.Stats(), m.replay.Stats()
	if got.LastTid != want.LastTid || got.Digest != want.Digest || got.Objects != want.Objects ||
		got.Records != want.Records || got.DataSize != want.DataSize || got.NextOid < want.NextOid {
		return fmt.Errorf("the state differs from the replayed one:\n got %+v\nwant %+v", got, want)
	}
	return m.heads(n)
}

// heads compares the current revision of every object.
func (m *model) heads(n *node.Node) error {
	last := map[zodb.Oid]index.Revision{}
	err := m.replay.Records(func(r index.Revision, _ error) bool {
		if r.Next == 0 {
			last[r.Oid] = r
		}
		return true
	})
	for oid, want := range last {
		got, e := n.Load(context.Background(), oid, zodb.MaxTid)
		if e != nil || got.Tid != want.Tid || !bytes.Equal(got.Data, want.Data) {
			err = errors.Join(err, fmt.Errorf("oid %s: current is %s (%d bytes), want %s (%d bytes): %w",
				oid, got.Tid, len(got.Data), want.Tid, len(want.Data), errors.Join(e)))
		}
	}
	return err
}
