package remembered

import (
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// doubledFor is how long it is expected that both copies of a message come.
const doubledFor = 24 * time.Hour

// Doubles are the messages that this process may have published twice: the confirm of
// the first copy was lost with its connection. Any number of goroutines may use it.
type Doubles struct {
	mu       sync.Mutex
	expected *Messages // none has come yet
	here     *Messages // one has
}

// NewDoubles makes an empty Doubles.
func NewDoubles() *Doubles {
	d := &Doubles{expected: New(), here: New()}
	d.expected.lasts, d.here.lasts = doubledFor, doubledFor
	return d
}

// Add takes note of a message that is about to be published again.
func (d *Doubles) Add(m amqp.Publishing, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.contentOf(&amqp.Delivery{
		Headers: m.Headers, ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, DeliveryMode: m.DeliveryMode, Priority: m.Priority,
		CorrelationId: m.CorrelationId, ReplyTo: m.ReplyTo, MessageId: m.MessageId, Timestamp: m.Timestamp, Type: m.Type, AppId: m.AppId, Body: m.Body,
	})
	if _, again := d.expected.seen.Peek(id); again {
		d.here.Add(id, now) // one more that is not to be worked
		return
	}
	d.expected.Add(id, now)
}

// Second tells whether a delivery that is about to be worked is the second copy of one
// that has been begun with: what becomes of the message is that one's matter.
func (d *Doubles) Second(m *amqp.Delivery, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.expected.Some() && !d.here.Some() {
		return false
	}
	id := d.contentOf(m)
	if d.expected.Take(id, now) {
		d.here.Add(id, now)
		return false
	}
	return d.here.Take(id, now)
}

// contentOf is the identity of a message without what the broker adds on its way home.
func (d *Doubles) contentOf(m *amqp.Delivery) Identity {
	c := *m
	c.Exchange, c.RoutingKey, c.UserId = "", "", ""
	c.Headers = make(amqp.Table, len(m.Headers))
	for name, v := range m.Headers {
		if name != "x-death" && !strings.HasPrefix(name, "x-first-death-") && !strings.HasPrefix(name, "x-last-death-") {
			c.Headers[name] = v
		}
	}
	return d.expected.IdentityOf(&c)
}
