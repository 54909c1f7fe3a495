package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// bestRelStorage is the better of RelStorage's two databases.
const bestRelStorage = "best RelStorage"

// relation is how a target compares ours to a peer's.
type relation int

const (
	atMost  relation = iota // ours/peer's <= bound
	atLeast                 // ours/peer's >= bound, of what is better when larger
	faster                  // peer's/ours >= bound
	exactly                 // ours/peer's == bound
)

// target is a promise: of a metric, against a peer. With an empty peer the figure itself is bounded, with a metric as
// peer (against) our own other figure.
type target struct {
	metric  string
	peer    string
	against string // our own metric that the ratio is to, instead of a peer's
	rel     relation
	bound   float64
}

// targets are those of the plan, for the sizes that a run has.
func targets(s sizes) []target {
	var ts []target
	add := func(metric, peer string, rel relation, bound float64) {
		ts = append(ts, target{metric: metric, peer: peer, rel: rel, bound: bound})
	}
	for _, n := range s.loads {
		for _, t := range []int{1, 4} {
			metric := fmt.Sprintf("warm-%d-%dt", n, t)
			add(metric, filestorage, faster, 3)
			add(metric, bestRelStorage, faster, 2)
		}
		add(fmt.Sprintf("setstate-%d", n), filestorage, faster, 1.5)
		for _, w := range colds(n, min(n, s.coldCount)) {
			if w.parameters["how"] == "load" {
				add(fmt.Sprint(w.parameters["metric"]), filestorage, atMost, 0.7)
			}
		}
	}
	add("catalog-load", filestorage, atMost, 0.5)
	add("catalog-load", zeo, atMost, 1.0/20)
	add("catalog-total", filestorage, atMost, 1)
	add("commit-1-p50", filestorage, atMost, 1.2)
	add("commit-10-p50", filestorage, atMost, 1)
	add("commit-100-p50", filestorage, atMost, 1)
	add("fsyncs-per-commit", "", exactly, 1)
	add("commits-16t", filestorage, atLeast, 1.5)
	add("commits-16t", zeo, atLeast, 8)
	add("import", filestorage, atMost, 1)
	for _, metric := range []string{"import-closed", "import-singles", "import-singles-closed", "export", "export-closed", "export-singles", "export-singles-closed"} {
		add(metric, filestorage, atMost, 1)
	}
	add("bytes-per-object", filestorage, atMost, 0.4)
	for _, name := range slices.Sorted(maps.Keys(s.blobs)) {
		for _, way := range []string{"upload", "upload-durable", "download"} {
			add(fmt.Sprintf("blob-%s-%s", name, way), filestorage, atLeast, 1)
		}
	}
	for _, n := range s.packs {
		for _, kind := range []string{"time", "busy-time"} {
			metric := fmt.Sprintf("pack-%d-%s", n, kind)
			add(metric, filestorage, atMost, 0.8)
			add(metric, postgresql, faster, 3)
		}
		add(fmt.Sprintf("pack-%d-left", n), "", atMost, 1)
	}
	small, large := s.opens[0], s.opens[len(s.opens)-1]
	for _, n := range s.opens[1:] {
		add(fmt.Sprintf("open-%d", n), filestorage, atMost, 1)
	}
	for _, prefix := range []string{"open", "open-killed"} {
		// Flat: ten times the objects may cost noise, not ten times the time.
		ts = append(ts, target{metric: fmt.Sprintf("%s-%d", prefix, large), against: fmt.Sprintf("%s-%d", prefix, small), rel: atMost, bound: 1.5})
	}
	for _, n := range s.opens {
		add(fmt.Sprintf("open-peak-%d", n), "", atMost, openCacheMB+100)
	}
	return ts
}

// verdict is a target beside what was measured.
type verdict struct {
	Metric string  `json:"metric"`
	Peer   string  `json:"peer,omitempty"`
	Ratio  float64 `json:"ratio"`
	Target string  `json:"target"`
	Met    bool    `json:"met"`
}

// judge returns a verdict for each target whose two figures were measured.
func judge(ts []target, f figures) []verdict {
	vs := []verdict{}
	for _, t := range ts {
		ours, ok := f.median(t.metric, dht)
		theirs, there := t.reference(f)
		if !ok || !there || theirs == 0 || t.rel == faster && ours == 0 {
			continue
		}
		v := verdict{Metric: t.metric, Peer: t.peer, Ratio: ours / theirs}
		if t.against != "" {
			v.Peer = "our " + t.against
		}
		switch t.rel {
		case atMost:
			v.Target, v.Met = fmt.Sprintf("≤ %.3g", t.bound), v.Ratio <= t.bound
		case atLeast:
			v.Target, v.Met = fmt.Sprintf("≥ %.3g", t.bound), v.Ratio >= t.bound
		case exactly:
			v.Target, v.Met = fmt.Sprintf("= %.3g", t.bound), v.Ratio == t.bound
		case faster:
			v.Ratio = theirs / ours
			v.Target, v.Met = fmt.Sprintf("≥ %.3g faster", t.bound), v.Ratio >= t.bound
		}
		vs = append(vs, v)
	}
	return vs
}

// reference is the figure that ours is divided by.
func (t target) reference(f figures) (float64, bool) {
	switch {
	case t.against != "":
		return f.median(t.against, dht)
	case t.peer == "":
		return 1, true
	case t.peer != bestRelStorage:
		return f.median(t.metric, t.peer)
	}
	pg, a := f.median(t.metric, postgresql)
	sq, b := f.median(t.metric, sqlite)
	switch {
	case a && b && largerIsBetter(t.metric):
		return max(pg, sq), true
	case a && b:
		return min(pg, sq), true
	case a:
		return pg, true
	}
	return sq, b
}

func largerIsBetter(metric string) bool {
	return strings.HasPrefix(metric, "commits-") || strings.HasPrefix(metric, "blob-")
}
