package main

import (
	"encoding/json"
	"os"
	"runtime"
	"time"
)

// report is a whole run, as --json writes it.
type report struct {
	Made     time.Time          `json:"made"`
	CPUs     int                `json:"cpus"`
	Rounds   int                `json:"rounds"`
	Quick    bool               `json:"quick"`
	Versions map[string]string  `json:"versions"`
	Storages []string           `json:"storages"`
	Notes    map[string]float64 `json:"notes"`
	Skipped  []skip             `json:"skipped"`
	Metrics  []metric           `json:"metrics"`
	Verdicts []verdict          `json:"targets"`
}

// skip is something that was not measured, and why.
type skip struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// metric is one row: the median and all rounds of each storage.
type metric struct {
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	Median  map[string]float64   `json:"median"`
	Rounds  map[string][]float64 `json:"rounds"`
	PerPeer map[string]float64   `json:"ratio"` // ours / the peer's
}

// metrics are the rows, in the order in which they were first measured.
func metrics(order []string, f figures) []metric {
	rows := []metric{}
	for _, name := range order {
		m := metric{Name: name, Unit: unit(name), Median: map[string]float64{}, Rounds: f[name], PerPeer: map[string]float64{}}
		for storage := range f[name] {
			m.Median[storage], _ = f.median(name, storage)
		}
		for storage, value := range m.Median {
			if ours, ok := m.Median[dht]; ok && storage != dht && value > 0 {
				m.PerPeer[storage] = ours / value
			}
		}
		rows = append(rows, m)
	}
	return rows
}

func newReport(o options) report {
	return report{Made: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Rounds: o.rounds, Quick: o.quick,
		Versions: map[string]string{}, Notes: map[string]float64{}, Skipped: []skip{}}
}

func writeJSON(file string, doc any) error {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
