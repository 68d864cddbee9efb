package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// deadLetter is one as a daemon writes it, three hours old.
func deadLetter(id, reason, fault, body string) amqp091.Publishing {
	return amqp091.Publishing{MessageId: id, Type: "mail", ContentType: "application/json", Body: []byte(body), Headers: amqp091.Table{
		"x-warren-reason": reason, "x-warren-error": fault, "x-warren-attempt": int64(20), "x-warren-failed-at": time.Now().Add(-3 * time.Hour).UnixMilli(),
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "blue\x1b[2J",
	}}
}

// declareDead declares a dead-letter queue as a daemon does, and fills it.
func declareDead(t *testing.T, v *rabbittest.Vhost, queue string, letters ...amqp091.Publishing) {
	t.Helper()
	v.Declare(t, queue+".dead", amqp091.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": int64(1_000_000)})
	v.Publish(t, queue+".dead", letters...)
}

func TestDeadLettersAreSeen(t *testing.T) {
	v := rabbittest.NewVhost(t)
	declareDead(t, v, "mails",
		deadLetter("order-17", "exhausted", "451 4.3.0 try again later, this server is very busy today and asks for patience", `{"to":"ada@example.net","n":12345678901234567890}`),
		deadLetter("order-\x1b]0;18", "exhausted", "451 4.3.0 try again later, this server is very busy today and asks for patience", "{}"),
		deadLetter("9", "permanent", "550 no such mailbox\nsecond line", "\x00\x01"))
	run := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, status := output(t, warren(t, []string{"WARREN_AMQP_URL=" + v.URL, "WARREN_TRACE_URL=https://jaeger.example.net/trace/{trace}"}, args...))
		if status != want {
			t.Errorf("%q: got status %d and %s, want %d", args, status, stderr, want)
		}
		return stdout, stderr
	}
	list, counted := run(0, "dead", "list", "mails")
	if want := `ID               AGE  TRIES  REASON     ERROR
order-17         3h   20     exhausted  451 4.3.0 try again later, this server …
order-\x1b]0;18  3h   20     exhausted  451 4.3.0 try again later, this server …
9                3h   20     permanent  550 no such mailbox\nsecond line
`; list != want {
		t.Errorf("list: got\n%s", list)
	}
	if counted != "3 dead letters, of 3 looked at\n" {
		t.Errorf("list: standard error is %q", counted)
	}
	groups, _ := run(0, "dead", "groups", "mails")
	if want := regexp.MustCompile(`^GROUP     COUNT  FIRST  LAST  SAMPLE          REASON     ERROR
[0-9a-f]{8}  2      3h     3h    order-\\x1b\]0;…  exhausted  451 <n> try again late…
[0-9a-f]{8}  1      3h     3h    9               permanent  550 no such mailbox
$`); !want.MatchString(groups) {
		t.Errorf("groups: got\n%s", groups)
	}
	shown, _ := run(0, "dead", "show", "mails", "order-17")
	since := regexp.MustCompile(`(?m)^since .*$|(?m)^  x-warren-failed-at: .*$|(?m)^group .*$`)
	if want := `id        order-17
queue     mails
reason    exhausted
error     451 4.3.0 try again later, this server is very busy today and asks for patience
attempts  20
-
-
trace     https://jaeger.example.net/trace/0af7651916cd43dd8448eb211c80319c

properties
  content-type: application/json
  message-id: order-17
  type: mail

headers
  tenant: blue\x1b[2J
  traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
  x-delivery-count: 2
  x-warren-attempt: 20
  x-warren-error: 451 4.3.0 try again later, this server is very busy today and asks for patience
-
  x-warren-reason: exhausted

body, 49 bytes of JSON
{
  "to": "ada@example.net",
  "n": 12345678901234567890
}
`; since.ReplaceAllString(shown, "-") != want {
		t.Errorf("show: got\n%s", shown)
	}
	if body, _ := run(0, "dead", "show", "mails", "9", "--body"); body != "\x00\x01" {
		t.Errorf("show --body: got %q", body)
	}
	if hex, _ := run(0, "dead", "show", "mails", "9"); !strings.Contains(hex, "body, 2 bytes of binary\n00000000  00 01  ") {
		t.Errorf("show of what is binary: got\n%s", hex)
	}
	var found []struct{ ID, Reason string }
	text, _ := run(0, "dead", "list", "mails", "-o", "json", "--filter", "error ~ '^4'")
	if err := json.Unmarshal([]byte(text), &found); err != nil || fmt.Sprint(found) != "[{order-17 exhausted} {order-\x1b]0;18 exhausted}]" {
		t.Errorf("list -o json: got %s and error %v", text, err)
	}
	_, fault := run(1, "dead", "show", "mails", "nobody")
	if want := "warren: no dead letter of mails has the id nobody, of 3 looked at; warren dead list mails lists them\n"; fault != want {
		t.Errorf("show: got %q, want %q", fault, want)
	}
	if _, fault = run(1, "dead", "list", "mail"); !strings.Contains(fault, "there is no queue mail.dead: check the name of the work queue") {
		t.Errorf("list: got %q", fault)
	}
	if _, fault = run(1, "dead", "list", "mails", "-f", "reasn = x"); !strings.Contains(fault, `the filter is wrong at character 1 ("reasn = x"): there is no field reasn`) {
		t.Errorf("list: got %q", fault)
	}
	if n := v.Ready(t, "mails.dead"); n != 3 {
		t.Errorf("%d dead letters are left, want 3", n)
	}
}
