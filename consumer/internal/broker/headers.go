package broker

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Headers that Warren writes and that more than one package of its reads. Times are
// Unix milliseconds.
const (
	HeaderAttempt   = "x-warren-attempt" // attempts already made
	HeaderNotBefore = "x-warren-not-before"
	HeaderError     = "x-warren-error"
	// HeaderExchange and HeaderRoutingKey are where the message was first published.
	HeaderExchange   = "x-warren-exchange"
	HeaderRoutingKey = "x-warren-routing-key"
	HeaderReason     = "x-warren-reason"
	HeaderReplayed   = "x-warren-replayed" // from the dead letters, so often
	// HeaderUnreadable stands in place of headers that the AMQP library would close the
	// connection for, and says why.
	HeaderUnreadable = "x-warren-unreadable"
	// HeaderRaw has the fields of those headers as they were on the wire. It is missing
	// if they do not fit.
	HeaderRaw = "x-warren-raw-headers"

	// HeaderCopy names what was published; twice, if need be.
	HeaderCopy = "x-warren-copy"

	headerFirstFailedAt = "x-warren-first-failed-at"
	headerFailedAt      = "x-warren-failed-at"
	headerWorker        = "x-warren-worker"

	// OwnHeaders begins the names of the headers that are Warren's to write.
	OwnHeaders = "x-warren-"
	// OriginalPrefix goes before the name of what would do harm when the message is
	// published again, and is therefore kept under another name: expiration would end a
	// wait early, the broker refuses a user-id that is not the connection's own, CC and
	// BCC would send copies, and a delay would be waited again.
	OriginalPrefix = "x-warren-original-"

	// HeaderDelay is from a publisher, in milliseconds.
	HeaderDelay = "x-delay"
	// HeaderDeliveryCount is from the broker: how often it handed the message out in vain.
	HeaderDeliveryCount = "x-delivery-count"
)

// MaxErrorBytes is how long the text of an error may be.
const MaxErrorBytes = 4096

// IsBrokers tells whether the broker keeps the header for itself. The history of
// dead-lettering must not travel on: a queue that already stands in it would make
// the broker take the next wait for a cycle, and drop the message.
func IsBrokers(header string) bool {
	switch header {
	case "x-death", HeaderDeliveryCount, "x-acquired-count":
		return true
	}
	return strings.HasPrefix(header, "x-first-death-") || strings.HasPrefix(header, "x-last-death-")
}

// IsOwn tells whether the header is Warren's to write.
func IsOwn(header string) bool { return strings.HasPrefix(header, OwnHeaders) }

// WriteFailure writes into headers that the message has failed its attempts-th attempt
// at now because of err.
func WriteFailure(headers amqp.Table, attempts int, err error, now time.Time, worker string) {
	headers[HeaderAttempt] = int64(attempts)
	headers[headerFailedAt] = now.UnixMilli()
	if _, there := headers[headerFirstFailedAt]; !there {
		headers[headerFirstFailedAt] = now.UnixMilli()
	}
	headers[HeaderError] = Shortened(err.Error(), MaxErrorBytes)
	headers[headerWorker] = worker
}

// Integer returns v as an int64 if it is one of the integer types of AMQP, or a float
// without a fraction.
func Integer(v any) (int64, bool) {
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
		return Integer(float64(v))
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
	}
	return 0, false
}

// ReadInteger reads a header that is a whole number of at most the given size; an
// absent or negative one is 0. Publishers in untyped languages may have sent it as
// text.
func ReadInteger(headers amqp.Table, name string, most int64) (int64, error) {
	v, there := headers[name]
	if !there || v == nil {
		return 0, nil
	}
	n, ok := Integer(v)
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

// Plain returns t without the types of the AMQP library.
func Plain(t amqp.Table) map[string]any {
	m := make(map[string]any, len(t))
	for k, v := range t {
		m[k] = plain(v)
	}
	return m
}

func plain(v any) any {
	switch v := v.(type) {
	case amqp.Table:
		return Plain(v)
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

// amqpValue is the reverse of plain.
func amqpValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		table := make(amqp.Table, len(v))
		for k, e := range v {
			table[k] = amqpValue(e)
		}
		return table
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = amqpValue(e)
		}
		return list
	default:
		return v
	}
}

// Table is the reverse of Plain.
func Table(m map[string]any) amqp.Table {
	table, _ := amqpValue(m).(amqp.Table)
	return table
}

// Shortened returns text as valid UTF-8 of at most the given size.
func Shortened(text string, mostBytes int) string {
	const mark = " [...]"
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= mostBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostBytes-len(mark)], "") + mark
}

// AsItCame returns the headers of d without what Warren would add to publish it again, and
// with all that does no harm in a dead letter.
func AsItCame(d *amqp.Delivery) amqp.Table {
	headers := make(amqp.Table, len(d.Headers))
	for k, v := range d.Headers {
		switch {
		case IsBrokers(k):
		case k == "CC" || k == "BCC":
			headers[OriginalPrefix+k] = v
		default:
			headers[k] = v
		}
	}
	return headers
}

// HeadersAreLost tells whether the headers of d could not be read and are not kept as they
// were either: what is published of it would lack them. Then there is nothing but what
// says so; what stands beside that is a publisher's, as it is itself.
func HeadersAreLost(d *amqp.Delivery) bool {
	_, unreadable := d.Headers[HeaderUnreadable]
	return unreadable && len(d.Headers) == 1
}
