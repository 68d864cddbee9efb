package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"Grüße, 世界 🙂":                    "Grüße, 世界 🙂",
		"two\n\tlines":                   "two\n\tlines",
		"\xff":                           `\xff`,
		"a\x00\x1b[31m\x7f":              `a\u0000\u001b[31m\u007f`,
		"\u009b31m":                      `\u009b31m`,
		"\u202egnp.exe":                  `\u202egnp.exe`,
		"zero\u200bwidth\ufeff":          `zero\u200bwidth\ufeff`,
		"line\u2028end\r":                `line\u2028end\u000d`,
		"\ufffd":                         "\ufffd",
		strings.Repeat("x", 40):          strings.Repeat("x", 40),
		strings.Repeat("x", 41):          strings.Repeat("x", 34) + " [...]",
		strings.Repeat("ä", 30):          strings.Repeat("ä", 17) + " [...]",
		strings.Repeat("\xff", 30):       strings.Repeat(`\xff`, 8) + " [...]",
		strings.Repeat("x", 36) + "\x00": strings.Repeat("x", 34) + " [...]",
	} {
		got := clean(text, 40)
		if got != want || !utf8.ValidString(got) || len(got) > 40 {
			t.Errorf("%q: got %q of %d bytes, want %q", text, got, len(got), want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00\u202e\xff")
	f.Fuzz(func(t *testing.T, text string) {
		if got := clean(text, 40); !utf8.ValidString(got) || len(got) > 40 || strings.ContainsFunc(got, acts) {
			t.Errorf("%q: got %q", text, got)
		}
	})
}

// Whatever a publisher writes, no line of the log acts on a terminal, and each can be
// read.
func TestTheLogIsClean(t *testing.T) {
	const hostile = "a\xff\u009b\u202e\x1b[2J"
	for _, format := range []string{"json", "text"} {
		var buf bytes.Buffer
		log, err := NewLogger(&buf, slog.LevelDebug, format)
		if err != nil {
			t.Fatal(err)
		}
		log.With("queue", hostile).WithGroup("g").Info("message", "message_id", hostile, "error", errors.New(hostile), "keys", []string{hostile},
			slog.Group("more", "text", hostile), "long", strings.Repeat("x", 1<<20))
		line := buf.String()
		if !utf8.ValidString(line) || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return acts(r) || r == '\n' }) || strings.Count(line, "u202e") != 5 || len(line) > 2*maxValueBytes {
			t.Errorf("%s: got %d bytes: %q", format, len(line), line[:min(len(line), 1000)])
		}
		if format == "json" && !json.Valid(buf.Bytes()) {
			t.Error("the line is no JSON")
		}
	}
	sent := make(map[string]string)
	h := newJournalHandler(&bytes.Buffer{}, slog.LevelDebug)
	h.send = func(message string, _ journal.Priority, fields map[string]string) error {
		fields["MESSAGE"] = message
		sent = fields
		return nil
	}
	slog.New(cleanHandler{h}).Info("message", "message_id", hostile)
	for name, value := range sent {
		if !utf8.ValidString(value) || strings.ContainsFunc(value, acts) {
			t.Errorf("field %s is %q", name, value)
		}
	}
}

// A span with a value that is no UTF-8 has a collector drop its whole batch.
func TestSpansAreClean(t *testing.T) {
	const hostile = "\xff\x00\u202e"
	kept := tracetest.NewInMemoryExporter()
	exporter := &watchedExporter{SpanExporter: kept, faults: faultLog{log: slog.New(slog.DiscardHandler)}}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	_, span := provider.Tracer("test").Start(context.Background(), strings.Repeat("send "+hostile, 10_000),
		trace.WithLinks(trace.Link{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}), Attributes: []attribute.KeyValue{attribute.String("a", hostile)}}))
	span.SetAttributes(attribute.String("messaging.message.id", hostile), attribute.StringSlice("keys", []string{hostile}), attribute.String("long", strings.Repeat("ä", 1<<20)), attribute.Int("n", 1))
	span.RecordError(errors.New(hostile))
	span.SetStatus(1, hostile)
	span.End()
	s := kept.GetSpans()[0]
	check := func(what, value string, most int) {
		t.Helper()
		if !utf8.ValidString(value) || strings.ContainsFunc(value, acts) || len(value) > most {
			t.Errorf("%s has %d bytes: %q", what, len(value), value[:min(len(value), 300)])
		}
	}
	check("the name", s.Name, maxNameBytes)
	check("the status", s.Status.Description, maxValueBytes)
	attrs := append(s.Attributes, s.Links[0].Attributes...)
	for _, e := range s.Events {
		attrs = append(attrs, e.Attributes...)
	}
	if len(attrs) < 6 {
		t.Errorf("got only the attributes %v", attrs)
	}
	for _, a := range attrs {
		check(string(a.Key), a.Value.String(), maxValueBytes)
	}
	if err := provider.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
