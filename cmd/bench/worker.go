package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// python starts the workers of tests/bench.
type python struct {
	exe     string
	scripts string // the directory of worker.py
}

// workerLimit ends a worker that hangs; the longest measurement, of 10,000,000 objects, takes minutes.
const workerLimit = 30 * time.Minute

// output is what a worker printed: measurements in their order, and notes.
type output struct {
	metrics []measurement
	notes   map[string]float64
}

type measurement struct {
	metric string
	value  float64
}

var errOutput = errors.New("not what a worker prints")

// parseLine reads one line of a worker into o; errOutput says that it is none.
func (o *output) parseLine(line []byte) error {
	var l struct {
		Metric *string  `json:"metric"`
		Note   *string  `json:"note"`
		Value  *float64 `json:"value"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return fmt.Errorf("%w: %q: %w", errOutput, line, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %q: more than one document", errOutput, line)
	}
	if l.Value == nil || math.IsNaN(*l.Value) || *l.Value < 0 {
		return fmt.Errorf("%w: %q: no value", errOutput, line)
	}
	switch {
	case l.Metric != nil && *l.Metric != "" && l.Note == nil:
		o.metrics = append(o.metrics, measurement{*l.Metric, *l.Value})
	case l.Note != nil && *l.Note != "" && l.Metric == nil:
		if o.notes == nil {
			o.notes = map[string]float64{}
		}
		o.notes[*l.Note] = *l.Value
	default:
		return fmt.Errorf("%w: %q: neither a metric nor a note", errOutput, line)
	}
	return nil
}

// command is `python worker.py WORKLOAD SPEC PARAMETERS`, below prefix if there is one, in a process group of its own.
func (p python) command(ctx context.Context, prefix []string, workload string, spec, parameters map[string]any) (*exec.Cmd, error) {
	s, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	ps, err := json.Marshal(parameters)
	if err != nil {
		return nil, err
	}
	args := append(append([]string{}, prefix...), p.exe, "worker.py", workload, string(s), string(ps))
	cmd := child(ctx, syscall.SIGKILL, args...)
	cmd.Dir = p.scripts
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0")
	return cmd, nil
}

// run waits for a worker and reads what it prints; with until, kills it (-9) once that note is there.
func (p python) run(ctx context.Context, prefix []string, workload string, spec, parameters map[string]any, until string) (output, error) {
	var o output
	ctx, cancel := context.WithTimeoutCause(ctx, workerLimit, fmt.Errorf("took longer than %s", workerLimit))
	defer cancel()
	cmd, err := p.command(ctx, prefix, workload, spec, parameters)
	if err != nil {
		return o, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return o, err
	}
	if err := cmd.Start(); err != nil {
		return o, fmt.Errorf("worker %s: %w", workload, err)
	}
	killed := false
	var bad error
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if bad = o.parseLine(lines.Bytes()); bad != nil {
			break
		}
		if _, there := o.notes[until]; there && until != "" {
			killed = true
			break
		}
	}
	if bad == nil && !killed {
		bad = lines.Err()
	}
	if bad != nil || killed {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	}
	err = cmd.Wait()
	switch {
	case bad != nil:
		return o, fmt.Errorf("worker %s: %w", workload, bad)
	case killed:
		return o, nil
	case ctx.Err() != nil:
		return o, fmt.Errorf("worker %s: %w", workload, context.Cause(ctx))
	case err != nil:
		return o, fmt.Errorf("worker %s: %w: %s", workload, err, tail(stderr.String()))
	case until != "":
		return o, fmt.Errorf("worker %s: ended before it said %q", workload, until)
	}
	return o, nil
}

// child is a command in a process group of its own, so that a Ctrl-C reaches it through ctx and takes its children along.
func child(ctx context.Context, end syscall.Signal, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, end) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tail is the end of what a program said: the last line of a traceback is the error.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "\n")
}
