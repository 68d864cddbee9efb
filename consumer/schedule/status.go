package schedule

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/consumer/internal/pulse"
)

// A Status is what this process has to do with a schedule now.
type Status struct {
	Schedule string
	// Leading is true if it is this process that fires the schedule; otherwise another
	// one does, unless Fault says that this one cannot take its place.
	Leading bool
	// Next is when it fires next, if it leads; zero if that is never, or not known.
	Next time.Time
	// Last is the planned time that it has fired last; zero if it has not.
	Last time.Time
	// Ahead is how far the record of what is done lies ahead of this host's clock, if it
	// leads: nothing is fired until then.
	Ahead time.Duration
	// Fault is why it cannot fire, or not take part in the election of the leader.
	Fault string
}

// Status returns what r is doing now, in the order of Config. It may be called at any
// time by any goroutine, and does not block.
func (r *Runner) Status() []Status {
	var out []Status
	for _, l := range r.loops {
		out = append(out, l.state.status(l.Name, time.Now()))
	}
	return out
}

// Healthy returns an error that names a loop which has made no progress for a minute at
// now, although there is always something to do. It may be called by any goroutine, and
// does not block.
func (r *Runner) Healthy(now time.Time) error {
	if since := r.turned.Stuck(now); since > 0 {
		return stuck("that keeps the connection of the schedules", since)
	}
	for _, l := range r.loops {
		if since := l.state.turned.Stuck(now); since > 0 {
			return stuck("of schedule "+l.Name, since)
		}
	}
	return nil
}

func stuck(which string, since time.Duration) error {
	return fmt.Errorf("the loop %s has been stuck for %v; restart the daemon, and report its goroutines", which, since.Round(time.Second))
}

// state is what a loop shows of itself to other goroutines. Times are Unix seconds; zero
// means none.
type state struct {
	leading  atomic.Bool
	next     atomic.Int64 // when it is due next
	last     atomic.Int64 // the planned time that was fired last
	fired    atomic.Int64
	ahead    atomic.Int64 // up to when all is done, if that is ahead of the clock
	misfires atomic.Int64
	turned   pulse.Pulse
	fault    atomic.Pointer[string]
}

func (s *state) setFault(err error) {
	if err == nil {
		s.fault.Store(nil)
		return
	}
	text := err.Error()
	s.fault.Store(&text)
}

func (s *state) setNext(due time.Time) {
	if due.IsZero() {
		s.next.Store(0)
		return
	}
	s.next.Store(due.Unix())
}

func (s *state) status(name string, now time.Time) Status {
	out := Status{Schedule: name, Leading: s.leading.Load()}
	if next := s.next.Load(); next != 0 && out.Leading {
		out.Next = time.Unix(next, 0)
	}
	if last := s.last.Load(); last != 0 {
		out.Last = time.Unix(last, 0)
	}
	if out.Ahead = s.aheadOf(now); out.Ahead > 0 {
		out.Fault = fmt.Sprintf("what is done lies %v ahead of this host's clock, nothing is fired until then", out.Ahead.Round(time.Second))
	}
	if fault := s.fault.Load(); fault != nil {
		out.Fault = *fault
	}
	return out
}

// lag is how long a firing has been due at now, if this process leads.
func (s *state) lag(now time.Time) time.Duration {
	next := s.next.Load()
	if next == 0 || !s.leading.Load() {
		return 0
	}
	return max(0, now.Sub(time.Unix(next, 0)))
}

// aheadOf is how far the record is ahead of now, if this process leads.
func (s *state) aheadOf(now time.Time) time.Duration {
	done := s.ahead.Load()
	if done == 0 {
		return 0
	}
	return max(0, time.Unix(done, 0).Sub(now))
}
