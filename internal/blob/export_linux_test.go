package blob

// Ahead tells how much of the file at path is hashed ahead; false if it is not followed.
func (d *Dir) Ahead(path string) (size int64, followed bool) {
	id, _, err := identify(path)
	if err != nil {
		return 0, false
	}
	d.follow.mu.Lock()
	f := d.follow.files[id]
	d.follow.mu.Unlock()
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ahead.Size(), true
}

// Followed is how many files are open.
func (d *Dir) Followed() int {
	d.follow.mu.Lock()
	defer d.follow.mu.Unlock()
	return len(d.follow.files)
}

// MaxFollowed is how many may be.
const MaxFollowed = maxFollowed

// FollowAside is Follow without its goroutine: files are looked at by LookAt alone.
func (d *Dir) FollowAside(temp string) (err error) {
	d.follow, err = newFollower(d.Temp(), temp, &d.buffers)
	return err
}

// LookAt follows the file at path and hashes all that it holds.
func (d *Dir) LookAt(path string) bool {
	f := &followed{path: path}
	if !d.follow.open(f) || f.file == nil {
		return false
	}
	for {
		grew, more := d.follow.look(f)
		if !more {
			return false
		}
		if !grew {
			break
		}
	}
	d.follow.wg.Wait()
	return true
}
