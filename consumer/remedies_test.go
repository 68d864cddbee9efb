package consumer

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// startFault runs a Consumer of q that is to fail at its start, and returns its error.
func startFault(t *testing.T, url string, q Queue) string {
	t.Helper()
	c, err := New(Config{Nodes: []string{url}, Queues: []Queue{q}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err = c.Run(ctx); err == nil {
		t.Fatalf("a faulty queue %s does not keep the Consumer from starting", q.Name)
	}
	return err.Error()
}

var printedPolicy = regexp.MustCompile(`rabbitmqctl set_policy (\S+) '([^']+)' '([^']+)' --apply-to (\w+)`)

// TestThePolicyThatAnErrorPrintsCures has a queue that exists without the arguments that
// Warren wants, follows the error, and looks whether a message that the broker gives up is
// kept. RabbitMQ applies no part of a policy with a key that the type of the queue does
// not know.
func TestThePolicyThatAnErrorPrintsCures(t *testing.T) {
	for _, kind := range []string{Quorum, Classic} {
		t.Run(kind, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			v.Declare(t, "orders", amqp.Table{amqp.QueueTypeArg: kind})
			q := Queue{Name: "orders", Type: kind, EnvPrefix: "WARREN_QUEUE_ORDERS_", MaxAttempts: 2, RetryBase: time.Second,
				Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return errors.New("no") })}
			text := startFault(t, v.URL, q)
			policy := printedPolicy.FindStringSubmatch(text)
			if policy == nil || !strings.Contains(text, "WARREN_QUEUE_ORDERS_DECLARE=false") {
				t.Fatalf("the error names no policy and variable: %s", text)
			}
			v.SetPolicy(t, policy[1], policy[2], policy[3], policy[4])
			v.Declare(t, "orders.dead", amqp.Table{amqp.QueueTypeArg: kind})
			q.Passive = true

			v.Publish(t, "orders", amqp.Publishing{MessageId: "expired", Expiration: "1"})
			rabbittest.Eventually(t, 10*time.Second, func() bool { return v.Ready(t, "orders.dead") == 1 }, "the broker's own dead letter is kept")
			run(t, []string{v.URL}, q)
			v.Publish(t, "orders", amqp.Publishing{MessageId: "fails"})
			rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "orders.dead") == 2 }, "the message is dead-lettered after its retry")
			if lines := findings(t, []string{v.URL}, q); strings.Contains(lines, "FAIL") {
				t.Errorf("findings:\n%s", lines)
			}
		})
	}
}

// TestTheTypeThatAnErrorNamesCures has a classic queue where a quorum queue is wanted: what
// was tried before must not be in the way of the remedy.
func TestTheTypeThatAnErrorNamesCures(t *testing.T) {
	v := rabbittest.NewVhost(t)
	_, err := v.Channel(t).QueueDeclare("celery", true, false, false, false, amqp.Table{
		amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "celery.dead",
	})
	if err != nil {
		t.Fatal(err)
	}
	q := Queue{Name: "celery", EnvPrefix: "WARREN_QUEUE_CELERY_", Processor: ProcessorFunc(func(context.Context, Delivery, *Scope) error { return Permanent(errors.New("no")) })}
	if text := startFault(t, v.URL, q); !strings.Contains(text, "set WARREN_QUEUE_CELERY_TYPE to the type it has") {
		t.Errorf("the error names no remedy: %s", text)
	}
	q.Type = Classic
	run(t, []string{v.URL}, q)
	v.Publish(t, "celery", amqp.Publishing{MessageId: "m"})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return v.Ready(t, "celery.dead") == 1 }, "the message is dead-lettered")
}
