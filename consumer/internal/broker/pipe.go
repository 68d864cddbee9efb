package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Pipe publishes messages one after the other, without waiting for the confirm of each.
// It is for one goroutine. After any error but ErrUnsendable nothing more is to be published
// with it, and Flush tells what has become of the rest.
type Pipe struct {
	// Window is how many messages may wait for their confirms.
	Window int

	conn    *Conn
	ch      *amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
	flight  []flying // the oldest first
	refused map[destination]error
}

// A flying message waits for its confirm.
type flying struct {
	destination destination
	confirm     *amqp.DeferredConfirmation
	then        func(error) error
}

// OpenPipe opens a Pipe whose window is of that size at most.
func (c *Conn) OpenPipe(window int) (*Pipe, error) {
	ch, err := c.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return &Pipe{
		Window: window, conn: c, ch: ch, refused: make(map[destination]error),
		returns: ch.NotifyReturn(make(chan amqp.Return, window)),
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}, nil
}

// Publish publishes o, and calls then once it is known whether a queue has it, with nil or why
// none does: in this call, or in a later one, or in Flush, in the order in which messages were
// published. It blocks while the pipe is full, or the broker takes nothing. What then of a message
// before o returns is an error, too.
func (p *Pipe) Publish(ctx context.Context, o Outgoing, then func(error) error) error {
	if err := p.conn.check(o); err != nil {
		return err
	}
	for len(p.flight) >= p.Window {
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	for waited := time.Duration(0); p.conn.blocked.Load(); waited += blockedPoll {
		if waited > PublishTimeout {
			return ErrBlocked
		}
		if !Sleep(ctx, blockedPoll) {
			return context.Cause(ctx)
		}
	}
	stuck := p.conn.cutWhenStuck()
	confirm, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, o.Exchange, o.Key, true, false, p.conn.signed(o))
	stuck()
	if err != nil {
		return p.reason(err)
	}
	p.flight = append(p.flight, flying{o.destination(), confirm, then})
	for len(p.flight) > 0 { // what has been answered already
		select {
		case <-p.flight[0].confirm.Done():
			if err := p.settle(ctx); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	return nil
}

// blockedPoll is how often a Pipe looks whether the broker takes messages again.
const blockedPoll = 100 * time.Millisecond

// Flush waits until all that was published is confirmed, or known not to be, and returns the
// first error. It ends with ctx, or when a confirm does not come in time.
func (p *Pipe) Flush(ctx context.Context) error {
	var first error
	for left := len(p.flight); left > 0; left = len(p.flight) {
		err := p.settle(ctx)
		if first == nil {
			first = err
		}
		if len(p.flight) == left {
			break
		}
	}
	return first
}

// InFlight is how many of the last messages are not answered yet.
func (p *Pipe) InFlight() int { return len(p.flight) }

// settle waits for the confirm of the oldest message, which is in flight until that is known.
func (p *Pipe) settle(ctx context.Context) error {
	f := p.flight[0]
	select {
	case <-f.confirm.Done():
	default:
		late := time.NewTimer(PublishTimeout)
		defer late.Stop()
		select {
		case <-f.confirm.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return ErrNoConfirm
		}
	}
	p.flight = p.flight[1:]
	return f.then(p.outcome(f))
}

// outcome is why no queue has a message that is answered; nil: one has it.
func (p *Pipe) outcome(f flying) error {
	for len(p.returns) > 0 { // a return comes before its confirm
		r := <-p.returns
		p.refused[destination{r.Exchange, r.RoutingKey}] = fmt.Errorf("%w (%s)", ErrUnroutable, r.ReplyText)
	}
	switch {
	case p.ch.IsClosed() && !f.confirm.Acked(): // pending confirms resolve when the channel closes
		return p.reason(amqp.ErrClosed)
	case !f.confirm.Acked():
		return ErrRefused
	}
	// The broker does not say which message it returns: all of that way count as returned.
	return p.refused[f.destination]
}

// reason is why the channel was closed, in place of an error that says no more than that.
func (p *Pipe) reason(err error) error {
	if !p.ch.IsClosed() || errors.Is(err, context.Canceled) {
		return err
	}
	select {
	case reason := <-p.closes:
		if reason != nil {
			return Explain(reason)
		}
	case <-time.After(closeTimeout):
	}
	return Explain(err)
}

// Close closes the pipe.
func (p *Pipe) Close() {
	if !p.ch.IsClosed() {
		_ = p.ch.Close() // it has served its purpose
	}
}
