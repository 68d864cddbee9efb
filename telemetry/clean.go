package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// maxValueBytes is the longest value of an attribute, in the log and of spans.
	maxValueBytes = 8 << 10
	// maxNameBytes is the longest name of a span.
	maxNameBytes = 255
)

// clean returns text as it can be shown and sent anywhere: valid UTF-8 of at most so many
// bytes, in which nothing acts on a terminal, hides or changes the order of what is read.
// Such characters are escaped as in Go; lines and tabs stay.
func clean(text string, most int) string {
	if len(text) <= most && isClean(text) {
		return text
	}
	const mark = " [...]"
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		escaped := text[i : i+size]
		switch {
		case r == utf8.RuneError && size == 1:
			escaped = fmt.Sprintf(`\x%02x`, text[i])
		case acts(r):
			escaped = fmt.Sprintf(`\u%04x`, r)
		}
		if i += size; b.Len()+len(escaped) > most || i < len(text) && b.Len()+len(escaped) > most-len(mark) {
			b.WriteString(mark)
			break
		}
		b.WriteString(escaped)
	}
	return b.String()
}

func isClean(text string) bool {
	for i := range len(text) {
		if c := text[i]; c >= utf8.RuneSelf || c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return utf8.ValidString(text) && !strings.ContainsFunc(text, acts)
		}
	}
	return true
}

// acts tells whether r does something else than to be seen.
func acts(r rune) bool {
	return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// A cleanHandler hands on lines with clean values: they come from publishers.
type cleanHandler struct{ slog.Handler }

func (h cleanHandler) Handle(ctx context.Context, r slog.Record) error {
	line := slog.NewRecord(r.Time, r.Level, clean(r.Message, maxValueBytes), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(cleanAttr(a))
		return true
	})
	return h.Handler.Handle(ctx, line)
}

func (h cleanHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return cleanHandler{h.Handler.WithAttrs(cleanAttrs(attrs))}
}

func (h cleanHandler) WithGroup(name string) slog.Handler {
	return cleanHandler{h.Handler.WithGroup(name)}
}

func cleanAttrs(attrs []slog.Attr) []slog.Attr {
	out := slices.Clone(attrs)
	for i, a := range out {
		out[i] = cleanAttr(a)
	}
	return out
}

func cleanAttr(a slog.Attr) slog.Attr {
	value := a.Value.Resolve()
	switch value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(clean(value.String(), maxValueBytes))
	case slog.KindGroup:
		a.Value = slog.GroupValue(cleanAttrs(value.Group())...)
	case slog.KindAny:
		switch v := value.Any().(type) {
		case error:
			a.Value = slog.StringValue(clean(v.Error(), maxValueBytes))
		case []string:
			a.Value = slog.AnyValue(cleanAll(v))
		}
	}
	return a
}

func cleanAll(texts []string) []string {
	out := slices.Clone(texts)
	for i, text := range out {
		out[i] = clean(text, maxValueBytes)
	}
	return out
}

// A cleanSpan is a span with clean values: a collector drops all spans of a batch in
// which one has a value that is no UTF-8.
type cleanSpan struct{ sdktrace.ReadOnlySpan }

func (s cleanSpan) Name() string { return clean(s.ReadOnlySpan.Name(), maxNameBytes) }

func (s cleanSpan) Attributes() []attribute.KeyValue { return cleanValues(s.ReadOnlySpan.Attributes()) }

func (s cleanSpan) Events() []sdktrace.Event {
	out := slices.Clone(s.ReadOnlySpan.Events())
	for i, e := range out {
		out[i].Name, out[i].Attributes = clean(e.Name, maxNameBytes), cleanValues(e.Attributes)
	}
	return out
}

func (s cleanSpan) Links() []sdktrace.Link {
	out := slices.Clone(s.ReadOnlySpan.Links())
	for i, l := range out {
		out[i].Attributes = cleanValues(l.Attributes)
	}
	return out
}

func (s cleanSpan) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	status.Description = clean(status.Description, maxValueBytes)
	return status
}

func cleanValues(attrs []attribute.KeyValue) []attribute.KeyValue {
	out := slices.Clone(attrs)
	for i, a := range out {
		switch a.Value.Type() {
		case attribute.STRING:
			out[i].Value = attribute.StringValue(clean(a.Value.AsString(), maxValueBytes))
		case attribute.STRINGSLICE:
			out[i].Value = attribute.StringSliceValue(cleanAll(a.Value.AsStringSlice()))
		}
	}
	return out
}
