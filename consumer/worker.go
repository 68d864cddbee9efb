package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

// A job is one delivery on its way through a worker.
type job struct {
	delivery   amqp.Delivery
	sub        *subscription
	story      story
	identified bool      // it came with a message id
	fault      error     // of the headers; the delivery is dead-lettered for it
	started    time.Time // zero: it was given back instead
	finished   time.Time // zero: no worker has had it
}

// A result is what a worker sends back, once, for each job: acknowledge or
// giveBack. All that had to be published for the delivery has been confirmed.
type result struct {
	job    *job
	action action
}

// overdueAfter is how long after the timeout a processor is reported that does not
// return.
const overdueAfter = 10 * time.Second

var errNotStarted = errors.New("the attempt was not started")

// A worker works the deliveries of one queue, each in a goroutine of its own. It
// never touches the channel that they came from.
type worker struct {
	Queue
	identity    string // of this process, for x-warren-worker
	longestWait time.Duration
	log         *slog.Logger
	publishing  outage.Outage
	tracing     tracing
	meters      queueMeters
	attempts    *[len(actionNames)]atomic.Int64 // counted by verdict
	repeats     *atomic.Int64
	database    Database // nil: none
	observer    Observer // nil: none
}

// work takes one delivery through its attempts to a verdict, and does what the
// verdict asks for but for the last step, to acknowledge it or give it back: that
// is the answer. It ends soon after ctx.
func (w *worker) work(ctx context.Context, j *job) action {
	ctx = w.tracing.parent(ctx, &j.delivery)
	if j.fault != nil {
		err := Undecodable(j.fault)
		return w.bury(ctx, j, outcome{attempts: j.story.attempts, err: err, verdict: verdictOf(ctx, err)})
	}
	switch wait := time.Until(j.story.notBefore); {
	case wait+waitSlack >= shortestWait:
		return w.park(ctx, j, again(&j.delivery), j.story.notBefore)
	case wait > 0 && !sleep(ctx, wait):
		return giveBack
	}
	ctx, o := w.attempt(ctx, j)
	switch o.verdict.action {
	case acknowledge:
		settled := w.reply(ctx, j, o.answer)
		if settled == acknowledge {
			w.record(ctx, o)
			w.observeSuccess(j, o)
		}
		return settled
	case deadLetter:
		return w.bury(ctx, j, o)
	case giveBack:
		return giveBack
	}
	msg := again(&j.delivery)
	now := time.Now()
	writeFailure(msg.Headers, o.attempts, o.err, now, w.identity)
	w.logFailure(ctx, o.level(), "attempt failed, the message waits for the next", j, o, "retry_in", o.verdict.after)
	return w.park(ctx, j, msg, now.Add(o.verdict.after))
}

// An outcome is what the attempts at a delivery have come to.
type outcome struct {
	attempts int // that the message has behind it
	answer   Result
	err      error // of the last
	verdict  verdict
	key      *InboxKey // nil: it is not looked for in the inbox
	recorded bool      // in the inbox, by the last
	repeat   bool      // the last found the work done
	// progress tells the observer of the attempt. Nil: nobody is told.
	progress  func(percent int, text string)
	uncounted int // attempts that failed for want of a dependency or the database
}

// level is that at which a failure is logged; that there is no database is logged
// once, by the database.
func (o outcome) level() slog.Level {
	if errors.Is(o.err, ErrDatabase) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// attempt runs the processor, and runs it again where the wait for the next attempt
// is too short for the broker. The context that it returns is ctx with the span of
// the last attempt: what follows from that hangs on it.
func (w *worker) attempt(ctx context.Context, j *job) (context.Context, outcome) {
	o := outcome{attempts: j.story.attempts, err: errNotStarted}
	if w.database != nil && j.identified {
		o.key = newInboxKey(w.Name, j.delivery.MessageId, j.delivery.Body)
	}
	inProcess := retry.BackoffFunc(func() (time.Duration, bool) { return o.verdict.after, o.verdict.after >= shortestWait })
	interrupted := retry.Do(ctx, inProcess, func(context.Context) error {
		spanCtx, span := w.tracing.startAttempt(ctx, j, o.attempts+1)
		started := time.Now()
		o.progress = w.observeAttempt(j, o.attempts+1)
		w.once(spanCtx, newDelivery(w.Name, &j.delivery, o.attempts+1), &o)
		if verdictOf(ctx, o.err).uncounted {
			o.uncounted++
		} else {
			o.attempts++
		}
		o.verdict = w.decide(ctx, o)
		w.attempts[o.verdict.action].Add(1)
		w.meters.attempted(spanCtx, o.err, time.Since(started))
		endAttempt(span, o.verdict, o.err)
		ctx = spanCtx
		if o.verdict.action != retryLater || o.verdict.after >= shortestWait {
			return nil
		}
		w.logFailure(ctx, o.level(), "attempt failed, the next follows shortly", j, o, "retry_in", o.verdict.after)
		return retry.RetryableError(o.err)
	})
	if interrupted != nil { // before the first attempt, or in a wait
		o.verdict = w.decide(ctx, o)
	}
	return ctx, o
}

// decide returns the verdict on the last attempt: that of its error, with the wait
// worked out, unless it was the last that the message has.
func (w *worker) decide(ctx context.Context, o outcome) verdict {
	v := verdictOf(ctx, o.err)
	if v.action != retryLater {
		return v
	}
	if v.uncounted {
		v.after = max(v.after, outageWait(o.uncounted))
		return v
	}
	if o.attempts >= w.MaxAttempts {
		return verdict{action: deadLetter, reason: reasonExhausted}
	}
	v.after = max(v.after, backoff(w.RetryBase, w.RetryMax, o.attempts))
	return v
}

// once runs the processor on d, in a scope of its own, for at most the timeout;
// unless the inbox knows that the work is done.
func (w *worker) once(ctx context.Context, d Delivery, o *outcome) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.Timeout, ErrTimeout)
	defer cancel()
	if o.key != nil && (w.recall(ctx, o) || o.err != nil) {
		return
	}
	if o.progress != nil {
		o.progress(0, "")
	}
	s := w.newScope(ctx, &d, o)
	overdue := time.AfterFunc(w.Timeout+overdueAfter, func() {
		traced(ctx, w.log).Error("the processor goes on after its timeout has ended its context, it holds its slot until it returns",
			"message_id", d.MessageID, "attempt", d.Attempt, "timeout", w.Timeout)
	})
	defer overdue.Stop()
	err := s.run(ctx, w.Processor)
	if errors.Is(s.databaseErr, ErrDone) { // done while this attempt began
		w.recall(ctx, o)
		return
	}
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) && !errors.Is(err, ErrTimeout) {
		err = fmt.Errorf("%w (%v): %w", ErrTimeout, w.Timeout, err)
	}
	o.answer, o.err, o.recorded = s.result, err, s.tx != nil
}

