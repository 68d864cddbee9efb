package consumer

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// ackPace is how long finished deliveries are gathered for one multiple-ack while
// acknowledgements follow each other faster than that; one that comes by itself is
// sent at once. The broker works about a quarter more messages a second for it.
const ackPace = time.Millisecond

// starvedAfter is how long a queue may have messages that the broker does not hand
// out before it is consumed anew; each further time takes twice as long, up to
// starvedAtMost: another consumer may be the only one that it hands them to.
const (
	starvedAfter  = time.Minute
	starvedAtMost = time.Hour
)

// A queueLoop consumes one queue for as long as the daemon runs. Its goroutine is
// the only one that uses the channel and the fields below.
type queueLoop struct {
	worker   *worker
	log      *slog.Logger
	sessions chan *session // the newest; written by the supervisor alone
	results  chan result   // buffered for every job there can be: never blocks a worker

	session    *session      // the last one given; nil before
	sub        *subscription // nil while the queue is not consumed
	stopping   bool
	busy       int // jobs whose result is not in yet, of earlier sessions too
	remembered *remembered
	stopped    tally
	outage     outage.Outage
	meters     queueMeters
	state      state // the only part that others may look at, at any time

	singleActive bool // the queue has one active consumer only, and its messages cannot be got

	retries retry.Backoff    // nil while the channel works
	retryAt <-chan time.Time // when to try a channel that failed alone once more

	delivered    time.Time     // when a delivery came last
	starvedAfter time.Duration // that of the constant, but in tests
	patience     time.Duration // how long it may have been, before the queue is consumed anew

	limiter *rate.Limiter    // nil: no limit
	startAt <-chan time.Time // while the rate is used up

	flushed time.Time        // when acknowledgements were sent last
	flushAt <-chan time.Time // while some are gathered
}

// A tally counts what became of the deliveries that were there when the daemon
// began to stop.
type tally struct{ finished, returned, abandoned int }

func newQueueLoop(q Queue, c *Consumer) *queueLoop {
	log := c.log.With("queue", q.Name)
	meters := newQueueMeters(c.meters, q.Name)
	l := &queueLoop{
		worker: &worker{
			Queue: q, database: c.cfg.Database, observer: c.cfg.Observer, identity: c.cfg.Worker, longestWait: c.top.longestWait(), log: log,
			tracing: newTracing(c.cfg.Telemetry, q.Name), meters: meters,
		},
		log:        log,
		meters:     meters,
		sessions:   make(chan *session, 1),
		results:    make(chan result, q.Concurrency+q.Prefetch),
		remembered: newRemembered(),
		delivered:  time.Now(),

		starvedAfter: starvedAfter,
		patience:     starvedAfter,
	}
	l.worker.attempts, l.worker.repeats = &l.state.attempts, &l.state.repeats
	if q.Rate > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(q.Rate), 1)
		l.limiter.Allow() // each start reserves the next one's turn; the first needs none
	}
	return l
}

// offer gives the loop a new session, in place of one it has not taken yet. Only
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
	stop := ctx.Done()
	turns := time.NewTicker(turnEvery)
	defer turns.Stop()
	l.state.turned.beat(time.Now())
	defer l.state.turned.end()
	for !l.stopping || l.busy > 0 || l.consuming() {
		select {
		case s := <-l.sessions:
			l.session, l.retries = s, nil
			l.subscribe(ctx, work)
		case <-l.retryAt:
			l.subscribe(ctx, work)
		case d, open := <-l.deliveries():
			switch {
			case !open:
				l.leave()
			case l.stopping:
				l.giveBack(work, d)
			default:
				l.start(work, d)
			}
		case <-l.startAt:
			l.startAt = nil
		case r := <-l.results:
			l.settle(work, r)
			for more := true; more; {
				select {
				case r := <-l.results:
					l.settle(work, r)
				default:
					more = false
				}
			}
			l.acknowledge()
			l.advance(ctx, work)
		case <-l.flushAt:
			l.flush()
			l.advance(ctx, work)
		case now := <-turns.C:
			l.turn(ctx, work, now)
		case <-stop:
			// The channel's consumer was given ctx, too: the broker is being told
			// to send no more, and what it sends until then is given back.
			stop, l.stopping, l.retryAt = nil, true, nil
			l.state.setReason("the daemon is stopping")
		case <-abandon.Done():
			l.abandon(work)
			return
		}
	}
	l.flush()
}

