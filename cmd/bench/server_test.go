package main

import (
	"strings"
	"testing"
	"time"
)

func TestAServerSaysHowItEnded(t *testing.T) {
	s, err := startServer(t.Context(), "it", t.TempDir(), "sh", "-c", "echo no port; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	s.ended <- <-s.ended
	err = s.gone()
	if err == nil {
		t.Fatal("it serves")
	}
	if text := err.Error(); !strings.Contains(text, "it ended: no port") || !strings.Contains(text, "exit status 3") {
		t.Error(text)
	}
	for range 20 { // it ended before the limit was over, whatever select takes
		if err := s.end(time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		s.ended <- exit{}
	}
}

func TestAServerThatStaysIsKilled(t *testing.T) {
	s, err := startServer(t.Context(), "it", t.TempDir(), "sh", "-c", "exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.gone(); err != nil {
		t.Fatal(err)
	}
	if err := s.end(time.Now()); err == nil || !strings.Contains(err.Error(), "did not end by itself") {
		t.Error(err)
	}
}
