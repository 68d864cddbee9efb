package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/warrenmq/warren/consumer/internal/broker"
	"github.com/warrenmq/warren/consumer/internal/panics"
)

// scopeEndTimeout bounds the commits and closes at the end of an attempt. They
// have a context of their own: a rollback must run precisely when the work was
// cancelled.
const scopeEndTimeout = 10 * time.Second

// A Scope holds what one attempt at one delivery uses and no other may share. It
// is empty until used, and ended by Warren after Process has returned: on success
// every resource is committed, newest first; then all are closed, newest first,
// which rolls back what was not committed. It belongs to the goroutine that runs
// Process.
type Scope struct {
	delivery *Delivery
	baseLog  *slog.Logger
	log      *slog.Logger
	span     trace.Span // of the attempt
	opened   []openedResource
	tempDir  string
	result   Result

	progress   func(percent int, text string) // nil: nobody asks
	progressed time.Time                      // when it was told last

	database    Database // nil: none
	propagator  propagation.TextMapPropagator
	inboxKey    *InboxKey     // nil: the message has no identity of its own
	tx          Transaction   // nil: not begun
	databaseErr error         // why the transaction could not be begun or ended
	waited      time.Duration // for the transaction
}

// A Result is what a processor answers to a publisher that set reply-to, or asks for
// the message's state.
type Result struct {
	ContentType string // empty means application/json
	Body        []byte
}

// A Resource is something that an attempt opens, and that is to take effect only
// if the attempt succeeds.
type Resource interface {
	// Commit makes the effects of the attempt last. It is called at most once,
	// and only if Process returned nil. An error makes the attempt fail.
	Commit(ctx context.Context) error
	// Close releases the resource and undoes what was not committed. It is called
	// exactly once. An error is only logged: the work is done or undone by then.
	Close(ctx context.Context) error
}

type openedResource struct {
	Resource
	name string
	key  any
}

// Lazy is a resource that each attempt opens for itself when first used. A
// processor keeps one Lazy per kind of resource, made once; its address tells it
// from others.
type Lazy[R Resource] struct {
	Name string // for errors and logs
	Open func(ctx context.Context, d Delivery) (R, error)
}

// In returns the resource of this scope, opening it the first time. Resources do
// not commit together: open the one that decides first, so that it commits last.
func (l *Lazy[R]) In(ctx context.Context, s *Scope) (R, error) {
	for _, o := range s.opened {
		if o.key == l {
			return o.Resource.(R), nil
		}
	}
	r, err := l.Open(ctx, *s.delivery)
	if err != nil {
		var none R
		return none, fmt.Errorf("open %s: %w", l.Name, err)
	}
	s.opened = append(s.opened, openedResource{r, l.Name, l})
	return r, nil
}

// Span returns the span of the attempt, for attributes and events of a processor's
// own. It does nothing if the attempt is not traced. Spans below it are made from the
// context given to Process.
func (s *Scope) Span() trace.Span { return s.span }

// Logger returns a logger whose lines carry queue, message_id, attempt and, if the
// attempt is traced, trace_id and span_id.
func (s *Scope) Logger() *slog.Logger {
	if s.log == nil {
		s.log = broker.Lines(s.baseLog, s.span.SpanContext(), s.delivery.MessageID, s.delivery.Attempt)
	}
	return s.log
}

// TempDir returns a directory that only this attempt uses, made the first time
// and removed with all it holds when the scope ends. That it cannot be made, on a full
// disk say, costs the message no attempt.
func (s *Scope) TempDir() (string, error) {
	if s.tempDir == "" {
		dir, err := os.MkdirTemp("", "warren-")
		if err != nil {
			return "", Unavailable(fmt.Errorf("make the delivery's temporary directory: %w; make room in it, or have TMPDIR name another folder", err))
		}
		s.tempDir = dir
	}
	return s.tempDir, nil
}

// SetResult keeps r as the answer for a publisher that set reply-to, and for whoever
// asks for the message's state; without either it is dropped. The last one set
// counts. An empty Result is the answer if none is set.
func (s *Scope) SetResult(r Result) { s.result = r }

// WantsResult tells whether there is any use in a result.
func (s *Scope) WantsResult() bool { return s.delivery.ReplyTo != "" || s.progress != nil }

const (
	// progressPace is how long after the last progress the next one counts.
	progressPace    = 100 * time.Millisecond
	maxProgressText = 200 // bytes
)

// Progress tells whoever asks for the message's state how far the work is: percent
// from 0 to 100, and some words, which may be empty. It neither blocks nor fails, and
// does nothing if no states are kept. Of several within 100 ms the first counts, but
// 100 percent always does.
func (s *Scope) Progress(percent int, text string) {
	if s.progress == nil || percent < 100 && time.Since(s.progressed) < progressPace {
		return
	}
	s.progressed = time.Now()
	s.progress(min(max(percent, 0), 100), broker.Shortened(text, maxProgressText))
}

// end ends the scope of an attempt that returned err, and returns err or, if that
// was nil, the error of a commit. A panic in a Commit or Close is such an error,
// and does not keep the other resources from being closed.
func (s *Scope) end(err error) error {
	if len(s.opened) == 0 && s.tempDir == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), scopeEndTimeout)
	defer cancel()
	for _, r := range slices.Backward(s.opened) {
		if err != nil {
			break
		}
		if e := panics.Recovered(func() error { return r.Commit(ctx) }); e != nil {
			err = fmt.Errorf("commit %s: %w", r.name, e)
		}
	}
	for _, r := range slices.Backward(s.opened) {
		if e := panics.Recovered(func() error { return r.Close(ctx) }); e != nil {
			s.Logger().Error("closing a resource of the delivery failed", "resource", r.name, "error", e)
		}
	}
	if s.tempDir != "" {
		if e := os.RemoveAll(s.tempDir); e != nil {
			s.Logger().Error("removing the temporary directory of the delivery failed", "path", s.tempDir, "error", e)
		}
	}
	return err
}

// A PanicError is a panic of a processor or resource, made into the error of its
// attempt.
type PanicError = panics.Error