// turn shows that the loop makes progress. If no delivery has come since the last
// turn although slots are free, it asks the broker whether there is any; if there has
// been for long, the queue is consumed anew.
func (l *queueLoop) turn(ctx, work context.Context, now time.Time) {
	hang()
	l.state.turned.beat(now)
	if !l.consuming() || l.stopping || l.busy > 0 || l.startAt != nil || now.Sub(l.delivered) < turnEvery {
		return
	}
	var q amqp.Queue
	err := onChannel(l.sub.session.consume, func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclarePassive(l.worker.Name, true, false, false, false, nil)
		return err
	})
	switch {
	case err != nil: // it may not be permitted to look
	case q.Messages == 0:
		l.state.idleFrom.Store(0)
	default:
		l.state.idleFrom.CompareAndSwap(0, l.delivered.UnixNano())
		if idle := l.state.starved(now); idle >= l.patience {
			l.log.Warn("the queue has messages, but the broker hands none out; consuming it anew", "messages", q.Messages, "duration", idle.Round(time.Second))
			l.patience = min(2*l.patience, starvedAtMost)
			l.subscribe(ctx, work)
		}
	}
}

// consuming tells whether the broker may still send something.
func (l *queueLoop) consuming() bool { return l.sub != nil && l.sub.deliveries != nil }

// deliveries returns the channel to receive from, or nil, which is never ready,
// while nothing may be started.
func (l *queueLoop) deliveries() <-chan amqp.Delivery {
	if l.sub == nil || !l.stopping && (l.busy >= l.worker.Concurrency || l.startAt != nil) {
		return nil
	}
	return l.sub.deliveries
}

// start hands a delivery to a worker, unless it is a repeat of work that is done.
// It returns the delivery's job.
func (l *queueLoop) start(work context.Context, d amqp.Delivery) *job {
	j := &job{delivery: d, sub: l.sub, started: time.Now()}
	l.sub.unsettled.add(j)
	l.delivered = j.started
	l.state.idleFrom.Store(0)
	l.patience = l.starvedAfter
	j.story, j.fault = readStory(&j.delivery, j.started)
	if l.remembered.take(&d) {
		l.state.repeats.Add(1)
		l.logOf(work, j).Info("repeat of work that was done before its acknowledgement was lost, acknowledged without running again")
		l.sub.unsettled.finish(d.DeliveryTag)
		l.acknowledge()
		return j
	}
	j.identified = j.delivery.MessageId != ""
	if !j.identified {
		// From the first attempt on, it is what the message is called: the copy that
		// waits for the next carries it along.
		j.delivery.MessageId = rand.Text()
	}
	l.state.consumed.Add(1)
	l.do(j, func() action { return l.worker.work(work, j) })
	if l.limiter != nil {
		if d := l.limiter.Reserve().Delay(); d > 0 {
			l.startAt = time.After(d)
		}
	}
	return j
}

// logOf returns a logger whose lines tell the job's delivery apart.
func (l *queueLoop) logOf(ctx context.Context, j *job) *slog.Logger {
	return traced(l.worker.tracing.parent(ctx, &j.delivery), l.log).With("message_id", j.delivery.MessageId, "attempt", j.story.attempts+1)
}

