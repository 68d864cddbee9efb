package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/brake"
	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/inflight"
	"github.com/warrenmq/warren/consumer/internal/meters"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/remembered"
	"github.com/warrenmq/warren/consumer/internal/replies"
	"github.com/warrenmq/warren/consumer/internal/waits"
	"github.com/warrenmq/warren/internal/failpoint"
)

// A job is one delivery on its way through an executor.
type job struct {
	delivery   amqp.Delivery
	sub        *subscription
	history    history
	identified bool      // it came with a message id
	fault      error     // of the headers; the delivery is dead-lettered for it
	started    time.Time // zero: it was returned instead
	finished   time.Time // zero: no executor has had it
	returning  bool      // it is being published to its own queue
	freed      int       // 1: it needs no slot any more, though its result is not in
	// twins are the same message, come again; they are held until what is done with it
	// here has ended. holder is the job that a twin waits for.
	twins   []*job
	holder  *job
	message inflight.Message // to cancel it
}

// A result is what an executor sends back, once, for each job: how to settle it. All
// that had to be published for the delivery has been confirmed.
type result struct {
	job    *job
	action action
}

// free in place of an action says that the result is still to come, but needs no slot.
const free action = -1

var errNotStarted = errors.New("the attempt was not started")

// An executor works the deliveries of one queue, each in a goroutine of its own. It
// never touches the channel that they came from.
type executor struct {
	Queue
	onBroker   broker.Queue
	sessions   *broker.Newest
	policy     replies.Policy
	identity   string // of this process, for x-warren-worker
	log        *slog.Logger
	publishing outage.Outage
	brake      *brake.Brake
	tracing    tracing
	meters     meters.Of
	state      *meters.Queue // what is counted by verdict
	database   Database      // nil: none
	observer   Observer      // nil: none
	replyFor   time.Duration
	returnFor  time.Duration
	copies     *remembered.Copies[job]
	freed      func(*job) // gives its slot to another one; nil: it keeps that
}

// work takes one delivery through its attempts to a verdict, and does what the verdict
// asks for but for the last step, to settle it: how is the answer. It ends soon after
// ctx.
func (e *executor) work(ctx context.Context, j *job) action {
	ctx = e.tracing.parent(ctx, &j.delivery)
	if j.history.replyTo != "" {
		return e.deliverReply(ctx, j)
	}
	if err := e.admit(j); err != nil {
		err = Undecodable(err)
		return e.bury(ctx, j, outcome{attempts: j.history.attempts, err: err, verdict: verdictOf(ctx, err)})
	}
	switch wait := time.Until(j.history.notBefore); {
	case wait+waitSlack >= broker.ShortestWait:
		return e.postpone(ctx, j, republishing(j), j.history.notBefore, outcome{attempts: j.history.attempts})
	case wait > 0 && !broker.Sleep(ctx, wait):
		return requeue
	}
	ctx, o := e.attempt(ctx, j)
	switch o.verdict.action {
	case acknowledge:
		if a := e.reply(ctx, j, o.answer); a != acknowledge {
			return a
		}
		e.record(ctx, o)
		e.observeSuccess(j, o)
		return acknowledge
	case deadLetter:
		return e.bury(ctx, j, o)
	case requeue:
		return requeue
	}
	msg := republishing(j)
	now := time.Now()
	broker.WriteFailure(msg.Headers, o.attempts, o.err, now, e.identity)
	e.logFailure(ctx, o.level(), "attempt failed, the message waits for the next", j, o, "retry_in", o.verdict.after)
	return e.postpone(ctx, j, msg, now.Add(o.verdict.after), o)
}

