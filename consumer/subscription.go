package consumer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// suspectAfter is the delivery count from which a message is suspected of having
// killed the processes that it was handed to. A channel that begins with such
// messages takes them alone: whatever else the broker had handed out would be
// counted, too, and dead-lettered with them in the end.
const suspectAfter = deliveryLimit / 4

var errCancelled = errors.New("the broker cancelled the consumer: its queue was deleted, or a delivery was worked for longer than the broker's consumer timeout")

// A subscription is one channel of a session on which one queue is consumed.
type subscription struct {
	session   *session
	ch        *amqp.Channel
	closes    chan *amqp.Error
	unsettled unsettled
	// deliveries is nil while suspects are taken one by one, and again when the
	// broker has sent its last.
	deliveries <-chan amqp.Delivery
}

// subscribe makes sure of the queue and begins to consume it, on a new channel of
// the newest session. It blocks until the broker has answered.
func (l *queueLoop) subscribe(ctx, work context.Context) {
	l.close()
	if l.stopping {
		return
	}
	q := l.worker.Queue
	if err := ensure(l.session.consume, q.declarations(), q.Passive, q.EnvPrefix); err != nil {
		l.cannotConsume(err)
		return
	}
	ch, err := l.session.consume.Channel()
	if err != nil {
		l.cannotConsume(err)
		return
	}
	l.sub = &subscription{
		session: l.session,
		ch:      ch,
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}
	if err := ch.Qos(q.Prefetch, 0, false); err != nil {
		l.cannotConsume(err)
		return
	}
	l.state.setReason("")
	l.advance(ctx, work)
}

// advance takes the next message of a channel that is not consumed yet, and alone
// if it is a suspect. With the first that is none, the channel is consumed.
func (l *queueLoop) advance(ctx, work context.Context) {
	s := l.sub
	if s == nil || l.stopping || s.deliveries != nil || len(s.unsettled.entries) > 0 || l.busy >= l.worker.Concurrency {
		return
	}
	var d amqp.Delivery
	var ok bool
	var err error
	if !l.singleActive {
		d, ok, err = s.ch.Get(l.worker.Name, false)
	}
	if reply, is := errors.AsType[*amqp.Error](err); is && reply.Code == amqp.ResourceLocked {
		l.singleActive = true // no message of its is to be had but by consuming it
		l.subscribe(ctx, work)
		return
	}
	if err != nil {
		l.cannotConsume(err)
		return
	}
	if ok {
		// Its result, or that of another job, brings us here again: a repeat has none.
		if j := l.start(work, d); j.story.deliveryCount >= suspectAfter && l.busy > 0 {
			l.logOf(work, j).Warn("the message was handed out in vain several times and may end the process, it is worked alone",
				"delivery_count", j.story.deliveryCount)
			return
		}
	}
	s.deliveries, err = s.ch.ConsumeWithContext(ctx, l.worker.Name, "", false, false, false, false, nil)
	if err != nil {
		if ctx.Err() == nil {
			l.cannotConsume(err)
		}
		return
	}
	l.retries = nil
	l.outage.End(l.log, "the queue is consumed again")
	l.log.Info("consuming", "node", s.session.node, "concurrency", l.worker.Concurrency, "prefetch", l.worker.Prefetch)
}

// cannotConsume logs why the queue is not consumed, gives up its channel, and has
// it tried again.
func (l *queueLoop) cannotConsume(err error) {
	err = explain(err)
	if !l.session.isLost() { // or it is the connection's fault, and logged as such
		l.outage.Begin(l.log, slog.LevelError, "cannot consume the queue, trying again", err)
	}
	l.retry(err)
}

// leave gives up a channel whose consumer has ended. If that was not asked for, it
// logs why and has the queue consumed anew.
func (l *queueLoop) leave() {
	if l.stopping {
		l.sub.deliveries = nil // the channel itself is needed until all is settled
		return
	}
	err := errCancelled
	select {
	case reason := <-l.sub.closes:
		err = lostBecause(reason)
	default:
	}
	if !l.session.isLost() {
		l.outage.Begin(l.log, slog.LevelWarn, "the broker has ended the consumer of the queue, consuming it anew", err)
	}
	l.retry(err)
}

// retry gives up the channel because of err, and has the queue tried again after a
// while, unless the connection is lost: then the supervisor brings a new session.
func (l *queueLoop) retry(err error) {
	l.close()
	if l.session.isLost() {
		l.state.setReason("the connection to the broker is lost")
		return
	}
	l.state.setReason(err.Error())
	if l.retries == nil {
		l.retries = reconnectBackoff()
	}
	d, _ := l.retries.Next()
	l.retryAt = time.After(d)
}

// close gives up the channel, if there is one. The broker hands its unsettled
// deliveries out once more; what their work comes to is remembered.
func (l *queueLoop) close() {
	l.flush()
	l.retryAt = nil
	if l.sub != nil && !l.sub.ch.IsClosed() {
		_ = l.sub.ch.Close() // an error means that it was lost in this instant
	}
	l.sub = nil
}
