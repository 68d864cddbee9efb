package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/halt"
)

// ControlExchange is a fanout exchange: what an operator asks of all daemons is published
// to it, and each of them has a queue of its own bound to it.
const ControlExchange = OwnPrefix + "control"

// DeclareControl is the Declaration of the exchange.
func DeclareControl() Declaration {
	return Declaration{
		What: "exchange " + ControlExchange,
		Make: func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(ControlExchange, amqp.ExchangeFanout, true, false, false, false, nil)
		},
		Look: func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(ControlExchange, amqp.ExchangeFanout, true, false, false, false, nil)
		},
	}
}

const (
	// maxPauses is how many messages of a pause's queue are looked at, and how many it
	// takes: one is meant.
	maxPauses = 8
	// maxPauseText bounds what a pause says, in bytes.
	maxPauseText = 500
	maxPauseBody = 4 << 10
)

// PausedQueue is the name of the durable queue whose message has the work queue paused by
// every daemon. It goes with the broker, and outlives each of them.
func PausedQueue(queue string) string { return OwnPrefix + "paused." + queue }

// A PauseState is what was found of a pause.
type PauseState struct {
	There bool // the queue
	// Pause is what its newest message of a user that counts says. Nil if there is none:
	// it may have ended, or somebody else be looking at it in this moment.
	Pause *halt.Pause
	// Refused is a user who does not count and has left a message there; empty if nobody
	// has.
	Refused string
}

// LookAtPause looks whether a queue is paused. counts tells whose messages pause it. They
// stay where they are.
func (c *Conn) LookAtPause(ctx context.Context, queue string, counts func(user string) bool) (state PauseState, err error) {
	name := PausedQueue(queue)
	defer context.AfterFunc(ctx, func() { _ = c.CloseDeadline(time.Now()) })()
	err = c.OnChannel(func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclarePassive(name, true, false, false, false, nil); err != nil {
			return err
		}
		state.There = true
		found, err := takePauses(ch, name)
		for i := range found {
			if user := found[i].UserId; !counts(user) {
				state.Refused = Shortened("user "+user, maxPauseText)
			} else if p := pauseOf(&found[i]); state.Pause == nil || p.Since.After(state.Pause.Since) {
				state.Pause = &p
			}
		}
		if err == nil && len(found) > 0 {
			err = ch.Nack(found[len(found)-1].DeliveryTag, true, true)
		}
		return err
	})
	if IsGone(err) {
		return PauseState{}, nil
	}
	return state, err
}

// takePauses takes messages out of a pause's queue.
func takePauses(ch *amqp.Channel, name string) (found []amqp.Delivery, err error) {
	for len(found) < maxPauses {
		d, ok, err := ch.Get(name, false)
		if err != nil || !ok {
			return found, err
		}
		found = append(found, d)
	}
	return found, nil
}

func pauseOf(d *amqp.Delivery) (p halt.Pause) {
	if len(d.Body) <= maxPauseBody {
		_ = json.Unmarshal(d.Body, &p) // what cannot be read pauses all the same
	}
	p.By, p.Why = Shortened(p.By, maxPauseText), Shortened(p.Why, maxPauseText)
	if d.UserId != "" { // which the broker has checked
		p.By = d.UserId + from(p.By)
	}
	return p
}

// from is where somebody has asked from, as it follows a name.
func from(host string) string {
	if host == "" {
		return ""
	}
	return " (" + host + ")"
}

// Pause pauses a queue, and returns once the broker has that for good. The message ends
// after so long, by the broker's clock; zero means never. What has been said of a pause
// before is replaced.
func (c *Conn) Pause(ctx context.Context, queue string, p halt.Pause, lasts time.Duration) error {
	name := PausedQueue(queue)
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	declare := DeclareQueue(name, amqp.Table{
		amqp.QueueTypeArg:     Quorum,
		amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
		"x-max-length":        int64(maxPauses),
		"x-delivery-limit":    int64(lookedAtLimit),
	})
	if err := c.OnChannel(declare.Make); err != nil {
		return fmt.Errorf("declare queue %s: %w", name, Explain(err))
	}
	// The old ones go after the new one is there, so that the queue stays paused.
	return c.OnChannel(func(ch *amqp.Channel) error {
		old, err := takePauses(ch, name)
		if err != nil {
			return Explain(err)
		}
		msg := Message{RoutingKey: name, Body: body, Expiration: lasts}
		o, err := msg.Outgoing("")
		if err != nil {
			return err
		}
		if len(old) == maxPauses { // somebody has filled it
			err = ch.Ack(old[len(old)-1].DeliveryTag, true)
			old = nil
		}
		if err = errors.Join(err, c.Publish(ctx, o)); err != nil || len(old) == 0 {
			return err
		}
		return ch.Ack(old[len(old)-1].DeliveryTag, true)
	})
}

// Unpause ends the pause of a queue.
func (c *Conn) Unpause(queue string) error {
	return Explain(c.OnChannel(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(PausedQueue(queue), false, false, false) // that it is not there is no error
		return err
	}))
}
