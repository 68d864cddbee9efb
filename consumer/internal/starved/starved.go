// Package starved decides when to look at a queue from which no delivery comes, and when
// to consume it anew.
package starved

import (
	"time"

	"github.com/warrenmq/warren/consumer/internal/pulse"
)

const (
	// after is how long a queue may have messages that the broker does not hand out
	// before it is consumed anew; each further time takes twice as long, up to most:
	// another consumer may be the only one that it hands them to.
	after = time.Minute
	most  = time.Hour
	// MaxEvery is how often at least an idle queue is looked at: rather often, since it
	// is what finds a queue whose messages are handed out to nobody.
	MaxEvery = time.Minute
)

// A Watch is that of one queue.
type Watch struct {
	After time.Duration // that of the constant, but in tests

	delivered time.Time     // when a delivery came last
	look      time.Time     // when to look next
	every     time.Duration // longer while nothing changes
	patience  time.Duration // how long it may have been, before the queue is consumed anew
}

// New makes a Watch that begins now.
func New(now time.Time) Watch { return Watch{After: after, delivered: now} }

// Delivered says that a delivery has come at now.
func (w *Watch) Delivered(now time.Time) {
	w.delivered, w.every, w.patience = now, 0, 0
}

// Due tells whether to look at the queue at now.
func (w *Watch) Due(now time.Time) bool {
	return now.Sub(w.delivered) >= pulse.Every && !now.Before(w.look)
}

// Looked says what came of that: whether the queue has messages, and for how long it has
// had them. It tells whether to consume it anew.
func (w *Watch) Looked(now time.Time, messages bool, idle time.Duration) (anew bool) {
	w.every = min(max(2*w.every, pulse.Every), MaxEvery)
	if messages {
		w.every = 0 // until it is known why
		if w.patience = max(w.patience, w.After); idle >= w.patience {
			w.patience, anew = min(2*w.patience, most), true
		}
	}
	w.look = now.Add(w.every)
	return anew
}
