package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/warrenmq/warren/consumer/fleet"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/consumer/internal/meters"
)

const (
	// askWithin bounds how long a queue's loop is asked for what is in flight: it may be
	// waiting for the broker.
	askWithin = 500 * time.Millisecond
	// maxWatchers is how many may have the status sent for a while at once.
	maxWatchers  = 16
	maxErrorText = 300
)

// An Attempt is one that is under way.
type Attempt struct {
	MessageID string
	Number    int
	Began     time.Time
	InVain    int64 // so often it was handed out before
	Message   *inflight.Message
}

// A Queue is one that is worked.
type Queue struct {
	*meters.Queue
	Settings string // a digest of its configuration
	// Attempts are those under way. It blocks until the queue's loop has time, or ctx
	// ends.
	Attempts func(ctx context.Context) []Attempt
}

// attempts are those of a queue under way, the oldest first.
func (c *Control) attempts(ctx context.Context, q *Queue) []Attempt {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	all := q.Attempts(ctx)
	slices.SortStableFunc(all, func(a, b Attempt) int { return a.Began.Compare(b.Began) })
	return all
}

// status is what the daemon is doing, in as much detail as r asks for.
func (c *Control) status(ctx context.Context, r fleet.Request) *fleet.Status {
	now := time.Now()
	out := &fleet.Status{At: now.UTC(), Node: c.session.Node(), Broker: c.session.Consume.Version.Number}
	if c.Level != nil {
		out.Level = c.Level.Level().String()
	}
	for i := range c.Queues {
		q := &c.Queues[i]
		s := fleet.QueueStatus{
			Queue: q.Name, Reason: broker.Shortened(q.Reason(), maxErrorText), Paused: q.Halt.Paused(), Settings: q.Settings,
			InFlight: q.InFlight.Load(), Slots: q.Slots, Counts: q.Counts(c.Verdicts),
		}
		out.Quiet = cmp.Or(out.Quiet, q.Halt.Quieted())
		if since, fault := q.Brake.Status(); !since.IsZero() {
			s.BrakedSince, s.Fault = since.UTC(), broker.Shortened(fault, maxErrorText)
		}
		if r.Attempts > 0 && s.InFlight > 0 {
			for _, a := range c.attempts(ctx, q) {
				if len(s.Attempts) == min(r.Attempts, fleet.MaxAttempts) {
					break
				}
				s.Attempts = append(s.Attempts, fleet.Attempt{MessageID: broker.Shortened(a.MessageID, 255), Attempt: a.Number, Began: a.Began.UTC(), InVain: a.InVain, TraceID: a.Message.TraceID()})
			}
		}
		for _, f := range q.Failures.Last(min(r.Failures, fleet.MaxFailures)) {
			s.Failures = append(s.Failures, fleet.Failure{
				At: f.At.UTC(), MessageID: broker.Shortened(f.MessageID, 255), Attempt: f.Attempt, Verdict: f.Verdict, Error: broker.Shortened(f.Error, maxErrorText),
			})
		}
		out.Queues = append(out.Queues, s)
	}
	for _, s := range c.Schedules() {
		out.Schedules = append(out.Schedules, fleet.Schedule{
			Schedule: s.Schedule, Leading: s.Leading, Next: s.Next.UTC(), Last: s.Last.UTC(), AheadMillis: s.Ahead.Milliseconds(), Fault: broker.Shortened(s.Fault, maxErrorText),
		})
	}
	return out
}

// A watcher has the status sent to it for a while.
type watcher struct {
	request    fleet.Request
	to, id     string
	until, due time.Time
}

// watchers are those that there are.
type watchers []watcher

// add has the status sent for a while to whoever asks, in place of what it has asked for
// before. Nobody gets more than half a minute without asking again.
func (ws *watchers) add(r fleet.Request, to, id string, now time.Time) {
	*ws = slices.DeleteFunc(*ws, func(w watcher) bool { return w.to == to })
	lasts := min(time.Duration(r.ForMillis)*time.Millisecond, fleet.MaxWatch)
	if lasts <= 0 || to == "" {
		return
	}
	if len(*ws) == maxWatchers {
		*ws = (*ws)[1:]
	}
	*ws = append(*ws, watcher{r, to, id, now.Add(lasts), now.Add(r.Every())})
}

// send sends the status to those for whom it is due, and leaves out those to whom it cannot
// be sent or need no longer be.
func (ws *watchers) send(now time.Time, send func(watcher) bool) {
	for i := range *ws {
		if w := &(*ws)[i]; !w.due.After(now) {
			w.due = now.Add(w.request.Every())
			if !now.After(w.until) && !send(*w) {
				w.until = time.Time{}
			}
		}
	}
	*ws = slices.DeleteFunc(*ws, func(w watcher) bool { return now.After(w.until) })
}

// next is a timer until the status is due next; nil if nobody watches.
func (ws watchers) next(now time.Time) <-chan time.Time {
	if len(ws) == 0 {
		return nil
	}
	return time.After(slices.MinFunc(ws, func(a, b watcher) int { return a.due.Compare(b.due) }).due.Sub(now))
}

// report sends the status to those who watch.
func (c *Control) report(ctx context.Context) {
	c.watchers.send(time.Now(), func(w watcher) bool {
		return c.answer(ctx, w.to, w.id, fleet.Answer{Daemon: c.Daemon, Status: c.status(ctx, w.request)})
	})
	c.watching = c.watchers.next(time.Now())
}
