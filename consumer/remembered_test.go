package consumer

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestRememberedIsTheSameLifeOfTheSameMessage(t *testing.T) {
	done := amqp.Delivery{MessageId: "m", Headers: amqp.Table{"x-warren-attempt": int64(1), "x-warren-failed-at": int64(7)}, Body: []byte("a")}
	again := done
	again.Redelivered = true

	r := newRemembered()
	r.add(&done)
	for name, other := range map[string]func(d *amqp.Delivery){
		"never handed out before": func(d *amqp.Delivery) { d.Redelivered = false },
		"another id":              func(d *amqp.Delivery) { d.MessageId = "n" },
		"no id":                   func(d *amqp.Delivery) { d.MessageId = "" },
		"a later attempt": func(d *amqp.Delivery) {
			d.Headers = amqp.Table{"x-warren-attempt": int64(2), "x-warren-failed-at": int64(7)}
		},
		"failed again": func(d *amqp.Delivery) {
			d.Headers = amqp.Table{"x-warren-attempt": int64(1), "x-warren-failed-at": int64(8)}
		},
		"another body": func(d *amqp.Delivery) { d.Body = []byte("b") },
	} {
		d := again
		other(&d)
		if r.take(&d) {
			t.Errorf("%s: taken for a repeat", name)
		}
	}
	equal(t, r.take(&again), true)
	equal(t, r.take(&again), false) // once
}

func TestRememberedIsBounded(t *testing.T) {
	r := newRemembered()
	for i := range rememberedMost + 10 {
		r.add(&amqp.Delivery{MessageId: fmt.Sprint(i)})
	}
	equal(t, r.seen.Len(), rememberedMost)
	equal(t, r.take(&amqp.Delivery{MessageId: "9", Redelivered: true}), false)
	equal(t, r.take(&amqp.Delivery{MessageId: "10", Redelivered: true}), true)
}
