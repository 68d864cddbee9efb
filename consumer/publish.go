package consumer

import (
	"context"
	"time"
)

// A Message is something to publish.
type Message struct {
	// Exchange and RoutingKey say where to; the empty exchange takes the name of
	// a queue as its routing key.
	Exchange, RoutingKey string
	Body                 []byte

	MessageID, CorrelationID, ReplyTo, Type, AppID string

	ContentType     string // empty means application/json
	ContentEncoding string
	Priority        uint8
	Expiration      time.Duration // zero means never
	Headers         map[string]any
}

// Publish connects to the first of nodes that answers, publishes m as a
// persistent message and returns once the broker has confirmed that at least one
// queue has it. An unroutable message is an error. It blocks until then or until
// ctx ends.
func Publish(ctx context.Context, nodes []string, m Message) error { return nil }
