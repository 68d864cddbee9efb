package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// Nothing listens on port 1: the error names the queue and the node, but no password.
// Variables that a handler is given for its message are not taken for mistakes.
func TestPublishWithoutABroker(t *testing.T) {
	t.Parallel()
	env := []string{"WARREN_AMQP_URL=amqp://u:hunter2@127.0.0.1:1/", "WARREN_MESSAGE_ID=of-the-handler"}
	stdout, stderr, status := output(t, warren(t, env, "publish", "orders", "{}"))
	if status != 1 || stdout != "" || !strings.Contains(stderr, "warren: message for orders not published: node 127.0.0.1:1: ") {
		t.Errorf("got %q, standard error %q and exit status %d, want nothing, the queue and the node, and 1", stdout, stderr, status)
	}
	if strings.Contains(stderr, "hunter2") {
		t.Errorf("the error shows the password: %s", stderr)
	}
}

func TestDelayedMessagesAreListed(t *testing.T) {
	t.Parallel()
	v := rabbittest.NewVhost(t)
	worker := []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_QUEUES=orders", "WARREN_QUEUE_ORDERS_PROCESSOR=log"}
	d := start(t, worker...)
	env := []string{"WARREN_AMQP_URL=" + v.URL}
	if _, stderr, status := output(t, warren(t, env, "publish", "orders", "{}", "--message-id=m\x1b-1", "--delay=1h")); status != 0 {
		t.Fatalf("publish: status %d, %s", status, stderr)
	}
	var table string
	rabbittest.Eventually(t, 10*time.Second, func() bool {
		table, _, _ = output(t, warren(t, env, "waiting", "list", "orders", "mails"))
		return strings.Count(table, "\n") == 2
	}, "the message is listed")
	if fields := strings.Fields(strings.Split(table, "\n")[1]); len(fields) < 5 || fields[0] != "orders" || fields[3] != "0" || fields[4] != `m\x1b-1` {
		t.Errorf("row of the table: got %q, want orders, when, 0 attempts, and the id with its control character as a number", fields)
	}
	lines, _, _ := output(t, warren(t, env, "delayed", "list", "orders", "--json"))
	if !strings.HasPrefix(lines, `{"queue":"orders","message_id":"m\u001b-1","due":"20`) {
		t.Errorf("as JSON: got %q", lines)
	}
	none, _, _ := output(t, warren(t, env, "delayed", "list", "mails", "--json"))
	if none != "" {
		t.Errorf("of another queue: got %q, want nothing", none)
	}

	for _, test := range []struct {
		args, want string
		status     int
	}{
		{"waiting list orders -o json -f attempts>0", "[]\n", 0},
		{"waiting list orders -f in<30m", "QUEUE  DUE  IN  TRIES  ID  ERROR\n", 0},
		{"waiting list orders -f reason=x", "", 1}, // which dead letters have
		{"waiting release orders --all --dry-run", "release 1 waiting message of orders: the next due at ", 0},
		{"waiting release orders nobody --dry-run", "no waiting message of orders is meant\n", 3},
		{"waiting drop orders --all --dry-run", "drop 1 waiting message of orders, into orders.dead: the next due at ", 0},
		{"waiting drop orders --all --discard --no-archive --dry-run", "discard 1 waiting message of orders, keeping no copy: the next due at ", 0},
		{"waiting drop orders --all --archive x", "", 1},
		{"waiting drop orders", "", 1},
	} {
		if got, stderr, status := output(t, warren(t, env, strings.Fields(test.args)...)); status != test.status || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got status %d, %q and %q, want %d and %q", test.args, status, got, stderr, test.status, test.want)
		}
	}

	// Without its queue the message is listed still, until it falls due.
	d.signal(t, syscall.SIGTERM)
	v.DeleteQueue(t, "orders")
	again, missing, _ := output(t, warren(t, env, "delayed", "list", "orders", "--json"))
	if again != lines || !strings.Contains(missing, "queue orders is missing; what has fallen due for it is kept") {
		t.Errorf("of a queue that is missing: got %q, standard error %q; want the message, and that it is missing", again, missing)
	}
	start(t, worker...) // as that line says
	if again, missing, _ := output(t, warren(t, env, "delayed", "list", "orders", "--json")); again != lines || missing != "" {
		t.Errorf("of a queue that is back: got %q, standard error %q; want the message alone", again, missing)
	}
}
