package zodb

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The expected values are those of persistent.timestamp.TimeStamp(2026, 11, 24, 15, 30, 12.5).raw() and the like.
func TestATidIsATimeStamp(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want Tid
	}{
		{time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), 0},
		{time.Date(2026, 11, 24, 15, 30, 12, 500_000_000, time.UTC), 0x040d3bc235555555},
		{time.Date(1970, 1, 1, 0, 0, 59, 999_000_000, time.UTC), 0x023c2b00fffee861},
	} {
		// TimeStamp computes in doubles: the last bits of the fraction may differ.
		if got := TidFromTime(c.at); max(got, c.want)-min(got, c.want) > 64 {
			t.Errorf("%s: %s, want %s", c.at, got, c.want)
		}
	}
}

func TestATidGivesItsMomentBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(-2e9, 8e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		if d := TidFromTime(at).Time().Sub(at).Abs(); d > 50*time.Nanosecond {
			t.Fatalf("%s is off by %s", at, d)
		}
		if a, b := TidFromTime(at), TidFromTime(at.Add(time.Microsecond)); a >= b {
			t.Fatalf("later moments have larger tids: %s %s", a, b)
		}
	})
}

func TestAnIdHasEightBytes(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 7), make([]byte, 9)} {
		if _, err := OidFromBytes(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("oid of %d bytes: %v", len(b), err)
		}
		if _, err := TidFromBytes(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("tid of %d bytes: %v", len(b), err)
		}
	}
	if o, err := OidFromBytes(Oid(300).Bytes()); err != nil || o != 300 {
		t.Error(o, err)
	}
}
