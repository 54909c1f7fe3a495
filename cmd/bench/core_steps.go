package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// coreSteps in the order in which they run: each finds the peer as the one before it left it.
func coreSteps() []coreStep {
	return []coreStep{
		{"restore", restoreAll}, {"open", reopen}, {"cold load", coldLoads}, {"load", warmLoads}, {"batch", batches},
		{"commit", commitSizes}, {"advance", advances}, {"writers", committers},
	}
}

type coreStep struct {
	name string
	run  func(context.Context, *coreRun) error
}

const (
	recordSize    = 500
	perRestore    = 100 // objects of a restored transaction
	perBatch      = 100 // objects of a LoadBatch
	objectsWriter = 50  // objects that one of several writers goes round
)

// record is hardly compressible, and like from run to run.
func record(draw *rand.Rand) []byte {
	data := make([]byte, recordSize)
	for i := 0; i < recordSize; i += 4 {
		binary.LittleEndian.PutUint32(data[i:], draw.Uint32())
	}
	return data
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func write(oid zodb.Oid, base zodb.Tid, data []byte) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}
}

func restoreAll(ctx context.Context, c *coreRun) error {
	source := random(1)
	base := zodb.TidFromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	start := time.Now()
	for first := 0; first < c.size.objects; first += perRestore {
		c.tid = base + zodb.Tid(first) + 1
		txn := zodb.Txn{Restore: true, Tid: c.tid, Status: ' '}
		binary.BigEndian.PutUint64(txn.ID[:], uint64(c.tid))
		for n := first; n < first+perRestore; n++ {
			txn.Writes = append(txn.Writes, write(zodb.Oid(n), 0, record(source)))
		}
		if err := c.peer.Restore(ctx, &txn); err != nil {
			return err
		}
	}
	if err := c.peer.Drain(ctx); err != nil {
		return err
	}
	c.add("restore", "objects/s", float64(c.size.objects)/time.Since(start).Seconds())
	return nil
}

func reopen(ctx context.Context, c *coreRun) error {
	if err := c.peer.Close(); err != nil {
		return err
	}
	start := time.Now()
	if err := c.open(ctx); err != nil {
		return err
	}
	c.add("open", "ms", time.Since(start).Seconds()*1e3)
	return nil
}

// oids draws count objects.
func (c *coreRun) oids(count int, seed uint64) []zodb.Oid {
	source := random(seed)
	out := make([]zodb.Oid, count)
	for i := range out {
		out[i] = zodb.Oid(source.IntN(c.size.objects))
	}
	return out
}

func coldLoads(ctx context.Context, c *coreRun) error {
	order := random(2).Perm(c.size.objects)
	start := time.Now()
	for _, n := range order {
		if _, err := c.peer.Load(ctx, zodb.Oid(n), c.tid); err != nil {
			return err
		}
	}
	c.add("Load, cold", "µs", time.Since(start).Seconds()*1e6/float64(len(order)))
	return nil
}

func warmLoads(ctx context.Context, c *coreRun) error {
	oids := c.oids(c.size.loads, 3)
	buf := make([]byte, 2*recordSize)
	missed := 0
	start := time.Now()
	for _, oid := range oids {
		if _, _, ok := c.peer.TryLoad(oid, c.tid, buf); !ok {
			missed++
		}
	}
	c.add("TryLoad, warm", "µs", time.Since(start).Seconds()*1e6/float64(len(oids)))
	c.add("TryLoad, not in memory", "%", 100*float64(missed)/float64(len(oids)))
	start = time.Now()
	for _, oid := range oids {
		if _, err := c.peer.Load(ctx, oid, c.tid); err != nil {
			return err
		}
	}
	c.add("Load, warm", "µs", time.Since(start).Seconds()*1e6/float64(len(oids)))
	return nil
}

func batches(ctx context.Context, c *coreRun) error {
	oids := c.oids(c.size.loads, 4)
	loaded := 0
	start := time.Now()
	for len(oids) >= perBatch {
		_, errs := c.peer.LoadBatch(ctx, oids[:perBatch], c.tid)
		if err := errors.Join(errs...); err != nil {
			return err
		}
		loaded, oids = loaded+perBatch, oids[perBatch:]
	}
	c.add(fmt.Sprintf("LoadBatch of %d, an object", perBatch), "µs", time.Since(start).Seconds()*1e6/float64(loaded))
	return nil
}

