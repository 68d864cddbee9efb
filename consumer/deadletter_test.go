package consumer

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/internal/rabbittest"
)

func contains(log *logBuffer, text string) bool { return strings.Contains(log.String(), text) }

// TestDeadLettersKeepTheMessage sends one message into each way of failing for
// good: its dead-letter queue holds all that its publisher set.
func TestDeadLettersKeepTheMessage(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	type body struct{ N int }
	run(t, []string{v.URL},
		Queue{Name: "permanent", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return Permanent(errors.New("no such recipient")) })},
		Queue{Name: "exhausted", MaxAttempts: 2, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") })},
		Queue{Name: "undecodable", Processor: JSON(func(context.Context, body, *Scope) error { return nil })},
		Queue{Name: "header", Processor: noop},
		Queue{Name: "panic", MaxAttempts: 1, Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { panic("out of cheese") })},
		Queue{Name: "timeout", MaxAttempts: 1, Timeout: 50 * time.Millisecond, Processor: ProcessorFunc(func(ctx context.Context, _ Delivery, _ *Scope) error {
			<-ctx.Done()
			return ctx.Err()
		})},
	)
	stamp := time.Unix(1_700_000_000, 0)
	sent := func(headers amqp.Table) amqp.Publishing {
		h := amqp.Table{"tenant": "blue", "nested": amqp.Table{"list": []any{int64(1), "x"}}, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		maps.Copy(h, headers)
		return amqp.Publishing{
			Headers: h, ContentType: "text/x-order", ContentEncoding: "identity", DeliveryMode: amqp.Persistent, CorrelationId: "c-1", ReplyTo: "answers",
			Expiration: "3600000", MessageId: "m-1", Timestamp: stamp, Type: "order", UserId: "guest", AppId: "shop", Body: []byte("not json \x00\xff"),
		}
	}
	for queue, want := range map[string]struct {
		reason, err string
		attempts    int64
		headers     amqp.Table
	}{
		"permanent":   {"permanent", "no such recipient", 1, nil},
		"exhausted":   {"exhausted", "no", 2, nil},
		"undecodable": {"undecodable", "decode body as consumer.body", 1, nil},
		"header":      {"undecodable", "header x-delay is \"soon\"", 0, amqp.Table{"x-delay": "soon"}},
		"panic":       {"exhausted", "panic: out of cheese", 1, nil},
		"timeout":     {"exhausted", "the attempt took longer than the queue's timeout (50ms)", 1, nil},
	} {
		t.Run(queue, func(t *testing.T) {
			before := time.Now().UnixMilli()
			v.Publish(t, queue, sent(want.headers))
			rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, queue+".dead") == 1 }, "the message is dead-lettered")
			empty(t, v, queue)
			got := v.Drain(t, queue+".dead")[0]

			h := got.Headers
			for name, value := range sent(nil).Headers {
				equal(t, h[name], value)
			}
			equal(t, h["x-warren-reason"], any(want.reason))
			equal(t, h["x-warren-attempt"], any(want.attempts))
			equal(t, h["x-warren-exchange"], any(""))
			equal(t, h["x-warren-routing-key"], any(queue))
			equal(t, h["x-warren-worker"], any("vm1 1.0"))
			equal(t, h["x-warren-original-expiration"], any("3600000"))
			equal(t, h["x-warren-original-user-id"], any("guest"))
			if text, _ := h["x-warren-error"].(string); !strings.Contains(text, want.err) {
				t.Errorf("x-warren-error is %q, want %q in it", text, want.err)
			}
			first, last := h["x-warren-first-failed-at"].(int64), h["x-warren-failed-at"].(int64)
			if first < before || last < first || last > time.Now().UnixMilli() {
				t.Errorf("failed first at %d and last at %d, sent at %d", first, last, before)
			}
			if _, there := h["x-death"]; there {
				t.Errorf("x-death was not taken off: %v", h["x-death"])
			}
			equal(t, []string{got.ContentType, got.ContentEncoding, got.CorrelationId, got.ReplyTo, got.MessageId, got.Type, got.AppId, string(got.Body)},
				[]string{"text/x-order", "identity", "c-1", "answers", "m-1", "order", "shop", "not json \x00\xff"})
			equal(t, []any{got.DeliveryMode, got.Timestamp.Unix()}, []any{uint8(amqp.Persistent), stamp.Unix()})
		})
	}
}

// TestDeadLetterQueueCanBeLookedAt returns a dead letter far more often than the
// delivery limit of work queues allows.
func TestDeadLetterQueueCanBeLookedAt(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	run(t, []string{v.URL}, Queue{Name: "orders", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return Permanent(errors.New("no")) })})
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is dead-lettered")
	ch := v.Channel(t)
	for i := range 3 * broker.DeliveryLimit {
		d, ok, err := ch.Get("orders.dead", false)
		if err != nil || !ok {
			t.Fatalf("look %d: found %v, error %v", i+1, ok, err)
		}
		if err := d.Reject(true); err != nil {
			t.Fatal(err)
		}
		rabbittest.Eventually(t, 5*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the message is back")
	}
}
