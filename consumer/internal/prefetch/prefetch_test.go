package prefetch

import (
	"testing"
	"time"
)

func TestSizeByWhatAnAttemptTakes(t *testing.T) {
	for _, c := range []struct {
		name        string
		concurrency int
		took        time.Duration
		bytes       int
		want        int
	}{
		{"no work", 8, 20 * time.Microsecond, 1024, 250},
		{"a millisecond", 8, time.Millisecond, 1024, 250},
		{"5 ms: 0.1 s of work is 160", 8, 5 * time.Millisecond, 1024, 160},
		{"20 ms: 0.1 s of work is 40", 8, 20 * time.Millisecond, 1024, 40},
		{"0.1 s", 8, 100 * time.Millisecond, 1024, 16},
		{"2 s", 8, 2 * time.Second, 1024, 16},
		{"one slot, no work", 1, 20 * time.Microsecond, 1024, 250},
		{"one slot, 2 s", 1, 2 * time.Second, 1024, 2},
		{"more slots than the most", 200, time.Millisecond, 1024, 400},
		{"bodies of 256 KiB", 8, 20 * time.Microsecond, 256 << 10, 64},
		{"bodies of 32 MiB", 8, 20 * time.Microsecond, 32 << 20, 16},
		{"no body", 8, 0, 0, 250},
	} {
		s, now := New(c.concurrency, 2*c.concurrency, true), time.Now()
		for range samples {
			if got := s.At(now); got != 2*c.concurrency {
				t.Fatalf("%s: %d at the beginning, want twice the concurrency, %d", c.name, got, 2*c.concurrency)
			}
			s.Took(c.took, c.bytes)
		}
		if got := s.At(now); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// TestSizeChangesRarely has what an attempt takes waver: by a little, and then by much.
func TestSizeChangesRarely(t *testing.T) {
	s, now := New(8, 16, true), time.Now()
	took := func(d time.Duration) {
		for range 500 {
			s.Took(d, 1024)
		}
	}
	expect := func(what string, want int) {
		t.Helper()
		if got := s.At(now); got != want {
			t.Errorf("%s: got %d, want %d", what, got, want)
		}
	}
	took(10 * time.Millisecond)
	expect("10 ms", 80)
	now = now.Add(time.Minute)
	for _, d := range []time.Duration{7, 12, 8, 17} {
		took(d * time.Millisecond)
		expect("about 10 ms", 80)
	}
	took(2 * time.Second)
	expect("2 s", 16)
	took(time.Millisecond)
	expect("1 ms, at once", 16)
	now = now.Add(calm - 1)
	expect("1 ms, soon", 16)
	now = now.Add(1)
	expect("1 ms, after a while", 250)
	took(2 * time.Second)
	expect("2 s, at once", 250)
	now = now.Add(pace)
	expect("2 s, a moment later", 16)
}

func TestSizeThatIsSet(t *testing.T) {
	s := New(8, 20, false)
	for range samples {
		s.Took(time.Millisecond, 1)
	}
	if got := s.At(time.Now()); got != 20 || s.Most() != 20 {
		t.Errorf("got %d of %d at most, want what is set, 20", got, s.Most())
	}
}
