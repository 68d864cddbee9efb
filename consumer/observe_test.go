package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/warrenmq/warren/internal/rabbittest"
)

// A recorder keeps what it is told.
type recorder struct {
	mu  sync.Mutex
	all []Transition
}

func (r *recorder) Observe(t Transition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, t)
}

// of returns the transitions of a message, in words.
func (r *recorder) of(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var words []string
	for _, t := range r.all {
		if t.MessageID == id {
			word := fmt.Sprintf("%s %d", t.State, t.Attempt)
			for _, more := range []string{t.Reason, t.Error, t.Text, string(t.Result.Body)} {
				if more != "" {
					word += " " + more
				}
			}
			words = append(words, word)
		}
	}
	return strings.Join(words, ", ")
}

func TestObserverIsToldWhatBecomesOfMessages(t *testing.T) {
	v := rabbittest.NewVhost(t)
	var seen recorder
	runConfig(t, Config{Nodes: []string{v.URL}, Observer: &seen, Queues: []Queue{{Name: "orders", MaxAttempts: 2, Processor: ProcessorFunc(
		func(_ context.Context, d Delivery, s *Scope) error {
			if !s.WantsResult() {
				t.Errorf("message %s: no result is wanted", d.MessageID)
			}
			switch {
			case d.Type == "hopeless", d.Type == "flaky" && d.Attempt == 1:
				return errors.New("no luck")
			case d.Type == "wrong":
				return Permanent(errors.New("no such order"))
			}
			s.Progress(40, "half-way")
			s.Progress(100, "ready")
			s.SetResult(Result{Body: []byte("result")})
			return nil
		})}}}, nil)
	begun := time.Now()
	v.Publish(t, "orders",
		amqp.Publishing{MessageId: "fine"},
		amqp.Publishing{MessageId: "late", Headers: amqp.Table{"x-delay": int64(1500)}},
		amqp.Publishing{MessageId: "flaky", Type: "flaky"},
		amqp.Publishing{MessageId: "hopeless", Type: "hopeless"},
		amqp.Publishing{MessageId: "wrong", Type: "wrong"},
		amqp.Publishing{MessageId: "unreadable", Headers: amqp.Table{"x-delay": "soon"}},
	)
	for id, want := range map[string]string{
		"fine":       "processing 1, processing 1 half-way, processing 1 ready, succeeded 1 result",
		"late":       "waiting 0, processing 1, processing 1 half-way, processing 1 ready, succeeded 1 result",
		"flaky":      "processing 1, waiting 1 no luck, processing 2, processing 2 half-way, processing 2 ready, succeeded 2 result",
		"hopeless":   "processing 1, waiting 1 no luck, processing 2, dead 2 exhausted no luck",
		"wrong":      "processing 1, dead 1 permanent no such order",
		"unreadable": `dead 0 undecodable header x-delay is "soon" (string); it must be a whole number`,
	} {
		rabbittest.Eventually(t, 15*time.Second, func() bool { return len(seen.of(id)) >= len(want) || t.Failed() }, id+" has come to its end")
		equal(t, seen.of(id), want)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	last := make(map[string]int)
	for _, tr := range seen.all {
		if tr.Order < last[tr.MessageID] || tr.Queue != "orders" || tr.At.Before(begun) {
			t.Errorf("after order %d came %+v", last[tr.MessageID], tr)
		}
		last[tr.MessageID] = tr.Order
		if due := tr.Due.Sub(begun); tr.State == Waiting && (due < time.Second || due > 10*time.Minute) {
			t.Errorf("%s waits for %v, want about a second", tr.MessageID, due)
		}
	}
}

func TestObserverIsToldWhatIsGivenBack(t *testing.T) {
	v := rabbittest.NewVhost(t)
	var seen recorder
	started := make(chan struct{})
	r := runConfig(t, Config{Nodes: []string{v.URL}, Observer: &seen, ShutdownTimeout: 10 * time.Millisecond, Queues: []Queue{{Name: "orders", Processor: ProcessorFunc(
		func(ctx context.Context, _ Delivery, s *Scope) error {
			close(started)
			<-ctx.Done()
			return context.Cause(ctx)
		})}}}, nil)
	v.Publish(t, "orders", amqp.Publishing{MessageId: "m"})
	<-started
	if _, err := r.end(); !errors.Is(err, ErrAbandoned) {
		t.Errorf("Run returned %v, want %v", err, ErrAbandoned)
	}
	equal(t, seen.of("m"), "processing 1, accepted 0")
}

// TestObserverIsToldNothingOfMessagesWithoutAnID, because nobody can ask for them.
func TestObserverIsToldNothingOfMessagesWithoutAnID(t *testing.T) {
	var seen recorder
	w := newTestExecutor(Queue{Processor: ProcessorFunc(func(_ context.Context, _ Delivery, s *Scope) error {
		if s.WantsResult() {
			t.Error("a result is wanted")
		}
		s.Progress(50, "")
		return nil
	})}, slog.New(slog.DiscardHandler))
	w.observer = &seen
	j := &job{delivery: amqp.Delivery{MessageId: "made"}}
	_, o := w.attempt(t.Context(), j)
	w.observeSuccess(j, o)
	equal(t, len(seen.all), 0)
}

// TestOrderOfARepeat has it below that of the success that it repeats, and above all
// that comes before.
func TestOrderOfARepeat(t *testing.T) {
	for attempts := range 3 {
		orders := []int{order(Waiting, attempts), order(Processing, attempts), orderOfRepeat(attempts), order(Succeeded, attempts), order(Processing, attempts+1)}
		if !slices.IsSorted(orders) || len(slices.Compact(orders)) != len(orders) {
			t.Errorf("after %d attempts: %d, want them to grow", attempts, orders)
		}
	}
}

func TestProgressIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		s := &Scope{progress: func(percent int, text string) {
			got = append(got, percent)
			if len(text) > maxProgressText {
				t.Errorf("the text has %d bytes", len(text))
			}
		}}
		for i := range 250 { // 25 ms apart
			s.Progress(i-100, strings.Repeat("x", 500))
			<-time.After(25 * time.Millisecond)
		}
		if len(got) != 50+50 || got[0] != 0 || got[len(got)-1] != 100 {
			t.Errorf("told %d times, %v; want each fourth up to 99, and each from 100 on", len(got), got)
		}
	})
}

