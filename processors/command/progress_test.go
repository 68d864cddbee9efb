package command

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestLinesOfProgress(t *testing.T) {
	var log bytes.Buffer
	var told []string
	l := &logLines{
		log:      slog.New(slog.NewTextHandler(&log, nil)),
		progress: func(percent int, text string) { told = append(told, fmt.Sprintf("%d %s", percent, text)) },
	}
	fmt.Fprint(l, "before\nwarren:progress 40 rendering page 3\nwarren:progress  7%\nwarren:progress soon\nwarren:progress\nwarren:progressing 5\nafter\nwarren:progress 100")
	l.end()
	if got, want := strings.Join(told, ", "), "40 rendering page 3, 7 , 100 "; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if l.last != "after" || strings.Count(log.String(), "\n") != 5 || strings.Contains(log.String(), "rendering") {
		t.Errorf("the last line is %q and the log\n%s\nwant after, and the other five lines", l.last, &log)
	}
}
