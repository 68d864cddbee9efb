package broker

import (
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrUnsendable is in the error of a message that AMQP cannot carry. On the wire it
// would end the connection, and all that others have under way on it.
var ErrUnsendable = errors.New("AMQP cannot carry it")

// frameOverhead is what a frame has beside its payload.
const frameOverhead = 8

// maxShort is the length of AMQP's short strings, in bytes.
const maxShort = 255

// maxDepth is how deep tables and arrays may be nested: readers, this one among them,
// take no more.
const maxDepth = 32

// check returns why o would break the connection, if it would.
func (c *Conn) check(o Outgoing) error {
	m := &o.Message
	size := 14 // class, weight, body size, flags
	for _, s := range [...]struct{ name, text string }{
		{"exchange", o.Exchange}, {"routing key", o.Key}, {"content-type", m.ContentType}, {"content-encoding", m.ContentEncoding},
		{"correlation-id", m.CorrelationId}, {"reply-to", m.ReplyTo}, {"expiration", m.Expiration}, {"message-id", m.MessageId},
		{"type", m.Type}, {"user-id", c.User}, {"app-id", m.AppId},
	} {
		if len(s.text) > maxShort {
			return fmt.Errorf("%w: the %s has %d bytes, of %d at most", ErrUnsendable, s.name, len(s.text), maxShort)
		}
		size += 1 + len(s.text)
	}
	headers, err := tableBytes(m.Headers, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsendable, err)
	}
	// Delivery mode, priority, timestamp.
	if size += headers + 1 + 1 + 8; c.Config.FrameSize > 0 && size+frameOverhead > c.Config.FrameSize {
		return fmt.Errorf("%w: its properties and headers have %d bytes, of %d at most", ErrUnsendable, size, c.Config.FrameSize-frameOverhead)
	}
	return nil
}

// tableBytes is what a table takes on the wire.
func tableBytes(t amqp.Table, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("its headers are nested more than %d deep", maxDepth)
	}
	size := 4
	for name, v := range t {
		if len(name) > maxShort {
			return 0, fmt.Errorf("the name of header %.20s... has %d bytes, of %d at most", name, len(name), maxShort)
		}
		n, err := fieldBytes(v, depth)
		if err != nil {
			return 0, fmt.Errorf("header %s: %w", name, err)
		}
		size += 1 + len(name) + n
	}
	return size, nil
}

// fieldBytes is what a value takes in a table, with its type.
func fieldBytes(v any, depth int) (int, error) {
	switch v := v.(type) {
	case nil:
		return 1, nil
	case bool, byte, int8:
		return 2, nil
	case int16, uint16:
		return 3, nil
	case int, int32, uint32, float32:
		return 5, nil
	case amqp.Decimal:
		return 6, nil
	case int64, float64, time.Time:
		return 9, nil
	case string:
		return 5 + len(v), nil
	case []byte:
		return 5 + len(v), nil
	case amqp.Table:
		n, err := tableBytes(v, depth+1)
		return 1 + n, err
	case []any:
		if depth >= maxDepth {
			return 0, fmt.Errorf("it is nested more than %d deep", maxDepth)
		}
		size := 5
		for _, e := range v {
			n, err := fieldBytes(e, depth+1)
			if err != nil {
				return 0, err
			}
			size += n
		}
		return size, nil
	}
	return 0, fmt.Errorf("a value of type %T cannot be sent", v)
}
