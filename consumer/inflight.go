package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/warrenmq/warren/consumer/internal/control"
	"github.com/warrenmq/warren/consumer/internal/inflight"
)

// attempts are those under way; none are known if ctx ends before the loop has time.
func (l *queueLoop) attempts(ctx context.Context) []control.Attempt {
	return inflight.Ask(ctx, l.calls, func() (out []control.Attempt) {
		l.eachAttempt(func(j *job) {
			out = append(out, control.Attempt{MessageID: j.delivery.MessageId, Number: j.history.attempts + 1, Began: j.started, InVain: j.history.deliveryCount, Message: &j.message})
		})
		return out
	})
}

// reportOverdue logs which attempts go on though their time was up a while ago. A timer
// for each took a thirtieth of the daemon's time.
func (l *queueLoop) reportOverdue(work context.Context, now time.Time) {
	l.eachAttempt(func(j *job) {
		if j.message.Overdue(now) {
			l.logOf(work, j).Error("the processor goes on after its timeout has ended its context, it holds its slot until it returns", "timeout", l.executor.Timeout)
		}
	})
}

// eachAttempt calls f for each attempt that is under way, also where the channel is lost.
func (l *queueLoop) eachAttempt(f func(*job)) {
	started := func(j *job) {
		if !j.started.IsZero() && j.holder == nil {
			f(j)
		}
	}
	for _, s := range append(slices.Clip(l.leaving), l.sub) {
		if s != nil {
			s.unsettled.Unfinished(started)
		}
	}
	for j := range l.orphans {
		started(j)
	}
}
