package inflight

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func TestMessagesAreCancelled(t *testing.T) {
	var m Message
	first, end := m.Begin(t.Context())
	end(nil)
	second, end := m.Begin(t.Context())
	defer end(nil)
	if second.Err() != nil {
		t.Error("the second attempt has ended before it was cancelled")
	}
	want := &Cancelled{By: "ops (vm1)", Why: "hangs"}
	m.Cancel(want)
	third, end := m.Begin(t.Context())
	defer end(nil)
	for what, ctx := range map[string]context.Context{"the second": second, "the third": third} {
		if got, ok := errors.AsType[*Cancelled](context.Cause(ctx)); !ok || got != want || got.Error() != "cancelled by ops (vm1): hangs" {
			t.Errorf("%s attempt: got the cause %v, want %v", what, context.Cause(ctx), want)
		}
	}
	if !errors.Is(context.Cause(first), context.Canceled) {
		t.Errorf("the first attempt: got the cause %v, want that it had ended", context.Cause(first))
	}
	none, end := (*Message)(nil).Begin(t.Context())
	if end(nil); none.Err() == nil {
		t.Error("an attempt that nobody can cancel does not end")
	}
}

func TestTraceOfAnAttempt(t *testing.T) {
	var m Message
	if got := m.TraceID(); got != "" {
		t.Errorf("before it begins: got %s", got)
	}
	begin := func(flags trace.TraceFlags) {
		_, end := m.Begin(trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags})))
		end(nil)
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
		f.Add("m", i, "retry", errors.New("no"))
	}
	if got := f.Last(keep + 10); len(got) != keep || got[0].Attempt != keep+4 || got[keep-1].Attempt != 5 {
		t.Errorf("got %+v, want the last %d, the newest first", got, keep)
	}
	if got := f.Last(-1); len(got) != 0 {
		t.Errorf("fewer than none: got %+v", got)
	}
}
