package broker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What a Sweep is handed at once: so many messages, and so many bytes, as far as those
// before allow to tell.
const (
	maxBatch      = 1000
	maxBatchBytes = 16 << 20
	firstBatch    = 16
)

// shortBatchAfter is how long a Sweep waits for a message that was there at its beginning
// until it asks whether that still is.
const shortBatchAfter = 500 * time.Millisecond

// unansweredFor is how long a Sweep waits for a queue that says nothing of itself: an election
// takes less.
const unansweredFor = 30 * time.Second

// A Sweep goes through the messages that a queue has at its beginning, from the first on,
// in batches of bounded size. Nothing leaves the queue but what is acknowledged; Close gives
// back the rest, and if the process is killed the broker does. Meanwhile others do not see
// what it has been handed. A Sweep is for one goroutine.
type Sweep struct {
	// Total is how many messages were there at its beginning.
	Total int

	queue    string
	conn     *Conn
	ch       *amqp.Channel
	closes   chan *amqp.Error
	why      error         // the channel was closed; nil: it was not, or is not known yet
	others   int           // that are there and not for it
	patience time.Duration // with a broker that is given back what it has handed out
	acked    []bool        // of what was handed out, by delivery tag less 1; also what was given back at once
	ends     []int         // of the batches in that
	held     int           // of it, not acknowledged
	left     int           // of Total
	frames   int           // that acknowledge, since the last batch was handed out
	batch    int           // the size of the next
	largest  int           // the longest body so far
	batches  int
	returned bool // the last message that was handed out had been given back before
}

// Sweep begins a Sweep of the queue. No error of the broker is about anything but it.
func (c *Conn) Sweep(queue string) (*Sweep, error) {
	ch, err := c.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	s := &Sweep{queue: queue, conn: c, ch: ch, closes: ch.NotifyClose(make(chan *amqp.Error, 1)), batch: firstBatch}
	s.patience = giveBackPatience
	if _, waits := WorkQueueOf(queue); waits {
		s.patience /= 3 // what is given back may fall due at once, and is not seen again
	}
	state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err == nil && state.Messages == 0 && state.Consumers == 0 { // or it does not answer
		state.Messages, err = s.ask()
	}
	if err != nil {
		return nil, err
	}
	s.Total, s.left = state.Messages, state.Messages
	return s, nil
}

// Limit has the Sweep go no further than the first n messages.
func (s *Sweep) Limit(n int) {
	s.others += max(s.left-n, 0)
	s.left = min(s.left, n)
}

// Next returns the next messages; none after the last. It blocks until they are there, or
// ctx ends. Each batch has a consumer of its own, since only a new one can be handed more
// than was agreed upon before, and its prefetch bounds what is in memory.
func (s *Sweep) Next(ctx context.Context) ([]amqp.Delivery, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	n := min(s.batch, s.left)
	if n == 0 {
		return nil, nil
	}
	if err := s.ch.Qos(n, 0, false); err != nil {
		return nil, s.reason(err)
	}
	s.batches++
	tag := "sweep-" + strconv.Itoa(s.batches)
	in, err := s.ch.Consume(s.queue, tag, false, false, false, false, nil)
	if err != nil {
		return nil, s.reason(err)
	}
	got, failed := s.receive(ctx, in, n)
	if failed != nil && ctx.Err() == nil {
		return nil, failed
	}
	if err := s.ch.Cancel(tag, false); err != nil {
		return nil, s.reason(err)
	}
	for d := range in { // of a short batch, or one that ctx has ended: what came after all
		got = append(got, d)
	}
	s.frames = 0
	s.held += len(got)
	s.returned = len(got) > 0 && got[len(got)-1].Redelivered
	s.acked = append(s.acked, make([]bool, len(got))...)
	s.ends = append(s.ends, len(s.acked))
	s.left -= len(got)
	if failed != nil { // no consumer is left that would be handed again what Close gives back
		return nil, failed
	}
	if len(got) < n {
		s.left = 0 // somebody else has the others
	}
	for i := range got {
		s.largest = max(s.largest, len(got[i].Body))
	}
	s.batch = max(1, min(4*s.batch, maxBatch, maxBatchBytes/max(s.largest, 1)))
	return got, nil
}

