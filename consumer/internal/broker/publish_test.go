package broker

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A confirm counts, also when the end of its channel is noticed first: published once more,
// the message would be there twice.
func TestConfirmRightBeforeTheEndOfItsChannel(t *testing.T) {
	conn, end := openToServe(t, nil, false)
	defer end()
	c := &Conn{Connection: conn, idle: make(chan *confirming, 1)}
	borrow := func() (*confirming, error) {
		ch, err := c.borrow()
		if err != nil {
			return nil, err
		}
		ch.closes = make(chan *amqp.Error, 1)
		ch.closes <- amqp.ErrClosed
		return ch, nil
	}
	if err := c.roundTrip(t.Context(), Outgoing{Key: "q"}, borrow, c.giveBack); err != nil {
		t.Errorf("the broker has confirmed the message, and yet: %v", err)
	}
}
