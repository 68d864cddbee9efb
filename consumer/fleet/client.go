package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// IsLost tells whether the connection has ended.
func (c *Client) IsLost() bool { return c.conn.IsClosed() }

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

// Counts calls each with how many messages of the queues are ready and how many consumers they
// have, in their order; there is false for those that are not there.
func (c *Client) Counts(queues []string, each func(queue string, messages, consumers int, there bool)) error {
	for len(queues) > 0 {
		err := c.conn.OnChannel(func(ch *amqp.Channel) error { // which ends with a queue that is missing
			for len(queues) > 0 {
				q, err := ch.QueueDeclarePassive(queues[0], true, false, false, false, nil)
				if err != nil {
					return err
				}
				each(queues[0], q.Messages, q.Consumers, true)
				queues = queues[1:]
			}
			return nil
		})
		if broker.IsMissing(err) {
			each(queues[0], 0, 0, false)
			queues = queues[1:]
		} else if err != nil {
			return broker.Explain(err)
		}
	}
	return nil
}

// Waits are the wait queues of a work queue that are there.
func (c *Client) Waits(queue string) ([]string, error) {
	names, _, err := c.conn.WaitQueues(queue)
	return names, err
}

// Blocked tells whether the broker takes no messages for now, for an alarm of its own.
func (c *Client) Blocked() bool { return c.conn.Blocked() }

// BrokerTime is how late it is by the clock of the broker's node, to the second.
func (c *Client) BrokerTime(ctx context.Context) (time.Time, error) {
	now, err := c.conn.Clock(ctx, ReplyPrefix)
	return now, broker.Explain(err)
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

const (
	// settledAfter is how long no further answer comes until all count as there, and
	// atLeast is how long the first may take.
	settledAfter = 300 * time.Millisecond
	atLeast      = 600 * time.Millisecond
	// maxAnswers bounds what waits to be read.
	maxAnswers = 10_000
)

// ErrNobody says that no daemon has ever listened in this virtual host.
var ErrNobody = errors.New("no daemon hears what is asked in this virtual host: none runs, all are older than this, or not permitted to; look for the exchange " + Exchange + " in their logs")

// Ask asks r of the daemons and returns their answers, in the order of their names. It waits
// until so many have answered or, if expect is 0, until no more come, but no longer than
// that.
func (c *Client) Ask(ctx context.Context, r Request, expect int, wait time.Duration) ([]Answer, error) {
	var out []Answer
	begun := time.Now()
	err := c.Each(ctx, r, wait, func(a Answer) {
		out = append(out, a)
	}, func() time.Duration {
		switch {
		case expect > 0 && len(out) >= expect:
			return 0
		case expect > 0:
			return wait
		}
		return max(settledAfter, atLeast-time.Since(begun))
	})
	slices.SortFunc(out, func(a, b Answer) int {
		return cmp.Or(cmp.Compare(a.Daemon.Host, b.Daemon.Host), cmp.Compare(a.Daemon.PID, b.Daemon.PID))
	})
	return out, err
}

// Each asks r of the daemons and calls each with their answers as they come, until so much
// time has passed, ctx has ended, or none has come for as long as patience says; nil: it
// says nothing.
func (c *Client) Each(ctx context.Context, r Request, wait time.Duration, each func(Answer), patience func() time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errEnough)
	defer cancel()
	if err := c.listen(ctx, r, 0, each, patience); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

var errEnough = errors.New("enough has been waited")

// askAgain is how often daemons are asked to go on, by whoever watches them: a little before a
// status is due, since they answer that with one.
func askAgain(r Request) time.Duration {
	return (MaxWatch * 2 / 3).Truncate(r.Every()) - WatchEvery/2
}

// Watch has the status of the daemons come as often as r says, until ctx ends, those of
// daemons that are started meanwhile soon as well. It returns why it has ended.
func (c *Client) Watch(ctx context.Context, r Request, each func(Answer)) error {
	r.Verb, r.ForMillis = VerbStatus, MaxWatch.Milliseconds()
	return c.listen(ctx, r, askAgain(r), each, nil)
}

// listen asks r, and once more every so often unless that is zero.
func (c *Client) listen(ctx context.Context, r Request, every time.Duration, each func(Answer), patience func() time.Duration) error {
	ch, err := c.conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close() //nolint:errcheck // its queue goes with it
	q, err := ch.QueueDeclare(ReplyPrefix+rand.Text(), false, true, true, false, amqp.Table{"x-max-length": int64(maxAnswers), amqp.QueueTypeArg: amqp.QueueTypeClassic})
	if err != nil {
		return fmt.Errorf("declare a queue for the answers: %w", broker.Explain(err))
	}
	answers, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		return broker.Explain(err)
	}
	ask := func() error {
		if err := c.tell(ctx, r, q.Name); broker.IsMissing(err) {
			return ErrNobody
		} else if err != nil {
			return err
		}
		return nil
	}
	if err := ask(); err != nil {
		return err
	}
	var again <-chan time.Time
	if every > 0 {
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		again = ticks.C
	}
	for {
		var enough <-chan time.Time
		if patience != nil {
			enough = time.After(patience())
		}
		select {
		case d, open := <-answers:
			if !open {
				return errors.Join(errors.New("the connection to the broker was lost"), context.Cause(ctx))
			}
			var a Answer
			if err := json.Unmarshal(d.Body, &a); err == nil && a.Daemon.Host != "" {
				each(a)
			}
		case <-again:
			if err := ask(); err != nil {
				return err
			}
		case <-enough:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
