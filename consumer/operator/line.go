package operator

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/jsonvalue"
)

// A Line is a whole message as JSON, in one line, from which it can be published as it was.
// docs/dead-letters.md has the format.
type Line struct {
	MessageID       Bytes          `json:"message_id,omitempty"`
	Type            Bytes          `json:"type,omitempty"`
	ContentType     Bytes          `json:"content_type,omitempty"`
	ContentEncoding Bytes          `json:"content_encoding,omitempty"`
	CorrelationID   Bytes          `json:"correlation_id,omitempty"`
	ReplyTo         Bytes          `json:"reply_to,omitempty"`
	AppID           Bytes          `json:"app_id,omitempty"`
	UserID          Bytes          `json:"user_id,omitempty"` // whose it was
	Expiration      Bytes          `json:"expiration,omitempty"`
	Priority        uint8          `json:"priority,omitempty"`
	Timestamp       Instant        `json:"timestamp,omitzero"`
	Headers         map[string]any `json:"headers,omitempty"`
	Body            Bytes          `json:"body"`
}

// Bytes are a text, or {"!base64": "..."} if they are not UTF-8.
type Bytes string

// MarshalJSON writes them.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(b)) {
		return jsonvalue.Marshal(string(b))
	}
	return jsonvalue.Marshal(map[string]string{"!base64": base64.StdEncoding.EncodeToString([]byte(b))})
}

// UnmarshalJSON reads them.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*b = Bytes(text)
		return nil
	}
	var coded map[string]string
	if json.Unmarshal(data, &coded) == nil && len(coded) == 1 {
		raw, err := base64.StdEncoding.DecodeString(coded["!base64"])
		*b = Bytes(raw)
		if _, there := coded["!base64"]; there {
			return err
		}
	}
	return fmt.Errorf(`%.40s is neither a text nor {"!base64": "..."}`, data)
}

// An Instant is a text as RFC 3339 has it, or {"!unix": "seconds"} where that has no such year.
type Instant struct{ time.Time }

// MarshalJSON writes it.
func (i Instant) MarshalJSON() ([]byte, error) {
	if isSayable(i.Time) {
		return i.UTC().MarshalJSON()
	}
	return jsonvalue.Marshal(written(i.Time))
}

// UnmarshalJSON reads it.
func (i *Instant) UnmarshalJSON(data []byte) error {
	if i.Time.UnmarshalJSON(data) == nil {
		return nil
	}
	v, err := read(decode(data))
	at, is := v.(time.Time)
	if err != nil || !is {
		return fmt.Errorf(`%.40s is neither an instant such as "2026-11-26T02:10:04Z" nor {"!unix": "seconds"}`, data)
	}
	i.Time = at
	return nil
}

// isSayable tells whether RFC 3339, and so JSON, has a year for t.
func isSayable(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 0 && year <= 9999
}

// line writes a message down. What the broker keeps for itself would not be believed of
// anybody else, and is written in the words that Warren has for it.
func (l *Letter) line() Line {
	line := lineOf(l.delivery)
	if lastDeath(l.delivery) == nil {
		return line
	}
	if msg, err := republished(l.user, isOurs(l.user, l.delivery), l.delivery); err == nil {
		line.Headers = broker.Plain(msg.Headers)
	}
	line.Headers[broker.HeaderReason] = l.Reason
	line.Headers[broker.HeaderError] = broker.Shortened(l.Error, maxErrorBytes)
	if !l.DeadAt.IsZero() {
		line.Headers[headerFailedAt] = l.DeadAt.UnixMilli()
	}
	return line
}

// maxErrorBytes is how long a daemon's text of an error is at most.
const maxErrorBytes = 4096

func lineOf(d *amqp.Delivery) Line {
	return Line{
		MessageID: Bytes(d.MessageId), Type: Bytes(d.Type), ContentType: Bytes(d.ContentType), ContentEncoding: Bytes(d.ContentEncoding),
		CorrelationID: Bytes(d.CorrelationId), ReplyTo: Bytes(d.ReplyTo), AppID: Bytes(d.AppId), UserID: Bytes(d.UserId),
		Expiration: Bytes(expirationOf(d)), Priority: d.Priority, Timestamp: Instant{d.Timestamp},
		Headers: broker.Plain(withoutBrokers(d.Headers)), Body: Bytes(d.Body),
	}
}

