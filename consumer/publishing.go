package consumer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/broken"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/waits"
)

// waitSlack is how much too long a wait queue may be: a wait of 4 s is no longer quite
// that when its message is published.
const waitSlack = 10 * time.Millisecond

const (
	// replyPatience is how long a reply is offered while its delivery holds a slot. After
	// that the reply waits in the broker, by itself.
	replyPatience = 2 * time.Second
	// unansweredAfter is how long the broker may be silent about a message until that is
	// logged. It is waited for all the same: a second copy would double the message.
	unansweredAfter = 30 * time.Second
	// toleratedFailures are not logged: a queue that has just been declared may refuse
	// what comes in the same instant.
	toleratedFailures = 2
	// lastOffers is how long a daemon that is stopping goes on to offer what the broker
	// refuses.
	lastOffers = 2 * time.Second
)

// reply publishes the result of a delivery that asks for it. Finished work is never
// repeated for a reply: one that nobody waits for, or that cannot be sent, is dropped
// with a line in the log; one that the broker does not take now is parked, and the
// delivery is acknowledged.
func (e *executor) reply(ctx context.Context, j *job, r Result) action {
	d := &j.delivery
	if d.ReplyTo == "" {
		return acknowledge
	}
	return e.sendReply(ctx, j, d.ReplyTo, 0, amqp.Publishing{
		DeliveryMode:  amqp.Persistent,
		ContentType:   cmp.Or(r.ContentType, "application/json"),
		CorrelationId: d.CorrelationId,
		Type:          d.Type,
		Body:          r.Body,
	})
}

// deliverReply offers a reply that has waited. Its delivery is nothing but that reply.
func (e *executor) deliverReply(ctx context.Context, j *job) action {
	msg := republishing(j)
	for name := range msg.Headers {
		if strings.HasPrefix(name, broker.OwnHeaders) {
			delete(msg.Headers, name)
		}
	}
	msg.MessageId = ""
	if err := e.policy.Check(j.history.replyTo); err != nil {
		err = Undecodable(err)
		return e.bury(ctx, j, outcome{attempts: j.history.attempts, err: err, verdict: verdictOf(ctx, err)})
	}
	return e.sendReply(ctx, j, j.history.replyTo, j.history.attempts, msg)
}

// sendReply offers a reply for a moment, and then parks it, or dead-letters it if it was
// offered as often as a message is tried.
func (e *executor) sendReply(ctx context.Context, j *job, to string, offers int, msg amqp.Publishing) action {
	patience, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	e.sessions.Impatient(patience, e.replyFor, func() { giveUp(broker.ErrNoConfirm) })
	err := e.publishUntil(patience, broker.Outgoing{Key: to, Message: msg, Purpose: broker.ForReply, Queue: e.Name})
	log := broker.Traced(ctx, e.log).With("message_id", j.delivery.MessageId, "reply_to", to)
	switch {
	case err == nil:
		return acknowledge
	case errors.Is(err, broker.ErrUnroutable):
		log.Warn("nobody waits for the result any more, it is dropped")
		return acknowledge
	case broker.IsObjection(err):
		log.Error("the result cannot be sent, it is dropped; the work is done", "error", err)
		return acknowledge
	}
	waiting := msg
	waiting.MessageId = cmp.Or(j.delivery.MessageId, msg.MessageId)
	waiting.Headers = maps.Clone(msg.Headers)
	if waiting.Headers == nil {
		waiting.Headers = amqp.Table{}
	}
	now := time.Now()
	waiting.Headers[headerReplyTo] = to
	broker.WriteFailure(waiting.Headers, offers+1, err, now, e.identity)
	if offers+1 >= e.MaxAttempts {
		log.Error("the reply was refused too often, it is dead-lettered; the work is done", "error", err, "dead_letter_queue", e.onBroker.DeadLetterQueue())
		waiting.Headers[broker.HeaderReason] = reasonUndeliverable
		return settledBy(e.publishDeadLetter(ctx, j, waiting, reasonUndeliverable))
	}
	after := max(waits.Backoff(e.RetryBase, e.RetryMax, offers+1), broker.ShortestWait)
	log.Warn("the reply cannot be published now, it waits; the work is done", "error", err, "retry_in", after)
	err = e.park(ctx, j, waiting, now.Add(after))
	if broker.IsObjection(err) {
		log.Error("the result cannot be sent, it is dropped; the work is done", "error", err)
		return acknowledge
	}
	return settledBy(err)
}

