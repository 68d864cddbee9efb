package consumer

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
	"golang.org/x/time/rate"

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/broken"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/meters"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/prefetch"
	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/consumer/internal/remembered"
	"github.com/warrenmq/warren/consumer/internal/replies"
	"github.com/warrenmq/warren/consumer/internal/starved"
	"github.com/warrenmq/warren/consumer/internal/unsettled"
	"github.com/warrenmq/warren/consumer/internal/workers"
	"github.com/warrenmq/warren/internal/failpoint"
)

const (
	// returnTimeout bounds how long it may take to publish what is returned.
	returnTimeout = abandonAfter / 2
	// returnedOften is the delivery count from which a delivery is returned by publishing
	// it, where the broker counts what is requeued: well before it is a suspect.
	returnedOften = 2
)

// A queueLoop consumes one queue for as long as the daemon runs. Its goroutine is
// the only one that uses the channel and the fields below.
type queueLoop struct {
	executor *executor
	log      *slog.Logger
	sessions chan *broker.Session   // the newest; written by the supervisor alone
	calls    chan func()            // from others, to be run by the loop
	workers  *workers.Workers[*job] // begun by run
	results  chan result            // buffered for every job there can be: never blocks a worker

	session    *broker.Session // the last one given; nil before
	sub        *subscription   // nil while the queue is not consumed
	leaving    []*subscription // of sessions that were replaced, until all of theirs is settled
	stopping   bool
	busy       int // jobs whose result is not in yet, of earlier sessions too
	freed      int // of them, that need no slot
	remembered *remembered.Messages
	orphans    map[*job]remembered.Identity // still worked, though their channel is lost
	stopped    tally
	outage     outage.Outage
	meters     meters.Of
	state      *meters.Queue // the only part that others may look at, at any time

	wary    bool             // consuming the queue has ended a connection
	retries retry.Backoff    // nil while the channel works
	retryAt <-chan time.Time // when to try a channel that failed alone once more

	starved starved.Watch // whether the queue is left without deliveries

	pace   brake.Pace       // what the brake allows
	paceAt <-chan time.Time // when that may change by itself
	probe  *job             // the one that is worked while the brake is on

	size    *prefetch.Size
	limiter *rate.Limiter    // nil: no limit
	startAt <-chan time.Time // while the rate is used up

	acks unsettled.Pace // of acknowledgements
}

// A tally counts what became of the deliveries that were there when the daemon
// began to stop.
type tally struct{ finished, returned, abandoned int }

func newQueueLoop(q Queue, state *meters.Queue, c *Consumer) *queueLoop {
	log, size := c.log.With("queue", q.Name), prefetch.New(q.Concurrency, q.Prefetch, q.sizes)
	l := &queueLoop{
		executor: &executor{
			Queue: q, onBroker: q.onBroker(), sessions: c.sessions, policy: replies.NewPolicy(q.ReplyTo, c.cfg.queueNames(), q.EnvPrefix), replyFor: replyPatience, returnFor: returnTimeout, copies: remembered.NewCopies[job](),
			database: c.cfg.Database, observer: c.cfg.Observer, identity: c.cfg.Worker, log: log,
			tracing: newTracing(c.cfg.Telemetry, q.Name), meters: c.meters.Of(q.Name), state: state, brake: state.Brake,
		},
		log:        log,
		meters:     c.meters.Of(q.Name),
		state:      state,
		sessions:   make(chan *broker.Session, 1),
		calls:      make(chan func()),
		size:       size,
		results:    make(chan result, 2*(q.Concurrency+size.Most()+1)),
		remembered: remembered.New(),
		orphans:    make(map[*job]remembered.Identity),
		starved:    starved.New(time.Now()),
	}
	l.executor.freed = func(j *job) { l.results <- result{j, free} }
	if q.Rate > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(q.Rate), 1)
		l.limiter.Allow() // each start reserves the next one's turn; the first needs none
	}
	return l
}

// offer gives the loop a new session, in place of one it has not taken yet. Only
// the supervisor calls it; it never blocks.
func (l *queueLoop) offer(s *broker.Session) {
	select {
	case <-l.sessions:
	default:
	}
	l.sessions <- s
}

