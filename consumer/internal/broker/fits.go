package broker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrUnsendable is in the error of a message that AMQP cannot carry. On the wire it
// would end the connection, and all that others have under way on it.
var ErrUnsendable = errors.New("AMQP cannot carry it")

// frameOverhead is what a frame has beside its payload.
const frameOverhead = 8

// maxShort is the length of AMQP's short strings, in bytes.
const maxShort = 255

// maxForeign is the same for the name of an exchange that is not ASCII: RabbitMQ 4 closes the
// connection (541) when it fails to say, in 255 bytes, that there is none of a longer name.
const maxForeign = 100

// maxDepth is how deep tables and arrays may be nested: readers, this one among them,
// take no more.
const maxDepth = 32

// check returns why o would break the connection, if it would.
func (c *Conn) check(o Outgoing) error {
	for _, s := range [...]struct{ name, text string }{{"exchange", o.Exchange}, {"routing key", o.Key}} {
		if len(s.text) > maxShort {
			return tooLong(s.name, s.text)
		}
	}
	foreign := strings.ContainsFunc(o.Exchange, func(r rune) bool { return r > unicode.MaxASCII })
	if foreign && (len(o.Exchange) > maxForeign || !utf8.ValidString(o.Exchange)) {
		return fmt.Errorf("%w: the exchange %.20q... is not ASCII; such a name must be UTF-8 of at most %d bytes", ErrUnsendable, o.Exchange, maxForeign)
	}
	m := c.signed(o)
	size := 14 // class, weight, body size, flags
	for _, s := range [...]struct{ name, text string }{
		{"content-type", m.ContentType}, {"content-encoding", m.ContentEncoding}, {"correlation-id", m.CorrelationId}, {"reply-to", m.ReplyTo},
		{"expiration", m.Expiration}, {"message-id", m.MessageId}, {"type", m.Type}, {"user-id", m.UserId}, {"app-id", m.AppId},
	} {
		switch {
		case len(s.text) > maxShort:
			return tooLong(s.name, s.text)
		case s.text != "":
			size += 1 + len(s.text)
		}
	}
	if m.Expiration != "" {
		if _, err := strconv.ParseUint(m.Expiration, 10, 32); err != nil { // RabbitMQ 4.3 fails at bytes of no text
			return fmt.Errorf("%w: the expiration is %.20q, no number of milliseconds", ErrUnsendable, m.Expiration)
		}
	}
	if len(m.Headers) > 0 {
		headers, err := tableBytes(m.Headers, 0)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsendable, err)
		}
		size += headers
	}
	for _, there := range [...]bool{m.DeliveryMode > 0, m.Priority > 0} {
		if there {
			size++
		}
	}
	if !m.Timestamp.IsZero() {
		size += 8
	}
	if c.Config.FrameSize > 0 && size+frameOverhead > c.Config.FrameSize {
		return fmt.Errorf("%w: its properties and headers have %d bytes, of %d at most", ErrUnsendable, size, c.Config.FrameSize-frameOverhead)
	}
	return nil
}

func tooLong(name, text string) error {
	return fmt.Errorf("%w: the %s has %d bytes, of %d at most", ErrUnsendable, name, len(text), maxShort)
}

// tableBytes is what a table takes on the wire.
func tableBytes(t amqp.Table, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("its headers are nested more than %d deep", maxDepth)
	}
	if len(t) > maxElements {
		return 0, fmt.Errorf("a table in its headers has %d elements, of %d at most", len(t), maxElements)
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
		if len(v) > maxElements {
			return 0, fmt.Errorf("an array in it has %d elements, of %d at most", len(v), maxElements)
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