// reply publishes the result of a delivery that asks for it. A requester that has
// gone is no reason to do the work once more.
func (w *worker) reply(ctx context.Context, j *job, r Result) action {
	d := &j.delivery
	if d.ReplyTo == "" {
		return acknowledge
	}
	err := w.publish(ctx, j, purposeReply, "", d.ReplyTo, amqp.Publishing{
		DeliveryMode:  amqp.Persistent,
		ContentType:   orDefault(r.ContentType, "application/json"),
		CorrelationId: d.CorrelationId,
		Type:          d.Type,
		Body:          r.Body,
	})
	if errors.Is(err, errUnroutable) {
		traced(ctx, w.log).Warn("nobody waits for the result any more, it is dropped", "message_id", d.MessageId, "reply_to", d.ReplyTo)
		return acknowledge
	}
	return acknowledgedIf(err)
}

// park publishes msg to a wait queue, the one whose wait comes next to what
// remains until due. When that has passed the broker hands the message out again,
// and what remains then is waited in the same way.
func (w *worker) park(ctx context.Context, j *job, msg amqp.Publishing, due time.Time) action {
	msg.Headers[headerNotBefore] = due.Add(time.Millisecond - 1).UnixMilli() // rounded up: never early
	step := waitStep(time.Until(due)+waitSlack, w.longestWait)
	err := w.publish(ctx, j, purposeWait, waitName(step), w.Name, msg)
	if err == nil {
		w.observeWait(j, msg, due)
	}
	return acknowledgedIf(err)
}

// bury publishes the delivery to the dead-letter queue.
func (w *worker) bury(ctx context.Context, j *job, o outcome) action {
	w.logFailure(ctx, slog.LevelError, "message dead-lettered", j, o, "reason", o.verdict.reason, "dead_letter_queue", w.deadLetterQueue())
	msg := again(&j.delivery)
	writeFailure(msg.Headers, o.attempts, o.err, time.Now(), w.identity)
	msg.Headers[headerReason] = o.verdict.reason
	delete(msg.Headers, headerNotBefore)
	err := w.publish(ctx, j, purposeDeadLetter, "", w.deadLetterQueue(), msg)
	if err == nil {
		w.meters.deadLettered(ctx, o.verdict.reason)
		w.observeDeath(j, o)
	}
	return acknowledgedIf(err)
}

// sendHome publishes the delivery to the end of its own queue, in place of giving
// it back, where that would count toward the delivery limit.
func (w *worker) sendHome(ctx context.Context, j *job) action {
	return acknowledgedIf(w.publish(ctx, j, purposeReturn, "", w.Name, again(&j.delivery)))
}

// publish publishes over the session that the delivery came from. Its faults are
// logged when they begin and end.
func (w *worker) publish(ctx context.Context, j *job, purpose, exchange, key string, msg amqp.Publishing) error {
	ctx, span := w.tracing.startPublish(ctx, j, purpose, exchange, key, &msg)
	err := j.sub.session.publish.publish(ctx, exchange, key, msg)
	endPublish(span, err)
	w.meters.published(ctx, purpose, err)
	switch {
	case err == nil:
		w.publishing.End(w.log, "publishing works again")
	case j.sub.session.isLost(): // and logged as such
	case purpose != purposeReply || !errors.Is(err, errUnroutable):
		w.publishing.Begin(w.log, slog.LevelError, "cannot publish, deliveries are given back to the queue and will be worked again", explain(err))
	}
	return err
}

// acknowledgedIf is the answer for a delivery that something had to be published
// for: it is not the broker's to forget before the broker has confirmed that.
func acknowledgedIf(err error) action {
	if err != nil {
		return giveBack
	}
	return acknowledge
}

func (w *worker) logFailure(ctx context.Context, level slog.Level, msg string, j *job, o outcome, more ...any) {
	args := append([]any{"message_id", j.delivery.MessageId, "attempt", o.attempts, "verdict", o.verdict.action.String(), "error", o.err}, more...)
	if p, ok := errors.AsType[*PanicError](o.err); ok {
		args = append(args, "stack", p.Stack)
	}
	traced(ctx, w.log).Log(ctx, level, msg, args...)
}

// sleep waits for d and returns true, or false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