// postpone has the delivery wait until due, as msg. One that cannot be published again is
// dead-lettered for it.
func (e *executor) postpone(ctx context.Context, j *job, msg amqp.Publishing, due time.Time, o outcome) action {
	err := e.park(ctx, j, msg, due)
	if !broker.IsObjection(err) {
		return settledBy(err)
	}
	err = fmt.Errorf("it cannot wait: %w", err)
	if o.err != nil {
		err = fmt.Errorf("%w; %w", o.err, err)
	}
	o.err, o.verdict = err, verdict{action: deadLetter, reason: reasonPermanent}
	return e.bury(ctx, j, o)
}

// park publishes msg to a wait queue, the one whose wait comes next to what remains
// until due. When that has passed the broker hands the message out again, and what
// remains then is waited in the same way.
func (e *executor) park(ctx context.Context, j *job, msg amqp.Publishing, due time.Time) error {
	msg.Headers[broker.HeaderNotBefore] = due.Add(time.Millisecond - 1).UnixMilli() // rounded up: never early
	queue := e.onBroker.PutToWait(&msg, time.Until(due)+waitSlack)
	if s := e.sessions.Get(); e.freed != nil && s != nil && !s.Publish.Blocked() && e.publishing.Since().IsZero() {
		e.freed(j) // or there would be as many on their way as there are slots
	}
	err := e.publish(ctx, queue, msg, broker.ForWait)
	if err == nil {
		e.meters.Parked(ctx)
		e.observeWait(j, msg, due)
	}
	return err
}

// errHeadersTooLong is why a delivery with unreadable headers cannot be published.
var errHeadersTooLong = fmt.Errorf("%w: its headers cannot be read, and leave no room to publish them as they were", broker.ErrUnsendable)

// bury publishes the delivery to the dead-letter queue. If it cannot be published with
// what Warren adds, the broker dead-letters it, whole. What the broker would do with one
// of a queue that Warren has not declared is not known: that is published as it came. So
// is one with an x-death, which its publisher may have made up: RabbitMQ 3.10 loses the
// whole queue over dead-lettering one that is not as it writes them.
func (e *executor) bury(ctx context.Context, j *job, o outcome) action {
	msg := republishing(j)
	delete(msg.Headers, broker.HeaderNotBefore)
	broker.WriteFailure(msg.Headers, o.attempts, o.err, time.Now(), e.identity)
	msg.Headers[broker.HeaderReason] = o.verdict.reason
	err := errHeadersTooLong
	if !broker.HeadersAreLost(&j.delivery) {
		err = e.publishDeadLetter(ctx, j, msg, o.verdict.reason)
		if broker.IsObjection(err) && (e.Passive || j.delivery.Headers["x-death"] != nil) {
			msg.Headers = broker.AsItCame(&j.delivery)
			err = e.publishDeadLetter(ctx, j, msg, o.verdict.reason)
		}
	}
	a := settledBy(err)
	switch {
	case err == nil:
		e.logFailure(ctx, slog.LevelError, "message dead-lettered", j, o, "reason", o.verdict.reason, "dead_letter_queue", e.onBroker.DeadLetterQueue())
		e.observeDeath(j, o)
	case a == reject:
		e.logFailure(ctx, slog.LevelError, "message rejected whole, the broker dead-letters it: Warren cannot publish it with what it would add",
			j, o, "reason", o.verdict.reason, "publish_error", err)
		e.observeDeath(j, o)
	}
	return a
}

