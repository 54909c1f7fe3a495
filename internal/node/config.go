package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrUsage says that an option is misspelt, of the wrong type or out of its range.
var ErrUsage = errors.New("bad option")

// ErrID says that an oid or a tid is beyond the largest.
var ErrID = errors.New("out of range")

// Config says how to open a peer directory. Its JSON names are those of ZConfig, the URI and zodb_dht.DHTStorage.
type Config struct {
	Path string `json:"-"`
	// Create makes the directory, and a group of this one peer, if there is none and ReadOnly is off.
	Create bool `json:"create"`
	// ReadOnly refuses what writes objects, and makes no directory. The peer itself goes on being one: it replays its log. Where nothing can be
	// written, nothing is, and several may read: then the directory must have been closed in order.
	ReadOnly bool `json:"read-only"`
	// CacheSize bounds the memory for records, in bytes: three eighths hold records, a quarter table blocks. 0 means 256 MiB; at least 8 MiB.
	CacheSize int64 `json:"cache-size"`
	// VoteWait bounds a vote's wait for others' reservations. 0 means 10s; at most Lease.
	VoteWait Duration `json:"vote-wait"`
	// Lease is how long a voted transaction is kept without a word of its client. 0 means 10s.
	Lease Duration `json:"lease"`
	// FinishTimeout is how long a commit may take before its outcome is called unknown. 0 means 30s.
	FinishTimeout Duration `json:"finish-timeout"`
	// MaxObjectSize bounds one record's data, in bytes. 0 means 64 MiB; at most 256 MiB.
	MaxObjectSize int64 `json:"max-object-size"`
	// PackWait is how long a pack holds back for snapshots of this process that are older than its position. 0 means 60s; at
	// least 1ms, at most a day.
	PackWait Duration `json:"pack-wait"`
	// BlobDir is where blobs are, if not in the peer directory; it is remembered there. "" leaves them where they are.
	BlobDir string `json:"blob-dir"`
	// TempDir is where ZODB writes the files of blobs that have no connection yet; they are hashed meanwhile. No option: the process knows.
	// "" hashes nothing ahead.
	TempDir string `json:"temp-dir"`

	Logger *slog.Logger `json:"-"`
	// FS replaces the file system below the database, for tests; nil is the operating system's.
	FS vfs.FS `json:"-"`
}

const (
	defaultCacheSize     = 256 << 20
	minCacheSize         = 8 << 20
	maxCacheSize         = 1 << 40
	defaultWait          = 10 * time.Second
	defaultFinish        = 30 * time.Second
	maxWait              = 10 * time.Minute
	defaultPackWait      = time.Minute
	maxPackWait          = 24 * time.Hour
	defaultMaxObjectSize = 64 << 20
	maxMaxObjectSize     = 256 << 20
)

// Duration is a time.Duration that JSON writes as seconds.
type Duration time.Duration

// UnmarshalJSON reads a number of seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s float64
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*d = Duration(s * float64(time.Second))
	return nil
}

// ParseSettings reads the JSON object that Python hands over: ErrUsage names an option that is not one.
func ParseSettings(path string, settings []byte) (Config, error) {
	cfg := Config{Path: path}
	d := json.NewDecoder(bytes.NewReader(settings))
	d.DisallowUnknownFields()
	if err := d.Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	cfg.Path = path
	return cfg, cfg.validate()
}

// withDefaults replaces zero values.
func (c Config) withDefaults() Config {
	set := func(d *Duration, v time.Duration) {
		if *d == 0 {
			*d = Duration(v)
		}
	}
	set(&c.VoteWait, defaultWait)
	set(&c.Lease, defaultWait)
	set(&c.FinishTimeout, defaultFinish)
	set(&c.PackWait, defaultPackWait)
	if c.CacheSize == 0 {
		c.CacheSize = defaultCacheSize
	}
	if c.MaxObjectSize == 0 {
		c.MaxObjectSize = defaultMaxObjectSize
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// validate names everything that is wrong; it changes nothing.
func (c Config) validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...)))
		}
	}
	bad(c.Path == "", "path is empty")
	bad(c.CacheSize < minCacheSize || c.CacheSize > maxCacheSize, "cache-size %d is not in %d to %d bytes", c.CacheSize, minCacheSize, int64(maxCacheSize))
	bad(c.MaxObjectSize < 1 || c.MaxObjectSize > maxMaxObjectSize, "max-object-size %d is not in 1 to %d bytes", c.MaxObjectSize, maxMaxObjectSize)
	for _, d := range []struct {
		name string
		v    Duration
	}{{"vote-wait", c.VoteWait}, {"lease", c.Lease}, {"finish-timeout", c.FinishTimeout}} {
		bad(d.v < 0 || time.Duration(d.v) > maxWait, "%s %s is not in 0s to %s", d.name, time.Duration(d.v), maxWait)
	}
	bad(c.PackWait < 0 || time.Duration(c.PackWait) > maxPackWait, "pack-wait %s is not in 0s to %s", time.Duration(c.PackWait), maxPackWait)
	bad(c.VoteWait > c.Lease, "vote-wait %s exceeds lease %s", time.Duration(c.VoteWait), time.Duration(c.Lease))
	return errors.Join(errs...)
}
