package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Channel is one that its user keeps, and gives up.
type Channel struct {
	*amqp.Channel
	conn   *Conn
	closes chan *amqp.Error
	asking sync.Mutex // held while an answer is waited for: the library would mix up two
}

// OpenChannel opens a Channel. It blocks until the broker has answered, or the
// connection is closed.
func (c *Conn) OpenChannel() (*Channel, error) {
	ch, err := c.Channel()
	if err != nil {
		return nil, err
	}
	return &Channel{Channel: ch, conn: c, closes: ch.NotifyClose(make(chan *amqp.Error, 1))}, nil
}

// Closes gets why the channel ended, once, and is closed then; see [LostBecause].
func (ch *Channel) Closes() <-chan *amqp.Error { return ch.closes }

// channelTimeout is how long a broker that works may take to answer on a channel on which much is
// under way.
const channelTimeout = 15 * time.Second

// ErrStuck says that it has not answered.
var ErrStuck = fmt.Errorf("the broker does not answer within %v on the channel of the queue, which may be without a leader: see which of its nodes are down", channelTimeout)

// Answer runs f, which asks the broker for something on the channel, and waits channelTimeout at
// most: where a queue has no leader, the broker's end of the channel stands still for minutes.
// After [ErrStuck] f goes on, and the channel is only good to be given up.
func (ch *Channel) Answer(f func() error) error { return ch.within(channelTimeout, ErrStuck, f) }

// GiveUp closes the channel. It waits closeTimeout at most for the broker to agree, leaves
// the rest to [Conn.Close], and returns an error if the channel was lost or is not closed yet.
func (ch *Channel) GiveUp() error {
	if ch.IsClosed() {
		return amqp.ErrClosed
	}
	return ch.within(closeTimeout, errNoAnswer, ch.Close)
}

func (ch *Channel) within(d time.Duration, late error, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, late)
	defer cancel()
	return ch.conn.await(ctx, func(*Conn) error {
		ch.asking.Lock()
		defer ch.asking.Unlock()
		return f()
	})
}

// A ConfirmChannel is one to consume and to publish on: when the broker gives it up, both end
// at once. At most one message is under way, so that Publish is for one goroutine at a time.
type ConfirmChannel struct {
	*Channel
	confirming *confirming
}

// OpenConfirmChannel opens a ConfirmChannel. It blocks as OpenChannel does.
func (c *Conn) OpenConfirmChannel() (*ConfirmChannel, error) {
	ch, err := c.OpenChannel()
	if err != nil {
		return nil, err
	}
	confirming, err := newConfirming(ch.Channel)
	if err != nil {
		return nil, err
	}
	return &ConfirmChannel{ch, confirming}, nil
}

// Publish is as [Conn.Publish], on this channel. After any error but ErrUnroutable,
// ErrRefused, ErrBlocked and ErrUnsendable it is not known what became of the message,
// and the channel is closed, or about to be.
func (ch *ConfirmChannel) Publish(ctx context.Context, o Outgoing) error {
	return ch.conn.publish(ctx, o, func() (*confirming, error) { return ch.confirming, nil }, func(*confirming) {})
}
