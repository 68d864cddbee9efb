package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
)

// deadlineFormat is RFC 3339 with milliseconds.
const deadlineFormat = "2006-01-02T15:04:05.000Z07:00"

// environment returns all of a program's environment: PATH, the queue's own variables,
// which may replace it, and the facts about d. It fails for what no variable can hold.
func environment(ctx context.Context, own []string, d *consumer.Delivery) ([]string, error) {
	env := make([]string, 0, len(own)+24)
	env = append(env, "PATH="+searchPath)
	env = append(env, own...) // of two that are equal, os/exec takes the last
	// A message can have zero bytes in it, but no variable can.
	set := func(name, value string) {
		env = append(env, name+"="+strings.ReplaceAll(value, "\x00", "\uFFFD"))
	}
	set("WARREN_QUEUE", d.Queue)
	set("WARREN_ATTEMPT", strconv.Itoa(d.Attempt))
	set("WARREN_REDELIVERED", strconv.FormatBool(d.Redelivered))
	if deadline, ok := ctx.Deadline(); ok {
		set("WARREN_DEADLINE", deadline.UTC().Format(deadlineFormat))
	}
	set("WARREN_MESSAGE_ID", d.MessageID)
	set("WARREN_EXCHANGE", d.Exchange)
	set("WARREN_ROUTING_KEY", d.RoutingKey)
	set("WARREN_TYPE", d.Type)
	set("WARREN_CONTENT_TYPE", cmp.Or(d.ContentType, "application/json"))
	set("WARREN_CONTENT_ENCODING", d.ContentEncoding)
	set("WARREN_CORRELATION_ID", d.CorrelationID)
	set("WARREN_REPLY_TO", d.ReplyTo)
	set("WARREN_APP_ID", d.AppID)
	set("WARREN_USER_ID", d.UserID)
	set("WARREN_PRIORITY", strconv.Itoa(int(d.Priority)))
	timestamp := ""
	if !d.Timestamp.IsZero() {
		timestamp = d.Timestamp.UTC().Format(time.RFC3339)
	}
	set("WARREN_TIMESTAMP", timestamp)
	set("WARREN_HEADERS", headersJSON(d.Headers))
	// The span of this attempt or, where nothing is traced, the publisher's.
	span := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, span)
	for name, value := range span {
		set(strings.ToUpper(name), value)
	}
	for _, variable := range env {
		if len(variable) > maxVariableBytes {
			name, _, _ := strings.Cut(variable, "=")
			return nil, fmt.Errorf("%s would have %d bytes, but a variable has at most %d; send in the body what is long, not in the headers", name, len(variable), maxVariableBytes)
		}
	}
	return env, nil
}

// headersJSON returns headers as a JSON object: times as RFC 3339 in UTC, binary
// values in base64.
func headersJSON(headers map[string]any) string {
	if len(headers) == 0 {
		return "{}"
	}
	text, _ := json.Marshal(expressible(headers)) // which leaves nothing that fails
	return string(text)
}

// expressible returns v with strings in place of what JSON has no way to say, such
// as the float that is not a number.
func expressible(v any) any {
	switch v := v.(type) {
	case nil, bool, string, []byte, int8, int16, int32, int64, uint8, uint16, uint32, uint64:
		return v
	case float32:
		if isFinite(float64(v)) {
			return v
		}
	case float64:
		if isFinite(v) {
			return v
		}
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = expressible(value)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = expressible(value)
		}
		return out
	}
	return fmt.Sprint(v)
}

func isFinite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
