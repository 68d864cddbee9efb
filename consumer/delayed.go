package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A Waiting is a message in a wait queue.
type Waiting struct {
	Queue     string    `json:"queue"` // that it goes to when it is due
	MessageID string    `json:"message_id"`
	Due       time.Time `json:"due"`
	Attempts  int       `json:"attempts"` // already made
	Error     string    `json:"error,omitempty"`
}

// Delayed returns the messages that wait in the broker for the queue, or for any if it is
// empty, the next due first, and how many more there are that were not looked at: of each
// wait queue it looks at the first ones, at most so many. They stay where they are, in
// their order, and come home in time; those that fall due while they are looked at do
// so a moment later. It blocks until it is done or ctx ends.
func Delayed(ctx context.Context, nodes []string, queue string, most int) (waiting []Waiting, more int, err error) {
	conn, err := connectAny(ctx, nodes, "delayed")
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseDeadline(time.Now()) })()
	for _, wait := range waitSteps(maxDelay) {
		found, left, err := lookInto(conn, waitName(wait), most)
		if isMissing(err) {
			break // and so are the longer ones
		}
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("look into %s: %w", waitName(wait), explain(err))
		}
		more += left
		for _, w := range found {
			if queue == "" || w.Queue == queue {
				waiting = append(waiting, w)
			}
		}
	}
	slices.SortStableFunc(waiting, func(a, b Waiting) int { return a.Due.Compare(b.Due) })
	return waiting, more, nil
}

// connectAny connects to the first node that can be used.
func connectAny(ctx context.Context, nodes []string, purpose string) (*amqp.Connection, error) {
	var errs []error
	for _, node := range nodes {
		conn, err := connect(ctx, node, purpose)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", nodeName(node), explain(err)))
	}
	return nil, errors.Join(errs...)
}

// lookInto takes messages out of a wait queue, without acknowledging them, and gives them
// back: in their order, and with the time that they have waited, as tests hold for each
// version of the broker. If it is killed, the broker does the same.
func lookInto(conn *amqp.Connection, name string, most int) (found []Waiting, left int, err error) {
	err = onChannel(conn, func(ch *amqp.Channel) error {
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
func waitingOf(d *amqp.Delivery) Waiting {
	w := Waiting{Queue: d.RoutingKey, MessageID: d.MessageId}
	if due, ok := integer(d.Headers[headerNotBefore]); ok {
		w.Due = time.UnixMilli(due).UTC()
	}
	attempts, _ := integer(d.Headers[headerAttempt])
	w.Attempts = int(attempts)
	w.Error, _ = d.Headers[headerError].(string)
	return w
}
