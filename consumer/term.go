package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"

	"github.com/warrenmq/warren/consumer/internal/outage"
)

var (
	errNotHanded = errors.New("the broker did not hand back the schedule's own token in time: another daemon leads, or its queue has no leader")
	errInDoubt   = errors.New("whether the broker has the message is not known, so that it is published again, with the same message-id")
)

// aheadBy is how far the record may be ahead of this host's clock without a word.
const aheadBy = 10 * time.Second

// A term is the time on one channel of a schedule's connection. Tokens are consumed and
// everything is published on that one channel: when the broker gives it up, the token
// goes to somebody else and nothing more is published, both at once.
type term struct {
	*scheduleLoop
	session    *session // for what spans say
	conn       *amqp.Connection
	ch         *amqp.Channel
	returns    chan amqp.Return
	closes     chan *amqp.Error
	blocks     chan amqp.Blocking
	deliveries <-chan amqp.Delivery
	turns      *time.Ticker

	blocked outage.Outage
	retries retry.Backoff // nil while firings succeed
	retryAt time.Time     // a failed firing
}

func (l *scheduleLoop) newTerm(conn *amqp.Connection, s *session) (*term, error) {
	t := &term{scheduleLoop: l, session: s, conn: conn, blocks: conn.NotifyBlocked(make(chan amqp.Blocking, 1))}
	var err error
	if t.ch, err = conn.Channel(); err != nil {
		return nil, err
	}
	t.returns = t.ch.NotifyReturn(make(chan amqp.Return, 1))
	t.closes = t.ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := t.ch.Confirm(false); err != nil {
		return nil, err
	}
	t.deliveries, err = t.ch.Consume(l.tokenQueue(), "", false, false, false, false, nil)
	return t, err
}

// serve follows until it is handed a token, and then leads. It returns nil when ctx
// ends.
func (t *term) serve(ctx, work context.Context) error {
	renew := time.NewTicker(t.timeouts.renew)
	defer renew.Stop()
	t.turns = time.NewTicker(turnEvery)
	defer t.turns.Stop()
	if err := t.probe(ctx, work); err != nil {
		return err
	}
	t.outage.End(t.log, "takes part in the election of the schedule's leader again")
	t.state.setFault(nil)
	for {
		var due <-chan time.Time
		if t.leading {
			due = time.After(t.untilDue())
		}
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.turns.C: // also notices that the clock was set
			t.state.turned.beat(now)
		case b := <-t.blocks:
			t.block(b)
		case d, open := <-t.deliveries:
			if !open {
				return t.ended()
			}
			t.take(&d)
			if !t.leading {
				if err := t.lead(ctx, work); err != nil {
					return err
				}
			}
		case <-renew.C:
			renewed := t.probe
			if t.leading {
				renewed = t.claim
			}
			if err := renewed(ctx, work); err != nil {
				return err
			}
		case <-due:
		}
		if t.leading && ctx.Err() == nil {
			if err := t.fireDue(ctx, work); err != nil {
				return err
			}
		}
	}
}

// take adds to what is known what a token says. It stays unacknowledged until a claim.
func (t *term) take(d *amqp.Delivery) { t.known = t.known.merged(recordOf(d)) }

// probe publishes a token with what is known. Should nobody lead, it is handed back.
func (t *term) probe(ctx, work context.Context) error {
	return t.publish(ctx, work, t.tokenQueue(), t.known.token(t.Name, rand.Text()), t.timeouts.token)
}

// claim returns nil when the token with all that is known is held, and no other one was
// there before it.
func (t *term) claim(ctx, work context.Context) error {
	for {
		id, carried := rand.Text(), t.known
		if err := t.publish(ctx, work, t.tokenQueue(), carried.token(t.Name, id), t.timeouts.token); err != nil {
			return err
		}
		tag, err := t.handed(work, id)
		if err != nil {
			return err
		}
		if !t.known.done.Equal(carried.done) || !slices.Equal(t.known.versions, carried.versions) {
			continue // there were others that knew more
		}
		if tag == 1 {
			return nil // and to acknowledge all up to 0 would include it
		}
		return t.ch.Ack(tag-1, true)
	}
}

