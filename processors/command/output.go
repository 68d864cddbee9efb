package command

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/processors/internal/result"
)

const (
	maxLineBytes   = 4 << 10
	maxLoggedBytes = 64 << 10
)

// An answer keeps what is written to it, unless that is too long.
type answer struct {
	body    []byte
	tooLong bool
}

// Write never fails: a program that says too much is not to be stopped by it.
func (a *answer) Write(b []byte) (int, error) {
	if len(a.body)+len(b) > result.MaxBytes {
		a.tooLong = true
	} else {
		a.body = append(a.body, b...)
	}
	return len(b), nil
}

// logLines logs what is written to it, line by line. Of a line it logs at most
// maxLineBytes, and of all lines together maxLoggedBytes. Blank lines it leaves out.
type logLines struct {
	log      *slog.Logger
	progress func(percent int, text string)
	line     []byte // the current line, or its beginning
	logged   int
	dropped  int
	last     string // line that was not blank, as it was logged or would have been
}

// Write never fails: a program that says too much is not to be stopped by it.
func (l *logLines) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		n := min(len(part), maxLineBytes-len(l.line))
		l.line = append(l.line, part[:n]...)
		l.dropped += len(part) - n
		if ended {
			l.endLine()
		}
		rest = after
	}
	return len(b), nil
}

func (l *logLines) endLine() {
	text := string(bytes.TrimSpace(bytes.ToValidUTF8(l.line, []byte("\uFFFD"))))
	size := len(l.line)
	l.line = l.line[:0]
	if text == "" || l.isProgress(text) {
		return
	}
	l.last = text
	if l.logged+size > maxLoggedBytes {
		l.logged = maxLoggedBytes // from here on, nothing more
		l.dropped += size
		return
	}
	l.logged += size
	l.log.Info("standard error of the command", "line", text)
}

// isProgress tells whether the line says how far the work is, and passes that on.
func (l *logLines) isProgress(line string) bool {
	rest, ok := strings.CutPrefix(line, "warren:progress ")
	if !ok {
		return false
	}
	number, text, _ := strings.Cut(strings.TrimSpace(rest), " ")
	percent, err := strconv.Atoi(strings.TrimSuffix(number, "%"))
	if err != nil {
		return false
	}
	l.progress(percent, strings.TrimSpace(text))
	return true
}

// end logs the last line if it has no newline, and how much was not logged.
func (l *logLines) end() {
	l.endLine()
	if l.dropped > 0 {
		l.log.Warn("the command wrote more to standard error than is logged", "dropped_bytes", l.dropped)
	}
}
