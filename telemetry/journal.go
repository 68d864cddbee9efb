package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// A journalHandler sends each line to the systemd journal: as text, for who reads it,
// and its attributes as fields, for who looks for one: journalctl QUEUE=emails.
type journalHandler struct {
	instead io.Writer // gets the text of a line that the journal does not take
	level   slog.Leveler
	attrs   []slog.Attr // those of With
	group   string      // goes before the names of those to come
	send    func(message string, priority journal.Priority, fields map[string]string) error
}

func newJournalHandler(instead io.Writer, level slog.Leveler) *journalHandler {
	return &journalHandler{instead: instead, level: level, send: journal.Send}
}

func (h *journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	fields := make(map[string]string, len(h.attrs)+r.NumAttrs())
	attrs := append([]slog.Attr(nil), h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		a.Key = h.group + a.Key
		attrs = append(attrs, a)
		return true
	})
	for _, a := range attrs {
		addFields(fields, "", a)
	}
	message, err := line(ctx, r.Message, attrs)
	if err != nil {
		return err
	}
	if err := h.send(message, priorityOf(r.Level), fields); err != nil {
		_, err = fmt.Fprintln(h.instead, message)
		return err
	}
	return nil
}

// addFields adds the fields of an attribute: one, or one for each of a group.
func addFields(fields map[string]string, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() != slog.KindGroup {
		fields[fieldName(prefix+a.Key)] = value.String()
		return
	}
	if a.Key != "" {
		prefix += a.Key + "_"
	}
	for _, member := range value.Group() {
		addFields(fields, prefix, member)
	}
}

// line is a message with its attributes, as a text handler would write them: who
// reads the journal sees no fields.
func line(ctx context.Context, message string, attrs []slog.Attr) (string, error) {
	var buf bytes.Buffer
	text := slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return readableDuration(groups, a)
	}})
	r := slog.Record{}
	r.AddAttrs(attrs...)
	if err := text.Handle(ctx, r); err != nil {
		return "", err
	}
	return strings.TrimSpace(message + " " + buf.String()), nil
}

// fieldName is the journal's name for an attribute. Those that mean something to the
// journal itself, as MESSAGE_ID, by which it tells kinds of messages apart, end in
// _AMQP.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	name = strings.TrimLeft(name, "_")
	switch name {
	case "MESSAGE", "MESSAGE_ID", "PRIORITY":
		return name + "_AMQP"
	}
	return name
}

func priorityOf(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// WriteError writes text, the last words of a program, to w. If that is standard error and
// leads to the journal, each line has the priority of an error: without a mark, the journal
// takes what it reads there for information.
func WriteError(w io.Writer, text string) {
	if isJournal(w) {
		text = marked(text)
	}
	fmt.Fprintln(w, text)
}

// marked is text with the mark of sd-daemon(3) for an error before each line.
func marked(text string) string {
	mark := fmt.Sprintf("<%d>", journal.PriErr)
	return mark + strings.ReplaceAll(text, "\n", "\n"+mark)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	more := *h
	more.attrs = append([]slog.Attr(nil), h.attrs...)
	for _, a := range attrs {
		a.Key = h.group + a.Key
		more.attrs = append(more.attrs, a)
	}
	return &more
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	more := *h
	more.group = h.group + name + "_"
	return &more
}