// receive receives n messages, or fewer if the queue has no more. If ctx ends, it returns what it
// has, with the cause.
func (s *Sweep) receive(ctx context.Context, in <-chan amqp.Delivery, n int) ([]amqp.Delivery, error) {
	got := make([]amqp.Delivery, 0, n)
	late, answered := time.NewTimer(shortBatchAfter), time.Now()
	defer late.Stop()
	for len(got) < n {
		select {
		case d, ok := <-in:
			if !ok {
				return nil, s.reason(fmt.Errorf("the broker has ended the consumer of queue %s; is the queue still there?", s.queue))
			}
			got, answered = append(got, d), time.Now()
			continue
		case <-ctx.Done():
			return got, context.Cause(ctx)
		case <-late.C:
		}
		switch ready, said, err := s.state(answered); {
		case err != nil:
			return nil, err
		case said && ready == 0:
			return got, nil
		case said:
			answered = time.Now()
		}
		late.Reset(shortBatchAfter)
	}
	return got, nil
}

// mostRest is how many messages Rest goes through, in about a second.
const mostRest = 10_000

// Rest has the rest handed out as well, where what Close gives back would come behind it: a quorum
// queue hands out first what it was given back, in the order in which it was. So that order
// stays. It leaves alone more than 10,000; what waits, which is held up by it and has its order from
// when it is due; and dead letters if each time that one is handed out may count towards a delivery
// limit beyond which the broker drops it. It blocks until it has the last of those, fails, or ctx
// ends: the order is another then, and nothing else is amiss.
func (s *Sweep) Rest(ctx context.Context) {
	if _, waits := WorkQueueOf(s.queue); waits || s.left > mostRest || !s.returned || s.mayDrop() {
		return
	}
	for s.returned {
		if batch, err := s.Next(ctx); err != nil || len(batch) == 0 {
			return
		}
	}
}

// mayDrop tells whether the broker may drop dead letters that are handed out too often.
func (s *Sweep) mayDrop() bool {
	home, isDead := strings.CutSuffix(s.queue, ".dead")
	return isDead && s.conn.Version.NackCounts && !s.conn.HasOwnLimit(home)
}

// Ack takes a message of the last batch off the queue. Nil means that the broker has been
// told, not that it has heard of it; Close waits for that.
func (s *Sweep) Ack(d *amqp.Delivery) error {
	s.held--
	s.frames++
	s.acked[d.DeliveryTag-1] = true
	return s.reason(s.ch.Ack(d.DeliveryTag, false))
}

// Close gives back what was not acknowledged, in its order, and waits until the broker has it in
// its queue again, and has heard of what was acknowledged. In 4.3 what is given back so is not
// counted as handed out in vain.
func (s *Sweep) Close() error {
	if s.frames > underWay {
		if err := s.settle(); err != nil {
			return err
		}
	}
	begin, frames, given := 0, 0, 0
	for _, end := range s.ends {
		last := 0
		nack := func() error { // all up to the last
			tag := uint64(last)
			last, frames = 0, frames+1
			return s.ch.Nack(tag, true, true)
		}
		inFrame := 0
		for i, acked := range s.acked[begin:end] {
			if acked {
				continue
			}
			given, inFrame, last = given+1, inFrame+1, begin+i+1
			if inFrame%s.conn.Version.Returns > 0 {
				continue
			}
			if err := nack(); err != nil {
				return s.reason(err)
			}
			if frames%giveBackFrames == 0 {
				s.awaitReady(s.others + s.left + given)
			}
		}
		if begin = end; last > 0 {
			if err := nack(); err != nil {
				return s.reason(err)
			}
		}
	}
	if err := s.ch.Close(); err != nil {
		return s.reason(err)
	}
	if s.held > 0 {
		s.awaitReady(s.others + s.left + s.held)
	}
	return nil
}

// underWay is how many commands a channel of the broker has under way to a quorum queue. It
// keeps others until some of these are done, and forgets them when it is closed.
const underWay = 32

