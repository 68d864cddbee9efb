package inflight

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
)

func TestMessagesAreCancelled(t *testing.T) {
	tooLong := errors.New("too long")
	begin := func(m *Message, timeout time.Duration) context.Context {
		ctx, end := m.Begin(t.Context(), timeout, tooLong)
		t.Cleanup(end)
		return ctx
	}
	var m Message
	first := begin(&m, 0)
	second := begin(&m, time.Hour)
	if second.Err() != nil || m.Cancelled() != nil {
		t.Error("the second attempt has ended before it was cancelled")
	}
	want := &Cancelled{By: "ops (vm1)", Why: "hangs"}
	m.Cancel(want)
	third := begin(&m, time.Hour)
	for what, ctx := range map[string]context.Context{"the second": second, "the third": third} {
		if !errors.Is(context.Cause(ctx), context.Canceled) {
			t.Errorf("%s attempt: got the cause %v, want that it was cancelled", what, context.Cause(ctx))
		}
	}
	if got := m.Cancelled(); got != want || got.Error() != "cancelled by ops (vm1): hangs" {
		t.Errorf("got %v, want %v", got, want)
	}
	if !errors.Is(context.Cause(first), tooLong) {
		t.Errorf("the first attempt: got the cause %v, want that of its timeout", context.Cause(first))
	}
	var none *Message
	if ctx := begin(none, 0); ctx.Err() == nil || none.Cancelled() != nil {
		t.Error("an attempt that nobody can cancel has no end, or was cancelled")
	}
}

func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Message
		for _, step := range []struct {
			does string
			want bool
		}{{"", false}, {"begin", false}, {"", true}, {"", false}, {"end", false}, {"begin", false}, {"end", false}} {
			switch step.does {
			case "begin":
				_, end := m.Begin(t.Context(), time.Minute, nil)
				defer end()
			case "end":
				m.end()
			}
			if got := m.Overdue(time.Now()); got != step.want {
				t.Errorf("after %q: got %v", step.does, got)
			}
			time.Sleep(time.Minute + overdueAfter)
			if step.does == "end" && m.Overdue(time.Now()) {
				t.Error("an attempt that has ended is overdue")
			}
		}
	})
}

func TestTraceOfAnAttempt(t *testing.T) {
	var m Message
	if got := m.TraceID(); got != "" {
		t.Errorf("before it begins: got %s", got)
	}
	begin := func(flags trace.TraceFlags) {
		_, end := m.Begin(trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags})), time.Hour, nil)
		end()
	}
	if begin(trace.FlagsSampled); m.TraceID() != "01000000000000000000000000000000" {
		t.Errorf("got %s", m.TraceID())
	}
	if begin(0); m.TraceID() != "" {
		t.Errorf("one that nobody keeps: got %s", m.TraceID())
	}
}

func TestTheLastFailuresAreKept(t *testing.T) {
	var f Failures
	if got := f.Last(3); len(got) != 0 {
		t.Errorf("at first: got %+v, want none", got)
	}
	for i := range keep + 5 {
		f.Add("m", i, "retry", "no")
	}
	if got := f.Last(keep + 10); len(got) != keep || got[0].Attempt != keep+4 || got[keep-1].Attempt != 5 {
		t.Errorf("got %+v, want the last %d, the newest first", got, keep)
	}
	if got := f.Last(-1); len(got) != 0 {
		t.Errorf("fewer than none: got %+v", got)
	}
}
