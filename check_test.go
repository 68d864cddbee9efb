package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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

// Each processor looks at what it depends on, and changes nothing.
func TestCheckLooksAtWhatProcessorsNeed(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"good/sales.sql": "SELECT version_id FROM warren_migrations", "bad/sales.sql": "SELECT price FROM orders_of_nobody",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, secure := httptest.NewServer(http.NotFoundHandler()), httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	env := []string{
		"WARREN_AMQP_URL=" + rabbittest.NewVhost(t).URL, "WARREN_ADMIN_ADDR=", "WARREN_DATABASE_URL=sqlite:" + dir + "/warren.db",
		"WARREN_QUEUES=hooks,secure,closed,good,bad,mails",
		"WARREN_QUEUE_HOOKS_PROCESSOR=webhook", "WARREN_QUEUE_HOOKS_URL=" + plain.URL + "/secret-path",
		"WARREN_QUEUE_SECURE_PROCESSOR=webhook", "WARREN_QUEUE_SECURE_URL=" + secure.URL,
		"WARREN_QUEUE_CLOSED_PROCESSOR=webhook", "WARREN_QUEUE_CLOSED_URL=http://127.0.0.1:1/secret-path",
		"WARREN_QUEUE_GOOD_PROCESSOR=report", "WARREN_QUEUE_GOOD_REPORTS=" + dir + "/good", "WARREN_QUEUE_GOOD_OUTPUT=" + dir + "/out",
		"WARREN_QUEUE_BAD_PROCESSOR=sql", "WARREN_QUEUE_BAD_STATEMENTS=" + dir + "/bad",
		"WARREN_QUEUE_MAILS_PROCESSOR=email", "WARREN_QUEUE_MAILS_SMTP_URL=smtp://shop:hunter2@127.0.0.1:1", "WARREN_QUEUE_MAILS_FROM=shop@example.com",
	}
	if _, stderr, status := output(t, warren(t, env, "migrate")); status != 0 {
		t.Fatalf("migrate: exit status %d, %s", status, stderr)
	}
	before := tree(t, dir)
	stdout, stderr, status := output(t, warren(t, env, "check"))
	for _, want := range []string{
		"ok     processor of hooks: " + strings.TrimPrefix(plain.URL, "http://") + " accepts connections\n",
		"FAULT  processor of secure: TLS with ", "certificate", "       cure: correct the host in URL, or name the authority with CA\n",
		"FAULT  processor of closed: connect to the receiver: ", "connection refused\n       why:  ", "or correct the variables WARREN_QUEUE_CLOSED_...\n",
		"ok     processor of good: the database knows what each report names: sales\n",
		"FAULT  processor of bad: statement sales: ", "orders_of_nobody",
		"FAULT  processor of mails: connect to the SMTP server: ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("check says\n%s%s\nwant %q in it", stdout, stderr, want)
		}
	}
	if status != 1 || strings.Contains(stdout+stderr, "hunter2") || strings.Contains(stdout+stderr, "secret-path") {
		t.Errorf("exit status %d, want 1, and no secret in\n%s%s", status, stdout, stderr)
	}
	if got := tree(t, dir); !slices.Equal(got, before) {
		t.Errorf("check has made %q of %q", got, before)
	}
}

func TestCheckFindsAnAlarm(t *testing.T) {
	v := rabbittest.NewVhost(t)
	env := commandQueue(v, "orders", "cat", "WARREN_ADMIN_ADDR=")
	start(t, env...).signal(t, syscall.SIGTERM)
	if err := v.Node.MemoryAlarm(true); err != nil {
		t.Fatal(err)
	}
	checks(t, env, 1, "FAULT  publishing: ", "alarm")
	if err := v.Node.MemoryAlarm(false); err != nil {
		t.Fatal(err)
	}
	checks(t, env, 0, "ok     publishing: permitted\n")
}
