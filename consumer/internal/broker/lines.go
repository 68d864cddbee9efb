package broker

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// Lines returns a logger whose lines tell an attempt from others. It works that out only
// when there is a line: most deliveries log nothing.
func Lines(log *slog.Logger, span trace.SpanContext, messageID string, attempt int) *slog.Logger {
	return slog.New(lines{log.Handler(), span, messageID, attempt})
}

type lines struct {
	slog.Handler
	span      trace.SpanContext
	messageID string
	attempt   int
}

func (l lines) attrs() []slog.Attr {
	return append(SpanAttrs(l.span), slog.String("message_id", l.messageID), slog.Int("attempt", l.attempt))
}

func (l lines) Handle(ctx context.Context, r slog.Record) error {
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	line.AddAttrs(l.attrs()...)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(a)
		return true
	})
	return l.Handler.Handle(ctx, line)
}

func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.Handler.WithAttrs(append(l.attrs(), attrs...))
}

func (l lines) WithGroup(name string) slog.Handler {
	return l.Handler.WithAttrs(l.attrs()).WithGroup(name)
}
