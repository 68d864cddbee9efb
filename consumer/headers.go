package consumer

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What Warren reads of and writes to the headers of a message. Times are Unix
// milliseconds.
const (
	headerAttempt       = "x-warren-attempt" // attempts already made
	headerNotBefore     = "x-warren-not-before"
	headerExchange      = "x-warren-exchange" // where it was first published
	headerRoutingKey    = "x-warren-routing-key"
	headerFirstFailedAt = "x-warren-first-failed-at"
	headerFailedAt      = "x-warren-failed-at"
	headerError         = "x-warren-error"
	headerReason        = "x-warren-reason"
	headerWorker        = "x-warren-worker"

	headerDelay         = "x-delay"          // milliseconds, from a publisher
	headerDeliveryCount = "x-delivery-count" // from the broker: how often it was handed out in vain
)

// originalPrefix goes before the name of what would do harm when the message is
// published again, and is therefore kept under another name: expiration would end
// a wait early, the broker refuses a user-id that is not the connection's own,
// CC and BCC would send copies, and a delay would be waited again.
const originalPrefix = "x-warren-original-"

const (
	maxErrorBytes = 4096
	// maxDelay is the longest delay or instant ahead that is believed. What lies
	// beyond is a slip of units, and would wait where nobody looks.
	maxDelay = 366 * 24 * time.Hour
)

// A story is what the headers of a message tell of its past.
type story struct {
	attempts      int       // already made
	notBefore     time.Time // the next attempt; zero means now
	deliveryCount int64
}

// readStory reads the story of d, which has arrived at now. The error names the
// header that cannot be read; the rest of the story is then valid all the same.
func readStory(d *amqp.Delivery, now time.Time) (story, error) {
	if len(d.Headers) == 0 {
		return story{}, nil
	}
	var s story
	// The count is the broker's own; of another type it would not be one.
	s.deliveryCount, _ = integer(d.Headers[headerDeliveryCount])

	attempts, err := readInteger(d.Headers, headerAttempt, math.MaxInt32)
	if err != nil {
		return s, err
	}
	s.attempts = int(attempts)

	latest := now.Add(maxDelay)
	notBefore, err := readInteger(d.Headers, headerNotBefore, latest.UnixMilli())
	if err != nil {
		return s, err
	}
	delay, err := readInteger(d.Headers, headerDelay, maxDelay.Milliseconds())
	if err != nil {
		return s, err
	}
	if notBefore > 0 {
		s.notBefore = time.UnixMilli(notBefore)
	}
	if due := now.Add(time.Duration(delay) * time.Millisecond); delay > 0 && due.After(s.notBefore) {
		s.notBefore = due
	}
	return s, nil
}

// readInteger reads a header that is a whole number of at most the given size; an
// absent or negative one is 0. Publishers in untyped languages may have sent it as
// text.
func readInteger(headers amqp.Table, name string, most int64) (int64, error) {
	v, there := headers[name]
	if !there || v == nil {
		return 0, nil
	}
	n, ok := integer(v)
	if text, isText := v.(string); isText {
		var err error
		n, err = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		ok = err == nil
	}
	if !ok {
		return 0, fmt.Errorf("header %s is %.40q (%T); it must be a whole number", name, fmt.Sprint(v), v)
	}
	if n > most {
		return 0, fmt.Errorf("header %s is %d; it must be at most %d", name, n, most)
	}
	return max(n, 0), nil
}

// integer returns v as an int64 if it is one of the integer types of AMQP, or a
// float without a fraction.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case int16:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case float32:
		return integer(float64(v))
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
	}
	return 0, false
}

// newDelivery returns d as a processor sees it at the given attempt.
func newDelivery(queue string, d *amqp.Delivery, attempt int) Delivery {
	exchange, key := firstPublished(d)
	out := Delivery{
		Queue:           queue,
		Body:            d.Body,
		Attempt:         attempt,
		Redelivered:     d.Redelivered,
		Exchange:        exchange,
		RoutingKey:      key,
		MessageID:       d.MessageId,
		CorrelationID:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		Type:            d.Type,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		AppID:           d.AppId,
		UserID:          d.UserId,
		Priority:        d.Priority,
		Timestamp:       d.Timestamp,
	}
	if len(d.Headers) > 0 {
		out.Headers = plainTable(d.Headers)
		if user, ok := d.Headers[originalPrefix+"user-id"].(string); ok {
			out.UserID = user
		}
	}
	return out
}

// firstPublished returns the exchange and routing key of a message's first publish.
func firstPublished(d *amqp.Delivery) (exchange, key string) {
	exchange, key = d.Exchange, d.RoutingKey
	if v, ok := d.Headers[headerExchange].(string); ok {
		exchange = v
	}
	if v, ok := d.Headers[headerRoutingKey].(string); ok {
		key = v
	}
	return exchange, key
}

// plainTable returns t without the types of the AMQP library.
func plainTable(t amqp.Table) map[string]any {
	m := make(map[string]any, len(t))
	for k, v := range t {
		m[k] = plain(v)
	}
	return m
}

func plain(v any) any {
	switch v := v.(type) {
	case amqp.Table:
		return plainTable(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case amqp.Decimal:
		return float64(v.Value) / math.Pow10(int(v.Scale))
	default:
		return v
	}
}

// again returns d as Warren publishes it once more: all that its publisher set,
// but for what would do harm, and without what the broker wrote.
func again(d *amqp.Delivery) amqp.Publishing {
	headers := make(amqp.Table, len(d.Headers)+8)
	for k, v := range d.Headers {
		switch {
		case isBrokers(k):
		case k == "CC" || k == "BCC" || k == headerDelay:
			headers[originalPrefix+k] = v
		default:
			headers[k] = v
		}
	}
	keep := func(name, value string) {
		if _, kept := headers[name]; value != "" && !kept {
			headers[name] = value
		}
	}
	keep(originalPrefix+"expiration", d.Expiration)
	keep(originalPrefix+"user-id", d.UserId)
	if _, kept := headers[headerRoutingKey]; !kept {
		headers[headerExchange] = d.Exchange
		headers[headerRoutingKey] = d.RoutingKey
	}
	return amqp.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
}

// isBrokers tells whether the broker keeps the header for itself. The history of
// dead-lettering must not travel on: a queue that already stands in it would make
// the broker take the next wait for a cycle, and drop the message.
func isBrokers(header string) bool {
	switch header {
	case "x-death", headerDeliveryCount, "x-acquired-count":
		return true
	}
	return strings.HasPrefix(header, "x-first-death-") || strings.HasPrefix(header, "x-last-death-")
}

// writeFailure writes into headers that the message has failed its attempts-th attempt
// at now because of err.
func writeFailure(headers amqp.Table, attempts int, err error, now time.Time, worker string) {
	headers[headerAttempt] = int64(attempts)
	headers[headerFailedAt] = now.UnixMilli()
	if _, there := headers[headerFirstFailedAt]; !there {
		headers[headerFirstFailedAt] = now.UnixMilli()
	}
	headers[headerError] = shortened(err.Error(), maxErrorBytes)
	headers[headerWorker] = worker
}

// shortened returns text as valid UTF-8 of at most the given size.
func shortened(text string, mostBytes int) string {
	const mark = " [...]"
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= mostBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostBytes-len(mark)], "") + mark
}
