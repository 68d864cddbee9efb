package consumer

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A QueueStatus is what a queue is doing now.
type QueueStatus struct {
	Queue string
	// Reason says why the queue is not consumed. Empty means that it is.
	Reason      string
	InFlight    int // deliveries being worked on
	Concurrency int // at most
	Done        int // deliveries acknowledged since the start
}

// Status returns what each queue is doing now, in the order of the configuration. It
// may be called at any time by any goroutine, and does not block.
func (c *Consumer) Status() []QueueStatus {
	out := make([]QueueStatus, len(c.loops))
	for i, l := range c.loops {
		out[i] = QueueStatus{
			Queue:       l.worker.Name,
			Reason:      l.state.whyNot(),
			InFlight:    int(l.state.inFlight.Load()),
			Concurrency: l.worker.Concurrency,
			Done:        int(l.state.done.Load()),
		}
	}
	return out
}

// stuckAfter is how long a loop may go without a turn. What it waits for the broker
// for is over when the heartbeats of the connection have failed, after 20 s.
const stuckAfter = time.Minute

// Healthy returns an error that names a queue whose loop has made no progress for a
// minute, although there is always something to do. It may be called by any
// goroutine, and does not block.
func (c *Consumer) Healthy() error {
	for _, l := range c.loops {
		if since := time.Since(time.Unix(0, l.state.turned.Load())); since > stuckAfter {
			return fmt.Errorf("the loop of queue %s has been stuck for %v; restart the daemon, and report its goroutines", l.worker.Name, since.Round(time.Second))
		}
	}
	return nil
}

// state is what a loop shows of itself to other goroutines.
type state struct {
	inFlight atomic.Int64
	consumed atomic.Int64 // deliveries handed to a worker
	attempts [len(actionNames)]atomic.Int64
	returned atomic.Int64
	repeats  atomic.Int64
	done     atomic.Int64
	turned   atomic.Int64 // Unix nanoseconds: when the loop last had a turn
	idleFrom atomic.Int64 // Unix nanoseconds: since when deliveries are missing; zero: they are not
	reason   atomic.Pointer[string]
}

const notYetConsumed = "not connected to the broker yet"

// whyNot is why the queue is not consumed; empty if it is.
func (s *state) whyNot() string {
	if r := s.reason.Load(); r != nil {
		return *r
	}
	return notYetConsumed
}

func (s *state) setReason(reason string) { s.reason.Store(&reason) }

// starved is how long the queue has had messages at now that do not come.
func (s *state) starved(now time.Time) time.Duration {
	from := s.idleFrom.Load()
	if from == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, from))
}
