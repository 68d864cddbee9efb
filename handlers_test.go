package main

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// TestHandlerIsToldWhateverItIs publishes what no variable can hold, or that a shell would
// take for something else: the handler is told it, or the message is dead-lettered.
func TestHandlerIsToldWhateverItIs(t *testing.T) {
	t.Parallel()
	const hostile = "$(exit 65)`exit 65`';\"\n=\x1b[31m\xff\u202e"
	v := rabbittest.NewVhost(t)
	v.Declare(t, "answers", nil)
	d := start(t, commandQueue(v, "commands", "env -0; exec cat", "WARREN_QUEUE_COMMANDS_ENV=SHOP_TOKEN=t0ken", "WARREN_QUEUE_COMMANDS_MAX_ATTEMPTS=1")...)
	v.Publish(t, "commands", amqp091.Publishing{
		MessageId: hostile, CorrelationId: hostile, ReplyTo: "answers", Type: hostile + "\x00", AppId: hostile, ContentType: hostile, ContentEncoding: hostile,
		Headers: amqp091.Table{hostile: hostile}, Body: []byte("\x00body\xff"),
	}, amqp091.Publishing{MessageId: "long", Headers: amqp091.Table{"h": strings.Repeat("\x00", 60_000)}},
		amqp091.Publishing{MessageId: "last", ReplyTo: "answers"})
	rabbittest.Eventually(t, 30*time.Second, func() bool { return v.Ready(t, "answers") == 2 && v.Ready(t, "commands.dead") == 1 }, "two are answered, one is dead")

	answers := v.Drain(t, "answers")
	i := slices.IndexFunc(answers, func(a amqp091.Delivery) bool { return a.CorrelationId == hostile })
	if i < 0 {
		t.Fatalf("got %v, want an answer to the hostile one", answers)
	}
	got := strings.Split(string(answers[i].Body), "\x00")
	if tail := strings.Join(got[len(got)-2:], "\x00"); tail != "\x00body\xff" {
		t.Errorf("the body arrived as %q", tail)
	}
	for _, want := range []string{
		"WARREN_MESSAGE_ID=" + hostile, "WARREN_CORRELATION_ID=" + hostile, "WARREN_TYPE=" + hostile + "\uFFFD", "WARREN_APP_ID=" + hostile,
		"WARREN_CONTENT_TYPE=" + hostile, "WARREN_CONTENT_ENCODING=" + hostile, "WARREN_ROUTING_KEY=commands", "WARREN_EXCHANGE=", "SHOP_TOKEN=t0ken",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("got the environment %q, want %q in it", got, want)
		}
	}
	dead := v.Drain(t, "commands.dead")[0]
	if text, _ := dead.Headers["x-warren-error"].(string); dead.MessageId != "long" || dead.Headers["x-warren-reason"] != "undecodable" || !strings.Contains(text, "WARREN_HEADERS would have 360") {
		t.Errorf("the dead letter is %s with %.300v", dead.MessageId, dead.Headers)
	}
	for _, not := range []string{"connection lost", "t0ken", "\x1b", "\u202e"} {
		if strings.Contains(d.log.String(), not) {
			t.Errorf("the log has %q in it", not)
		}
	}
	d.signal(t, syscall.SIGTERM)
	wantExit(t, d, 0)
}
