// Package telemetry makes what Warren is watched with: its log, traces and metrics, and
// the admin server.
package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
)

// NewLogger makes a logger that writes lines of the given level, as it is then, and above to w.
// The format is json, text (key=value), journal (systemd's, with fields), or auto: the
// journal if w is it, text on a terminal, else json. Any other is an error that names
// these. Asking for the journal where none answers is an error, too.
func NewLogger(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: readableDuration}
	if format == "auto" {
		format = "json"
		if isTerminal(w) {
			format = "text"
		} else if isJournal(w) {
			format = "journal"
		}
	}
	switch format {
	case "json":
		return slog.New(cleanHandler{slog.NewJSONHandler(w, options)}), nil
	case "text":
		return slog.New(cleanHandler{slog.NewTextHandler(w, options)}), nil
	case "journal":
		if !journal.Enabled() {
			return nil, errors.New("log format journal needs the systemd journal, whose socket does not answer; choose auto, json or text")
		}
		return slog.New(cleanHandler{newJournalHandler(w, level)}), nil
	}
	return nil, fmt.Errorf("log format %q is unknown; it must be auto, json, text or journal", format)
}

// readableDuration has a duration written as 1.5s in JSON too, where slog would write
// nanoseconds that nothing says are any.
func readableDuration(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// isJournal tells whether w is standard error and leads to the systemd journal.
func isJournal(w io.Writer) bool {
	if w != os.Stderr {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}

// isTerminal takes any character device for a terminal: of the others, such as
// /dev/null, nobody minds the format.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
