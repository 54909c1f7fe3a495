package node

// byteLog holds the data of a shard's entries one behind the other, in pieces of the arena. Bytes are named by their position: it
// grows at its end, shrinks at its beginning, and a position keeps its meaning.
type byteLog struct {
	arena  *arena
	pieces [][]byte
	base   uint64 // position of the first piece's first byte. Invariant: a multiple of the piece's size
	end    uint64
}

// append adds data and returns its position.
func (l *byteLog) append(data []byte) uint64 {
	at := l.end
	for len(data) > 0 {
		n := copy(l.room(), data)
		l.end += uint64(n)
		data = data[n:]
	}
	return at
}

// room is what is left of the last piece; a new one if that is full.
func (l *byteLog) room() []byte {
	i := int(l.end-l.base) / l.arena.piece
	if i == len(l.pieces) {
		l.pieces = append(l.pieces, l.arena.get())
	}
	return l.pieces[i][int(l.end-l.base)%l.arena.piece:]
}

// at returns the bytes at pos up to a piece's end, at most n.
func (l *byteLog) at(pos uint64, n int) []byte {
	off := int(pos - l.base)
	p := l.pieces[off/l.arena.piece][off%l.arena.piece:]
	return p[:min(n, len(p))]
}

// read copies what begins at pos into dst.
func (l *byteLog) read(pos uint64, dst []byte) {
	for len(dst) > 0 {
		n := copy(dst, l.at(pos, len(dst)))
		dst, pos = dst[n:], pos+uint64(n)
	}
}

// again appends the n bytes that begin at pos, the log's first.
func (l *byteLog) again(pos uint64, n int) uint64 {
	at := l.end
	for n > 0 {
		some := l.at(pos, n)
		l.append(some)
		pos, n = pos+uint64(len(some)), n-len(some)
	}
	return at
}

// cut gives up what lies before pos.
func (l *byteLog) cut(pos uint64) {
	for len(l.pieces) > 0 && pos-l.base >= uint64(l.arena.piece) {
		l.arena.put(l.pieces[0])
		l.pieces = append(l.pieces[:0], l.pieces[1:]...)
		l.base += uint64(l.arena.piece)
	}
}
