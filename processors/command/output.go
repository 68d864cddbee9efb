package command

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"unicode"

	"github.com/warrenmq/warren/processors/internal/result"
)

const (
	maxErrorBytes  = 2 << 10
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
	// tail is the end of what was written, and more than maxErrorBytes of it if there
	// was. Blank lines and those of progress are not in it.
	tail      []byte
	tailBegin int // of the current line in tail
}

// Write never fails: a program that says too much is not to be stopped by it.
func (l *logLines) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		n := min(len(part), maxLineBytes-len(l.line))
		l.line = append(l.line, part[:n]...)
		l.dropped += len(part) - n
		l.keep(part)
		if ended {
			l.endLine()
		}
		rest = after
	}
	return len(b), nil
}

// keep appends part of the current line to the tail.
func (l *logLines) keep(part []byte) {
	const most = maxErrorBytes + 2 // the newlines before and after the lines that are told
	part = part[max(0, len(part)-most):]
	if len(l.tail)+len(part) > 2*most { // seldom, so that each byte is moved once
		over := len(l.tail) - most
		l.tail = append(l.tail[:0], l.tail[over:]...)
		l.tailBegin = max(0, l.tailBegin-over)
	}
	l.tail = append(l.tail, part...)
}

func (l *logLines) endLine() {
	text := string(bytes.TrimSpace(bytes.ToValidUTF8(l.line, []byte("\uFFFD"))))
	size := len(l.line)
	l.line = l.line[:0]
	if text == "" || l.isProgress(text) {
		l.tail = l.tail[:l.tailBegin]
		return
	}
	l.keep([]byte("\n"))
	l.tailBegin = len(l.tail)
	if l.mayLog(size) {
		l.log.Info("standard error of the command", "line", text)
	}
}

// mayLog counts a line of so many bytes, and tells whether it is to be logged.
func (l *logLines) mayLog(size int) bool {
	if l.logged+size > maxLoggedBytes {
		l.logged = maxLoggedBytes // from here on, nothing more
		l.dropped += size
		return false
	}
	l.logged += size
	return true
}

// explain adds to how the program ended what it has written last.
func (l *logLines) explain(ending string) string {
	return withReason(ending, l.tail)
}

// withReason adds to how the program ended the end of a text of its own: at most
// maxErrorBytes, and whole lines unless the last one is longer.
func withReason(ending string, text []byte) string {
	text = bytes.TrimSuffix(text, []byte("\n"))
	if over := len(text) - maxErrorBytes; over > 0 {
		text = text[over-1:]
		if newline := bytes.IndexByte(text, '\n'); newline >= 0 {
			text = text[newline:]
		}
		text = text[1:]
	}
	tail := strings.Map(printable, strings.ToValidUTF8(strings.ReplaceAll(string(text), "\r\n", "\n"), "\uFFFD"))
	if over := len(tail) - maxErrorBytes; over > 0 { // what was not valid has grown
		tail = strings.ToValidUTF8(tail[over:], "")
	}
	tail = strings.TrimRightFunc(tail, unicode.IsSpace)
	switch {
	case tail == "":
		return ending
	case strings.Contains(tail, "\n"):
		return ending + ":\n" + tail
	}
	return ending + ": " + strings.TrimSpace(tail)
}

// printable leaves out of an error what could do something to a terminal that shows it.
func printable(r rune) rune {
	switch {
	case r == '\n', r == '\t', unicode.IsPrint(r):
		return r
	case r == '\r': // goes over the line again, as a bar of progress does
		return '\n'
	}
	return -1
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
		l.log.Warn("the command wrote more than is logged", "dropped_bytes", l.dropped)
	}
}
