package node

// byteLog holds a shard's entries one behind the other, in pieces of the arena. Bytes are named by their position: it
// grows at its end, shrinks at its beginning, and a position keeps its meaning.
type byteLog struct {
	arena  *arena
	pieces [][]byte
	base   uint64 // position of the first piece's first byte. Invariant: a multiple of the piece's size
	end    uint64
}

// begin is where the next entry is to begin: its header lies within one piece. The log's end moves there.
func (l *byteLog) begin() uint64 {
	l.end = l.aligned(l.end)
	return l.end
}

// behind is where the entry is that follows one at pos, or the log's end.
func (l *byteLog) behind(pos uint64, size int) uint64 {
	return min(l.aligned(pos+headerSize+uint64(size)), l.end)
}

// aligned is the first position from pos on where an entry may begin.
func (l *byteLog) aligned(pos uint64) uint64 {
	pos = (pos + entryAlign - 1) &^ (entryAlign - 1)
	if rest := uint64(l.arena.piece) - pos%uint64(l.arena.piece); rest < headerSize {
		pos += rest
	}
	return pos
}

// header returns the one at pos, where an entry begins.
func (l *byteLog) header(pos uint64) *header {
	off := int(pos - l.base)
	return (*header)(l.pieces[off/l.arena.piece][off%l.arena.piece:])
}

// append adds data.
func (l *byteLog) append(data []byte) {
	for len(data) > 0 {
		n := copy(l.room(), data)
		l.end += uint64(n)
		data = data[n:]
	}
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

// again appends the n bytes that begin at pos.
func (l *byteLog) again(pos uint64, n int) {
	for n > 0 {
		some := l.at(pos, n)
		l.append(some)
		pos, n = pos+uint64(len(some)), n-len(some)
	}
}

// cut gives up what lies before pos.
func (l *byteLog) cut(pos uint64) {
	for len(l.pieces) > 0 && pos-l.base >= uint64(l.arena.piece) {
		l.arena.put(l.pieces[0])
		l.pieces = append(l.pieces[:0], l.pieces[1:]...)
		l.base += uint64(l.arena.piece)
	}
}
