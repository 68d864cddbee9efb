package consumer

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
		if got := backoff(c.base, c.most, c.attempts); got != c.want {
			t.Errorf("backoff(%v, %v, %d) = %v, want %v", c.base, c.most, c.attempts, got, c.want)
		}
	}
}

func TestWaitStepIsTheLongestQueueNotTooLong(t *testing.T) {
	for _, c := range []struct{ d, longest, want time.Duration }{
		{time.Second, time.Hour, time.Second},
		{1999 * time.Millisecond, time.Hour, time.Second},
		{2 * time.Second, time.Hour, 2 * time.Second},
		{3600 * time.Second, 2048 * time.Second, 2048 * time.Second},
		{30 * 24 * time.Hour, 2048 * time.Second, 2048 * time.Second},
		{700 * time.Millisecond, time.Hour, time.Second}, // never shorter than there is
		{-time.Second, time.Hour, time.Second},
	} {
		if got := waitStep(c.d, c.longest); got != c.want {
			t.Errorf("waitStep(%v, %v) = %v, want %v", c.d, c.longest, got, c.want)
		}
	}
}

func TestWaitStepsArePowersOfTwo(t *testing.T) {
	equal(t, waitSteps(5*time.Second), []time.Duration{time.Second, 2 * time.Second, 4 * time.Second})
	equal(t, waitSteps(100*time.Millisecond), []time.Duration{time.Second})
	equal(t, len(waitSteps(time.Hour)), 12)
	equal(t, waitName(2048*time.Second), "warren.wait.2048s")
}
