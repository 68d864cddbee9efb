package rabbittest

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// patience is how long a helper waits for the broker to make any progress.
const patience = 2 * time.Minute

// Publish publishes messages to a queue, through the default exchange and
// persistent unless they say otherwise, and blocks until the broker has confirmed
// all. A message that is refused or finds no queue fails the test.
func (v *Vhost) Publish(t testing.TB, queue string, messages ...amqp.Publishing) {
	t.Helper()
	v.PublishN(t, queue, len(messages), func(i int) amqp.Publishing { return messages[i] })
}

// PublishN is as Publish, for n messages: message returns the i-th, from 0. Tens of
// thousands a second go in.
func (v *Vhost) PublishN(t testing.TB, queue string, n int, message func(i int) amqp.Publishing) {
	t.Helper()
	ch, hangUp := v.open(t)
	defer hangUp()
	if err := ch.Confirm(false); err != nil {
		t.Fatalf("ask for confirms: %v", err)
	}
	const window = 5000 // messages in flight
	unroutable := ch.NotifyReturn(make(chan amqp.Return, window))
	var flight [window]*amqp.DeferredConfirmation
	land := func(i int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		acked, err := flight[i%window].WaitContext(ctx)
		select {
		case r := <-unroutable: // comes before its confirm
			t.Fatalf("publish to queue %s: the broker returned a message: %s", queue, r.ReplyText)
		default:
		}
		if err != nil || !acked {
			t.Fatalf("publish to queue %s: confirm of message %d: got %t and error %v, want true and nil", queue, i, acked, err)
		}
	}
	for i := range n {
		if i >= window {
			land(i - window)
		}
		m := message(i)
		if m.DeliveryMode == 0 {
			m.DeliveryMode = amqp.Persistent
		}
		confirmation, err := ch.PublishWithDeferredConfirm("", queue, true, false, m)
		if err != nil {
			t.Fatalf("publish message %d to queue %s: %v", i, queue, err)
		}
		flight[i%window] = confirmation
	}
	for i := max(0, n-window); i < n; i++ {
		land(i)
	}
}

// Drain takes all messages that are ready in the queue, in their order, and
// acknowledges them.
func (v *Vhost) Drain(t testing.TB, queue string) []amqp.Delivery {
	t.Helper()
	ch, hangUp := v.open(t)
	defer hangUp()
	var all []amqp.Delivery
	for {
		n := v.Ready(t, queue)
		if n < 0 {
			t.Fatalf("drain queue %s: got no such queue, want one", queue)
		}
		if n == 0 {
			return all
		}
		all = append(all, take(t, ch, queue, min(n, 10_000))...)
	}
}

// take takes exactly n messages from a queue that has as many. The prefetch keeps
// the broker from handing out more, which would count as a delivery in vain.
func take(t testing.TB, ch *amqp.Channel, queue string, n int) []amqp.Delivery {
	t.Helper()
	if err := ch.Qos(n, 0, false); err != nil {
		t.Fatalf("set the prefetch: %v", err)
	}
	deliveries, err := ch.Consume(queue, "rabbittest", false, false, false, false, nil)
	if err != nil {
		t.Fatalf("consume queue %s: %v", queue, err)
	}
	taken := make([]amqp.Delivery, 0, n)
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	for len(taken) < n {
		select {
		case d, ok := <-deliveries:
			if !ok {
				t.Fatalf("take from queue %s: the broker ended it after %d messages, want %d", queue, len(taken), n)
			}
			taken = append(taken, d)
			stuck.Reset(patience)
		case <-stuck.C:
			t.Fatalf("take from queue %s: got %d messages and then none for %v, want %d", queue, len(taken), patience, n)
		}
	}
	if err := ch.Cancel("rabbittest", false); err != nil {
		t.Fatalf("cancel the consumer of queue %s: %v", queue, err)
	}
	if err := ch.Ack(taken[n-1].DeliveryTag, true); err != nil {
		t.Fatalf("acknowledge %d messages of queue %s: %v", n, queue, err)
	}
	return taken
}

// Soon is a limit for what takes a moment, on the slowest machine: what it is to tell
// from a moment never ends, or waits for a timeout of 25 s and more. How long a thing really
// takes is for benchmarks.
const Soon = 20 * time.Second

// leastTimeout is that of Eventually. Nothing depends on it but how late a test fails.
var leastTimeout = 3 * time.Minute

// Eventually fails the test if condition does not hold within the timeout, or three minutes if
// that is longer. On a machine that took several times as long as usual to start the
// node, both are as many times as long. It asks again every 20 ms, in this goroutine;
// what names the condition in the failure.
func Eventually(t testing.TB, timeout time.Duration, condition func() bool, what string) {
	t.Helper()
	timeout = time.Duration(float64(max(timeout, leastTimeout)) * shared.slowness())
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", timeout, what)
		}
		<-tick.C
	}
}
