package main

import (
	"errors"
	"slices"
	"testing"
)

func TestEachRoundRunsEachWorkloadOnEachStorageOnceAndRotatesWhoIsFirst(t *testing.T) {
	storages := []string{dht, filestorage, zeo}
	jobs := plan(3, []workload{{name: "loads"}}, storages)
	if len(jobs) != 9 {
		t.Fatal(jobs)
	}
	var firsts []string
	for r := range 3 {
		var seen []string
		for _, j := range jobs[3*r : 3*r+3] {
			if j.round != r {
				t.Errorf("round %d among those of %d", j.round, r)
			}
			seen = append(seen, j.storage)
		}
		firsts = append(firsts, seen[0])
		slices.Sort(seen)
		if !slices.Equal(seen, []string{dht, filestorage, zeo}) {
			t.Errorf("round %d: %v", r, seen)
		}
	}
	slices.Sort(firsts)
	if !slices.Equal(firsts, []string{dht, filestorage, zeo}) {
		t.Errorf("first in their rounds: %v", firsts)
	}
}

func TestAWorkloadRunsOnlyWhereItCanAndOnceIfOnceTellsAll(t *testing.T) {
	jobs := plan(3, []workload{{name: "commit-syncs", only: embedded(), once: true}}, allStorages())
	if len(jobs) != len(embedded()) {
		t.Fatal(jobs)
	}
	for _, j := range jobs {
		if j.round != 0 || !slices.Contains(embedded(), j.storage) {
			t.Error(j)
		}
	}
}

func TestChoosingKeepsTheOrderAndRefusesUnknownNames(t *testing.T) {
	ws, err := choose(workloads(quickSizes()), []string{"open", "commit-sizes"})
	if err != nil || len(ws) != 5 || ws[0].name != "commit-sizes" || ws[4].name != "open" {
		t.Error(ws, err)
	}
	var usage usageError
	if _, err := choose(workloads(quickSizes()), []string{"opne"}); !errors.As(err, &usage) {
		t.Error(err)
	}
	if got, err := chooseStorages([]string{zeo, dht}); err != nil || !slices.Equal(got, []string{dht, zeo}) {
		t.Error(got, err)
	}
	if _, err := chooseStorages([]string{"mysql"}); !errors.As(err, &usage) {
		t.Error(err)
	}
}

func TestDatabasesThatAreCommittedToAreNotThoseThatAreRead(t *testing.T) {
	read := map[string]bool{}
	for _, w := range workloads(fullSizes()) {
		if w.name == "loads" || w.name == "cold" || w.name == "catalog" {
			read[w.database] = true
		}
	}
	for _, w := range workloads(fullSizes()) {
		if (w.killed || w.name == "commit-sizes" || w.name == "commit-writers" || w.name == "commit-syncs") && read[w.database] {
			t.Errorf("%s writes to %s", w.name, w.database)
		}
	}
}