// Line is the message as JSON, in one line.
func (l *Letter) Line() ([]byte, error) { return l.line().marshal() }

func (l Line) marshal() ([]byte, error) {
	l.Headers = writtenTable(l.Headers)
	return jsonvalue.Marshal(l)
}

// written is the value of a header as JSON can say it.
func written(v any) any {
	switch v := v.(type) {
	case string:
		return Bytes(v)
	case []byte:
		return map[string]any{"!bytes": base64.StdEncoding.EncodeToString(v)}
	case time.Time:
		if !isSayable(v) {
			return map[string]any{"!unix": strconv.FormatInt(v.Unix(), 10)}
		}
		return map[string]any{"!time": v.UTC().Format(time.RFC3339)}
	case float32:
		return written(float64(v))
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return map[string]any{"!float": text}
		}
		if !strings.ContainsAny(text, ".e") {
			text += ".0" // or it would be read as a whole number
		}
		return json.Number(text)
	case map[string]any:
		return writtenTable(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = written(e)
		}
		return out
	}
	return v
}

// writtenTable is a table as an object or, if a name in it could be taken for a type or is not
// UTF-8, as {"!table": [[name, value], ...]}.
func writtenTable(table map[string]any) map[string]any {
	out, odd := make(map[string]any, len(table)), false
	for name, v := range table {
		out[name] = written(v)
		odd = odd || strings.HasPrefix(name, "!") || !utf8.ValidString(name)
	}
	if !odd {
		return out
	}
	pairs := make([][2]any, 0, len(out))
	for _, name := range slices.Sorted(maps.Keys(out)) {
		pairs = append(pairs, [2]any{Bytes(name), out[name]})
	}
	return map[string]any{"!table": pairs}
}

// ParseLine reads a Line.
func ParseLine(text []byte) (Line, error) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	var l Line
	if err := decoder.Decode(&l); err != nil {
		return l, err
	}
	if decoder.More() {
		return l, errors.New("there is more than one message in it")
	}
	if list, odd := pairs(l.Headers); odd {
		var err error
		l.Headers, err = readPairs(list)
		return l, err
	}
	for name, v := range l.Headers {
		value, err := read(v)
		if err != nil {
			return l, fmt.Errorf("header %s: %w", name, err)
		}
		l.Headers[name] = value
	}
	return l, nil
}

// pairs are those of a table that is written so.
func pairs(table map[string]any) (list []any, odd bool) {
	list, odd = table["!table"].([]any)
	return list, odd && len(table) == 1
}

// readPairs reads a table that is written so.
func readPairs(list []any) (map[string]any, error) {
	table := make(map[string]any, len(list))
	for _, e := range list {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			return nil, errors.New(`"!table" takes pairs of a name and a value`)
		}
		name, err := read(pair[0])
		text, isText := name.(string)
		if err != nil || !isText {
			return nil, errors.New(`the name of a pair in "!table" is not a text`)
		}
		if table[text], err = read(pair[1]); err != nil {
			return nil, fmt.Errorf("header %q: %w", text, err)
		}
	}
	return table, nil
}

// read is the reverse of written.
func read(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		return f, err
	case map[string]any:
		if list, odd := pairs(v); odd {
			return readPairs(list)
		}
		if len(v) == 1 {
			for name, e := range v {
				if text, ok := e.(string); ok && strings.HasPrefix(name, "!") {
					return typed(name, text)
				}
			}
		}
		for name, e := range v {
			value, err := read(e)
			if err != nil {
				return nil, err
			}
			v[name] = value
		}
	case []any:
		for i, e := range v {
			value, err := read(e)
			if err != nil {
				return nil, err
			}
			v[i] = value
		}
	}
	return v, nil
}

// typed is a value that JSON has no type for.
func typed(name, text string) (any, error) {
	switch name {
	case "!base64":
		raw, err := base64.StdEncoding.DecodeString(text)
		return string(raw), err
	case "!bytes":
		return base64.StdEncoding.DecodeString(text)
	case "!time":
		return time.Parse(time.RFC3339, text)
	case "!unix":
		seconds, err := strconv.ParseInt(text, 10, 64)
		return time.Unix(seconds, 0).UTC(), err
	case "!float":
		return strconv.ParseFloat(text, 64)
	}
	return nil, fmt.Errorf("%q is no type; there are !base64, !bytes, !time, !unix, !float and !table", name)
}
