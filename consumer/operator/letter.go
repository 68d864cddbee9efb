package operator

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/operator/filter"
)

// LetterFields are the fields of dead letters that filters know.
var LetterFields = filter.Fields{
	Plain: []string{"id", "reason", "error", "age", "attempts", "replayed", "type", "queue", "size", "group"},
	Paths: []string{"header", "body"},
}

// A Letter is a dead letter.
type Letter struct {
	ID       string    `json:"id"`    // its message-id; without one, a name made of what it consists of
	Queue    string    `json:"queue"` // that it came from
	Reason   string    `json:"reason"`
	Error    string    `json:"error,omitempty"`
	Attempts int       `json:"attempts"`
	Replayed int       `json:"replayed,omitempty"` // so often
	DeadAt   time.Time `json:"dead_at,omitzero"`
	Type     string    `json:"type,omitempty"`
	Size     int       `json:"size"` // of the body, in bytes
	Group    string    `json:"group"`

	content
	cause string // the error without what is of this message alone
	user  string // of this process
}

// What the broker itself says of a message that it has dead-lettered.
var brokersWords = map[string]string{
	"rejected":       "a consumer rejected it whole; the log of its worker says why",
	"expired":        "it expired before it was worked",
	"maxlen":         "its queue was full",
	"delivery_limit": "it was handed out in vain too often; it may kill its worker",
}

// unexplained is the reason of a message that says nothing about how it came here.
const unexplained = "unknown"

// newLetter reads a dead letter of the work queue. user is the name by which the broker knows
// this process: what is signed with it is believed.
func newLetter(queue, user string, d *amqp.Delivery) *Letter {
	l := &Letter{Queue: queue, Reason: unexplained, Type: d.Type, Size: len(d.Body), content: content{delivery: d}, user: user}
	ours := isOurs(user, d)
	if ours {
		l.Attempts = int(integer(d.Headers, broker.HeaderAttempt))
		l.Replayed = int(integer(d.Headers, broker.HeaderReplayed))
		l.Error, _ = d.Headers[broker.HeaderError].(string)
		if reason, there := d.Headers[broker.HeaderReason].(string); there {
			l.Reason = reason
		}
		l.DeadAt = unixMilli(integer(d.Headers, headerFailedAt))
	}
	if death := lastDeath(d); death != nil {
		l.Reason, _ = death["reason"].(string)
		said := brokersWords[l.Reason]
		if l.Error != "" && said != "" {
			said += "; its last error: "
		}
		l.Error = said + l.Error
		l.DeadAt, _ = death["time"].(time.Time)
		if from, _ := death["queue"].(string); from != "" && from != queue+".dead" {
			l.Queue = from
		}
		if home, waited := broker.WorkQueueOf(l.Queue); waited {
			l.Queue = home
		}
	}
	if l.DeadAt.IsZero() {
		l.DeadAt = d.Timestamp
	}
	l.DeadAt = bounded(l.DeadAt)
	l.cause = Cause(l.Error)
	l.Group = fingerprint(l.Reason, l.cause)
	if l.ID = d.MessageId; l.ID == "" {
		l.ID = digestID(d)
	}
	return l
}

// isOurs tells whether what Warren's headers say is believed. What Warren publishes to dead
// letters bears no name, and no death; what the broker has put there is a publisher's message,
// unless it had been Warren's to publish again before.
func isOurs(user string, d *amqp.Delivery) bool {
	return user == "" || d.UserId == user || lastDeath(d) == nil
}

// lastDeath is what the broker says of how it dead-lettered a message; nil: it has not.
func lastDeath(d *amqp.Delivery) amqp.Table {
	deaths, _ := d.Headers["x-death"].([]any)
	if len(deaths) == 0 {
		return nil
	}
	death, _ := deaths[0].(amqp.Table)
	return death
}

// digestID names a message that has no message-id.
func digestID(d *amqp.Delivery) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %v ", d.Type, d.CorrelationId, d.ReplyTo, d.AppId, d.Timestamp.Unix())
	fmt.Fprintf(h, "%v ", withoutBrokers(d.Headers)) // of a map, sorted
	if death := lastDeath(d); death != nil {
		fmt.Fprint(h, death["reason"], death["queue"], death["time"])
	}
	h.Write(d.Body)
	return "~" + hex.EncodeToString(h.Sum(nil)[:6])
}