// writer commits to objects of its own, and so never conflicts.
type writer struct {
	c      *coreRun
	first  int // oid
	serial []zodb.Tid
	data   []byte
	done   uint64
	seed   uint64
}

func (c *coreRun) writer(first, objects int, seed uint64) (*writer, error) {
	w := &writer{c: c, first: first, serial: make([]zodb.Tid, objects), data: record(random(seed)), seed: seed}
	for i := range w.serial {
		rev, err := c.peer.Load(context.Background(), zodb.Oid(first+i), zodb.MaxTid)
		if err != nil {
			return nil, err
		}
		w.serial[i] = rev.Tid
	}
	return w, nil
}

// commit makes new revisions of the next `objects` objects, durable on return.
func (w *writer) commit(ctx context.Context, objects int) error {
	w.done++
	binary.LittleEndian.PutUint64(w.data, w.done)
	txn := zodb.Txn{Status: ' ', Floor: uint64(w.c.peer.Stats().Applied)}
	binary.BigEndian.PutUint64(txn.ID[:], w.seed)
	binary.BigEndian.PutUint64(txn.ID[8:], w.done)
	var written []int
	for k := range objects {
		i := (int(w.done)*objects + k) % len(w.serial)
		written = append(written, i)
		txn.Writes = append(txn.Writes, write(zodb.Oid(w.first+i), w.serial[i], w.data))
	}
	stale, err := w.c.peer.Vote(ctx, &txn)
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		return fmt.Errorf("oid %s was changed by another", stale[0].Oid)
	}
	tid, err := w.c.peer.Finish(ctx, txn.ID, false)
	for _, i := range written {
		w.serial[i] = tid
	}
	return err
}

func commitSizes(ctx context.Context, c *coreRun) error {
	for i, objects := range []int{1, 10, 100} {
		w, err := c.writer(0, min(1000, c.size.objects), uint64(1_000_000+i))
		if err != nil {
			return err
		}
		var taken []float64
		for range c.size.commits {
			start := time.Now()
			if err := w.commit(ctx, objects); err != nil {
				return err
			}
			taken = append(taken, time.Since(start).Seconds()*1e3)
		}
		c.add(fmt.Sprintf("commit of %d, p50", objects), "ms", percentile(taken, 0.5))
		c.add(fmt.Sprintf("commit of %d, p99", objects), "ms", percentile(taken, 0.99))
	}
	return nil
}

func advances(ctx context.Context, c *coreRun) error {
	w, err := c.writer(0, 100, 2_000_000)
	if err != nil {
		return err
	}
	at := c.peer.Visible()
	var still, moved time.Duration
	for range c.size.commits {
		start := time.Now()
		if _, _, _, err := c.peer.Advance(ctx, at); err != nil {
			return err
		}
		still += time.Since(start)
		if err := w.commit(ctx, 10); err != nil {
			return err
		}
		start = time.Now()
		now, changed, known, err := c.peer.Advance(ctx, at)
		if err != nil {
			return err
		}
		moved += time.Since(start)
		if !known || len(changed) != 10 {
			return fmt.Errorf("of 10 changes Advance named %d", len(changed))
		}
		at = now
	}
	c.add("Advance, nothing new", "µs", still.Seconds()*1e6/float64(c.size.commits))
	c.add("Advance, 10 objects changed", "µs", moved.Seconds()*1e6/float64(c.size.commits))
	return nil
}

// committers measures several writers at once, for some seconds each.
func committers(ctx context.Context, c *coreRun) error {
	for round, count := range []int{1, 4, 16} {
		writers := make([]*writer, count)
		for i := range writers {
			var err error
			if writers[i], err = c.writer(i*objectsWriter, objectsWriter, uint64(3_000_000+100*round+i)); err != nil {
				return err
			}
		}
		errs := make([]error, count)
		start := time.Now()
		end := start.Add(time.Duration(c.size.seconds) * time.Second)
		var wg sync.WaitGroup
		for i, w := range writers {
			wg.Go(func() {
				for errs[i] == nil && time.Now().Before(end) {
					errs[i] = w.commit(ctx, 1)
				}
			})
		}
		wg.Wait()
		elapsed := time.Since(start).Seconds()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		var done uint64
		for _, w := range writers {
			done += w.done
		}
		c.add(fmt.Sprintf("commits, %d writers", count), "/s", float64(done)/elapsed)
	}
	return nil
}
