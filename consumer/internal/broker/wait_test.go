package broker

import (
	"testing"
	"time"
)

// TestLongDelaysTakeManyWaits goes through the waits of a delay: they come to the delay,
// none is longer than what is left, and none is shorter than a second, so that a clock
// that is set back makes for no hot loop.
func TestLongDelaysTakeManyWaits(t *testing.T) {
	for _, c := range []struct {
		delay   time.Duration
		passive bool
		most    int
	}{
		{time.Second, false, 1},
		{16 * time.Second, false, 1},
		{32 * time.Second, false, 2},
		{64 * time.Second, false, 1},
		{time.Hour, false, 6},
		{30 * 24 * time.Hour, false, 20},
		{366 * 24 * time.Hour, false, 140},
		{time.Hour, true, 8},
	} {
		q := Queue{Name: "orders", Passive: c.passive, RetryMax: 1024 * time.Second}
		left, waits := c.delay, 0
		for left >= ShortestWait {
			step := q.WaitStep(left)
			if step > left || step < ShortestWait {
				t.Fatalf("of %v the next wait is %v", left, step)
			}
			left -= step
			waits++
		}
		if waits > c.most {
			t.Errorf("%v takes %d waits, want at most %d", c.delay, waits, c.most)
		}
	}
	q := Queue{Name: "orders"}
	if got := q.WaitStep(-time.Second); got != ShortestWait {
		t.Errorf("of no time the next wait is %v", got)
	}
}

func TestWaitQueuesAreNamedAfterTheirWorkQueue(t *testing.T) {
	q := Queue{Name: "shop.orders"}
	for _, d := range q.Waits() {
		name := q.WaitName(d)
		if got, ok := WorkQueueOf(name); got != q.Name || !ok {
			t.Errorf("%s is taken for one of %q", name, got)
		}
		if q.Redeclare(name) == nil {
			t.Errorf("%s is not declared again", name)
		}
	}
	for _, name := range append(SharedWaits(), "orders", "warren.schedule.x") {
		if got, ok := WorkQueueOf(name); ok {
			t.Errorf("%s is taken for a wait queue of %q", name, got)
		}
	}
	if longest := len(q.WaitName(waits[len(waits)-1])) - len(q.Name) + MaxQueueName; longest != maxShort {
		t.Errorf("the longest name of a wait queue has %d bytes, want %d", longest, maxShort)
	}
}
