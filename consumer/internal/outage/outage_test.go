package outage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// newLog returns a log and what tells its lines so far, without their time.
func newLog() (*slog.Logger, func() string) {
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return log, func() string { defer buf.Reset(); return buf.String() }
}

func TestAnOutageIsLoggedWhenItBeginsChangesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := newLog()
		var o Outage
		o.End(log, "back")
		for _, text := range []string{"refused", "refused", "no route", "refused"} {
			o.Begin(log, slog.LevelWarn, "away", errors.Join(errors.New(text), errors.New("really")))
			<-time.After(time.Second)
		}
		if got := o.Reason(); got != "refused; really" {
			t.Errorf("got reason %q", got)
		}
		o.End(log, "back")
		o.End(log, "back")
		const want = `level=WARN msg=away error="refused; really"
level=WARN msg=away error="no route; really"
level=INFO msg=back failures=4 duration=4s
`
		if got := logged(); got != want || o.Reason() != "" {
			t.Errorf("got reason %q and the log\n%swant none and\n%s", o.Reason(), got, want)
		}
		o.Begin(log, slog.LevelError, "away", errors.New("refused"))
		if got := logged(); !strings.Contains(got, "level=ERROR msg=away error=refused") {
			t.Errorf("the next outage is logged as %q", got)
		}
	})
}

func TestAnOutageLogsSoMuchAndNoMore(t *testing.T) {
	for most, want := range map[int]int{0: defaultTexts, 1: 1} {
		log, logged := newLog()
		o := Outage{Texts: most}
		for i := range 1000 {
			o.Begin(log, slog.LevelWarn, "away", fmt.Errorf("port %d", i))
		}
		if got := strings.Count(logged(), "\n"); got != want || o.Reason() != "port 999" {
			t.Errorf("with Texts %d: got %d lines and the reason %q, want %d and the last error", most, got, o.Reason(), want)
		}
	}
}

func TestASuccessDoesNotEndAYoungOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := newLog()
		o := Outage{Least: time.Second}
		o.Begin(log, slog.LevelWarn, "away", errors.New("refused"))
		o.End(log, "back")
		if got := logged(); strings.Contains(got, "back") || o.Reason() == "" {
			t.Errorf("ended at once: %s", got)
		}
		<-time.After(time.Second)
		o.End(log, "back")
		if got := logged(); got != "level=INFO msg=back failures=1 duration=1s\n" {
			t.Errorf("after a second: %s", got)
		}
	})
}
