package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
)

// A job is one delivery on its way through a worker.
type job struct {
	delivery amqp.Delivery
	sub      *subscription
	story    story
	fault    error     // of the headers; the delivery is dead-lettered for it
	started  time.Time // zero: it was given back instead
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
	publishing  outage
}

// work takes one delivery through its attempts to a verdict, and does what the
// verdict asks for but for the last step, to acknowledge it or give it back: that
// is the answer. It ends soon after ctx.
func (w *worker) work(ctx context.Context, j *job) action {
	if j.delivery.MessageId == "" {
		// From the first attempt on, it is what the message is called: the copy
		// that waits for the next carries it along.
		j.delivery.MessageId = rand.Text()
	}
	if j.fault != nil {
		return w.bury(ctx, j, j.story.attempts, reasonUndecodable, j.fault)
	}
	switch wait := time.Until(j.story.notBefore); {
	case wait >= shortestWait:
		return w.park(ctx, j, again(&j.delivery), j.story.notBefore)
	case wait > 0 && !sleep(ctx, wait):
		return giveBack
	}

	answer, attempts, err := w.attempt(ctx, j)
	v := verdictOf(ctx, err)
	if v.action == retryLater && attempts >= w.MaxAttempts {
		v = verdict{action: deadLetter, reason: reasonExhausted}
	}
	switch v.action {
	case acknowledge:
		return w.reply(ctx, j, answer)
	case deadLetter:
		return w.bury(ctx, j, attempts, v.reason, err)
	case giveBack:
		return giveBack
	}
	wait := max(v.after, backoff(w.RetryBase, w.RetryMax, attempts))
	msg := again(&j.delivery)
	w.logFailure(ctx, slog.LevelWarn, "attempt failed, the message waits for the next", msg.MessageId, attempts, err, "verdict", v.action.String(), "retry_in", wait)
	now := time.Now()
	writeFailure(msg.Headers, attempts, err, now, w.identity)
	return w.park(ctx, j, msg, now.Add(wait))
}

// attempt runs the processor, and runs it again where the wait for the next
// attempt is too short for the broker. It returns the number of attempts that the
// message has behind it then, and the result or error of the last.
func (w *worker) attempt(ctx context.Context, j *job) (Result, int, error) {
	attempts := j.story.attempts
	var answer Result
	last := errNotStarted // unless ctx has ended already
	wait := shortestWait
	inProcess := retry.BackoffFunc(func() (time.Duration, bool) { return wait, wait >= shortestWait })
	// What Do returns is of no use: it looks through the marks that make last a verdict.
	_ = retry.Do(ctx, inProcess, func(ctx context.Context) error {
		answer, last = w.once(ctx, newDelivery(w.Name, &j.delivery, attempts+1))
		attempts++
		v := verdictOf(ctx, last)
		wait = max(v.after, backoff(w.RetryBase, w.RetryMax, attempts))
		if v.action != retryLater || attempts >= w.MaxAttempts || wait >= shortestWait {
			return nil
		}
		w.logFailure(ctx, slog.LevelWarn, "attempt failed, the next follows shortly", j.delivery.MessageId, attempts, last, "verdict", v.action.String(), "retry_in", wait)
		return retry.RetryableError(last)
	})
	return answer, attempts, last
}

// once runs the processor on d, in a scope of its own, for at most the timeout.
func (w *worker) once(ctx context.Context, d Delivery) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.Timeout, ErrTimeout)
	defer cancel()
	s := &Scope{delivery: &d, baseLog: w.log}
	overdue := time.AfterFunc(w.Timeout+overdueAfter, func() {
		w.log.Error("the processor goes on after its timeout has ended its context, it holds its slot until it returns",
			"message_id", d.MessageID, "attempt", d.Attempt, "timeout", w.Timeout)
	})
	defer overdue.Stop()
	err := s.end(recovered(func() error { return w.Processor.Process(ctx, d, s) }))
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) && !errors.Is(err, ErrTimeout) {
		err = fmt.Errorf("%w (%v): %w", ErrTimeout, w.Timeout, err)
	}
	return s.result, err
}

// reply publishes the result of a delivery that asks for it. A requester that has
// gone is no reason to do the work once more.
func (w *worker) reply(ctx context.Context, j *job, r Result) action {
	d := &j.delivery
	if d.ReplyTo == "" {
		return acknowledge
	}
	err := w.publish(ctx, j, "", d.ReplyTo, amqp.Publishing{
		DeliveryMode:  amqp.Persistent,
		ContentType:   orDefault(r.ContentType, "application/json"),
		CorrelationId: d.CorrelationId,
		Type:          d.Type,
		Body:          r.Body,
	})
	if errors.Is(err, errUnroutable) {
		w.log.Warn("nobody waits for the result any more, it is dropped", "message_id", d.MessageId, "reply_to", d.ReplyTo)
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
	return acknowledgedIf(w.publish(ctx, j, waitName(step), w.Name, msg))
}

// bury publishes the delivery to the dead-letter queue.
func (w *worker) bury(ctx context.Context, j *job, attempts int, reason string, cause error) action {
	msg := again(&j.delivery)
	w.logFailure(ctx, slog.LevelError, "message dead-lettered", msg.MessageId, attempts, cause, "verdict", deadLetter.String(), "reason", reason, "dead_letter_queue", w.deadLetterQueue())
	writeFailure(msg.Headers, attempts, cause, time.Now(), w.identity)
	msg.Headers[headerReason] = reason
	delete(msg.Headers, headerNotBefore)
	return acknowledgedIf(w.publish(ctx, j, "", w.deadLetterQueue(), msg))
}

// sendHome publishes the delivery to the end of its own queue, in place of giving
// it back, where that would count toward the delivery limit.
func (w *worker) sendHome(ctx context.Context, j *job) action {
	return acknowledgedIf(w.publish(ctx, j, "", w.Name, again(&j.delivery)))
}

// publish publishes over the session that the delivery came from. Its faults are
// logged when they begin and end.
func (w *worker) publish(ctx context.Context, j *job, exchange, key string, msg amqp.Publishing) error {
	err := j.sub.session.publish.publish(ctx, exchange, key, msg)
	switch {
	case err == nil:
		w.publishing.end(w.log, "publishing works again")
	case j.sub.session.isLost(): // and logged as such
	case !errors.Is(err, errUnroutable) || key != j.delivery.ReplyTo:
		w.publishing.begin(w.log, slog.LevelError, "cannot publish, deliveries are given back to the queue and will be worked again", explain(err))
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

func (w *worker) logFailure(ctx context.Context, level slog.Level, msg, messageID string, attempts int, err error, more ...any) {
	args := append([]any{"message_id", messageID, "attempt", attempts, "error", err}, more...)
	if p, ok := errors.AsType[*PanicError](err); ok {
		args = append(args, "stack", p.Stack)
	}
	w.log.Log(ctx, level, msg, args...)
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
