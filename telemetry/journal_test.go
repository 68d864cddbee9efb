package telemetry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

func TestJournalLinesCanBeReadAndSearched(t *testing.T) {
	var message string
	var priority journal.Priority
	var fields map[string]string
	h := newJournalHandler(io.Discard, slog.LevelInfo)
	h.send = func(m string, p journal.Priority, f map[string]string) error {
		message, priority, fields = m, p, f
		return nil
	}
	log := slog.New(h).With("queue", "emails")
	log.WithGroup("smtp").Warn("attempt failed", "message_id", "m-1", "error", errors.New("451 later"), "retry_in", 1500*time.Millisecond)

	want := map[string]string{"QUEUE": "emails", "SMTP_MESSAGE_ID": "m-1", "SMTP_ERROR": "451 later", "SMTP_RETRY_IN": "1.5s"}
	if !maps.Equal(fields, want) || priority != journal.PriWarning {
		t.Errorf("fields %v with priority %v, want %v with %v", fields, priority, want, journal.PriWarning)
	}
	if want := `attempt failed queue=emails smtp_message_id=m-1 smtp_error="451 later" smtp_retry_in=1.5s`; message != want {
		t.Errorf("message %q, want %q", message, want)
	}

	log.Info("grouped", slog.Group("job", "id", 7, "message", "m"), slog.Group("", "message", "x", "priority", 3))
	if want := map[string]string{"QUEUE": "emails", "JOB_ID": "7", "JOB_MESSAGE": "m", "MESSAGE_AMQP": "x", "PRIORITY_AMQP": "3"}; !maps.Equal(fields, want) {
		t.Errorf("fields of groups %v, want %v", fields, want)
	}

	log.Error("message dead-lettered", "message_id", "m-1")
	if fields["MESSAGE_ID_AMQP"] != "m-1" || fields["MESSAGE_ID"] != "" || priority != journal.PriErr {
		t.Errorf("fields %v with priority %v", fields, priority)
	}
	message = ""
	log.Debug("below the level")
	if message != "" {
		t.Errorf("sent %q", message)
	}
	for key, want := range map[string]string{"trace_id": "TRACE_ID", "_odd key": "ODD_KEY", "http.route": "HTTP_ROUTE"} {
		if got := fieldName(key); got != want {
			t.Errorf("attribute %q has the field %s, want %s", key, got, want)
		}
	}
}

func TestJournalThatIsAwayLosesNoLine(t *testing.T) {
	var out bytes.Buffer
	h := newJournalHandler(&out, slog.LevelInfo)
	h.send = func(string, journal.Priority, map[string]string) error {
		return errors.New("no such file or directory")
	}
	slog.New(h).Warn("attempt failed", "queue", "emails")
	if got, want := out.String(), "attempt failed queue=emails\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheLastWordsAreMarkedForTheJournalAlone(t *testing.T) {
	const text = "warren: configuration has 2 faults:\n  one\n  two"
	if got, want := marked(text), "<3>warren: configuration has 2 faults:\n<3>  one\n<3>  two"; got != want {
		t.Errorf("for the journal: got %q, want %q", got, want)
	}
	var w strings.Builder
	WriteError(&w, text)
	if got, want := w.String(), text+"\n"; got != want {
		t.Errorf("for anything else: got %q, want %q", got, want)
	}
}
