package consumer

import (
	"maps"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/digest"
)

// wholeMessage has all that a publisher can set.
func wholeMessage() amqp.Delivery {
	return amqp.Delivery{
		Exchange: "shop", RoutingKey: "order.created", UserId: "shop", MessageId: "m", CorrelationId: "c", ReplyTo: "r", Type: "t", AppId: "a",
		ContentType: "application/json", ContentEncoding: "gzip", Expiration: "60000", Priority: 3, Timestamp: time.Unix(1e9, 0), Body: []byte("{}"),
		Headers: amqp.Table{"tenant": "x", "n": int32(1), "list": []any{int64(1), "a"}, "table": amqp.Table{"k": true}, "x-delay": int32(500), "CC": []any{"other"}},
	}
}

// Two messages that differ in anything that a publisher sets are two.
func TestTheDigestTakesInTheWholeMessage(t *testing.T) {
	whole := wholeMessage()
	want := digest.Of(&whole, false)
	for name, change := range map[string]func(d *amqp.Delivery){
		"exchange":         func(d *amqp.Delivery) { d.Exchange = "" },
		"routing key":      func(d *amqp.Delivery) { d.RoutingKey = "order.deleted" },
		"user-id":          func(d *amqp.Delivery) { d.UserId = "" },
		"message-id":       func(d *amqp.Delivery) { d.MessageId = "\xff" },
		"correlation-id":   func(d *amqp.Delivery) { d.CorrelationId = "" },
		"reply-to":         func(d *amqp.Delivery) { d.ReplyTo = "mine" },
		"type":             func(d *amqp.Delivery) { d.Type = "user.deleted" },
		"app-id":           func(d *amqp.Delivery) { d.AppId = "" },
		"content-type":     func(d *amqp.Delivery) { d.ContentType = "text/plain" },
		"content-encoding": func(d *amqp.Delivery) { d.ContentEncoding = "" },
		"expiration":       func(d *amqp.Delivery) { d.Expiration = "" },
		"priority":         func(d *amqp.Delivery) { d.Priority = 0 },
		"timestamp":        func(d *amqp.Delivery) { d.Timestamp = time.Time{} },
		"body":             func(d *amqp.Delivery) { d.Body = []byte("[]") },
		"header":           func(d *amqp.Delivery) { d.Headers["tenant"] = "y" },
		"header's name":    func(d *amqp.Delivery) { delete(d.Headers, "n"); d.Headers["o"] = int32(1) },
		"no header":        func(d *amqp.Delivery) { delete(d.Headers, "tenant") },
		"list":             func(d *amqp.Delivery) { d.Headers["list"] = []any{int64(1), "b"} },
		"table":            func(d *amqp.Delivery) { d.Headers["table"] = amqp.Table{"k": false} },
		"delay":            func(d *amqp.Delivery) { d.Headers["x-delay"] = int32(501) },
		"neighbours":       func(d *amqp.Delivery) { d.Type, d.AppId = "", "ta" },
	} {
		d := wholeMessage()
		change(&d)
		if digest.Of(&d, false) == want {
			t.Errorf("another %s, and the digest is the same", name)
		}
	}
}

// What the broker, Warren and a trace add is no part of the message.
func TestTheDigestOfACopyIsThatOfTheMessage(t *testing.T) {
	whole := wholeMessage()
	want := digest.Of(&whole, false)
	again := wholeMessage()
	again.Redelivered, again.DeliveryTag, again.ConsumerTag = true, 7, "warren"
	again.Headers["x-delivery-count"] = int64(3)
	again.Headers["traceparent"], again.Headers["tracestate"], again.Headers["baggage"] = "00-1", "a=b", "c=d"
	again.Headers["n"] = int64(1)
	if digest.Of(&again, false) != want {
		t.Error("a redelivery has another digest")
	}

	// As it comes from a wait queue: published by Warren, under its own name.
	copied := wholeMessage()
	copied.Exchange, copied.RoutingKey, copied.UserId, copied.Expiration, copied.Priority = "", "orders", "warren", "", 0
	delete(copied.Headers, "x-delay")
	delete(copied.Headers, "CC")
	maps.Copy(copied.Headers, amqp.Table{
		"x-warren-exchange": "shop", "x-warren-routing-key": "order.created", "x-warren-original-user-id": "shop", "x-warren-original-expiration": "60000",
		"x-warren-original-priority": int64(3), "x-warren-original-x-delay": int32(500), "x-warren-original-CC": []any{"other"},
		"x-warren-attempt": int64(2), "x-warren-error": "no", "x-warren-not-before": int64(1), "x-death": []any{},
	})
	if digest.Of(&copied, true) != want {
		t.Error("a copy for another attempt has another digest")
	}
	if digest.Of(&copied, false) == want {
		t.Error("somebody else's copy has the digest of the original")
	}
}

// A publisher that guesses the message-id of a scheduled message, and all else of it,
// still has a name of its own, or none.
func TestNobodyCanSendAScheduledMessageInAdvance(t *testing.T) {
	fired := amqp.Delivery{RoutingKey: "reports", UserId: "warren", MessageId: "nightly-1764115200", Body: []byte("{}")}
	forged := fired
	forged.UserId = ""
	forged.Headers = amqp.Table{"x-warren-routing-key": "reports", "x-warren-exchange": "", "x-warren-original-user-id": "warren"}
	if digest.Of(&forged, false) == digest.Of(&fired, true) {
		t.Error("the forged message has the digest of the one that is fired")
	}
}
