package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/failpoint"
)

// ErrShared is why nothing is known of a message that shared its channel with others: one
// of them has had the broker close that. Offered with Alone, it is at nobody's mercy.
var ErrShared = errors.New("the broker closed the channel that it shared with others")

const (
	// mostShared is how many messages can be under way on a shared channel: as many as 85
	// waits without a leader can hold.
	mostShared = 2048
	// mostToOne is how many of them can be for one queue. RabbitMQ takes nothing more from
	// a connection that has 32 messages for a quorum queue on a channel which that does not
	// confirm: a wait without a leader would hold up those of all other queues.
	mostToOne = 24
)

// A shared channel has messages of several goroutines under way at a time, so that the
// broker confirms many of them at once: where every message fails and waits, it takes half
// of the time for them, and the daemon a quarter less. Each message bears a name of its own in
// [HeaderCopy], by which it is known when it comes back.
type shared struct {
	*amqp.Channel
	slots   chan struct{} // of messages under way
	returns chan amqp.Return
	closes  chan *amqp.Error

	mu       sync.Mutex
	returned map[string]error // by name, why it came back
	lanes    map[string]*lane // by queue
}

// A lane is for the messages for one queue. The broker makes a channel known to a quorum queue
// with its first message, and does nothing else on the channel until the queue has answered.
// One without a majority of its members does not for 65 s. So those for a queue to which the
// shared channel is new, or which has refused one, go over a channel of their own, one at a
// time, unless it has just taken such a one.
type lane struct {
	slots  chan struct{} // of messages under way
	trying chan struct{} // taken by the one that has a channel of its own

	mu    sync.Mutex
	known bool      // the queue has taken a message over the shared channel
	tried time.Time // when it has last taken one over another; zero: it has failed since
}

// justNow is for how long a queue counts as answering after it has taken a message.
const justNow = time.Second

// open tells whether a message may go over the shared channel.
func (l *lane) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known || time.Since(l.tried) < justNow
}

// note takes note of what has become of a message. One that is returned counts as well: its
// queue is gone, and the shared channel is new to the next one of that name.
func (l *lane) note(err error, overShared bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.known, l.tried = false, time.Time{}
	case overShared:
		l.known = !l.tried.IsZero() // or this is from before it has failed
	default:
		l.tried = time.Now()
	}
}

func newShared(ch *amqp.Channel) (*shared, error) {
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return &shared{
		Channel:  ch,
		slots:    make(chan struct{}, mostShared),
		returns:  ch.NotifyReturn(make(chan amqp.Return, mostShared)), // never full
		closes:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		returned: make(map[string]error),
		lanes:    make(map[string]*lane),
	}, nil
}

// sharedChannel returns the shared channel that there is now.
func (c *Conn) sharedChannel() (*shared, error) {
	c.sharedMu.Lock()
	defer c.sharedMu.Unlock()
	if c.shared == nil || c.shared.IsClosed() {
		ch, err := c.Channel()
		if err != nil {
			return nil, fmt.Errorf("open a channel: %w", err)
		}
		if c.shared, err = newShared(ch); err != nil {
			return nil, err
		}
	}
	return c.shared, nil
}

// sharesChannel tells whether a message goes over the shared channel.
func (o *Outgoing) sharesChannel() bool {
	return o.Purpose == ForWait && !o.Alone && nameOf(o.Message.Headers) != ""
}

func nameOf(headers amqp.Table) string {
	name, _ := headers[HeaderCopy].(string)
	return name
}

// sharedTrip writes a message to the shared channel and waits for what the broker says. It
// does so after the end of ctx as well: a late confirm is nobody else's, and the channel
// goes on.
func (c *Conn) sharedTrip(ctx context.Context, o Outgoing) error {
	ch, err := c.sharedChannel()
	if err != nil {
		return err
	}
	its := ch.lane(o.Key)
	// First of all, so that nothing is taken for granted that was so before a wait, and who
	// waits for its queue is in nobody's way.
	if err := ch.take(ctx, its.slots); err != nil {
		return err
	}
	defer func() { <-its.slots }()
	if !its.open() {
		if err := ch.take(ctx, its.trying); err != nil {
			return err
		}
		if !its.open() {
			defer func() { <-its.trying }()
			err := c.roundTrip(ctx, o, c.borrow, c.giveBack)
			its.note(err, false)
			return err
		}
		<-its.trying
	}
	if err := ch.take(ctx, ch.slots); err != nil {
		return err
	}
	defer func() { <-ch.slots }()
	err = c.tripWithOthers(ctx, ch, o)
	its.note(err, true)
	return err
}

// tripWithOthers is the part of sharedTrip that is on the shared channel.
func (c *Conn) tripWithOthers(ctx context.Context, ch *shared, o Outgoing) error {
	failpoint.Publishing(failpoint.Offered, string(o.Purpose))
	stuck := c.cutWhenStuck()
	confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, o.Exchange, o.Key, true, false, c.signed(o))
	stuck()
	if err != nil {
		if ch.IsClosed() {
			return ErrShared
		}
		return err
	}
	failpoint.Publishing(failpoint.Written, string(o.Purpose))
	select {
	case <-confirm.Done():
		failpoint.Publishing(failpoint.Confirmed, string(o.Purpose))
	case <-ch.closes: //nolint:errcheck // as in take
		<-confirm.Done() // which the end of the channel resolves, if the broker has not
	}
	returned := ch.answer(nameOf(o.Message.Headers))
	switch {
	case !confirm.Acked() && ch.IsClosed(): // pending confirms resolve when the channel closes
		return ErrShared
	case returned != nil:
		return returned
	case !confirm.Acked():
		return ErrRefused
	}
	return nil
}

// take takes a slot, and returns an error if the channel is closed or ctx ends before.
func (s *shared) take(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-s.closes: //nolint:errcheck // why it was closed comes up with the culprit
		return ErrShared
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *shared) lane(queue string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.lanes[queue]
	if !ok {
		l = &lane{slots: make(chan struct{}, mostToOne), trying: make(chan struct{}, 1)}
		s.lanes[queue] = l
	}
	return l
}

// answer tells, after the confirm of a message, why it was returned, if it was: the broker
// sends a return before its confirm.
func (s *shared) answer(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range len(s.returns) {
		r := <-s.returns
		s.returned[nameOf(r.Headers)] = fmt.Errorf("%w (%s)", ErrUnroutable, r.ReplyText)
	}
	err := s.returned[name]
	delete(s.returned, name)
	return err
}
