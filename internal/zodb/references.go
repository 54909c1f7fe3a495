package zodb

import (
	"encoding/binary"
	"math"
)

// Scanner does the work of ZODB.serialize.referencesf without Python: it finds the oids that a data record refers to. The zero
// Scanner is ready; one goroutine uses it, and what it grew to for the largest record it keeps for the next.
//
// A record is two pickles, of a class and of a state. What they refer to is what reaches the opcode BINPERSID. It may come from the
// memo, so both pickles are run, on a stack of what matters about each value; no object is made. As in zodbpickle's noload(), every
// global, and every instance made of one, is None. Of ZODB's forms (ZODB/serialize.py, "Persistent references")
//
//	oid, (oid, class)                   are references
//	['w', ...], ['n', ...], ['m', ...], [oid]    weak ones and other databases' are not
//
// Not known are: protocols 0 and 4 and up (zodbpickle writes 3, and reads no 4), extension codes, OBJ and INST, strings of Python 2
// that are not ASCII, and whatever makes Python raise: a stack that runs empty, a key that is not hashable, an oid of another length.
// tests/python/test_references.py holds it to the Python function.
type Scanner struct {
	data  []byte
	at    int
	stack []value
	marks []int   // lengths of the stack
	memo  []value // of both pickles, as in Python
	oids  []Oid
}

// References appends the oids that a record refers to to dst, in order and with repeats. ok is false if the record holds anything
// that is not known with certainty to be read here as there: then Python decides, and dst is returned as it was. It keeps
// neither of them.
func (s *Scanner) References(dst []Oid, data []byte) (oids []Oid, ok bool) {
	if len(data) > math.MaxInt32 {
		return dst, false
	}
	s.data, s.at, s.memo, s.oids = data, 0, s.memo[:0], dst
	class := s.pickle()
	ok = class && s.pickle() // the state
	oids, s.oids, s.data = s.oids, nil, nil
	if !ok {
		return oids[:len(dst)], false
	}
	return oids, true
}

// kind is what matters about a value.
type kind uint8

const (
	unset     kind = iota // in the memo only
	none                  // None, and what noload() makes of globals and instances
	scalar                // a number or bool
	text                  // bytes or str, where len(value) is its UTF-8 length
	wideText              // a str that is not ASCII, so no oid
	list                  // not hashable
	dict                  // not hashable
	tuple                 // of anything but a text at first, or empty
	textTuple             // with a text at first
)

type value struct {
	kind     kind
	unhashed bool  // for tuples: something in it can't be hashed
	at, len  int32 // the text in the record, or a tuple's first
}

func (v value) hashable() bool { return v.kind != list && v.kind != dict && !v.unhashed }

// pickle runs one, to its end: false if it is not known.
func (s *Scanner) pickle() bool {
	s.stack, s.marks = s.stack[:0], s.marks[:0]
	for s.at < len(s.data) {
		op := s.data[s.at]
		s.at++
		if op == opStop {
			return s.depth() >= 1 && len(s.marks) == 0
		}
		if !s.step(op) {
			return false
		}
	}
	return false
}

func (s *Scanner) step(op byte) bool {
	switch op {
	case opProto:
		b, ok := s.take(1)
		return ok && b[0] <= maxProtocol
	case opNone:
		return s.push(value{kind: none})
	case opNewTrue, opNewFalse:
		return s.push(value{kind: scalar})
	case opBinInt1:
		return s.scalar(1)
	case opBinInt2:
		return s.scalar(2)
	case opBinInt:
		return s.scalar(4)
	case opBinFloat:
		return s.scalar(8)
	case opLong1, opShortBinString, opShortBinBytes:
		return s.counted(op, 1)
	case opLong4, opBinString, opBinUnicode, opBinBytes:
		return s.counted(op, 4)
	case opGlobal:
		module := s.line()
		return module && s.line() && s.push(value{kind: none})
	case opBinGet, opBinPut:
		return s.memoize(op == opBinPut, 1)
	case opLongBinGet, opLongBinPut:
		return s.memoize(op == opLongBinPut, 4)
	case opMark:
		s.marks = append(s.marks, len(s.stack))
		return true
	case opPop:
		return s.drop(1)
	case opPopMark:
		_, ok := s.sinceMark()
		return ok
	case opDup:
		return s.depth() >= 1 && s.push(s.stack[len(s.stack)-1])
	case opBinPersID:
		return s.refer()
	case opReduce, opNewObj:
		return s.drop(2) && s.push(value{kind: none})
	case opBuild: // the state goes, the instance stays
		return s.drop(1)
	default:
		return s.container(op)
	}
}

// container makes or fills a tuple, list or dict.
func (s *Scanner) container(op byte) bool {
	switch op {
	case opEmptyTuple:
		return s.push(value{kind: tuple})
	case opTuple1, opTuple2, opTuple3:
		n := int(op-opTuple1) + 1
		if s.depth() < n {
			return false
		}
		items := s.stack[len(s.stack)-n:]
		s.stack = s.stack[:len(s.stack)-n]
		return s.push(tupleOf(items))
	case opTuple:
		items, ok := s.sinceMark()
		return ok && s.push(tupleOf(items))
	case opEmptyList:
		return s.push(value{kind: list})
	case opList:
		_, ok := s.sinceMark()
		return ok && s.push(value{kind: list})
	case opAppend:
		return s.drop(1) && s.onto(list)
	case opAppends:
		_, ok := s.sinceMark()
		return ok && s.onto(list)
	case opEmptyDict:
		return s.push(value{kind: dict})
	case opDict:
		items, ok := s.sinceMark()
		return ok && keysHash(items) && s.push(value{kind: dict})
	case opSetItem:
		if s.depth() < 2 {
			return false
		}
		items := s.stack[len(s.stack)-2:]
		return s.drop(2) && keysHash(items) && s.onto(dict)
	case opSetItems:
		items, ok := s.sinceMark()
		return ok && keysHash(items) && s.onto(dict)
	default:
		return false
	}
}

// refer takes a persistent reference off the stack; noload() puts None there.
func (s *Scanner) refer() bool {
	if s.depth() < 1 {
		return false
	}
	top := &s.stack[len(s.stack)-1]
	switch top.kind {
	case text, textTuple:
		if top.len != 8 {
			return false
		}
		s.oids = append(s.oids, Oid(binary.BigEndian.Uint64(s.data[top.at:])))
	case list: // weak, or another database's
	default:
		return false
	}
	*top = value{kind: none}
	return true
}

// tupleOf shares nothing with items.
func tupleOf(items []value) value {
	v := value{kind: tuple}
	if len(items) > 0 && items[0].kind == text {
		v = value{kind: textTuple, at: items[0].at, len: items[0].len}
	}
	for _, item := range items {
		v.unhashed = v.unhashed || !item.hashable()
	}
	return v
}

// keysHash tells whether items are pairs of a hashable key and a value.
func keysHash(items []value) bool {
	for i := 0; i < len(items); i += 2 {
		if !items[i].hashable() {
			return false
		}
	}
	return len(items)%2 == 0
}

// onto tells whether what is on top takes items as a container of this kind does; an instance, which is None, drops them.
func (s *Scanner) onto(container kind) bool {
	if s.depth() < 1 {
		return false
	}
	top := s.stack[len(s.stack)-1].kind
	return top == container || top == none
}
