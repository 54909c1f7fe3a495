package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// serverEnds is how long a server may take to end by itself.
const serverEnds = 30 * time.Second

// server is a child that serves until it is ended: ZEO's, or a node of NEO's.
type server struct {
	name  string
	pid   int
	said  *bytes.Buffer // to be read once it ended
	ended chan exit     // how, once
}

// exit is how a child ended.
type exit struct{ err error }

// startServer starts args in dir; ctx's end ends it, too. Who starts it calls end.
func startServer(ctx context.Context, name, dir string, args ...string) (*server, error) {
	s := &server{name: name, said: &bytes.Buffer{}, ended: make(chan exit, 1)}
	cmd := child(ctx, syscall.SIGTERM, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = s.said, s.said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.pid = cmd.Process.Pid
	go func() { s.ended <- exit{cmd.Wait()} }()
	return s, nil
}

// gone is nil while the server runs, else it says how it ended. end may follow.
func (s *server) gone() error {
	select {
	case how := <-s.ended:
		s.ended <- how
		return errors.Join(fmt.Errorf("%s ended: %s", s.name, tail(s.said.String())), how.err)
	default:
		return nil
	}
}

// end waits until then for a server that was told to end, and kills it after that, which is an error.
func (s *server) end(then time.Time) error {
	select {
	case <-s.ended: // before the limit is looked at: it may be over
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(then))
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-timer.C:
	}
	_ = syscall.Kill(-s.pid, syscall.SIGKILL) // it may end just now
	<-s.ended
	return fmt.Errorf("%s did not end by itself: %s", s.name, tail(s.said.String()))
}
