package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/warrenmq/warren/consumer/fleet"
)

// fleetOf is what so many daemons report, at now.
func fleetOf(n int, now time.Time) *topState {
	s := &topState{states: map[string]fleet.QueueState{
		"emails": {Queue: "emails", Messages: 1200, Consumers: n}, "emails.dead": {Queue: "emails.dead", Messages: 7},
		"reports": {Queue: "reports"}, "reports.dead": {Missing: true},
	}}
	for i := range n {
		for _, at := range []time.Time{now.Add(-2 * time.Second), now} {
			acks := int64(at.Sub(now)/time.Second)*25 + 1000
			s.view.Add(fleet.Answer{Daemon: fleet.Daemon{Host: fmt.Sprintf("vm%d", i), PID: 7, Version: "v1"}, Status: &fleet.Status{At: at, Queues: []fleet.QueueStatus{
				{
					Queue: "emails", InFlight: 2, Slots: 8, Counts: map[string]int64{"ack": acks, "retry": acks / 100},
					Attempts: []fleet.Attempt{{MessageID: "order-\x1b[31m17", Attempt: 2, Began: at.Add(-time.Duration(i+1) * time.Minute)}},
					Failures: []fleet.Failure{{MessageID: "order-3", Attempt: 1, Verdict: "retry", Error: "451 try again\nlater \x07", At: at.Add(-time.Duration(i+5) * time.Second)}},
				},
				{Queue: "reports", Slots: 2, Paused: &fleet.Pause{By: "ops (vm9)", Since: now.Add(-time.Hour), Why: "disk \u202efull"}},
			}}}, now, fleet.WatchEvery)
		}
	}
	return s
}

func TestTopInEightyColumns(t *testing.T) {
	now := time.Now()
	f := fleetOf(2, now).frame(now)
	lines, items := f.lines(80, 24, 2)
	want := []string{
		f.At.Local().Format(time.TimeOnly) + "  2 daemons  4 in flight  50 done/s",
		`! reports is paused for 1h0m0s by ops (vm9): disk \u202efull; 0 messages ready`,
		"",
		"\t  QUEUE            READY   DEAD DAEMONS    FLIGHT DONE/S RETRY/S DEAD/S",
		"  emails            1200      7       2      4/16     50     1.0      0",
		"  reports              0      0       2       0/4      0       0      0  paused",
		"",
		"\t   AGE TRY IN FLIGHT                QUEUE                DAEMON",
		`>   2m   2 order-\x1b[31m17         emails               vm1/7`,
		`   60s   2 order-\x1b[31m17         emails               vm0/7`,
		"",
		"\t   AGO TRY FATE  FAILED           QUEUE          ERROR",
		`    5s   1 retry order-3          emails         451 try again\nlater \x07`,
		`    6s   1 retry order-3          emails         451 try again\nlater \x07`,
	}
	for i, line := range lines {
		if i < len(want) && line != want[i] {
			t.Errorf("line %d: got\n%q\nwant\n%q", i, line, want[i])
		}
	}
	if len(lines) != len(want) || len(items) != 4 {
		t.Errorf("got %d lines and %d items, want %d and 4", len(lines), len(items), len(want))
	}
}

// The screen of a large fleet fits, whatever its size.
func TestTopFitsTheScreen(t *testing.T) {
	now := time.Now()
	f := fleetOf(200, now).frame(now)
	for _, height := range []int{10, 24, 60} {
		lines, _ := f.lines(80, height, 0)
		if height >= 24 && len(lines) > height-1 {
			t.Errorf("%d lines on a screen of %d", len(lines), height)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(strings.TrimPrefix(line, "\t")) > 80 || strings.ContainsAny(line, "\x1b\n\x07\u202e") {
				t.Errorf("a line is too long, or acts on the terminal: %q", line)
			}
		}
	}
}

// What has not changed is not written again.
func TestScreenWritesWhatHasChanged(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{"a", "\tb", "c"}, "\x1b[1;1Ha\x1b[K\x1b[2;1Hb\x1b[K\x1b[3;1Hc\x1b[K"},
		{[]string{"a", "\tb", "c"}, ""},
		{[]string{"a", "x", "c"}, "\x1b[2;1Hx\x1b[K"},
		{[]string{"a"}, "\x1b[2;1H\x1b[J"},
	} {
		out.Reset()
		if err := s.show(c.lines, 80, 24); err != nil || out.String() != c.want {
			t.Errorf("%q: wrote %q (%v), want %q", c.lines, out.String(), err, c.want)
		}
	}
	s.bold = true
	out.Reset()
	if err := s.show([]string{"\tT"}, 80, 24); err != nil || out.String() != "\x1b[1;1H\x1b[1mT\x1b[0m\x1b[K" {
		t.Errorf("a title: wrote %q (%v)", out.String(), err)
	}
}

// Capital letters act, after a question; small ones do not.
func TestKeysOfTop(t *testing.T) {
	s := &topScreen{state: fleetOf(1, time.Now()), at: -1, answers: make(chan string, 1)}
	last := func() string {
		lines := s.lines(100, 24)
		return lines[len(lines)-1]
	}
	press := func(keys string) {
		t.Helper()
		for _, key := range []byte(keys) {
			if !s.press(t.Context(), key) {
				t.Fatalf("%q ended it", key)
			}
			s.lines(100, 24)
		}
	}
	if got := last(); got != topHelp {
		t.Errorf("at first: got %q", got)
	}
	press("C")
	if got := last(); got != "choose a message in flight first, with j and k" {
		t.Errorf("C with nothing chosen: got %q", got)
	}
	press("jP")
	if got := last(); got != "pause emails for the whole fleet, until it is resumed? [y/N]" {
		t.Errorf("P: got %q", got)
	}
	press("njP")
	if got := last(); got != "resume reports? [y/N]" {
		t.Errorf("P on a paused queue: got %q", got)
	}
	press("njC")
	if got := last(); got != `cancel order-\x1b[31m17 on vm0/7, and dead-letter it? [y/N]` {
		t.Errorf("C: got %q", got)
	}
	press("q") // is no yes
	if s.press(t.Context(), 'q') {
		t.Error("q did not end it")
	}
}