// handed waits for the token of that id, takes all that come before, and returns its
// tag.
func (t *term) handed(work context.Context, id string) (tag uint64, err error) {
	timeout := time.After(t.timeouts.token)
	for {
		select {
		case d, open := <-t.deliveries:
			if !open {
				return 0, t.ended()
			}
			t.take(&d)
			if d.MessageId == id {
				return d.DeliveryTag, nil
			}
		case b := <-t.blocks:
			t.block(b)
		case <-timeout:
			return 0, errNotHanded
		case <-work.Done():
			return 0, context.Cause(work)
		}
	}
}

// lead begins to lead. A record that does not exist begins now; one that was made by
// another rule says nothing of what this one has missed.
func (t *term) lead(ctx, work context.Context) error {
	if err := t.claim(ctx, work); err != nil {
		return err
	}
	if t.plan == nil {
		t.leads()
		t.log.Info("leads the schedule", "versions_fired", t.known.versions)
		return nil
	}
	if now, rule := time.Now().Truncate(time.Millisecond).UTC(), t.rule(); t.known.rule != rule {
		if was := t.known.rule; was == "" {
			t.known.done = now
		} else {
			if since := now.Add(-misfireGrace); since.After(t.known.done) {
				t.known.done = since
			}
			t.log.Info("the schedule follows another rule from now on", "was", was, "is", rule)
		}
		t.known.rule = rule
		if err := t.claim(ctx, work); err != nil {
			return err
		}
	}
	t.leads()
	next, _ := t.plan.next(t.known.done)
	t.log.Info("leads the schedule", "done", t.known.done, "next", next)
	return nil
}

func (t *term) leads() {
	t.leading = true
	t.state.leading.Store(true)
}

// untilDue is how long there is nothing to fire.
func (t *term) untilDue() time.Duration {
	due := t.retryAt
	switch {
	case t.plan != nil:
		_, next := t.plan.next(t.known.done)
		t.state.setNext(next)
		if next.IsZero() {
			return turnEvery
		}
		if next.After(due) {
			due = next
		}
		now := time.Now()
		if by := t.known.done.Sub(now); by > aheadBy {
			t.ahead.Begin(t.log, slog.LevelWarn, "the last planned time that is done lies ahead of this host's clock, nothing is fired until then",
				fmt.Errorf("all up to %s is done; look at the clocks of the hosts, and if that time is wrong, delete the queue %s while no daemon runs",
					t.known.done.Format(time.RFC3339), t.tokenQueue()))
		} else {
			t.ahead.End(t.log, "the clock of this host agrees with the last planned time again")
		}
	case slices.Contains(t.known.versions, t.version):
		return turnEvery
	}
	return min(time.Until(due), turnEvery)
}

// A firing is one message to publish, if any, and what is then done.
type firing struct {
	id      string // empty: only the record is brought forward
	planned time.Time
	after   record
	decision
}

// due returns what is to be done at now; there is nothing to do if ok is false.
func (t *term) due(now time.Time) (f firing, ok bool) {
	f.after = t.known
	if t.plan == nil {
		if slices.Contains(t.known.versions, t.version) {
			return f, false
		}
		f.id, f.planned, f.after = t.Name+"@"+t.version, now, t.known.withVersion(t.version)
		return f, true
	}
	f.decision = t.plan.decide(t.known.done, now)
	if f.done.IsZero() {
		return f, false
	}
	f.after.done, f.planned = f.done, f.fire
	if !f.fire.IsZero() {
		f.id = firingID(t.Name, f.fire)
	}
	return f, true
}

// fireDue fires what is due, once. An error ends the term; if only the message cannot
// be published, it is tried again.
func (t *term) fireDue(ctx, work context.Context) error {
	if _, ok := t.due(time.Now()); !ok || time.Now().Before(t.retryAt) {
		return nil
	}
	if err := t.claim(ctx, work); err != nil {
		return err
	}
	f, ok := t.due(time.Now()) // others may have known more
	if !ok {
		return nil
	}
	if f.id != "" {
		err := t.fire(ctx, work, f)
		switch {
		case errors.Is(err, errUnroutable), errors.Is(err, errRefused):
			t.failed(err)
			return nil
		case err != nil:
			return fmt.Errorf("fire %s: %w: %w", f.id, errInDoubt, err)
		}
		t.retries, t.retryAt = nil, time.Time{}
		t.unfired.End(t.log, "the schedule fires again")
		t.state.setFault(nil)
		t.state.fired.Add(1)
		t.state.last.Store(f.planned.Unix())
		t.log.Debug("fired", "message_id", f.id, "queue", t.Queue, "late", time.Since(f.planned))
	}
	if !f.missedFrom.IsZero() {
		t.state.misfires.Add(1)
		t.log.Warn("planned times of the schedule have passed without a firing, they are not made up for",
			"from", f.missedFrom, "to", f.missedTo, "misfire", t.Misfire)
	}
	t.known = f.after
	return t.claim(ctx, work)
}