// run takes deliveries until ctx ends, returns what has not been started then, and ends
// when all that has been is settled, or when abandon ends. work is the context of the
// executors; all of them have ended when run returns, unless abandon has.
func (l *queueLoop) run(ctx, work, abandon context.Context) {
	stop := ctx.Done()
	turns := time.NewTicker(pulse.Every)
	defer turns.Stop()
	l.state.Turned.Beat(time.Now())
	defer l.state.Turned.End()
	l.hire(work)
	for !l.stopping || l.busy > 0 || l.consuming() {
		l.heed()
		select {
		case s := <-l.sessions:
			if l.handOver(work) {
				l.session, l.retries = s, nil
				l.subscribe(ctx)
			}
		case <-l.retryAt:
			l.subscribe(ctx)
		case d, open := <-l.deliveries():
			for more := true; more; { // all that there is room for: to ask for each as for the rest costs a microsecond
				l.take(work, d, open)
				select {
				case d, open = <-l.deliveries():
				default:
					more = false
				}
			}
		case <-l.cancelled():
			l.leave(errCancelled)
		case f := <-l.calls:
			f()
		case <-l.state.Halt.Changes():
			l.halt(ctx, work)
		case <-l.paceAt:
			l.pace = brake.Pace{} // is asked for anew
		case <-l.startAt:
			l.startAt = nil
		case r := <-l.results:
			for more := true; more; {
				l.settle(work, r)
				select {
				case r = <-l.results:
				default:
					more = false
				}
			}
			l.acknowledge()
			l.resize()
		case <-l.acks.At:
			l.acks.At = nil
			l.acknowledge()
		case <-turns.C:
			l.turn(ctx, work, time.Now()) // the tick may be an old one
		case <-stop:
			stop, l.stopping, l.retryAt = nil, true, nil
			l.state.SetReason("the daemon is stopping")
			if s := l.sub; l.consuming() { // what the broker sends until it has answered is returned
				s.rest.EndAsked(time.Now())
				go s.ch.Cancel(s.tag, false) //nolint:errcheck // with the channel lost, the deliveries end as well
			}
		case <-abandon.Done():
			l.workers.End() // when they can
			l.abandon(work)
			return
		}
	}
	l.workers.End()
	l.workers.Wait()
	l.rest(abandon)
	l.finishLeaving()
	l.close()
}

// take does with a delivery, or with the end of a consumer's, what is to be done now.
func (l *queueLoop) take(work context.Context, d amqp.Delivery, open bool) {
	switch {
	case !open && l.sub.replaced != nil:
		l.sub.replaced = nil
		if !l.stopping {
			l.giveBack(work)
		}
	case !open && l.stopping:
		l.sub.deliveries = nil // the channel itself is needed until all is settled
		l.sub.rest.Ended(time.Now())
		l.giveBack(work)
	case !open:
		l.leave(errCancelled)
	case l.stopping || l.turningAway():
		l.keepBack(work, d)
	default:
		l.widen(work, l.start(work, d))
	}
}

// turn shows that the loop makes progress, and looks after workers and attempts. If no
// delivery has come for a while although slots are free, it asks the broker whether there is
// any; if there has been for long, the queue is consumed anew.
func (l *queueLoop) turn(ctx, work context.Context, now time.Time) {
	pulse.Hang()
	l.state.Turned.Beat(now)
	l.finishLeaving()
	l.workers.Turn(l.busy)
	l.reportOverdue(work, now)
	if !l.consuming() || l.stopping || l.pace.Braked || l.busy > 0 || l.startAt != nil || !l.starved.Due(now) {
		return
	}
	ready, err := l.sub.session.Ready(ctx, l.executor.Name)
	if err == nil { // or it may not be permitted to look
		l.state.SetIdle(now, ready > 0)
	} else if broker.IsGone(err) {
		l.leave(broker.Explain(err)) // the broker may not say so if it was deleted while the consumer was renewed
	}
	if idle := l.state.Idle(now); l.starved.Looked(now, err == nil && ready > 0, idle) {
		l.log.Warn("the queue has messages, but the broker hands none out; consuming it anew", "messages", ready, "duration", idle.Round(time.Second))
		l.subscribe(ctx)
	}
}

// consuming tells whether the broker may still send something.
func (l *queueLoop) consuming() bool { return l.sub != nil && l.sub.deliveries != nil }

// deliveries returns the channel to receive from, or nil, which is never ready,
// while nothing may be started.
func (l *queueLoop) deliveries() <-chan amqp.Delivery {
	switch {
	case l.sub == nil || !l.stopping && !l.turningAway() && (l.full() || l.startAt != nil):
		return nil
	case l.sub.replaced != nil:
		return l.sub.replaced
	}
	return l.sub.deliveries
}

// full tells whether all slots are taken that there are now.
func (l *queueLoop) full() bool {
	if l.pace.Braked { // what is still worked from before may take long
		return l.pace.Slots == 0 || l.probe != nil
	}
	return l.busy-l.freed >= l.pace.Slots
}

