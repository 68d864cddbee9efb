package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

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

// A lane is for the messages for one queue. The first of them, and those after one that was
// refused, go over a channel of their own, one at a time: the broker makes a channel known
// to a quorum queue with its first message, and does nothing else on the channel until the
// queue has answered. One without a majority of its members does not for 65 s.
type lane struct {
	slots   chan struct{} // of messages under way
	trying  chan struct{} // taken by the one that has a channel of its own
	answers atomic.Bool   // the queue has taken a message, and refused none since
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
	if !its.answers.Load() {
		if err := ch.take(ctx, its.trying); err != nil {
			return err
		}
		if !its.answers.Load() {
			defer func() { <-its.trying }()
			err := c.roundTrip(ctx, o, c.borrow, c.giveBack)
			its.answers.Store(err == nil)
			return err
		}
		<-its.trying
	}
	for _, slots := range []chan struct{}{its.slots, ch.slots} { // in this order: who waits for its queue is in nobody's way
		if err := ch.take(ctx, slots); err != nil {
			return err
		}
		defer func() { <-slots }()
	}
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
		its.answers.Store(false)
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
