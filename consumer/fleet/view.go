package fleet

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// A View is what a fleet that is watched looks like. It may be used by any number of
// goroutines. The zero value has seen nobody.
type View struct {
	mu      sync.Mutex
	daemons map[string]*seen
}

// seen is what is known of one daemon.
type seen struct {
	answer Answer
	until  time.Time                     // it is shown, by this clock
	rates  map[string]map[string]float64 // a second, by queue and verdict; nil: not known yet
}

// Add takes a status that has come at now, and is the last of its daemon that is shown if
// three times as long as it was asked to report every so often passes without another.
func (v *View) Add(a Answer, now time.Time, every time.Duration) {
	if a.Status == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.daemons == nil {
		v.daemons = make(map[string]*seen)
	}
	name := a.Daemon.Name()
	s := &seen{answer: a, until: now.Add(3 * every)}
	if before := v.daemons[name]; before != nil && before.answer.Daemon.Began.Equal(a.Daemon.Began) {
		s.rates = before.rates
		if passed := a.Status.At.Sub(before.answer.Status.At).Seconds(); passed > WatchEvery.Seconds()/4 {
			s.rates = ratesOf(before.answer.Status, a.Status, passed)
		}
	}
	v.daemons[name] = s
}

func ratesOf(before, now *Status, seconds float64) map[string]map[string]float64 {
	earlier := make(map[string]map[string]int64)
	for _, q := range before.Queues {
		earlier[q.Queue] = q.Counts
	}
	out := make(map[string]map[string]float64)
	for _, q := range now.Queues {
		out[q.Queue] = make(map[string]float64)
		for verdict, n := range q.Counts {
			out[q.Queue][verdict] = max(0, float64(n-earlier[q.Queue][verdict])/seconds)
		}
	}
	return out
}

// Answers are the last ones of the daemons that still report at now, in the order of their
// names.
func (v *View) Answers(now time.Time) []Answer {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.daemons, func(_ string, s *seen) bool { return now.After(s.until) })
	var out []Answer
	for _, name := range slices.Sorted(maps.Keys(v.daemons)) {
		out = append(out, v.daemons[name].answer)
	}
	return out
}

// A QueueSum is how one queue stands with all daemons.
type QueueSum struct {
	Queue    string             `json:"queue"`
	Daemons  int                `json:"daemons"`
	InFlight int64              `json:"in_flight"`
	Slots    int                `json:"slots"`
	Rates    map[string]float64 `json:"rates"` // attempts a second, by verdict
	Paused   *Pause             `json:"paused,omitempty"`
	Quiet    int                `json:"quiet,omitempty"`  // daemons
	Braked   int                `json:"braked,omitempty"` // daemons
	Unwell   int                `json:"unwell,omitempty"` // daemons that do not consume it
}

// Queues are the sums of the queues, in the order of their names.
func (v *View) Queues() []QueueSum {
	v.mu.Lock()
	defer v.mu.Unlock()
	sums := make(map[string]*QueueSum)
	for _, s := range v.daemons {
		for _, q := range s.answer.Status.Queues {
			sum := sums[q.Queue]
			if sum == nil {
				sum = &QueueSum{Queue: q.Queue, Rates: make(map[string]float64)}
				sums[q.Queue] = sum
			}
			sum.Daemons++
			sum.InFlight += q.InFlight
			sum.Slots += q.Slots
			sum.Paused = cmp.Or(sum.Paused, q.Paused)
			for verdict, rate := range s.rates[q.Queue] {
				sum.Rates[verdict] += rate
			}
			switch {
			case s.answer.Status.Quiet != nil:
				sum.Quiet++
			case q.Reason != "":
				sum.Unwell++
			case !q.BrakedSince.IsZero():
				sum.Braked++
			}
		}
	}
	var out []QueueSum
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		out = append(out, *sums[name])
	}
	return out
}

// Of tells to which daemon and queue something belongs.
type Of struct {
	Daemon string `json:"daemon"`
	Queue  string `json:"queue"`
}

// An AttemptOf is an attempt under way, somewhere.
type AttemptOf struct {
	Of
	Attempt
	Age time.Duration `json:"-"` // by the daemon's clock
}

// Attempts are the oldest that are under way, at most so many.
func (v *View) Attempts(most int) []AttemptOf {
	var out []AttemptOf
	v.each(func(s *seen, q *QueueStatus, of Of) {
		for _, a := range q.Attempts {
			out = append(out, AttemptOf{of, a, max(0, s.answer.Status.At.Sub(a.Began))})
		}
	})
	slices.SortFunc(out, func(a, b AttemptOf) int {
		return cmp.Or(-cmp.Compare(a.Age, b.Age), cmp.Compare(a.MessageID, b.MessageID), cmp.Compare(a.Daemon, b.Daemon))
	})
	return out[:min(most, len(out))]
}

// A FailureOf is an attempt that has failed, somewhere.
type FailureOf struct {
	Of
	Failure
	Ago time.Duration `json:"-"` // by the daemon's clock
}

// Failures are the last ones, at most so many.
func (v *View) Failures(most int) []FailureOf {
	var out []FailureOf
	v.each(func(s *seen, q *QueueStatus, of Of) {
		for _, f := range q.Failures {
			out = append(out, FailureOf{of, f, max(0, s.answer.Status.At.Sub(f.At))})
		}
	})
	slices.SortFunc(out, func(a, b FailureOf) int {
		return cmp.Or(cmp.Compare(a.Ago, b.Ago), cmp.Compare(a.MessageID, b.MessageID), cmp.Compare(a.Daemon, b.Daemon))
	})
	return out[:min(most, len(out))]
}

func (v *View) each(f func(s *seen, q *QueueStatus, of Of)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, s := range v.daemons {
		for i := range s.answer.Status.Queues {
			q := &s.answer.Status.Queues[i]
			f(s, q, Of{name, q.Queue})
		}
	}
}
