package webhook_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/processors/registry"
	"github.com/warrenmq/warren/processors/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newProcessor makes the processor of cfg, which the end of the test closes.
func newProcessor(t testing.TB, cfg webhook.Config) consumer.Processor {
	t.Helper()
	p, err := cfg.Open(registry.Queue{Name: "orders", Concurrency: 8}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() {
		if err := p.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// serve runs a server for the test, and returns its URL.
func serve(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

// answering is a handler with one answer.
func answering(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// wantError checks that err says each of the texts, and none of those after "not".
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	not := false
	for _, text := range texts {
		switch {
		case text == "not":
			not = true
		case err == nil:
			t.Errorf("got no error, want one that says %q", text)
			return
		case strings.Contains(err.Error(), text) == not:
			t.Errorf("got the error %q, want it to say %q: %t", err, text, !not)
		}
	}
}
