package consumer

import (
	"cmp"
	"fmt"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/consumer/schedule"
)

// A Status is what a Consumer is doing now.
type Status struct {
	Connection ConnectionStatus
	Queues     []QueueStatus // in the order of the configuration
	Schedules  []schedule.Status
}

// A ConnectionStatus is how the Consumer and the broker stand.
type ConnectionStatus struct {
	// Node is the one, as host:port, that is connected to or, while there is no
	// connection, was tried last. It is empty before the first is tried.
	Node string
	// LostAt is since when there is no connection; the Consumer's own beginning, if
	// there has been none yet. Zero means that there is one.
	LostAt time.Time
	// Reconnecting is true if there is none, but has been before.
	Reconnecting bool
	// Fault is why there is none, as far as is known.
	Fault string
}

// A QueueStatus is what a queue is doing now.
type QueueStatus struct {
	Queue string
	// Reason says why the queue is not consumed. Empty means that it is.
	Reason string
	// BrakedAt is since when what the processor depends on looks down, so that messages
	// stay in the queue but for one at a time. Zero means that it does not.
	BrakedAt time.Time
	// Fault is the error that says so.
	Fault string
	// Paused and Quiet say who has all daemons, or this one, leave the queue alone. Nil is
	// nobody.
	Paused, Quiet *fleet.Pause
	InFlight      int // deliveries being worked on
	Concurrency   int // at most
	Done          int // attempts that have succeeded since the start
}

// Status returns what the Consumer is doing now. It may be called at any time by any
// goroutine, and does not block.
func (c *Consumer) Status() Status {
	out := Status{Connection: *c.connection.Load(), Queues: make([]QueueStatus, len(c.loops)), Schedules: c.schedules.Status()}
	stalled := c.nodes.Stalled()
	for i, l := range c.loops {
		since, fault := l.executor.brake.Status()
		out.Queues[i] = QueueStatus{
			BrakedAt:    since,
			Fault:       fault,
			Paused:      l.state.Halt.Paused(),
			Quiet:       l.state.Halt.Quieted(),
			Queue:       l.executor.Name,
			Reason:      cmp.Or(l.state.Reason(), stalled),
			InFlight:    int(l.state.InFlight.Load()),
			Concurrency: l.executor.Concurrency,
			Done:        int(l.state.Attempts[acknowledge].Load()),
		}
	}
	return out
}

// Healthy returns an error that names a loop which has made no progress for a minute,
// although there is always something to do. It may be called by any goroutine, and
// does not block.
func (c *Consumer) Healthy() error {
	now := time.Now()
	stuck := func(what string, p *pulse.Pulse) error {
		if d := p.Stuck(now); d > 0 {
			return fmt.Errorf("%s has been stuck for %v; restart the daemon, and report its goroutines", what, d.Round(time.Second))
		}
		return nil
	}
	err := stuck("the loop that keeps the connection", &c.turned)
	for _, l := range c.loops {
		err = cmp.Or(err, stuck("the loop of queue "+l.executor.Name, &l.state.Turned))
	}
	return cmp.Or(err, stuck("the relay of the outbox", &c.relayed), c.schedules.Healthy(now))
}
