package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A WaitingMessage is one in a wait queue.
type WaitingMessage struct {
	Queue     string    `json:"queue"` // that it goes to when it is due
	MessageID string    `json:"message_id"`
	Due       time.Time `json:"due"`
	Attempts  int       `json:"attempts"` // already made
	Error     string    `json:"error,omitempty"`
}

// A WaitingList is what was found waiting.
type WaitingList struct {
	Messages []WaitingMessage // the next due first
	More     int              // that were not looked at
	// Missing are the queues that have wait queues but are not there. What falls due for
	// one is kept, and comes home once it is declared, but no client can see it.
	Missing []string
}

// Waiting returns what waits in the broker for the queues of these names: of each wait
// queue it looks at the first ones, at most so many. They stay where they are, in their
// order, and come home in time; those that fall due while they are looked at do so a
// moment later. It blocks until it is done or ctx ends.
func (c *Conn) Waiting(ctx context.Context, queues []string, most int) (list WaitingList, err error) {
	defer context.AfterFunc(ctx, func() { _ = c.CloseDeadline(time.Now()) })()
	look := func(name string, belongs func(WaitingMessage) bool) error {
		found, left, err := c.lookInto(name, most)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case IsMissing(err):
			return err
		case err != nil:
			return fmt.Errorf("look into %s: %w", name, Explain(err))
		}
		list.More += left
		for _, w := range found {
			if belongs(w) {
				list.Messages = append(list.Messages, w)
			}
		}
		return nil
	}
	for _, name := range queues {
		q, waited := Queue{Name: name}, false
		for _, d := range q.Waits() {
			err := look(q.WaitName(d), func(WaitingMessage) bool { return true })
			if err != nil && !IsMissing(err) { // it has not been needed yet
				return WaitingList{}, err
			}
			waited = waited || err == nil
		}
		if _, err := c.ready(name); waited && isGone(err) {
			list.Missing = append(list.Missing, name)
		}
	}
	for _, name := range SharedWaits() {
		err := look(name, func(w WaitingMessage) bool { return slices.Contains(queues, w.Queue) })
		if IsMissing(err) {
			break // and so are the longer ones
		}
		if err != nil {
			return WaitingList{}, err
		}
	}
	slices.SortStableFunc(list.Messages, func(a, b WaitingMessage) int { return a.Due.Compare(b.Due) })
	return list, nil
}

// Stranded counts the messages that wait for a work queue which is missing and have not
// fallen due. Those that have are kept as well, but no client can see them. It returns a
// negative number if the queue is not missing.
func (c *Conn) Stranded(queue string) (waiting int) {
	if _, err := c.ready(queue); !isGone(err) {
		return -1
	}
	for _, d := range waits {
		n, _ := c.ready(Queue{Name: queue}.WaitName(d)) // most have not been needed
		waiting += n
	}
	return waiting
}

// ready is how many messages of a queue nobody has been handed.
func (c *Conn) ready(queue string) (n int, err error) {
	err = c.OnChannel(func(ch *amqp.Channel) error {
		state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = state.Messages
		return err
	})
	return n, err
}

// isGone tells whether a look at a queue says that there is none; of a queue without its
// leader, a broker says nearly the same.
func isGone(err error) bool { return IsMissing(err) && !unavailable.MatchString(err.Error()) }

// lookInto takes messages out of a wait queue, without acknowledging them, and gives them
// back: in their order, and with the time that they have waited, as tests hold for each
// version of the  If it is killed, the broker does the same.
func (c *Conn) lookInto(name string, most int) (found []WaitingMessage, left int, err error) {
	err = c.OnChannel(func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclarePassive(name, true, false, false, false, nil); err != nil {
			return err
		}
		var last amqp.Delivery
		for len(found) < most {
			d, ok, err := ch.Get(name, false)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			last, left = d, int(d.MessageCount)
			found = append(found, waitingOf(&d))
		}
		if len(found) == 0 {
			return nil
		}
		return ch.Nack(last.DeliveryTag, true, true) // all up to the last
	})
	return found, left, err
}

// waitingOf reads what a message in a wait queue says of itself.
func waitingOf(d *amqp.Delivery) WaitingMessage {
	w := WaitingMessage{Queue: workQueueOf(d), MessageID: d.MessageId}
	if due, ok := Integer(d.Headers[HeaderNotBefore]); ok {
		w.Due = time.UnixMilli(due).UTC()
	}
	attempts, _ := Integer(d.Headers[HeaderAttempt])
	w.Attempts = int(attempts)
	w.Error, _ = d.Headers[HeaderError].(string)
	return w
}

// workQueueOf is the queue that a message which waits goes to: the one that its wait queue
// is named after or, of those that all shared once, its routing key.
func workQueueOf(d *amqp.Delivery) string {
	if name, ok := WorkQueueOf(d.RoutingKey); ok {
		return name
	}
	return d.RoutingKey
}
