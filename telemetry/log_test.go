package telemetry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFormats(t *testing.T) {
	for _, test := range []struct{ format, want string }{
		{"json", `^{"time":"[^"]+","level":"WARN","msg":"attempt failed","queue":"mail","error":"no","retry_in":"1.5s"}\n$`},
		{"auto", `^{"time":`}, // a buffer is no terminal
		{"text", `^time=\S+ level=WARN msg="attempt failed" queue=mail error=no retry_in=1.5s\n$`},
	} {
		var out bytes.Buffer
		log, err := NewLogger(&out, slog.LevelInfo, test.format)
		if err != nil {
			t.Errorf("%s: %v", test.format, err)
			continue
		}
		log.Debug("not of that level")
		log.Warn("attempt failed", "queue", "mail", "error", errors.New("no"), "retry_in", 1500*time.Millisecond)
		if got := out.String(); !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%s: got %q, want it to match %s", test.format, got, test.want)
		}
	}
}

func TestLevels(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log, err := NewLogger(io.Discard, level, "text")
		if err != nil {
			t.Fatal(err)
		}
		if !log.Enabled(t.Context(), level) || log.Enabled(t.Context(), level-1) {
			t.Errorf("the least that is logged is not %v", level)
		}
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, err := NewLogger(io.Discard, slog.LevelInfo, "xml"); err == nil || !strings.Contains(err.Error(), "auto, json, text or journal") {
		t.Errorf("got the error %v, want one that names the formats", err)
	}
}

func TestIsTerminal(t *testing.T) {
	device, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, test := range []struct {
		name string
		w    io.Writer
		want bool
	}{{"a character device", device, true}, {"a file", file, false}, {"a buffer", new(bytes.Buffer), false}} {
		if got := isTerminal(test.w); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestJournalMustAnswer(t *testing.T) {
	if _, err := NewLogger(io.Discard, slog.LevelInfo, "journal"); (err == nil) != journal.Enabled() {
		t.Errorf("got the error %v where the journal answers: %v", err, journal.Enabled())
	}
	for _, format := range []string{"auto", "json", "text"} { // what the error says to choose
		if _, err := NewLogger(io.Discard, slog.LevelInfo, format); err != nil {
			t.Errorf("%s: got the error %v", format, err)
		}
	}
}
