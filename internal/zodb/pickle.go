package zodb

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// pickle's opcodes.
const (
	opMark           = '('
	opStop           = '.'
	opPop            = '0'
	opPopMark        = '1'
	opDup            = '2'
	opBinFloat       = 'G'
	opBinInt         = 'J'
	opBinInt1        = 'K'
	opBinInt2        = 'M'
	opNone           = 'N'
	opBinPersID      = 'Q'
	opReduce         = 'R'
	opBinString      = 'T'
	opShortBinString = 'U'
	opBinUnicode     = 'X'
	opBinBytes       = 'B'
	opShortBinBytes  = 'C'
	opAppend         = 'a'
	opBuild          = 'b'
	opGlobal         = 'c'
	opDict           = 'd'
	opEmptyDict      = '}'
	opAppends        = 'e'
	opBinGet         = 'h'
	opLongBinGet     = 'j'
	opList           = 'l'
	opEmptyList      = ']'
	opBinPut         = 'q'
	opLongBinPut     = 'r'
	opSetItem        = 's'
	opTuple          = 't'
	opEmptyTuple     = ')'
	opSetItems       = 'u'
	opProto          = 0x80
	opNewObj         = 0x81
	opTuple1         = 0x85
	opTuple2         = 0x86
	opTuple3         = 0x87
	opNewTrue        = 0x88
	opNewFalse       = 0x89
	opLong1          = 0x8a
	opLong4          = 0x8b

	maxProtocol = 3
)

// depth is how many values there are above the last mark: nothing that Python writes reaches below it.
func (s *Scanner) depth() int {
	if n := len(s.marks); n > 0 {
		return len(s.stack) - s.marks[n-1]
	}
	return len(s.stack)
}

func (s *Scanner) push(v value) bool {
	s.stack = append(s.stack, v)
	return true
}

func (s *Scanner) drop(n int) bool {
	if s.depth() < n {
		return false
	}
	s.stack = s.stack[:len(s.stack)-n]
	return true
}

// sinceMark takes the values above the last mark, and the mark. They are good until the next push.
func (s *Scanner) sinceMark() ([]value, bool) {
	n := len(s.marks) - 1
	if n < 0 {
		return nil, false
	}
	from := s.marks[n]
	items := s.stack[from:]
	s.marks, s.stack = s.marks[:n], s.stack[:from]
	return items, true
}

func (s *Scanner) take(n int) ([]byte, bool) {
	if n > len(s.data)-s.at {
		return nil, false
	}
	b := s.data[s.at : s.at+n]
	s.at += n
	return b, true
}

// number reads a little-endian one of 1 or 4 bytes. Those that are negative in Python are not known.
func (s *Scanner) number(size int) (int, bool) {
	b, ok := s.take(size)
	switch {
	case !ok:
		return 0, false
	case size == 1:
		return int(b[0]), true
	default:
		n := binary.LittleEndian.Uint32(b)
		return int(n), n <= math.MaxInt32
	}
}

func (s *Scanner) scalar(size int) bool {
	_, ok := s.take(size)
	return ok && s.push(value{kind: scalar})
}

// line skips to the end of one, as of a global's module or name, which Python decodes only where it loads.
func (s *Scanner) line() bool {
	for s.at < len(s.data) {
		s.at++
		if s.data[s.at-1] == '\n' {
			return true
		}
	}
	return false
}

// counted reads what has its length before it.
func (s *Scanner) counted(op byte, size int) bool {
	n, ok := s.number(size)
	if !ok {
		return false
	}
	v := value{kind: text, at: int32(s.at), len: int32(n)}
	b, ok := s.take(n)
	if !ok {
		return false
	}
	switch op {
	case opLong1, opLong4:
		v = value{kind: scalar}
	case opShortBinString, opBinString:
		if !ascii(b) {
			return false
		}
	case opBinUnicode:
		if !ascii(b) {
			v = value{kind: wideText}
			if !utf8.Valid(b) {
				return false
			}
		}
	}
	return s.push(v)
}

func ascii(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// memoize puts the top into the memo, or gets it from there. Python counts its entries, so an index is less than the bytes are.
func (s *Scanner) memoize(put bool, size int) bool {
	n, ok := s.number(size)
	if !ok || n >= len(s.data) {
		return false
	}
	if !put {
		return n < len(s.memo) && s.memo[n].kind != unset && s.push(s.memo[n])
	}
	if s.depth() < 1 {
		return false
	}
	for n >= len(s.memo) {
		s.memo = append(s.memo, value{})
	}
	s.memo[n] = s.stack[len(s.stack)-1]
	return true
}
