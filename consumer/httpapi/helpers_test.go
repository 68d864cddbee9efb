package httpapi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/httpapi"
	"github.com/warrenmq/warren/consumer/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("not connected to hunter2")

// A world is what an API has around it: a broker and a store that are there or away.
type world struct {
	mu         sync.Mutex
	messages   []consumer.Message
	published  time.Time // the last of them
	brokerAway bool
	storeAway  bool
	states     map[string]state.Message
}

func (w *world) Publish(_ context.Context, m consumer.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.brokerAway {
		return errors.New("not connected to the broker")
	}
	w.messages, w.published = append(w.messages, m), time.Now()
	return nil
}

func (w *world) Accept(_ context.Context, queue, id string, sent time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.storeAway {
		return errAway
	}
	w.states[id] = state.Message{Transition: consumer.Transition{MessageID: id, Queue: queue, State: consumer.Accepted, At: sent}}
	return nil
}

func (w *world) State(_ context.Context, id, queue string) (state.Message, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.storeAway {
		return state.Message{}, false, errAway
	}
	m, known := w.states[id]
	return m, known && (queue == "" || queue == m.Queue), nil
}

func newAPI(t *testing.T, stateless bool) (*world, http.Handler) {
	t.Helper()
	w := &world{states: make(map[string]state.Message)}
	cfg := httpapi.Config{
		Program: "acme-worker", Queues: []string{"orders", "emails"}, Publish: w.Publish, Store: w, MaxBodyBytes: 1000,
		Propagator: propagation.TraceContext{},
	}
	if stateless {
		cfg.Store = nil
	}
	return w, newHandler(cfg)
}

// ask sends a request with headers, name after value.
func ask(t *testing.T, api http.Handler, method, path string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

func newHandler(cfg httpapi.Config) http.Handler {
	mux := http.NewServeMux()
	for _, r := range httpapi.Routes(cfg, slog.New(slog.DiscardHandler)) {
		mux.HandleFunc(r.Pattern, r.Handler)
	}
	return mux
}
