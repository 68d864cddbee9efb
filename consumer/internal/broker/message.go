package broker

import (
	"cmp"
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

// Outgoing returns m as it is published, or why AMQP cannot say it.
func (m Message) Outgoing(purpose Purpose) (Outgoing, error) {
	o := Outgoing{Exchange: m.Exchange, Key: m.RoutingKey, Purpose: purpose, Message: amqp.Publishing{
		DeliveryMode:    amqp.Persistent,
		ContentType:     cmp.Or(m.ContentType, "application/json"),
		ContentEncoding: m.ContentEncoding,
		Priority:        m.Priority,
		CorrelationId:   m.CorrelationID,
		ReplyTo:         m.ReplyTo,
		MessageId:       m.MessageID,
		Type:            m.Type,
		AppId:           m.AppID,
		Body:            m.Body,
	}}
	if m.Expiration > 0 {
		o.Message.Expiration = strconv.FormatInt(m.Expiration.Milliseconds(), 10)
	}
	if len(m.Headers) > 0 {
		o.Message.Headers, _ = amqpValue(m.Headers).(amqp.Table)
		if err := o.Message.Headers.Validate(); err != nil {
			return o, fmt.Errorf("headers: %w", err)
		}
	}
	return o, m.validate()
}

// validate refuses what AMQP cannot say, in the words of Message.
func (m Message) validate() error {
	for _, s := range [...]struct{ name, text string }{
		{"exchange", m.Exchange}, {"routing key", m.RoutingKey}, {"message id", m.MessageID}, {"correlation id", m.CorrelationID}, {"reply-to", m.ReplyTo},
		{"type", m.Type}, {"app id", m.AppID}, {"content type", m.ContentType}, {"content encoding", m.ContentEncoding},
	} {
		if len(s.text) > maxShort {
			return fmt.Errorf("the %s has %d bytes; AMQP allows %d", s.name, len(s.text), maxShort)
		}
	}
	for name := range m.Headers {
		if len(name) > maxShort {
			return fmt.Errorf("the name of the header %.20s... has %d bytes; AMQP allows %d", name, len(name), maxShort)
		}
	}
	table, _ := amqpValue(m.Headers).(amqp.Table)
	bytes, err := tableBytes(table, 0)
	if err == nil && bytes > maxHeaderBytes {
		err = fmt.Errorf("the headers have %d bytes; at most %d are sent, put the rest into the body", bytes, maxHeaderBytes)
	}
	return err
}

// maxHeaderBytes keeps the headers of a Message well within the one frame that AMQP
// gives them: what Warren adds to them on their way has to fit as well.
const maxHeaderBytes = 64 << 10

// CheckJSONValue returns an error if v is not what JSON can say, and the outbox with it.
func CheckJSONValue(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if err := CheckJSONValue(e); err != nil {
				return fmt.Errorf("header %s: %w", name, err)
			}
		}
	case []any:
		for _, e := range v {
			if err := CheckJSONValue(e); err != nil {
				return err
			}
		}
	case []byte, time.Time:
		return fmt.Errorf("the outbox cannot hold a %T in a header; write it as a string", v)
	}
	return nil
}
