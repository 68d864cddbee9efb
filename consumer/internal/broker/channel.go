package broker

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Channel is one that its user keeps, to consume and to publish on it: when the broker
// gives it up, both end at once. At most one message is under way, so that Publish is for
// one goroutine at a time.
type Channel struct {
	*amqp.Channel
	conn       *Conn
	confirming *confirming
	closes     chan *amqp.Error
}

// OpenChannel opens a Channel. It blocks until the broker has answered, or the
// connection is closed.
func (c *Conn) OpenChannel() (*Channel, error) {
	ch, err := c.Channel()
	if err != nil {
		return nil, err
	}
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	confirming, err := newConfirming(ch)
	if err != nil {
		return nil, err
	}
	return &Channel{Channel: ch, conn: c, confirming: confirming, closes: closes}, nil
}

// Publish is as [Conn.Publish], on this channel. After any error but ErrUnroutable,
// ErrRefused, ErrBlocked and ErrUnsendable it is not known what became of the message,
// and the channel is closed, or about to be.
func (ch *Channel) Publish(ctx context.Context, o Outgoing) error {
	return ch.conn.publish(ctx, o, func() (*confirming, error) { return ch.confirming, nil }, func(*confirming) {})
}

// Closes gets why the channel ended, once, and is closed then; see [LostBecause].
func (ch *Channel) Closes() <-chan *amqp.Error { return ch.closes }

// GiveUp closes the channel. It waits closeTimeout at most for the broker to agree, and
// leaves the rest to [Conn.Close].
func (ch *Channel) GiveUp() {
	if ch.IsClosed() || !ch.conn.begin() {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer ch.conn.begun.Done()
		defer close(closed)
		_ = ch.Close() // it is lost already, then
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}
