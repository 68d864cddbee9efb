package consumer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
	"golang.org/x/time/rate"
)

// suspectAfter is the delivery count from which a message is suspected of having
// killed the processes it was handed to. A channel that begins with such a message
// takes it alone: whatever else the broker had handed out would be counted too,
// and dead-lettered with it in the end.
const suspectAfter = deliveryLimit / 4

// A subscription is one channel of a session on which one queue is consumed.
type subscription struct {
	session   *session
	ch        *amqp.Channel
	closes    chan *amqp.Error
	unsettled unsettled
	// deliveries is nil while suspects are taken one by one.
	deliveries <-chan amqp.Delivery
}

var errCancelled = errors.New("the broker cancelled the consumer; the queue may have been deleted")

// A queueLoop consumes one queue for as long as the daemon runs. Its goroutine is
// the only one that uses the channel and the fields below.
type queueLoop struct {
	worker   *worker
	log      *slog.Logger
	sessions chan *session // the newest; written by the supervisor alone
	results  chan result   // buffered for every job there can be: never blocks a worker

	sub        *subscription // nil while there is none
	session    *session      // the last one given
	busy       int           // jobs whose result is not in yet, of earlier sessions too
	remembered *remembered
	limiter    *rate.Limiter // nil: no limit
	stopped    tally         // counted once the daemon is stopping
	outage     outage
}

// A tally counts what became of the deliveries that were there when the daemon
// began to stop.
type tally struct{ finished, returned, abandoned int }

func newQueueLoop(q Queue, identity string, longestWait time.Duration, log *slog.Logger) *queueLoop {
	log = log.With("queue", q.Name)
	l := &queueLoop{
		worker:     &worker{Queue: q, identity: identity, longestWait: longestWait, log: log},
		log:        log,
		sessions:   make(chan *session, 1),
		results:    make(chan result, q.Concurrency+q.Prefetch),
		remembered: newRemembered(),
	}
	if q.Rate > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(q.Rate), 1)
	}
	return l
}

// offer gives the loop a new session in place of one it has not taken yet. Only
// the supervisor calls it; it never blocks.
func (l *queueLoop) offer(s *session) {
	select {
	case <-l.sessions:
	default:
	}
	l.sessions <- s
}

// run takes deliveries until ctx ends, gives back what has not been started then,
// and returns when all that has been is settled, or when abandon ends. work is the
// context of the workers; all of them have ended when run returns, unless abandon
// has.
func (l *queueLoop) run(ctx, work, abandon context.Context) {
	var (
		stopping = ctx.Done() // nil once the daemon is
		retries  retry.Backoff
		retryAt  <-chan time.Time // of a channel that failed alone
		nextDue  <-chan time.Time // while the rate is used up
	)
	for stopping != nil || l.busy > 0 || l.consuming() {
		var deliveries <-chan amqp.Delivery // nil, never ready, while nothing may be started
		if l.sub != nil && (stopping == nil || l.busy < l.worker.Concurrency && nextDue == nil) {
			deliveries = l.sub.deliveries
		}
		lost := false
		select {
		case d, ok := <-deliveries:
			switch {
			case !ok && stopping == nil:
				l.sub.deliveries = nil // the broker has sent its last
			case !ok:
				l.leave()
				lost = true
			case stopping == nil:
				l.giveBack(work, d)
			default:
				l.start(work, d)
				nextDue = l.pause()
			}
		case r := <-l.results:
			l.settle(r, stopping == nil)
			for more := true; more; {
				select {
				case r := <-l.results:
					l.settle(r, stopping == nil)
				default:
					more = false
				}
			}
			l.flush()
			if stopping != nil {
				lost = !l.advance(ctx, work)
			}
		case s := <-l.sessions:
			l.session, retries, retryAt = s, nil, nil
			lost = !l.subscribe(ctx, work)
		case <-retryAt:
			retryAt = nil
			lost = !l.subscribe(ctx, work)
		case <-nextDue:
			nextDue = nil
		case <-stopping:
			// The context of the channel's consumer is ctx, too: the broker is
			// being told, and what it still sends until then is given back.
			stopping, retryAt = nil, nil
		case <-abandon.Done():
			l.abandon()
			return
		}
		if lost && !l.session.isLost() {
			// The channel alone failed. With the connection, the supervisor
			// brings a new session.
			if retries == nil {
				retries = reconnectBackoff()
			}
			d, _ := retries.Next()
			retryAt = time.After(d)
		} else if l.sub != nil {
			retries = nil
		}
	}
}

// consuming tells whether the broker may still send something.
func (l *queueLoop) consuming() bool { return l.sub != nil && l.sub.deliveries != nil }

// subscribe makes sure of the queue and begins to consume it on a channel of its
// own. It blocks until the broker has answered, and returns false if it cannot;
// the fault is logged.
func (l *queueLoop) subscribe(ctx, work context.Context) bool {
	l.close()
	q := l.worker.Queue
	err := ensure(l.session.consume, q.declarations(), q.Passive, q.EnvPrefix)
	if err != nil {
		return l.cannotConsume(err)
	}
	ch, err := l.session.consume.Channel()
	if err != nil {
		return l.cannotConsume(err)
	}
	l.sub = &subscription{
		session: l.session,
		ch:      ch,
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}
	if err := ch.Qos(q.Prefetch, 0, false); err != nil {
		return l.cannotConsume(err)
	}
	return l.advance(ctx, work)
}

