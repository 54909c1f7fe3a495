// Package crash holds the tests that take a peer's machine away: kill -9, flipped bytes, torn files, a full disk.
// ZODB_DHT_SOAK_ROUNDS sets the number of rounds of the first (120 without it), ZODB_DHT_SEED replays the draws of a run.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const (
	defaultRounds = 120
	// A directory is used for this many rounds: damage of one recovery would show in the next.
	roundsOfADirectory = 12
)

func envInt(t *testing.T, key string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(key)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", key, v, err)
	}
	return n
}

// seed is printed, and can be given.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := envInt(t, "ZODB_DHT_SEED", uint64(time.Now().UnixNano()))
	t.Logf("replay the draws with ZODB_DHT_SEED=%d", s)
	return s
}

func TestNothingAcknowledgedIsLostByKill9(t *testing.T) {
	s := seed(t)
	rounds := int(envInt(t, "ZODB_DHT_SOAK_ROUNDS", defaultRounds))
	draw := rand.New(rand.NewPCG(s, 1))
	var sum tally
	started := time.Now()
	for first := 0; first < rounds; first += roundsOfADirectory {
		dir := filepath.Join(t.TempDir(), "peer")
		m := newModel()
		for round := first; round < min(first+roundsOfADirectory, rounds); round++ {
			o := order{Dir: dir, Seed: s, Round: round, Threads: 1 + draw.IntN(6)}
			if err := sum.round(t, draw, o, m); err != nil {
				t.Fatalf("seed %d, round %d, directory %s: %v", s, round, keep(t, dir), err)
			}
		}
		if err := sum.verify(dir, m); err != nil {
			t.Fatalf("seed %d, rounds from %d, directory %s: %v", s, first, keep(t, dir), err)
		}
	}
	t.Logf("%d rounds in %s: %d killed while opening, %d commits acknowledged and found, %d in flight (%d of them there)",
		rounds, time.Since(started).Round(time.Millisecond), sum.opening, sum.acked, sum.inFlight, sum.inFlightFound)
	if sum.acked < rounds {
		t.Fatalf("%d commits in %d rounds: the rounds are too short to show anything", sum.acked, rounds)
	}
}

// The file "format" is written last when a directory is made: a kill before it leaves nothing, one after it a peer.
func TestADirectoryWhoseMakingWasKilledCanBeMade(t *testing.T) {
	s := seed(t)
	draw := rand.New(rand.NewPCG(s, 3))
	peers := 0
	for round := range int(envInt(t, "ZODB_DHT_SOAK_ROUNDS", defaultRounds)) / 6 {
		dir := filepath.Join(t.TempDir(), "peer")
		cmd, err := command(t, order{Dir: dir, Seed: s, Round: round, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(draw.IntN(40_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed
		if _, err := os.Stat(filepath.Join(dir, "format")); err == nil {
			peers++
		}
		n, err := open(dir)
		if err == nil {
			err = n.Close()
		}
		if err != nil {
			t.Fatalf("seed %d, round %d, directory %s: %v", s, round, keep(t, dir), err)
		}
	}
	t.Logf("%d of the killed directories were peers already", peers)
}

type tally struct{ opening, acked, inFlight, inFlightFound int }

// round starts a committing process, kills it at a random moment and, mostly, checks what is left. Unchecked rounds leave
// two crashes in a row behind, with no clean close between.
func (s *tally) round(t *testing.T, draw *rand.Rand, o order, m *model) error {
	t.Helper()
	opened, err := s.killed(t, draw, o, m)
	if err != nil {
		return err
	}
	if !opened {
		s.opening++
	}
	if draw.IntN(4) == 0 {
		return nil
	}
	return s.check(o.Dir, m)
}

// check opens what is left and holds it against the model.
func (s *tally) check(dir string, m *model) error {
	acked, inFlight, found := len(m.acked), len(m.begun)-len(m.acked), len(m.found)
	n, err := open(dir)
	if err != nil {
		return fmt.Errorf("open after the kill: %w", err)
	}
	if err := m.check(n); err != nil {
		return errors.Join(err, n.Close())
	}
	s.acked += acked
	s.inFlight += inFlight
	s.inFlightFound += len(m.found) - found - acked
	return n.Close()
}

// killed runs the process until its kill and reads all that it said.
func (s *tally) killed(t *testing.T, draw *rand.Rand, o order, m *model) (opened bool, err error) {
	t.Helper()
	cmd, err := command(t, o)
	if err != nil {
		return false, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return false, err
	}
	// After so many lines, and a moment: most kills hit commits, some the opening.
	lines, delay := draw.IntN(300), time.Duration(draw.IntN(3000))*time.Microsecond
	if draw.IntN(8) == 0 {
		lines, delay = -1, time.Duration(draw.IntN(60_000))*time.Microsecond
	}
	kill := func() { time.AfterFunc(delay, func() { _ = cmd.Process.Kill() }) } // fails if it is dead already: Wait tells
	if lines < 0 {
		kill()
	}
	in := bufio.NewScanner(out)
	for n := 0; in.Scan(); n++ {
		if n == lines {
			kill()
		}
		if in.Text() == "open" {
			opened = true
		} else if err := m.hear(o, in.Text()); err != nil {
			return opened, err
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 { // -1: ended by a signal, ours
		return opened, fmt.Errorf("the committing process ended by itself: %w: %s", err, stderr.Bytes())
	}
	return opened, nil
}

func command(t *testing.T, o order) (*exec.Cmd, error) {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	return cmd, nil
}

// hear takes in one line of the committing process. A last line that the kill cut off can't be: a short write to a pipe is whole.
func (m *model) hear(o order, line string) error {
	nm, tid := name{Seed: o.Seed, Round: o.Round}, uint64(0)
	if _, err := fmt.Sscanf(line, "done %d %d %d", &nm.Thread, &nm.N, &tid); err == nil {
		m.acked[nm.id()] = zodb.Tid(tid)
		return nil
	}
	if _, err := fmt.Sscanf(line, "begin %d %d", &nm.Thread, &nm.N); err != nil {
		return fmt.Errorf("the committing process said %q", line)
	}
	m.begun[nm.id()] = nm
	return nil
}

// verify reads and hashes everything, and asks for the same history.
func (s *tally) verify(dir string, m *model) error {
	if err := s.check(dir, m); err != nil { // what the last rounds left unchecked
		return err
	}
	r, err := node.Verify(context.Background(), dir, func(uint64, uint64) {})
	want := m.replay.Stats()
	if err != nil || len(r.Damaged) != 0 || r.Digest != want.Digest || r.Records != want.Records {
		return fmt.Errorf("verify: %+v, %w; want digest %s, %d records", r, errors.Join(err), want.Digest, want.Records)
	}
	return nil
}

// keep moves a directory that shows a failure to where it outlives the test.
func keep(t *testing.T, dir string) string {
	t.Helper()
	to, err := os.MkdirTemp("", "zodb-dht-crash-") //nolint:usetesting // it shall outlive the test
	if err == nil {
		err = os.CopyFS(to, os.DirFS(dir))
	}
	if err != nil {
		t.Logf("keeping %s: %v", dir, err)
	}
	return to
}
