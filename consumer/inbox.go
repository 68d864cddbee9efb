package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/digest"
	"github.com/warrenmq/warren/consumer/internal/panics"
)

// An InboxKey tells a message from all others of its queue. The message id alone is
// not enough: publishers have been seen to use one id for many messages, none of
// which may be lost, and whoever guesses one could have another's message taken for a
// repeat.
type InboxKey struct {
	Queue     string
	MessageID string
	Digest    [16]byte // of the message, see package digest
}

func newInboxKey(queue string, d *amqp.Delivery, ours bool) *InboxKey {
	return &InboxKey{queue, d.MessageId, digest.Of(d, ours)}
}

// recall looks into the inbox for the message of o. If its work is done, it makes o
// that of an attempt with the same result, and returns true.
func (e *executor) recall(ctx context.Context, o *outcome) bool {
	result, done, err := e.database.Done(ctx, *o.key)
	o.answer, o.err, o.recorded, o.repeat = result, err, done, done
	if done {
		e.state.Repeats.Add(1)
		broker.Traced(ctx, e.log).Debug("repeat of work that the inbox knows to be done, acknowledged without running again", "message_id", o.key.MessageID)
	}
	return done
}

// record records that the work of o is done, if its transaction has not. A message
// that cannot be recorded is acknowledged all the same: a repeat would not be
// recognised, but to have it worked again now is to repeat it for certain.
func (e *executor) record(ctx context.Context, o outcome) {
	if o.key == nil || o.recorded {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scopeEndTimeout)
	defer cancel()
	if err := e.database.Record(ctx, *o.key); err != nil {
		broker.Traced(ctx, e.log).Debug("a repeat of this message would not be recognised", "message_id", o.key.MessageID, "error", err)
	}
}

// newScope makes the scope of one attempt.
func (e *executor) newScope(ctx context.Context, d *Delivery, o *outcome) *Scope {
	return &Scope{
		delivery: d, baseLog: e.log, span: trace.SpanFromContext(ctx), progress: o.progress,
		database: e.database, inboxKey: o.key, propagator: e.tracing.propagator,
	}
}

// run runs p in the scope, and ends that.
func (s *Scope) run(ctx context.Context, p Processor) error {
	begun := time.Now()
	err := s.end(panics.Recovered(func() error { return p.Process(ctx, *s.delivery, s) }))
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) && s.waited > time.Since(begun)/2 {
		s.databaseErr = fmt.Errorf("%w: the attempt has waited for its transaction for %v of its time, while others wrote", ErrDatabase, s.waited.Round(time.Millisecond))
	}
	if err != nil && errors.Is(s.databaseErr, ErrDatabase) && !errors.Is(err, ErrDatabase) {
		err = fmt.Errorf("%w; %w", err, s.databaseErr)
	}
	return err
}
