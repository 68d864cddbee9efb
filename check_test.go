package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// checks runs warren check and wants its exit status, and its findings.
func checks(t *testing.T, env []string, status int, want ...string) {
	t.Helper()
	stdout, stderr, got := output(t, warren(t, env, "check"))
	for _, w := range want {
		if !strings.Contains(stdout, w) {
			t.Errorf("check says\n%s%s\nwant %q in it", stdout, stderr, w)
		}
	}
	if got != status {
		t.Errorf("check ends with %d and says\n%s%s\nwant %d", got, stdout, stderr, status)
	}
}

func TestCheckSaysWhyNothingHappens(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=", "WARREN_QUEUE_ORDERS_MAX_ATTEMPTS=8")
	d := start(t, env...)
	checks(t, env, 0, "ok     daemons: 1 has answered\n", "ok     plan of orders: 8 attempts within 2m7s, then orders.dead\n", "ok     queue orders: 0 messages ready, 1 consumers\n")

	if _, stderr, status := output(t, warren(t, env, "pause", "orders", "--yes", "--why", "mail server moves")); status != 0 {
		t.Fatalf("pause: exit status %d, %s", status, stderr)
	}
	v.Publish(t, "orders", amqp091.Publishing{Body: []byte("{}")})
	v.Publish(t, "orders.dead", amqp091.Publishing{Body: []byte("{}")})
	rabbittest.Eventually(t, time.Minute, func() bool { return v.Ready(t, "orders") == 1 && v.Ready(t, "orders.dead") == 1 }, "both messages wait")
	cause := []string{
		"WARN   consumers of orders: paused for ", ": mail server moves; 1 message ready\n       why:  no daemon takes a message from it until it is resumed\n       cure: warren resume orders\n",
		"WARN   dead letters of orders: 1 message\n", "       cure: warren dead groups orders shows why; then warren dead replay orders, or discard\n",
	}
	checks(t, env, 3, cause...)
	d.signal(t, syscall.SIGTERM)
	checks(t, env, 3, cause...) // nobody is left to ask

	if _, stderr, status := output(t, warren(t, env, "resume", "orders", "--yes")); status != 0 {
		t.Fatalf("resume: exit status %d, %s", status, stderr)
	}
	checks(t, env, 3, "WARN   consumers of orders: there are none, and 1 message ready\n", "       cure: systemctl start warren, on a machine whose WARREN_QUEUES has it\n")

	stdout, stderr, status := output(t, warren(t, env, "check", "-o", "json"))
	var all []struct {
		Severity, What, Found, Why, Cure string
		Queue                            *struct{ Messages, Consumers int }
	}
	if err := json.Unmarshal([]byte(stdout), &all); err != nil || status != 3 || stderr != "warren: warnings: 2\n" {
		t.Fatalf("check -o json: exit status %d, %s%s, error %v", status, stdout, stderr, err)
	}
	warned := 0
	for _, f := range all {
		if f.Severity == "warning" {
			warned++
			if f.What == "" || f.Found == "" || f.Why == "" || f.Cure == "" {
				t.Errorf("a warning says %+v, want what, why and what cures it", f)
			}
		}
		if f.What == "queue orders" && (f.Queue == nil || f.Queue.Messages != 1) {
			t.Errorf("queue orders: got %+v, want 1 message", f.Queue)
		}
	}
	if warned != 2 {
		t.Errorf("got %d warnings of %s, want 2", warned, stdout)
	}
}

func TestCheckFindsAnExclusiveConsumer(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=")
	start(t, env...).signal(t, syscall.SIGTERM)
	if _, err := v.Channel(t).Consume("orders", "", false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	checks(t, env, 3, "WARN   consumers of orders: 1, of which 0 answer: the others are other programs", "one that consumes exclusively", "       cure: rabbitmqctl list_consumers")
}

func TestCheckFindsTheWrongVirtualHost(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=")
	env[0] += "-other"
	checks(t, env, 1, "FAULT  node "+v.Node.Addr()+": ", "virtual host")
}

// What a processor depends on is down: the daemon says so itself.
func TestCheckFindsABrake(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "exit 69", "WARREN_ADMIN_ADDR=")
	d := start(t, env...)
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "m", Body: []byte("{}")})
	v.Publish(t, "orders", amqp091.Publishing{MessageId: "n", Body: []byte("{}")})
	var stdout string
	rabbittest.Eventually(t, time.Minute, func() bool {
		stdout, _, _ = output(t, warren(t, env, "check"))
		return strings.Contains(stdout, "WARN   daemons: ") && strings.Contains(stdout, " has orders braked for ") && strings.Contains(stdout, "69")
	}, "check says that the queue is braked, and why")
	d.signal(t, syscall.SIGTERM)
}
