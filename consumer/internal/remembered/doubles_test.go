package remembered

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestTheSecondCopyIsKnown(t *testing.T) {
	d, now := NewDoubles(), time.Now()
	sent := amqp.Publishing{MessageId: "m", Headers: amqp.Table{"x-warren-attempt": int64(1)}, Body: []byte("{}")}
	home := amqp.Delivery{MessageId: "m", Body: []byte("{}"), RoutingKey: "orders", UserId: "warren", Headers: amqp.Table{
		"x-warren-attempt": int64(1), "x-death": []any{amqp.Table{"count": int64(1)}}, "x-first-death-queue": "warren.wait.orders.1s", "x-last-death-reason": "expired",
	}}
	other := home
	other.Headers = amqp.Table{"x-warren-attempt": int64(2)}
	step := func(what string, m amqp.Delivery, now time.Time, want bool) {
		t.Helper()
		if got := d.Second(&m, now); got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	step("nothing was published twice", home, now, false)
	d.Add(sent, now)
	step("another attempt", other, now, false)
	step("the first copy", home, now, false)
	step("the second", home, now, true)
	step("a third", home, now, false)
	d.Add(sent, now)
	d.Add(sent, now)
	step("the first copy of three", home, now, false)
	step("the second", home, now, true)
	step("the third", home, now, true)
	step("a fourth", home, now, false)
	d.Add(sent, now)
	step("the first copy", home, now, false)
	step("long after", home, now.Add(doubledFor+time.Second), false)
}
