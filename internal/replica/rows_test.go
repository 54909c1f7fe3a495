package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Rows of any bytes, whose checksums are right, are read or named as damage. data: for each row kind 1, index 1, term 1, part 1, length 2, value.
func FuzzLogRows(f *testing.F) {
	seed := func(rows ...[]byte) { f.Add(bytes.Join(rows, nil)) }
	row := func(kind, i, term, part byte, v []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{kind, i, term, part}, uint16(len(v))), v...)
	}
	entry := append([]byte{logVersion, 0}, binary.BigEndian.AppendUint64(nil, 1)...)
	parted := binary.BigEndian.AppendUint64(append([]byte{partedVersion, 0}, binary.BigEndian.AppendUint64(nil, 1)...), wholeBytes+1)
	seed(row(0, 1, 0, 0, append(entry, "data"...)), row(0, 2, 0, 0, entry))
	seed(row(0, 1, 0, 0, parted), row(1, 1, 1, 0, []byte{logVersion, 1}), row(1, 1, 2, 0, []byte{logVersion, 1}))
	seed(row(2, 0, 0, 0, binary.BigEndian.AppendUint64([]byte{logVersion}, 7)), row(3, 0, 0, 0, make([]byte, 25)), row(4, 0, 0, 0, make([]byte, 17)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := entryReader{next: 1}
		for len(b) >= 6 {
			kind, i, term, part := b[0], uint64(b[1]), uint64(b[2]), int(b[3])
			n := min(int(binary.BigEndian.Uint16(b[4:])), len(b)-6)
			v := bytes.Clone(b[6:][:n])
			b = b[6+n:]
			var err error
			switch kind % 5 {
			case 0:
				if n == entryHead+8 && binary.BigEndian.Uint64(v[entryHead:]) > 4*wholeBytes {
					continue // it would only take memory
				}
				key := entryKey(nil, i)
				err = r.row(key, seal(key, v))
			case 1:
				key := partKey(nil, i, term, part)
				err = r.row(key, seal(key, v))
			case 2:
				_, _, err = decodeConf(seal(confKey, v))
			case 3:
				_, err = decodeHard(seal(hardKey, v))
			case 4:
				_, _, err = decodeCut(seal(cutKey, v))
			}
			if err != nil && !errors.Is(err, zodb.ErrMalformed) && !errors.Is(err, index.ErrNewerFormat) {
				t.Fatal(err)
			}
			if err != nil && kind%5 < 2 {
				return
			}
		}
		_ = r.end()
	})
}

// What a closing note says of the log is used whole or not at all.
func FuzzOpenLeft(f *testing.F) {
	f.Add([]byte{0, 0}, uint64(1))
	f.Fuzz(func(t *testing.T, left []byte, applied uint64) {
		if l := openLeft(new(pebble.DB), applied, left); l != nil {
			if last, _ := l.LastIndex(); last != applied {
				t.Fatal(last, applied)
			}
		}
	})
}
