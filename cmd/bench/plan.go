package main

// job is one measurement: a workload on a storage, in one round.
type job struct {
	round    int
	workload workload
	storage  string
}

// plan interleaves: within each round each workload runs on every storage, one after the other, so that a slow minute of
// the machine meets all of them; who comes first rotates.
func plan(rounds int, workloads []workload, storages []string) []job {
	var jobs []job
	for r := range rounds {
		for i, w := range workloads {
			for k := range storages {
				s := storages[(k+r+i)%len(storages)]
				if w.runsOn(s) && r < w.atMost(rounds) {
					jobs = append(jobs, job{r, w, s})
				}
			}
		}
	}
	return jobs
}
