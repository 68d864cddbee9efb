package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sethvargo/go-retry"
)

// publishTimeout is how long one message is offered to the broker before the
// delivery it stems from is given back.
const publishTimeout = 30 * time.Second

var (
	errUnroutable = errors.New("no queue takes it")
	errRefused    = errors.New("the broker refused it; its queue may be full or have no leader")
	errBlocked    = errors.New("the broker takes no messages for now; look for a memory or disk alarm")
	errNoConfirm  = errors.New("the broker did not confirm it in time")
)

// A publisher publishes over the second connection of a session. It may be used
// by any number of goroutines.
type publisher struct {
	conn    *amqp.Connection
	top     topology
	timeout time.Duration // how long one message is offered
	idle    chan *confirming
	blocked atomic.Bool
}

// confirming is a channel in confirm mode with at most one message under way, so
// that a confirm, a return and a closed channel can only mean that message.
type confirming struct {
	ch      *amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
}

// maxIdleChannels bounds the channels kept for the next publish.
const maxIdleChannels = 64

func newPublisher(conn *amqp.Connection, top topology) *publisher {
	return &publisher{conn: conn, top: top, timeout: publishTimeout, idle: make(chan *confirming, maxIdleChannels)}
}

// publish returns nil only when the broker has confirmed that a queue has the
// message. It tries again for up to its timeout, after declaring what it finds
// missing, unless ctx ends or the connection is lost before.
func (p *publisher) publish(ctx context.Context, exchange, key string, msg amqp.Publishing) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, errNoConfirm)
	defer cancel()
	var last error
	backoff := retry.WithCappedDuration(2*time.Second, retry.NewExponential(50*time.Millisecond))
	err := retry.Do(ctx, backoff, func(ctx context.Context) error {
		last = p.publishOnce(ctx, exchange, key, msg)
		if last == nil || p.conn.IsClosed() {
			return last
		}
		if isMissing(last) {
			declare := p.declaring(exchange, key)
			if declare == nil {
				return last // nobody but its owner can mend that
			}
			if err := declare(); err != nil {
				last = errors.Join(last, err)
			}
		}
		return retry.RetryableError(last)
	})
	if err == nil {
		return nil
	}
	if last == nil {
		last = err // ctx had ended before
	}
	return fmt.Errorf("publish to exchange %q with routing key %q: %w", exchange, key, last)
}

// publishOnce offers the message once, without declaring anything.
func (p *publisher) publishOnce(ctx context.Context, exchange, key string, msg amqp.Publishing) error {
	if p.blocked.Load() {
		return errBlocked // writing would only fill a socket that nobody reads
	}
	c, err := p.channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	confirm, err := c.ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, msg)
	if err != nil {
		return err
	}
	select {
	case <-confirm.Done():
	case <-ctx.Done():
		// The channel is left to the session: its late confirm would be taken
		// for the next message's, and closing it may block as well.
		return context.Cause(ctx)
	}
	select {
	case err := <-c.closes: // pending confirms resolve when the channel closes
		if err == nil {
			return amqp.ErrClosed
		}
		return err
	default:
	}
	// The broker sends a return before its confirm.
	select {
	case r := <-c.returns:
		p.keep(c)
		return fmt.Errorf("%w (%s)", errUnroutable, r.ReplyText)
	default:
	}
	p.keep(c)
	if !confirm.Acked() {
		return errRefused
	}
	return nil
}

func (p *publisher) channel() (*confirming, error) {
	for {
		select {
		case c := <-p.idle:
			if !c.ch.IsClosed() {
				return c, nil
			}
		default:
			ch, err := p.conn.Channel()
			if err != nil {
				return nil, err
			}
			if err := ch.Confirm(false); err != nil {
				return nil, err
			}
			return &confirming{
				ch:      ch,
				returns: ch.NotifyReturn(make(chan amqp.Return, 1)),
				closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
			}, nil
		}
	}
}

func (p *publisher) keep(c *confirming) {
	select {
	case p.idle <- c:
	default:
		_ = c.ch.Close() // it served its purpose
	}
}

// isMissing tells whether a publish failed for want of a queue or exchange.
func isMissing(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return errors.Is(err, errUnroutable) || ok && reply.Code == amqp.NotFound
}

// declaring returns what declares the target of a message again, after somebody
// has deleted it; nil if it is none of Warren's.
func (p *publisher) declaring(exchange, key string) func() error {
	if strings.HasPrefix(exchange, waitPrefix) {
		return func() error {
			return ensure(p.conn, p.top.waitDeclarations(), p.top.passive(), "WARREN_QUEUE_<NAME>_")
		}
	}
	for _, q := range p.top.queues {
		if exchange == "" && (key == q.deadLetterQueue() || key == q.Name) {
			return func() error { return ensure(p.conn, q.declarations(), q.Passive, q.EnvPrefix) }
		}
	}
	return nil
}
