package command

import (
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

// environment returns all of a program's environment.
func environment(ctx context.Context, d *consumer.Delivery) []string {
	env := make([]string, 0, 9)
	// A message can have zero bytes in it, but no variable can.
	set := func(name, value string) {
		env = append(env, name+"="+strings.ReplaceAll(value, "\x00", "\uFFFD"))
	}
	set("PATH", searchPath)
	set("WARREN_MESSAGE_ID", d.MessageID)
	set("WARREN_QUEUE", d.Queue)
	set("WARREN_ATTEMPT", strconv.Itoa(d.Attempt))
	if deadline, ok := ctx.Deadline(); ok {
		set("WARREN_DEADLINE", deadline.UTC().Format(deadlineFormat))
	}
	set("WARREN_CONTENT_TYPE", d.ContentType)
	set("WARREN_HEADERS", headersJSON(d.Headers))
	// The span of this attempt or, where nothing is traced, the publisher's.
	span := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, span)
	for name, value := range span {
		set(strings.ToUpper(name), value)
	}
	return env
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