// admit returns why the delivery is dead-lettered before its first attempt, if it is.
func (e *executor) admit(j *job) error {
	if j.fault != nil {
		return j.fault
	}
	if e.MaxBodyBytes > 0 && len(j.delivery.Body) > e.MaxBodyBytes {
		return fmt.Errorf("the body has %d bytes, over the %d of %sMAX_BODY_BYTES", len(j.delivery.Body), e.MaxBodyBytes, e.EnvPrefix)
	}
	return e.policy.Check(j.delivery.ReplyTo)
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
	message   *inflight.Message
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
func (e *executor) attempt(ctx context.Context, j *job) (context.Context, outcome) {
	o := outcome{attempts: j.history.attempts, err: errNotStarted, message: &j.message}
	if e.database != nil && j.identified {
		o.key = newInboxKey(e.Name, &j.delivery, j.history.ours)
	}
	inProcess := retry.BackoffFunc(func() (time.Duration, bool) { return o.verdict.after, o.verdict.after >= broker.ShortestWait })
	interrupted := retry.Do(ctx, inProcess, func(context.Context) error {
		spanCtx, span := e.tracing.startAttempt(ctx, j, o.attempts+1)
		started := time.Now()
		o.progress = e.observeAttempt(j, o.attempts+1)
		e.once(spanCtx, newDelivery(e.Name, j, o.attempts+1), &o)
		if verdictOf(ctx, o.err).uncounted {
			o.uncounted++
		} else {
			o.attempts++
		}
		o.verdict = e.decide(ctx, o)
		e.state.Attempts[o.verdict.action].Add(1)
		e.meters.Attempted(spanCtx, errorType(o.err), time.Since(started))
		endAttempt(span, o.verdict, o.err)
		ctx = spanCtx
		if o.verdict.action != retryLater || o.verdict.after >= broker.ShortestWait {
			return nil
		}
		e.logFailure(ctx, o.level(), "attempt failed, the next follows shortly", j, o, "retry_in", o.verdict.after)
		return retry.RetryableError(o.err)
	})
	if interrupted != nil { // before the first attempt, or in a wait
		o.verdict = e.decide(ctx, o)
	}
	return ctx, o
}

// decide returns the verdict on the last attempt: that of its error, with the wait
// worked out, unless it was the last that the message has.
func (e *executor) decide(ctx context.Context, o outcome) verdict {
	v := verdictOf(ctx, o.err)
	switch {
	case v.action != retryLater:
		return v
	case v.uncounted:
		v.after = max(v.after, waits.Outage(o.uncounted))
	case o.attempts >= e.MaxAttempts:
		return verdict{action: deadLetter, reason: reasonExhausted}
	default:
		v.after = max(v.after, waits.Backoff(e.RetryBase, e.RetryMax, o.attempts))
	}
	if e.brake.Braked() { // the next attempt is another message's
		v.after = max(v.after, broker.ShortestWait)
	}
	v.after = min(v.after, maxRetryAfter)
	return v
}

// tells is what the last attempt tells the brake.
func (o *outcome) tells(ctx context.Context) (brake.Outcome, error) {
	switch v := verdictOf(ctx, o.err); {
	case v.action == acknowledge && !o.repeat:
		return brake.Success, nil
	case v.action == retryLater && v.uncounted:
		return brake.Unavailable, o.err
	case v.action == retryLater:
		return brake.Failed, o.err
	}
	return brake.Ignored, nil
}

// once runs the processor on d, in a scope of its own, for at most the timeout;
// unless the inbox knows that the work is done.
func (e *executor) once(ctx context.Context, d Delivery, o *outcome) {
	ctx, end := o.message.Begin(ctx, e.Timeout, ErrTimeout)
	defer end()
	attempt := e.brake.Begin(o.attempts == 0)
	defer func() { attempt.End(o.tells(ctx)) }()
	if o.key != nil && (e.recall(ctx, o) || o.err != nil) {
		return
	}
	if o.progress != nil {
		o.progress(0, "")
	}
	s := e.newScope(ctx, &d, o)
	err := s.run(ctx, e.Processor)
	failpoint.Here(failpoint.Worked)
	if errors.Is(s.databaseErr, ErrDone) { // done while this attempt began
		e.recall(ctx, o)
		return
	}
	if err != nil && errors.Is(context.Cause(ctx), ErrTimeout) && !errors.Is(err, ErrTimeout) {
		err = fmt.Errorf("%w (%v): %w", ErrTimeout, e.Timeout, err)
	}
	if c := o.message.Cancelled(); c != nil && err != nil {
		err = mark(fmt.Errorf("%w (%v)", c, err), verdict{action: deadLetter, reason: reasonCancelled}) //nolint:errorlint // what that was marked as does not count
	}
	o.answer, o.err, o.recorded = s.result, err, s.tx != nil
}

func (e *executor) logFailure(ctx context.Context, level slog.Level, msg string, j *job, o outcome, more ...any) {
	e.state.Failures.Add(j.delivery.MessageId, o.attempts, o.verdict.action.String(), broker.Shortened(o.err.Error(), broker.MaxErrorBytes))
	args := append([]any{"message_id", j.delivery.MessageId, "attempt", o.attempts, "verdict", o.verdict.action.String(), "error", o.err}, more...)
	if p, ok := errors.AsType[*PanicError](o.err); ok {
		args = append(args, "stack", p.Stack)
	}
	broker.Traced(ctx, e.log).Log(ctx, level, msg, args...) //nolint:sloglint // a constant of the caller
}