func (e *executor) publishDeadLetter(ctx context.Context, j *job, msg amqp.Publishing, reason string) error {
	err := e.publish(ctx, e.onBroker.DeadLetterQueue(), msg, broker.ForDeadLetter)
	if err == nil {
		e.meters.DeadLettered(ctx, reason)
	}
	return err
}

// republish publishes the delivery to the end of its own queue, in place of requeuing
// it, where that would count toward the delivery limit.
func (e *executor) republish(ctx context.Context, j *job) action {
	ctx, msg := e.tracing.parent(ctx, &j.delivery), republishing(j)
	if !j.history.notBefore.IsZero() { // or a delay would begin anew, or be lost
		msg.Headers[broker.HeaderNotBefore] = j.history.notBefore.UnixMilli()
	}
	if !j.started.IsZero() {
		msg.Headers[headerRedelivered] = true // as the broker would have it
	}
	if broker.HeadersAreLost(&j.delivery) || e.publish(ctx, e.Name, msg, broker.ForReturn) != nil {
		return requeue
	}
	return acknowledge
}

// publish publishes to one of the queue's own queues until the broker has confirmed it,
// over whichever session there is. What an attempt has come to is kept for so long: it is
// not repeated because something else could not be published. An error says that the
// message cannot be published at all, or that ctx has ended, or that there will be no
// session any more.
func (e *executor) publish(ctx context.Context, queue string, msg amqp.Publishing, purpose broker.Purpose) error {
	ctx, cancel := broker.WithGrace(ctx, e.returnFor)
	defer cancel()
	if purpose == broker.ForDeadLetter {
		delete(msg.Headers, broker.HeaderCopy) // it may be put back into its queue
	} else {
		msg.Headers[broker.HeaderCopy] = rand.Text()
	}
	return e.publishUntil(ctx, broker.Outgoing{
		Key: queue, Message: msg, Purpose: purpose, Queue: e.Name, Declare: e.onBroker.Redeclare(queue),
	})
}

// publishUntil offers a message until the broker has confirmed it, ctx ends, or the error
// is one that no repetition cures. Faults are logged when they begin and end.
func (e *executor) publishUntil(ctx context.Context, o broker.Outgoing) error {
	backoff := retry.WithCappedDuration(2*time.Second, retry.NewExponential(50*time.Millisecond))
	for failures := 0; ; failures++ {
		s, err := e.sessions.Wait(ctx)
		if err != nil {
			return err
		}
		silent := time.AfterFunc(unansweredAfter, func() {
			e.publishing.Begin(e.log, slog.LevelError, cannotPublish, broker.ErrNoConfirm)
		})
		err = broken.Publish(ctx, func(ctx context.Context) error { return s.Publish.Publish(ctx, o) })
		silent.Stop()
		switch {
		case err == nil:
			e.publishing.End(e.log, "publishing works again")
			return nil
		case ctx.Err() != nil, broker.IsObjection(err), o.Purpose == broker.ForReply && errors.Is(err, broker.ErrUnroutable):
			return err
		case s.IsLost(), errors.Is(err, broker.ErrShared): // logged as such, or another message's fault
			e.copies.Double(o.Message.Headers[broker.HeaderCopy])
			o.Alone = true
			continue
		case o.Purpose != broker.ForReply && failures >= toleratedFailures:
			e.publishing.Begin(e.log, slog.LevelError, cannotPublish, broker.Explain(err))
		}
		// A daemon that is stopping does not wait for what has failed for long.
		if d, _ := backoff.Next(); e.sessions.StoppedFor() > lastOffers || !broker.Sleep(ctx, d) {
			return err
		}
	}
}

const cannotPublish = "cannot publish, the outcome of attempts is kept until that works and their deliveries keep their slots"

// settledBy is how a delivery is settled that something had to be published for: it is
// not the broker's to forget before the broker has confirmed that. What cannot be
// published with what Warren adds goes whole to where the broker dead-letters it.
func settledBy(err error) action {
	switch {
	case err == nil:
		return acknowledge
	case broker.IsObjection(err):
		return reject
	}
	return requeue
}
