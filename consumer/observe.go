package consumer

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// A State is where a message stands.
type State string

// The states of a message. Succeeded and Dead are the last of its life.
const (
	Accepted   State = "accepted"   // it is in its queue
	Waiting    State = "waiting"    // in the broker, until it is due
	Processing State = "processing" // an attempt is under way
	Succeeded  State = "succeeded"
	Dead       State = "dead" // in the dead-letter queue
)

// An Observer is told what becomes of the messages that came with a message-id. It is
// called on the way of deliveries, by many goroutines at once, and must not block.
type Observer interface {
	Observe(Transition)
}

// A Transition is what has become of a message at one moment.
type Transition struct {
	Queue, MessageID string
	State            State
	At               time.Time
	// Attempt is the one under way or, in the other states, the last.
	Attempt int
	// Redelivered is true if an attempt may have been cut off; see Delivery.
	Redelivered bool

	Due     time.Time // Waiting: when the next attempt may begin
	Percent int       // Processing: how far it is, from 0 to 100
	Text    string    // Processing: the same in words
	Result  Result    // Succeeded
	Reason  string    // Dead: permanent, exhausted, undecodable or cancelled
	Error   string    // Waiting and Dead: of the last attempt, if there was one

	// Order is higher than that of an earlier transition of the message, whoever learns
	// of it first. Of two that are equal, the later At counts.
	Order int
	// First is true if the message may have been through other states in an earlier
	// life: a dead letter that was put back, or a repeated message-id. Then Order
	// begins anew.
	First bool
}

// order is the Order of a transition to s of a message that was delivered with so
// many attempts behind it. Attempts within the process do not count: if that ends,
// the message begins again with those that its headers tell of.
func order(s State, attempts int) int {
	rank := 6
	switch s {
	case Waiting:
		rank = 1
	case Processing, Accepted:
		rank = 3
	}
	return 4*attempts + rank
}

// orderOfRepeat is between Processing and Succeeded: what is known of finished work
// is not replaced by what its repeat knows.
func orderOfRepeat(attempts int) int { return 4*attempts + 4 }

// observe tells the observer, if there is one and the message can be asked for.
func (e *executor) observe(j *job, t Transition) {
	if e.observer == nil || !j.identified {
		return
	}
	t.Queue, t.MessageID, t.At, t.Redelivered = e.Name, j.delivery.MessageId, time.Now(), j.history.redelivered
	if t.Order == 0 {
		t.Order, t.First = order(t.State, j.history.attempts), j.history.attempts == 0
	}
	e.observer.Observe(t)
}

// observeAttempt returns what tells the observer how far the attempt is; nil if there
// is nobody to tell.
func (e *executor) observeAttempt(j *job, attempt int) func(percent int, text string) {
	if e.observer == nil || !j.identified {
		return nil
	}
	return func(percent int, text string) {
		e.observe(j, Transition{State: Processing, Attempt: attempt, Percent: percent, Text: text})
	}
}

func (e *executor) observeSuccess(j *job, o outcome) {
	t := Transition{State: Succeeded, Attempt: o.attempts, Result: o.answer}
	if o.repeat {
		t.Order = orderOfRepeat(j.history.attempts)
	}
	e.observe(j, t)
}

func (e *executor) observeDeath(j *job, o outcome) {
	e.observe(j, Transition{State: Dead, Attempt: o.attempts, Reason: o.verdict.reason, Error: broker.Shortened(o.err.Error(), broker.MaxErrorBytes)})
}

// observeWait tells of a message that was published to a wait queue as msg.
func (e *executor) observeWait(j *job, msg amqp.Publishing, due time.Time) {
	attempts, _ := broker.Integer(msg.Headers[broker.HeaderAttempt])
	text, _ := msg.Headers[broker.HeaderError].(string)
	e.observe(j, Transition{State: Waiting, Attempt: int(attempts), Due: due, Error: text, Order: order(Waiting, int(attempts)), First: attempts == 0})
}

// observeReturn tells of a delivery that was returned.
func (e *executor) observeReturn(j *job) {
	e.observe(j, Transition{State: Accepted, Attempt: j.history.attempts})
}
