package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/remembered"
	"github.com/warrenmq/warren/consumer/internal/rest"
	"github.com/warrenmq/warren/consumer/internal/unsettled"
	"github.com/warrenmq/warren/internal/failpoint"
)

var errCancelled = errors.New("the broker cancelled the consumer: its queue was deleted, or a delivery was worked for longer than the broker's consumer timeout")

// A subscription is one channel of a session on which one queue is consumed.
type subscription struct {
	session   *broker.Session
	user      string // the broker's name for this process
	ch        *broker.Channel
	cancels   chan string
	unsettled unsettled.Deliveries[*job]

	tag        string
	consumers  int                  // so far
	prefetch   int                  // of the consumer there is
	settled    bool                 // it has the queue's own prefetch
	deliveries <-chan amqp.Delivery // nil when the broker has sent its last
	replaced   <-chan amqp.Delivery // the last of the consumer before
	unstarted  []*job               // kept back until they can be returned
	rest       rest.Rest
	acked      remembered.Recent
}

// subscribe makes sure of the queue and begins to consume it, on a new channel of the
// newest session. It blocks until the broker has answered.
func (l *queueLoop) subscribe(ctx context.Context) {
	l.close()
	if l.halted() {
		return
	}
	q := l.executor.onBroker
	err := l.session.Trial.Do(ctx, func(c *broker.Conn) error {
		if err := c.Ensure(q.Declarations(), q.Passive, q.EnvPrefix); err != nil {
			l.state.Stranded.See(l.log, c.Stranded(q.Name))
			return err
		}
		l.state.Stranded.End(l.log)
		return c.TryConsume(ctx, q.Name, l.wary)
	})
	if err != nil {
		l.cannotConsume(err)
		return
	}
	failpoint.Here(failpoint.Declared)
	ch, err := l.session.Consume.OpenChannel()
	if err != nil {
		l.cannotConsume(err)
		return
	}
	l.sub = &subscription{
		session: l.session,
		user:    l.session.Consume.User,
		ch:      ch,
		cancels: ch.NotifyCancel(make(chan string, 4)),
	}
	l.session.Use()
	l.sub.acked.Most = cap(l.results) // those of consumers before as well
	// The first message says whether there are suspects.
	if err := l.consume(1); err != nil {
		l.wary = broker.IsFatal(err)
		l.cannotConsume(err)
		return
	}
	failpoint.Here(failpoint.Consumed)
	l.retries, l.wary = nil, false
	l.state.SetReason("")
	l.outage.End(l.log, "the queue is consumed again")
	l.log.Info("consuming", "node", l.session.Node(), "concurrency", l.executor.Concurrency, "prefetch", l.size.At(time.Now()))
}

// consume has the broker hand out so many deliveries at once, by a new consumer on the
// channel, in place of the one there is. With a context, the library would cancel each when
// the channel ends, beside what the loop asks then, and mix up the answers.
func (l *queueLoop) consume(prefetch int) error {
	s, before := l.sub, l.sub.tag
	s.consumers++
	tag := fmt.Sprintf("%s %d", s.session.Consume.Name, s.consumers)
	var deliveries <-chan amqp.Delivery
	err := s.ch.Answer(func() (err error) {
		if err = s.ch.Qos(prefetch, 0, false); err == nil {
			deliveries, err = s.ch.Consume(l.executor.Name, tag, false, false, false, false, l.executor.onBroker.ConsumeArguments(s.session.Consume.Version))
		}
		if err == nil && before != "" {
			err = s.ch.Cancel(before, false)
		}
		return err
	})
	if err == nil {
		s.tag, s.replaced, s.deliveries, s.prefetch = tag, s.deliveries, deliveries, prefetch
		l.state.Prefetch.Store(int64(prefetch))
	}
	return err
}

// widen adapts how much is taken at once to the delivery that has come, until one comes
// that is no suspect.
func (l *queueLoop) widen(work context.Context, j *job) {
	s := l.sub
	if s == nil || s != j.sub || s.settled || !l.mayRenew() {
		return
	}
	wanted := l.size.At(time.Now())
	if j.history.deliveryCount >= broker.SuspectAfter {
		// Half as many each time that it was handed out in vain: the message that kills
		// is soon alone, and the others do not wait for each other longer than they must.
		wanted = max(1, l.executor.Concurrency>>(j.history.deliveryCount-broker.SuspectAfter+1))
		if wanted < l.executor.Concurrency {
			l.logOf(work, j).Warn("the message was redelivered several times and may end the process, few are worked beside it",
				"delivery_count", j.history.deliveryCount, "prefetch", wanted)
		}
	} else {
		s.settled = true
	}
	l.renew(wanted)
}

// resize adapts how much is handed out at once to how long attempts take.
func (l *queueLoop) resize() {
	if l.sub == nil || !l.sub.settled || !l.mayRenew() {
		return
	}
	if before, wanted := l.sub.prefetch, l.size.At(time.Now()); wanted != before {
		l.log.Debug("the prefetch follows from how long attempts take", "prefetch", wanted, "before", before, "duration", l.size.Mean())
		l.renew(wanted)
	}
}

// mayRenew tells whether the consumer of the channel may be replaced.
func (l *queueLoop) mayRenew() bool {
	return l.sub.replaced == nil && !l.pace.Braked && !l.stopping && l.consuming()
}

// renew replaces it by one with another prefetch.
func (l *queueLoop) renew(wanted int) {
	if wanted == l.sub.prefetch {
		return
	}
	if err := l.consume(wanted); err != nil {
		l.cannotConsume(err)
	}
}

