package broker

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// WaitQueues are the wait queues of a work queue that are there, shortest wait first, and
// whether the work queue is missing though it has some. What falls due for one that is
// missing is kept, and comes home once it is declared, but no client can see it.
func (c *Conn) WaitQueues(queue string) (names []string, missing bool, err error) {
	q := Queue{Name: queue}
	for _, d := range q.Waits() {
		switch _, err := c.ready(q.WaitName(d)); {
		case err == nil:
			names = append(names, q.WaitName(d))
		case !IsMissing(err): // most have not been needed
			return nil, false, Explain(err)
		}
	}
	if len(names) > 0 {
		_, err := c.ready(queue)
		missing = IsGone(err)
	}
	return names, missing, nil
}

// Has tells whether the queue is there, as far as that can be known.
func (c *Conn) Has(queue string) bool {
	_, err := c.ready(queue)
	return !IsGone(err)
}

// Stranded counts the messages that wait for a work queue which is missing and have not
// fallen due. Those that have are kept as well, but no client can see them. It returns a
// negative number if the queue is not missing.
func (c *Conn) Stranded(queue string) (waiting int) {
	if _, err := c.ready(queue); !IsGone(err) {
		return -1
	}
	for _, d := range waits {
		n, _ := c.ready(Queue{Name: queue}.WaitName(d)) // most have not been needed
		waiting += n
	}
	return waiting
}

// lookWait is how long a look waits for the others: idle queues are looked at all at once,
// and each answers within a millisecond as a rule.
const lookWait = 100 * time.Millisecond

// ready is how many messages of a queue nobody has been handed. Looks are made in turn,
// over a channel that stays; while one takes long, others have channels of their own.
func (c *Conn) ready(queue string) (messages int, err error) {
	var a asking
	select {
	case a = <-c.looking:
		defer func() { c.looking <- a }()
	case <-time.After(lookWait):
		defer func() { a.close() }()
	}
	if a.ch == nil || a.ch.IsClosed() {
		if a, err = c.asking(); err != nil {
			return 0, err
		}
	}
	err = a.do(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		messages = q.Messages
		return err
	})
	if err != nil {
		a.close() // as the broker has done, if that was its answer
	}
	return messages, err
}

// IsGone tells whether a look at a queue says that there is none; of a queue without its
// leader, a broker says nearly the same.
func IsGone(err error) bool { return IsMissing(err) && !unavailable.MatchString(err.Error()) }

// WaitsFor is the queue that a message which waits goes to: the one that its wait queue
// is named after or, of those that all shared once, its routing key.
func WaitsFor(d *Delivery) string {
	if name, ok := WorkQueueOf(d.RoutingKey); ok {
		return name
	}
	return d.RoutingKey
}

// OldWaitQueues are the wait queues there are that all work queues shared once.
func (c *Conn) OldWaitQueues() (names []string, err error) {
	for _, name := range SharedWaits() {
		switch _, err := c.ready(name); {
		case err == nil:
			names = append(names, name)
		case IsMissing(err):
			return names, nil // and so are the longer ones
		default:
			return nil, Explain(err)
		}
	}
	return names, nil
}