// turningAway tells whether what comes was handed out ahead of a brake, and is returned.
func (l *queueLoop) turningAway() bool { return l.pace.Braked && l.sub != nil && l.sub.replaced != nil }

// heed adapts to the brake how many are worked at once and, while that is on, how many
// the broker hands out.
func (l *queueLoop) heed() {
	pace := l.executor.brake.Pace()
	if pace != l.pace {
		l.pace, l.paceAt = pace, nil
		if !pace.Until.IsZero() {
			l.paceAt = time.After(time.Until(pace.Until))
		}
	}
	if s := l.sub; pace.Braked && !l.stopping && l.consuming() && s.replaced == nil {
		s.settled = false // it is widened again by what comes after
		l.renew(1)
	}
}

// cancelled gets the name of a consumer that the broker has cancelled; it is read even
// while nothing may be started.
func (l *queueLoop) cancelled() <-chan string {
	if l.sub == nil {
		return nil
	}
	return l.sub.cancels
}

// start hands a delivery to an executor, unless it is a repeat of work that is done or
// still under way. It returns the delivery's job.
func (l *queueLoop) start(work context.Context, d amqp.Delivery) *job {
	now := time.Now()
	j := l.receive(d, now)
	l.starved.Delivered(now)
	l.state.SetIdle(now, false)
	if l.repeats(work, j, now) {
		return j
	}
	j.started = now
	if !j.identified {
		// From the first attempt on, it is what the message is called: the copy that
		// waits for the next carries it along.
		j.delivery.MessageId = rand.Text()
	}
	if d.Redelivered {
		l.logOf(work, j).Info("redelivered: the worker that had the message before was lost or returned it; what that did may be done twice",
			"delivery_count", j.history.deliveryCount)
	}
	if l.pace.Braked {
		l.probe = j
	}
	l.state.Consumed.Add(1)
	l.occupy(1, 0)
	l.workers.Do(j, l.busy)
	if l.limiter != nil && !j.history.notBefore.After(now) { // one that is only parked costs nothing
		if d := l.limiter.Reserve().Delay(); d > 0 {
			l.startAt = time.After(d)
		}
	}
	return j
}

// receive makes the job of a delivery that has come at now.
func (l *queueLoop) receive(d amqp.Delivery, now time.Time) *job {
	failpoint.Here(failpoint.Received)
	l.finishLeaving() // it may be one of a channel that is lost
	j := &job{delivery: d, sub: l.sub, identified: d.MessageId != ""}
	l.sub.unsettled.Add(d.DeliveryTag, j)
	j.history, j.fault = readHistory(&j.delivery, now, l.sub.user)
	return j
}

// repeats tells whether the delivery is a repeat that is not to be worked: of work that
// is done, then it is acknowledged, or of what is still in hand here, then it is held
// until that has ended. It is a redelivery, or the second of two copies.
func (l *queueLoop) repeats(work context.Context, j *job, now time.Time) bool {
	holder, done := l.executor.copies.Claim(j.history.copy, j)
	if !done && holder == nil && j.delivery.Redelivered && (l.remembered.Some() || len(l.orphans) > 0) {
		id := l.remembered.IdentityOf(&j.delivery)
		done = l.remembered.Take(id, now) && !broken.Forgets
		for orphan, its := range l.orphans {
			if !done && its == id && len(orphan.twins) == 0 {
				holder = orphan
				break
			}
		}
	}
	switch {
	case done:
		failpoint.Here(failpoint.Repeated)
		l.executor.copies.Release(j.history.copy, true)
		l.logOf(work, j).Info("repeat of work that is done, acknowledged without running again", "redelivered", j.delivery.Redelivered)
		l.settleAs(work, j, acknowledge)
		l.acknowledge()
	case holder != nil:
		l.logOf(work, j).Info("repeat of a message that is still worked here, held until that has ended", "redelivered", j.delivery.Redelivered)
		holder.twins, j.holder = append(holder.twins, j), holder
	}
	return done || holder != nil
}

// logOf returns a logger whose lines tell the job's delivery apart.
func (l *queueLoop) logOf(ctx context.Context, j *job) *slog.Logger {
	return broker.Traced(l.executor.tracing.parent(ctx, &j.delivery), l.log).With("message_id", j.delivery.MessageId, "attempt", j.history.attempts+1)
}

// hire begins the workers.
func (l *queueLoop) hire(work context.Context) {
	l.workers = workers.New(func(j *job) {
		l.attend(j, func() action { return broken.Work(func() action { return l.executor.work(work, j) }, acknowledge) })
	})
}

