package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A Client asks on behalf of an operator, over a connection of its own.
type Client struct {
	conn *broker.Conn
	stop func() bool
}

// Dial connects to the first of nodes that can be used. user is the name by which the
// broker knows this process; empty means that of the URL. program is what the connection
// is called. The client ends with ctx, and is to be closed.
func Dial(ctx context.Context, program, user string, nodes []string) (*Client, error) {
	conn, err := broker.Dialer{Program: program, User: user}.DialAny(ctx, nodes, broker.Options{Purpose: "fleet"})
	if err != nil {
		return nil, err
	}
	if conn.User == "" {
		conn.Close()
		return nil, errors.New("the broker's name for you is not known, and daemons obey nobody without one; set WARREN_AMQP_USER")
	}
	return &Client{conn, context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })}, nil
}

// Close ends the connection.
func (c *Client) Close() {
	c.stop()
	c.conn.Close()
}

// User is who asks, as the broker knows it.
func (c *Client) User() string { return c.conn.User }

// Pause has no daemon take anything from a queue until it is resumed or so much time has
// passed, unless that is zero. It is in force when Pause returns, also for daemons that
// are started later; those that there are follow within a second.
func (c *Client) Pause(ctx context.Context, queue, why string, lasts time.Duration) error {
	if len(why) > maxWhy {
		return fmt.Errorf("the reason has %d bytes; %d are allowed", len(why), maxWhy)
	}
	p := Pause{By: Host(), Why: why, Since: time.Now().UTC()}
	if lasts > 0 {
		p.Until = p.Since.Add(lasts)
	}
	if err := c.conn.Pause(ctx, queue, p, lasts); err != nil {
		return err
	}
	p.By = fmt.Sprintf("%s (%s)", c.conn.User, p.By)
	return c.hint(ctx, Request{Verb: VerbPaused, Queue: queue, Pause: &p})
}

const maxWhy = 300

// Resume ends the pause of a queue.
func (c *Client) Resume(ctx context.Context, queue string) error {
	if err := c.conn.Unpause(queue); err != nil {
		return err
	}
	return c.hint(ctx, Request{Verb: VerbPaused, Queue: queue})
}

// Paused is the pause of a queue; nil if there is none. Whether daemons obey who has made
// it is for them to say.
func (c *Client) Paused(ctx context.Context, queue string) (*Pause, error) {
	state, err := c.conn.LookAtPause(ctx, queue, func(string) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", broker.PausedQueue(queue), broker.Explain(err))
	}
	if state.There && state.Pause == nil { // daemons are looking, or it has just ended
		return &Pause{}, nil
	}
	return state.Pause, nil
}

// Count is how many messages of a queue are ready, and how many consumers it has.
func (c *Client) Count(queue string) (messages, consumers int, err error) {
	err = c.conn.OnChannel(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		messages, consumers = q.Messages, q.Consumers
		return err
	})
	if broker.IsMissing(err) {
		return 0, 0, ErrNoQueue
	}
	return messages, consumers, broker.Explain(err)
}

// ErrNoQueue says that there is none of that name.
var ErrNoQueue = errors.New("there is no such queue")

// hint tells the daemons of what they would find out by themselves.
func (c *Client) hint(ctx context.Context, r Request) error {
	if err := c.tell(ctx, r, ""); err != nil && !broker.IsMissing(err) { // there may be none
		return fmt.Errorf("done, but the daemons were not told and find out within 15 minutes: %w", err)
	}
	return nil
}

// tell publishes a request.
func (c *Client) tell(ctx context.Context, r Request, replyTo string) error {
	r.From = Host()
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(body) > MaxRequestBytes {
		return fmt.Errorf("the request has %d bytes; daemons read %d", len(body), MaxRequestBytes)
	}
	return broker.Explain(c.conn.Publish(ctx, broker.Outgoing{Exchange: Exchange, Message: amqp.Publishing{
		ContentType: "application/json", ReplyTo: replyTo, Body: body,
	}}))
}
