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
	t.Parallel()
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
	t.Parallel()
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

// TestTheRemediesOfAStartCure follows what each error says that keeps a Consumer from
// starting, and has it work a message then.
func TestTheRemediesOfAStartCure(t *testing.T) {
	t.Parallel()
	do := func(t *testing.T, v *rabbittest.Vhost, args ...string) {
		t.Helper()
		if out, err := v.Node.Ctl(args...); err != nil {
			t.Fatalf("rabbitmqctl %q: %v: %s", args, err, out)
		}
	}
	user := func(t *testing.T, v *rabbittest.Vhost, configure, write, read string) (name, url string) {
		t.Helper()
		name = "warren-" + strings.ToLower(v.Name)
		return name, v.AddUser(t, name, "pw", configure, write, read)
	}
	const all, publishes = ".*", `^amq\.default$`
	for name, c := range map[string]struct {
		queue  Queue
		remedy string
		// faulty makes the fault in v and returns the URL; cure follows the remedy.
		faulty func(t *testing.T, v *rabbittest.Vhost) (url string)
		cure   func(t *testing.T, v *rabbittest.Vhost, q *Queue, url *string)
	}{
		"create the virtual host": {
			remedy: "create it with rabbitmqctl add_vhost",
			faulty: func(t *testing.T, v *rabbittest.Vhost) string {
				t.Cleanup(func() { do(t, v, "delete_vhost", v.Name+"-new") })
				return v.Node.URL(v.Name + "-new")
			},
			cure: func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) {
				do(t, v, "add_vhost", v.Name+"-new")
				do(t, v, "set_permissions", "-p", v.Name+"-new", "guest", all, all, all)
			},
		},
		"permit the virtual host": {
			remedy: "or permit it with rabbitmqctl set_permissions",
			faulty: func(t *testing.T, v *rabbittest.Vhost) string {
				name, url := user(t, v, all, all, all)
				do(t, v, "clear_permissions", "-p", v.Name, name)
				return url
			},
			cure: func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) {
				do(t, v, "set_permissions", "-p", v.Name, "warren-"+strings.ToLower(v.Name), all, all, all)
			},
		},
		"grant it": {
			remedy: "grant it with rabbitmqctl set_permissions",
			faulty: func(t *testing.T, v *rabbittest.Vhost) string { _, url := user(t, v, "^$", all, all); return url },
			cure: func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) {
				do(t, v, "set_permissions", "-p", v.Name, "warren-"+strings.ToLower(v.Name), `^(q|q\.dead|warren\.wait\.q\..*)$`, publishes, `^(q|warren\.wait\.q\..*)$`)
			},
		},
		"declare it elsewhere": {
			remedy: "or declare it elsewhere and set WARREN_QUEUE_Q_DECLARE=false",
			faulty: func(t *testing.T, v *rabbittest.Vhost) string {
				_, url := user(t, v, "^$", publishes, "^q(\\.dead)?$")
				return url
			},
			cure: func(t *testing.T, v *rabbittest.Vhost, q *Queue, _ *string) {
				declareAll(t, v, "q")
				q.Passive = true
			},
		},
		"declare the exchange": {
			queue:  Queue{Exchange: "shop"},
			remedy: "declare the exchange first, as its publisher does",
			faulty: func(_ *testing.T, v *rabbittest.Vhost) string { return v.URL },
			cure: func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) {
				if err := v.Channel(t).ExchangeDeclare("shop", "fanout", true, false, false, false, nil); err != nil {
					t.Fatal(err)
				}
			},
		},
		"declare the queue": {
			queue:  Queue{Passive: true},
			remedy: "declare it as the documentation lists",
			faulty: func(_ *testing.T, v *rabbittest.Vhost) string { return v.URL },
			cure:   func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) { declareAll(t, v, "q") },
		},
		"have it declared": {
			queue:  Queue{Passive: true},
			remedy: "or set WARREN_QUEUE_Q_DECLARE=true",
			faulty: func(_ *testing.T, v *rabbittest.Vhost) string { return v.URL },
			cure:   func(_ *testing.T, _ *rabbittest.Vhost, q *Queue, _ *string) { q.Passive = false },
		},
		"set the highest priority": {
			queue:  Queue{Type: Classic, MaxPriority: 9},
			remedy: "set WARREN_QUEUE_Q_MAX_PRIORITY to the value it has",
			faulty: prioritised,
			cure:   func(_ *testing.T, _ *rabbittest.Vhost, q *Queue, _ *string) { q.MaxPriority = 5 },
		},
		"delete the queue": {
			queue:  Queue{Type: Classic, MaxPriority: 9},
			remedy: "or move its messages and delete it",
			faulty: prioritised,
			cure:   func(t *testing.T, v *rabbittest.Vhost, _ *Queue, _ *string) { v.DeleteQueue(t, "q") },
		},
		"no TLS": {
			remedy: "use amqp:// or its TLS port",
			faulty: func(_ *testing.T, v *rabbittest.Vhost) string {
				return strings.Replace(v.URL, "amqp://", "amqps://", 1)
			},
			cure: func(_ *testing.T, v *rabbittest.Vhost, _ *Queue, url *string) { *url = v.URL },
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := rabbittest.NewVhost(t)
			url := c.faulty(t, v)
			q, done := c.queue, newLedger()
			q.Name, q.EnvPrefix, q.RetryMax, q.Processor = "q", "WARREN_QUEUE_Q_", time.Second, done.done()
			if text := startFault(t, url, q); !strings.Contains(text, c.remedy) {
				t.Fatalf("the error %q does not name the remedy", text)
			}
			c.cure(t, v, &q, &url)
			run(t, []string{url}, q)
			conn := dial(t, url)
			if err := conn.OnChannel(func(ch *amqp.Channel) error {
				return ch.PublishWithContext(t.Context(), "", "q", true, false, amqp.Publishing{MessageId: "m"})
			}); err != nil {
				t.Fatal(err)
			}
			rabbittest.Eventually(t, 20*time.Second, func() bool { return len(done.of("m")) == 1 }, "a message is worked")
		})
	}
}

