package main

import "slices"

// median is the middle value, of an even number the mean of the middle two; values is not empty and stays as it is.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// percentile is the smallest value that at least share of all do not exceed; values is not empty and stays as it is.
func percentile(values []float64, share float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[min(len(s)-1, int(share*float64(len(s))))]
}

// figures keeps what each round measured: metric, storage, values.
type figures map[string]map[string][]float64

func (f figures) add(metric, storage string, value float64) {
	if f[metric] == nil {
		f[metric] = map[string][]float64{}
	}
	f[metric][storage] = append(f[metric][storage], value)
}

// median is that of the rounds; ok is false if nothing was measured.
func (f figures) median(metric, storage string) (value float64, ok bool) {
	values := f[metric][storage]
	if len(values) == 0 {
		return 0, false
	}
	return median(values), true
}
