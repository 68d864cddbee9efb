// Package httpapi lets programs publish to the queues over HTTP, and ask what has
// become of a message. docs/http.md describes it to its users, openapi.yaml to
// their tools.
package httpapi

import (
	"cmp"
	"context"
	_ "embed" // of the description
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/warrenmq/warren/consumer"
	"github.com/warrenmq/warren/consumer/state"
)

const (
	// publishTimeout is how long a request waits for the broker.
	publishTimeout = 10 * time.Second
	// maxPublishing is how many messages are on their way to the broker at once; more
	// wait. The bodies of all requests have room for so many messages of the longest kind.
	maxPublishing = 32
)

// Config is what an API is made from.
type Config struct {
	// Program is the app-id of what is published. Empty means warren.
	Program string
	// Queues are those that may be published to.
	Queues []string
	// Publish publishes a message to one of Queues. It returns nil once the broker
	// has confirmed it. Required; it is called by any goroutine.
	Publish func(context.Context, consumer.Message) error
	// Store knows where messages stand. Nil: nothing does.
	Store Store
	// MaxBodyBytes is the longest body that is taken. Zero means 1 MiB.
	MaxBodyBytes int64
	// BasePath is what a proxy has before all paths, such as /warren. Empty: nothing.
	BasePath string
	// Propagator reads the trace of a request. Nil means that there is none.
	Propagator propagation.TextMapPropagator
}

// A Store keeps where messages stand. It is called by any goroutine.
type Store interface {
	// Accept keeps that the message is in its queue, as it was sent at that time.
	Accept(ctx context.Context, queue, messageID string, sent time.Time) error
	// State returns where the message stands, in the queue if one is named; false
	// if it is unknown.
	State(ctx context.Context, messageID, queue string) (state.Message, bool, error)
}

//go:embed openapi.yaml
var openAPI []byte

type api struct {
	Config
	log        *slog.Logger
	publishing chan struct{}
	held       atomic.Int64 // bytes of bodies
}

// A Route is a pattern of [http.ServeMux] and what it is for: "publish", "state" or
// "describe". Who may is for the caller to check.
type Route struct {
	Pattern, For string
	Handler      http.HandlerFunc
}

// Routes returns all routes of the API. They are below /v1/.
func Routes(cfg Config, log *slog.Logger) []Route {
	cfg.Program, cfg.MaxBodyBytes = cmp.Or(cfg.Program, "warren"), cmp.Or(cfg.MaxBodyBytes, 1<<20)
	if cfg.Propagator == nil {
		cfg.Propagator = propagation.NewCompositeTextMapPropagator()
	}
	a := &api{Config: cfg, log: log, publishing: make(chan struct{}, maxPublishing)}
	return []Route{
		{"POST /v1/queues/{queue}", "publish", a.publish},
		{"GET /v1/messages/{id}", "state", a.state},
		{"GET /v1/openapi.yaml", "describe", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/yaml")
			_, _ = w.Write(openAPI) // the client may have gone
		}},
	}
}

// refuse answers with an error, in words.
func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	http.Error(w, fmt.Sprintf(format, args...), status)
}

// unavailable answers that the same request may succeed soon.
func unavailable(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusServiceUnavailable, format, args...)
}

func (a *api) works(queue string) bool { return slices.Contains(a.Queues, queue) }

func (a *api) queueNames() string { return strings.Join(slices.Sorted(slices.Values(a.Queues)), ", ") }