// withoutBrokers returns the headers without the broker's own.
func withoutBrokers(headers amqp.Table) amqp.Table {
	out := make(amqp.Table, len(headers))
	for name, v := range headers {
		if !broker.IsBrokers(name) {
			out[name] = v
		}
	}
	return out
}

func integer(headers amqp.Table, name string) int64 {
	n, _ := broker.Integer(headers[name])
	return n
}

// unixMilli is that instant; zero means none.
func unixMilli(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// bounded is t in UTC, or the last second that RFC 3339 can say: publishers may say others.
func bounded(t time.Time) time.Time {
	if !isSayable(t) {
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t.UTC()
}

// Field returns a field, for filters.
func (l *Letter) Field(name string, path []string) (any, bool) {
	switch name {
	case "id":
		return l.ID, true
	case "reason":
		return l.Reason, true
	case "error":
		return l.Error, l.Error != ""
	case "age":
		return time.Since(l.DeadAt), !l.DeadAt.IsZero()
	case "attempts":
		return int64(l.Attempts), true
	case "replayed":
		return int64(l.Replayed), l.Replayed > 0
	case "queue":
		return l.Queue, true
	case "group":
		return l.Group, true
	}
	return l.field(name, path)
}

// A content is what a message consists of.
type content struct {
	delivery *amqp.Delivery
	decoded  *any // the body as JSON; nil: not tried yet
}

// field returns a field that every message may have.
func (c *content) field(name string, path []string) (any, bool) {
	d := c.delivery
	switch name {
	case "type":
		return d.Type, d.Type != ""
	case "size":
		return int64(len(d.Body)), true
	case "header":
		if len(path) == 0 {
			return asJSON(broker.Plain(d.Headers)), len(d.Headers) > 0
		}
		return within(broker.Plain(d.Headers), path)
	case "body":
		if len(path) == 0 {
			return string(d.Body), true
		}
		if c.decoded == nil {
			v := decode(d.Body)
			c.decoded = &v
		}
		return within(*c.decoded, path)
	}
	return nil, false
}

// decode returns a body as JSON, its numbers as they are written; nil if it is none.
func decode(body []byte) (v any) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&v) != nil {
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil
	}
	return v
}

// within follows a path into objects and, by number, arrays.
func within(v any, path []string) (any, bool) {
	for _, step := range path {
		var there bool
		switch in := v.(type) {
		case map[string]any:
			v, there = in[step]
		case []any:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(in) {
				v, there = in[i], true
			}
		}
		if !there {
			return nil, false
		}
	}
	switch v.(type) {
	case map[string]any, []any:
		return asJSON(v), true
	}
	return v, true
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// Body is the body.
func (c *content) Body() []byte { return c.delivery.Body }

// Headers are all headers.
func (c *content) Headers() map[string]any { return broker.Plain(c.delivery.Headers) }

// Properties are those that the message has, by the names of AMQP, in their order there.
func (c *content) Properties() (all []Property) {
	d := c.delivery
	add := func(name, value string) {
		if value != "" {
			all = append(all, Property{name, value})
		}
	}
	add("content-type", d.ContentType)
	add("content-encoding", d.ContentEncoding)
	if d.Priority > 0 {
		add("priority", strconv.Itoa(int(d.Priority)))
	}
	add("correlation-id", d.CorrelationId)
	add("reply-to", d.ReplyTo)
	add("expiration", expirationOf(d))
	add("message-id", d.MessageId)
	if !d.Timestamp.IsZero() {
		add("timestamp", d.Timestamp.UTC().Format(time.RFC3339))
	}
	add("type", d.Type)
	add("user-id", d.UserId)
	add("app-id", d.AppId)
	return all
}

// A Property is one of a message.
type Property struct{ Name, Value string }

// TraceID is the trace of the message, by the header traceparent; empty if it has none.
func (c *content) TraceID() string {
	parent, _ := c.delivery.Headers["traceparent"].(string)
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" {
		return ""
	}
	return parts[1]
}
