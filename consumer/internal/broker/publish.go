package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/failpoint"
)

// Why a message was not published. After any other error, what became of it is not
// known.
var (
	ErrUnroutable = errors.New("no queue takes it")
	ErrRefused    = errors.New("the broker refused it; its queue may be full or have no leader")
	ErrBlocked    = errors.New("the broker takes no messages for now; look for a memory or disk alarm")
	ErrNoConfirm  = errors.New("the broker did not confirm it in time")
)

// PublishTimeout is how long one message is offered to the broker.
const PublishTimeout = 30 * time.Second

// stuckAfter is how long a write may take until the connection counts as lost, unless
// the broker has said that it takes nothing for now.
const stuckAfter = 30 * time.Second

// maxIdleChannels bounds the channels kept for the next publish.
const maxIdleChannels = 64

// An Outgoing is one message to publish.
type Outgoing struct {
	Exchange, Key string
	Message       amqp.Publishing
	// Purpose says why, for its span and its count. Empty means that it has neither: it
	// is a matter of Warren's own.
	Purpose Purpose
	// Queue is the work queue in whose name it is counted. Empty means none.
	Queue string
	// Declare makes sure of where it goes to, after somebody has deleted that. Nil
	// means that it is not Warren's to declare.
	Declare func(*Conn) error
	// Alone is true of a message that is not to share its channel with others.
	Alone bool
}

// Publish returns nil only when the broker has confirmed that a queue has the message.
// It tries once, and once more if it has declared what was missing. It blocks until the
// broker has answered, or ctx ends: then nothing is known of the message, and the error
// is the cause. Its span and its count are made here, whoever publishes.
func (c *Conn) Publish(ctx context.Context, o Outgoing) error {
	return c.publish(ctx, o, c.borrow, c.giveBack)
}

// publish publishes on a channel that borrow returns and that giveBack gets if it can be
// used again.
func (c *Conn) publish(ctx context.Context, o Outgoing, borrow func() (*confirming, error), giveBack func(*confirming)) error {
	ctx, end := c.metered.start(ctx, c, &o)
	err := c.check(o)
	if err == nil {
		err = c.offer(ctx, o, borrow, giveBack)
	}
	if IsMissing(err) && o.Declare != nil {
		if declared := c.await(ctx, o.Declare); declared != nil {
			err = fmt.Errorf("%w; declare it again: %s", err, declared.Error()) // which is not about the message
		} else {
			err = c.offer(ctx, o, borrow, giveBack)
		}
	}
	if err != nil {
		err = fmt.Errorf("publish to %s: %w", target(o.Exchange, o.Key), err)
	}
	end(err)
	return err
}

// await runs f, but waits for it no longer than until ctx ends: a broker that takes
// nothing for now does not answer. What is left of it ends with the connection.
func (c *Conn) await(ctx context.Context, f func(*Conn) error) error {
	if !c.begin() {
		return amqp.ErrClosed
	}
	answers := make(chan error, 1)
	go func() {
		defer c.begun.Done()
		answers <- f(c)
	}()
	select {
	case err := <-answers:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// target names where a message goes to.
func target(exchange, key string) string {
	if exchange == "" {
		return "queue " + key
	}
	return fmt.Sprintf("exchange %q with routing key %q", exchange, key)
}

// offer offers a message once.
func (c *Conn) offer(ctx context.Context, o Outgoing, borrow func() (*confirming, error), giveBack func(*confirming)) error {
	switch {
	case o.isDirect():
		return c.offerDirect(ctx, o)
	case o.sharesChannel():
		return c.offerOn(ctx, func() error { return c.sharedTrip(ctx, o) })
	}
	return c.offerQueued(ctx, o, borrow, giveBack)
}

// offerQueued offers a message once on this connection.
func (c *Conn) offerQueued(ctx context.Context, o Outgoing, borrow func() (*confirming, error), giveBack func(*confirming)) error {
	return c.offerOn(ctx, func() error { return c.roundTrip(ctx, o, borrow, giveBack) })
}

// offerOn makes the trip of a message to the broker, but waits no longer than until ctx
// ends.
func (c *Conn) offerOn(ctx context.Context, trip func() error) error {
	if c.blocked.Load() {
		return ErrBlocked // writing would only fill a socket that nobody reads
	}
	if !c.begin() {
		return amqp.ErrClosed
	}
	answers := make(chan error, 1)
	go func() {
		defer c.begun.Done()
		answers <- trip()
	}()
	select {
	case err := <-answers:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answers: // both at once: what is known counts
		return err
	default:
		return context.Cause(ctx)
	}
}

// begin tells whether a publish may begin, which Close then waits for.
func (c *Conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.begun.Add(1)
	}
	return !c.closing
}

// confirming is a channel in confirm mode with at most one message under way, so that
// a confirm, a return and a closed channel can only mean that message.
type confirming struct {
	*amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
}

func newConfirming(ch *amqp.Channel) (*confirming, error) {
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return &confirming{
		Channel: ch,
		returns: ch.NotifyReturn(make(chan amqp.Return, 1)),
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}, nil
}

// borrow returns an idle channel, or a new one.
func (c *Conn) borrow() (*confirming, error) {
	for {
		select {
		case ch := <-c.idle:
			if !ch.IsClosed() {
				return ch, nil
			}
		default:
			ch, err := c.Channel()
			if err != nil {
				return nil, fmt.Errorf("open a channel: %w", err)
			}
			return newConfirming(ch)
		}
	}
}

func (c *Conn) giveBack(ch *confirming) {
	select {
	case c.idle <- ch:
	default:
		_ = ch.Close() // it served its purpose
	}
}

// roundTrip writes a message and waits for what the broker says. When ctx ends before,
// the channel is closed: a late confirm would be taken for the next message's.
func (c *Conn) roundTrip(ctx context.Context, o Outgoing, borrow func() (*confirming, error), giveBack func(*confirming)) error {
	ch, err := borrow()
	if err != nil {
		return err
	}
	// Of a direct reply the broker says that no queue takes it even when it has delivered
	// it.
	mandatory := !o.isDirect()
	failpoint.Publishing(failpoint.Offered, string(o.Purpose))
	stuck := c.cutWhenStuck()
	confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, o.Exchange, o.Key, mandatory, false, c.signed(o))
	stuck()
	if err != nil {
		if !ch.IsClosed() { // nothing was written
			giveBack(ch)
		}
		return err
	}
	failpoint.Publishing(failpoint.Written, string(o.Purpose))
	select {
	case <-confirm.Done():
		failpoint.Publishing(failpoint.Confirmed, string(o.Purpose))
	case reason := <-ch.closes:
		if <-confirm.Done(); !confirm.Acked() { // which the end of the channel resolves, too
			return closedBecause(reason)
		}
	case <-ctx.Done():
		_ = ch.Close()
		return context.Cause(ctx)
	}
	if !confirm.Acked() {
		select {
		case reason := <-ch.closes: // or the broker has refused it
			return closedBecause(reason)
		default:
		}
	}
	var returned error
	select {
	case r := <-ch.returns: // comes before its confirm
		returned = fmt.Errorf("%w (%s)", ErrUnroutable, r.ReplyText)
	default:
	}
	giveBack(ch)
	switch {
	case returned != nil:
		return returned
	case !confirm.Acked():
		return ErrRefused
	}
	return nil
}

