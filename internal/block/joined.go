package block

// Joined is several Records as one; the first that has a block serves it.
type Joined []Records

// Data is Records.Data. A block that one of them has damaged is looked for in the others, too.
func (j Joined) Data(h Hash) ([]byte, bool, error) {
	var bad error
	for _, r := range j {
		data, found, err := r.Data(h)
		if found {
			return data, true, nil
		}
		if bad == nil {
			bad = err
		}
	}
	return nil, false, bad
}

// Size is Records.Size.
func (j Joined) Size(h Hash) (int, bool, error) {
	for _, r := range j {
		if size, found, err := r.Size(h); found || err != nil {
			return size, found, err
		}
	}
	return 0, false, nil
}

// Hashes is Records.Hashes.
func (j Joined) Hashes(yield func(Hash) bool) error {
	more := true
	for _, r := range j {
		if err := r.Hashes(func(h Hash) bool { more = yield(h); return more }); err != nil || !more {
			return err
		}
	}
	return nil
}
