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