// TestPublishIsTraced has the message go on with the trace that it is published in.
func TestPublishIsTraced(t *testing.T) {
	v := rabbittest.NewVhost(t)
	r, spans := runTraced(t, v, false, Queue{Name: "orders", Processor: noop})
	ctx := propagation.TraceContext{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": publishersTrace})
	if err := r.Publish(ctx, Message{RoutingKey: "orders", MessageID: "m-1"}); err != nil {
		t.Fatal(err)
	}
	rabbittest.Eventually(t, 5*time.Second, func() bool { return len(spans.Ended()) == 2 }, "the message is done")
	all := spans.Ended()
	slices.SortFunc(all, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	publish, process := all[0], all[1]
	equal(t, publish.Name()+", "+process.Name(), "send orders, process orders")
	equal(t, publish.Parent().SpanID().String(), "b7ad6b7169203331")
	equal(t, process.Parent().SpanID(), publish.SpanContext().SpanID())
	equal(t, attr(publish, "warren.purpose")+" "+attr(publish, "messaging.message.id"), "publish m-1")
}

func TestPublishOverTheSession(t *testing.T) {
	v := rabbittest.NewVhost(t)
	got := make(chan Delivery, 1)
	r := run(t, []string{v.URL}, Queue{Name: "orders", Processor: ProcessorFunc(func(_ context.Context, d Delivery, _ *Scope) error {
		got <- d
		return nil
	})})
	if err := r.Publish(t.Context(), Message{RoutingKey: "orders", MessageID: "m-1", Body: []byte("{}"), Headers: map[string]any{"tenant": "a"}}); err != nil {
		t.Fatal(err)
	}
	if d := <-got; d.MessageID != "m-1" || d.ContentType != "application/json" || d.Headers["tenant"] != "a" {
		t.Errorf("got %+v", d)
	}
	for _, m := range []Message{{RoutingKey: "orders.dead"}, {RoutingKey: "emails"}, {Exchange: "amq.direct", RoutingKey: "orders"}} {
		if err := r.Publish(t.Context(), m); err == nil || !strings.Contains(err.Error(), "not one of those worked here") {
			t.Errorf("%+v: got %v, want that the queue is not worked here", m, err)
		}
	}
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(t.Context(), Message{RoutingKey: "orders"}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("after the end: got %v, want %v", err, ErrNotConnected)
	}
}