// do runs f in a goroutine of its own.
func (l *queueLoop) do(j *job, f func() action) {
	l.occupy(1, 0)
	go l.attend(j, f)
}

// occupy counts jobs that begin or end, and those of them that need no slot.
func (l *queueLoop) occupy(busy, freed int) {
	l.busy, l.freed = l.busy+busy, l.freed+freed
	l.state.InFlight.Store(int64(l.busy - l.freed))
}

// attend runs f. Its last act is to send the result, and run waits for as many results as
// jobs have begun.
func (l *queueLoop) attend(j *job, f func() action) {
	r := result{j, requeue}
	defer func() { // also if a processor ends its goroutine
		failpoint.Here(failpoint.Resulted)
		j.finished = time.Now()
		l.results <- r
	}()
	failpoint.Here(failpoint.Started)
	r.action = f()
}

// keepBack keeps a delivery that is not to be started until its consumer gets no more:
// returned before, it might come again.
func (l *queueLoop) keepBack(work context.Context, d amqp.Delivery) {
	if j := l.receive(d, time.Now()); !l.repeats(work, j, time.Now()) {
		l.sub.unstarted = append(l.sub.unstarted, j)
		failpoint.Here(failpoint.KeptBack)
	}
}

// giveBack returns what has been kept back.
func (l *queueLoop) giveBack(work context.Context) {
	for _, j := range l.sub.unstarted {
		l.giveBackJob(work, j)
		if l.stopping {
			l.stopped.returned++
		}
	}
	l.sub.unstarted = nil
}

// giveBackJob requeues a delivery or, where that would bring it nearer to the delivery
// limit without its fault, publishes it to its queue and acknowledges it.
func (l *queueLoop) giveBackJob(work context.Context, j *job) {
	if !l.returnCounts(j) || j.returning {
		l.requeue(j)
		return
	}
	j.returning = true
	l.do(j, func() action {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(work), l.executor.returnFor)
		defer cancel()
		return l.executor.republish(ctx, j)
	})
}

// returnCounts tells whether requeuing would bring a delivery that has been requeued
// before nearer to the delivery limit.
func (l *queueLoop) returnCounts(j *job) bool {
	return j.sub.session.Consume.Version.NackCounts && l.executor.Type == Quorum && j.history.deliveryCount >= returnedOften
}

func (l *queueLoop) requeue(j *job) {
	l.state.Returned.Add(1)
	tag := j.delivery.DeliveryTag
	j.sub.unsettled.Remove(tag)
	l.executor.copies.Release(j.history.copy, false)
	_ = j.sub.ch.Nack(tag, false, true) // with the channel lost, it goes back all the same
	j.sub.rest.Settled(time.Now())
	failpoint.Here(failpoint.Requeued)
	for _, twin := range j.twins {
		l.requeue(twin)
	}
}

// settle takes the result of a job. An acknowledgement is sent with the next flush; with
// its channel lost, the result is for the redelivery.
func (l *queueLoop) settle(work context.Context, r result) {
	j := r.job
	if !j.started.IsZero() && j.freed == 0 && r.action != requeue {
		l.size.Took(time.Since(j.started), len(j.delivery.Body))
	}
	if r.action == free {
		j.freed = 1
		l.occupy(0, 1)
		return
	}
	l.occupy(-1, -j.freed)
	if j == l.probe {
		l.probe = nil
	}
	if r.action == requeue {
		l.executor.observeReturn(j)
	}
	l.count(work, r)
	l.executor.copies.Release(j.history.copy, r.action == acknowledge)
	delete(l.orphans, j)
	twins := j.twins
	j.twins = nil
	if j.sub != nil && (j.sub == l.sub || slices.Contains(l.leaving, j.sub)) {
		l.settleAs(work, j, r.action)
	} else if len(twins) == 0 && r.action == acknowledge {
		l.remembered.Add(l.identityOf(j), time.Now())
	}
	for _, twin := range twins {
		twin.holder = nil
		l.settleAs(work, twin, r.action)
	}
}

// settleAs settles a delivery of the channel there is.
func (l *queueLoop) settleAs(work context.Context, j *job, a action) {
	switch a {
	case acknowledge:
		if j.started.IsZero() && !j.returning {
			l.state.Repeats.Add(1)
		}
		j.sub.unsettled.Finish(j.delivery.DeliveryTag)
	case reject:
		j.sub.unsettled.Remove(j.delivery.DeliveryTag)
		_ = j.sub.ch.Reject(j.delivery.DeliveryTag, false) // with the channel lost, it is redelivered, and rejected then
		j.sub.rest.Settled(time.Now())
	default:
		l.giveBackJob(work, j)
	}
}

