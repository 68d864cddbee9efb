package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
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
	Expiration      time.Duration // in whole milliseconds; zero means never
	Headers         map[string]any
}

// Publish connects to the first of nodes that can be used, publishes m as a
// persistent message, and returns nil once the broker has confirmed that at least
// one queue has it. It blocks until then, until the broker has refused it, or
// until ctx ends.
func Publish(ctx context.Context, nodes []string, m Message) error {
	msg, err := m.publishing()
	if err != nil {
		return err
	}
	var errs []error
	for _, node := range nodes {
		conn, err := connect(ctx, node, "publish")
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", nodeName(node), explain(err)))
			continue
		}
		err = newPublisher(conn, topology{}).publishOnce(ctx, m.Exchange, m.RoutingKey, msg)
		_ = conn.CloseDeadline(time.Now().Add(closeTimeout)) // the confirm was all that mattered
		return m.explainPublish(err)
	}
	return errors.Join(errs...)
}

func (m Message) explainPublish(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUnroutable) && m.Exchange == "":
		return fmt.Errorf("there is no queue %s: start its consumer first, which declares it, or check the name", m.RoutingKey)
	case errors.Is(err, errUnroutable):
		return fmt.Errorf("exchange %s has no queue bound for the routing key %q", m.Exchange, m.RoutingKey)
	case isMissing(err):
		return fmt.Errorf("there is no exchange %s", m.Exchange)
	default:
		return fmt.Errorf("publish to exchange %q with routing key %q: %w", m.Exchange, m.RoutingKey, explain(err))
	}
}

func (m Message) publishing() (amqp.Publishing, error) {
	msg := amqp.Publishing{
		DeliveryMode:    amqp.Persistent,
		ContentType:     orDefault(m.ContentType, "application/json"),
		ContentEncoding: m.ContentEncoding,
		Priority:        m.Priority,
		CorrelationId:   m.CorrelationID,
		ReplyTo:         m.ReplyTo,
		MessageId:       m.MessageID,
		Type:            m.Type,
		AppId:           m.AppID,
		Body:            m.Body,
	}
	if m.Expiration > 0 {
		msg.Expiration = strconv.FormatInt(m.Expiration.Milliseconds(), 10)
	}
	if len(m.Headers) > 0 {
		msg.Headers, _ = amqpValue(m.Headers).(amqp.Table)
		if err := msg.Headers.Validate(); err != nil {
			return msg, fmt.Errorf("headers: %w", err)
		}
	}
	return msg, m.validate()
}

// validate refuses what AMQP cannot say: on the wire, it would end the connection.
func (m Message) validate() error {
	texts := map[string]string{
		"exchange": m.Exchange, "routing key": m.RoutingKey, "message id": m.MessageID, "correlation id": m.CorrelationID, "reply-to": m.ReplyTo,
		"type": m.Type, "app id": m.AppID, "content type": m.ContentType, "content encoding": m.ContentEncoding,
	}
	for name, text := range texts {
		if len(text) > 255 {
			return fmt.Errorf("the %s has %d bytes; AMQP allows 255", name, len(text))
		}
	}
	bytes, err := headerBytes(m.Headers)
	if err == nil && bytes > maxHeaderBytes {
		err = fmt.Errorf("the headers have about %d bytes; at most %d are sent, put the rest into the body", bytes, maxHeaderBytes)
	}
	return err
}

// maxHeaderBytes keeps the headers well within the one frame that AMQP gives them.
const maxHeaderBytes = 64 << 10

// headerBytes is about what v takes on the wire, if its names can be sent.
func headerBytes(v any) (int, error) {
	sum := 9
	switch v := v.(type) {
	case string:
		sum += len(v)
	case []byte:
		sum += len(v)
	case map[string]any:
		for name, e := range v {
			if len(name) > 255 {
				return 0, fmt.Errorf("the name of the header %.20s... has %d bytes; AMQP allows 255", name, len(name))
			}
			n, err := headerBytes(e)
			if err != nil {
				return 0, err
			}
			sum += len(name) + n
		}
	case []any:
		for _, e := range v {
			n, err := headerBytes(e)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
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
