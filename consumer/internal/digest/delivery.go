package digest

import (
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// Of returns the digest of all that the publisher of d has set: body, properties,
// headers, exchange and routing key. The name of the publisher is among it, which the
// broker has checked: nobody can take a message from Warren, such as that of a schedule,
// away by sending the same in advance. It is the same for each of the copies that Warren
// makes of the message for another attempt, and for one that is sent again within
// another trace. ours tells whether Warren published d: what its headers say of the
// original is believed then.
func Of(d *amqp.Delivery, ours bool) [16]byte {
	_, isCopy := d.Headers[broker.HeaderRoutingKey]
	isCopy = isCopy && ours
	original := func(name, value string) string {
		if v, there := d.Headers[broker.OriginalPrefix+name]; isCopy && there {
			return fmt.Sprint(v)
		}
		return value
	}
	exchange, key, user := d.Exchange, d.RoutingKey, d.UserId
	if isCopy {
		exchange, _ = d.Headers[broker.HeaderExchange].(string)
		key, _ = d.Headers[broker.HeaderRoutingKey].(string)
		user, _ = d.Headers[broker.OriginalPrefix+"user-id"].(string)
	}
	h := New()
	for _, text := range []string{
		exchange, key, user, d.MessageId, d.CorrelationId, d.ReplyTo, d.Type, d.AppId, d.ContentType, d.ContentEncoding,
		original("expiration", d.Expiration), original("priority", strconv.Itoa(int(d.Priority))),
	} {
		h.Value(text)
	}
	h.Value(d.Timestamp)
	headers := make(amqp.Table, len(d.Headers))
	for name, v := range d.Headers {
		original, kept := strings.CutPrefix(name, broker.OriginalPrefix)
		switch {
		case isCopy && kept && (original == "CC" || original == "BCC" || original == broker.HeaderDelay):
			headers[original] = v
		case broker.IsBrokers(name), strings.HasPrefix(name, broker.OwnHeaders), name == "traceparent", name == "tracestate", name == "baggage":
		default:
			headers[name] = v
		}
	}
	h.Value(headers)
	h.Value(d.Body)
	return [16]byte(h.Sum(nil))
}