func (l *queueLoop) identityOf(j *job) remembered.Identity {
	d := j.delivery
	if !j.identified {
		d.MessageId = "" // the one it has is ours
	}
	return l.remembered.IdentityOf(&d)
}

// count takes note of what became of a job while the daemon is stopping.
func (l *queueLoop) count(work context.Context, r result) {
	switch {
	case r.job.returning || !l.stopping && work.Err() == nil:
	case r.action != requeue && !r.job.started.IsZero():
		l.stopped.finished++
	case r.action == requeue && work.Err() != nil:
		l.stopped.abandoned++
	default:
		l.stopped.returned++
	}
}

// acknowledge sends the acknowledgements of what is finished, now or, while many
// follow each other, a moment later together. It holds none back that the broker
// may be waiting for to send more.
func (l *queueLoop) acknowledge() {
	l.finishLeaving()
	s := l.sub
	if s == nil || s.unsettled.Finished() == 0 {
		return
	}
	// At most so many are on their way or have not been read.
	if coming := s.prefetch - s.unsettled.Len(); l.stopping || coming < l.pace.Slots-l.busy+l.freed {
		l.flush(true)
		return
	}
	// Half of the prefetch in one frame, not a quarter: the daemon takes an eighth less
	// time for it, the broker a quarter.
	if s.unsettled.Fresh() >= s.prefetch/2 || l.acks.Due() {
		l.flush(false)
	}
	if s.unsettled.Finished() > 0 {
		l.acks.Wait()
	}
}

// flush sends the acknowledgements of what is finished, or those that should not wait.
func (l *queueLoop) flush(all bool) {
	l.acks.Sent()
	if l.sub != nil {
		l.flushOf(l.sub, all)
	}
}

func (l *queueLoop) flushOf(s *subscription, all bool) {
	if s.unsettled.Finished() == 0 {
		return
	}
	var oldest time.Time
	sent := func(j *job) {
		if j.identified {
			s.acked.Add(l.remembered.IdentityOf(&j.delivery))
		}
		if oldest.IsZero() {
			oldest = j.finished // zero for a repeat, which nobody worked
		}
	}
	now := time.Now()
	s.unsettled.Flush(all, s.ch.Ack, sent, func(j *job) { l.remembered.Add(l.identityOf(j), now) })
	if !oldest.IsZero() {
		l.meters.AckLag(now.Sub(oldest))
	}
	s.rest.Settled(now)
}

// abandon returns what is still worked on, without waiting for it.
func (l *queueLoop) abandon(work context.Context) {
	for len(l.results) > 0 { // finished at the last moment
		l.settle(work, <-l.results)
	}
	l.finishLeaving()
	l.flush(true)
	if l.sub != nil {
		l.leaving = append(l.leaving, l.sub)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(work), l.executor.returnFor)
	defer cancel()
	var returning sync.WaitGroup
	underWay := make(map[*job]bool)
	for _, s := range l.leaving {
		s.rest.Settled(time.Now()) // from now on
		for j := range s.unsettled.All() {
			if j.returning { // requeued beside its copy, it would be there twice
				underWay[j] = true
				continue
			}
			if !j.started.IsZero() {
				l.logOf(work, j).Error("work was still going on at the shutdown timeout, its message is requeued", "duration", time.Since(j.started))
			}
			returning.Go(func() {
				if l.returnCounts(j) && l.executor.republish(ctx, j) == acknowledge {
					_ = s.ch.Ack(j.delivery.DeliveryTag, false)
				} else {
					_ = s.ch.Nack(j.delivery.DeliveryTag, false, true)
				}
			})
		}
	}
	l.stopped.abandoned += l.busy - len(underWay) // which are counted
	returned := make(chan struct{})
	go func() { // ends with the connection at the latest
		defer close(returned)
		returning.Wait()
		for len(underWay) > 0 {
			r := <-l.results
			switch {
			case !underWay[r.job]:
			case r.action == acknowledge:
				_ = r.job.sub.ch.Ack(r.job.delivery.DeliveryTag, false)
			default:
				_ = r.job.sub.ch.Nack(r.job.delivery.DeliveryTag, false, true)
			}
			delete(underWay, r.job)
		}
	}()
	select {
	case <-returned:
		l.rest(ctx)
	case <-ctx.Done():
	}
}
