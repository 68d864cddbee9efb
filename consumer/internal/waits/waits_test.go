package waits

import (
	"testing"
	"time"
)

func TestBackoffDoublesUpToItsCap(t *testing.T) {
	for _, c := range []struct {
		base, most time.Duration
		attempts   int
		want       time.Duration
	}{
		{time.Second, time.Hour, 1, time.Second},
		{time.Second, time.Hour, 2, 2 * time.Second},
		{time.Second, time.Hour, 5, 16 * time.Second},
		{time.Second, time.Hour, 12, 2048 * time.Second},
		{time.Second, time.Hour, 13, time.Hour},
		{time.Second, time.Hour, 1 << 30, time.Hour}, // no overflow, no long loop
		{300 * time.Millisecond, time.Minute, 3, 1200 * time.Millisecond},
		{time.Minute, time.Minute, 7, time.Minute},
	} {
		if got := Backoff(c.base, c.most, c.attempts); got != c.want {
			t.Errorf("Backoff(%v, %v, %d) = %v, want %v", c.base, c.most, c.attempts, got, c.want)
		}
	}
}

func TestPlan(t *testing.T) {
	for want, attempts := range map[string]int{
		"1 attempt": 1, "2 attempts within 1s": 2, "8 attempts within 2m7s": 8, "20 attempts within 8h8m15s": 20,
		"4000000000 attempts in more than a lifetime": 4_000_000_000,
	} {
		if got := Plan(time.Second, time.Hour, attempts); got != want {
			t.Errorf("Plan of %d attempts: got %q, want %q", attempts, got, want)
		}
	}
}
