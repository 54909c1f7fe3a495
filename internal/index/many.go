package index

import (
	"cmp"
	"runtime"
	"slices"
	"sync"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// LoadMany loads in one pass; oids in rising order are fastest. It calls each with every result.
func (s *Store) LoadMany(oids []zodb.Oid, at zodb.Tid, each func(i int, rev Revision, err error)) error {
	borders := make([]border, len(oids))
	for i, oid := range oids {
		b, err := s.begin(oid)
		if err != nil {
			return err
		}
		borders[i] = b
	}
	r, err := s.readers.get()
	if err != nil {
		return err
	}
	defer s.readers.put(r)
	for i, oid := range oids {
		rev, err := r.loadFrom(borders[i], oid, at)
		each(i, rev, err)
	}
	return nil
}

// LoadRevisions reads the named revisions, several at a time and in the order of the rows. It calls each once for every index, from
// any of its goroutines: ErrNotFound if there is none; a deletion has no data and no error. With repeats it tells what State.Repeats does.
func (s *Store) LoadRevisions(keys []RevisionKey, repeats bool, each func(i int, rev Revision, older zodb.Tid, err error)) {
	borders := make([]border, len(keys))
	for i := range keys {
		var err error
		if borders[i], err = s.begin(keys[i].Oid); err != nil {
			for i := range keys {
				each(i, Revision{}, 0, err)
			}
			return
		}
	}
	order := make([]int, len(keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(keys[a].Oid, keys[b].Oid), cmp.Compare(keys[b].Tid, keys[a].Tid))
	})
	var parts sync.WaitGroup
	for part := range slices.Chunk(order, max(len(order)/runtime.GOMAXPROCS(0)+1, 64)) {
		parts.Go(func() {
			r, err := s.readers.get()
			if err != nil {
				for _, i := range part {
					each(i, Revision{}, 0, err)
				}
				return
			}
			defer s.readers.put(r)
			for _, i := range part {
				rev, err := r.serialFrom(borders[i], keys[i].Oid, keys[i].Tid)
				var older zodb.Tid
				if repeats && err == nil && rev.Kind == zodb.WriteData && rev.Tid > borders[i].horizon { // else nothing older is left
					var alone bool
					if alone, err = r.oldest(rev.Oid); !alone && err == nil {
						older, err = s.Repeats(rev.Oid, rev.Tid)
					}
				}
				each(i, rev, older, err)
			}
		})
	}
	parts.Wait()
}
