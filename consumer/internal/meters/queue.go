// Package meters counts what becomes of deliveries, for metrics and for whoever asks how
// a queue is.
package meters

import (
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/halt"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// A Queue is what the loop of a queue shows of itself to other goroutines. It counts by
// itself: the instruments, which only look at it, would cost each delivery a microsecond.
type Queue struct {
	Name  string
	Slots int // deliveries that can be worked on at once
	Brake *brake.Brake
	Halt  *halt.Halt

	InFlight atomic.Int64
	Prefetch atomic.Int64   // of the consumer there is; zero before
	Consumed atomic.Int64   // deliveries taken to be worked
	Attempts []atomic.Int64 // by verdict, as Source.Verdicts has them
	Returned atomic.Int64
	Repeats  atomic.Int64
	Turned   pulse.Pulse
	Stranded Stranded
	Failures inflight.Failures

	idleFrom atomic.Int64 // Unix nanoseconds; zero: deliveries are not missing
	reason   atomic.Pointer[string]
}

// NewQueue makes the Queue of that name, with so many slots and verdicts.
func NewQueue(name string, slots, verdicts int, b *brake.Brake) *Queue {
	return &Queue{Name: name, Slots: slots, Brake: b, Attempts: make([]atomic.Int64, verdicts), Halt: halt.New()}
}

// SetReason says why the queue is not consumed. Empty means that it is.
func (q *Queue) SetReason(reason string) { q.reason.Store(&reason) }

// Reason is why the queue is not consumed; empty if it is.
func (q *Queue) Reason() string {
	if r := q.reason.Load(); r != nil {
		return *r
	}
	return "not connected to the broker yet"
}

// SetIdle says at now that the queue has messages which are not handed out, or that this
// is not so.
func (q *Queue) SetIdle(now time.Time, idle bool) {
	if idle {
		q.idleFrom.CompareAndSwap(0, now.UnixNano())
	} else {
		q.idleFrom.Store(0)
	}
}

// Idle is how long the queue has had messages at now that are not handed out.
func (q *Queue) Idle(now time.Time) time.Duration {
	from := q.idleFrom.Load()
	if from == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, from))
}

// Counts are how many attempts have come to each verdict, by its name, since the start.
func (q *Queue) Counts(names []string) map[string]int64 {
	out := make(map[string]int64, len(names))
	for v, name := range names {
		out[name] = q.Attempts[v].Load()
	}
	return out
}
