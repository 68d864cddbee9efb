package broker

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// sweptOnce is a quorum queue of n messages that have been handed out before.
func sweptOnce(t *testing.T, v *rabbittest.Vhost, c *Conn, queue string, n int) {
	t.Helper()
	v.Declare(t, queue, amqp.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": int64(1_000_000)})
	v.PublishN(t, queue, n, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: fmt.Sprintf("m-%d", i)} })
	s, err := c.Sweep(queue)
	if err != nil {
		t.Fatal(err)
	}
	for batch := []amqp.Delivery{{}}; len(batch) > 0; {
		if batch, err = s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil || v.Ready(t, queue) != n {
		t.Fatalf("got error %v, %d of %d ready", err, v.Ready(t, queue), n)
	}
}

func connOf(t *testing.T, v *rabbittest.Vhost) *Conn {
	t.Helper()
	c, err := Dialer{Program: "warren"}.DialAny(t.Context(), []string{v.URL}, Options{Purpose: "look"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The rest is handed out for the sake of the order, where that is not too dear and is one that
// anybody needs.
func TestRest(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	c := connOf(t, v)
	for _, test := range []struct {
		queue   string
		n, left int
	}{
		{"orders.dead", 100, 0},
		{"many.dead", firstBatch + mostRest + 1, mostRest + 1},
		{"warren.wait.orders.5000", 100, 100 - firstBatch},
	} {
		sweptOnce(t, v, c, test.queue, test.n)
		s, err := c.Sweep(test.queue)
		if err != nil {
			t.Fatal(err)
		}
		if batch, err := s.Next(t.Context()); err != nil || len(batch) != firstBatch {
			t.Fatalf("%s: got %d and error %v", test.queue, len(batch), err)
		}
		s.Rest(t.Context())
		if s.left != test.left {
			t.Errorf("%s: %d of %d are left, want %d", test.queue, s.left, test.n, test.left)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
