package zodb

import (
	"slices"
	"testing"
)

// class is a record's first pickle, as ZODB writes it.
const class = "\x80\x03cpersistent.mapping\nPersistentMapping\nq\x01."

const (
	oid1 = "\x00\x00\x00\x00\x00\x00\x00\x01"
	oid2 = "\x00\x00\x00\x00\x00\x00\x00\xff"
)

// states has second pickles and the oids in them; nil: not known. tests/python/test_references.py has what ZODB writes.
var states = []struct {
	name, state string
	want        []Oid
}{
	{"nothing", "\x80\x03}q\x02.", []Oid{}},
	{"an oid and its class", "C\x08" + oid1 + "q\x02h\x01\x86q\x03Q.", []Oid{1}},
	{"an oid alone, of Python 2", "U\x08" + oid1 + "Q.", []Oid{1}},
	{"an oid from the memo, twice", "]q\x02(C\x08" + oid2 + "q\x03Qh\x03Qe.", []Oid{255, 255}},
	{"a tuple from the memo", "]q\x02(C\x08" + oid2 + "h\x01\x86q\x03Qh\x03Qe.", []Oid{255, 255}},
	{"the first of three", "C\x08" + oid1 + "C\x08" + oid2 + "N\x87Q.", []Oid{1}},
	{"a weak reference", "]q\x02(X\x01\x00\x00\x00w(C\x08" + oid1 + "teQ.", []Oid{}},
	{"an old weak reference", "]C\x08" + oid1 + "aQ.", []Oid{}},
	{"a reference as a key", "}C\x08" + oid1 + "QNs.", []Oid{1}},
	{"items of an instance", "cm\nC\n)\x81(C\x08" + oid1 + "Qe}b(K\x01Nu.", []Oid{1}},
	{"what follows the pickles", "N.Q", []Oid{}},
	{"a wide str", "X\x02\x00\x00\x00\xc3\xa4.", []Oid{}},

	{"no state", "", nil},
	{"no end", "N", nil},
	{"an empty stack", ".", nil},
	{"a short oid", "C\x07" + oid1[1:] + "Q.", nil},
	{"an oid cut off", "C\x08" + oid1[1:], nil},
	{"a wide oid", "X\x08\x00\x00\x00\xc3\xa4abcdefQ.", nil},
	{"a string of Python 2 that is not ASCII", "U\x08" + oid2 + "Q.", nil},
	{"text that is not UTF-8", "X\x01\x00\x00\x00\xff.", nil},
	{"a reference to a number", "K\x01Q.", nil},
	{"a reference to an empty tuple", ")Q.", nil},
	{"a reference to nothing", "Q.", nil},
	{"a key that is a list", "}]Ns.", nil},
	{"a key with a list in it", "}K\x01]\x86Ns.", nil},
	{"half an item", "}(K\x01u.", nil},
	{"items of a number", "K\x01(K\x01e.", nil},
	{"an unknown place in the memo", "h\x07.", nil},
	{"a place in the memo beyond all", "Nr\xff\xff\xff\x7f.", nil},
	{"a mark below", "(\x85.", nil},
	{"protocol 4", "\x80\x04N.", nil},
	{"protocol 0", "I1\n.", nil},
	{"an extension code", "\x82\x01.", nil},
}

func TestReferencesAreFoundOrNotKnown(t *testing.T) {
	var s Scanner
	for _, c := range states {
		got, ok := s.References([]Oid{7}, []byte(class+c.state))
		if want := append([]Oid{7}, c.want...); ok != (c.want != nil) || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", c.name, got, ok, c.want)
		}
	}
}

func FuzzReferences(f *testing.F) {
	for _, c := range states {
		f.Add([]byte(class + c.state))
	}
	var s Scanner
	f.Fuzz(func(t *testing.T, data []byte) {
		first, known := s.References(nil, data)
		again, ok := new(Scanner).References(nil, data) // what a record leaves in a scanner must not matter to the next
		if ok != known || !slices.Equal(first, again) {
			t.Fatalf("%x: %v %v, then %v %v", data, first, known, again, ok)
		}
		if !known && len(first) > 0 {
			t.Fatalf("%x: not known, but %v", data, first)
		}
	})
}

func BenchmarkReferences(b *testing.B) {
	var s Scanner
	var oids []Oid
	data := []byte(class + states[4].state)
	for b.Loop() {
		oids, _ = s.References(oids[:0], data)
	}
}
