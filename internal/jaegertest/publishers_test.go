package jaegertest

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// drained is the only message of the queue, which has to have this identity and body.
func drained(t *testing.T, v *rabbittest.Vhost, messageID string) amqp.Delivery {
	t.Helper()
	messages := v.Drain(t, "orders")
	if len(messages) != 1 || messages[0].MessageId != messageID || string(messages[0].Body) != `{"n": 1}` {
		t.Fatalf("messages in the queue: got %+v, want %s alone", messages, messageID)
	}
	return messages[0]
}

func TestPublishFromPython(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders", nil)
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	PublishFromPython(t, v.URL, "orders", `{"n": 1}`, "python-1", traceparent)
	if got := drained(t, v, "python-1").Headers["traceparent"]; got != traceparent {
		t.Errorf("traceparent: got %v, want %s", got, traceparent)
	}
}

func TestPublishFromNode(t *testing.T) {
	v := rabbittest.NewVhost(t)
	v.Declare(t, "orders", nil)
	j := Start(t)
	id := j.PublishFromNode(t, v.URL, "orders", `{"n": 1}`, "node-1")
	spans := j.Await(t, 0, id, 2) // it has exported them already
	if spans[0].Name != "place order" || spans[0].ParentID != "" || spans[1].ParentID != spans[0].ID || spans[1].Tags["span.kind"] != "producer" {
		t.Errorf("spans: got %+v, want place order, and a producer below it", spans)
	}
	// Whoever takes the message hangs on the publish.
	want := "00-" + id + "-" + spans[1].ID + "-01"
	if got := drained(t, v, "node-1").Headers["traceparent"]; got != want {
		t.Errorf("traceparent: got %v, want %s", got, want)
	}
}
