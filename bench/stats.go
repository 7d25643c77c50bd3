package main

import (
	"fmt"
	"slices"
)

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// A ratio is that of measurements made one after the other.
type ratio struct {
	mid, least, most float64
	ok               bool
}

// ratios pairs what was measured in the same rounds.
func ratios(a, b []float64) ratio {
	var v []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			v = append(v, a[i]/b[i])
		}
	}
	if len(v) == 0 {
		return ratio{}
	}
	return ratio{median(v), slices.Min(v), slices.Max(v), true}
}

func (r ratio) String() string {
	if !r.ok {
		return ""
	}
	return fmt.Sprintf("**%.2f** (%.2f..%.2f)", r.mid, r.least, r.most)
}

// pick makes a list of one value of the samples.
func pick(samples []sample, value func(sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = value(s)
	}
	return v
}

func rateOf(s sample) float64 { return s.rate }
func cpuOf(s sample) float64  { return s.cpu }
func lostOf(s sample) float64 { return s.lost }
func p50Of(s sample) float64  { return s.p50 }
func p99Of(s sample) float64  { return s.p99 }
