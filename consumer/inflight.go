package consumer

import (
	"context"

	"github.com/warrenmq/warren/consumer/internal/control"
)

// attempts are those under way, as the loop knows them when it has time. Any goroutine may
// ask; none are known if ctx ends before.
func (l *queueLoop) attempts(ctx context.Context) []control.Attempt {
	found := make(chan []control.Attempt, 1)
	look := func() {
		var out []control.Attempt
		add := func(j *job) {
			if !j.started.IsZero() && j.holder == nil {
				out = append(out, control.Attempt{MessageID: j.delivery.MessageId, Number: j.history.attempts + 1, Began: j.started, Message: &j.message})
			}
		}
		for _, s := range l.leaving {
			s.unsettled.Unfinished(add)
		}
		if l.sub != nil {
			l.sub.unsettled.Unfinished(add)
		}
		for j := range l.orphans {
			add(j)
		}
		found <- out
	}
	select {
	case l.calls <- look:
		return <-found
	case <-ctx.Done():
		return nil
	}
}
