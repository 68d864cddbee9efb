package consumer

import (
	"fmt"
	"math"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
)

// What Warren reads of and writes to the headers of a message. Times are Unix
// milliseconds.
const (
	headerRedelivered = "x-warren-redelivered" // true: an attempt may have been cut off uncounted
	headerReplyTo     = "x-warren-reply-to"    // of a reply that waits: where it goes
)

// MaxDelay is the longest delay or instant ahead that is believed. What lies beyond is a
// slip of units, and would wait where nobody looks.
const MaxDelay = 366 * 24 * time.Hour

const (
	// maxAttempt is the highest number of attempts that is believed.
	maxAttempt = 1_000_000
	// maxRetryAfter is the longest wait between two attempts: less than MaxDelay, so that it
	// is believed by a daemon with another clock.
	maxRetryAfter = MaxDelay - 24*time.Hour
)

// A history is what the headers of a message tell of its past.
type history struct {
	ours          bool      // Warren published it: what its headers say is believed
	attempts      int       // already made
	notBefore     time.Time // the next attempt; zero means now
	replyTo       string    // the message is nothing but a reply on its way there; empty: it is not
	copy          string    // its name, if it is a copy that Warren published; see [remembered.Copies]
	deliveryCount int64     // how often the broker handed it out in vain
	redelivered   bool      // an attempt may have been cut off without being counted
}

// readHistory reads the history of d, which has arrived at now from a broker that knows
// this process by the given name. What others than Warren wrote into its own headers is
// ignored, but for the instant of a delay; where the name is not known, all is believed.
// The error names the header that cannot be read; the rest is then valid all the same.
func readHistory(d *amqp.Delivery, now time.Time, user string) (history, error) {
	h := history{ours: user == "" || d.UserId == user, redelivered: d.Redelivered}
	if len(d.Headers) == 0 {
		return h, nil
	}
	if raw, unreadable := d.Headers[broker.HeaderUnreadable]; unreadable {
		return h, fmt.Errorf("its headers cannot be read: %.200s", fmt.Sprint(raw))
	}
	// The count is the broker's own; of another type it would not be one.
	h.deliveryCount, _ = broker.Integer(d.Headers[broker.HeaderDeliveryCount])
	if h.ours {
		attempts, err := broker.ReadInteger(d.Headers, broker.HeaderAttempt, maxAttempt)
		if err != nil {
			return h, err
		}
		h.attempts = int(attempts)
		h.replyTo, _ = d.Headers[headerReplyTo].(string)
		before, _ := d.Headers[headerRedelivered].(bool)
		h.redelivered = h.redelivered || before
	}
	if h.ours && user != "" { // or others may have taken the headers along
		h.copy, _ = d.Headers[broker.HeaderCopy].(string)
	}
	latest := now.Add(MaxDelay)
	notBefore, err := broker.ReadInteger(d.Headers, broker.HeaderNotBefore, latest.UnixMilli())
	if err != nil {
		return h, err
	}
	delay, err := broker.ReadInteger(d.Headers, broker.HeaderDelay, MaxDelay.Milliseconds())
	if err != nil {
		return h, err
	}
	if notBefore > 0 {
		h.notBefore = time.UnixMilli(notBefore)
	}
	if due := now.Add(time.Duration(delay) * time.Millisecond); delay > 0 && due.After(h.notBefore) {
		h.notBefore = due
	}
	return h, nil
}

// newDelivery returns the delivery of a job as a processor sees it at the given attempt.
func newDelivery(queue string, j *job, attempt int) Delivery {
	d := &j.delivery
	exchange, key := firstPublished(j)
	out := Delivery{
		Queue:           queue,
		Body:            d.Body,
		Attempt:         attempt,
		Redelivered:     j.history.redelivered,
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
		Priority:        priorityOf(j),
		Timestamp:       d.Timestamp,
	}
	if len(d.Headers) > 0 {
		out.Headers = broker.Plain(d.Headers)
	}
	if _, again := d.Headers[broker.HeaderRoutingKey]; again && j.history.ours {
		// The name is this process's own; whose it was before, if anybody's, is kept.
		out.UserID, _ = d.Headers[broker.OriginalPrefix+"user-id"].(string)
	}
	return out
}

// priorityOf returns the priority that a message was published with. It has none while
// it waits: wait queues have priorities as well, by which a high one would keep what has
// none from ever coming home.
func priorityOf(j *job) uint8 {
	if kept, ok := broker.Integer(j.delivery.Headers[broker.OriginalPrefix+"priority"]); ok && j.history.ours {
		return uint8(min(max(kept, 0), math.MaxUint8))
	}
	return j.delivery.Priority
}

// firstPublished returns the exchange and routing key of a message's first publish.
func firstPublished(j *job) (exchange, key string) {
	exchange, key = j.delivery.Exchange, j.delivery.RoutingKey
	if !j.history.ours {
		return exchange, key
	}
	if v, ok := j.delivery.Headers[broker.HeaderExchange].(string); ok {
		exchange = v
	}
	if v, ok := j.delivery.Headers[broker.HeaderRoutingKey].(string); ok {
		key = v
	}
	return exchange, key
}

// republishing returns the delivery of a job as Warren publishes it once more: all that
// its publisher set, but for what would do harm, and without what the broker wrote, or
// others than Warren in its name.
func republishing(j *job) amqp.Publishing {
	d := &j.delivery
	headers := make(amqp.Table, len(d.Headers)+8)
	for k, v := range d.Headers {
		switch {
		case broker.IsBrokers(k):
		case k == broker.HeaderNotBefore || k == broker.HeaderUnreadable || k == broker.HeaderRaw:
			headers[k] = v
		case strings.HasPrefix(k, broker.OwnHeaders) && !j.history.ours:
		case k == "CC" || k == "BCC" || k == broker.HeaderDelay:
			headers[broker.OriginalPrefix+k] = v
		default:
			headers[k] = v
		}
	}
	keep := func(name string, value any) {
		if _, kept := headers[broker.OriginalPrefix+name]; !kept {
			headers[broker.OriginalPrefix+name] = value
		}
	}
	if d.Expiration != "" {
		keep("expiration", d.Expiration)
	}
	if _, again := headers[broker.HeaderRoutingKey]; !again {
		headers[broker.HeaderExchange] = d.Exchange
		headers[broker.HeaderRoutingKey] = d.RoutingKey
		if d.UserId != "" {
			keep("user-id", d.UserId)
		}
	}
	if j.history.redelivered {
		headers[headerRedelivered] = true
	}
	return amqp.Publishing{
		Headers: headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: amqp.Persistent, Priority: priorityOf(j),
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId, Body: d.Body,
	}
}