// prioritised declares the queue q as one with priorities up to 5.
func prioritised(t *testing.T, v *rabbittest.Vhost) (url string) {
	t.Helper()
	_, err := v.Channel(t).QueueDeclare("q", true, false, false, false, amqp.Table{
		amqp.QueueTypeArg: Classic, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q.dead", "x-max-priority": int64(5),
	})
	if err != nil {
		t.Fatal(err)
	}
	return v.URL
}

// TestTheRemedyOfAnExclusiveConsumerCures stops the one that has a queue for itself.
func TestTheRemedyOfAnExclusiveConsumerCures(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	q := Queue{Name: "q", Type: Classic, Processor: noop}
	_, _ = run(t, []string{v.URL}, q).end() // declares it
	ch := v.Channel(t)
	if _, err := ch.Consume("q", "mine", false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	r := runQueues(t, []string{v.URL}, 0, q)
	rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(r.log, "stop it, or have it consume without exclusive") }, "the log names the remedy")
	if err := ch.Cancel("mine", false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Consume("q", "mine", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(r.log, "msg=consuming") }, "the queue is consumed, beside the other one")
}

// TestTheRightToConsumeThatTheLogAsksForCures grants it to a daemon that runs.
func TestTheRightToConsumeThatTheLogAsksForCures(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	declareAll(t, v, "q")
	user := "reader-" + strings.ToLower(v.Name)
	const writes = `^(amq\.default|q|q\.dead)$` // without any right to a queue, nobody may look at it (4.3)
	url := v.AddUser(t, user, "pw", "^$", writes, "^$")
	r := runQueues(t, []string{url}, 0, Queue{Name: "q", Passive: true, Processor: noop})
	rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(r.log, "grant it with rabbitmqctl set_permissions") }, "the log names the remedy")
	if out, err := v.Node.Ctl("set_permissions", "-p", v.Name, user, "^$", writes, "^q$"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rabbittest.Eventually(t, 20*time.Second, func() bool { return contains(r.log, "msg=consuming") }, "the queue is consumed")
}
