package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Clock is how late it is by the clock of the node, to the second. AMQP has no question for
// that, but the broker writes it into a message that expires: one does here, on its way from
// one queue of this connection's own to another. Their names begin with prefix.
func (c *Conn) Clock(ctx context.Context, prefix string) (now time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoClock)
	defer cancel()
	err = c.OnChannel(func(ch *amqp.Channel) error {
		from, to := prefix+rand.Text(), prefix+rand.Text()
		if _, err := ch.QueueDeclare(to, false, true, true, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic}); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(from, false, true, true, false, amqp.Table{
			amqp.QueueTypeArg: amqp.QueueTypeClassic, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": to,
		}); err != nil {
			return err
		}
		expired, err := ch.Consume(to, "", true, true, false, false, nil) // it goes with its consumer
		if err != nil {
			return err
		}
		if err := ch.PublishWithContext(ctx, "", from, false, false, amqp.Publishing{Expiration: "0"}); err != nil {
			return err
		}
		select {
		case d := <-expired:
			if deaths, _ := d.Headers["x-death"].([]any); len(deaths) > 0 {
				death, _ := deaths[0].(amqp.Table)
				now, _ = death["time"].(time.Time)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err = ch.QueueDelete(from, false, false, false)
		return err
	})
	if err == nil && now.IsZero() {
		err = errNoClock
	}
	return now, err
}

var errNoClock = errors.New("the broker has not told how late it is")
