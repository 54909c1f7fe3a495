package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// workload is one call of the Python worker that measures something, and the database that it needs.
type workload struct {
	name       string // what --only names; several workloads may share one
	worker     string // the worker's name of it
	parameters map[string]any
	database   string // "items-N" holds N items, "singles-N" N in as many transactions, "catalog" the catalog, noDatabase leaves it to the worker, "soiled-N" copies of it with about N objects, a fifth of them garbage, "" is a new one, made of source and removed afterwards
	source     string // the FileStorage that is imported: "catalog" or "singles-N"
	exported   bool   // it writes a FileStorage, which is removed afterwards
	copied     bool   // it runs on a copy of the database, which is removed afterwards
	killed     bool   // the process before it committed to the database until kill -9
	traced     bool   // the worker runs under strace, which counts its fsyncs
	once       bool   // the figure is a count, the same in each round
	only       []string
	why        string // of only: why the others are left out
}

func (w workload) runsOn(storage string) bool {
	return w.only == nil || slices.Contains(w.only, storage)
}

func (w workload) atMost(rounds int) int {
	if w.once {
		return 1
	}
	return rounds
}

// sizes are the numbers that --quick and --huge change.
type sizes struct {
	loads     []int // objects of the databases that are loaded from
	opens     []int // objects of those that are opened
	commits   map[string]int
	docs      int
	seconds   float64 // of each number of writers
	objects   int     // of the database that is committed to
	singles   int     // of the database with a transaction for each object
	coldCount int
	packs     []int            // objects of the databases that are packed
	blobs     map[string]int64 // bytes; "8x64k": eight a transaction, an image and its scales
}

func fullSizes() sizes {
	return sizes{loads: []int{10_000, 100_000}, opens: []int{100_000, 1_000_000}, commits: map[string]int{"1": 1000, "10": 500, "100": 100},
		docs: 20_000, seconds: 3, objects: 10_000, singles: 10_000, coldCount: 10_000, packs: []int{200_000},
		blobs: map[string]int64{"64k": 64 << 10, "8x64k": 64 << 10, "1m": 1 << 20, "16m": 16 << 20, "1g": 1 << 30}}
}

func quickSizes() sizes {
	return sizes{loads: []int{300, 1000}, opens: []int{1000, 2000}, commits: map[string]int{"1": 30, "10": 20, "100": 5},
		docs: 150, seconds: 0.2, objects: 1000, singles: 300, coldCount: 200, packs: []int{1000},
		blobs: map[string]int64{"64k": 64 << 10, "8x64k": 64 << 10}}
}

const (
	noDatabase  = "none"
	catalog     = "catalog"
	openCacheMB = 64
	packCacheMB = 64
)

// embedded are the storages whose database lives in the client's process.
func embedded() []string { return []string{dht, filestorage, sqlite} }

// copied are the storages whose copies from and to a FileStorage are compared.
func copied() []string { return []string{dht, filestorage} }

const besideIt = "of one-record transactions, and of exports, only the copies from and to a FileStorage are compared"

// packed are the storages that do a pack's work themselves.
func packed() []string { return []string{dht, filestorage, postgresql, sqlite} }

// workloads in the order in which they run: those that change a database have one of their own.
func workloads(s sizes) []workload {
	var all []workload
	for _, n := range s.loads {
		all = append(all, workload{name: "loads", worker: "warm", database: items(n), parameters: params("objects", n, "threads", []int{1, 4})})
	}
	for _, n := range s.loads {
		all = append(all, colds(n, min(n, s.coldCount))...)
	}
	committed := items(s.objects) + "-committed"
	all = append(all,
		workload{name: "import", worker: "import", source: catalog, parameters: params("prefix", "import")},
		workload{name: "import", worker: "import", source: singles(s.singles), parameters: params("prefix", "import-singles"), only: copied(), why: besideIt},
		workload{name: "export", worker: "export", database: catalog, exported: true, parameters: params("prefix", "export"), only: copied(), why: besideIt},
		workload{name: "export", worker: "export", database: singles(s.singles), exported: true, parameters: params("prefix", "export-singles"),
			only: copied(), why: besideIt},
		workload{name: "catalog", worker: "catalog", database: catalog, parameters: params()},
		workload{name: "commit-sizes", worker: "commit-sizes", database: committed, parameters: params("objects", s.objects, "counts", s.commits)},
		workload{name: "commit-writers", worker: "commit-writers", database: committed,
			parameters: params("objects", s.objects, "threads", []int{1, 4, 16}, "seconds", s.seconds)},
		workload{name: "commit-syncs", worker: "commit-syncs", database: committed, traced: true, once: true,
			parameters: params("objects", s.objects, "count", 50), only: embedded(), why: "only processes that hold their database are traced"},
		workload{name: "blobs", worker: "blobs", database: noDatabase, parameters: params("sizes", s.blobs), only: []string{dht, filestorage},
			why: "blobs are measured where they lie in files beside the database"})
	for _, n := range s.packs {
		for _, commits := range []bool{false, true} {
			all = append(all, workload{name: "pack", worker: "pack", database: fmt.Sprintf("soiled-%d", n), copied: true, only: packed(),
				why:        "zeo's server packs a FileStorage, and neo collects no garbage",
				parameters: params("prefix", fmt.Sprintf("pack-%d", n), "commits", commits, "cache_mb", packCacheMB)})
		}
	}
	for _, n := range s.opens {
		p := params("objects", n, "cache_mb", openCacheMB, "read", min(n, 200_000), "prefix", "open")
		all = append(all, workload{name: "open", worker: "open", database: items(n) + "-opened", parameters: p})
		p = params("objects", n, "cache_mb", openCacheMB, "read", 0, "prefix", "open-killed")
		all = append(all, workload{name: "open", worker: "open", database: items(n) + "-killed", parameters: p, killed: true,
			only: embedded(), why: "a killed client leaves no trace in a server's database"})
	}
	return all
}

// colds are the first loads of a process, of some of n objects, and of all if these are more.
func colds(n, some int) []workload {
	cold := func(metric, how string, count, threads int) workload {
		return workload{name: "cold", worker: "cold", database: items(n), parameters: params(
			"objects", n, "count", count, "how", how, "threads", threads, "metric", fmt.Sprintf(metric, n))}
	}
	colds := []workload{
		cold("cold-%d", "load", some, 1), cold("cold-%d-4t", "load", some, 4), cold("cold-prefetch-%d", "prefetch", some, 1),
		cold("cold-setstate-%d", "setstate", some, 1),
	}
	if some < n {
		all := cold("cold-all-%d", "load", n, 1)
		all.only, all.why = embedded(), "a cold load from a server takes too long to repeat it so often"
		colds = append(colds, all)
	}
	return colds
}

func items(n int) string { return fmt.Sprintf("items-%d", n) }

func singles(n int) string { return fmt.Sprintf("singles-%d", n) }

// with is parameters and one more.
func with(parameters map[string]any, name string, value any) map[string]any {
	m := maps.Clone(parameters)
	m[name] = value
	return m
}

func params(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return m
}

// choose keeps the workloads with these names; none means all.
func choose(all []workload, names []string) ([]workload, error) {
	if len(names) == 0 {
		return all, nil
	}
	known := map[string]bool{}
	for _, w := range all {
		known[w.name] = true
	}
	for _, name := range names {
		if !known[name] {
			return nil, usageError{fmt.Errorf("no workload is called %q; there are %s", name, strings.Join(sorted(known), ", "))}
		}
	}
	return slices.DeleteFunc(all, func(w workload) bool { return !slices.Contains(names, w.name) }), nil
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