// advance takes the next message of a channel that is not consumed yet, alone if
// it is a suspect; with the first that is none, the channel is consumed. It
// returns false if the channel is lost.
func (l *queueLoop) advance(ctx, work context.Context) bool {
	s := l.sub
	if s == nil || s.deliveries != nil || len(s.unsettled.entries) > 0 || l.busy >= l.worker.Concurrency {
		return true
	}
	d, ok, err := s.ch.Get(l.worker.Name, false)
	if err != nil {
		return l.cannotConsume(err)
	}
	if ok {
		if j := l.start(work, d); j != nil && j.story.deliveryCount >= suspectAfter {
			l.log.Warn("the message has been handed out in vain several times, it is worked alone", "message_id", d.MessageId, "delivery_count", j.story.deliveryCount)
			return true
		}
	}
	s.deliveries, err = s.ch.ConsumeWithContext(ctx, l.worker.Name, "", false, false, false, false, nil)
	if err != nil {
		if ctx.Err() != nil {
			return true
		}
		return l.cannotConsume(err)
	}
	l.outage.end(l.log, "queue is consumed again")
	l.log.Info("consuming", "node", s.session.node, "concurrency", l.worker.Concurrency, "prefetch", l.worker.Prefetch)
	return true
}

// cannotConsume logs why the queue is not consumed, and gives up its channel.
func (l *queueLoop) cannotConsume(err error) bool {
	if !l.session.isLost() { // or it is the connection's fault, and logged as such
		l.outage.begin(l.log, slog.LevelError, "cannot consume the queue, trying again", explain(err))
	}
	l.close()
	return false
}

// leave gives up a channel whose consumer has ended, and logs why.
func (l *queueLoop) leave() {
	if !l.sub.session.isLost() {
		err := errCancelled
		select {
		case reason := <-l.sub.closes:
			err = explain(reason)
		default:
		}
		l.outage.begin(l.log, slog.LevelWarn, "the broker has ended the consumer of the queue, consuming it anew", err)
	}
	l.close()
}

// close gives up the channel, if there is one. The broker hands its unsettled
// deliveries out once more; what their work comes to is remembered.
func (l *queueLoop) close() {
	if l.sub != nil && !l.sub.ch.IsClosed() {
		_ = l.sub.ch.Close() // an error means that it was lost in this instant
	}
	l.sub = nil
}

// start hands a delivery to a worker, unless it is a repeat of work that is done.
// It returns nil in that case.
func (l *queueLoop) start(work context.Context, d amqp.Delivery) *job {
	j := &job{delivery: d, sub: l.sub, started: time.Now()}
	l.sub.unsettled.add(j)
	if l.remembered.take(&d) {
		l.log.Info("repeat of work that was done before its acknowledgement was lost, acknowledged without running again", "message_id", d.MessageId)
		l.sub.unsettled.finish(d.DeliveryTag)
		l.flush()
		return nil
	}
	j.story, j.fault = readStory(&j.delivery, j.started)
	if j.fault != nil {
		j.fault = undecodable(j.fault)
	}
	l.busy++
	go l.do(j, func() action { return l.worker.work(work, j) })
	return j
}

// do runs f in a goroutine of its own, whose end is its result: run waits for as
// many results as it has started jobs.
func (l *queueLoop) do(j *job, f func() action) {
	r := result{j, giveBack}
	defer func() { l.results <- r }()
	r.action = f()
}

// giveBack gives back a delivery that has not been started. Where that counts
// toward the delivery limit and half of it is used up, it is sent home instead.
func (l *queueLoop) giveBack(work context.Context, d amqp.Delivery) {
	j := &job{delivery: d, sub: l.sub}
	l.sub.unsettled.add(j)
	j.story, _ = readStory(&d, time.Time{}) // only the broker's own count is needed
	if l.sub.session.broker.nackCounts && l.worker.Type == Quorum && 2*j.story.deliveryCount >= deliveryLimit {
		l.busy++
		go l.do(j, func() action { return l.worker.sendHome(work, j) })
		return
	}
	l.requeue(j)
	l.stopped.returned++
}

func (l *queueLoop) requeue(j *job) {
	tag := j.delivery.DeliveryTag
	j.sub.unsettled.remove(tag)
	_ = j.sub.ch.Nack(tag, false, true) // with the channel lost, it goes back all the same
}

// settle takes the result of a job. An acknowledgement is sent with the next
// flush; with its channel lost, the work is remembered.
func (l *queueLoop) settle(r result, stopping bool) {
	l.busy--
	current := l.sub != nil && r.job.sub == l.sub
	switch {
	case r.action == acknowledge && current:
		l.sub.unsettled.finish(r.job.delivery.DeliveryTag)
	case r.action == acknowledge:
		l.remembered.add(&r.job.delivery)
	case current:
		l.requeue(r.job)
	}
	if stopping {
		switch {
		case r.job.started.IsZero():
			l.stopped.returned++
		case r.action == acknowledge:
			l.stopped.finished++
		default:
			l.stopped.abandoned++
		}
	}
}

func (l *queueLoop) flush() {
	if l.sub != nil {
		l.sub.unsettled.flush(l.sub.ch.Ack, func(j *job) { l.remembered.add(&j.delivery) })
	}
}

// pause returns when the next delivery may be started; nil means at once.
func (l *queueLoop) pause() <-chan time.Time {
	if l.limiter == nil {
		return nil
	}
	if d := l.limiter.Reserve().Delay(); d > 0 {
		return time.After(d)
	}
	return nil
}

// abandon gives back what is still worked on, without waiting for it.
func (l *queueLoop) abandon() {
	l.stopped.abandoned += l.busy
	if l.sub == nil {
		return
	}
	for _, e := range l.sub.unsettled.entries {
		l.log.Error("work was still going on at the shutdown timeout, its message is given back", "message_id", e.job.delivery.MessageId,
			"duration", time.Since(e.job.started))
		_ = l.sub.ch.Nack(e.job.delivery.DeliveryTag, false, true)
	}
}
