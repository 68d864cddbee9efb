package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/internal/result"
)

// maxReplyBytes is the longest line that is read of a child: the longest result, and
// room to see that one is longer.
const maxReplyBytes = 2 * result.MaxBytes

// A request is what a child is told of a delivery, as a line of JSON. Every member is
// always there: what there is nothing of is empty.
type request struct {
	ID           int            `json:"id"` // 1 for the first line that the child is given, and so on
	Body         string         `json:"body"`
	BodyEncoding string         `json:"body_encoding"` // utf-8 or base64
	Queue        string         `json:"queue"`
	Exchange     string         `json:"exchange"`
	RoutingKey   string         `json:"routing_key"`
	Attempt      int            `json:"attempt"`
	Redelivered  bool           `json:"redelivered"`
	Deadline     string         `json:"deadline"`
	Properties   properties     `json:"properties"`
	Headers      map[string]any `json:"headers"`
	Traceparent  string         `json:"traceparent"`
	Tracestate   string         `json:"tracestate"`
}

type properties struct {
	MessageID       string `json:"message_id"`
	Type            string `json:"type"`
	ContentType     string `json:"content_type"`
	ContentEncoding string `json:"content_encoding"`
	CorrelationID   string `json:"correlation_id"`
	ReplyTo         string `json:"reply_to"`
	AppID           string `json:"app_id"`
	UserID          string `json:"user_id"`
	Priority        uint8  `json:"priority"`
	Timestamp       string `json:"timestamp"`
}

func newRequest(ctx context.Context, id int, d *consumer.Delivery) *request {
	r := &request{
		ID: id, BodyEncoding: "utf-8",
		Queue: d.Queue, Exchange: d.Exchange, RoutingKey: d.RoutingKey, Attempt: d.Attempt, Redelivered: d.Redelivered,
		Properties: properties{
			MessageID: d.MessageID, Type: d.Type, ContentType: cmp.Or(d.ContentType, "application/json"), ContentEncoding: d.ContentEncoding,
			CorrelationID: d.CorrelationID, ReplyTo: d.ReplyTo, AppID: d.AppID, UserID: d.UserID, Priority: d.Priority,
		},
	}
	if utf8.Valid(d.Body) {
		r.Body = string(d.Body)
	} else {
		r.Body, r.BodyEncoding = base64.StdEncoding.EncodeToString(d.Body), "base64"
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.Deadline = deadline.UTC().Format(deadlineFormat)
	}
	if !d.Timestamp.IsZero() {
		r.Properties.Timestamp = d.Timestamp.UTC().Format(time.RFC3339)
	}
	r.Headers, _ = expressible(d.Headers).(map[string]any)
	span := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, span)
	r.Traceparent, r.Tracestate = span["traceparent"], span["tracestate"]
	return r
}

// writeTo writes the line in one piece, of which there is no copy: the body may be large.
func (r *request) writeTo(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r) // with a newline after it, and no other; expressible has left nothing that fails
}

// A reply is a line of a child. It has an id and one of verdict, log and progress, and
// beside that nothing but what belongs to it.
type reply struct {
	ID *int `json:"id"`

	Verdict string          `json:"verdict"`       // ok, retry, dead or unavailable
	Result  json.RawMessage `json:"result"`        // ok: any value
	Reason  string          `json:"reason"`        // all others
	Delay   *float64        `json:"delay_seconds"` // retry, unavailable: no sooner than that

	Log   *string    `json:"log"`
	Level slog.Level `json:"level"` // info, if there is none

	Progress *float64 `json:"progress"` // percent
	Text     string   `json:"text"`
}

// parseReply refuses whatever is not meant: a slip in a name would have a message retried
// at once that is to wait, say.
func parseReply(line []byte) (*reply, error) {
	if len(line) == 0 {
		return nil, errors.New("it is empty")
	}
	r := new(reply)
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(r); err != nil {
		return nil, err
	}
	var kinds int
	for _, is := range []bool{r.Verdict != "", r.Log != nil, r.Progress != nil} {
		if is {
			kinds++
		}
	}
	isOK, isRetry, isDead := r.Verdict == "ok", r.Verdict == "retry" || r.Verdict == "unavailable", r.Verdict == "dead"
	switch {
	case len(bytes.TrimSpace(line[dec.InputOffset():])) > 0:
		return nil, errors.New("something follows the object")
	case !utf8.Valid(line):
		return nil, errors.New("it is not UTF-8")
	case r.ID == nil:
		return nil, errors.New("it has no id")
	case kinds != 1:
		return nil, errors.New("it has not one of verdict, log and progress")
	case r.Verdict != "" && !isOK && !isRetry && !isDead:
		return nil, fmt.Errorf("the verdict is %.100q; it must be ok, retry, dead or unavailable", r.Verdict)
	case r.Result != nil && !isOK:
		return nil, errors.New("only ok has a result")
	case r.Reason != "" && !isRetry && !isDead:
		return nil, errors.New("only retry, dead and unavailable have a reason")
	case r.Delay != nil && (!isRetry || *r.Delay < 0):
		return nil, errors.New("delay_seconds is less than zero, or not of retry or unavailable")
	case r.Level != 0 && r.Log == nil, r.Text != "" && r.Progress == nil:
		return nil, errors.New("only log has a level, and only progress a text")
	}
	return r, nil
}

// notAnAnswer is what is wrong with a line of a child.
func notAnAnswer(line []byte, err error) error {
	return fmt.Errorf("the command wrote to its standard output what is no answer, %.100q: %w; print everything else to standard error", line, err)
}

// settle turns an answer into the outcome of its delivery, of which the child has said so
// much beside it.
func (r *reply) settle(scope *consumer.Scope, said *logLines) error {
	if r.Verdict == "ok" {
		if len(r.Result) > result.MaxBytes && scope.WantsResult() {
			scope.Logger().Warn("the result is too long, it is left out", "limit_bytes", result.MaxBytes)
			scope.SetResult(result.TooLong())
		} else {
			scope.SetResult(consumer.Result{Body: r.Result})
		}
		return nil
	}
	verdict := "the command answered " + r.Verdict
	err := errors.New(withReason(verdict, []byte(r.Reason)))
	if r.Reason == "" {
		err = errors.New(said.explain(verdict))
	}
	if r.Verdict == "dead" {
		return consumer.Permanent(err)
	}
	if r.Delay != nil {
		const year = 365 * 24 * time.Hour // is the longest, and more would overflow
		err = consumer.RetryAfter(err, time.Duration(min(*r.Delay, year.Seconds())*float64(time.Second)))
	}
	if r.Verdict == "unavailable" {
		err = consumer.Unavailable(err)
	}
	return err
}
