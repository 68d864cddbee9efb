package schedule

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

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/outage"
	"github.com/warrenmq/warren/consumer/internal/pulse"
	"github.com/warrenmq/warren/internal/failpoint"
)

var (
	errNotHanded = errors.New("the broker did not hand back the schedule's own token in time: another daemon leads, or its queue has no leader")
	errRefusing  = errors.New("no longer leads, since another daemon may be able to publish")
	errInDoubt   = errors.New("whether the broker has the message is not known, so that it is published again, with the same message-id")
)

// aheadBy is how far the record may be ahead of this host's clock without a word.
const aheadBy = 10 * time.Second

// A term is the time on one channel. Tokens are consumed and everything is published on
// that one channel: when the broker gives it up, the token goes to somebody else and
// nothing more is published, both at once.
type term struct {
	*loop
	conn       *broker.Conn
	ch         *broker.ConfirmChannel
	deliveries <-chan amqp.Delivery

	held    []uint64 // the tags of the tokens that are not acknowledged, in their order
	sealed  bool     // a record of our own has come: no other is believed any more
	foreign outage.Outage
	others  []string // rules that other processes have
	blocked outage.Outage

	retries     retry.Backoff // nil while firings succeed
	retryAt     time.Time     // a failed firing
	failingFrom time.Time     // since when it fails
}

func (l *loop) newTerm(conn *broker.Conn) (*term, error) {
	ch, err := conn.OpenConfirmChannel()
	if err != nil {
		return nil, broker.Explain(err)
	}
	deliveries, err := ch.Consume(l.tokenQueue(), conn.Name, false, false, false, false, nil)
	if err != nil {
		return nil, broker.Explain(err) // which has closed the channel
	}
	return &term{loop: l, conn: conn, ch: ch, deliveries: deliveries}, nil
}