// settle waits until the queue has heard of what was acknowledged, by a consumer that comes and
// goes: the queue answers to its coming after what was under way is done, upon which the
// channel sends the rest, and to its going after that.
func (s *Sweep) settle() error {
	_, err := s.visit(func() error { return nil })
	return err
}

// ask waits for the queue to say how many messages it has.
func (s *Sweep) ask() (messages int, err error) {
	handed, err := s.visit(func() error {
		for began := time.Now(); ; time.Sleep(shortBatchAfter) {
			var answered bool
			if messages, answered, err = s.state(began); answered || err != nil {
				return err
			}
		}
	})
	if messages += handed; handed > 0 {
		s.awaitReady(messages)
	}
	return messages, err
}

// state is how many messages are ready, and whether the queue has said so: of one that does not
// answer, the broker says 0, and that it has not even the consumer that this Sweep has. It is an
// error if the last answer is too long ago.
func (s *Sweep) state(last time.Time) (ready int, answered bool, err error) {
	state, err := s.ch.QueueDeclarePassive(s.queue, true, false, false, false, nil)
	if err != nil {
		return 0, false, s.reason(err)
	}
	if state.Consumers == 0 && time.Since(last) > unansweredFor {
		return 0, false, fmt.Errorf("queue %s has not answered for %v: it has no leader, or its node is too busy; see rabbitmq-queues quorum_status %s, and go on when it has one", s.queue, unansweredFor, s.queue)
	}
	return state.Messages, state.Consumers > 0, nil
}

// visit calls f while the queue has a consumer, which is handed one message at most. It gives
// that back, and returns how many there were.
func (s *Sweep) visit(f func() error) (handed int, err error) {
	if err := s.ch.Qos(1, 0, false); err != nil {
		return 0, s.reason(err)
	}
	const tag = "sweep-visit"
	in, err := s.ch.Consume(s.queue, tag, false, false, false, false, nil)
	if err != nil {
		return 0, s.reason(err)
	}
	if err := f(); err != nil {
		return 0, err
	}
	if err := s.ch.Cancel(tag, false); err != nil {
		return 0, s.reason(err)
	}
	for d := range in {
		handed++
		s.acked = append(s.acked, true)
		if err := d.Nack(false, true); err != nil {
			return handed, s.reason(err)
		}
	}
	return handed, nil
}

// giveBackFrames is how many frames the broker takes at once and keeps the order of. Once it
// has fallen behind by 32, it puts them together.
const giveBackFrames = 20

// awaitReady waits until so many messages are in the queue, or no more come: somebody else takes
// them then.
func (s *Sweep) awaitReady(n int) {
	last, wait := -1, giveBackPoll
	for deadline := time.Now().Add(s.patience); time.Now().Before(deadline); {
		ready, err := s.conn.ready(s.queue)
		if err != nil || ready >= n {
			return
		}
		if ready != last {
			last, deadline = ready, time.Now().Add(s.patience)
		}
		time.Sleep(wait)
		wait = min(2*wait, 20*time.Millisecond)
	}
}

const (
	giveBackPoll     = time.Millisecond
	giveBackPatience = time.Second
)

// reason is why the channel was closed, in place of an error that says no more than that.
func (s *Sweep) reason(err error) error {
	if err == nil || !s.ch.IsClosed() {
		return err
	}
	if s.why == nil {
		s.why = err
		select {
		case reason := <-s.closes:
			if reason != nil {
				s.why = reason
			}
		case <-time.After(closeTimeout):
		}
	}
	return Explain(s.why)
}

// A Delivery is what the broker hands out.
type Delivery = amqp.Delivery

// HasOwnLimit tells whether the dead letters of that work queue have the delivery limit that
// Warren declares. It does not know where it may not declare, or a policy sets the limit.
func (c *Conn) HasOwnLimit(queue string) bool {
	q := Queue{Name: queue, Type: Quorum}
	return c.OnChannel(q.declare(q.DeadLetterQueue(), q.deadLetterArguments()).Make) == nil // changes nothing: it is there
}
