package index

// Left says whether a close has come so far that it waits for compactions only.
func (s *Store) Left() bool { return s.fence.left.Load() }
