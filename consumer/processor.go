package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/warrenmq/warren/consumer/internal/decode"
)

// A Processor does the work of one delivery. Process is called from many
// goroutines at once. It should return soon after ctx ends; context.Cause says
// why it ended: [ErrTimeout] or [ErrShutdown]. A nil error acknowledges the
// delivery, once scope has committed; any other error has it tried again later,
// unless [Permanent] or [RetryAfter] says otherwise. A panic counts as an error.
// Process must not keep d or scope, and must not change d.
//
// A Processor that is also an [io.Closer] is closed by whoever built it, after
// [Consumer.Run] has returned.
type Processor interface {
	Process(ctx context.Context, d Delivery, scope *Scope) error
}

// ProcessorFunc lets an ordinary function be a [Processor].
type ProcessorFunc func(ctx context.Context, d Delivery, scope *Scope) error

// Process calls f.
func (f ProcessorFunc) Process(ctx context.Context, d Delivery, scope *Scope) error {
	return f(ctx, d, scope)
}

// JSON adapts a function of a typed message to a [Processor]. A body that is not
// JSON in UTF-8, or does not fit T, is dead-lettered without calling f: no retry
// changes it. Members of the body that T does not have are ignored.
func JSON[T any](f func(ctx context.Context, msg T, scope *Scope) error) Processor {
	return ProcessorFunc(func(ctx context.Context, d Delivery, scope *Scope) error {
		msg, err := decode.JSON[T](d.Body)
		if err != nil {
			return Undecodable(fmt.Errorf("decode body as %T: %w", msg, err))
		}
		return f(ctx, msg, scope)
	})
}

// A Delivery is one message as a queue handed it to Warren, for one attempt.
// It has no Ack: what Process returns decides.
type Delivery struct {
	Queue string
	Body  []byte

	// Attempt is 1 the first time the message is processed. It counts the
	// attempts that came to a verdict, not those that a lost connection or a
	// stopping daemon cut short.
	Attempt int
	// Redelivered is true if an attempt at the message may have been cut off: its worker
	// was lost, or had to stop. Attempt does not count it. False means certainly not.
	Redelivered bool

	// Exchange and RoutingKey are those of the first publish, also after the
	// message has waited for a retry.
	Exchange   string
	RoutingKey string

	// MessageID is the publisher's or, if there was none, one that Warren has given
	// the message; it stays the same over all its attempts.
	MessageID string
	// The publisher's other properties; each may be empty, ContentType included
	// (application/json is then assumed).
	CorrelationID   string
	ReplyTo         string
	Type            string
	ContentType     string
	ContentEncoding string
	AppID           string
	UserID          string
	Priority        uint8
	Timestamp       time.Time // zero if the publisher set none; whole seconds

	// Headers are the publisher's and the broker's headers, those that Warren
	// wrote included. Values are bool, int8 to int64, uint8 to uint64, float32,
	// float64, string, []byte, time.Time, nil, []any and map[string]any; an
	// AMQP decimal arrives as float64.
	Headers map[string]any
}
