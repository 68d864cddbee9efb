package broker

import (
	"context"
	"errors"
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

// A context that ends once somebody waits for it.
type endsWhenAwaited struct {
	context.Context
	end context.CancelFunc
}

func (c endsWhenAwaited) Done() <-chan struct{} {
	c.end()
	return c.Context.Done()
}

// A sweep that is interrupted while it is handed messages gives back all in their order: no
// consumer of it is left, to which the broker would hand them again.
func TestASweepThatIsInterrupted(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	c := connOf(t, v)
	const n, taken = 1000, 500
	v.Declare(t, "orders.dead", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int64(1_000_000)})
	v.PublishN(t, "orders.dead", n, func(i int) amqp.Publishing { return amqp.Publishing{MessageId: fmt.Sprintf("m-%d", i)} })
	s, err := c.Sweep("orders.dead")
	if err != nil {
		t.Fatal(err)
	}
	other := v.Channel(t) // so that the sweep waits for what does not come
	if err := other.Qos(taken, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Consume("orders.dead", "other", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, rabbittest.Soon, func() bool { return v.Unacked(t, "orders.dead") == taken }, "another has some")
	for range 3 {
		if _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	if batch, err := s.Next(endsWhenAwaited{ctx, func() { cancel(stopped) }}); !errors.Is(err, stopped) || len(batch) > 0 {
		t.Errorf("got %d messages and error %v", len(batch), err)
	}
	if err := s.Close(); err != nil || v.Ready(t, "orders.dead") != n-taken {
		t.Errorf("got error %v, %d are ready, want %d", err, v.Ready(t, "orders.dead"), n-taken)
	}
	for i, d := range v.Drain(t, "orders.dead") {
		if want := fmt.Sprintf("m-%d", taken+i); d.MessageId != want {
			t.Fatalf("%s is at %d, want %s", d.MessageId, i, want)
		}
	}
}
