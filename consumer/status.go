package consumer

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// A Status is what a Consumer is doing now.
type Status struct {
	Connection ConnectionStatus
	Queues     []QueueStatus // in the order of the configuration
	Schedules  []ScheduleStatus
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
	Reason      string
	InFlight    int // deliveries being worked on
	Concurrency int // at most
	Done        int // deliveries acknowledged since the start
}

// A ScheduleStatus is what this process has to do with a schedule now.
type ScheduleStatus struct {
	Schedule string
	// Leading is true if it is this process that fires the schedule; otherwise another
	// one does, unless Fault says that this one cannot take its place.
	Leading bool
	// Next is when it fires next, if it leads; zero if that is never, or not known.
	Next time.Time
	// Last is the planned time that it has fired last; zero if it has not.
	Last time.Time
	// Fault is why it cannot fire, or not take part in the election of the leader.
	Fault string
}

// connected tells whether there is a connection.
func (c *Consumer) connected() bool { return c.connection.Load().LostAt.IsZero() }

// Status returns what the Consumer is doing now. It may be called at any time by any
// goroutine, and does not block.
func (c *Consumer) Status() Status {
	out := Status{Connection: *c.connection.Load(), Queues: make([]QueueStatus, len(c.loops))}
	for i, l := range c.loops {
		out.Queues[i] = QueueStatus{
			Queue:       l.worker.Name,
			Reason:      l.state.whyNot(),
			InFlight:    int(l.state.inFlight.Load()),
			Concurrency: l.worker.Concurrency,
			Done:        int(l.state.done.Load()),
		}
	}
	for _, l := range c.fires {
		out.Schedules = append(out.Schedules, l.state.status(l.Name))
	}
	return out
}

// stuckAfter is how long a loop may go without a turn. What it waits for the broker
// for is over when the heartbeats of the connection have failed, after 20 s.
const stuckAfter = time.Minute

// Healthy returns an error that names a loop which has made no progress for a minute,
// although there is always something to do. It may be called by any goroutine, and
// does not block.
func (c *Consumer) Healthy() error {
	if since := c.turned.since(time.Now()); since > stuckAfter {
		return fmt.Errorf("the loop that keeps the connection has been stuck for %v; restart the daemon, and report its goroutines", since.Round(time.Second))
	}
	for _, l := range c.loops {
		if since := l.state.turned.since(time.Now()); since > stuckAfter {
			return fmt.Errorf("the loop of queue %s has been stuck for %v; restart the daemon, and report its goroutines", l.worker.Name, since.Round(time.Second))
		}
	}
	if since := c.relayed.since(time.Now()); since > stuckAfter {
		return fmt.Errorf("the relay of the outbox has been stuck for %v; restart the daemon, and report its goroutines", since.Round(time.Second))
	}
	for _, l := range c.fires {
		if since := l.state.turned.since(time.Now()); since > stuckAfter {
			return fmt.Errorf("the loop of schedule %s has been stuck for %v; restart the daemon, and report its goroutines", l.Name, since.Round(time.Second))
		}
	}
	return nil
}

// turnEvery is how often a loop shows that it makes progress, and a queue's loop looks
// whether it is left without deliveries.
const turnEvery = 5 * time.Second

// A pulse is when a loop last had a turn, for other goroutines to look at.
type pulse struct{ at atomic.Int64 } // Unix nanoseconds

func (p *pulse) beat(now time.Time) { p.at.Store(now.UnixNano()) }

// end says that nothing is expected of the loop any more.
func (p *pulse) end() { p.at.Store(math.MaxInt64) }

// since is how long ago the last turn was; zero if the loop has not begun.
func (p *pulse) since(now time.Time) time.Duration {
	at := p.at.Load()
	if at == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, at))
}

// state is what a loop shows of itself to other goroutines.
type state struct {
	inFlight atomic.Int64
	consumed atomic.Int64 // deliveries handed to a worker
	attempts [len(actionNames)]atomic.Int64
	returned atomic.Int64
	repeats  atomic.Int64
	done     atomic.Int64
	turned   pulse
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

// scheduleState is what a schedule's loop shows of itself to other goroutines. Times
// are Unix seconds; zero means none.
type scheduleState struct {
	leading  atomic.Bool
	next     atomic.Int64 // when it is due next
	last     atomic.Int64 // the planned time that was fired last
	fired    atomic.Int64
	misfires atomic.Int64
	turned   pulse
	fault    atomic.Pointer[string]
}

func (s *scheduleState) setFault(err error) {
	if err == nil {
		s.fault.Store(nil)
		return
	}
	text := err.Error()
	s.fault.Store(&text)
}

func (s *scheduleState) setNext(due time.Time) {
	if due.IsZero() {
		s.next.Store(0)
		return
	}
	s.next.Store(due.Unix())
}

func (s *scheduleState) status(name string) ScheduleStatus {
	out := ScheduleStatus{Schedule: name, Leading: s.leading.Load()}
	if next := s.next.Load(); next != 0 && out.Leading {
		out.Next = time.Unix(next, 0)
	}
	if last := s.last.Load(); last != 0 {
		out.Last = time.Unix(last, 0)
	}
	if fault := s.fault.Load(); fault != nil {
		out.Fault = *fault
	}
	return out
}

// lag is how long a firing has been due at now, if this process leads.
func (s *scheduleState) lag(now time.Time) time.Duration {
	next := s.next.Load()
	if next == 0 || !s.leading.Load() {
		return 0
	}
	return max(0, now.Sub(time.Unix(next, 0)))
}