// do runs f in a goroutine of its own. Its last act is to send its result, and run
// waits for as many results as it has begun jobs.
func (l *queueLoop) do(j *job, f func() action) {
	l.busy++
	l.state.inFlight.Store(int64(l.busy))
	go func() {
		r := result{j, giveBack}
		defer func() { // also if a processor ends its goroutine
			j.finished = time.Now()
			l.results <- r
		}()
		r.action = f()
	}()
}

// giveBack gives back a delivery that has not been started. Where that counts
// toward the delivery limit and half of it is used up, it is sent home instead.
func (l *queueLoop) giveBack(work context.Context, d amqp.Delivery) {
	j := &job{delivery: d, sub: l.sub}
	l.sub.unsettled.add(j)
	j.story, _ = readStory(&d, time.Time{}) // only the broker's own count is needed
	if l.sub.session.broker.nackCounts && l.worker.Type == Quorum && 2*j.story.deliveryCount >= deliveryLimit {
		l.do(j, func() action { return l.worker.sendHome(work, j) })
		return
	}
	l.requeue(j)
	l.stopped.returned++
}

func (l *queueLoop) requeue(j *job) {
	l.state.returned.Add(1)
	tag := j.delivery.DeliveryTag
	j.sub.unsettled.remove(tag)
	_ = j.sub.ch.Nack(tag, false, true) // with the channel lost, it goes back all the same
}

// settle takes the result of a job. An acknowledgement is sent with the next
// flush; with its channel lost, the work is remembered.
func (l *queueLoop) settle(work context.Context, r result) {
	l.busy--
	l.state.inFlight.Store(int64(l.busy))
	current := l.sub != nil && r.job.sub == l.sub
	switch {
	case r.action == acknowledge && current:
		l.sub.unsettled.finish(r.job.delivery.DeliveryTag)
	case r.action == acknowledge:
		l.remembered.add(&r.job.delivery)
	case current:
		l.requeue(r.job)
	}
	if r.action == giveBack {
		l.worker.observeReturn(r.job)
	}
	switch {
	case !l.stopping:
	case r.action == acknowledge && !r.job.started.IsZero():
		l.stopped.finished++
	case r.action == giveBack && work.Err() != nil:
		l.stopped.abandoned++
	default:
		l.stopped.returned++
	}
}

// acknowledge sends the acknowledgements of what is finished, now or, while many
// follow each other, a moment later together. It holds none back that the broker
// may be waiting for to send more.
func (l *queueLoop) acknowledge() {
	switch {
	case l.sub == nil || l.sub.unsettled.finished == 0 || l.flushAt != nil && l.sub.unsettled.finished < l.worker.Prefetch/4:
	case l.sub.unsettled.finished >= l.worker.Prefetch/4 || time.Since(l.flushed) >= ackPace:
		l.flush()
	default:
		l.flushAt = time.After(ackPace - time.Since(l.flushed))
	}
}

// flush sends the acknowledgements of what is finished.
func (l *queueLoop) flush() {
	l.flushAt, l.flushed = nil, time.Now()
	if l.sub == nil {
		return
	}
	var oldest time.Time
	sent := func(j *job) {
		l.state.done.Add(1)
		if oldest.IsZero() {
			oldest = j.finished // zero for a repeat, which nobody worked
		}
	}
	l.sub.unsettled.flush(l.sub.ch.Ack, sent, func(j *job) { l.remembered.add(&j.delivery) })
	if !oldest.IsZero() {
		l.meters.ackLag.Record(context.Background(), l.flushed.Sub(oldest).Seconds(), l.meters.record...)
	}
}

// abandon gives back what is still worked on, without waiting for it.
func (l *queueLoop) abandon(work context.Context) {
	l.flush()
	l.stopped.abandoned += l.busy
	if l.sub == nil {
		return
	}
	for _, e := range l.sub.unsettled.entries {
		l.logOf(work, e.job).Error("work was still going on at the shutdown timeout, its message is given back", "duration", time.Since(e.job.started))
		_ = l.sub.ch.Nack(e.job.delivery.DeliveryTag, false, true)
	}
}