// cannotConsume logs why the queue is not consumed, gives up its channel, and has it
// tried again.
func (l *queueLoop) cannotConsume(err error) {
	err = broker.Explain(err)
	if !l.session.IsLost() && !errors.Is(err, context.Canceled) { // or it is the connection's fault, and logged as such, or the stop's
		l.outage.Begin(l.log, slog.LevelError, "cannot consume the queue, trying again", err)
	}
	l.retry(err)
}

// rest blocks until the broker has taken what was settled on all channels that are left, or ctx ends.
func (l *queueLoop) rest(ctx context.Context) {
	var until time.Time
	for _, s := range append(l.leaving, l.sub) {
		if s != nil && s.rest.Until().After(until) && !s.session.Consume.IsClosed() {
			until = s.rest.Until()
		}
	}
	failpoint.Here(failpoint.StopSettled)
	select {
	case <-time.After(time.Until(until)):
	case <-ctx.Done():
	}
	failpoint.Here(failpoint.StopRested)
}

// leave gives up a channel whose consumer has ended, because of err if the broker says
// nothing else. If that was not asked for, it logs why and has the queue consumed anew.
func (l *queueLoop) leave(err error) {
	if l.stopping {
		l.sub.cancels = nil // with the channel lost, it would be ready for ever
		return              // the end of the deliveries is what counts
	}
	select {
	case reason := <-l.sub.ch.Closes():
		err = broker.LostBecause(reason)
	default:
	}
	if !l.session.IsLost() {
		l.outage.Begin(l.log, slog.LevelWarn, "the broker has ended the consumer of the queue, consuming it anew", err)
	}
	l.retry(err)
}

// retry gives up the channel because of err, and has the queue tried again after a while,
// unless the connection is lost: then the supervisor brings a new session.
func (l *queueLoop) retry(err error) {
	l.close()
	if l.session.IsLost() {
		l.state.SetReason("the connection to the broker is lost")
		return
	}
	l.state.SetReason(err.Error())
	if l.retries == nil {
		l.retries = broker.Backoff()
	}
	d, _ := l.retries.Next()
	if errors.Is(err, broker.ErrStuck) {
		d = time.Minute // each that is answered after all takes a message, and gives it back: one more of those in vain
	}
	l.retryAt = time.After(d)
}

// close gives up the channel, if there is one.
func (l *queueLoop) close() {
	l.flush(true)
	l.retryAt = nil
	if s := l.sub; s != nil {
		l.sub = nil
		l.giveUp(s)
	}
}

// handOver leaves the channel of a session that is replaced: what has been started goes
// on, what has not is returned. It tells whether another session may be taken up.
func (l *queueLoop) handOver(work context.Context) bool {
	s := l.sub
	if s == nil || s.session.IsLost() || l.stopping {
		return s == nil || !l.stopping
	}
	s.rest.EndAsked(time.Now())
	if s.ch.Answer(func() error { return s.ch.Cancel(s.tag, false) }) != nil {
		l.close()
		return true
	}
	for _, last := range []<-chan amqp.Delivery{s.replaced, s.deliveries} {
		if last != nil {
			for d := range last {
				l.keepBack(work, d)
			}
		}
	}
	s.rest.Ended(time.Now())
	l.giveBack(work)
	l.leaving = append(l.leaving, s)
	l.sub = nil
	return true
}

// halted tells whether nothing is to be consumed. That is no fault.
func (l *queueLoop) halted() bool {
	if l.state.Halt.On() {
		l.state.SetReason("")
	}
	return l.stopping || l.state.Halt.On()
}

// halt leaves the queue alone, or takes it up again, as operators have asked for. What has
// been started is finished.
func (l *queueLoop) halt(ctx, work context.Context) {
	switch {
	case l.session == nil || l.session.IsLost():
	case l.halted():
		l.retryAt = nil
		l.handOver(work)
	case l.sub == nil:
		l.subscribe(ctx)
	}
}

// finishLeaving acknowledges what is finished, and gives up what has nothing more or is lost.
func (l *queueLoop) finishLeaving() {
	l.leaving = slices.DeleteFunc(l.leaving, func(s *subscription) bool {
		l.flushOf(s, true)
		if (!s.unsettled.Empty() || !s.rest.Over(time.Now())) && !s.session.IsLost() && !s.ch.IsClosed() {
			return false
		}
		l.giveUp(s)
		return true
	})
}

// giveUp closes the channel. The broker hands its unsettled deliveries out once more: what
// is still worked is an orphan from now on, and acknowledgements that the broker may not
// have got are remembered.
func (l *queueLoop) giveUp(s *subscription) {
	defer s.session.Leave()
	if err := s.ch.GiveUp(); err != nil || !s.rest.Over(time.Now()) { // err: it was lost, or is not closed yet
		failpoint.Here(failpoint.ChannelLost)
		for _, id := range s.acked.IDs() {
			l.remembered.Add(id, time.Now())
		}
		failpoint.Here(failpoint.Remembered)
	}
	for j := range s.unsettled.All() {
		switch {
		case j.holder != nil:
			j.holder.twins = slices.DeleteFunc(j.holder.twins, func(t *job) bool { return t == j }) // the broker hands it out again
		case !j.started.IsZero() || j.returning:
			l.orphans[j] = l.identityOf(j)
		default:
			l.executor.copies.Release(j.history.copy, false)
		}
	}
}