// signed is the message of o, with the name by which the broker knows this process if it
// is one that this process, or another one like it, is to be handed: the broker checks
// the name, and what Warren writes into headers is believed by it. A dead letter is for
// people: put back into its queue, it is tried as often as any other.
func (c *Conn) signed(o Outgoing) amqp.Publishing {
	switch o.Purpose {
	case "", ForWait, ForReturn, ForSchedule, ForReplay:
		o.Message.UserId = c.User
	}
	return o.Message
}

// cutWhenStuck ends the connection without a word to the broker if that takes nothing
// for too long, although it has not said so. What it returns ends the watch.
func (c *Conn) cutWhenStuck() (stop func()) {
	done := make(chan struct{})
	var look func()
	look = func() {
		select {
		case <-done:
			return
		default:
		}
		if c.blocked.Load() {
			time.AfterFunc(stuckAfter, look)
			return
		}
		_ = c.socket.Close()
	}
	t := time.AfterFunc(stuckAfter, look)
	return func() {
		t.Stop()
		close(done)
	}
}

// closedBecause is why a channel was closed; nil is given if nobody said why.
func closedBecause(reason *amqp.Error) error {
	if reason == nil {
		return amqp.ErrClosed
	}
	return reason
}

// IsMissing tells whether something failed for want of a queue or exchange.
func IsMissing(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return errors.Is(err, ErrUnroutable) || ok && reply.Code == amqp.NotFound
}

// IsObjection tells whether the broker, or AMQP itself, objects to the message: it will
// be refused however often it is offered.
func IsObjection(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return errors.Is(err, ErrUnsendable) || ok && (reply.Code == amqp.ContentTooLarge || reply.Code == amqp.PreconditionFailed && !isAnothersName(reply))
}

// isAnothersName tells whether the broker knows this process by another name than the one
// that it signs with: no message is at fault for that.
func isAnothersName(reply *amqp.Error) bool {
	return strings.Contains(reply.Reason, "user_id property set to")
}

// ExplainPublish says in an operator's words why a message was not published to where a
// person has sent it.
func ExplainPublish(exchange, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnroutable) && exchange == "":
		return fmt.Errorf("there is no queue %s: start its consumer first, which declares it, or check the name", key)
	case errors.Is(err, ErrUnroutable):
		return fmt.Errorf("exchange %s has no queue bound for the routing key %q", exchange, key)
	case IsMissing(err):
		return fmt.Errorf("there is no exchange %s", exchange)
	case strings.HasPrefix(err.Error(), "publish to "):
		return Explain(err)
	default:
		return fmt.Errorf("publish to %s: %w", target(exchange, key), Explain(err))
	}
}
