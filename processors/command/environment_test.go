package command

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/consumertest"
	"github.com/warrenmq/warren/processors/registry"
)

// runEnv returns the environment that a program is given for d, sorted.
func runEnv(t *testing.T, ctx context.Context, own string, d consumer.Delivery) []string {
	t.Helper()
	p, err := (&Config{Command: "env -0", Mode: "spawn", Env: own}).Open(registry.Queue{Name: "commands", Concurrency: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := d.ReplyTo
	if d.ReplyTo == "" {
		d.ReplyTo = "answers"
	}
	result, err := consumertest.Run(ctx, p, d)
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(strings.TrimSuffix(string(result.Body), "\x00"), "\x00")
	if want == "" {
		env = slices.DeleteFunc(env, func(v string) bool { return v == "WARREN_REPLY_TO=answers" })
	}
	slices.Sort(env)
	return env
}

func TestEnvironment(t *testing.T) {
	t.Setenv("WARREN_CANARY", "not for handlers")
	t.Setenv("WARREN_AMQP_URL", "amqp://user:secret@host")
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	deadline := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	// The span of the attempt, which is not the publisher's.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "tracestate": "vendor=2",
	})
	got := runEnv(t, ctx, "API_KEY=k3y\nPATH=/opt/bin:/bin", consumer.Delivery{
		Queue:           "orders",
		MessageID:       "4711",
		Attempt:         3,
		Redelivered:     true,
		Exchange:        "shop",
		RoutingKey:      "order.created",
		Type:            "order",
		ContentType:     "text/plain",
		ContentEncoding: "br",
		CorrelationID:   "c-1",
		ReplyTo:         "answers",
		AppID:           "shop/1.4",
		UserID:          "ada",
		Priority:        7,
		Timestamp:       time.Unix(1700000000, 0),
		Headers: map[string]any{
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"tracestate":  "vendor=1",
			"text":        "two\nlines",
			"zero":        "a\x00b",
			"number":      int64(-5),
			"float":       float32(0.1),
			"nan":         math.NaN(),
			"far":         math.Inf(1),
			"when":        time.Unix(1700000000, 0),
			"bytes":       []byte{1, 2},
			"nothing":     nil,
			"table":       map[string]any{"list": []any{true, "x"}},
		},
	})
	want := []string{
		"API_KEY=k3y",
		"PATH=/opt/bin:/bin",
		"TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
		"TRACESTATE=vendor=2",
		"WARREN_APP_ID=shop/1.4",
		"WARREN_ATTEMPT=3",
		"WARREN_CONTENT_ENCODING=br",
		"WARREN_CONTENT_TYPE=text/plain",
		"WARREN_CORRELATION_ID=c-1",
		"WARREN_DEADLINE=" + deadline.UTC().Format("2006-01-02T15:04:05.000Z"),
		"WARREN_EXCHANGE=shop",
		`WARREN_HEADERS={"bytes":"AQI=","far":"+Inf","float":0.1,"nan":"NaN","nothing":null,"number":-5,` +
			`"table":{"list":[true,"x"]},"text":"two\nlines",` +
			`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"vendor=1",` +
			`"when":"2023-11-14T22:13:20Z","zero":"a\u0000b"}`,
		"WARREN_MESSAGE_ID=4711",
		"WARREN_PRIORITY=7",
		"WARREN_QUEUE=orders",
		"WARREN_REDELIVERED=true",
		"WARREN_REPLY_TO=answers",
		"WARREN_ROUTING_KEY=order.created",
		"WARREN_TIMESTAMP=2023-11-14T22:13:20Z",
		"WARREN_TYPE=order",
		"WARREN_USER_ID=ada",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEnvironmentOfABareMessage(t *testing.T) {
	got := runEnv(t, t.Context(), "", consumer.Delivery{Queue: "orders", Attempt: 1})
	want := []string{
		"PATH=" + searchPath, "WARREN_APP_ID=", "WARREN_ATTEMPT=1", "WARREN_CONTENT_ENCODING=", "WARREN_CONTENT_TYPE=application/json",
		"WARREN_CORRELATION_ID=", "WARREN_EXCHANGE=", "WARREN_HEADERS={}", "WARREN_MESSAGE_ID=", "WARREN_PRIORITY=0", "WARREN_QUEUE=orders",
		"WARREN_REDELIVERED=false", "WARREN_ROUTING_KEY=", "WARREN_TIMESTAMP=", "WARREN_TYPE=", "WARREN_USER_ID=",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

// Whatever a publisher writes, each variable is one that a program can be given,
// and the headers are JSON; and a child is told of it in one line, which has the body.
func FuzzEnvironment(f *testing.F) {
	f.Add("id", "application/json", "key", "value", []byte("bytes"), 1.5, int64(1700000000))
	f.Add("a\x00b", "\xff", "\x00", "\ud7ff\xed\xa0\x80", []byte{0}, math.Inf(-1), int64(math.MaxInt64))
	f.Add("", "", "traceparent", "\x00\n=", []byte(nil), math.NaN(), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, id, contentType, key, text string, bytes []byte, number float64, seconds int64) {
		values := []any{text, bytes, number, float32(number), time.Unix(seconds, 0), map[string]any{key: text}}
		d := consumer.Delivery{MessageID: id, Type: text, ReplyTo: key, ContentType: contentType, Timestamp: time.Unix(seconds, 0), Headers: map[string]any{
			key: text, "list": values, "tracestate": text,
		}}
		env, err := environment(t.Context(), nil, &d)
		if err != nil && len(text)+len(key)+len(bytes) < 1<<10 {
			t.Errorf("got %v, want an environment: the message is small", err)
		}
		for _, variable := range env {
			name, value, _ := strings.Cut(variable, "=")
			if strings.Contains(variable, "\x00") || name == "" {
				t.Errorf("variable %q cannot be given to a program", variable)
			}
			if name == "WARREN_HEADERS" && !json.Valid([]byte(value)) {
				t.Errorf("headers %q, want JSON", value)
			}
		}

		d.Body = bytes
		var line strings.Builder
		if err := newRequest(t.Context(), 1, &d).writeTo(&line); err != nil || strings.Index(line.String(), "\n") != line.Len()-1 {
			t.Fatalf("a child is told %q (%v), want one line", line.String(), err)
		}
		var told request
		if err := json.Unmarshal([]byte(line.String()), &told); err != nil {
			t.Fatalf("a child is told %q: %v", line.String(), err)
		}
		body := []byte(told.Body)
		if told.BodyEncoding == "base64" {
			body, _ = base64.StdEncoding.DecodeString(told.Body)
		}
		if string(body) != string(bytes) {
			t.Errorf("a child is told the body %q as %s, want %q", body, told.BodyEncoding, bytes)
		}
	})
}

// These are refused by the kernel when it is short of something, which no test
// should bring about.
func TestStartErrorsNameTheRemedy(t *testing.T) {
	for number, want := range map[syscall.Errno]string{
		syscall.EAGAIN:  "TasksMax",
		syscall.ENOMEM:  "MemoryMax",
		syscall.EMFILE:  "LimitNOFILE",
		syscall.ETXTBSY: "mv",
	} {
		cause := &fs.PathError{Op: "fork/exec", Path: "/opt/handler", Err: number}
		err := startError(cause)
		if !errors.Is(err, number) || !strings.Contains(err.Error(), "/opt/handler") || !strings.Contains(err.Error(), want) {
			t.Errorf("start error %q, want the file, %v and a remedy with %q", err, number, want)
		}
		if got := consumertest.Verdict(err); got != "unavailable" {
			t.Errorf("verdict of %v is %s, want unavailable", number, got)
		}
	}
	if got := consumertest.Verdict(startError(syscall.E2BIG)); got != "dead" {
		t.Errorf("verdict of %v is %s, want dead", syscall.E2BIG, got)
	}
}
