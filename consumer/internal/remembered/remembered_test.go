package remembered

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestOnlyTheSameMessageIsKnownAgain(t *testing.T) {
	now := time.Now()
	done := amqp.Delivery{
		MessageId: "m", Type: "user.created", Timestamp: time.Unix(7, 0), Body: []byte("a"),
		Headers: amqp.Table{"x-warren-attempt": int64(1), "nested": amqp.Table{"list": []any{"a", nil, 1.5}}},
	}
	r := New()
	r.Add(r.IdentityOf(&done), now)
	for name, change := range map[string]func(d *amqp.Delivery){
		"another id":              func(d *amqp.Delivery) { d.MessageId = "n" },
		"no id":                   func(d *amqp.Delivery) { d.MessageId = "" },
		"another type":            func(d *amqp.Delivery) { d.Type = "user.deleted" },
		"another routing key":     func(d *amqp.Delivery) { d.RoutingKey = "k" },
		"a reply is wanted":       func(d *amqp.Delivery) { d.ReplyTo = "me" },
		"another time":            func(d *amqp.Delivery) { d.Timestamp = time.Unix(8, 0) },
		"another body":            func(d *amqp.Delivery) { d.Body = []byte("b") },
		"a text in another field": func(d *amqp.Delivery) { d.MessageId, d.Type = "mu", "ser.created" },
		"a later attempt": func(d *amqp.Delivery) {
			d.Headers = amqp.Table{"x-warren-attempt": int64(2), "nested": d.Headers["nested"]}
		},
		"another type of number": func(d *amqp.Delivery) {
			d.Headers = amqp.Table{"x-warren-attempt": int32(1), "nested": d.Headers["nested"]}
		},
		"deep within": func(d *amqp.Delivery) {
			d.Headers = amqp.Table{"x-warren-attempt": int64(1), "nested": amqp.Table{"list": []any{"a", nil, 1.6}}}
		},
	} {
		d := done
		change(&d)
		if r.Take(r.IdentityOf(&d), now) {
			t.Errorf("%s: taken for a repeat", name)
		}
	}
	again := done
	again.Redelivered, again.DeliveryTag = true, 9
	again.Headers = amqp.Table{"x-delivery-count": int64(1), "nested": done.Headers["nested"], "x-warren-attempt": int64(1)}
	if !r.Take(r.IdentityOf(&again), now) {
		t.Error("its redelivery was not taken for a repeat")
	}
	if r.Take(r.IdentityOf(&again), now) {
		t.Error("it was taken for a repeat twice")
	}
}

func TestAsManyAsAreAlikeAreKnownAgain(t *testing.T) {
	now := time.Now()
	r, d := New(), amqp.Delivery{Body: []byte("{}")}
	id := r.IdentityOf(&d)
	r.Add(id, now)
	r.Add(id, now)
	if got := []bool{r.Take(id, now), r.Take(id, now), r.Take(id, now)}; fmt.Sprint(got) != "[true true false]" {
		t.Errorf("got %v of two that were remembered", got)
	}
}

func TestWhatIsRememberedExpires(t *testing.T) {
	now := time.Now()
	r := New()
	r.Add(1, now)
	if r.Take(1, now.Add(rememberedFor+time.Second)) {
		t.Error("a message was taken for a repeat of one that was done long ago")
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	now := time.Now()
	r := New()
	for i := range maxRemembered + 10 {
		r.Add(Identity(i), now)
	}
	if r.seen.Len() != maxRemembered || r.Take(9, now) || !r.Take(10, now) {
		t.Errorf("%d are remembered, want the newest %d", r.seen.Len(), maxRemembered)
	}
}