// failed has a firing tried again after a while.
func (t *term) failed(err error) {
	if errors.Is(err, errUnroutable) {
		err = fmt.Errorf("there is no queue %s: declare it, or name another one in %sQUEUE", t.Queue, t.EnvPrefix)
	}
	t.unfired.Begin(t.log, slog.LevelError, "cannot fire the schedule, trying again", err)
	t.state.setFault(err)
	if t.retries == nil {
		t.retries = reconnectBackoff()
	}
	d, _ := t.retries.Next()
	t.retryAt = time.Now().Add(d)
}

// fire publishes the message of a firing.
func (t *term) fire(ctx, work context.Context, f firing) error {
	msg := t.msg
	msg.Headers = maps.Clone(msg.Headers)
	if msg.Headers == nil {
		msg.Headers = amqp.Table{}
	}
	msg.Headers[headerSchedule], msg.Headers[headerScheduledFor] = t.Name, f.planned.UnixMilli()
	msg.MessageId, msg.Timestamp = f.id, time.Now()
	spanned, span := t.tracing.startPublish(work, &job{sub: &subscription{session: t.session}}, purposeSchedule, "", t.Queue, &msg)
	err := t.publish(ctx, work, t.Queue, msg, t.timeouts.fire)
	if errors.Is(err, errUnroutable) {
		// A queue that Warren declares may be declared again.
		if declare := newPublisher(t.conn, t.top).declaring("", t.Queue); declare != nil {
			if err = declare(); err == nil {
				err = t.publish(ctx, work, t.Queue, msg, t.timeouts.fire)
			} else {
				err = fmt.Errorf("%w: %w", errRefused, err)
			}
		}
	}
	endPublish(span, err)
	t.meters.published(spanned, purposeSchedule, err)
	return err
}

// publish returns nil when the broker has confirmed that the queue has the message. An
// error other than errUnroutable and errRefused leaves that open, and the channel
// unusable. While the broker takes no messages it waits, unless ctx ends.
func (t *term) publish(ctx, work context.Context, queue string, msg amqp.Publishing, patience time.Duration) error {
	confirm, err := t.ch.PublishWithDeferredConfirmWithContext(work, "", queue, true, false, msg)
	if err != nil {
		return explain(err)
	}
	timeout := time.After(patience)
	var stop <-chan struct{} // heeded only while blocked
	for {
		select {
		case <-confirm.Done():
			return t.outcome(confirm)
		case b := <-t.blocks:
			t.block(b)
			if timeout, stop = nil, ctx.Done(); !b.Active {
				timeout, stop = time.After(patience), nil
			}
		case now := <-t.turns.C:
			t.state.turned.beat(now)
		case <-timeout:
			return fmt.Errorf("publish to queue %s: %w", queue, errNoConfirm)
		case <-stop:
			return errBlocked
		case <-work.Done():
			return context.Cause(work)
		}
	}
}

// outcome is what a resolved confirm means.
func (t *term) outcome(confirm *amqp.DeferredConfirmation) error {
	if t.ch.IsClosed() { // pending confirms resolve when the channel closes
		return t.ended()
	}
	select {
	case r := <-t.returns: // comes before its confirm
		return fmt.Errorf("%w (%s)", errUnroutable, r.ReplyText)
	default:
	}
	if !confirm.Acked() {
		return errRefused
	}
	return nil
}

// block logs when the broker stops and resumes taking messages.
func (t *term) block(b amqp.Blocking) {
	if b.Active {
		t.blocked.Begin(t.log, slog.LevelWarn, "the schedule waits", errBlocked)
		t.state.setFault(errBlocked)
		return
	}
	t.blocked.End(t.log, "the broker takes messages of the schedule again")
	t.state.setFault(nil)
}

// ended is why the channel, or the consumer on it, has ended.
func (t *term) ended() error {
	select {
	case reason := <-t.closes:
		return lostBecause(reason)
	default:
		return fmt.Errorf("the broker has ended the consumer of queue %s: the queue was deleted, or it held the token for longer than its consumer timeout", t.tokenQueue())
	}
}
