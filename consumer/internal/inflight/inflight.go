// Package inflight has single attempts cancelled while they are under way, and remembers
// those that failed last.
package inflight

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// A Cancelled is why an attempt that an operator has ended was ended.
type Cancelled struct{ By, Why string }

func (c *Cancelled) Error() string {
	text := "cancelled by " + c.By
	if c.Why != "" {
		text += ": " + c.Why
	}
	return text
}

// A Message is one that is being worked. The zero value is one that nobody has cancelled.
type Message struct {
	mu        sync.Mutex // which nobody waits for, unless the message is cancelled
	cancelled *Cancelled
	cancel    context.CancelFunc // of the last attempt
	span      trace.SpanContext  // that of the last attempt
	due       time.Time          // when the attempt that is under way is overdue; zero: none is, or it was said
}

// overdueAfter is how long an attempt may go on after its context has ended.
const overdueAfter = 10 * time.Second

// Begin returns a context for an attempt that ends after timeout, with that cause, when the
// message is cancelled, or when end is called. Nil is a message that nobody can cancel.
func (m *Message) Begin(ctx context.Context, timeout time.Duration, cause error) (attempt context.Context, end context.CancelFunc) {
	attempt, cancel := context.WithTimeoutCause(ctx, timeout, cause)
	if m == nil {
		return attempt, cancel
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancel, m.span, m.due = cancel, trace.SpanContextFromContext(ctx), time.Now().Add(timeout+overdueAfter)
	if m.cancelled != nil {
		cancel()
	}
	return attempt, m.end
}

// end ends the last attempt.
func (m *Message) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.due = time.Time{}
	m.cancel()
}

// Overdue tells, once for each attempt, that one is under way whose context has ended some
// time before now.
func (m *Message) Overdue(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.due.IsZero() || m.due.After(now) {
		return false
	}
	m.due = time.Time{}
	return true
}

// Cancel ends the attempt that is under way, and every further one.
func (m *Message) Cancel(c *Cancelled) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancelled = c
	if m.cancel != nil {
		m.cancel()
	}
}

// Cancelled is why the message was cancelled; nil if it was not.
func (m *Message) Cancelled() *Cancelled {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cancelled
}

// TraceID is the trace of the last attempt; empty if it has none that is kept.
func (m *Message) TraceID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.span.IsSampled() {
		return ""
	}
	return m.span.TraceID().String()
}

// A Failure is an attempt that has failed.
type Failure struct {
	At        time.Time
	MessageID string
	Attempt   int
	Verdict   string
	Error     string
}

// keep is how many failures are kept.
const keep = 20

// Failures are the last ones of a queue. The zero value has none.
type Failures struct {
	mu   sync.Mutex
	last []Failure
}

// Add adds one that has happened now. Its text is kept as it is: it is to be short.
func (f *Failures) Add(messageID string, attempt int, verdict, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.last) == keep {
		f.last = append(f.last[:0], f.last[1:]...)
	}
	f.last = append(f.last, Failure{time.Now(), messageID, attempt, verdict, text})
}

// Last returns at most n, the newest first.
func (f *Failures) Last(n int) []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Failure
	for i := len(f.last) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, f.last[i])
	}
	return out
}

// Ask returns what f returns, which is run by whoever receives from calls; nothing if ctx
// ends before.
func Ask[T any](ctx context.Context, calls chan<- func(), f func() T) (answer T) {
	answers := make(chan T, 1)
	select {
	case calls <- func() { answers <- f() }:
		return <-answers
	case <-ctx.Done():
		return answer
	}
}
