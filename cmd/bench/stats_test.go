package main

import "testing"

func TestTheMedianIsTheMiddleAndLeavesItsInputAlone(t *testing.T) {
	odd := []float64{9, 1, 5}
	if got := median(odd); got != 5 {
		t.Errorf("odd: %v", got)
	}
	if odd[0] != 9 {
		t.Errorf("the input was sorted: %v", odd)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("even: %v", got)
	}
	if got := median([]float64{7}); got != 7 {
		t.Errorf("one: %v", got)
	}
}

func TestPercentile(t *testing.T) {
	values := make([]float64, 100)
	for i := range values {
		values[99-i] = float64(i)
	}
	for share, want := range map[float64]float64{0: 0, 0.5: 50, 0.99: 99, 1: 99} {
		if got := percentile(values, share); got != want {
			t.Errorf("%v: %v, want %v", share, got, want)
		}
	}
}

func TestFiguresWithoutAMeasurementHaveNoMedian(t *testing.T) {
	f := figures{}
	f.add("warm", dht, 2)
	f.add("warm", dht, 4)
	if v, ok := f.median("warm", dht); !ok || v != 3 {
		t.Error(v, ok)
	}
	if _, ok := f.median("warm", zeo); ok {
		t.Error("a median of a storage that was not measured")
	}
	if _, ok := f.median("cold", dht); ok {
		t.Error("a median of a metric that was not measured")
	}
}