// serve follows until it is handed a token, and then leads. It returns nil when ctx
// ends.
func (t *term) serve(ctx, work context.Context) error {
	renew := time.NewTicker(t.timeouts.renew)
	defer renew.Stop()
	select {
	case <-t.blocks: // may be another connection's
	default:
	}
	if t.conn.Blocked() {
		t.block(true)
	}
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
		case <-t.turns.C: // also notices that the clock was set
			t.beat()
		case active := <-t.blocks:
			t.block(active)
		case d, open := <-t.deliveries:
			if !open {
				return t.ended()
			}
			if taken := t.take(&d); taken && !t.leading {
				if err := t.lead(ctx, work); err != nil {
					return err
				}
			}
		case <-renew.C:
			t.foreign.End(t.log, "nothing more of others has come to the schedule's own queue")
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

// take adds to what is known what a token says, which stays unacknowledged until a claim.
// It tells whether it has.
//
// A token is believed if it bears our own user-id, which the broker has checked. One that
// does not is that of an earlier release, or of daemons that log in as another user; it
// may be anybody's. The token of whoever led before always comes first: so those others
// are heeded only until a record of our own has come, and never ahead of the clock.
func (t *term) take(d *amqp.Delivery) bool {
	now := time.Now()
	r := recordOf(d, now)
	own := t.conn.User == "" || d.UserId == t.conn.User
	switch {
	case own:
		t.sealed = t.sealed || !r.isEmpty()
		t.compare(text(d.Headers[headerOwnRule], maxRule))
	case t.sealed:
		t.foreign.Begin(t.log, slog.LevelWarn, "a message in the schedule's own queue does not come from this daemon's user, it is ignored",
			fmt.Errorf("user-id %q, message-id %q: from a daemon of an earlier release, or of another user, or from somebody who should not write to %s",
				d.UserId, d.MessageId, t.tokenQueue()))
		_ = t.ch.Ack(d.DeliveryTag, false) // if not, the channel is closed
		return false
	default:
		if r = r.until(now); !r.isEmpty() {
			t.log.Info("goes on from the record of an earlier release, or of another user", "user_id", d.UserId, "done", r.done, "versions_fired", r.versions)
		}
	}
	failpoint.Here(failpoint.TokenHanded)
	t.known = t.known.merged(r)
	t.held = append(t.held, d.DeliveryTag)
	return true
}

// compare warns, once in a term, of a process in which the schedule has another rule.
func (t *term) compare(rule string) {
	if rule == "" || rule == t.rule() || slices.Contains(t.others, rule) || len(t.others) == maxOthers {
		return
	}
	t.others = append(t.others, rule)
	t.log.Warn("another daemon has another rule of the schedule; whoever leads fires by its own: let all have the same", "its", rule, "own", t.rule())
}

// maxOthers is how many other rules are logged in a term.
const maxOthers = 10

// probe publishes a token with what is known. Should nobody lead, it is handed back.
func (t *term) probe(ctx, work context.Context) error {
	return t.publish(ctx, work, t.token(rand.Text()), t.timeouts.token)
}

// claim returns nil when the token with all that is known is held, and no other one was
// there before it.
func (t *term) claim(ctx, work context.Context) error {
	for {
		id, carried := rand.Text(), t.known
		if err := t.publish(ctx, work, t.token(id), t.timeouts.token); err != nil {
			return err
		}
		failpoint.Here(failpoint.Claiming)
		if err := t.handed(work, id); err != nil {
			return err
		}
		if !t.known.done.Equal(carried.done) || !slices.Equal(t.known.versions, carried.versions) {
			continue // there were others that knew more
		}
		last := len(t.held) - 1
		if last == 0 {
			return nil
		}
		before := t.held[last-1]
		t.held = t.held[last:]
		failpoint.Here(failpoint.Claimed)
		defer failpoint.Here(failpoint.TokensMerged)
		return t.ch.Ack(before, true)
	}
}

// token is a message with all that is known.
func (t *term) token(id string) broker.Outgoing {
	o := broker.Outgoing{Key: t.tokenQueue(), Message: t.known.token(t.Name, t.rule(), id)}
	o.Message.AppId = t.firing.Message.AppId
	return o
}

// handed waits for the token of that id, and takes all that come before.
func (t *term) handed(work context.Context, id string) error {
	timeout := time.After(t.timeouts.token)
	for {
		select {
		case d, open := <-t.deliveries:
			if !open {
				return t.ended()
			}
			if taken := t.take(&d); taken && d.MessageId == id {
				return nil
			}
		case active := <-t.blocks:
			t.block(active)
		case <-timeout:
			return errNotHanded
		case <-work.Done():
			return context.Cause(work)
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
			t.log.Warn("the schedule follows another rule from now on", "was", was, "is", rule)
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
	failpoint.Here(failpoint.Leading)
	t.leading, t.sealed = true, true
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
			return pulse.Every
		}
		if next.After(due) {
			due = next
		}
		now := time.Now()
		if by := t.known.done.Sub(now); by > aheadBy {
			t.state.ahead.Store(t.known.done.Unix())
			t.ahead.Begin(t.log, slog.LevelWarn, "the last planned time that is done lies ahead of this host's clock, nothing is fired until then",
				fmt.Errorf("all up to %s is done; look at the clocks of the hosts, and if that time is wrong, delete the queue %s while no daemon runs",
					t.known.done.Format(time.RFC3339), t.tokenQueue()))
		} else {
			t.state.ahead.Store(0)
			t.ahead.End(t.log, "the clock of this host agrees with the last planned time again")
		}
	case slices.Contains(t.known.versions, t.version()):
		return pulse.Every
	}
	return min(time.Until(due), pulse.Every)
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
		if slices.Contains(t.known.versions, t.version()) {
			return f, false
		}
		f.id, f.planned, f.after = t.Name+"@"+t.version(), now, t.known.withVersion(t.version())
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
		failpoint.Here(failpoint.FiringDue)
		err := t.fire(ctx, work, f)
		switch {
		case errors.Is(err, broker.ErrUnroutable):
			t.failed(err)
			return nil
		case errors.Is(err, broker.ErrRefused):
			t.failed(err)
			return t.refused(err)
		case err != nil:
			return fmt.Errorf("fire %s: %w: %w", f.id, errInDoubt, err)
		}
		failpoint.Here(failpoint.Fired)
		t.retries, t.retryAt = nil, time.Time{}
		t.patience = t.timeouts.refused
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
	if errors.Is(err, broker.ErrUnroutable) && t.firing.Declare == nil {
		err = fmt.Errorf("there is no queue %s: declare it, or name another one in %sQUEUE", t.Queue, t.EnvPrefix)
	}
	t.unfired.Begin(t.log, slog.LevelError, "cannot fire the schedule, trying again", err)
	t.state.setFault(err)
	if t.retries == nil {
		t.retries, t.failingFrom = broker.Backoff(), time.Now()
	}
	d, _ := t.retries.Next()
	t.retryAt = time.Now().Add(d)
}

// refused ends the term if the queue has refused what is fired for some time: a node that
// has lost touch with the queue's leader looks like a full queue, and on another one, or
// only on another channel, it may go on. If it does not, the next term lasts twice as long.
func (t *term) refused(err error) error {
	if time.Since(t.failingFrom) < t.patience {
		return nil
	}
	t.patience = min(2*t.patience, maxPatience)
	return fmt.Errorf("%w: %w", errRefusing, err)
}

// maxPatience bounds how long one daemon leads while the queue refuses what it fires.
const maxPatience = 5 * time.Minute

// fire publishes the message of a firing. One that is published again has to be the same to
// the last bit, or the inbox takes it for another: nothing of it depends on when that is.
// That of ONCE has no planned time, and what tells of it in a header is not compared.
func (t *term) fire(ctx, work context.Context, f firing) error {
	o := t.firing
	o.Message.Headers = maps.Clone(o.Message.Headers)
	if o.Message.Headers == nil {
		o.Message.Headers = amqp.Table{}
	}
	o.Message.Headers[headerSchedule], o.Message.Headers[headerScheduledFor] = t.Name, f.planned.UnixMilli()
	o.Message.MessageId = f.id
	if !t.Once {
		o.Message.Timestamp = f.planned
	}
	return t.publish(ctx, work, o, t.timeouts.fire)
}

// publish returns nil when the broker has confirmed that the queue has the message. An
// error other than ErrUnroutable and ErrRefused leaves that open, and the channel
// unusable. While the broker takes no messages it waits, unless ctx ends.
func (t *term) publish(ctx, work context.Context, o broker.Outgoing, patience time.Duration) error {
	for {
		for t.conn.Blocked() {
			select {
			case active := <-t.blocks:
				t.block(active)
			case <-t.turns.C:
				t.beat()
			case <-ctx.Done():
				return broker.ErrBlocked
			case <-work.Done():
				return context.Cause(work)
			}
		}
		err := t.attempt(ctx, work, o, patience)
		if !errors.Is(err, broker.ErrBlocked) || ctx.Err() != nil {
			return broker.Explain(err)
		}
	}
}

// attempt offers a message once. Its error is ErrBlocked if nothing was written, or if
// ctx has ended while the broker takes no messages.
func (t *term) attempt(ctx, work context.Context, o broker.Outgoing, patience time.Duration) error {
	attempt, giveUp := context.WithCancel(work)
	defer giveUp()
	answers := make(chan error, 1)
	t.runner.left.Go(func() { answers <- t.ch.Publish(attempt, o) })
	timeout := time.After(patience)
	var stop <-chan struct{} // heeded only while blocked
	for {
		select {
		case err := <-answers:
			return err
		case active := <-t.blocks:
			t.block(active)
			if timeout, stop = nil, ctx.Done(); !active {
				timeout, stop = time.After(patience), nil
			}
		case <-t.turns.C:
			t.beat()
		case <-timeout:
			return fmt.Errorf("publish to queue %s: %w", o.Key, broker.ErrNoConfirm)
		case <-stop:
			return broker.ErrBlocked
		case <-work.Done():
			return context.Cause(work)
		}
	}
}

// block logs when the broker stops and resumes taking messages.
func (t *term) block(active bool) {
	if active {
		t.blocked.Begin(t.log, slog.LevelWarn, "the schedule waits", broker.ErrBlocked)
		t.state.setFault(broker.ErrBlocked)
		return
	}
	t.blocked.End(t.log, "the broker takes messages of the schedule again")
	t.state.setFault(nil)
}

// ended is why the channel, or the consumer on it, has ended.
func (t *term) ended() error {
	select {
	case reason := <-t.ch.Closes():
		return broker.LostBecause(reason)
	default:
		return fmt.Errorf("the broker has ended the consumer of queue %s: the queue was deleted, or it held the token for longer than its consumer timeout", t.tokenQueue())
	}
}
