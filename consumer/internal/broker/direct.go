package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// directReply begins the names by which the broker delivers replies to whoever has asked,
// without a queue. What follows is the broker's own.
const directReply = "amq.rabbitmq.reply-to."

func (o Outgoing) isDirect() bool { return o.Exchange == "" && strings.HasPrefix(o.Key, directReply) }

// offerDirect offers a direct reply over a connection on which nothing else is under way:
// a name that somebody has made up, or of a node that has left the cluster, has the broker
// close it. Whose fault that was is found out over a further one.
func (c *Conn) offerDirect(ctx context.Context, o Outgoing) error {
	direct, err := c.directConn(ctx)
	if err != nil {
		return err
	}
	err = direct.offerQueued(ctx, o, direct.borrow, direct.giveBack)
	if !isInternalError(err) {
		return err
	}
	alone, err := c.another(ctx, "reply")
	if err != nil {
		return err
	}
	defer alone.Close()
	if err = alone.offerQueued(ctx, o, alone.borrow, alone.giveBack); isInternalError(err) {
		return fmt.Errorf("%w (the broker fails to find who has asked)", ErrUnroutable)
	}
	return err
}

// directConn returns the connection for direct replies.
func (c *Conn) directConn(ctx context.Context) (*Conn, error) {
	c.directMu.Lock()
	defer c.directMu.Unlock()
	if c.direct != nil && !c.direct.IsClosed() {
		return c.direct, nil
	}
	if c.direct != nil {
		c.direct.Close()
	}
	var err error
	if c.direct, err = c.another(ctx, "reply"); err != nil {
		return nil, err
	}
	return c.direct, nil
}

// another opens a connection to the same node.
func (c *Conn) another(ctx context.Context, purpose string) (*Conn, error) {
	if c.IsClosed() {
		return nil, amqp.ErrClosed
	}
	return c.dialer.Dial(ctx, c.URL, Options{Purpose: purpose, Heartbeat: c.Config.Heartbeat})
}

func isInternalError(err error) bool {
	reply, ok := errors.AsType[*amqp.Error](err)
	return ok && reply.Code == amqp.InternalError
}
