package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/failpoint"
)

// ErrBroker is in the error of a message that was not published for a reason that has
// nothing to do with it.
var ErrBroker = errors.New("the broker cannot be used")

// errUnanswered is in the place of a message of which nothing is known.
var errUnanswered = fmt.Errorf("%w: it has not answered", ErrBroker)

// PublishBatch offers messages to the broker in their order. In the place of each it
// returns nil if a queue has it, else why not, with ErrBroker if that has nothing to do
// with the message. It blocks until the broker has answered, or ctx ends.
//
// The messages follow each other without waiting for their confirms. If the broker
// closes the channel for what it objects to, those that it has not answered for are
// offered once more, one by one, so that the culprit is found; and none of them after
// one of the same target that was refused. If ctx ends with the cause ErrNoConfirm, one
// message of each target is blamed for it, so that the others can go on.
func (c *Conn) PublishBatch(ctx context.Context, batch []Outgoing) []error {
	errs := make([]error, len(batch))
	ends := make([]func(error), len(batch))
	for i := range batch {
		errs[i] = errUnanswered
		_, ends[i] = c.metered.start(ctx, c, &batch[i])
	}
	held := make(map[destination]bool)
	for i, o := range batch {
		if err := c.check(o); err != nil && !held[o.destination()] {
			errs[i], held[o.destination()] = err, true
		}
	}
	if len(batch) > 1 {
		c.pipeline(ctx, batch, errs, held)
	}
	for i, o := range batch {
		if !errors.Is(errs[i], errUnanswered) || held[o.destination()] || c.IsClosed() || ctx.Err() != nil {
			continue
		}
		errs[i] = c.offer(ctx, o, c.borrow, c.giveBack)
		if errs[i] != nil && (c.IsClosed() || ctx.Err() != nil || errors.Is(errs[i], ErrBlocked)) {
			errs[i] = errUnanswered
			break
		}
		held[o.destination()] = errs[i] != nil
	}
	if errors.Is(context.Cause(ctx), ErrNoConfirm) {
		for i, o := range batch { // or one queue that never answers would hold up all others
			if errors.Is(errs[i], errUnanswered) && !held[o.destination()] {
				errs[i], held[o.destination()] = ErrNoConfirm, true
			}
		}
	}
	for i, end := range ends {
		end(errs[i])
	}
	return errs
}

// A destination is what the order of messages is kept for.
type destination struct{ exchange, key string }

func (o Outgoing) destination() destination { return destination{o.Exchange, o.Key} }

// pipeline publishes a batch on one channel, and then waits for the confirms. It
// replaces the errUnanswered of those that the broker has answered for, and adds the
// destinations of those that it has refused to held.
func (c *Conn) pipeline(ctx context.Context, batch []Outgoing, errs []error, held map[destination]bool) {
	if c.blocked.Load() || !c.begin() {
		return
	}
	answered := make(chan []error, 1)
	skip := maps.Clone(held)
	for _, o := range batch {
		skip[o.destination()] = skip[o.destination()] || o.isDirect() // those go one by one
	}
	go func() {
		defer c.begun.Done()
		ch, err := c.Channel()
		if err != nil {
			close(answered)
			return
		}
		answered <- c.batchTrip(ctx, ch, batch, skip)
		_ = ch.Close() // late confirms would only fill it; one that is stuck takes long
	}()
	var answers []error
	select {
	case answers = <-answered:
	case <-ctx.Done():
		// What has been confirmed is told at once, unless a write is stuck.
		select {
		case answers = <-answered:
		case <-time.After(closeTimeout):
			return
		}
	}
	for i, err := range answers {
		if errors.Is(err, errUnanswered) {
			continue
		}
		errs[i] = err
		held[batch[i].destination()] = held[batch[i].destination()] || err != nil
	}
}

// batchTrip publishes on ch all but what goes where skip has it, and returns what the broker
// has said of each.
func (c *Conn) batchTrip(ctx context.Context, ch *amqp.Channel, batch []Outgoing, skip map[destination]bool) []error {
	errs := make([]error, len(batch))
	for i := range errs {
		errs[i] = errUnanswered
	}
	if err := ch.Confirm(false); err != nil {
		return errs
	}
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	returns := ch.NotifyReturn(make(chan amqp.Return, len(batch)))
	confirms := make([]*amqp.DeferredConfirmation, len(batch))
	for i, o := range batch {
		if skip[o.destination()] {
			continue
		}
		failpoint.Publishing(failpoint.Offered, string(o.Purpose))
		stuck := c.cutWhenStuck()
		var err error
		confirms[i], err = ch.PublishWithDeferredConfirmWithContext(ctx, o.Exchange, o.Key, true, false, c.signed(o))
		stuck()
		if err != nil {
			break // the channel or the connection is closed
		}
		failpoint.Publishing(failpoint.Written, string(o.Purpose))
	}
	closed := false
	for i, confirm := range confirms {
		if confirm == nil {
			continue
		}
		select {
		case <-confirm.Done():
			failpoint.Publishing(failpoint.Confirmed, string(batch[i].Purpose))
		case <-closes: //nolint:errcheck // it is closed; what was published at that moment may stay pending
			closed = true
		case <-ctx.Done():
			select {
			case <-confirm.Done(): // both at once: what is known counts
			default:
				confirms[i] = nil
			}
		}
	}
	select {
	case <-closes: //nolint:errcheck // why it was closed comes up with the culprit
		closed = true
	default:
	}
	// The broker sends a return before its confirm. It does not say which message it is:
	// of several that look alike, all count as returned.
	type name struct {
		destination destination
		id          string
	}
	returned := make(map[name]error)
	for range len(returns) {
		r := <-returns
		returned[name{destination{r.Exchange, r.RoutingKey}, r.MessageId}] = fmt.Errorf("%w (%s)", ErrUnroutable, r.ReplyText)
	}
	for i, confirm := range confirms {
		switch {
		case confirm == nil:
		case confirm.Acked():
			errs[i] = returned[name{batch[i].destination(), batch[i].Message.MessageId}]
		case !closed:
			errs[i] = ErrRefused
		}
	}
	return errs
}
