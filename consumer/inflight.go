package consumer

import (
	"context"
	"slices"

	"github.com/warrenmq/warren/consumer/internal/control"
	"github.com/warrenmq/warren/consumer/internal/inflight"
)

// attempts are those under way; none are known if ctx ends before the loop has time.
func (l *queueLoop) attempts(ctx context.Context) []control.Attempt {
	return inflight.Ask(ctx, l.calls, func() (out []control.Attempt) {
		add := func(j *job) {
			if !j.started.IsZero() && j.holder == nil {
				out = append(out, control.Attempt{MessageID: j.delivery.MessageId, Number: j.history.attempts + 1, Began: j.started, InVain: j.history.deliveryCount, Message: &j.message})
			}
		}
		for _, s := range append(slices.Clip(l.leaving), l.sub) {
			if s != nil {
				s.unsettled.Unfinished(add)
			}
		}
		for j := range l.orphans {
			add(j)
		}
		return out
	})
}
