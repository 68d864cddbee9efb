package command

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
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
	if got, want := l.explain("ended"), "ended:\nbefore\nwarren:progress soon\nwarren:progress\nwarren:progressing 5\nafter"; got != want {
		t.Errorf("explained as %q, want %q", got, want)
	}
	if strings.Count(log.String(), "\n") != 5 || strings.Contains(log.String(), "rendering") {
		t.Errorf("the log is\n%s\nwant the other five lines", &log)
	}
}

// TestExplanationIsTheEnd writes in pieces of all sizes.
func TestExplanationIsTheEnd(t *testing.T) {
	long := strings.Repeat("x", maxErrorBytes)
	line := strings.Repeat("y", 99) + "\n"
	for name, test := range map[string]struct{ written, want string }{
		"as much as may be":   {long + "\n", "e: " + long},
		"one long line":       {"z" + long, "e: " + long},
		"of several":          {"one\n" + long + "\n", "e: " + long},
		"whole lines":         {strings.Repeat(line, 1000), "e:\n" + strings.TrimSuffix(strings.Repeat(line, maxErrorBytes/100), "\n")},
		"a character in two":  {"\u00e4" + long[1:], "e: " + long[1:]},
		"not valid":           {strings.Repeat("\xffa", 3*maxErrorBytes), "e: " + strings.Repeat("\uFFFDa", maxErrorBytes/4)},
		"progress in between": {"one\n" + strings.Repeat("warren:progress 4 "+line, 1000) + "two", "e:\none\ntwo"},
		"blank lines":         {"\n\n one\n\ntwo \n\n", "e:\n one\ntwo"},
		"for a terminal":      {"\x1b[31mred\x07\u009b\u202e\x00 9%\r10%\tend\n", "e:\n[31mred 9%\n10%\tend"},
		"nothing":             {" \n\n", "e"},
	} {
		for _, size := range []int{1, 7, 4096, 1 << 20} {
			l := &logLines{log: slog.New(slog.DiscardHandler), progress: func(int, string) {}}
			for part := range slices.Chunk([]byte(test.written), size) {
				_, _ = l.Write(part)
			}
			l.end()
			if got := l.explain("e"); got != test.want {
				t.Errorf("%s in pieces of %d: got %d bytes, %.200q, want %d, %.200q", name, size, len(got), got, len(test.want), test.want)
			}
		}
	}
}

// FuzzExplanation: whatever a program writes, and in whatever pieces, what is told of it
// is the same, short, and fit to be shown.
func FuzzExplanation(f *testing.F) {
	f.Add("one\ntwo\r\nwarren:progress 4 x\n\x1b\xff", 3)
	f.Add(strings.Repeat("x", 3000)+"\n\n", 1000)
	f.Fuzz(func(t *testing.T, text string, size int) {
		var told []string
		for _, size := range []int{max(size, 1), len(text) + 1} {
			l := &logLines{log: slog.New(slog.DiscardHandler), progress: func(int, string) {}}
			for part := range slices.Chunk([]byte(text), size) {
				_, _ = l.Write(part)
			}
			l.end()
			told = append(told, l.explain("e"))
		}
		if told[0] != told[1] {
			t.Errorf("told %q in pieces of %d, and %q in one", told[0], size, told[1])
		}
		if !utf8.ValidString(told[0]) || len(told[0]) > maxErrorBytes+3 || strings.Map(printable, told[0]) != told[0] {
			t.Errorf("told %q of %d bytes", told[0], len(told[0]))
		}
	})
}
