package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Message is something to publish.
type Message = broker.Message

// ErrNotConnected is the error of a publish while there is no connection to a broker.
var ErrNotConnected = errors.New("not connected to the broker")

// Publish publishes m to one of the queues that c works, as a persistent message, over
// the connection that Run keeps. It returns nil once the broker has confirmed that the
// queue has it; while it has not, it tries again. It blocks until then, or until ctx
// ends, but for 30 seconds at most. It may be called at any time by any goroutine.
//
// After an error, the queue may have the message all the same.
func (c *Consumer) Publish(ctx context.Context, m Message) error {
	i := slices.IndexFunc(c.loops, func(l *queueLoop) bool { return m.Exchange == "" && l.executor.Name == m.RoutingKey })
	if i < 0 {
		return fmt.Errorf("queue %q is not one of those worked here", m.RoutingKey)
	}
	o, err := m.Outgoing(broker.ForProgram)
	if err != nil {
		return err
	}
	e := c.loops[i].executor
	o.Queue, o.Declare = e.Name, e.onBroker.Redeclare(e.Name)
	ctx, cancel := context.WithTimeoutCause(ctx, c.publishTimeout, broker.ErrNoConfirm)
	defer cancel()
	backoff := retry.WithCappedDuration(2*time.Second, retry.NewExponential(50*time.Millisecond))
	var last error
	_ = retry.Do(ctx, backoff, func(ctx context.Context) error {
		s := c.sessions.Get() // it may be replaced meanwhile
		if s == nil {
			last = cmp.Or(last, ErrNotConnected)
			return nil
		}
		if last = s.Publish.Publish(ctx, o); last == nil || s.IsLost() || broker.IsObjection(last) {
			return nil
		}
		return retry.RetryableError(last)
	})
	if last == nil && ctx.Err() != nil {
		last = context.Cause(ctx) // it had ended before
	}
	return broker.Explain(last)
}
