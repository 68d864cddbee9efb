package rest

import (
	"testing"
	"time"
)

func TestRest(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		took, settledAfter, most, want time.Duration
	}{
		"the end came at once":        {took: time.Millisecond, settledAfter: time.Second, want: time.Second + least},
		"the end took a while":        {took: 40 * time.Millisecond, settledAfter: 0, want: 400 * time.Millisecond},
		"the end took very long":      {took: 6 * time.Second, settledAfter: 6 * time.Second, want: 6*time.Second + most},
		"more than five seconds":      {took: 6 * time.Second, settledAfter: 6 * time.Second, most: time.Minute, want: time.Minute + 6*time.Second},
		"settled long before the end": {took: time.Millisecond, settledAfter: -time.Minute, want: least - time.Minute},
	} {
		r := Rest{Most: c.most}
		r.EndAsked(now)
		r.Settled(now.Add(c.settledAfter))
		r.Ended(now.Add(c.took))
		if got := r.Until().Sub(now); got != c.want {
			t.Errorf("%s: %v after it was asked for, want %v", name, got, c.want)
		}
		if r.Over(now.Add(c.want-1)) || !r.Over(now.Add(c.want)) {
			t.Errorf("%s: it is over before %v or not at that", name, c.want)
		}
	}
	var r Rest
	if !r.Until().Before(now) || !r.Over(now) {
		t.Errorf("nothing was settled, and yet it rests until %v", r.Until())
	}
	r.Settled(now)
	if r.Over(now.Add(time.Hour)) {
		t.Error("the consumer has not ended, and yet all is over")
	}
}
